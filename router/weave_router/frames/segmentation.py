"""Cutting superframes: what a container's kernel left to the network card (virtio-net header, Linux tun driver).

A superframe is one Ethernet frame of up to 64 KiB with the instruction to send it as many packets of `gso_size` bytes
of payload. All segments are made at once as rows of one array: the header template is copied to all rows, and the
fields that differ (lengths, IP identification, sequence numbers, flags, checksums) are columns.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80
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


def cut(packet: bytes, headroom: int) -> Segments:
    """Cut a superframe, `packet` being virtio header and frame, leaving `headroom` bytes before each segment.

    Raises `SegmentationError`.
    """
    _, gso_type, _, size, l4, _ = VNET_HEADER.unpack_from(packet)
    kind = gso_type & ~GSO_ECN
    frame = memoryview(packet)[VNET_BYTES:]
    l3 = _network_offset(frame)
    ipv4 = bytes(frame[l3 - 2 : l3]) == ETHERTYPE_IPV4
    protocol = _UDP if kind == GSO_UDP_L4 else _TCP
    if kind not in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4) or (kind == GSO_TCPV4) > ipv4 or (kind == GSO_TCPV6 and ipv4):
        raise SegmentationError(f"segmentation type {gso_type} does not fit the frame")
    fixed_l3, fixed_l4 = (20 if ipv4 else 40), (8 if protocol == _UDP else 20)
    if size == 0 or l4 < l3 + fixed_l3 or l4 + fixed_l4 > len(frame):
        raise SegmentationError("headers of a superframe do not fit")
    header_bytes = l4 + (8 if protocol == _UDP else (frame[l4 + 12] >> 4) * 4)
    if header_bytes < l4 + fixed_l4 or header_bytes >= len(frame):
        raise SegmentationError("superframe without payload")
    payload = np.frombuffer(frame, np.uint8, offset=header_bytes)
    count = -(-len(payload) // size)
    rest = len(payload) - (count - 1) * size  # payload of the last segment, 1..size
    stride = headroom + header_bytes + size
    rows = np.empty((count, stride), np.uint8)
    head = rows[:, headroom : headroom + header_bytes]
    head[:] = np.frombuffer(frame, np.uint8, header_bytes)
    body = rows[:, headroom + header_bytes :]
    body[:-1] = payload[: (count - 1) * size].reshape(count - 1, size)
    body[-1, :rest] = payload[(count - 1) * size :]
    body[-1, rest:] = 0

    payload_bytes = np.full(count, size, np.uint32)
    payload_bytes[-1] = rest
    index = np.arange(count, dtype=np.uint32)
    if ipv4:
        _fill_ipv4(head, l3, l4, header_bytes, payload_bytes, index, frame)
    else:
        _put16(head, l3 + 4, payload_bytes + (header_bytes - l3 - 40))
    if protocol == _TCP:
        _fill_tcp(head, l4, size, index, frame)
        field = l4 + 16
    else:
        _put16(head, l4 + 4, payload_bytes + 8)
        field = l4 + 6
    addresses = frame[l3 + 12 : l3 + 20] if ipv4 else frame[l3 + 8 : l3 + 40]
    pseudo = ones_complement_sum(addresses) + protocol + payload_bytes + (header_bytes - l4)
    head[:, field : field + 2] = 0
    sums = row_sums(head[:, l4:]) + row_sums(body) + pseudo
    sums = fold_sums(sums) ^ 0xFFFF
    if protocol == _UDP:
        sums[sums == 0] = 0xFFFF
    _put16(head, field, sums)
    return Segments(rows.reshape(-1), headroom, stride, count, header_bytes + rest)


def _network_offset(frame: memoryview) -> int:
    offset = 14
    while frame[offset - 2 : offset] in VLAN_TYPES and offset < 22:
        offset += 4
    if len(frame) < offset + 20 or frame[offset - 2 : offset] not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        raise SegmentationError("superframe that is not IP")
    return offset


def _fill_ipv4(
    head: NDArray[np.uint8],
    l3: int,
    l4: int,
    header_bytes: int,
    payload_bytes: NDArray[np.uint32],
    index: NDArray[np.uint32],
    frame: memoryview,
) -> None:
    first = frame[l3 + 4] << 8 | frame[l3 + 5]
    lengths = payload_bytes + (header_bytes - l3)
    identifications = (index + first) & 0xFFFF
    rest = bytearray(frame[l3:l4])
    rest[2:6] = bytes(4)  # length and identification are added below, per segment
    rest[10:12] = bytes(2)
    sums = lengths + identifications + ones_complement_sum(rest)
    _put16(head, l3 + 2, lengths)
    _put16(head, l3 + 4, identifications)
    _put16(head, l3 + 10, fold_sums(sums) ^ 0xFFFF)


def _fill_tcp(head: NDArray[np.uint8], l4: int, size: int, index: NDArray[np.uint32], frame: memoryview) -> None:
    first = int.from_bytes(frame[l4 + 4 : l4 + 8])
    sequence = (index.astype(np.uint64) * size + first).astype(np.uint32)
    head[:, l4 + 4 : l4 + 8] = sequence.astype(">u4").view(np.uint8).reshape(-1, 4)
    head[:-1, l4 + 13] &= ~np.uint8(_FIN | _PSH)  # only the last segment ends or pushes
    head[1:, l4 + 13] &= ~np.uint8(_CWR)  # only the first tells that the window was reduced (RFC 3168 6.1.2)


def row_sums(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Sum of each row as big-endian 16-bit words; rows begin at an even offset of what is summed."""
    width = rows.shape[1]
    even = np.ascontiguousarray(rows[:, : width & ~1]).view(">u2")
    sums: NDArray[np.uint64] = even.sum(axis=1, dtype=np.uint64)
    if width & 1:
        sums += rows[:, -1].astype(np.uint64) << np.uint64(8)
    return sums


def fold_sums(sums: NDArray[np.unsignedinteger]) -> NDArray[np.uint32]:
    """Sums of 16-bit words, folded to 16 bits."""
    sums = (sums >> 16) + (sums & 0xFFFF)
    sums = (sums >> 16) + (sums & 0xFFFF)
    return ((sums >> 16) + (sums & 0xFFFF)).astype(np.uint32)


def _put16(head: NDArray[np.uint8], offset: int, values: NDArray[np.integer[Any]]) -> None:
    head[:, offset : offset + 2] = values.astype(">u2").view(np.uint8).reshape(-1, 2)
