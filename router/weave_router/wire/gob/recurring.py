"""Elements that come again and again, from message to message, are read once.

A ring of 200 entries changes in one or two of them from one message to the next. A value has no length on the wire, but
where the bytes of a known element stand, only that element can be read; and where those of many in a row stand, all of
these, found by a few comparisons of long strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weave_router.wire.gob.primitives import Reader

MAX_REMEMBERED = 1 << 18
"""Bytes of a slice or map; longer ones are read anew each time."""
_LOOKED_AHEAD = 8
"""So many elements in a row may be missing, or be new, until the rest is read as if all were new."""


class RecurringElements:
    """Reads the elements of a slice, or the pairs of a map, one by `read_one`; remembers those it read last."""

    def __init__(self, read_one: Reader) -> None:
        self._read_one = read_one
        self._raw = b""
        self._ends = [0]
        """Where each element of `_raw` ends, after where the first begins."""
        self._values: list[Any] = []

    def read(self, data: bytes, pos: int, end: int, count: int) -> tuple[list[Any], int]:
        """So many elements of `data[pos:end]`, and the position behind them. Raises `GobError`.

        What is known already is not counted as new values: it takes no more memory.
        """
        begin, length = pos, len(self._raw)
        if count == len(self._values) and length <= end - pos and data.startswith(self._raw, pos):
            return list(self._values), pos + length
        values: list[Any] = []
        ends = [0]
        expected = new = 0
        while len(values) < count:
            most = count - len(values)
            farthest = expected + new + _LOOKED_AHEAD if new < _LOOKED_AHEAD else 0
            for place in range(expected, min(farthest, len(self._values))):
                run = self._run(data, pos, end, place, most)
                if run:
                    first, last = self._ends[place], self._ends[place + run]
                    shift = pos - begin - first
                    ends += [known_end + shift for known_end in self._ends[place + 1 : place + run + 1]]
                    values += self._values[place : place + run]
                    pos += last - first
                    expected, new = place + run, 0
                    break
            else:
                value, pos = self._read_one(data, pos, end)
                values.append(value)
                ends.append(pos - begin)
                new += 1
        if pos - begin <= MAX_REMEMBERED:
            self._raw, self._ends, self._values = data[begin:pos], ends, list(values)
        return values, pos

    def _run(self, data: bytes, pos: int, end: int, place: int, most: int) -> int:
        """How many known elements from `place` on stand at `data[pos:end]`, at most `most`."""
        raw, ends, first = self._raw, self._ends, self._ends[place]

        def stand(run: int) -> bool:
            last = ends[place + run]
            return last - first <= end - pos and data.startswith(raw[first:last], pos)

        if not stand(1):
            return 0
        low, high = 1, min(most, len(self._values) - place)
        if stand(high):
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if stand(middle) else (low, middle)
        return low
