"""Which peers a daemon dials after it was launched in various ways."""

from __future__ import annotations

import pytest
import trio

from weave_net.targets import StoredTargets
from weave_router.testing.stores import MemoryStore

# What was launched, what connect and forget made of it, what is launched next, and what is dialled then.
CASES = [
    ([], ["c"], [], ["c"]),
    (["a", "b"], ["a", "b", "c"], ["a", "b"], ["a", "b", "c"]),
    (["a", "b"], ["b"], ["b", "a"], ["b"]),
    (["a", "b"], ["c"], ["a"], ["a"]),
    (["a", "b"], ["c"], ["d"], ["d"]),
    (["a", "b"], ["c"], [], ["c"]),
    (["a"], [], ["a"], []),
    ([], [], ["a"], ["a"]),
]


@pytest.mark.parametrize(("first", "changed", "second", "expected"), CASES)
def test_second_launch(first: list[str], changed: list[str], second: list[str], expected: list[str]) -> None:
    async def main() -> None:
        store = MemoryStore()
        targets = StoredTargets(store)
        assert await targets.begin(first) == tuple(first)
        await targets.changed(tuple(changed))
        assert await StoredTargets(store).begin(second) == tuple(expected)

    trio.run(main)


def test_resume_takes_the_stored_list() -> None:
    async def main() -> None:
        store = MemoryStore({"targets": {"given": ["a"], "current": ["b"]}})
        assert await StoredTargets(store).begin([], resume=True) == ("b",)

    trio.run(main)


def test_same_peers_mean_a_restart_also_the_third_time() -> None:
    """A launch without peers in between does not change which ones were named last."""

    async def main() -> None:
        store = MemoryStore()
        await StoredTargets(store).begin(["a"])
        between = StoredTargets(store)
        await between.begin([])
        await between.changed(("a", "b"))
        assert await StoredTargets(store).begin(["a"]) == ("a", "b")

    trio.run(main)
