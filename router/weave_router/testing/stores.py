"""`MemoryStore`: a state file that exists in memory only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        texts = {key: None if value is None else _encode(key, value) for key, value in changes.items()}
        await trio.lowlevel.checkpoint()
        self._check_running()
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


def _encode(key: str, value: JsonValue) -> str:
    if not isinstance(key, str):
        raise TypeError(f"keys of a store are text, not {key!r}")
    return json.dumps(value, allow_nan=False)
