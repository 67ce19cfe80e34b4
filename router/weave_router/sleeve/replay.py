"""Replay protection of sealed packets (sleeve.md section 3)."""

from __future__ import annotations

_WINDOW_BITS = 20
_PART_BITS = 10


class ReplayWindow:
    """Which sequence numbers of one direction and counter have been seen; call it after a packet has opened.

    The state is two windows of 2^20 numbers. Each is a sparse bitmap, so that an idle connection costs nothing.
    """

    def __init__(self) -> None:
        self._current = 0
        self._used: dict[int, int] = {}
        self._previous: dict[int, int] = {}

    def accept(self, sequence: int) -> bool:
        """Whether this number is new; it is remembered."""
        window = sequence >> _WINDOW_BITS
        ahead = window - self._current
        if ahead < -1:
            return False
        if ahead > 0:
            self._previous = self._used if ahead == 1 else {}
            self._used = {}
            self._current = window
        seen = self._previous if ahead == -1 else self._used
        offset = sequence & ((1 << _WINDOW_BITS) - 1)
        part, bit = offset >> _PART_BITS, 1 << (offset & ((1 << _PART_BITS) - 1))
        bits = seen.get(part, 0)
        if bits & bit:
            return False
        seen[part] = bits | bit
        return True

    def accept_range(self, first: int, count: int) -> bool:
        """Whether all numbers from `first` on are new; all are remembered then, otherwise none."""
        if count == 1:
            return self.accept(first)
        window, offset = first >> _WINDOW_BITS, first & ((1 << _WINDOW_BITS) - 1)
        part, shift = offset >> _PART_BITS, offset & ((1 << _PART_BITS) - 1)
        mask = ((1 << count) - 1) << shift
        if window != self._current or mask >> (1 << _PART_BITS):
            if not all(self._is_new(first + index) for index in range(count)):
                return False
            return all(self.accept(first + index) for index in range(count))
        bits = self._used.get(part, 0)
        if bits & mask:
            return False
        self._used[part] = bits | mask
        return True

    def _is_new(self, sequence: int) -> bool:
        window = sequence >> _WINDOW_BITS
        if window != self._current and window != self._current - 1:
            return window > self._current
        seen = self._used if window == self._current else self._previous
        offset = sequence & ((1 << _WINDOW_BITS) - 1)
        return not seen.get(offset >> _PART_BITS, 0) >> (offset & ((1 << _PART_BITS) - 1)) & 1
