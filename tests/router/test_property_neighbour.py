"""What leaves for one neighbour, and by which way, against sleeve.md section 6 in plain words."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.control.routes import Routes
from weave_router.dataplane.captured import burst_of
from weave_router.dataplane.forwarder import Forwarder
from weave_router.dataplane.neighbour import Neighbour
from weave_router.dataplane.packet_io import MAX_RUN_BYTES, MAX_RUN_PACKETS, PacketRun
from weave_router.frames.ipv4 import fragmentation_needed
from weave_router.frames.segmentation import PLAIN_VNET_HEADER, cut, read_superframe
from weave_router.sleeve.cipher import Cipher, NaclCipher, PlainCipher
from weave_router.sleeve.codec import FIRST_FRAME, frame_prefix, split_frames
from weave_router.sleeve.link import SleeveLink
from weave_router.testing.silent_link import SilentLink
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import Link, PeerRecord

MODERATE = settings(deadline=None)
OURSELVES, OTHER = PeerName(1), PeerName(2)
KEY = bytes(range(32))
LARGEST = 65507


def ciphers(sealed: bool) -> tuple[Cipher, Cipher]:
    """Ours, and the neighbour's."""
    if sealed:
        return NaclCipher(OURSELVES, KEY, outbound=True), NaclCipher(OTHER, KEY, outbound=False)
    return PlainCipher(OURSELVES), PlainCipher(OTHER)


def neighbour(mtu: int | None, *, sealed: bool = False, fragments_pass: bool = False) -> Neighbour:
    """A neighbour whose path carries this overlay MTU; None for a path that nothing is known of yet."""
    cipher = ciphers(sealed)[0]
    link = SleeveLink(7, cipher.packet_overhead, ("10.0.0.2", 6783), 0.0)
    link.confirmed(0.0)
    if mtu is not None:
        overhead = cipher.packet_overhead + 56
        link.refused(mtu + overhead, 0.0)
        link.control(3, mtu.to_bytes(2), 0.0)
        assert (link.path_mtu.mtu, link.path_mtu.limit) == (mtu, mtu + overhead - 28)
    if fragments_pass:
        link.control(2, b"", 0.0)
    return Neighbour(OTHER, link, cipher, SilentLink())


# Frames as they are queued

SIZES = st.one_of(st.integers(0, 200), st.integers(0, 2000), st.integers(1300, 1500), st.integers(60000, 65535))
PREFIXES = st.builds(
    frame_prefix, st.sampled_from([OURSELVES, PeerName(9)]), st.sampled_from([OTHER, PeerName(2**48 - 1)])
)
QUEUED = st.lists(
    st.builds(lambda prefix, size, mark: (prefix, bytes([mark]) * size), PREFIXES, SIZES, st.integers(1, 255)),
    max_size=40,
)


def taken(other: Neighbour, *, df: bool) -> tuple[list[PacketRun], int]:
    """What is to be sent this way only, and how many frames were dropped."""
    groups, dropped = other.take_packets()
    assert all(way is df for way, _ in groups)
    return [run for _, runs in groups for run in runs], dropped


def in_order(runs: list[PacketRun]) -> list[bytes]:
    """The packets of some runs; each run is one that the kernel takes in a single call."""
    packets = []
    for run in runs:
        single = [bytes(packet) for packet in run.packets()]
        assert len(single) == run.count <= MAX_RUN_PACKETS
        assert sum(map(len, single)) == sum(map(len, run.parts)) == run.total
        assert run.total <= MAX_RUN_BYTES or run.count == 1
        assert {len(packet) for packet in single[:-1]} <= {run.size}
        assert 0 < len(single[-1]) <= run.size
        packets += single
    return packets


@dataclass(frozen=True)
class Expected:
    packets: list[list[tuple[bytes, bytes]]]
    dropped: int


def greedy(queued: list[tuple[bytes, bytes]], *, limit: int, overhead: int, df: bool) -> Expected:
    """sleeve.md section 6, "Aggregation": the first frame within L, each further one within the path's limit."""
    first_limit = limit if df else LARGEST
    packets: list[list[tuple[bytes, bytes]]] = []
    size = dropped = 0
    for prefix, frame in queued:
        need = 14 + len(frame)
        if packets and packets[-1] and size + need <= limit:
            packets[-1].append((prefix, frame))
            size += need
        elif overhead + need <= first_limit:
            packets.append([(prefix, frame)])
            size = overhead + need
        else:
            dropped += 1
            packets.append([])  # what comes next begins a packet of its own
    return Expected([packet for packet in packets if packet], dropped)


@MODERATE
@given(QUEUED, st.one_of(st.none(), st.integers(552, 9000)), st.booleans(), st.booleans())
def test_queued_frames_share_packets_while_they_fit(
    queued: list[tuple[bytes, bytes]], mtu: int | None, sealed: bool, df: bool
) -> None:
    sender, (_, opener) = neighbour(mtu, sealed=sealed), ciphers(sealed)
    for prefix, frame in queued:
        sender.queue(prefix, frame, df=df)
    runs, dropped = taken(sender, df=df)
    packets = in_order(runs)
    limit, overhead = sender.link.path_mtu.limit, 30 if sealed else 6
    expected = greedy(queued, limit=limit, overhead=overhead, df=df)

    opened = [
        [(source + destination, frame) for source, destination, frame in split_frames(opener.open(bytes(packet)))]
        for packet in packets
    ]
    assert [frame for packet in opened for frame in packet] == [
        frame for packet in expected.packets for frame in packet
    ]
    assert dropped == expected.dropped
    assert opened == expected.packets
    for packet, frames in zip(packets, opened, strict=True):
        assert len(packet) <= (limit if df or len(frames) > 1 else LARGEST)
    assert sender.take_packets() == ([], 0)


# Frames as they are captured: which way, whole or in fragments


def ipv4(size: int, *, df: bool, identification: int = 5, mac: int = 2) -> bytes:
    """A UDP frame of this many bytes behind the Ethernet header."""
    header = struct.pack(">BBHHHBBH", 0x45, 0, size, identification, 0x4000 if df else 0, 64, 17, 0)
    header += bytes([10, 32, 0, 1, 10, 32, 0, 2])
    total: int = sum(struct.unpack(">10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + (total ^ 0xFFFF).to_bytes(2) + header[12:]
    macs = bytes([2, 0, 0, 0, 0, mac]) + bytes.fromhex("02000000c101")
    return macs + b"\x08\x00" + header + bytes(number % 251 for number in range(size - 20))


def not_ip(size: int) -> bytes:
    return bytes.fromhex("02000000000202000000c10186dd") + bytes([0x60]) + bytes(size - 1)


def tcp_superframe(*, ipv6: bool, df: bool, payload: int, gso_size: int) -> bytes:
    """As it comes from the TAP, virtio-net header first."""
    macs = bytes.fromhex("02000000000202000000c101")
    tcp = struct.pack(">HHIIBBHHH", 40000, 80, 1, 2, 0x50, 0x18, 500, 0, 0)
    if ipv6:
        header = macs + b"\x86\xdd" + struct.pack(">IHBB", 0x60000000, 20 + payload, 6, 64) + bytes(range(32))
    else:
        header = macs + b"\x08\x00" + ipv4(20, df=df)[14:34]
        header = header[:23] + b"\x06" + header[24:]
    virtio = struct.pack("<BBHHHH", 1, 4 if ipv6 else 1, len(header) + 20, gso_size, len(header), 16)
    return virtio + header + tcp + bytes(number % 249 for number in range(payload))


CAPTURED = st.one_of(
    st.builds(lambda size, df: PLAIN_VNET_HEADER + ipv4(size, df=df), st.integers(40, 4000), st.booleans()),
    st.builds(lambda size: PLAIN_VNET_HEADER + not_ip(size), st.integers(40, 4000)),
    st.builds(
        lambda ipv6, df, payload, size: tcp_superframe(ipv6=ipv6, df=df, payload=payload, gso_size=size),
        st.booleans(),
        st.booleans(),
        st.integers(1, 9000),
        st.one_of(st.integers(500, 1500), st.integers(1300, 1460)),
    ),
)


@dataclass
class Decision:
    """What is to be sent by each way, and what is to be answered."""

    sent: list[tuple[bool, bytes]]
    """In order, and whether with DF."""
    replies: int


def decide(frames: list[bytes], *, mtu: int, frag_ok: bool, broadcast: bool) -> Decision:
    """The table of sleeve.md section 6, frame by frame."""
    decision = Decision([], 0)
    for frame in frames:
        too_big = len(frame) > mtu + 14
        is_ip = frame[12:14] == b"\x08\x00"
        if is_ip and frame[20] & 0x40:
            if not too_big:
                decision.sent.append((True, frame))
            elif not broadcast:
                decision.replies += 1
        elif not is_ip or frag_ok:
            decision.sent.append((False, frame))
        elif not too_big:
            decision.sent.append((True, frame))
        else:
            decision.sent += [(True, part) for part in fragments(frame, mtu)]
    return decision


def fragments(frame: bytes, mtu: int) -> list[bytes]:
    """Section 8.5 for frames without options; the checksums are compared elsewhere."""
    payload, step = frame[34 : 14 + int.from_bytes(frame[16:18])], (mtu - 20) // 8 * 8
    starts = range(0, len(payload), step)
    cut = []
    for start in starts:
        part = payload[start : start + step]
        more = 0x2000 if start != starts[-1] else 0
        header = frame[:16] + (20 + len(part)).to_bytes(2) + frame[18:20] + (more | start // 8).to_bytes(2)
        cut.append((header + frame[22:24] + b"\0\0" + frame[26:34] + part).ljust(60, b"\0"))
    return cut


def comparable(frames: list[bytes]) -> list[bytes]:
    """Frames with the IP checksum of fragments cleared."""
    return [
        frame[:24] + b"\0\0" + frame[26:]
        if frame[12:14] == b"\x08\x00" and int.from_bytes(frame[20:22]) & 0x3FFF
        else frame
        for frame in frames
    ]


def forwarder_to(other: Neighbour) -> Forwarder:
    records = {
        OURSELVES: PeerRecord(OURSELVES, links=(Link(OTHER, "", outbound=True, established=True),)),
        OTHER: PeerRecord(OTHER, links=(Link(OURSELVES, "", outbound=False, established=True),)),
    }
    forwarder = Forwarder(Routes(OURSELVES, records))
    forwarder.neighbours[OTHER] = other
    return forwarder


def frames_taken(other: Neighbour, opener: Cipher) -> list[tuple[bool, bytes]]:
    """Frames in the order of sending, and whether with DF."""
    groups, dropped = other.take_packets()
    assert dropped == 0
    frames = []
    for df, runs in groups:
        packets = in_order(runs)
        assert all(len(packet) <= other.link.path_mtu.limit for packet in packets if df)
        frames += [(df, frame) for packet in packets for _, _, frame in split_frames(opener.open(bytes(packet)))]
    return frames


@settings(max_examples=300, deadline=None)
@given(
    st.lists(CAPTURED, min_size=1, max_size=4),
    st.integers(552, 1500),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_frames_go_the_way_that_the_specification_says(
    captured: list[bytes], mtu: int, frag_ok: bool, broadcast: bool, sealed: bool
) -> None:
    other, (_, opener) = neighbour(mtu, sealed=sealed, fragments_pass=frag_ok), ciphers(sealed)
    forwarder = forwarder_to(other)
    if not broadcast:
        forwarder.macs.learn_remote(bytes.fromhex("020000000002"), OTHER, 0.0)
    whole = []
    for packet in captured:
        frames = cut([read_superframe(packet)], 0).frames() if packet[1] else [packet[10:]]
        whole.append(frames)
        forwarder.captured_burst(burst_of([packet]), 1.0)
    wanted = [decide(frames, mtu=mtu, frag_ok=frag_ok, broadcast=broadcast) for frames in whole]

    sent = frames_taken(other, opener)
    ordered = [frame for decision in wanted for frame in decision.sent]
    assert [df for df, _ in sent] == [df for df, _ in ordered]
    assert comparable([frame for _, frame in sent]) == comparable([frame for _, frame in ordered])
    # One answer per superframe is enough: its sender has one MTU for all segments.
    assert len(forwarder.injected) == sum(min(decision.replies, 1) for decision in wanted)


@MODERATE
@given(st.integers(552, 1500), st.integers(1, 3000))
def test_a_refusal_comes_back_to_the_container(mtu: int, more: int) -> None:
    other = neighbour(mtu)
    forwarder = forwarder_to(other)
    forwarder.macs.learn_remote(bytes.fromhex("020000000002"), OTHER, 0.0)
    frame = ipv4(mtu + more, df=True)
    forwarder.captured_burst(burst_of([PLAIN_VNET_HEADER + frame]), 1.0)

    assert forwarder.injected == [fragmentation_needed(frame, mtu)]
    assert other.take_packets() == ([], 0)


@MODERATE
@given(st.integers(552, 1500), st.integers(1, 3000))
def test_a_refusal_in_transit_goes_back_towards_the_source_peer(mtu: int, more: int) -> None:
    """We relay from 3 to 2: the answer goes to 3 in the name of 2 (sleeve.md 8.4)."""
    third = PeerName(3)
    records = {
        OURSELVES: PeerRecord(
            OURSELVES, links=tuple(Link(name, "", outbound=True, established=True) for name in (OTHER, third))
        ),
        OTHER: PeerRecord(OTHER, links=(Link(OURSELVES, "", outbound=False, established=True),)),
        third: PeerRecord(third, links=(Link(OURSELVES, "", outbound=False, established=True),)),
    }
    forwarder = Forwarder(Routes(OURSELVES, records))
    narrow, origin = neighbour(mtu), neighbour(1438)
    origin.name, origin.name_bytes = third, third.to_bytes(6)
    forwarder.neighbours |= {OTHER: narrow, third: origin}
    frame = ipv4(mtu + more, df=True)
    data = frame_prefix(third, OTHER) + len(frame).to_bytes(2) + frame
    forwarder.received(origin, data, 1.0)

    assert narrow.take_packets() == ([], 0)
    found = [
        triple
        for _, runs in origin.take_packets()[0]
        for packet in in_order(runs)
        for triple in split_frames(bytes(packet)[6:])
    ]
    assert found == [(OTHER.to_bytes(6), third.to_bytes(6), fragmentation_needed(frame, mtu))]


# Superframes


@MODERATE
@given(
    st.lists(st.integers(1, 60000), min_size=1, max_size=3),
    st.one_of(st.integers(500, 1378), st.integers(48, 500)),
    st.booleans(),
    st.booleans(),
)
def test_segments_leave_in_order_as_many_to_a_packet_as_fit(
    payloads: list[int], gso_size: int, sealed: bool, ipv6: bool
) -> None:
    other, (_, opener) = neighbour(1438, sealed=sealed), ciphers(sealed)
    small = not_ip(60)
    expected = []
    for payload in payloads:
        packet = tcp_superframe(ipv6=ipv6, df=True, payload=payload, gso_size=gso_size)
        prefix = frame_prefix(OURSELVES, OTHER)
        other.queue(prefix, small, df=True)
        other.queue(prefix, cut([read_superframe(packet)], FIRST_FRAME), df=True)
        segments = cut([read_superframe(packet)], 0).frames()
        share = max((other.link.path_mtu.limit - (30 if sealed else 6)) // (14 + len(segments[0])), 1)
        expected += [[small], *(segments[start : start + share] for start in range(0, len(segments), share))]
    runs, dropped = taken(other, df=True)
    packets = in_order(runs)

    assert dropped == 0
    opened = [list(split_frames(opener.open(bytes(packet)))) for packet in packets]
    assert [[frame for _, _, frame in frames] for frames in opened] == expected
    assert all(frame[0] + frame[1] == frame_prefix(OURSELVES, OTHER) for frames in opened for frame in frames)
    assert all(len(packet) <= other.link.path_mtu.limit for packet in packets)


@pytest.mark.parametrize(
    ("gso_size", "payload"), [(65400, 65440), (65447, 65440), (65482, 1000), (65495, 65440), (65535, 65440)]
)
def test_a_superframe_before_the_path_mtu_is_known(gso_size: int, payload: int) -> None:
    """The start value of the overlay MTU, 65535, is more than a packet holds: too large segments must be dropped."""
    other = neighbour(None)
    forwarder = forwarder_to(other)
    packet = tcp_superframe(ipv6=False, df=True, payload=payload, gso_size=gso_size)
    forwarder.captured_burst(burst_of([packet]), 1.0)
    runs, dropped = taken(other, df=True)
    packets = in_order(runs)

    segments = cut([read_superframe(packet)], 0).frames()
    frames = [frame for frame in segments if 6 + 14 + len(frame) <= LARGEST]
    assert [frame for sent in packets for _, _, frame in split_frames(bytes(sent)[6:])] == frames
    assert dropped + len(frames) == len(segments)
    assert all(len(sent) <= LARGEST for sent in packets)
