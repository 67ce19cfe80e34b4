"""What a seed decides about a cluster before it starts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from simulation.cluster_plan import LARGE, ClusterPlan, draw_link, draw_size
from weave_ipam.settings import Beginning, IpamSettings, Mode
from weave_router.testing.simulated_cluster import peer_name

if TYPE_CHECKING:
    from weave_ipam.ranges import Network


@dataclass(frozen=True, kw_only=True)
class Plan(ClusterPlan):
    """A cluster that allocates addresses, and how it is treated."""

    observers: frozenset[int]
    """Those of them that do not vote."""
    beginning: Beginning
    """Of those that vote."""
    network: IPv4Network
    default_subnet: IPv4Network
    subnets: tuple[IPv4Network, ...]
    """What else is asked for."""
    agreed_start: bool
    """Whether troubles wait until everybody has the ring: where each voter guesses its quorum, nothing else is safe."""
    troubled_start: bool
    """Whether troubles come thick and fast from the first moment on, while the ring is being agreed on."""

    def settings(self, number: int) -> IpamSettings:
        """Those of one host."""
        beginning = Beginning(Mode.OBSERVER) if number in self.observers else self.beginning
        return IpamSettings(self.network, self.default_subnet, beginning)

    def __str__(self) -> str:
        beginning = self.beginning.mode.value
        if self.beginning.voters:
            beginning += f"={self.beginning.voters}"
        return (
            f"{self.peers} peers ({len(self.observers)} observers), {beginning}, {self.network}, default "
            f"{self.default_subnet}, {self.treatment}"
        )


def draw_plan(seed: int, most_peers: int) -> Plan:
    """The plan of a seed. `most_peers`: at least five."""
    chance = random.Random(f"plan {seed} {most_peers}")
    large = most_peers > LARGE
    peers = draw_size(most_peers, chance)
    length = chance.choice((24, 20, 12) if large else (28, 27, 26, 24, 24, 20, 12))
    network = IPv4Network(("10.32.0.0", length))
    numbers = range(1, peers + 1)
    observers: frozenset[int] = frozenset()
    mode = chance.choice(("consensus=", "consensus=", "consensus", "seed"))
    if mode == "seed":
        seeds = chance.sample(numbers, chance.randint(1, peers))
        beginning = Beginning(Mode.SEED, seeds=tuple(sorted(map(peer_name, seeds))))
    else:
        if chance.random() < 0.3:
            observers = frozenset(chance.sample(range(2, peers + 1), chance.randint(1, 2)))
        beginning = Beginning(voters=peers - len(observers) if mode == "consensus=" else 0)
    return Plan(
        seed=seed,
        peers=peers,
        observers=observers,
        beginning=beginning,
        network=network,
        default_subnet=_subnet_of(network, chance) if chance.random() < 0.3 else network,
        subnets=tuple(_subnet_of(network, chance) for _ in range(3)),
        discovery=not large and chance.random() < 0.15,  # full meshes take most of the time
        link=draw_link(chance),
        write_seconds=chance.choice((0.01, 0.01, 0.3)),
        steps=chance.randint(20, 50) if large else chance.randint(60, 160),
        pause=chance.choice((0.1, 0.6, 2.0)),
        agreed_start=mode == "consensus",
        troubled_start=mode != "consensus" and chance.random() < 0.6,
    )


def _subnet_of(network: IPv4Network, chance: random.Random) -> IPv4Network:
    length = min(network.prefixlen + chance.choice((1, 1, 2, 4)), 30)
    size = 1 << (32 - length)
    places = network.num_addresses // size
    return IPv4Network((int(network.network_address) + size * chance.randrange(places), length))


def random_address(network: Network, chance: random.Random) -> int:
    """Any address of a network; early ones more often, since these are in use."""
    few = min(network.num_addresses, 64)
    return int(network.network_address) + chance.randrange(few if chance.random() < 0.7 else network.num_addresses)
