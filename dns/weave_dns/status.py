"""What the name server tells of itself, as it is at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_dns.entries import Entry
    from weave_router.wire.peer_name import PeerName


@dataclass(frozen=True, slots=True)
class DnsStatus:
    """The whole service. There may be many entries: whoever reads them does so outside of the event loop."""

    ourselves: PeerName
    domain: str
    upstream: tuple[str, ...]
    ttl: int
    listening: tuple[str, ...]
    """Addresses with ports."""
    troubles: tuple[str, ...]
    """What keeps it from answering, in words for the operator."""
    entries: tuple[Entry, ...]
    """All, dead ones too."""
    counters: Mapping[str, int]

    @property
    def alive(self) -> int:
        """Living entries of all peers."""
        return sum(1 for entry in self.entries if not entry.tombstone)

    @property
    def own(self) -> int:
        """Living entries of this peer."""
        return sum(1 for entry in self.entries if entry.origin == self.ourselves and not entry.tombstone)

    def in_memory_order(self) -> list[Entry]:
        """The entries as all views list them (dns.md section 1)."""
        return sorted(self.entries, key=lambda entry: entry.memory_order)
