"""The data plane's door to the outside: captured frames and UDP datagrams, in bursts.

`weave_router.dataplane.kernel_io.KernelIO` is the real one; the simulation has its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weave_router.sleeve.link import Address


class PacketIO(Protocol):
    """Moves bursts; never blocks but in `wait`."""

    interface: str
    """The capture device for status views; empty where frames are neither captured nor injected."""

    async def wait(self) -> None:
        """Return when there may be something to capture or to receive."""

    def capture(self) -> list[bytes]:
        """A burst of frames from the bridge, each behind its virtio-net header; empty when there is none."""

    def inject(self, frames: Sequence[bytes]) -> int:
        """Hand frames to the bridge; returns how many the kernel refused."""

    def receive(self) -> list[tuple[bytes, Address]]:
        """A burst of datagrams with their sources; empty when there is none."""

    def send(self, packets: Sequence[bytes | memoryview], remote: Address, *, df: bool) -> bool:
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
