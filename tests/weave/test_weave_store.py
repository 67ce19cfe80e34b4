"""The store: one suite for the state file and for its fake, then what only a file can do."""

from __future__ import annotations

import math
import os
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from weave_net.errors import StoreError
from weave_net.sqlite_store import APPLICATION_ID, SCHEMA_VERSION, open_store
from weave_router.testing.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from weave_router.doors import Store

    Check = Callable[[Store], Awaitable[None]]


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[Store]:
    yield MemoryStore()


@asynccontextmanager
async def file(directory: Path) -> AsyncIterator[Store]:
    async with open_store(directory / "weave.db") as store:
        yield store


def on_every_store(check: Check) -> Callable[[Path, str], None]:
    @pytest.mark.parametrize("kind", ["memory", "file"])
    def run(tmp_path: Path, kind: str) -> None:
        async def open_and_check() -> None:
            async with (memory if kind == "memory" else file)(tmp_path) as store:
                await check(store)

        trio.run(open_and_check)

    return run


@on_every_store
async def test_values_come_back_as_they_were(store: Store) -> None:
    values = {"a": 1, "b": [1, "zwei", None, True], "c": {"ä": {"deep": 1.5}}, "d": "", "e": False}
    await store.write(values)
    assert await store.read() == values


@on_every_store
async def test_prefix_selects_keys(store: Store) -> None:
    await store.write({"attachment/a/x": 1, "attachment/b/x": 2, "attachments": 3, "Attachment/": 4, "ö/1": 5, "ö2": 6})
    assert await store.read("attachment/") == {"attachment/a/x": 1, "attachment/b/x": 2}
    assert await store.read("ö/") == {"ö/1": 5}
    assert await store.read("nothing") == {}


@on_every_store
async def test_prefix_is_no_pattern(store: Store) -> None:
    await store.write({"a%": 1, "ab": 2, "a_": 3, "a*": 4, "a?": 5})
    assert await store.read("a%") == {"a%": 1}
    assert await store.read("a_") == {"a_": 3}
    assert await store.read("a*") == {"a*": 4}


@on_every_store
async def test_entries_come_sorted_by_key(store: Store) -> None:
    await store.write({"b": 1, "a": 2, "c": 3, "B": 4})
    assert list(await store.read()) == ["B", "a", "b", "c"]


@on_every_store
async def test_none_removes_and_unknown_keys_may_be_removed(store: Store) -> None:
    await store.write({"a": 1, "b": 2})
    await store.write({"a": None, "b": 3, "never": None})
    assert await store.read() == {"b": 3}


@on_every_store
async def test_what_is_read_is_a_copy(store: Store) -> None:
    value = [1]
    await store.write({"a": value})
    value.append(2)
    (await store.read())["a"].append(3)
    assert await store.read() == {"a": [1]}


@on_every_store
async def test_refused_values_change_nothing(store: Store) -> None:
    await store.write({"a": 1})
    with pytest.raises(TypeError):
        await store.write({"a": 2, "b": object()})
    with pytest.raises(ValueError):
        await store.write({"a": 2, "b": math.nan})
    with pytest.raises(TypeError):
        await store.write({"a": 2, 5: 1})  # type: ignore[dict-item]
    assert await store.read() == {"a": 1}


@on_every_store
async def test_concurrent_writes_all_arrive(store: Store) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(store.write, {f"{number:02}": number})
    assert list((await store.read()).values()) == list(range(50))


def test_entries_survive_closing(tmp_path: Path) -> None:
    async def main() -> None:
        async with file(tmp_path) as store:
            await store.write({"a": 1})
        async with file(tmp_path) as store:
            assert await store.read() == {"a": 1}

    trio.run(main)


def test_entries_survive_a_crash(tmp_path: Path) -> None:
    """A process that ends without closing leaves its writes in the log of the database."""
    path = tmp_path / "weave.db"

    async def write_and_die() -> None:
        async with open_store(path) as store:
            await store.write({"a": 1})
            os._exit(0)

    child = os.fork()
    if child == 0:
        trio.run(write_and_die)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0

    async def read() -> object:
        async with open_store(path) as store:
            return await store.read()

    assert trio.run(read) == {"a": 1}


def test_cancelled_write_is_whole_or_absent_and_the_store_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with file(tmp_path) as store:
            with trio.CancelScope() as scope:
                scope.cancel()
                await store.write({"a": 1, "b": 1})
            await store.write({"c": 1})
            assert await store.read() in ({"c": 1}, {"a": 1, "b": 1, "c": 1})

    trio.run(main)


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    async def main() -> None:
        async with file(tmp_path) as store:
            await store.write({"a": 1})
            for path in await trio.Path(tmp_path).iterdir():
                assert (await path.stat()).st_mode & 0o077 == 0, path

    trio.run(main)


def test_closed_store_refuses(tmp_path: Path) -> None:
    async def main() -> None:
        async with file(tmp_path) as store:
            pass
        with pytest.raises(StoreError, match="is closed"):
            await store.read()

    trio.run(main)


def error_of_opening(path: Path) -> str:
    async def main() -> None:
        async with open_store(path):
            pass

    with pytest.raises(StoreError) as caught:
        trio.run(main)
    return str(caught.value)


def test_second_daemon_on_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weave_net.sqlite_store.LOCK_WAIT_S", 0.05)

    async def main() -> None:
        async with file(tmp_path):
            with pytest.raises(StoreError, match="in use by another process"):
                async with file(tmp_path):
                    pass

    trio.run(main)


def test_missing_directory_is_told(tmp_path: Path) -> None:
    text = error_of_opening(tmp_path / "no" / "weave.db")
    assert f"state directory {tmp_path / 'no'} is not writable" in text
    assert "--state-dir" in text


def test_path_through_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Not a directory" in error_of_opening(tmp_path / "file" / "weave.db")


def test_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "weave.db"
    path.write_bytes(b"this is not SQLite" * 1000)
    text = error_of_opening(path)
    assert "is damaged" in text
    assert "move it away" in text


def test_damaged_page_is_told(tmp_path: Path) -> None:
    path = tmp_path / "weave.db"

    async def fill() -> None:
        async with open_store(path) as store:
            await store.write({f"key {number}": "x" * 100 for number in range(500)})

    trio.run(fill)
    data = bytearray(path.read_bytes())
    data[4096 : 4096 * 4] = b"\xff" * (4096 * 3)
    path.write_bytes(data)
    assert "is damaged" in error_of_opening(path)


def test_file_of_a_later_release_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "weave.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.close()
    before = path.read_bytes()
    assert "later release" in error_of_opening(path)
    assert path.read_bytes()[100:] == before[100:]


def test_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "weave.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 4711")
    connection.close()
    assert "another program's database" in error_of_opening(path)


def test_full_disk_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_store(tmp_path / "weave.db") as store:
            await store.write({"a": 1})
            await store._submit(lambda connection: connection.execute("PRAGMA max_page_count = 4"), "written")
            with pytest.raises(StoreError, match="cannot be written: database or disk is full"):
                await store.write({"a": 2, "big": "x" * 100_000})
            assert await store.read() == {"a": 1}
            await store.write({"a": 3})
            assert await store.read() == {"a": 3}

    trio.run(main)
