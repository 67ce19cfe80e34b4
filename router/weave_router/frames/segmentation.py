"""Cutting superframes: what a container's kernel left to the network card (virtio-net header, Linux tun driver).

A superframe is one Ethernet frame of up to 64 KiB with the instruction to send it as many packets of `gso_size` bytes
of payload. All segments are made at once as rows of one array: the header template is copied to all rows, and the
fields that differ (lengths, IP identification, sequence numbers, flags, checksums) are columns.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weave_router.errors import ProtocolError
from weave_router.frames.checksum import checksum, ones_complement_sum
from weave_router.frames.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6, VLAN_TYPES

if TYPE_CHECKING:
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
_TCP, _UDP = 6, 17
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80


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


def cut(packet: bytes | memoryview, headroom: int) -> Segments:
    """Cut a superframe, `packet` being virtio header and frame, leaving `headroom` bytes before each segment.

    Raises `SegmentationError`.
    """
    if len(packet) < VNET_BYTES:
        raise SegmentationError("no room for the virtio header")
    _, gso_type, _, size, l4, _ = VNET_HEADER.unpack_from(packet)
    kind = gso_type & ~GSO_ECN
    frame = memoryview(packet)[VNET_BYTES:]
    l3 = _network_offset(frame)
    ipv4 = bytes(frame[l3 - 2 : l3]) == ETHERTYPE_IPV4
    protocol = _UDP if kind == GSO_UDP_L4 else _TCP
    if kind not in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4) or (kind == GSO_TCPV4) > ipv4 or (kind == GSO_TCPV6 and ipv4):
        raise SegmentationError(f"segmentation type {gso_type} does not fit the frame")
    fixed_l4 = 8 if protocol == _UDP else 20
    l3_bytes = l4 - l3
    fits = l3_bytes == (frame[l3] & 15) * 4 >= 20 if ipv4 else 40 <= l3_bytes <= MAX_IPV6_HEADERS
    if size == 0 or not fits or l4 + fixed_l4 > len(frame):
        raise SegmentationError("headers of a superframe do not fit")
    if (ipv4 and frame[l3 + 9] != protocol) or (l3_bytes == 40 and frame[l3 + 6] != protocol and not ipv4):
        raise SegmentationError("superframe of another protocol than it says")
    header_bytes = l4 + (8 if protocol == _UDP else (frame[l4 + 12] >> 4) * 4)
    if header_bytes < l4 + fixed_l4 or header_bytes >= len(frame):
        raise SegmentationError("superframe without payload")
    payload = np.frombuffer(frame, np.uint8, offset=header_bytes)
    size = min(size, len(payload))
    count = -(-len(payload) // size)
    if count > MAX_SEGMENTS:
        raise SegmentationError(f"superframe of {count} segments")
    rest = len(payload) - (count - 1) * size  # payload of the last segment, 1..size
    stride = headroom + header_bytes + size
    rows = np.empty((count, stride), np.uint8)
    head = rows[:, headroom : headroom + header_bytes]
    head[:] = np.frombuffer(frame, np.uint8, header_bytes)
    body = rows[:, headroom + header_bytes :]
    body[:-1] = payload[: (count - 1) * size].reshape(count - 1, size)
    body[-1, :rest] = payload[(count - 1) * size :]
    body[-1, rest:] = 0

    if ipv4:
        _fill_ipv4(head, l3, l4, header_bytes, size, rest, frame)
    else:
        _put16(head, l3 + 4, header_bytes - l3 - 40 + size, header_bytes - l3 - 40 + rest)
    if protocol == _TCP:
        _fill_tcp(head, l4, size, frame)
        field = l4 + 16
    else:
        _put16(head, l4 + 4, 8 + size, 8 + rest)
        field = l4 + 6
    addresses = frame[l3 + 12 : l3 + 20] if ipv4 else frame[l3 + 8 : l3 + 40]
    pseudo = ones_complement_sum(addresses) + protocol + header_bytes - l4
    head[:, field : field + 2] = 0
    sums = row_sums(rows[:, headroom + l4 :])
    sums += swap16(_fold(pseudo + size))
    sums[-1] += swap16(_fold(pseudo + rest)) - swap16(_fold(pseudo + size))
    values = -sums % 0xFFFF
    if protocol == _UDP:
        values[values == 0] = 0xFFFF
    head[:, field : field + 2] = values.astype("<u2").view(np.uint8).reshape(-1, 2)
    return Segments(rows.reshape(-1), headroom, stride, count, header_bytes + rest)


def _network_offset(frame: memoryview) -> int:
    offset = 14
    while frame[offset - 2 : offset] in VLAN_TYPES and offset < 22:
        offset += 4
    if len(frame) < offset + 20 or frame[offset - 2 : offset] not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise SegmentationError("superframe that is not IP")
    return offset


def _fill_ipv4(
    head: NDArray[np.uint8], l3: int, l4: int, header_bytes: int, size: int, rest: int, frame: memoryview
) -> None:
    first = frame[l3 + 4] << 8 | frame[l3 + 5]
    identifications = np.arange(first, first + len(head)) & 0xFFFF
    others = bytearray(frame[l3:l4])
    others[2:6] = bytes(4)  # length and identification are added per segment
    others[10:12] = bytes(2)
    base = ones_complement_sum(others) + header_bytes - l3
    sums = identifications + (base + size)
    sums[-1] += rest - size
    _put16(head, l3 + 2, header_bytes - l3 + size, header_bytes - l3 + rest)
    head[:, l3 + 4 : l3 + 6] = identifications.astype(">u2").view(np.uint8).reshape(-1, 2)
    head[:, l3 + 10 : l3 + 12] = (-sums % 0xFFFF).astype(">u2").view(np.uint8).reshape(-1, 2)


def _fill_tcp(head: NDArray[np.uint8], l4: int, size: int, frame: memoryview) -> None:
    first = int.from_bytes(frame[l4 + 4 : l4 + 8])
    sequence = np.arange(first, first + len(head) * size, size) & 0xFFFFFFFF
    head[:, l4 + 4 : l4 + 8] = sequence.astype(">u4").view(np.uint8).reshape(-1, 4)
    flags = frame[l4 + 13]
    if flags & (_FIN | _PSH):
        head[:-1, l4 + 13] &= ~np.uint8(_FIN | _PSH)  # only the last segment ends or pushes
    if flags & _CWR:
        head[1:, l4 + 13] &= ~np.uint8(_CWR)  # only the first tells that the window was reduced (RFC 3168 6.1.2)


def row_sums(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum of each row as little-endian 16-bit words, not folded; a row begins at an even offset of what is summed.

    Modulo 65535 it is the sum of big-endian words with its two bytes swapped, and 32-bit words give the same as 16-bit
    ones (RFC 1071 section 2). So nothing is swapped, and it is four times as fast.
    """
    width = rows.shape[1]
    whole = width & ~3
    sums: NDArray[np.int64] = rows[:, :whole].view("<u4").sum(axis=1, dtype=np.int64)
    for column in range(whole, width):
        sums += rows[:, column].astype(np.int64) << (8 * (column & 1))
    return sums


def swap16(value: int) -> int:
    """A 16-bit number with its bytes swapped, as `row_sums` counts it."""
    return (value & 0xFF) << 8 | value >> 8


def _put16(head: NDArray[np.uint8], offset: int, value: int, last: int) -> None:
    """Write a field that is the same in all rows but the last."""
    head[:, offset] = value >> 8
    head[:, offset + 1] = value & 0xFF
    head[-1, offset] = last >> 8
    head[-1, offset + 1] = last & 0xFF


def _fold(value: int) -> int:
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value
