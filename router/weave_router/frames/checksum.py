"""The Internet checksum (RFC 1071)."""

from __future__ import annotations

import numpy as np

_SHORT = 256


def ones_complement_sum(data: bytes | bytearray | memoryview) -> int:
    """The folded 16-bit sum of `data` as big-endian words; an odd last byte counts as a high byte."""
    length = len(data)
    if length <= _SHORT:  # the sum of words is the number modulo 65535, which is quicker than an array
        number = int.from_bytes(data) << (8 * (length & 1))
        return number % 0xFFFF or (0xFFFF if number else 0)
    total = int(np.frombuffer(data, ">u2", length >> 1).sum(dtype=np.uint64))
    if length & 1:
        total += data[-1] << 8
    return total % 0xFFFF or (0xFFFF if total else 0)


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The checksum of `data`, ready for a header field."""
    return ones_complement_sum(data) ^ 0xFFFF
