"""Which MAC address lives at which peer (sleeve.md section 9.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weave_router.frames.ethernet import is_group

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.wire.peer_name import PeerName

LIFETIME = 600.0
SWEEP_INTERVAL = 60.0
MAX_ENTRIES = 65536
"""A container can invent addresses; beyond this nothing new is learned until old entries expire."""
MOVE_QUIET = 3.0
"""A local frame takes over another peer's address only when that peer has not used it for so long (seconds).

Weave Net drops such frames until the entry expires, since its capture could see what it had injected itself. Ours
cannot, but a container that bridges could reflect a frame; a moved container waits 3 s instead of 10 minutes.
"""


@dataclass(slots=True)
class MacEntry:
    """Owner of an address, and when a frame last came from it."""

    peer: PeerName
    last_seen: float


class MacTable:
    """Learned addresses, 6 bytes each. Group and zero addresses are never in it."""

    def __init__(self, ourselves: PeerName) -> None:
        self._ourselves = ourselves
        self._entries: dict[bytes, MacEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def owner(self, mac: bytes) -> PeerName | None:
        """The peer at which this address lives, if known."""
        entry = self._entries.get(mac)
        return None if entry is None else entry.peer

    def learn_local(self, mac: bytes, now: float) -> bool:
        """A container of ours sent from this address. False where another peer is using it: drop the frame."""
        entry = self._entries.get(mac)
        if entry is None:
            self._add(mac, self._ourselves, now)
            return True
        if entry.peer != self._ourselves:
            if now - entry.last_seen < MOVE_QUIET:
                return False
            entry.peer = self._ourselves
        entry.last_seen = now
        return True

    def learn_remote(self, mac: bytes, peer: PeerName, now: float) -> None:
        """A frame came from this address at `peer`, which replaces any other owner."""
        entry = self._entries.get(mac)
        if entry is None:
            self._add(mac, peer, now)
        else:
            entry.peer = peer
            entry.last_seen = now

    def _add(self, mac: bytes, peer: PeerName, now: float) -> None:
        if len(self._entries) < MAX_ENTRIES and not is_group(mac) and any(mac):
            self._entries[mac] = MacEntry(peer, now)

    def forget(self, peers: frozenset[PeerName]) -> None:
        """Remove all addresses of these peers."""
        for mac in [mac for mac, entry in self._entries.items() if entry.peer in peers]:
            del self._entries[mac]

    def sweep(self, now: float) -> None:
        """Remove what has not been used for 10 minutes."""
        for mac in [mac for mac, entry in self._entries.items() if now - entry.last_seen >= LIFETIME]:
            del self._entries[mac]

    def entries(self) -> Iterator[tuple[bytes, MacEntry]]:
        """All addresses."""
        yield from self._entries.items()
