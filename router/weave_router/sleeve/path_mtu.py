"""The search for the path MTU (sleeve.md section 8)."""

from __future__ import annotations

from dataclasses import dataclass

from weave_router.sleeve.codec import IP_UDP_BYTES, MAX_DATAGRAM

START_MTU = 65535
LOWEST_GOOD = 552
"""What every path is taken to carry, until the kernel says otherwise."""
LOWEST_MTU = 68 - 28 - 20
"""What remains of the smallest IPv4 path (RFC 791) at the least; keeps absurd values out."""
MAX_TESTS = 8
FIRST_WAIT = 0.01


@dataclass(slots=True)
class PathMtu:
    """Overlay MTU toward one neighbour. `overhead`: bytes between underlay and overlay MTU (62 or 86).

    A method that returns a number asks for a test of that overlay MTU; None asks for nothing.
    """

    overhead: int
    mtu: int = START_MTU
    """Current overlay MTU: Ethernet payload in bytes that goes into one packet with DF."""
    limit: int = MAX_DATAGRAM
    """Largest UDP payload in bytes for packets with DF."""
    timer: float | None = None
    """When `handle_timer` is due."""
    _candidate: int = 0
    _good: int = 0
    _bad: int = 0
    _tests: int = 0

    @property
    def searching(self) -> bool:
        """Whether the current value has still to be verified."""
        return self._candidate != 0

    def refused(self, path_mtu: int, now: float) -> int | None:
        """The kernel refused a packet: the underlay carries `path_mtu` bytes."""
        mtu = max(path_mtu - self.overhead, LOWEST_MTU)
        if self._candidate and mtu >= self._candidate:
            return None
        self._good, self._bad = min(LOWEST_GOOD, mtu), mtu + 1
        self.mtu, self.limit = mtu, mtu + self.overhead - IP_UDP_BYTES
        return self._start(mtu, now)

    def confirmed(self, mtu: int, now: float) -> int | None:
        """The neighbour received a test of this overlay MTU."""
        if not self._candidate or mtu != self._candidate:
            return None
        self._good = mtu
        return self._step(now)

    def handle_timer(self, now: float) -> int | None:
        """No answer came in time."""
        if self.timer is None or now < self.timer:
            return None
        if self._tests < MAX_TESTS:
            return self._test(now)
        self._bad = self._candidate
        return self._step(now)

    def _start(self, candidate: int, now: float) -> int:
        self._candidate = candidate
        self._tests = 0
        return self._test(now)

    def _test(self, now: float) -> int:
        self.timer = now + FIRST_WAIT * 2**self._tests
        self._tests += 1
        return self._candidate

    def _step(self, now: float) -> int | None:
        if self._good + 1 >= self._bad:
            self.mtu, self.limit = self._good, self._good + self.overhead - IP_UDP_BYTES
            self._candidate, self.timer = 0, None
            return None
        return self._start((self._good + self._bad) // 2, now)
