"""Joining frames of one flow into superframes again, the inverse of `segmentation` (as the kernel's GRO does).

Only what a kernel's GRO would join is joined: consecutive segments of one flow, equal in all header fields but length
and PSH and FIN of the last, identification, sequence number and checksums. Each frame's checksums are verified before,
since a superframe says "checksum still to be computed": a corrupt frame must not come out right.

The rows of a burst are compared all at once. Only where that finds a difference is the row sought at which a run ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weave_router.frames.checksum import checksum, ones_complement_sum
from weave_router.frames.ethernet import ETHERTYPE_IPV4, ETHERTYPE_IPV6
from weave_router.frames.segment_headers import (
    CWR,
    ENDS,
    TCP,
    UDP,
    Layout,
    fields,
    row_sums,
    segment_headers,
)
from weave_router.frames.segmentation import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CHECKSUM,
    VNET_HEADER,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from weave_router.frames.segmentation import Segments

MAX_PACKET = 65535
MAX_UDP_SEGMENTS = 64
"""What a receiving kernel takes apart again (UDP_MAX_SEGMENTS before 6.9)."""
WORTHWHILE = 3
"""Runs shorter than this, twice in one burst, mean mixed traffic, which is quicker passed on frame by frame."""
_SYN, _RST, _URG = 0x02, 0x04, 0x20
_NEVER = _SYN | _RST | _URG | CWR
_ENDS = np.uint8(ENDS)
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
        pieces = _pieces(rows[start:], layout, last) if layout else [1]
        disappointments += sum(pieces) < WORTHWHILE
        for piece in pieces:
            stop = start + piece
            last_of_piece = last if stop == count else length
            if layout is None or piece == 1:
                result.append(rows[start, :last_of_piece].tobytes())
            else:
                result.append(_joined(rows[start:stop], layout, last_of_piece))
            start = stop
    while start < count:
        result.append(rows[start, : last if start == count - 1 else length].tobytes())
        start += 1
    return result


def _layout(frame: NDArray[np.uint8], *, udp: bool) -> Layout | None:
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
    if protocol == TCP and length >= l4 + 20:
        end = l4 + (head[l4 + 12] >> 4) * 4
        if end < l4 + 20 or head[l4 + 13] & (_NEVER | ENDS):
            return None
    elif protocol == UDP and udp:
        end = l4 + 8
        if head[l4 + 4] << 8 | head[l4 + 5] != length - l4 or head[l4 + 6 : l4 + 8] == b"\0\0":
            return None
    else:
        return None
    return Layout(_L3, l4, end, protocol, ethertype == ETHERTYPE_IPV4) if end < length else None


def _pieces(rows: NDArray[np.uint8], layout: Layout, last: int) -> list[int]:
    """How many rows go into each superframe, from the first row of a flow to the last that belongs to the same.

    `last`: length of the frame in the last row, behind which there are zeros.
    """
    length, end = rows.shape[1], layout.end
    size = length - end
    if last <= end:
        rows, last = rows[:-1], length
    if len(rows) < 2:
        return [1]
    heads = np.ascontiguousarray(rows[:, :end])
    table = heads.reshape(-1).view(fields(layout))
    header = heads[0].tobytes()
    most = (MAX_PACKET - (end - _L3)) // size
    identifications = sequence = None
    marks: list[tuple[int, int]] = []
    ends = np.zeros(len(rows) - 1, np.bool_)
    """Whether a superframe ends with this row."""
    if layout.ipv4:
        identifications = table["identification"].astype(np.int64)
        steps = (identifications[1:] - identifications[:-1]) & 0xFFFF
        # With DF a constant identification is usual, too (RFC 6864).
        ends |= steps != (0 if header[_L3 + 6] & 0x40 and steps[0] == 0 else 1)
    if layout.protocol == TCP:
        sequence = table["sequence"].astype(np.uint32)
        flags = heads[:, layout.l4 + 13] & _ENDS
        ends |= (sequence[1:] - sequence[:-1] != size) | flags[:-1].view(np.bool_)
        marks = [(number, int(flags[number])) for number in flags.nonzero()[0].tolist()]
    else:
        most = min(most, MAX_UDP_SEGMENTS)
    expected = segment_headers(
        header, layout, row_sums(rows[:, end:]), size, last - end,
        marks=marks, identifications=identifications, sequence=sequence,
    )  # fmt: skip
    count = len(rows)
    if heads.tobytes() != expected.tobytes():
        count = max(int((heads != expected).any(axis=1).argmax()), 1)
    pieces = []
    start = 0
    for stop in [*(ends[: count - 1].nonzero()[0] + 1).tolist(), count]:
        pieces += [most] * ((stop - start) // most)
        if (stop - start) % most:
            pieces.append((stop - start) % most)
        start = stop
    return pieces


def _joined(rows: NDArray[np.uint8], layout: Layout, last: int) -> Superframe:
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
    if layout.protocol == TCP:
        headers[l4 + 13] |= int(rows[-1, l4 + 13]) & ENDS
        kind, field = (GSO_TCPV4 if layout.ipv4 else GSO_TCPV6), 16
    else:
        headers[l4 + 4 : l4 + 6] = total.to_bytes(2)
        kind, field = GSO_UDP_L4, 6
    pseudo = ones_complement_sum(addresses + bytes((0, layout.protocol)) + total.to_bytes(2))
    headers[l4 + field : l4 + field + 2] = pseudo.to_bytes(2)  # the kernel completes it
    vnet_header = VNET_HEADER.pack(NEEDS_CHECKSUM, kind, end, size, l4, field)
    return Superframe(vnet_header, bytes(headers), payload, len(rows))
