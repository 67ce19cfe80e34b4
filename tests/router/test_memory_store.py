"""The store in memory: durable, transactional, and without aliases to what callers hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from weave_router.testing.stores import MemoryStore

if TYPE_CHECKING:
    from weave_router.doors import JsonValue, Store

json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
transactions = st.lists(st.dictionaries(st.sampled_from(["a", "a/1", "a/2", "b"]), st.none() | json_values))


def open_store() -> Store:
    """mypy's proof that the fake is a Store."""
    return MemoryStore()


def test_empty_store_holds_nothing() -> None:
    async def main() -> None:
        assert await open_store().read() == {}

    trio.run(main)


def test_read_by_prefix() -> None:
    async def main() -> None:
        store = open_store()
        await store.write({"attachment/web": 1, "attachment/db": 2, "peer-name": "7a:00:00:00:00:01"})
        assert await store.read("attachment/") == {"attachment/db": 2, "attachment/web": 1}
        assert await store.read("peer-name") == {"peer-name": "7a:00:00:00:00:01"}
        assert await store.read("none") == {}

    trio.run(main)


@given(transactions)
def test_transactions_apply_one_after_the_other_and_survive_a_crash(changes: list[dict[str, JsonValue]]) -> None:
    async def main() -> None:
        store = MemoryStore()
        expected: dict[str, JsonValue] = {}
        for change in changes:
            await store.write(change)
            expected.update(change)
            expected = {key: value for key, value in expected.items() if value is not None}
            assert await store.read() == expected
        assert await store.crash().read() == expected
        assert store.writes == len(changes)

    trio.run(main)


def test_values_are_copies() -> None:
    async def main() -> None:
        store = open_store()
        value = {"targets": ["192.0.2.1"]}
        await store.write({"targets": value})
        value["targets"].append("192.0.2.2")
        first = await store.read()
        assert first == {"targets": {"targets": ["192.0.2.1"]}}
        first["targets"]["targets"].clear()
        assert await store.read() == {"targets": {"targets": ["192.0.2.1"]}}

    trio.run(main)


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, float("nan"), object()])
def test_what_json_cannot_express_is_refused_and_nothing_is_written(value: object) -> None:
    async def main() -> None:
        store = open_store()
        with pytest.raises((TypeError, ValueError)):
            await store.write({"good": 1, "bad": value})
        assert await store.read() == {}

    trio.run(main)


def test_keys_are_text() -> None:
    with pytest.raises(TypeError, match="keys"):
        MemoryStore({5: "five"})  # type: ignore[dict-item]


def test_cancelled_write_writes_nothing() -> None:
    async def main() -> None:
        store = open_store()
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.write({"a": 1})
        assert await store.read() == {}

    trio.run(main)


def test_crashed_process_cannot_use_its_store_any_more() -> None:
    async def main() -> None:
        store = MemoryStore({"a": 1})
        next_one = store.crash()
        with pytest.raises(RuntimeError, match="crashed"):
            await store.write({"a": 2})
        with pytest.raises(RuntimeError, match="crashed"):
            await store.read()
        assert await next_one.read() == {"a": 1}

    trio.run(main)
