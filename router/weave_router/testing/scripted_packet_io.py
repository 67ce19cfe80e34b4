"""A packet I/O that captures and receives what it is given, for tests and measurements of the data plane alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import trio

from weave_router.dataplane.captured import burst_of
from weave_router.dataplane.packet_io import Datagrams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weave_router.dataplane.captured import CapturedBurst
    from weave_router.dataplane.packet_io import PacketRun
    from weave_router.frames.joining import Superframe
    from weave_router.sleeve.link import Address


@dataclass
class ScriptedPacketIO:
    """A `weave_router.dataplane.packet_io.PacketIO` without a network."""

    captures: list[CapturedBurst] = field(default_factory=list)
    """Still to be captured, burst by burst."""
    arrivals: list[Datagrams] = field(default_factory=list)
    """Still to be received, each as a burst."""
    sent: list[tuple[Address, PacketRun]] = field(default_factory=list)
    injected: list[bytes | Superframe] = field(default_factory=list)
    interface: str = ""
    joins_udp: bool = True

    async def wait(self) -> None:
        """Return when there is something to capture or to receive."""
        await trio.lowlevel.checkpoint()
        if not self.poll(0):
            await trio.sleep_forever()

    def poll(self, seconds: float) -> bool:
        """Whether there is something to capture or to receive."""
        return bool(self.captures or self.arrivals)

    def capture(self) -> CapturedBurst:
        """The next burst of frames."""
        return self.captures.pop(0) if self.captures else burst_of([])

    def receive(self) -> list[Datagrams]:
        """The next datagrams."""
        return [self.arrivals.pop(0)] if self.arrivals else []

    def inject(self, frames: Sequence[bytes | Superframe]) -> int:
        """Keep frames."""
        self.injected += frames
        return 0

    def send(self, runs: Sequence[PacketRun], remote: Address, *, df: bool) -> bool:
        """Keep datagrams."""
        self.sent += [(remote, run) for run in runs]
        return True

    def path_mtu(self, remote: Address) -> int | None:
        """1500 bytes."""
        return 1500

    def diagnostics(self) -> Mapping[str, str]:
        """There are no kernel features here."""
        return {}

    def take_errors(self) -> Mapping[str, int]:
        """Nothing is lost here."""
        return {}

    def close(self) -> None:
        """There is nothing to close."""


def arrived_together(packets: Sequence[bytes], source: Address) -> Datagrams:
    """Datagrams of one length, the last perhaps shorter, as UDP_GRO brings them."""
    size, data = len(packets[0]), b"".join(packets)
    buffer = np.full(size * len(packets), 0xEE, np.uint8)  # what lies behind the last one is anybody's guess
    buffer[: len(data)] = np.frombuffer(data, np.uint8)
    return Datagrams(buffer, size, len(data), source)
