"""What address allocation costs in large clusters: messages and bytes until everybody agrees, on simulated time.

    .venv/bin/python tests/simulation/ipam_figures.py 10 50 100 200

Partial mesh, at most 8 neighbours each, discovery off. Counted are messages of the channel `IPallocation` at their
receivers, hop by hop, from a request until all copies of the ring are equal: once for the first request, which holds
the election, and once for a donation. Beside it what it would take if everybody told everybody: n (n - 1) messages
with the whole state for a single change.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import trio

# Run by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from simulation.ipam_host import IpamHost
from simulation.ipam_ledger import Ledger
from simulation.received_messages import watched_messages
from weave_ipam.messages import CHANNEL
from weave_ipam.settings import parse_settings
from weave_router.testing.simulated_cluster import address, peer_name, run_cluster, wait_until
from weave_router.testing.simulated_links import LinkConditions
from weave_router.wire.envelope import Tag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.control.mesh import Mesh
    from weave_router.testing.simulated_cluster import SimulatedCluster

MOST_NEIGHBOURS = 8
TARGETS = 4
NETWORK = "10.32.0.0/12"
_TAGS = (Tag.GOSSIP, Tag.UNICAST, Tag.BROADCAST)
_MARK = CHANNEL.encode()


@dataclass
class Traffic:
    """Messages of the channel, each counted at every hop."""

    messages: int = 0
    bytes: int = 0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(self.messages - other.messages, self.bytes - other.bytes)


@dataclass
class Cost:
    """What one thing took until everybody agreed."""

    traffic: Traffic
    served: float
    """Simulated seconds until the request was answered."""
    agreed: float
    """Simulated seconds until all copies of the ring were equal."""


@dataclass
class Figures:
    """One cluster."""

    peers: int
    links: int
    formed: float
    """Real seconds until everybody could reach everybody."""
    idle: Traffic
    """In a minute without requests, after the ring has been agreed on."""
    election: Cost
    donation: Cost
    state_bytes: int

    @property
    def full_mesh(self) -> Traffic:
        """Everybody tells everybody the whole state, once."""
        messages = self.peers * (self.peers - 1)
        return Traffic(messages, messages * self.state_bytes)


@contextmanager
def counted() -> Iterator[Traffic]:
    """Count what all routers receive."""
    traffic = Traffic()

    def count(_: Mesh, message: bytes) -> None:
        if message and message[0] in _TAGS and _MARK in message[:32]:
            traffic.messages += 1
            traffic.bytes += len(message)

    with watched_messages(count):
        yield traffic


def partial_mesh(peers: int, chance: random.Random) -> dict[int, list[int]]:
    """Targets of each peer: some earlier ones that still have room for neighbours."""
    degrees: dict[int, int] = {}
    targets: dict[int, list[int]] = {}
    for number in range(1, peers + 1):
        room = [earlier for earlier in targets if degrees[earlier] < MOST_NEIGHBOURS]
        targets[number] = chance.sample(room, min(TARGETS, len(room)))
        degrees[number] = len(targets[number])
        for target in targets[number]:
            degrees[target] += 1
    return targets


def measure(peers: int) -> Figures:
    """One cluster of so many peers."""
    box: list[Figures] = []

    async def main(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            with counted() as traffic:
                box.append(await _measure(cluster, nursery, peers, traffic))
            nursery.cancel_scope.cancel()

    run_cluster(main, seed=peers, link=LinkConditions(latency=0.005, jitter=0.005))
    return box[0]


async def _measure(cluster: SimulatedCluster, nursery: trio.Nursery, peers: int, traffic: Traffic) -> Figures:
    settings = parse_settings(NETWORK, None, f"consensus={peers}")
    assert settings is not None
    targets = partial_mesh(peers, random.Random(peers))
    began, hosts = time.perf_counter(), []
    for number, others in targets.items():
        node = cluster.node(number, discovery=False)
        host = IpamHost(number, node, nursery, settings, Ledger(), seed=peers)
        hosts.append(host)
        await host.start(*map(address, others))
    everybody = {peer_name(number) for number in targets}
    await wait_until(
        lambda: all(everybody == set(host.node.router.mesh.routes.unicast_all) for host in hosts),
        within=600,
        what="everybody can reach everybody",
    )
    formed = time.perf_counter() - began

    async def cost_of(host: IpamHost, subnet: IPv4Network | None) -> Cost:
        start, before = trio.current_time(), Traffic(traffic.messages, traffic.bytes)
        await host.allocate(f"web {start}", subnet, wait=120)
        served = trio.current_time() - start
        await wait_until(lambda: _agreed(hosts), within=600, what="all rings are equal")
        return Cost(traffic - before, served, trio.current_time() - start)

    election = await cost_of(hosts[peers // 2], None)
    await trio.sleep(30)
    before = Traffic(traffic.messages, traffic.bytes)
    await trio.sleep(60)
    idle = traffic - before
    first = hosts[0].allocator.ring.entries[0]
    asker = next(host for host in hosts if host.node.name != first.peer)
    donation = await cost_of(asker, IPv4Network((first.token, 24)))
    return Figures(
        peers, sum(map(len, targets.values())), formed, idle, election, donation, len(asker.ipam.encoded_state())
    )


def _agreed(hosts: list[IpamHost]) -> bool:
    division = [(entry.token, entry.peer) for entry in hosts[0].allocator.ring.entries]
    return bool(division) and all(
        division == [(entry.token, entry.peer) for entry in host.allocator.ring.entries] for host in hosts
    )


def table(figures: list[Figures]) -> Table:
    """For people."""
    result = Table(title="IPallocation messages, counted hop by hop, until all rings are equal")
    for heading in (
        "peers", "links", "state", "election", "served / all agree", "donation", "served / all agree", "idle minute",
        "full mesh, 1 change", "formed (real)",
    ):  # fmt: skip
        result.add_column(heading, justify="right")
    for f in figures:
        result.add_row(
            f"{f.peers}", f"{f.links}", _size(f.state_bytes), _traffic(f.election.traffic),
            f"{f.election.served:.2f} / {f.election.agreed:.2f} s", _traffic(f.donation.traffic),
            f"{f.donation.served:.2f} / {f.donation.agreed:.2f} s", _traffic(f.idle), _traffic(f.full_mesh),
            f"{f.formed:.1f} s",
        )  # fmt: skip
    return result


def _traffic(traffic: Traffic) -> str:
    return f"{traffic.messages:,}, {_size(traffic.bytes)}"


def _size(number: float) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e6 else f"{number / 1e3:.1f} kB"


def main(arguments: list[str]) -> int:
    """Measure clusters of the sizes given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=int, nargs="*", default=[10, 50, 100, 200])
    logging.disable(logging.WARNING)
    console = Console(width=180)
    figures = []
    for peers in parser.parse_args(arguments).peers:
        began = time.perf_counter()
        figures.append(measure(peers))
        console.print(f"{peers} peers measured in {time.perf_counter() - began:.0f} s", style="dim")
    console.print(table(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
