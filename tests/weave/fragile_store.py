"""`FragileStore`: a state file in memory that fails to write when told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.errors import StoreError
from weave_router.testing.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_router.doors import JsonValue


class FragileStore(MemoryStore):
    """While `failing`, the next write of a key that begins with `prefix` fails; what others write goes through."""

    def __init__(self, prefix: str, entries: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(entries)
        self._prefix = prefix
        self.failing = False

    async def write(self, changes: Mapping[str, JsonValue | None]) -> None:
        """Apply all changes or none. Raises `StoreError` once after `failing` was set."""
        if self.failing and any(key.startswith(self._prefix) for key in changes):
            self.failing = False
            raise StoreError("disk full")
        await super().write(changes)
