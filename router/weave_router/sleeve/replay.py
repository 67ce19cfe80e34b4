"""Replay protection of sealed packets (sleeve.md section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

_WINDOW_BITS = 20
_PART_BITS = 10
_PART_SIZE = 1 << _PART_BITS
_PARTS_BITS = _WINDOW_BITS - _PART_BITS
_PARTS = 1 << _PARTS_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


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
        part, shift = first >> _PART_BITS, first & (_PART_SIZE - 1)
        mask = ((1 << count) - 1) << shift
        masks = {}
        while mask:
            masks[part] = mask & (1 << _PART_SIZE) - 1
            mask >>= _PART_SIZE
            part += 1
        return self._accept_parts(masks)

    def accept_all(self, sequences: Iterable[int]) -> bool:
        """Whether all these numbers are new and different; all are remembered then, otherwise none."""
        masks: dict[int, int] = {}
        for sequence in sequences:
            part, bit = sequence >> _PART_BITS, 1 << (sequence & (_PART_SIZE - 1))
            mask = masks.get(part, 0)
            if mask & bit:
                return False
            masks[part] = mask | bit
        return self._accept_parts(masks)

    def _accept_parts(self, masks: Mapping[int, int]) -> bool:
        """The same for bits of parts, a part being 1024 numbers."""
        newest = max(self._current, max(masks) >> _PARTS_BITS)
        for part, mask in masks.items():
            window = part >> _PARTS_BITS
            seen = {0: self._used, -1: self._previous}.get(window - self._current, {})
            if window < newest - 1 or seen.get(part & (_PARTS - 1), 0) & mask:
                return False
        if newest > self._current:
            self._previous = self._used if newest == self._current + 1 else {}
            self._used = {}
            self._current = newest
        for part, mask in masks.items():
            seen = self._used if part >> _PARTS_BITS == newest else self._previous
            seen[part & (_PARTS - 1)] = seen.get(part & (_PARTS - 1), 0) | mask
        return True
