"""What a seed decides about a cluster with names before it starts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from simulation.cluster_plan import LARGE, ClusterPlan, draw_link, draw_size


@dataclass(frozen=True, kw_only=True)
class Plan(ClusterPlan):
    """A cluster with names, and how it is treated."""

    crowd: int
    """At most so many names are added at once."""
    rest: bool
    """Whether it is left alone in the end, until nothing may be left of what was deleted."""

    def __str__(self) -> str:
        return f"{self.peers} peers, up to {self.crowd} names at once, {self.treatment}{', rest' if self.rest else ''}"


def draw_plan(seed: int, most_peers: int) -> Plan:
    """The plan of a seed. `most_peers`: at least five."""
    chance = random.Random(f"plan of names {seed} {most_peers}")
    large = most_peers > LARGE
    peers = draw_size(most_peers, chance)
    pause = chance.choice((0.2, 2.0, 10.0))
    return Plan(
        seed=seed,
        peers=peers,
        discovery=not large and chance.random() < 0.15,
        link=draw_link(chance),
        write_seconds=chance.choice((0.01, 0.01, 0.3)),
        steps=chance.randint(20, 50) if large or pause > 5 else chance.randint(60, 160),
        pause=pause,
        crowd=chance.choice((3, 20, 20, 700)),
        rest=chance.random() < 4 / peers**2,  # two hours of a large cluster take minutes
    )
