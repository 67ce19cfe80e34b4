"""`MemoryStore`: a state file that exists in memory only. `SlowStore`: one whose disk takes its time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weave_router.doors import JsonValue


class MemoryStore:
    """A `weave_router.doors.Store` in memory.

    Values are kept as JSON text: what a caller changes afterwards in a value that it wrote or read changes
    nothing here, and what JSON cannot express is refused at once, as by a file.
    """

    def __init__(self, entries: Mapping[str, JsonValue] | None = None) -> None:
        self._texts = {key: _encode(key, value) for key, value in (entries or {}).items()}
        self._crashed = False
        self.writes = 0
        """Transactions so far."""

    async def read(self, prefix: str = "") -> dict[str, JsonValue]:
        """All entries whose key begins with `prefix`, by key."""
        await trio.lowlevel.checkpoint()
        self._check_running()
        return {key: json.loads(text) for key, text in sorted(self._texts.items()) if key.startswith(prefix)}

    async def write(self, changes: Mapping[str, JsonValue | None]) -> None:
        """Apply all changes or, when one cannot be written, none."""
        texts = _encode_all(changes)
        await trio.lowlevel.checkpoint()
        self._check_running()
        self._apply(texts)

    def _apply(self, texts: Mapping[str, str | None]) -> None:
        for key, text in texts.items():
            if text is None:
                self._texts.pop(key, None)
            else:
                self._texts[key] = text
        self.writes += 1

    def crash(self) -> MemoryStore:
        """End the process that uses this store; returns what the next one opens, with everything written.

        Whatever still holds the old store gets an error from it: in a real crash it would not run any more.
        """
        self._crashed = True
        successor = MemoryStore()
        successor._texts = dict(self._texts)
        return successor

    def _check_running(self) -> None:
        if self._crashed:
            raise RuntimeError("this store belongs to a process that has crashed")


class SlowStore(MemoryStore):
    """A store whose writes take time: a crash may come before a write is durable, or before the writer knows it.

    `delay`: seconds from a call to the write, and again from there to its return, drawn anew each time.
    """

    def __init__(self, delay: Callable[[], float], entries: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(entries)
        self._delay = delay

    async def write(self, changes: Mapping[str, JsonValue | None]) -> None:
        """Apply all changes or none. Never returns to a process that has crashed meanwhile."""
        texts = _encode_all(changes)
        await self._pass_time()
        self._apply(texts)
        await self._pass_time()

    async def _pass_time(self) -> None:
        await trio.sleep(self._delay())
        if self._crashed:
            await trio.sleep_forever()  # until somebody cancels this task, which in life would be gone

    def crash(self) -> SlowStore:
        """End the process that uses this store; returns what the next one opens, with everything written."""
        successor = SlowStore(self._delay)
        successor._texts = super().crash()._texts
        return successor


def _encode_all(changes: Mapping[str, JsonValue | None]) -> dict[str, str | None]:
    return {key: None if value is None else _encode(key, value) for key, value in changes.items()}


def _encode(key: str, value: JsonValue) -> str:
    if not isinstance(key, str):
        raise TypeError(f"keys of a store are text, not {key!r}")
    return json.dumps(value, allow_nan=False)
