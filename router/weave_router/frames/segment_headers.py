"""The headers of a superframe's segments, made for all of them at once.

Cutting writes them before the segments; joining compares them with what came: frames may be joined if and only if they
are what cutting the joined frame gives.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from weave_router.frames.checksum import checksum, ones_complement_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TCP, UDP = 6, 17
FIN, PSH, CWR = 0x01, 0x08, 0x80
ENDS = FIN | PSH
"""What only the last segment of a superframe says."""
MARKS = ENDS | CWR
"""TCP flags that segments of one superframe do not share. Only the first has CWR (RFC 3168 section 6.1.2)."""


class Layout(NamedTuple):
    """Where the headers of a flow lie in its frames."""

    l3: int
    """Offset of the IP header."""
    l4: int
    """Offset of the TCP or UDP header."""
    end: int
    """Length of all headers."""
    protocol: int
    ipv4: bool

    @property
    def checksum(self) -> int:
        """Offset of the TCP or UDP checksum."""
        return self.l4 + (16 if self.protocol == TCP else 6)


def segment_headers(
    header: bytes | memoryview,
    layout: Layout,
    sums: NDArray[np.int64],
    size: int,
    last: int,
    *,
    marks: Sequence[tuple[int, int]] = (),
    identifications: NDArray[np.int64] | None = None,
    sequence: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint8]:
    """The headers of segments, shape (len(sums), layout.end), made of the superframe's `header`.

    `sums`: of each payload, as `row_sums` counts. `size`: bytes of payload of each segment, `last` of the last one.
    `marks`: segments that have TCP flags of `MARKS` set, and these flags; the header's own do not count.
    `identifications` (IPv4) and `sequence` (TCP) numbers of each segment; without them they count up from the header's.
    """
    l3, l4, end, tcp = layout.l3, layout.l4, layout.end, layout.protocol == TCP
    count = len(sums)
    head = bytearray(header[:end])
    length = end - l4 + size
    head[layout.checksum : layout.checksum + 2] = b"\0\0"
    if layout.ipv4:
        first_identification = head[l3 + 4] << 8 | head[l3 + 5]
        head[l3 + 2 : l3 + 4] = (l4 - l3 + length).to_bytes(2)
        head[l3 + 4 : l3 + 6] = head[l3 + 10 : l3 + 12] = b"\0\0"
        ip_sum = ones_complement_sum(head[l3:l4])
        addresses = head[l3 + 12 : l3 + 20]
    else:
        head[l3 + 4 : l3 + 6] = (end - l3 - 40 + size).to_bytes(2)
        addresses = head[l3 + 8 : l3 + 40]
    if tcp:
        first_sequence = int.from_bytes(head[l4 + 4 : l4 + 8])
        head[l4 + 4 : l4 + 8] = b"\0\0\0\0"
        head[l4 + 13] &= ~MARKS
    else:
        head[l4 + 4 : l4 + 6] = length.to_bytes(2)
    constant = ones_complement_sum(addresses) + layout.protocol + length + ones_complement_sum(head[l4:])

    # What is the same in all, then the fields that differ, as columns.
    table = np.empty(count, fields(layout))
    raw = table.view(np.uint8).reshape(count, end)
    raw[:] = np.frombuffer(head, np.uint8)
    if layout.ipv4:
        if identifications is None:
            identifications = counting(first_identification, count, 1) & 0xFFFF
        table["identification"] = identifications
        table["ip_checksum"] = (-ip_sum - identifications) % 0xFFFF
    totals = sums.copy()
    if tcp:
        table["sequence"] = counting(first_sequence, count, size) if sequence is None else sequence  # wraps
        totals += table["sequence_word"]
        for number, flags in marks:
            raw[number, l4 + 13] |= flags
            totals[number] += flags << 8
    if last != size:
        totals[-1] += _shorten_last(raw[-1], layout, size - last)
    values = (-swap16(_fold(constant)) - totals) % 0xFFFF
    if not tcp:
        values[values == 0] = 0xFFFF  # 0 would mean "none"
    table["checksum"] = values
    return raw


def _shorten_last(raw: NDArray[np.uint8], layout: Layout, less: int) -> int:
    """Make the last segment's lengths smaller; returns by how much that changes its sum, as `row_sums` counts."""
    l3, l4 = layout.l3, layout.l4
    head = bytearray(raw)
    lengths = [l3 + (2 if layout.ipv4 else 4)] + ([l4 + 4] if layout.protocol == UDP else [])
    for field in lengths:
        head[field : field + 2] = ((head[field] << 8 | head[field + 1]) - less).to_bytes(2)
    if layout.ipv4:
        head[l3 + 10 : l3 + 12] = b"\0\0"
        head[l3 + 10 : l3 + 12] = checksum(head[l3:l4]).to_bytes(2)
    raw[:] = np.frombuffer(head, np.uint8)
    return -len(lengths) * swap16(less)  # in the pseudo-header, and in UDP's own


def _fold(value: int) -> int:
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value


@lru_cache(maxsize=64)
def fields(layout: Layout) -> np.dtype[np.void]:
    """All headers as a record, with the fields that differ between segments.

    The checksum is little-endian, as `row_sums` counts.
    """
    differing = [("checksum", "<u2", layout.checksum)]
    if layout.ipv4:
        differing += [("identification", ">u2", layout.l3 + 4), ("ip_checksum", ">u2", layout.l3 + 10)]
    if layout.protocol == TCP:
        # The same bytes twice: as TCP counts, and as `row_sums` does.
        differing += [("sequence", ">u4", layout.l4 + 4), ("sequence_word", "<u4", layout.l4 + 4)]
    names, formats, offsets = zip(*differing, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": layout.end})


def counting(first: int, count: int, step: int) -> NDArray[np.int64]:
    """So many numbers that count up from the first."""
    return _steps(count, step) + first


@lru_cache(maxsize=256)
def _steps(count: int, step: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) * step


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
