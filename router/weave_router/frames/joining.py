"""Joining frames of one flow into superframes again, the inverse of `segmentation` (as the kernel's GRO does).

Only what a kernel's GRO would join is joined: consecutive segments of one flow, equal in all header fields but length
and PSH and FIN of the last, identification, sequence number and checksums. Each frame's checksums are verified before,
since a superframe says "checksum still to be computed": a corrupt frame must not come out right.

The rows of a burst are compared all at once. Only where that finds a difference is the row sought at which a run ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from weave_router.frames.checksum import checksum, ones_complement_sum
from weave_router.frames.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from weave_router.frames.segmentation import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CHECKSUM,
    VNET_HEADER,
    row_sums,
    swap16,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from weave_router.frames.segmentation import Segments

MAX_PACKET = 65535
MAX_UDP_SEGMENTS = 64
"""What a receiving kernel takes apart again (UDP_MAX_SEGMENTS before 6.9)."""
WORTHWHILE = 3
"""Runs shorter than this, twice in one burst, mean mixed traffic, which is quicker passed on frame by frame."""
_TCP, _UDP = 6, 17
_FIN, _SYN, _RST, _PSH, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80
_ENDS = _FIN | _PSH
_NEVER = _SYN | _RST | _URG | _CWR
_L3 = 14


@dataclass(frozen=True, slots=True)
class Superframe:
    """Frames joined: what is written to the TAP, part by part."""

    vnet_header: bytes
    headers: bytes
    payload: NDArray[np.uint8]
    count: int
    """How many frames it stands for."""

    def packet(self) -> bytes:
        """Everything in one piece, as it would be read from a TAP."""
        return b"".join((self.vnet_header, self.headers, self.payload.tobytes()))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a flow's headers lie in its frames, taken from the first frame of a run."""

    l4: int
    end: int
    protocol: int
    ipv4: bool

    @property
    def length_fields(self) -> tuple[int, ...]:
        """Offsets of the 16-bit fields that grow with the payload."""
        fields = (_L3 + 2,) if self.ipv4 else (_L3 + 4,)
        return (*fields, self.l4 + 4) if self.protocol == _UDP else fields


def join(segments: Segments, *, udp: bool) -> list[Superframe | bytes]:
    """The same frames in the same order, runs of one flow joined. `udp`: whether UDP may be joined, too.

    The buffer behind the last, perhaps shorter, frame is overwritten with zeros.
    """
    result: list[Superframe | bytes] = []
    segments.buffer[segments.total :] = 0
    rows = segments.buffer.reshape(segments.count, segments.stride)[:, segments.headroom :]
    count, length, last = segments.count, segments.frame_bytes, segments.last
    start = disappointments = 0
    while start < count - 1 and disappointments < 2 and length > 0:
        layout = _layout(rows[start], udp=udp)
        run = _run(rows[start:], layout, last) if layout else 1
        if layout is None or run == 1:
            result.append(rows[start].tobytes())
        else:
            stop = start + run
            result.append(_joined(rows[start:stop], layout, last if stop == count else length))
        disappointments += run < WORTHWHILE
        start += run
    while start < count:
        result.append(rows[start, : last if start == count - 1 else length].tobytes())
        start += 1
    return result


def _layout(frame: NDArray[np.uint8], *, udp: bool) -> _Layout | None:
    """The layout of a frame that may begin a superframe; its own fields are checked, but no checksum."""
    length = len(frame)
    if length < 34:
        return None
    head = frame[:140].tobytes()
    ethertype = head[12:14]
    if ethertype == ETHERTYPE_IPV4:
        l4 = _L3 + (head[14] & 15) * 4
        if head[14] >> 4 != 4 or l4 < 34 or length < l4 + 8 or (head[20] << 8 | head[21]) & 0x3FFF:
            return None  # not IPv4, or a fragment
        if head[16] << 8 | head[17] != length - _L3:
            return None
        protocol = head[23]
    elif ethertype == ETHERTYPE_IPV6:
        l4, protocol = 54, head[20]
        if length < l4 + 8 or head[18] << 8 | head[19] != length - l4:
            return None
    else:
        return None
    if protocol == _TCP and length >= l4 + 20:
        end = l4 + (head[l4 + 12] >> 4) * 4
        if end < l4 + 20 or head[l4 + 13] & (_NEVER | _ENDS):
            return None
    elif protocol == _UDP and udp:
        end = l4 + 8
        if head[l4 + 4] << 8 | head[l4 + 5] != length - l4 or head[l4 + 6 : l4 + 8] == b"\0\0":
            return None
    else:
        return None
    return _Layout(l4, end, protocol, ethertype == ETHERTYPE_IPV4) if end < length else None


@lru_cache(maxsize=64)
def _mask(layout: _Layout) -> NDArray[np.uint8]:
    """Ones where the headers of a run must be equal; what may differ is checked in other ways."""
    mask = np.full(layout.end, 0xFF, np.uint8)
    if layout.ipv4:
        mask[_L3 + 4 : _L3 + 6] = 0
        mask[_L3 + 10 : _L3 + 12] = 0
    if layout.protocol == _TCP:
        mask[layout.l4 + 4 : layout.l4 + 8] = 0
        mask[layout.l4 + 13] = 0xFF & ~_ENDS
        mask[layout.l4 + 16 : layout.l4 + 18] = 0
    else:
        mask[layout.l4 + 6 : layout.l4 + 8] = 0
    return mask


def _run(rows: NDArray[np.uint8], layout: _Layout, last: int) -> int:
    """How many rows from the first on belong together, at least 1.

    `last`: length of the frame in the last row, behind which there are zeros.
    """
    length = rows.shape[1]
    payload_bytes = length - layout.end
    most = (MAX_PACKET - (layout.end - _L3)) // payload_bytes
    if layout.protocol == _UDP:
        most = min(most, MAX_UDP_SEGMENTS)
    if len(rows) > most:
        rows, last = rows[:most], length
    elif last <= layout.end:
        rows, last = rows[:-1], length
    count = len(rows)
    heads = rows[:, : layout.end]
    difference = heads ^ heads[0]
    difference &= _mask(layout)
    if last != length:
        for field in layout.length_fields:
            # The last length must be what the frame has; then it does not count as a difference.
            usual = int(heads[0, field]) << 8 | int(heads[0, field + 1])
            expected = usual ^ (usual - (length - last))
            difference[-1, field] ^= expected >> 8
            difference[-1, field + 1] ^= expected & 0xFF
    sums = row_sums(rows[:, layout.l4 :])
    sums += row_sums(heads[:, _L3 + 12 : _L3 + 20] if layout.ipv4 else heads[:, _L3 + 8 : _L3 + 40])
    sums += swap16(length - layout.l4) + (layout.protocol << 8)
    sums[-1] += swap16(last - layout.l4) - swap16(length - layout.l4)
    wrong = sums % 0xFFFF  # a right checksum makes the sum a multiple, in either order of bytes
    steps_wrong = np.zeros(count - 1, np.bool_)  # between a row and the next one
    if layout.ipv4:
        wrong |= row_sums(heads[:, _L3 : layout.l4]) % 0xFFFF
        identifications = heads[:, _L3 + 4 : _L3 + 6].view(">u2")[:, 0]
        steps = identifications[1:] - identifications[:-1]
        # With DF a constant identification is usual, too (RFC 6864).
        step = 0 if heads[0, _L3 + 6] & 0x40 and count > 1 and steps[0] == 0 else 1
        steps_wrong |= steps != step
    if layout.protocol == _TCP:
        sequence = heads[:, layout.l4 + 4 : layout.l4 + 8].view(">u4")[:, 0]
        steps_wrong |= sequence[1:] - sequence[:-1] != payload_bytes
        steps_wrong |= (heads[:-1, layout.l4 + 13] & _ENDS) != 0  # nothing joins behind a row that pushes or ends
    if not (difference.any() or wrong.any() or steps_wrong.any()):
        return count
    bad = (wrong != 0) | difference.any(axis=1)
    bad[1:] |= steps_wrong
    return max(int(bad.argmax()), 1)


def _joined(rows: NDArray[np.uint8], layout: _Layout, last: int) -> Superframe:
    """The superframe of rows that belong together; `last`: length of the last frame."""
    end, l4 = layout.end, layout.l4
    size = rows.shape[1] - end
    payload = np.ascontiguousarray(rows[:, end:]).reshape(-1)[: size * (len(rows) - 1) + last - end]
    headers = bytearray(rows[0, :end].tobytes())
    total = end - l4 + len(payload)
    if layout.ipv4:
        headers[_L3 + 2 : _L3 + 4] = (l4 - _L3 + total).to_bytes(2)
        headers[_L3 + 10 : _L3 + 12] = bytes(2)
        headers[_L3 + 10 : _L3 + 12] = checksum(headers[_L3:l4]).to_bytes(2)
        addresses = headers[_L3 + 12 : _L3 + 20]
    else:
        headers[_L3 + 4 : _L3 + 6] = total.to_bytes(2)
        addresses = headers[_L3 + 8 : _L3 + 40]
    if layout.protocol == _TCP:
        headers[l4 + 13] |= int(rows[-1, l4 + 13]) & _ENDS
        kind, field = (GSO_TCPV4 if layout.ipv4 else GSO_TCPV6), 16
    else:
        headers[l4 + 4 : l4 + 6] = total.to_bytes(2)
        kind, field = GSO_UDP_L4, 6
    pseudo = ones_complement_sum(addresses + bytes((0, layout.protocol)) + total.to_bytes(2))
    headers[l4 + field : l4 + field + 2] = pseudo.to_bytes(2)  # the kernel completes it
    vnet_header = VNET_HEADER.pack(NEEDS_CHECKSUM, kind, end, size, l4, field)
    return Superframe(vnet_header, bytes(headers), payload, len(rows))
