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
from weave_router.frames.checksum import checksum, ones_complement_sum
from weave_router.frames.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, VLAN_TYPES
from weave_router.frames.segment_headers import CWR, ENDS, MARKS, TCP, UDP, Layout, counting, row_sums, segment_headers

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
SMALLEST_SEGMENT = 512
"""Bytes of a packet with a single segment that is worth a look whether it belongs to superframes."""
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
    shared: bytes
    """The headers with zeros where those of one flow's packets differ although they can be cut as one."""

    @property
    def segments(self) -> int:
        """How many segments it has."""
        return -(-len(self.payload) // self.size)

    @property
    def identification(self) -> int:
        """Of the first segment (IPv4)."""
        return int.from_bytes(self.header[self.layout.l3 + 4 : self.layout.l3 + 6])

    @property
    def sequence(self) -> int:
        """Of the first segment (TCP)."""
        return int.from_bytes(self.header[self.layout.l4 + 4 : self.layout.l4 + 8])

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
    return _uncut(Layout(l3, l4, end, protocol, ipv4), bytes(frame[:end]), payload, size)


def read_segment(packet: memoryview) -> Uncut | None:
    """A single TCP segment from its virtio-net header on, if cutting it gives the frame with the checksum filled in.

    Such segments stand among a flow's superframes where the flow repeats what got lost. None for every other packet,
    and for small ones, which are no match for a superframe's.
    """
    if len(packet) < SMALLEST_SEGMENT or packet[0] != NEEDS_CHECKSUM or packet[1]:
        return None
    _, _, _, _, l4, checksum_offset = VNET_HEADER.unpack_from(packet)
    frame = packet[VNET_BYTES:]
    try:
        l3 = _network_offset(frame)
    except SegmentationError:
        return None
    ipv4 = bytes(frame[l3 - 2 : l3]) == ETHERTYPE_IPV4
    length = len(frame) - l3
    if checksum_offset != 16 or l4 + 20 > len(frame):
        return None
    if ipv4:
        fits = (
            l4 - l3 == (frame[l3] & 15) * 4 >= 20
            and frame[l3 + 9] == TCP
            and int.from_bytes(frame[l3 + 2 : l3 + 4]) == length
            and ones_complement_sum(frame[l3:l4]) == 0xFFFF
        )
    else:
        fits = l4 - l3 == 40 and frame[l3 + 6] == TCP and int.from_bytes(frame[l3 + 4 : l3 + 6]) == length - 40
    end = l4 + (frame[l4 + 12] >> 4) * 4
    if not fits or not l4 + 20 <= end < len(frame):
        return None
    payload = np.frombuffer(frame, np.uint8, offset=end)
    return _uncut(Layout(l3, l4, end, TCP, ipv4), bytes(frame[:end]), payload, len(payload))


def _uncut(layout: Layout, header: bytes, payload: NDArray[np.uint8], size: int) -> Uncut:
    shared = bytearray(header)
    l3, l4 = layout.l3, layout.l4
    shared[layout.checksum : layout.checksum + 2] = b"\0\0"
    if layout.ipv4:
        shared[l3 + 2 : l3 + 6] = b"\0\0\0\0"  # total length, identification
        shared[l3 + 10 : l3 + 12] = b"\0\0"
    else:
        shared[l3 + 4 : l3 + 6] = b"\0\0"
    if layout.protocol == TCP:
        shared[l4 + 4 : l4 + 8] = b"\0\0\0\0"
        shared[l4 + 13] &= ~MARKS
    else:
        shared[l4 + 4 : l4 + 6] = b"\0\0"
    return Uncut(layout, header, payload, size, bytes(shared))


def belongs_to(uncut: Uncut, before: Sequence[Uncut]) -> bool:
    """Whether a packet can be cut as one with those before it, of which there is at least one.

    They are packets of one flow with nothing new in their headers. One need not begin where the other ends: between
    them may be what got lost, or the other way round.
    """
    first = before[0]
    return (
        uncut.shared == first.shared
        and uncut.layout == first.layout
        and (uncut.size == first.size or (uncut.size < first.size and uncut.segments == 1))
        and len(before[-1].payload) % first.size == 0
    )


def cut(superframes: Sequence[Uncut], headroom: int) -> Segments:
    """The segments of superframes that belong together, with `headroom` bytes left before each."""
    layout, header, _, size, _ = superframes[0]
    end, count = layout.end, sum(superframe.segments for superframe in superframes)
    stride = headroom + end + size
    rows = np.empty((count, stride), np.uint8)
    body = rows[:, headroom + end :]
    several = len(superframes) > 1
    identifications = np.empty(count, np.int64) if several and layout.ipv4 else None
    sequence = np.empty(count, np.uint32) if several and layout.protocol == TCP else None
    marks: list[tuple[int, int]] = []
    start = 0
    for superframe in superframes:
        payload, flags = superframe.payload, superframe.flags
        segments = superframe.segments
        stop = start + segments
        full = (segments - 1) * size
        if full:
            body[start : stop - 1] = payload[:full].reshape(-1, size)
        last = len(payload) - full  # payload of the last segment, 1..size
        body[stop - 1, :last] = payload[full:]
        if identifications is not None:
            identifications[start:stop] = counting(superframe.identification, segments, 1) & 0xFFFF
        if sequence is not None:
            sequence[start:stop] = counting(superframe.sequence, segments, size) & 0xFFFFFFFF
        if flags:
            marks += [(start, flags & CWR), (stop - 1, flags & ENDS)]
        start = stop
    body[-1, last:] = 0
    sums = row_sums(body)
    heads = segment_headers(
        header, layout, sums, size, last, marks=marks, identifications=identifications, sequence=sequence
    )
    rows[:, headroom : headroom + end] = heads
    return Segments(rows.reshape(-1), headroom, stride, count, end + last)


def _network_offset(frame: memoryview) -> int:
    offset = 14
    while frame[offset - 2 : offset] in VLAN_TYPES and offset < 22:
        offset += 4
    if len(frame) < offset + 20 or frame[offset - 2 : offset] not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise SegmentationError("superframe that is not IP")
    return offset
