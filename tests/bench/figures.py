"""The figures of a run, round by round, and what is computed from them: medians, spreads, ratios."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Key(NamedTuple):
    """Names of what a figure belongs to."""

    underlay: str
    system: str
    column: str


@dataclass(frozen=True)
class Spread:
    """A figure over several rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """ValueError if there are none."""
        return cls(statistics.median(values), min(values), max(values))


class Figures:
    """All figures, by what they belong to and by round."""

    def __init__(self) -> None:
        self._rounds: defaultdict[Key, dict[int, float]] = defaultdict(dict)

    def add(self, key: Key, round_number: int, value: float) -> None:
        """Note the figure of a round."""
        self._rounds[key][round_number] = value

    def __iter__(self) -> Iterator[Key]:
        """What there are figures of, in the order of their arrival."""
        return iter(self._rounds)

    def values(self, key: Key) -> list[float]:
        """The figures of all rounds; empty if there are none."""
        return list(self._rounds[key].values()) if key in self._rounds else []

    def ratios(self, above: Iterable[Key], below: Iterable[Key]) -> list[float]:
        """Product of the figures above by product of those below, for each round that has all of them."""
        numerators = [self._rounds.get(key, {}) for key in above]
        denominators = [self._rounds.get(key, {}) for key in below]
        shared = set.intersection(*(set(rounds) for rounds in (*numerators, *denominators)))
        return [
            math.prod(rounds[number] for rounds in numerators) / math.prod(rounds[number] for rounds in denominators)
            for number in sorted(shared)
            if all(rounds[number] for rounds in denominators)
        ]
