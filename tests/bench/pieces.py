"""How long the data plane itself takes for one burst of each kind, without the kernel.

    .venv/bin/python tests/bench/pieces.py

Two data planes in this process: what one sends is what the other receives. Times are medians in µs of processor time,
per burst and per frame. In a running router the same code takes up to twice as long, since the kernel and others use
the processor's caches meanwhile. `router/README.md` has the table; renew it after a change of the data plane.
"""

from __future__ import annotations

import statistics
import struct
import time

import trio
from rich.console import Console
from rich.table import Table

from weave_router.control.routes import Routes
from weave_router.dataplane.captured import burst_of
from weave_router.dataplane.data_plane import DataPlane
from weave_router.dataplane.memory import keep_freed_memory
from weave_router.dataplane.neighbour import Neighbour
from weave_router.frames.checksum import checksum, ones_complement_sum
from weave_router.sleeve.cipher import AES, AeadCipher, Cipher, NaclCipher, PlainCipher
from weave_router.sleeve.link import SleeveLink
from weave_router.testing.scripted_packet_io import ScriptedPacketIO, arrived_together
from weave_router.testing.silent_link import SilentLink
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import Link, PeerRecord

ONE, TWO = PeerName(1), PeerName(2)
MACS = {ONE: bytes.fromhex("020000000001"), TWO: bytes.fromhex("020000000002")}
ADDRESSES = bytes([10, 2, 1, 1, 10, 2, 1, 2])
REPETITIONS = 400
TCP, UDP = 6, 17


def packet(protocol: int, payload: int, *, segment: int = 0, identification: int = 1) -> bytes:
    """A frame from One to Two as the TAP brings it; a superframe if `segment` (bytes of payload) is given."""
    header_bytes = 32 if protocol == TCP else 8
    length = header_bytes + payload
    pseudo = ones_complement_sum(ADDRESSES + struct.pack(">HH", protocol, length))
    if protocol == TCP:
        options = bytes.fromhex("0101080a0000000100000002")
        header = struct.pack(">HHIIBBHHH", 1000, 80, 1, 1, 0x80, 0x10, 500, pseudo, 0) + options
    else:
        header = struct.pack(">HHHH", 1000, 53, length, pseudo)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, identification, 0x4000, 64, protocol, 0) + ADDRESSES
    ip = ip[:10] + checksum(ip).to_bytes(2) + ip[12:]
    virtio = struct.pack("<BBHHHH", 1, int(segment > 0), 34 + header_bytes, segment, 34, 16 if protocol == TCP else 6)
    filling = (bytes(range(256)) * (payload // 256 + 1))[:payload]
    return virtio + MACS[TWO] + MACS[ONE] + b"\x08\x00" + ip + header + filling


BURSTS = {
    "superframe of 45 segments": ([packet(TCP, 45 * 1324, segment=1324)], 45),
    "64 frames of 1200 bytes": ([packet(UDP, 1200, identification=number) for number in range(64)], 64),
    "64 frames of 64 bytes": ([packet(UDP, 64, identification=number) for number in range(64)], 64),
    "1 acknowledgement": ([packet(TCP, 0)], 1),
}


def cipher(name: str, ourselves: PeerName, other: PeerName) -> Cipher:
    """The sealing of one side."""
    if name == "plain":
        return PlainCipher(ourselves)
    if name == NaclCipher.name:
        return NaclCipher(ourselves, bytes(32), outbound=ourselves == ONE)
    return AeadCipher(name, ourselves, other, 1, bytes(32))


def plane(name: str, ourselves: PeerName, other: PeerName) -> tuple[DataPlane, ScriptedPacketIO]:
    """A data plane with one neighbour, whose path carries 1500 bytes."""
    records = {
        peer: PeerRecord(peer, links=(Link(ONE if peer == TWO else TWO, "", outbound=True, established=True),))
        for peer in (ONE, TWO)
    }
    io = ScriptedPacketIO()
    made = DataPlane(io, Routes(ourselves, records))
    sealing = cipher(name, ourselves, other)
    now = trio.current_time()
    link = SleeveLink(1, sealing.packet_overhead, ("10.0.0.1", 6783), now)
    made.add(Neighbour(other, link, sealing, SilentLink()))
    link.refused(1500, now)
    link.control(3, (1500 - 56 - sealing.packet_overhead).to_bytes(2), now)
    made.forwarder.macs.learn_local(MACS[ourselves], now)
    made.forwarder.macs.learn_remote(MACS[other], other, now)
    io.sent.clear()
    return made, io


async def worked(made: DataPlane, io: ScriptedPacketIO) -> float:
    """Seconds of processor time until nothing is left to do."""
    start = time.thread_time()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run)
            while io.poll(0):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    return time.thread_time() - start


async def measure(name: str, packets: list[bytes]) -> tuple[float, float]:
    """Seconds to send a burst and to receive it."""
    sender, sending = plane(name, ONE, TWO)
    receiver, receiving = plane(name, TWO, ONE)
    sent, received = [], []
    batch = 20  # bursts, so that starting and stopping the loop does not count
    for _ in range(REPETITIONS // batch):
        sending.captures = [burst_of(packets) for _ in range(batch)]
        sent.append(await worked(sender, sending) / batch)
        receiving.arrivals = [
            arrived_together([bytes(each) for each in run.packets()], ("10.0.0.1", 6783)) for _, run in sending.sent
        ]
        sending.sent.clear()
        received.append(await worked(receiver, receiving) / batch)
        receiving.injected.clear()
    return statistics.median(sent), statistics.median(received)


async def main() -> None:
    """Measure and print the table."""
    keep_freed_memory()
    table = Table("burst", "sealing", "send, µs", "receive, µs", "send, µs a frame", "receive, µs a frame")
    for title, (packets, frames) in BURSTS.items():
        for name in ("plain", AES):
            sent, received = await measure(name, packets)
            figures = [sent * 1e6, received * 1e6, sent * 1e6 / frames, received * 1e6 / frames]
            table.add_row(title, name, *(f"{figure:.2f}" if figure < 10 else f"{figure:.0f}" for figure in figures))
    Console(width=110).print(table)


if __name__ == "__main__":
    trio.run(main)
