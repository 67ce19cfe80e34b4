"""The Internet checksum (RFC 1071)."""

from __future__ import annotations

import numpy as np


def ones_complement_sum(data: bytes | bytearray | memoryview) -> int:
    """The folded 16-bit sum of `data` as big-endian words; an odd last byte counts as a high byte."""
    length = len(data)
    total = int(np.frombuffer(data, ">u2", length >> 1).sum(dtype=np.uint64))
    if length & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The checksum of `data`, ready for a header field."""
    return ones_complement_sum(data) ^ 0xFFFF
