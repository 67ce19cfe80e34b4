"""How long the loop looks for the next packet before it sleeps.

To be woken takes longer than to handle a packet: the scheduler runs, in a virtual machine a halted processor must be
kicked, and trio goes round once. Looking for a while instead spares that where packets follow each other closely, as
the requests and answers of one client do. Where they do not, looking would only burn the processor, so each look in
vain counts twice. (KVM's halt polling does the same for guests.)
"""

from __future__ import annotations

LOOK_SECONDS = 100e-6
SOON_SECONDS = 200e-6
"""A packet that wakes us within this time would have come within `LOOK_SECONDS`, had everybody stayed awake."""
_MOST = 8


class Patience:
    """Learns from the gaps between packets whether it is worthwhile to look for the next one."""

    def __init__(self) -> None:
        self._credit = 0

    @property
    def seconds(self) -> float:
        """How long to look; 0 for not at all."""
        return LOOK_SECONDS if self._credit else 0.0

    def looked(self, *, found: bool) -> None:
        """A packet came while we looked, or none did."""
        self._credit = min(self._credit + 1, _MOST) if found else max(self._credit - 2, 0)

    def slept(self, seconds: float) -> None:
        """We did not look, and were woken after this time."""
        self._credit = min(self._credit + 1, _MOST) if seconds < SOON_SECONDS else max(self._credit - 2, 0)
