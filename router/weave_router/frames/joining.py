"""Joining frames of one flow into superframes again, the inverse of `segmentation` (as the kernel's GRO does).

Only what a kernel's GRO would join is joined: consecutive segments of one flow, equal in all header fields but length
and PSH and FIN of the last, identification, sequence number and checksums. Each frame's checksums are verified
before, since a superframe says "checksum still to be computed": a corrupt frame must not come out right.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    fold_sums,
    row_sums,
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
_NEVER = _SYN | _RST | _URG | _CWR


@dataclass(frozen=True, slots=True)
class Superframe:
    """Frames joined: what is written to the TAP, part by part."""

    vnet_header: bytes
    headers: bytes
    payload: NDArray[np.uint8]
    count: int
    """How many frames it stands for."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where a flow's headers lie in its frames, taken from the first frame of a run."""

    l3: int
    l4: int
    end: int
    protocol: int
    ipv4: bool


def join(segments: Segments, *, udp: bool) -> list[Superframe | bytes]:
    """The same frames in the same order, runs of one flow joined. `udp`: whether UDP may be joined, too."""
    result: list[Superframe | bytes] = []
    data = segments.buffer[: segments.total]
    stride, headroom = segments.stride, segments.headroom
    full = segments.count if segments.last == segments.frame_bytes else segments.count - 1
    rows = data[: full * stride].reshape(full, stride)[:, headroom:]
    tail = data[full * stride + headroom :] if full < segments.count else None
    start = disappointments = 0
    while start < full and disappointments < 2:
        layout = _layout(rows[start], udp=udp)
        length = _run(rows[start:], layout) if layout else 1
        if layout is None or length == 1:
            result.append(rows[start].tobytes())
            disappointments += 1
            start += 1
            continue
        disappointments += length < WORTHWHILE
        last = None
        if tail is not None and start + length == full and _continues(rows[start + length - 1], tail, layout):
            last, tail = tail, None
        result.append(_joined(rows[start : start + length], last, layout))
        start += length
    result += [row.tobytes() for row in rows[start:]]
    if tail is not None:
        result.append(tail.tobytes())
    return result


def _layout(frame: NDArray[np.uint8], *, udp: bool) -> _Layout | None:
    """The layout of a frame that may begin a superframe; its own fields are checked, but no checksum."""
    head = frame[:140].tobytes()
    length = len(frame)
    ethertype = head[12:14]
    if ethertype == ETHERTYPE_IPV4:
        l4 = 14 + (head[14] & 15) * 4
        # no fragments; DF as it is
        if head[14] >> 4 != 4 or l4 < 34 or length < l4 + 8 or int.from_bytes(head[20:22]) & 0x3FFF:
            return None
        if int.from_bytes(head[16:18]) != length - 14:
            return None
        protocol = head[23]
    elif ethertype == ETHERTYPE_IPV6:
        l4, protocol = 54, head[20]
        if length < l4 + 8 or int.from_bytes(head[18:20]) != length - l4:
            return None
    else:
        return None
    if protocol == _TCP:
        if length < l4 + 20:
            return None
        end = l4 + (head[l4 + 12] >> 4) * 4
        if end < l4 + 20 or head[l4 + 13] & _NEVER:
            return None
    elif protocol == _UDP and udp:
        end = l4 + 8
        if int.from_bytes(head[l4 + 4 : l4 + 6]) != length - l4 or head[l4 + 6 : l4 + 8] == b"\0\0":
            return None
    else:
        return None
    return _Layout(14, l4, end, protocol, ethertype == ETHERTYPE_IPV4) if end < length else None


def _varying(layout: _Layout) -> list[slice]:
    """The header bytes that may differ within a run and are checked in other ways."""
    varying = [slice(layout.l3 + 4, layout.l3 + 6), slice(layout.l3 + 10, layout.l3 + 12)] if layout.ipv4 else []
    if layout.protocol == _TCP:
        return [*varying, slice(layout.l4 + 4, layout.l4 + 8), slice(layout.l4 + 13, layout.l4 + 14),
                slice(layout.l4 + 16, layout.l4 + 18)]  # fmt: skip
    return [*varying, slice(layout.l4 + 6, layout.l4 + 8)]


def _run(rows: NDArray[np.uint8], layout: _Layout) -> int:
    """How many rows from the first on belong together (at least 1); a corrupt first row stands alone."""
    payload_bytes = rows.shape[1] - layout.end
    most = min(len(rows), (MAX_PACKET - (layout.end - layout.l3)) // payload_bytes)
    if layout.protocol == _UDP:
        most = min(most, MAX_UDP_SEGMENTS)
    rows = rows[:most]
    heads = rows[:, : layout.end]
    same = heads == heads[0]
    for part in _varying(layout):
        same[:, part] = True
    good = same.all(axis=1) & _checksums_hold(rows, layout)
    index = np.arange(most, dtype=np.int64)
    if layout.ipv4:
        identifications = _column16(heads, layout.l3 + 4)
        # With DF a constant identification is usual, too (RFC 6864).
        constant = bool(heads[0, layout.l3 + 6] & 0x40) and most > 1 and identifications[1] == identifications[0]
        good &= identifications == (identifications[0] + (0 if constant else index)) & 0xFFFF
    if layout.protocol == _TCP:
        sequence = _column16(heads, layout.l4 + 4) << 16 | _column16(heads, layout.l4 + 6)
        good &= sequence == (sequence[0] + index * payload_bytes) & 0xFFFFFFFF
        flags = heads[:, layout.l4 + 13]
        good &= (flags & ~np.uint8(_FIN | _PSH)) == (flags[0] & ~np.uint8(_FIN | _PSH))
        ends = (flags & (_FIN | _PSH)) != 0
        good[1:] &= ~np.logical_or.accumulate(ends)[:-1]  # nothing joins behind a row that pushes or ends
    bad = np.flatnonzero(~good)
    return max(int(bad[0]) if len(bad) else most, 1)


def _continues(previous: NDArray[np.uint8], tail: NDArray[np.uint8], layout: _Layout) -> bool:
    """Whether the shorter last frame of a burst continues the run whose last row is `previous`."""
    end, l3, l4 = layout.end, layout.l3, layout.l4
    if len(tail) <= end:
        return False
    ours, theirs = previous[:end].tobytes(), tail[:end].tobytes()
    own = _layout(tail, udp=layout.protocol == _UDP)
    if own != layout or not _checksums_hold(tail[np.newaxis, :], layout)[0]:
        return False
    payload_bytes = len(previous) - end
    skipped = [*_varying(layout), slice(l3 + 2, l3 + 4) if layout.ipv4 else slice(l3 + 4, l3 + 6)]
    if layout.protocol == _UDP:
        skipped.append(slice(l4 + 4, l4 + 6))
    left, right = bytearray(ours), bytearray(theirs)
    for part in skipped:
        left[part] = right[part] = bytes(part.stop - part.start)
    if left != right:
        return False
    if layout.ipv4:
        # Whether the run counts or keeps its identifications does not matter to who takes it apart again.
        step = int.from_bytes(theirs[l3 + 4 : l3 + 6]) - int.from_bytes(ours[l3 + 4 : l3 + 6]) & 0xFFFF
        if step != 1 and not (step == 0 and ours[l3 + 6] & 0x40):
            return False
    if layout.protocol == _TCP:
        step = int.from_bytes(theirs[l4 + 4 : l4 + 8]) - int.from_bytes(ours[l4 + 4 : l4 + 8]) & 0xFFFFFFFF
        if step != payload_bytes or ours[l4 + 13] & (_FIN | _PSH):
            return False
        if (ours[l4 + 13] ^ theirs[l4 + 13]) & ~(_FIN | _PSH):
            return False
    return True


def _checksums_hold(rows: NDArray[np.uint8], layout: _Layout) -> NDArray[np.bool_]:
    """For each row, whether its IP header and its TCP or UDP checksum are right."""
    l3, l4 = layout.l3, layout.l4
    addresses = rows[:, l3 + 12 : l3 + 20] if layout.ipv4 else rows[:, l3 + 8 : l3 + 40]
    pseudo = row_sums(addresses) + np.uint64(layout.protocol + rows.shape[1] - l4)
    holds: NDArray[np.bool_] = fold_sums(row_sums(rows[:, l4:]) + pseudo) == 0xFFFF
    if layout.ipv4:
        holds &= fold_sums(row_sums(rows[:, l3:l4])) == 0xFFFF
    return holds


def _joined(rows: NDArray[np.uint8], last: NDArray[np.uint8] | None, layout: _Layout) -> Superframe:
    end, l3, l4 = layout.end, layout.l3, layout.l4
    payload = np.ascontiguousarray(rows[:, end:]).reshape(-1)
    size = rows.shape[1] - end
    if last is not None:
        payload = np.concatenate((payload, last[end:]))
    headers = bytearray(rows[0, :end].tobytes())
    total = end - l4 + len(payload)
    if layout.ipv4:
        headers[l3 + 2 : l3 + 4] = (l4 - l3 + total).to_bytes(2)
        headers[l3 + 10 : l3 + 12] = bytes(2)
        headers[l3 + 10 : l3 + 12] = checksum(headers[l3:l4]).to_bytes(2)
        addresses = headers[l3 + 12 : l3 + 20]
    else:
        headers[l3 + 4 : l3 + 6] = total.to_bytes(2)
        addresses = headers[l3 + 8 : l3 + 40]
    if layout.protocol == _TCP:
        final = rows[-1] if last is None else last
        headers[l4 + 13] |= int(final[l4 + 13]) & (_FIN | _PSH)
        kind, field = (GSO_TCPV4 if layout.ipv4 else GSO_TCPV6), 16
    else:
        headers[l4 + 4 : l4 + 6] = total.to_bytes(2)
        kind, field = GSO_UDP_L4, 6
    pseudo = ones_complement_sum(addresses + bytes((0, layout.protocol)) + total.to_bytes(2))
    headers[l4 + field : l4 + field + 2] = pseudo.to_bytes(2)  # the kernel completes it
    vnet_header = VNET_HEADER.pack(NEEDS_CHECKSUM, kind, end, size, l4, field)
    return Superframe(vnet_header, bytes(headers), payload, len(rows) + (last is not None))


def _column16(heads: NDArray[np.uint8], offset: int) -> NDArray[np.int64]:
    return heads[:, offset].astype(np.int64) << 8 | heads[:, offset + 1]
