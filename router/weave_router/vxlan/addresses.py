"""Which MAC address lives behind which peer, as the peers tell; without I/O.

An address belongs to the peer that has claimed it first, until that one takes its claim back; so a container that sends
frames under another's address does not draw that one's traffic away. A claim is taken back when the address's port
goes, or after the bridge's ageing time (5 minutes) without a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_router.vxlan.messages import MOST_MACS, Macs, MacsOperation

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from weave_router.wire.peer_name import PeerName


class Addresses:
    """Claims of all peers of whom claims are taken."""

    def __init__(self) -> None:
        self._claims: dict[PeerName, dict[bytes, None]] = {}
        self._claimants: dict[bytes, list[PeerName]] = {}
        self.refused = 0
        """Claims beyond the most that a peer may have."""

    def owner(self, mac: bytes) -> PeerName | None:
        """The peer to whom an address belongs."""
        claimants = self._claimants.get(mac)
        return claimants[0] if claimants else None

    def of(self, peer: PeerName) -> list[bytes]:
        """The addresses that belong to a peer."""
        return [mac for mac in self._claims.get(peer, ()) if self._claimants[mac][0] == peer]

    def tell(self, peer: PeerName, told: Macs) -> Set[bytes]:
        """A peer has told of its addresses; returns those whose owner may have changed."""
        claims = self._claims.setdefault(peer, {})
        changed: dict[bytes, None] = {}
        if told.operation is not MacsOperation.ADDED:
            gone: Iterable[bytes] = told.macs
            if told.operation is MacsOperation.ALL:
                gone = claims.keys() - set(told.macs)
            for mac in gone:
                if mac in claims:
                    changed[mac] = None
                    self._withdraw(peer, mac)
        if told.operation is not MacsOperation.REMOVED:
            for mac in told.macs:
                if mac in claims:
                    continue
                if len(claims) >= MOST_MACS:
                    self.refused += 1
                    continue
                changed[mac] = None
                claims[mac] = None
                self._claimants.setdefault(mac, []).append(peer)
        return changed.keys()

    def forget(self, peer: PeerName) -> Set[bytes]:
        """A peer's claims are over; returns the addresses that it had claimed."""
        macs = dict.fromkeys(self._claims.get(peer, ()))
        for mac in macs:
            self._withdraw(peer, mac)
        self._claims.pop(peer, None)
        return macs.keys()

    def _withdraw(self, peer: PeerName, mac: bytes) -> None:
        del self._claims[peer][mac]
        claimants = self._claimants[mac]
        claimants.remove(peer)
        if not claimants:
            del self._claimants[mac]
