"""Fragments and "fragmentation needed" (sleeve.md sections 8.4 and 8.5) for any IPv4 frame, checked by reassembly."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.frames.ipv4 import Kind, classify, fragment, fragmentation_needed

MODERATE = settings(deadline=None)
DF, MF = 0x4000, 0x2000


def slow_sum(data: bytes) -> int:
    total = 0
    for (word,) in struct.iter_unpack(">H", data + bytes(len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Frame:
    """An IPv4 packet in an Ethernet frame."""

    tos: int
    identification: int
    dont_fragment: bool
    more: bool
    offset: int
    ttl: int
    protocol: int
    options: bytes
    payload: bytes
    trailer: bytes

    def header(self, length: int, flags_and_offset: int) -> bytes:
        header = struct.pack(
            ">BBHHHBBH4s4s",
            0x45 + len(self.options) // 4,
            self.tos,
            20 + len(self.options) + length,
            self.identification,
            flags_and_offset,
            self.ttl,
            self.protocol,
            0,
            bytes([10, 32, 0, 1]),
            bytes([10, 32, 0, 2]),
        )
        header += self.options
        return header[:10] + struct.pack(">H", slow_sum(header) ^ 0xFFFF) + header[12:]

    @property
    def ethernet(self) -> bytes:
        return bytes.fromhex("02000000c20202000000c1010800")

    @property
    def flags(self) -> int:
        return (DF if self.dont_fragment else 0) | (MF if self.more else 0)

    def encoded(self) -> bytes:
        return self.ethernet + self.header(len(self.payload), self.flags | self.offset) + self.payload + self.trailer


FRAMES = st.builds(
    Frame,
    tos=st.integers(0, 255),
    identification=st.integers(0, 0xFFFF),
    dont_fragment=st.just(False),
    more=st.booleans(),
    offset=st.sampled_from([0, 0, 1, 185, 7000]),
    ttl=st.integers(0, 255),
    protocol=st.integers(0, 255),
    options=st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)),
    payload=st.one_of(
        st.binary(max_size=100),
        st.builds(
            lambda size, seed: (seed * (size // len(seed) + 1))[:size], st.integers(1, 9000), st.binary(min_size=1)
        ),
    ),
    trailer=st.one_of(st.just(b""), st.binary(max_size=46)),
)


@MODERATE
@given(FRAMES, st.integers(552, 1500))
def test_fragments_are_those_of_the_specification_and_reassemble(frame: Frame, mtu: int) -> None:
    encoded = frame.encoded()
    assert classify(encoded) is Kind.IP_NO_DF
    header_bytes = 20 + len(frame.options)
    step = (mtu - header_bytes) // 8 * 8
    expected = []
    for start in range(0, max(len(frame.payload), 1), step):
        part = frame.payload[start : start + step]
        last = start + step >= len(frame.payload)
        flags = frame.flags if last else frame.flags | MF
        cut = frame.ethernet + frame.header(len(part), flags | (frame.offset + start // 8)) + part
        expected.append(cut + bytes(max(0, 60 - len(cut))))
    parts = fragment(encoded, mtu)

    assert parts == expected
    reassembled = bytearray()
    for part in parts:
        assert slow_sum(part[14 : 14 + header_bytes]) == 0xFFFF
        total = int.from_bytes(part[16:18])
        assert total <= mtu
        assert len(part) == max(60, 14 + total)
        assert not any(part[14 + total :])
        place = (int.from_bytes(part[20:22]) & 0x1FFF) - frame.offset
        assert place * 8 == len(reassembled)
        reassembled += part[14 + header_bytes : 14 + total]
    assert reassembled == frame.payload


@MODERATE
@given(FRAMES, st.integers(552, 1500), st.integers(552, 1500))
def test_fragments_may_be_cut_again_on_the_way(frame: Frame, first: int, second: int) -> None:
    """A relay with a smaller path: all pieces together are still the payload, and only the last may end it."""
    pieces = [again for part in fragment(frame.encoded(), first) for again in fragment(part, second)]
    header_bytes = 20 + len(frame.options)
    data = bytearray(len(frame.payload))
    for number, piece in enumerate(pieces):
        flags_and_offset = int.from_bytes(piece[20:22])
        start = ((flags_and_offset & 0x1FFF) - frame.offset) * 8
        total = int.from_bytes(piece[16:18])
        data[start : start + total - header_bytes] = piece[14 + header_bytes : 14 + total]
        assert bool(flags_and_offset & MF) == (frame.more or number < len(pieces) - 1)
    assert data == frame.payload


@MODERATE
@given(FRAMES.map(lambda frame: Frame(**(vars(frame) | {"dont_fragment": True}))), st.integers(552, 0xFFFF))
def test_refusal_is_that_of_the_specification(frame: Frame, mtu: int) -> None:
    encoded = frame.encoded()
    assert classify(encoded) is Kind.IP_DF
    if len(frame.payload) + len(frame.options) + 20 <= mtu:
        return
    quoted = encoded[14 : 14 + 20 + len(frame.options) + 8]
    icmp = struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + quoted
    icmp = icmp[:2] + struct.pack(">H", slow_sum(icmp) ^ 0xFFFF) + icmp[4:]
    ip = struct.pack(
        ">BBHHHBBH4s4s",
        0x45,
        frame.tos,
        20 + len(icmp),
        0,
        0,
        64,
        1,
        0,
        bytes([10, 32, 0, 2]),
        bytes([10, 32, 0, 1]),
    )
    ip = ip[:10] + struct.pack(">H", slow_sum(ip) ^ 0xFFFF) + ip[12:]

    assert fragmentation_needed(encoded, mtu) == bytes.fromhex("02000000c10102000000c2020800") + ip + icmp


@MODERATE
@given(FRAMES, st.booleans(), st.integers(0, 120), st.integers(0, 15), st.integers(0, 15), st.integers(0, 0xFFFF))
def test_kind_of_a_frame(frame: Frame, dont_fragment: bool, length: int, version: int, words: int, total: int) -> None:
    """sleeve.md section 6: IPv4 with or without DF; anything else, and a broken header, is "not IP"."""
    encoded = Frame(**(vars(frame) | {"dont_fragment": dont_fragment})).encoded()
    expected = Kind.IP_DF if dont_fragment else Kind.IP_NO_DF
    header_bytes = 20 + len(frame.options)

    assert classify(encoded) is expected
    assert classify(encoded[:12] + b"\x81\x00\x00\x05" + encoded[12:]) is Kind.NOT_IP
    assert classify(encoded[:12] + b"\x86\xdd" + encoded[14:]) is Kind.NOT_IP
    assert classify(encoded[: min(length, 14 + header_bytes - 1)]) is Kind.NOT_IP
    other = bytes([version << 4 | words])
    if version != 4 or words < 5:
        assert classify(encoded[:14] + other + encoded[15:]) is Kind.NOT_IP
    if total < header_bytes:
        assert classify(encoded[:16] + total.to_bytes(2) + encoded[18:]) is Kind.NOT_IP
