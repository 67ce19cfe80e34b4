"""Broadcasts that come a second time because the tree of their source has changed on the way.

In a steady topology each broadcast comes once, from our parent in the tree of its source. When the parent changes, a
frame that has come the old way may be on the new way, too. So frames from a new parent are compared, for a while,
with what the old one brought. Equal frames from one parent are no duplicates: containers repeat themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weave_router.wire.peer_name import PeerName

MEMORY_SECONDS = 2.0
"""A frame is remembered for one to two times this long, and a parent is new for so long."""
MAX_REMEMBERED = 65536
"""Frames of one period; a multicast storm beyond that is not remembered."""


class DuplicateFilter:
    """Remembers accepted broadcasts for a few seconds, by their hash."""

    def __init__(self) -> None:
        self._parents: dict[PeerName, tuple[PeerName, float]] = {}
        """For each source its parent and since when (seconds)."""
        self._recent: dict[int, PeerName] = {}
        self._earlier: dict[int, PeerName] = {}
        self._turned = 0.0

    def accept(self, source: PeerName, parent: PeerName, frame: bytes, now: float) -> bool:
        """Whether a broadcast of `source` that our `parent` in its tree has brought is no duplicate."""
        if now - self._turned >= MEMORY_SECONDS:
            self._earlier = self._recent if now - self._turned < 2 * MEMORY_SECONDS else {}
            self._recent = {}
            self._turned = now
        mark = hash((source, frame))
        known, since = self._parents.get(source, (None, 0.0))
        if known != parent:
            if known is None:
                self._parents[source] = (parent, now - MEMORY_SECONDS)
            else:
                self._parents[source] = (parent, since := now)
        if known is not None and now - since < MEMORY_SECONDS:
            earlier = self._recent.get(mark, self._earlier.get(mark, parent))
            if earlier != parent:
                return False
        if len(self._recent) < MAX_REMEMBERED:
            self._recent[mark] = parent
        return True

    def forget(self, peers: frozenset[PeerName]) -> None:
        """These peers are gone."""
        for peer in peers:
            self._parents.pop(peer, None)
