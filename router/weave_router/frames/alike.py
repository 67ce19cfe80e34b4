"""Frames that are treated alike, as the rows of an array: what a router looks at is equal in all of them.

That is the first 22 bytes: MAC addresses, ethertype, and in IPv4 version, header length, total length and the flag DF;
but not bytes 18 and 19, an IPv4 packet's identification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from weave_router.frames.ethernet import ETHERTYPE_IPV4
from weave_router.frames.segment_headers import row_sums
from weave_router.frames.segmentation import (
    NEEDS_CHECKSUM,
    VNET_BYTES,
    VNET_HEADER,
    SegmentationError,
    Segments,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOOKED_AT = 22
"""Bytes at the beginning of a frame that decide what becomes of it; shorter frames are not treated as rows."""
_IDENTIFICATION = slice(18, 20)
_TOTAL_LENGTH = slice(16, 18)


def alike(rows: NDArray[np.uint8], before: int) -> int:
    """How many rows, from the first on, hold frames that are treated alike; at least 1.

    The `before` bytes before the frame must be equal, too. Rows have at least `before + LOOKED_AT` bytes.
    """
    heads = rows[:, : before + LOOKED_AT].copy()
    heads[:, before + _IDENTIFICATION.start : before + _IDENTIFICATION.stop] = 0
    data = heads.tobytes()
    if data == data[: heads.shape[1]] * len(heads):
        return len(heads)
    return int((heads != heads[0]).any(axis=1).argmax())


def is_alike(frame: bytes, shorter: bytes) -> bool:
    """Whether the last, shorter frame of a burst is treated as the others are, its length aside."""
    if len(shorter) < LOOKED_AT:
        return False
    usual, found = bytearray(frame[:LOOKED_AT]), bytearray(shorter[:LOOKED_AT])
    found[_IDENTIFICATION] = usual[_IDENTIFICATION]
    if frame[12:14] == ETHERTYPE_IPV4:
        total = int.from_bytes(usual[_TOTAL_LENGTH]) - len(frame) + len(shorter)
        if total < 0:
            return False
        usual[_TOTAL_LENGTH] = total.to_bytes(2)
    return usual == found


def gather(packets: NDArray[np.uint8], headroom: int) -> Segments:
    """Packets as captured, virtio-net header and frame in each row, as frames in one buffer with complete checksums.

    The virtio-net headers are equal and mean no segmentation. Raises `SegmentationError` when the checksum to be
    completed lies outside the frames.
    """
    count, width = packets.shape
    length = width - VNET_BYTES
    stride = headroom + length
    flags, _, _, _, start, offset = VNET_HEADER.unpack(packets[0, :VNET_BYTES].tobytes())
    rows = np.empty((count, stride), np.uint8)
    frames = rows[:, headroom:]
    frames[:] = packets[:, VNET_BYTES:]
    if flags & NEEDS_CHECKSUM:
        field = start + offset
        if field + 2 > length:
            raise SegmentationError("checksum field beyond the frame")
        values = -row_sums(frames[:, start:]) % 0xFFFF
        values[values == 0] = 0xFFFF  # 0 would mean "none" in UDP
        frames[:, field] = values & 0xFF
        frames[:, field + 1] = values >> 8
    return Segments(rows.reshape(-1), headroom, stride, count, length)
