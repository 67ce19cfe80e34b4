"""Cutting superframes: what a container's kernel left to the network card (virtio-net header, Linux tun driver).

A superframe is one Ethernet frame of up to 64 KiB with the instruction to send it as many packets of `gso_size` bytes
of payload. All segments are made at once as rows of one array.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from weave_router.errors import ProtocolError
from weave_router.frames.checksum import checksum
from weave_router.frames.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, VLAN_TYPES
from weave_router.frames.segment_headers import CWR, ENDS, MARKS, TCP, UDP, Layout, row_sums, segment_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VNET_HEADER = struct.Struct("<BBHHHH")
"""virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
VNET_BYTES = VNET_HEADER.size
PLAIN_VNET_HEADER = bytes(VNET_BYTES)
"""Header of an ordinary frame with complete checksums."""
NEEDS_CHECKSUM = 1
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 4, 5, 0x80
MAX_SEGMENTS = 2048
"""Linux cuts no TCP segment smaller than 48 bytes (tcp_min_snd_mss), and UDP into 128 at the most."""
MAX_IPV6_HEADERS = 256
"""IPv6 header with extensions, in bytes."""
MAX_LENGTH = 65535
"""Of an IPv4 packet, and of what follows an IPv6 header."""


class SegmentationError(ProtocolError):
    """The superframe contradicts its virtio header."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Frames of equal length but the last, in one buffer with room for headers before each."""

    buffer: NDArray[np.uint8]
    """Shape (count * stride,); only the first `total` bytes are meant."""
    headroom: int
    stride: int
    """Bytes from one frame's headroom to the next one's."""
    count: int
    last: int
    """Length of the last frame, without headroom."""

    @property
    def frame_bytes(self) -> int:
        """Length of all frames but the last, without headroom."""
        return self.stride - self.headroom

    @property
    def total(self) -> int:
        """Bytes of the buffer that are used."""
        return (self.count - 1) * self.stride + self.headroom + self.last

    def first(self, length: int) -> bytes:
        """The first bytes of the first frame."""
        return self.buffer[self.headroom : self.headroom + length].tobytes()

    def frames(self) -> list[bytes]:
        """The frames one by one; for the unusual cases."""
        data = self.buffer[: self.total].tobytes()
        return [data[start + self.headroom : start + self.stride] for start in range(0, self.total, self.stride)]


def complete_checksum(frame: bytes, start: int, offset: int) -> bytes:
    """Fill in the checksum that the sender left out: over all from `start`, stored at `start + offset`.

    Raises `SegmentationError` when these lie outside the frame.
    """
    if start + offset + 2 > len(frame):
        raise SegmentationError("checksum field beyond the frame")
    value = checksum(frame[start:]) or 0xFFFF  # 0 would mean "none" in UDP
    return b"".join((frame[: start + offset], value.to_bytes(2), frame[start + offset + 2 :]))


class Uncut(NamedTuple):
    """A superframe as it was captured."""

    layout: Layout
    header: bytes
    """All headers, without the virtio-net header."""
    payload: NDArray[np.uint8]
    size: int
    """Bytes of payload of each segment but the last."""

    @property
    def segments(self) -> int:
        """How many segments it has."""
        return -(-len(self.payload) // self.size)

    @property
    def flags(self) -> int:
        """TCP flags of which not all segments get a copy."""
        return self.header[self.layout.l4 + 13] & MARKS if self.layout.protocol == TCP else 0


def read_superframe(packet: bytes | memoryview) -> Uncut:
    """A superframe from its virtio-net header on; the payload is not copied. Raises `SegmentationError`."""
    if len(packet) < VNET_BYTES:
        raise SegmentationError("no room for the virtio header")
    _, gso_type, _, size, l4, _ = VNET_HEADER.unpack_from(packet)
    kind = gso_type & ~GSO_ECN
    frame = memoryview(packet)[VNET_BYTES:]
    l3 = _network_offset(frame)
    ipv4 = bytes(frame[l3 - 2 : l3]) == ETHERTYPE_IPV4
    protocol = UDP if kind == GSO_UDP_L4 else TCP
    if kind not in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4) or (kind == GSO_TCPV4) > ipv4 or (kind == GSO_TCPV6 and ipv4):
        raise SegmentationError(f"segmentation type {gso_type} does not fit the frame")
    fixed_l4 = 8 if protocol == UDP else 20
    l3_bytes = l4 - l3
    fits = l3_bytes == (frame[l3] & 15) * 4 >= 20 if ipv4 else 40 <= l3_bytes <= MAX_IPV6_HEADERS
    if size == 0 or not fits or l4 + fixed_l4 > len(frame):
        raise SegmentationError("headers of a superframe do not fit")
    if (ipv4 and frame[l3 + 9] != protocol) or (l3_bytes == 40 and frame[l3 + 6] != protocol and not ipv4):
        raise SegmentationError("superframe of another protocol than it says")
    end = l4 + (8 if protocol == UDP else (frame[l4 + 12] >> 4) * 4)
    if end < l4 + fixed_l4 or end >= len(frame):
        raise SegmentationError("superframe without payload")
    payload = np.frombuffer(frame, np.uint8, offset=end)
    size = min(size, len(payload))
    count = -(-len(payload) // size)
    if count > MAX_SEGMENTS or end - l3 - (0 if ipv4 else 40) + size > MAX_LENGTH:
        raise SegmentationError(f"superframe of {count} segments of {size} bytes")
    return Uncut(Layout(l3, l4, end, protocol, ipv4), bytes(frame[:end]), payload, size)


def follows(first: Uncut, second: Uncut) -> bool:
    """Whether the second superframe goes on where the first ends, with nothing else new in its headers."""
    layout, header, payload, size = first
    if second.layout != layout or second.size != size or len(payload) % size:
        return False
    expected = bytearray(header)
    l3, l4 = layout.l3, layout.l4
    replaced = [slice(layout.checksum, layout.checksum + 2)]
    if layout.ipv4:
        identification = (int.from_bytes(header[l3 + 4 : l3 + 6]) + first.segments) & 0xFFFF
        expected[l3 + 4 : l3 + 6] = identification.to_bytes(2)
        replaced += [slice(l3 + 2, l3 + 4), slice(l3 + 10, l3 + 12)]
    else:
        replaced += [slice(l3 + 4, l3 + 6)]
    if layout.protocol == TCP:
        sequence = (int.from_bytes(header[l4 + 4 : l4 + 8]) + len(payload)) & 0xFFFFFFFF
        expected[l4 + 4 : l4 + 8] = sequence.to_bytes(4)
        expected[l4 + 13] = header[l4 + 13] & ~MARKS | second.flags
    else:
        replaced += [slice(l4 + 4, l4 + 6)]
    for place in replaced:
        expected[place] = second.header[place]
    return expected == second.header


def cut(superframes: Sequence[Uncut], headroom: int) -> Segments:
    """The segments of superframes that follow each other, with `headroom` bytes left before each."""
    layout, header, _, size = superframes[0]
    end, count = layout.end, sum(superframe.segments for superframe in superframes)
    stride = headroom + end + size
    rows = np.empty((count, stride), np.uint8)
    body = rows[:, headroom + end :]
    marks: list[tuple[int, int]] = []
    start = 0
    for superframe in superframes:
        payload, flags = superframe.payload, superframe.flags
        stop = start + superframe.segments
        full = (stop - 1 - start) * size
        body[start : stop - 1] = payload[:full].reshape(-1, size)
        last = len(payload) - full  # payload of the last segment, 1..size
        body[stop - 1, :last] = payload[full:]
        if flags:
            marks += [(start, flags & CWR), (stop - 1, flags & ENDS)]
        start = stop
    body[-1, last:] = 0
    heads = segment_headers(header, layout, row_sums(body), size, last, marks=marks)
    rows[:, headroom : headroom + end] = heads
    return Segments(rows.reshape(-1), headroom, stride, count, end + last)


def _network_offset(frame: memoryview) -> int:
    offset = 14
    while frame[offset - 2 : offset] in VLAN_TYPES and offset < 22:
        offset += 4
    if len(frame) < offset + 20 or frame[offset - 2 : offset] not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise SegmentationError("superframe that is not IP")
    return offset
