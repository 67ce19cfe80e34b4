"""What a seed decides about any cluster before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weave_router.testing.simulated_links import LinkConditions

if TYPE_CHECKING:
    import random

FEWEST_PEERS = 5
LARGE = 60
"""For more peers than this a cluster has exactly so many, no discovery, and fewer steps."""


@dataclass(frozen=True, kw_only=True)
class ClusterPlan:
    """A cluster and how it is treated."""

    seed: int
    peers: int
    """Hosts at the beginning."""
    discovery: bool
    link: LinkConditions
    write_seconds: float
    """A write takes at most so long until it is durable, and so long again until the writer knows."""
    steps: int
    pause: float
    """Seconds between steps, on average."""

    @property
    def treatment(self) -> str:
        """In words, for who reads what a run came to."""
        return (
            f"discovery {'on' if self.discovery else 'off'}, {self.steps} steps every {self.pause:g} s, "
            f"latency {self.link.latency * 1000:g} ms, jitter {self.link.jitter * 1000:g} ms, "
            f"loss {self.link.loss:.0%}, writes {2000 * self.write_seconds:g} ms"
        )


def draw_size(most_peers: int, chance: random.Random) -> int:
    """How many hosts there are at the beginning."""
    return most_peers if most_peers > LARGE else chance.randint(FEWEST_PEERS, max(most_peers, FEWEST_PEERS))


def draw_link(chance: random.Random) -> LinkConditions:
    """How all links are."""
    return LinkConditions(
        latency=chance.choice((0.0005, 0.005, 0.05)),
        jitter=chance.choice((0.0, 0.002, 0.05)),
        loss=chance.choice((0.0, 0.02, 0.1)),
        reordering=chance.choice((0.0, 0.05)),
    )
