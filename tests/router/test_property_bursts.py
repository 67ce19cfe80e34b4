"""For any burst the fast ways, frames as rows of arrays, send and deliver what the plain way does frame by frame.

A line of routers A, B, C; A's containers send, B delivers or relays. Each router works once on whole bursts and once on
single packets. Between A and B packets get lost, doubled, swapped and corrupted.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.control.routes import Routes
from weave_router.dataplane.captured import burst_of
from weave_router.dataplane.data_plane import DataPlane
from weave_router.dataplane.neighbour import Neighbour
from weave_router.frames.segmentation import PLAIN_VNET_HEADER, cut, read_superframe
from weave_router.sleeve.cipher import AES, AeadCipher, Cipher, NaclCipher, PlainCipher
from weave_router.sleeve.codec import PacketError, split_frames
from weave_router.sleeve.link import SleeveLink
from weave_router.testing.scripted_packet_io import ScriptedPacketIO, arrived_together
from weave_router.testing.silent_link import SilentLink
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import Link, PeerRecord

if TYPE_CHECKING:
    from collections import Counter

    from hypothesis.strategies import DrawFn

    from weave_router.dataplane.packet_io import Datagrams


A, B, C = PeerName(1), PeerName(2), PeerName(3)
SOURCES = [bytes.fromhex("0200000000a1"), bytes.fromhex("0200000000a2")]
AT_B, AT_C, GROUP = bytes.fromhex("0200000000b1"), bytes.fromhex("0200000000c1"), bytes.fromhex("01005e000001")
SOCKET = ("10.0.0.1", 6783)
CIPHERS = pytest.mark.parametrize("name", ["plain", "nacl", AES])


# What containers send


@dataclass
class Flow:
    """Packets of one connection between containers, one after the other."""

    source: bytes
    destination: bytes
    df: bool
    ipv6: bool
    port: int
    sequence: int = 0xFFFFF000
    identification: int = 0xFFF0
    timestamp: int = 1

    def header(self, protocol: int, length: int) -> bytes:
        """Ethernet and IP."""
        if self.ipv6:
            ip = struct.pack(">IHBB", 0x60000000, length, protocol, 64) + bytes(16) + bytes(range(16))
            return self.destination + self.source + b"\x86\xdd" + ip
        flags = 0x4000 if self.df else 0
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, self.identification, flags, 64, protocol, 0)
        self.identification = (self.identification + 1) & 0xFFFF
        ip += bytes([10, 2, 1, 1, 10, 2, 1, 2])
        return self.destination + self.source + b"\x08\x00" + ip[:10] + (folded(ip) ^ 0xFFFF).to_bytes(2) + ip[12:]

    def tcp(self, payload: bytes, flags: int) -> bytes:
        """TCP with time stamps; the checksum field holds the pseudo header's sum, as the kernel leaves it."""
        options = struct.pack(">BBBBII", 1, 1, 8, 10, self.timestamp, 7)
        length = 32 + len(payload)
        tcp = struct.pack(">HHIIBBHHH", self.port, 80, self.sequence, 9, 0x80, flags, 500, self.pseudo(6, length), 0)
        self.sequence = (self.sequence + len(payload)) & 0xFFFFFFFF
        return tcp + options + payload

    def pseudo(self, protocol: int, length: int) -> int:
        """The pseudo header's sum."""
        addresses = bytes(16) + bytes(range(16)) if self.ipv6 else bytes([10, 2, 1, 1, 10, 2, 1, 2])
        return folded(addresses + struct.pack(">HH", protocol, length))

    def superframe(self, size: int, segments: int, less: int, flags: int, fill: int) -> bytes:
        """A TCP superframe, `less` bytes short of so many whole segments."""
        payload = bytes((number * 7 + fill) % 256 for number in range(max(size * segments - less, size + 1)))
        header = self.header(6, 32 + len(payload))
        self.identification = (self.identification - 1 - (-len(payload) // size)) & 0xFFFF
        virtio = struct.pack("<BBHHHH", 1, 4 if self.ipv6 else 1, len(header) + 32, size, len(header), 16)
        return virtio + header + self.tcp(payload, flags)

    def repeated(self, size: int, back: int, fill: int) -> bytes:
        """A single segment that was lost: `back` bytes before what comes next."""
        sequence, self.sequence = self.sequence, (self.sequence - back) & 0xFFFFFFFF
        header = self.header(6, 32 + size)
        packet = header + self.tcp(bytes([fill]) * size, 0x10)
        self.sequence = sequence
        return struct.pack("<BBHHHH", 1, 0, 0, 0, len(header), 16) + packet

    def acknowledgement(self) -> bytes:
        header = self.header(6, 32)
        return struct.pack("<BBHHHH", 1, 0, 0, 0, len(header), 16) + header + self.tcp(b"", 0x10)

    def datagram(self, size: int, fill: int) -> bytes:
        header = self.header(17, 8 + size)
        udp = struct.pack(">HHHH", self.port, 53, 8 + size, self.pseudo(17, 8 + size)) + bytes([fill]) * size
        return struct.pack("<BBHHHH", 1, 0, 0, 0, len(header), 6) + header + udp

    def other(self, size: int, fill: int) -> bytes:
        return PLAIN_VNET_HEADER + self.destination + self.source + b"\x88\xb5" + bytes([fill]) * size


def folded(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) & 1 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@st.composite
def bursts(draw: DrawFn) -> list[bytes]:
    """Packets from the bridge: spells of each flow, between them other flows; some are nonsense."""
    flows = [
        Flow(
            draw(st.sampled_from(SOURCES)),
            draw(st.sampled_from([AT_B, AT_B, AT_C, GROUP])),
            draw(st.booleans()),
            draw(st.booleans()),
            port,
        )
        for port in range(draw(st.integers(1, 3)))
    ]
    packets: list[bytes] = []
    for _ in range(draw(st.integers(1, 5))):
        flow = draw(st.sampled_from(flows))
        size, count = draw(st.sampled_from([1, 7, 64, 300, 700, 1200, 1324])), draw(st.integers(1, 12))
        fill = draw(st.integers(0, 255))
        match draw(
            st.sampled_from(["superframes", "superframes", "datagrams", "datagrams", "acks", "other", "broken"])
        ):
            case "superframes":
                size = max(size, 48)
                for _ in range(min(count, 3)):
                    flags = draw(st.sampled_from([0x10, 0x10, 0x18, 0x11, 0x90]))
                    less = draw(st.sampled_from([0, 0, 0, 1, 47]))
                    flow.timestamp += draw(st.sampled_from([0, 0, 1]))
                    packets.append(flow.superframe(size, draw(st.integers(2, 30)), less, flags, fill))
                    if draw(st.booleans()):
                        short = draw(st.sampled_from([0, 0, 0, 1, 47]))
                        packets.append(flow.repeated(size - short, draw(st.integers(0, 9)) * size, fill))
            case "datagrams":
                packets += [flow.datagram(size, (fill + number) % 256) for number in range(count)]
            case "acks":
                packets += [flow.acknowledgement() for _ in range(count)]
            case "other":
                packets += [flow.other(size, (fill + number) % 256) for number in range(count)]
            case "broken":
                packets += [flow.datagram(size, fill)[: draw(st.integers(0, 60))] for _ in range(count)]
                packets.append(struct.pack("<BBHHHH", 1, 0, 0, 0, 5000, 6) + packets[-1][10:])
    return packets


# Routers


def packets_sent(io: ScriptedPacketIO, to: str | None = None) -> list[bytes]:
    """What was sent, to one address or to any."""
    packets = [bytes(packet) for (host, _), run in io.sent if to in (None, host) for packet in run.packets()]
    assert all(len(packet) <= 1472 for packet in packets)
    return packets


def frames_injected(io: ScriptedPacketIO) -> list[bytes]:
    """What the bridge got; its kernel takes superframes apart."""
    return [
        comparable(frame)
        for item in io.injected
        for frame in ([item] if isinstance(item, bytes) else cut([read_superframe(item.packet())], 0).frames())
    ]


def line(name: PeerName) -> Routes:
    """Routes of one of the line A, B, C."""
    pairs = {A: (B,), B: (A, C), C: (B,)}
    links = {peer: tuple(Link(other, "", outbound=True, established=True) for other in pairs[peer]) for peer in pairs}
    return Routes(name, {peer: PeerRecord(peer, links=links[peer]) for peer in pairs})


def cipher(name: str, ourselves: PeerName, other: PeerName) -> Cipher:
    if name == "plain":
        return PlainCipher(ourselves)
    if name == "nacl":
        return NaclCipher(ourselves, bytes(32), outbound=ourselves < other)
    return AeadCipher(name, ourselves, other, 5, bytes(32))


def work(ourselves: PeerName, cipher_name: str, io: ScriptedPacketIO) -> Counter[str]:
    """Let a router work until nothing is left; returns what it counted."""

    async def main() -> Counter[str]:
        plane = DataPlane(io, line(ourselves))
        others = {A: {B: "10.0.0.2"}, B: {A: SOCKET[0], C: "10.0.0.3"}}[ourselves]
        for other, address in others.items():
            sealing = cipher(cipher_name, ourselves, other)
            link = SleeveLink(1, sealing.packet_overhead, (address, 6783), trio.current_time())
            plane.add(Neighbour(other, link, sealing, SilentLink()))
            link.refused(1500, trio.current_time())
            link.control(3, (1500 - 56 - sealing.packet_overhead).to_bytes(2), trio.current_time())
        io.sent.clear()  # the link's own first packets
        now = trio.current_time()
        plane.forwarder.macs.learn_remote(AT_C, C, now)
        if ourselves == A:
            plane.forwarder.macs.learn_remote(AT_B, B, now)
        else:
            plane.forwarder.macs.learn_local(AT_B, now)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plane.run)
            while io.captures or io.arrivals:
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        counters = plane.counters()
        assert counters["internal_errors"] == 0
        return counters

    return trio.run(main, clock=trio.testing.MockClock())


def one_by_one(packets: list[bytes]) -> list[bytes]:
    """The same as if the containers' kernels had cut superframes; nonsense stays."""
    result: list[bytes] = []
    for packet in packets:
        if len(packet) > 10 and packet[1]:
            result += [PLAIN_VNET_HEADER + frame for frame in cut([read_superframe(packet)], 0).frames()]
        else:
            result.append(packet)
    return result


def frames_in(packets: list[bytes], opener: Cipher) -> list[tuple[bytes, bytes, bytes]]:
    return [frame for packet in packets for frame in split_frames(opener.open(packet))]


def together(packets: list[bytes]) -> list[Datagrams]:
    """As UDP_GRO brings packets: those of equal length together, the last perhaps shorter."""
    groups: list[list[bytes]] = []
    for packet in packets:
        group = groups[-1] if groups else None
        fits = group is not None and len(group) < 64 and len(group[-1]) == len(group[0]) >= len(packet)
        if group is not None and fits:
            group.append(packet)
        else:
            groups.append([packet])
    return [arrived_together(group, SOCKET) for group in groups]


def impaired(packets: list[bytes], rng: random.Random) -> list[bytes]:
    """Some lost, doubled, swapped or corrupt."""
    packets = list(packets)
    for _ in range(rng.choice([0, 1, 2, 5])):
        if not packets:
            break
        at, other = rng.randrange(len(packets)), rng.randrange(len(packets))
        match rng.choice(["lost", "doubled", "swapped", "corrupt", "short"]):
            case "lost":
                del packets[at]
            case "doubled":
                packets.insert(other, packets[at])
            case "swapped":
                packets[at], packets[other] = packets[other], packets[at]
            case "corrupt":
                changed = bytearray(packets[at])
                changed[rng.randrange(6, len(changed))] ^= 1 << rng.randrange(8)
                packets[at] = bytes(changed)
            case "short":
                packets[at] = packets[at][: rng.randrange(6, len(packets[at]) + 1)]
    return packets


def comparable(frame: bytes) -> bytes:
    """IPv4 with DF may keep or count its identification; nobody looks at it (RFC 6864)."""
    if frame[12:14] == b"\x08\x00" and len(frame) > 26 and frame[20] & 0x40:
        return frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]
    return frame


@CIPHERS
@settings(deadline=None, max_examples=150)
@given(packets=bursts(), rng=st.integers(0, 2**32).map(random.Random))
def test_any_burst_is_sent_and_delivered_as_frame_by_frame(name: str, packets: list[bytes], rng: random.Random) -> None:
    burst, singles = ScriptedPacketIO(captures=[burst_of(packets)]), ScriptedPacketIO()
    singles.captures = [burst_of([packet]) for packet in one_by_one(packets)]
    fast, plain = work(A, name, burst), work(A, name, singles)
    sent = packets_sent(burst)
    assert frames_in(sent, cipher(name, B, A)) == frames_in(packets_sent(singles), cipher(name, B, A))
    assert {key: fast[key] for key in plain if "drop" in key} == {key: plain[key] for key in plain if "drop" in key}

    arriving = impaired(sent, rng)
    grouped, lone = ScriptedPacketIO(arrivals=together(arriving)), ScriptedPacketIO()
    lone.arrivals = [arrived_together([packet], SOCKET) for packet in arriving]
    fast, plain = work(B, name, grouped), work(B, name, lone)
    assert frames_injected(grouped) == frames_injected(lone)
    assert relayed(name, grouped) == relayed(name, lone)
    dropped = {key for key in [*plain, *fast] if "drop" in key}
    assert {key: fast[key] for key in dropped} == {key: plain[key] for key in dropped}


def relayed(name: str, io: ScriptedPacketIO) -> list[tuple[bytes, bytes, bytes]]:
    """What B passed on to C; only A's frames may have an answer, which goes back."""
    return frames_in(packets_sent(io, "10.0.0.3"), cipher(name, C, B))


@CIPHERS
def test_the_fast_way_is_taken(name: str) -> None:
    """What the property above compares must not be the same way twice."""
    flow = Flow(SOURCES[0], AT_B, df=True, ipv6=False, port=1)
    packets = [flow.superframe(1324, 40, 0, 0x10, number) for number in range(3)]
    packets += [flow.datagram(64, number) for number in range(30)]
    io = ScriptedPacketIO(captures=[burst_of(packets)])
    work(A, name, io)
    receiver = ScriptedPacketIO(arrivals=together(packets_sent(io)))
    work(B, name, receiver)
    assert len(frames_injected(receiver)) == 3 * 40 + 30
    assert 4 <= len(receiver.injected) <= 6


@pytest.mark.parametrize("ipv6", [False, True])
def test_what_a_flow_repeats_is_cut_with_its_superframes(ipv6: bool) -> None:
    flow = Flow(SOURCES[0], AT_B, df=True, ipv6=ipv6, port=1)
    packets = [flow.superframe(1324, 40, 0, 0x10, 1), flow.repeated(1324, 9 * 1324, 2), flow.repeated(1324, 1324, 3)]
    packets.append(flow.superframe(1324, 20, 0, 0x10, 4))
    io = ScriptedPacketIO(captures=[burst_of(packets)])
    counters = work(A, "plain", io)
    assert counters["superframes_captured"] == 2
    assert len(packets_sent(io)) == 62


@CIPHERS
@settings(deadline=None)
@given(
    count=st.integers(1, 70),
    width=st.integers(0, 60),
    shorter=st.integers(0, 60),
    df=st.booleans(),
    before=st.sampled_from([0, 1000, 2**20 - 5]),
    rng=st.integers(0, 2**32).map(random.Random),
)
def test_rows_are_sealed_and_opened_like_packets(
    name: str, count: int, width: int, shorter: int, df: bool, before: int, rng: random.Random
) -> None:
    sender, twin = cipher(name, A, B), cipher(name, A, B)
    for each in (sender, twin):
        if before and not isinstance(each, PlainCipher):
            each._next = [before, before]  # type: ignore[attr-defined]
    last = 6 + max(width - shorter, 0)
    rows = np.frombuffer(rng.randbytes(count * (6 + width)), np.uint8).reshape(count, -1).copy()
    frames = [row[6:].tobytes() for row in rows]
    frames[-1] = frames[-1][: last - 6]
    sealed, size = sender.seal_rows(rows.copy(), last, df=df)
    packets = [bytes(sealed[start : start + size]) for start in range(0, len(sealed), size)]
    assert packets == [twin.seal(frame, df=df) for frame in frames]

    # Any of them in any order open as rows, but each only once.
    kept = sorted(rng.sample(range(count), rng.randint(1, count)), key=lambda number: number == count - 1)
    if rng.random() < 0.3 and kept[-1] != count - 1:
        rng.shuffle(kept)
    group = arrived_together([packets[number] for number in kept], SOCKET)
    receiver = cipher(name, B, A)
    if name != "plain" and not any(frames[number] for number in kept):
        with pytest.raises(PacketError):
            receiver.open_rows(group.rows, group.last)
        return
    opened, last_opened = receiver.open_rows(group.rows, group.last)
    content = [row[6:].tobytes() for row in opened]
    content[-1] = content[-1][: last_opened - 6]
    assert content == [frames[number] for number in kept]
    if name == "plain":
        return
    everything = arrived_together(packets, SOCKET)
    with pytest.raises(PacketError):
        receiver.open_rows(everything.rows, everything.last)
    for number in range(count):
        if number in kept:
            with pytest.raises(PacketError):
                receiver.open(packets[number])
        else:
            assert receiver.open(packets[number]) == frames[number]
