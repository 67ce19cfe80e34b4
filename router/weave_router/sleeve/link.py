"""One sleeve connection to a neighbour, without I/O: establishment, heartbeats, tests (sleeve.md sections 4, 5, 7).

Every method takes the time in seconds and returns what is to be done, in order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from weave_router.frames.ethernet import ZERO_HEADER
from weave_router.sleeve.codec import (
    DISCOVERY_BYTES,
    FRAGMENTATION_TEST_BYTES,
    HEARTBEAT_BYTES,
    heartbeat,
    read_heartbeat,
)
from weave_router.sleeve.path_mtu import PathMtu

HEARD, FRAGOK, MTUOK = 1, 2, 3
FAST_HEARTBEAT = 0.5
SLOW_HEARTBEAT = 10.0
HEARTBEAT_TIMEOUT = 60.0
FRAGMENTATION_TEST_INTERVAL = 300.0
_ETHERNET_IP_UDP_FRAME = 14 + 28 + 14

Address = tuple[str, int]
"""UDP address of a neighbour: IP and port."""


@dataclass(frozen=True, slots=True)
class SendSpecial:
    """Send this special frame, alone in its packet, with or without DF."""

    frame: bytes
    df: bool


@dataclass(frozen=True, slots=True)
class SendControl:
    """Send a sleeve control message over TCP."""

    number: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Established:
    """The neighbour has received a heartbeat of ours: the overlay works in our direction."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The overlay is dead; with it the connection."""

    reason: str


Action = SendSpecial | SendControl | Established | Failed


class SleeveLink:
    """State of one connection.

    `packet_overhead`: bytes of a packet beside its frames (6 or 30). `remote`: known at the dialler, else None until
    the first heartbeat.
    """

    def __init__(self, connection_uid: int, packet_overhead: int, remote: Address | None, now: float) -> None:
        self.remote = remote
        self.established = False
        self.fragments_pass = False
        """Whether the network has been seen to carry IP fragments."""
        self.path_mtu = PathMtu(packet_overhead + _ETHERNET_IP_UDP_FRAME)
        self._uid = connection_uid
        self._heard_any = False
        self._interval = FAST_HEARTBEAT
        self._next_heartbeat: float | None = None
        self._deadline = now + HEARTBEAT_TIMEOUT
        self._next_fragmentation_test: float | None = None
        self._failed = False

    @property
    def heard(self) -> bool:
        """Whether a valid heartbeat of the neighbour has arrived."""
        return self._heard_any

    def confirmed(self, now: float) -> list[Action]:
        """The connection has been added: heartbeats begin."""
        self._deadline = now + HEARTBEAT_TIMEOUT
        self._next_heartbeat = now + self._interval
        return [self._heartbeat()] if self.remote else []

    def special_frame(self, frame: bytes, source: Address, now: float) -> list[Action]:
        """A special frame of the neighbour has arrived from this UDP address."""
        length = len(frame)
        if length == HEARTBEAT_BYTES:
            return self._heartbeat_received(frame, source, now)
        if length == FRAGMENTATION_TEST_BYTES:
            return [] if frame.strip(b"\0") else [SendControl(FRAGOK)]
        return [SendControl(MTUOK, struct.pack(">H", (length - 14) & 0xFFFF))]

    def _heartbeat_received(self, frame: bytes, source: Address, now: float) -> list[Action]:
        if read_heartbeat(frame) != self._uid:
            return []
        actions: list[Action] = []
        unknown = self.remote is None
        self.remote = source
        if unknown and self._next_heartbeat is not None:
            actions.append(self._heartbeat())
        if not self._heard_any:
            self._heard_any = True
            actions.append(SendControl(HEARD))
        self._deadline = now + HEARTBEAT_TIMEOUT
        return actions

    def control(self, number: int, body: bytes, now: float) -> list[Action]:
        """A sleeve control message has come over TCP. Unknown numbers and short bodies are ignored."""
        if number == HEARD:
            return self._heard(now)
        if number == FRAGOK:
            self.fragments_pass = True
        elif number == MTUOK and len(body) >= 2:
            return self._mtu_test(self.path_mtu.confirmed(int.from_bytes(body[:2]), now))
        return []

    def _heard(self, now: float) -> list[Action]:
        actions: list[Action] = []
        if not self.established:
            self.established = True
            self._interval = SLOW_HEARTBEAT
            self._next_heartbeat = now + self._interval
            actions.append(Established())
        actions += self._fragmentation_test(now)
        actions.append(SendSpecial(bytes(DISCOVERY_BYTES), df=True))
        return actions

    def refused(self, path_mtu: int, now: float) -> list[Action]:
        """The kernel refused a packet with DF: the underlay path carries `path_mtu` bytes."""
        return self._mtu_test(self.path_mtu.refused(path_mtu, now))

    def next_timer(self) -> float:
        """When `handle_timer` is due next."""
        times = (self._deadline, self._next_heartbeat, self._next_fragmentation_test, self.path_mtu.timer)
        return min(time for time in times if time is not None)

    def handle_timer(self, now: float) -> list[Action]:
        """Do what is due."""
        if now >= self._deadline:
            self._deadline = now + HEARTBEAT_TIMEOUT
            return [Failed(f"no UDP heartbeat from the peer for {HEARTBEAT_TIMEOUT:.0f} s")]
        actions: list[Action] = []
        if self._next_heartbeat is not None and now >= self._next_heartbeat:
            self._next_heartbeat = now + self._interval
            if self.remote:
                actions.append(self._heartbeat())
        if self._next_fragmentation_test is not None and now >= self._next_fragmentation_test:
            actions += self._fragmentation_test(now)
        return actions + self._mtu_test(self.path_mtu.handle_timer(now))

    def _heartbeat(self) -> SendSpecial:
        return SendSpecial(heartbeat(self._uid), df=True)

    def _fragmentation_test(self, now: float) -> list[Action]:
        self.fragments_pass = False
        self._next_fragmentation_test = now + FRAGMENTATION_TEST_INTERVAL
        return [SendSpecial(bytes(FRAGMENTATION_TEST_BYTES), df=False)]

    @staticmethod
    def _mtu_test(mtu: int | None) -> list[Action]:
        return [] if mtu is None else [SendSpecial(ZERO_HEADER + bytes(mtu), df=True)]
