"""Cutting superframes and completing checksums, against segments built one by one in plain Python.

A superframe is described by its fields; both it and the frames that must come out are made from the description, so
that the reference shares nothing with the code, not even its reading of headers.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weave_router.frames.checksum import checksum, ones_complement_sum
from weave_router.frames.joining import join
from weave_router.frames.segmentation import SegmentationError, Segments, complete_checksum, cut, read_superframe

MODERATE = settings(deadline=None)
TCP, UDP = 6, 17
FIN, PSH, CWR = 0x01, 0x08, 0x80


def slow_sum(data: bytes) -> int:
    """RFC 1071, two bytes at a time."""
    total = 0
    for index in range(0, len(data), 2):
        word = data[index] << 8 | (data[index + 1] if index + 1 < len(data) else 0)
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Superframe:
    """One TCP or UDP packet of up to 64 KiB, with the instruction to cut it."""

    ipv6: bool
    udp: bool
    tags: tuple[int, ...]
    """VLAN ids, outermost first."""
    ip_options: bytes
    """IPv4 options, or the payload of a hop-by-hop header of IPv6."""
    tcp_options: bytes
    identification: int
    sequence: int
    flags: int
    payload: bytes
    gso_size: int
    ecn: bool
    dont_fragment: bool
    headroom: int
    junk: int
    """What the fields hold that the segments replace."""

    @property
    def protocol(self) -> int:
        return UDP if self.udp else TCP

    def ethernet(self) -> bytes:
        header = bytes.fromhex("02000000c20202000000c101")
        for depth, tag in enumerate(self.tags):
            kind = 0x88A8 if depth == 0 and len(self.tags) == 2 else 0x8100
            header += struct.pack(">HH", kind, tag)
        return header + struct.pack(">H", 0x86DD if self.ipv6 else 0x0800)

    def network(self, transport_bytes: int, identification: int, *, valid: bool) -> bytes:
        if self.ipv6:
            extension = b""
            if self.ip_options:
                body = self.ip_options.ljust(6, b"\0")
                padded = body + bytes(-(len(body) + 2) % 8)
                extension = bytes([self.protocol, (len(padded) + 2) // 8 - 1]) + padded
            length = len(extension) + transport_bytes if valid else self.junk
            first = 0 if extension else self.protocol
            return struct.pack(">IHBB", 0x60300000 | 0xABCDE, length, first, 61) + bytes(range(16, 48)) + extension
        length = 20 + len(self.ip_options) + transport_bytes if valid else self.junk
        fields = [
            0x40 | (5 + len(self.ip_options) // 4),
            0x28,
            length,
            identification,
            0x4000 if self.dont_fragment else 0,
            63,
            self.protocol,
            0 if valid else self.junk,
        ]
        header = struct.pack(">BBHHHBBH", *fields) + bytes([10, 32, 0, 1, 10, 32, 0, 2]) + self.ip_options
        if valid:
            header = header[:10] + struct.pack(">H", slow_sum(header) ^ 0xFFFF) + header[12:]
        return header

    def pseudo(self, length: int) -> bytes:
        addresses = bytes(range(16, 48)) if self.ipv6 else bytes([10, 32, 0, 1, 10, 32, 0, 2])
        return addresses + struct.pack(">HH", self.protocol, length)

    def transport(self, sequence: int, flags: int, payload: bytes, *, valid: bool) -> bytes:
        if self.udp:
            length = 8 + len(payload) if valid else self.junk
            segment = struct.pack(">HHHH", 40000, 53, length, 0 if valid else self.junk) + payload
            if valid:
                value = (slow_sum(self.pseudo(len(segment)) + segment) ^ 0xFFFF) or 0xFFFF
                segment = segment[:6] + struct.pack(">H", value) + segment[8:]
            return segment
        offset = (20 + len(self.tcp_options)) // 4 << 4
        segment = struct.pack(
            ">HHIIBBHHH", 40000, 80, sequence, 0x1020304, offset, flags, 501, 0 if valid else self.junk, 7
        )
        segment += self.tcp_options + payload
        if valid:
            value = slow_sum(self.pseudo(len(segment)) + segment) ^ 0xFFFF
            segment = segment[:16] + struct.pack(">H", value) + segment[18:]
        return segment

    def packet(self) -> bytes:
        """As it is read from the TAP: virtio-net header and frame."""
        network = self.network(len(self.payload) + 8, self.identification, valid=False)
        start = len(self.ethernet()) + len(network)
        transport = self.transport(self.sequence, self.flags, self.payload, valid=False)
        kind = (5 if self.udp else 4 if self.ipv6 else 1) | (0x80 if self.ecn else 0)
        header_bytes = start + len(transport) - len(self.payload)
        virtio = struct.pack("<BBHHHH", 1, kind, header_bytes, self.gso_size, start, 6 if self.udp else 16)
        return virtio + self.ethernet() + network + transport

    def segments(self) -> list[bytes]:
        """The frames that the network card would have sent."""
        made = []
        starts = range(0, len(self.payload), self.gso_size)
        for number, start in enumerate(starts):
            part = self.payload[start : start + self.gso_size]
            flags = self.flags
            if number != len(starts) - 1:
                flags &= ~(FIN | PSH)
            if number != 0:
                flags &= ~CWR
            transport = self.transport((self.sequence + start) % 2**32, flags, part, valid=True)
            network = self.network(len(transport), (self.identification + number) % 2**16, valid=True)
            made.append(self.ethernet() + network + transport)
        return made


def options(most: int) -> st.SearchStrategy[bytes]:
    return st.integers(0, most // 4).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))


SUPERFRAMES = st.builds(
    Superframe,
    ipv6=st.booleans(),
    udp=st.booleans(),
    tags=st.lists(st.integers(0, 0xFFFF), max_size=2).map(tuple),
    ip_options=options(40),
    tcp_options=options(40),
    identification=st.one_of(st.integers(0, 0xFFFF), st.integers(0xFFF0, 0xFFFF)),
    sequence=st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 3000, 2**32 - 1)),
    flags=st.integers(0, 255),
    payload=st.one_of(
        st.binary(min_size=1, max_size=400),
        st.builds(
            lambda size, seed: (seed * (size // len(seed) + 1))[:size], st.integers(1, 12000), st.binary(min_size=1)
        ),
    ),
    gso_size=st.one_of(st.integers(1, 40), st.integers(400, 2000), st.just(65535)),
    ecn=st.booleans(),
    dont_fragment=st.booleans(),
    headroom=st.sampled_from([0, 20, 28, 7]),
    junk=st.integers(0, 0xFFFF),
).filter(lambda superframe: len(superframe.payload) / superframe.gso_size <= 60)


@MODERATE
@given(SUPERFRAMES)
def test_segments_are_those_of_a_network_card(superframe: Superframe) -> None:
    if superframe.udp and superframe.ecn:
        return  # there is no ECN for UDP
    segments = cut([read_superframe(superframe.packet())], superframe.headroom)
    expected = superframe.segments()

    assert segments.frames() == expected
    assert segments.count == len(expected)
    assert segments.last == len(expected[-1])
    assert all(len(frame) == segments.frame_bytes for frame in expected[:-1])
    assert segments.stride == segments.frame_bytes + segments.headroom
    assert segments.total == sum(map(len, expected)) + segments.headroom * len(expected)


@MODERATE
@given(SUPERFRAMES)
def test_every_checksum_of_a_segment_verifies(superframe: Superframe) -> None:
    """As a receiver does it, whatever the reference above says."""
    if superframe.udp and superframe.ecn:
        return
    start = len(superframe.ethernet())
    for frame in cut([read_superframe(superframe.packet())], superframe.headroom).frames():
        packet = frame[start:]
        if superframe.ipv6:
            transport = packet[len(superframe.network(0, 0, valid=True)) :]
            assert int.from_bytes(packet[4:6]) == len(packet) - 40
        else:
            header = (packet[0] & 15) * 4
            assert slow_sum(packet[:header]) == 0xFFFF
            assert int.from_bytes(packet[2:4]) == len(packet)
            transport = packet[header:]
        assert slow_sum(superframe.pseudo(len(transport)) + transport) == 0xFFFF
        if superframe.udp:
            assert transport[6:8] != b"\0\0"
            assert int.from_bytes(transport[4:6]) == len(transport)


@MODERATE
@given(SUPERFRAMES, st.integers(0, 255))
def test_contradictions_are_refused(superframe: Superframe, gso_type: int) -> None:
    """An unknown segmentation type, one of the other IP version, no segment size, headers beyond the frame."""
    packet = bytearray(superframe.packet())
    if gso_type & 0x7F not in ({4, 5} if superframe.ipv6 else {1, 5}):
        packet[1] = gso_type
        with pytest.raises(SegmentationError):
            read_superframe(bytes(packet))
    for field, value in ((4, 0), (6, 0), (6, 0xFFFF)):
        packet = bytearray(superframe.packet())
        struct.pack_into("<H", packet, field, value)
        with pytest.raises(SegmentationError):
            read_superframe(bytes(packet))


@MODERATE
@given(st.binary(max_size=300))
def test_checksum(data: bytes) -> None:
    assert ones_complement_sum(data) == slow_sum(data)
    assert checksum(data) == slow_sum(data) ^ 0xFFFF
    assert checksum(memoryview(data)) == checksum(bytearray(data)) == checksum(data)


@MODERATE
@given(SUPERFRAMES)
def test_an_unfinished_checksum_is_completed(superframe: Superframe) -> None:
    """The kernel leaves the sum of the pseudo header in the field (virtio's NEEDS_CSUM)."""
    whole = superframe.transport(superframe.sequence, superframe.flags, superframe.payload, valid=True)
    field = 6 if superframe.udp else 16
    head = superframe.ethernet() + superframe.network(len(whole), superframe.identification, valid=True)
    unfinished = head + whole[:field] + struct.pack(">H", slow_sum(superframe.pseudo(len(whole)))) + whole[field + 2 :]
    completed = complete_checksum(unfinished, len(head), field)

    assert completed[: len(head) + field] == unfinished[: len(head) + field]
    assert completed[len(head) + field + 2 :] == unfinished[len(head) + field + 2 :]
    assert slow_sum(superframe.pseudo(len(whole)) + completed[len(head) :]) == 0xFFFF
    if completed != head + whole:  # the two forms of zero
        assert {completed[len(head) + field :][:2], whole[field : field + 2]} == {b"\0\0", b"\xff\xff"}


# --- joining, the inverse --------------------------------------------------------------------------------------------


def burst(frames: list[bytes], headroom: int) -> Segments:
    """Frames of equal length, but the last perhaps shorter, as they lie in a receive buffer."""
    stride = headroom + len(frames[0])
    data = bytearray(stride * len(frames))
    for number, frame in enumerate(frames):
        data[number * stride + headroom : number * stride + headroom + len(frame)] = frame
    return Segments(np.frombuffer(data, np.uint8), headroom, stride, len(frames), len(frames[-1]))


def taken_apart(superframe: Superframe, written: bytes) -> list[bytes]:
    """What the kernel makes of a superframe that we write; its unfinished checksum must be the pseudo header's."""
    flags, _, _, _, start, field = struct.unpack("<BBHHHH", written[:10])
    assert flags == 1
    transport = written[10 + start :]
    assert struct.unpack_from(">H", transport, field)[0] == slow_sum(superframe.pseudo(len(transport)))
    assert len(written) - 10 - 14 - (40 if superframe.ipv6 else 0) <= 65535
    if not superframe.ipv6:
        assert slow_sum(written[24 : 10 + start]) == 0xFFFF
    return cut([read_superframe(written)], 0).frames()


def without_identification(frame: bytes) -> bytes:
    """IPv4 with DF may keep or count its identification; nobody looks at it (RFC 6864)."""
    if frame[12:14] == b"\x08\x00" and frame[20] & 0x40:
        return frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]
    return frame


def disturbed(frames: list[bytes], rng: random.Random) -> list[bytes]:
    """A burst as a network delivers it: some lost, doubled, swapped or corrupt."""
    frames = list(frames)
    for _ in range(rng.choice([0, 0, 1, 1, 3])):
        at, other = rng.randrange(len(frames)), rng.randrange(len(frames))
        match rng.choice(["flip", "drop", "double", "swap", "header"]):
            case "flip":
                changed = bytearray(frames[at])
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
                frames[at] = bytes(changed)
            case "header":
                changed = bytearray(frames[at])
                changed[rng.randrange(min(len(changed), 74))] ^= 1 << rng.randrange(8)
                frames[at] = bytes(changed)
            case "drop" if len(frames) > 1:
                del frames[at]
            case "double":
                frames.insert(other, frames[at])
            case "swap":
                frames[at], frames[other] = frames[other], frames[at]
    return equally_long(frames)


def equally_long(frames: list[bytes]) -> list[bytes]:
    """Those that can lie in one buffer: all as long as the first, the last perhaps shorter."""
    kept = [frame for frame in frames[:-1] if len(frame) == len(frames[0])]
    return kept + frames[-1:] if not kept or len(frames[-1]) <= len(kept[0]) else kept


FLOWS = SUPERFRAMES.filter(lambda flow: flow.gso_size < 2000 and not flow.tags)


@MODERATE
@given(FLOWS, FLOWS, st.integers(0, 2**32).map(random.Random), st.booleans())
def test_what_was_joined_comes_apart_into_the_same_frames(
    one: Superframe, other: Superframe, rng: random.Random, udp: bool
) -> None:
    """Nothing is lost, invented, reordered or repaired: also a corrupt frame comes out as it came in."""
    second = replace(
        other, ipv6=one.ipv6, udp=one.udp, ip_options=one.ip_options, tcp_options=one.tcp_options, gso_size=one.gso_size
    )
    frames = disturbed(equally_long(one.segments() + second.segments()[:60]), rng)
    result = join(burst(frames, one.headroom), udp=udp)

    out: list[bytes] = []
    for item in result:
        if isinstance(item, bytes):
            out.append(item)
        else:
            parts = taken_apart(one, item.vnet_header + item.headers + item.payload.tobytes())
            assert len(parts) == item.count >= 2
            assert udp or not one.udp
            out += parts
    assert [without_identification(frame) for frame in out] == [without_identification(frame) for frame in frames]


@MODERATE
@given(FLOWS)
def test_an_undisturbed_flow_is_joined(flow: Superframe) -> None:
    flow = replace(flow, flags=0x10, ip_options=b"", dont_fragment=True, payload=flow.payload[: 40 * flow.gso_size])
    frames = flow.segments()
    result = join(burst(frames, flow.headroom), udp=True)

    if len(frames) > 2 and len(flow.payload) < 65000:
        assert len(result) == 1


@MODERATE
@example(contents=[b""], kind="86dd 60", length=16, udp=True)
@example(contents=[b""], kind="0800 45", length=14, udp=True)
@given(
    contents=st.lists(st.binary(max_size=80), min_size=1, max_size=6),
    kind=st.sampled_from(["0800 45", "0800 4f", "0800 40", "86dd 60", "0806 00", ""]),
    length=st.integers(1, 100),
    udp=st.booleans(),
)
def test_any_frames_can_be_joined(contents: list[bytes], kind: str, length: int, udp: bool) -> None:
    """Bytes of no meaning behind a real EtherType, of any length: never an error."""
    frames = [(bytes(12) + bytes.fromhex(kind) + content)[:length].ljust(length, b"\0") for content in contents]
    out = join(burst(frames, 20), udp=udp)
    if all(isinstance(item, bytes) for item in out):
        assert out == frames
