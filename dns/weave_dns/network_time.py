"""The time that goes into messages (dns.md section 4, step 2).

Weave Net 2.8 ends the connection to a peer whose clock is more than 15 minutes off, so a host with a wrong clock would
be off the network. Our messages to others carry the time that those neighbours have.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    from weave_router.wire.peer_name import PeerName

TOLERATED_S = 300
"""Clocks that differ by less are not corrected for; a third of what 2.8 tolerates."""

_END_OF_TIME = 1 << 40
"""Unix seconds; in 34 000 years."""

log = logging.getLogger(__name__)


class NetworkTime:
    """Differences between our clock and those of neighbours that insist on theirs, in seconds."""

    def __init__(self) -> None:
        self._differences: dict[PeerName, int] = {}
        self.offset = 0
        """What is added to our clock in messages."""

    def heard(self, neighbour: PeerName, clock: int, unix: int) -> None:
        """A neighbour that insists has told its time; one that is absurd is ignored."""
        if 0 < clock < _END_OF_TIME:
            self._differences[neighbour] = clock - unix
            self._choose()

    def keep(self, present: Container[PeerName]) -> None:
        """These are all neighbours that there are."""
        gone = [peer for peer in self._differences if peer not in present]
        for peer in gone:
            del self._differences[peer]
        if gone:
            self._choose()

    def _choose(self) -> None:
        # If any of them agrees with us, those who do not are the ones whose clocks are wrong.
        offset = min(self._differences.values(), key=abs, default=0)
        if abs(offset) <= TOLERATED_S:
            offset = 0
        if abs(offset - self.offset) <= TOLERATED_S // 2:
            return
        self.offset = offset
        if offset:
            log.warning(
                "The clocks of this host and of its Weave Net neighbours differ by %d s: is NTP running? Names are "
                "told with their time, else they would end the connection",
                abs(offset),
            )
        else:
            log.info("The clocks of this host and of its Weave Net neighbours agree again")
