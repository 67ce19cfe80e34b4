"""The state file: JSON values under text keys in SQLite, the real one behind `weave_router.doors.Store`.

One thread owns the connection, since SQLite's calls block and its connections belong to a thread. Jobs reach it through
a queue and are done in their order, so a read sees every write that was asked for before it. A write is one transaction
in WAL mode with synchronous=FULL: once it is answered, it survives a power cut.

The file is locked for as long as it is open: two daemons on one state file would each believe to own its addresses.
"""

from __future__ import annotations

import json
import os
import queue
import sqlite3
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from weave_net.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from weave_router.doors import JsonValue

T = TypeVar("T")

SCHEMA_VERSION = 1
"""Stored as SQLite's `user_version`; a file with a higher one was written by a later release."""

APPLICATION_ID = 0x77656176
"""`weav`, stored as SQLite's `application_id`, so that `file` and we tell our files from others."""

LOCK_WAIT_S = 1.0
"""How long opening waits for another process to let go of the file: a daemon that is just ending needs some time."""

_CREATE = "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"


class _Job(Generic[T]):
    """One call for the thread, and the place for its outcome."""

    def __init__(self, call: Callable[[sqlite3.Connection], T]) -> None:
        self._call = call
        self._token = trio.lowlevel.current_trio_token()
        self._done = trio.Event()
        self._result: T
        self._error: BaseException | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        try:
            self._result = self._call(connection)
        except BaseException as error:
            self._error = error
        with suppress(trio.RunFinishedError):  # then nobody is left to hear about it
            self._token.run_sync_soon(self._done.set)

    async def outcome(self) -> T:
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class SqliteStore:
    """A `weave_router.doors.Store` on disk; made by `open_store`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="weave-store", daemon=True)
        self._ended = False
        self._connection: sqlite3.Connection | None = None

    async def read(self, prefix: str = "") -> dict[str, JsonValue]:
        """All entries whose key begins with `prefix`, sorted by key. Raises `StoreError`."""

        def select(connection: sqlite3.Connection) -> dict[str, JsonValue]:
            rows = connection.execute(
                "SELECT key, value FROM entries WHERE key >= ? AND substr(key, 1, ?) = ? ORDER BY key",
                (prefix, len(prefix), prefix),
            )
            return {key: json.loads(value) for key, value in rows}

        return await self._submit(select, "read")

    async def write(self, changes: Mapping[str, JsonValue | None]) -> None:
        """Apply all changes (None removes a key) in one transaction, durable on return.

        Raises `StoreError`, after which nothing has changed. A caller that is cancelled while it waits does not
        know whether the changes were made; they are never made in part.
        """
        if not all(isinstance(key, str) for key in changes):
            raise TypeError(f"keys of a store are text: {list(changes)}")
        removed = [(key,) for key, value in changes.items() if value is None]
        written = [
            (key, json.dumps(value, allow_nan=False, separators=(",", ":")))
            for key, value in changes.items()
            if value is not None
        ]

        def apply(connection: sqlite3.Connection) -> None:
            with _Transaction(connection):
                connection.executemany("DELETE FROM entries WHERE key = ?", removed)
                connection.executemany("INSERT OR REPLACE INTO entries (key, value) VALUES (?, ?)", written)

        await self._submit(apply, "written")

    async def _submit(self, call: Callable[[sqlite3.Connection], T], what: str) -> T:
        if self._ended:
            raise StoreError(f"the state file {self._path} is closed")
        job = _Job(call)
        self._jobs.put(job)  # type: ignore[arg-type]  # the thread does not look at the result
        try:
            return await job.outcome()
        except sqlite3.Error as error:
            raise StoreError(f"the state file {self._path} cannot be {what}: {error}") from error

    async def _open(self) -> None:
        self._thread.start()
        job = _Job(lambda _: self._connect())
        self._jobs.put(job)  # type: ignore[arg-type]
        with trio.CancelScope(shield=True):  # bounded by LOCK_WAIT_S and the size of a small file
            await job.outcome()

    async def _close(self) -> None:
        self._ended = True
        self._jobs.put(None)
        # What is queued is finished first; a state file that was not closed would keep its lock within this process.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join, 10.0)

    def _connect(self) -> None:
        self._connection = _connect(self._path)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            # The first job opens the connection and needs none; without one no second job is ever submitted.
            job.run(self._connection)  # type: ignore[arg-type]
        if self._connection is not None:
            self._connection.close()


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[SqliteStore]:
    """Open or create the state file for as long as the block lasts.

    Raises `StoreError` where the file cannot be written, is damaged, is in use, or comes from a later release.
    """
    store = SqliteStore(path)
    try:
        await store._open()
        yield store
    finally:
        await store._close()


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any error (sqlite3's own context manager begins too late)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            try:
                self._connection.execute("COMMIT")
                return
            except sqlite3.Error:
                self._roll_back()
                raise
        self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # a full disk may have rolled it back already
            self._connection.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
    # Made by us first, because SQLite would make it readable for everybody.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(
            f"the state directory {path.parent} is not writable: {path.name}: {error.strerror}; "
            "choose another one with --state-dir or WEAVE_STATE_DIR"
        ) from error
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None)
    try:
        _set_up(connection, path)
    except StoreError:
        connection.close()
        raise
    except sqlite3.Error as error:
        connection.close()
        raise _explain(error, path) from error
    return connection


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the state file {path} was written by a later release (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); install that release again, or begin afresh with 'weave reset'"
        )
    if owner not in (0, APPLICATION_ID):
        raise StoreError(f"{path} is another program's database; choose another state directory with --state-dir")
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    # The transaction also takes the lock, which exclusive mode then keeps.
    with _Transaction(connection):
        connection.execute(_CREATE)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _explain(error: sqlite3.Error, path: Path) -> StoreError:
    match error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else None:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError(
                f"the state file {path} is in use by another process; every daemon needs a state directory of its own "
                "(--state-dir or WEAVE_STATE_DIR)"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StoreError(f"the state directory {path.parent} is not writable: {path.name}: {error}")
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return StoreError(f"the state file {path} cannot be written: {error}; is the disk full?")
        case _:
            return StoreError(
                f"the state file {path} is damaged ({error}); move it away and launch again, then this host joins its "
                "network like a new one"
            )
