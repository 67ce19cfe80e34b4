"""Chance is handed in: what the control plane needs of a random.Random."""

from __future__ import annotations

from typing import Protocol


class RandomSource(Protocol):
    """The part of random.Random that the control plane uses."""

    def random(self) -> float:
        """A number in [0, 1)."""

    def randrange(self, stop: int, /) -> int:
        """A number from 0 up to but not including `stop`."""
