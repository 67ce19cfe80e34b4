"""A packet I/O used packet by packet, for tests that do not care about bursts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_router.dataplane.neighbour import equal_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weave_router.dataplane.packet_io import PacketIO
    from weave_router.sleeve.link import Address


def send_packets(io: PacketIO, packets: Sequence[bytes], remote: Address, *, df: bool) -> bool:
    """Send datagrams in order; see `PacketIO.send`."""
    return io.send(list(equal_runs(list(packets))), remote, df=df)


def capture_packets(io: PacketIO) -> list[bytes]:
    """A burst of packets from the bridge, each behind its virtio-net header."""
    pieces = [[piece] if isinstance(piece, memoryview) else list(piece) for piece in io.capture().pieces()]
    return [bytes(packet) for packets in pieces for packet in packets]


def receive_packets(io: PacketIO) -> list[tuple[bytes, Address]]:
    """A burst of datagrams with their sources."""
    return [(packet, datagrams.source) for datagrams in io.receive() for packet in datagrams.split()]
