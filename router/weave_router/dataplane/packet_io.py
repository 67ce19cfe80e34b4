"""The data plane's door to the outside: captured frames and UDP datagrams, in bursts.

`weave_router.dataplane.kernel_io.KernelIO` is the real one; the simulation has its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from weave_router.dataplane.captured import CapturedBurst
    from weave_router.frames.joining import Superframe
    from weave_router.sleeve.link import Address


@dataclass(slots=True)
class Datagrams:
    """UDP payloads of one source and length that arrived together; valid until the next burst is received."""

    buffer: NDArray[np.uint8]
    """Shape (count * size,): one payload behind the other. May be written to."""
    size: int
    """Length of each but the last, which may be shorter; at least 1."""
    total: int
    """Bytes that arrived."""
    source: Address

    @property
    def rows(self) -> NDArray[np.uint8]:
        """The payloads as an array of shape (count, size)."""
        return self.buffer.reshape(-1, self.size)

    @property
    def last(self) -> int:
        """Length of the last payload."""
        return (self.total - 1) % self.size + 1

    def split(self) -> Iterator[bytes]:
        """The payloads one by one."""
        data = self.buffer[: self.total].tobytes()
        yield from (data[start : start + self.size] for start in range(0, self.total, self.size))


@dataclass(frozen=True, slots=True)
class PacketRun:
    """UDP payloads that leave together: all of one length, but the last may be shorter."""

    parts: Sequence[bytes | memoryview]
    """Their bytes, in one piece or in one piece each."""
    size: int
    count: int
    total: int

    def packets(self) -> Sequence[bytes | memoryview]:
        """The payloads one by one."""
        if len(self.parts) == self.count:
            return self.parts
        whole = memoryview(b"".join(self.parts))
        return [whole[start : start + self.size] for start in range(0, self.total, self.size)]


MAX_RUN_PACKETS = 64
MAX_RUN_BYTES = 65507
"""Of one run: what the kernel takes with UDP_SEGMENT (udp(7))."""


class PacketIO(Protocol):
    """Moves bursts; never blocks but in `wait`."""

    interface: str
    """The capture device for status views; empty where frames are neither captured nor injected."""

    async def wait(self) -> None:
        """Return when there may be something to capture or to receive."""

    def poll(self, seconds: float) -> bool:
        """Whether there is something to capture or to receive; looks again and again for so long, without sleeping."""

    def capture(self) -> CapturedBurst:
        """A burst of frames from the bridge; empty when there is none.

        Raises `HostError` when the device has been taken away.
        """

    joins_udp: bool
    """Whether the bridge takes superframes of UDP."""

    def inject(self, frames: Sequence[bytes | Superframe]) -> int:
        """Hand frames to the bridge; returns how many writes the kernel refused."""

    def receive(self) -> list[Datagrams]:
        """A burst of datagrams; empty when there is none."""

    def send(self, runs: Sequence[PacketRun], remote: Address, *, df: bool) -> bool:
        """Send datagrams in order. False where one was refused because the path does not carry its size.

        Other errors are transient for UDP (no route, full queue): the packet is lost and counted.
        """

    def path_mtu(self, remote: Address) -> int | None:
        """Bytes of an IP packet that the path to `remote` carries, as far as the kernel knows."""

    def diagnostics(self) -> Mapping[str, str]:
        """Which kernel features are on, and why others are off."""

    def take_errors(self) -> Mapping[str, int]:
        """Counts of lost packets by cause since the last call."""

    def close(self) -> None:
        """Close the descriptors."""
