"""Which peers to dial: the ones on the command line, or the list as `connect` and `forget` left it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weave_router.doors import Store

KEY = "targets"
"""`{"given": peers of the last command line that named any, "current": the list since then}`, all as typed."""


class StoredTargets:
    """The list of targets and the command line that it began with, durable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._given: tuple[str, ...] = ()

    async def begin(self, peers: Sequence[str], *, resume: bool = False) -> tuple[str, ...]:
        """The targets to start with.

        The same peers as last time mean a restart, so what `connect` and `forget` changed since then holds. Other
        peers replace the list. None, or `resume`, take the stored one. Raises `StoreError`.
        """
        stored = (await self._store.read(KEY)).get(KEY) or {"given": [], "current": []}
        self._given = tuple(stored["given"])
        current = tuple(stored["current"])
        if resume or not peers or sorted(peers) == sorted(self._given):
            return current
        self._given = tuple(peers)
        await self.changed(self._given)
        return self._given

    async def changed(self, targets: tuple[str, ...]) -> None:
        """Store the list; the router calls this before it answers `connect` or `forget`. Raises `StoreError`."""
        await self._store.write({KEY: {"given": list(self._given), "current": list(targets)}})
