"""Routers come to one view of the network, and to the routes that follow from it."""

from __future__ import annotations

import random
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
import trio

from weave_router.testing.simulated_cluster import address, run_cluster, wait_until
from weave_router.testing.simulated_links import LinkConditions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode
    from weave_router.wire.peer_name import PeerName
    from weave_router.wire.topology import PeerRecord

    Graph = Mapping[PeerName, set[PeerName]]

HANDSHAKE = 5.0
LINK_TIMEOUT = 60.0
RETRY = 30.0
GOSSIP = 30.0


def spec_search(graph: Graph, source: PeerName, stop: PeerName | None = None) -> dict[PeerName, PeerName]:
    """The search of mesh.md 11.2, written down as it stands there; with `stop` that of 11.3."""
    hop = {source: 0}
    level = [source]
    while level:
        following = []
        for peer in sorted(level):
            if peer == stop:
                return hop  # type: ignore[return-value]
            for other in graph[peer]:
                if other not in hop:
                    hop[other] = other if peer == source else hop[peer]
                    following.append(other)
        level = following
    return hop if stop is None else {}  # type: ignore[return-value]


def spec_broadcast(graph: Graph, source: PeerName, at: PeerName) -> set[PeerName]:
    found = spec_search(graph, source, at)
    return {other for other in graph[at] if other not in found} if at in found else set()


def established(records: Mapping[PeerName, PeerRecord]) -> Graph:
    half = {name: {link.remote for link in record.links if link.established} for name, record in records.items()}
    return {name: {other for other in others if name in half.get(other, ())} for name, others in half.items()}


def everything(records: Mapping[PeerName, PeerRecord]) -> Graph:
    return {name: {link.remote for link in record.links} for name, record in records.items()}


def view(node: SimulatedNode) -> object:
    """All records of a router, in a form that can be compared."""
    records = node.router.mesh.topology.records
    return {
        name: (r.uid, r.version, r.nickname, r.short_id, {link.remote: link for link in r.links})
        for name, r in records.items()
    }


def agree(nodes: Iterable[SimulatedNode]) -> bool:
    first, *others = nodes
    return all(view(other) == view(first) for other in others)


def check_routes(nodes: Iterable[SimulatedNode]) -> None:
    """Every router's routes are what the specification makes of its records."""
    for node in nodes:
        records, routes = node.router.mesh.topology.records, node.router.mesh.routes
        assert routes.unicast == spec_search(established(records), node.name)
        assert routes.unicast_all == spec_search(everything(records), node.name)
        for source in records:
            assert set(routes.broadcast(source)) == spec_broadcast(established(records), source, node.name)
            assert set(routes.broadcast_all(source)) == spec_broadcast(everything(records), source, node.name)


async def settle(nodes: Iterable[SimulatedNode], *, within: float) -> None:
    nodes = list(nodes)
    names = {node.name for node in nodes}
    await wait_until(
        lambda: all(node.router.mesh.routes.unicast.keys() == names for node in nodes) and agree(nodes),
        within=within,
        what="one view of all peers, and routes to all",
    )
    await trio.sleep(2)  # a link's last changes are told within 1.1 s
    assert agree(nodes)
    check_routes(nodes)


@pytest.mark.parametrize("discovery", [True, False])
def test_a_line_of_three(discovery: bool) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster.world.cut(address(1), address(3))
        a, b, c = await cluster.start_line(3, discovery=discovery)
        await settle((a, b, c), within=HANDSHAKE)
        assert [len(node.router.status().peers) for node in (a, b, c)] == [3, 3, 3]
        assert a.route(c) == c.route(a) == b.name
        assert b.route(a) == a.name
        await trio.sleep(600)
        assert a.route(c) == b.name
        cluster.world.heal()
        if discovery:
            await wait_until(lambda: a.route(c) == c.name, within=RETRY + 20 + HANDSHAKE)

    run_cluster(main)


@pytest.mark.parametrize("seed", range(3))
def test_a_ring_of_four_goes_round_a_cut_link(seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b, c, d = await cluster.start_ring(4, discovery=False)
        nodes = (a, b, c, d)
        await settle(nodes, within=RETRY + HANDSHAKE)
        assert (a.route(b), a.route(d)) == (b.name, d.name)
        await trio.sleep(10 * seed)
        cluster.world.cut(address(1), address(2))
        # Each end notices for itself. From the later one on, all have 2 s.
        gone = {a: b.name, b: a.name}
        for node, other in gone.items():
            await wait_until(lambda n=node, o=other: o not in n.neighbours(), within=LINK_TIMEOUT + 0.1)  # type: ignore[misc]
        await wait_until(lambda: a.route(b) == d.name and b.route(a) == c.name, within=2)
        await settle(nodes, within=2)
        await trio.sleep(100)
        cluster.world.heal()
        await wait_until(lambda: all(len(node.neighbours()) == 2 for node in nodes), within=RETRY + HANDSHAKE)
        await settle(nodes, within=2)

    run_cluster(main, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_partition_heals(seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        nodes = await cluster.start_line(5)
        full = [len(nodes) - 1] * len(nodes)
        await wait_until(lambda: [len(node.neighbours()) for node in nodes] == full, within=HANDSHAKE)
        left, right = nodes[:2], nodes[2:]
        cluster.world.partition([node.host.address for node in left], [node.host.address for node in right])
        await trio.sleep(LINK_TIMEOUT + 1)
        for side in (left, right):
            await settle(side, within=2)
        await trio.sleep(random.Random(seed).uniform(0, 120))
        cluster.world.heal()
        await wait_until(lambda: [len(node.neighbours()) for node in nodes] == full, within=RETRY + HANDSHAKE)
        await settle(nodes, within=2)

    run_cluster(main, seed=seed)


def test_a_hub_that_fails_leaves_the_others_connected() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        hub = await cluster.start(1)
        others = [await cluster.start(number, 1) for number in (2, 3, 4)]
        await settle((hub, *others), within=HANDSHAKE)
        await hub.crash(silent=True)
        await trio.sleep(LINK_TIMEOUT)
        await settle(others, within=2)
        await hub.start()
        await settle((hub, *others), within=RETRY + HANDSHAKE)

    run_cluster(main)


def test_a_hub_tells_all_of_its_leaves_of_a_change() -> None:
    """They cannot learn it from anybody else."""

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(1, discovery=False)
        leaves = [await cluster.start(number, 1, discovery=False) for number in range(2, 18)]
        await trio.sleep(300)
        await settle(cluster.nodes.values(), within=RETRY)
        new = await cluster.start(18, 1, discovery=False)
        await wait_until(lambda: all(leaf.route(new) is not None for leaf in leaves), within=HANDSHAKE)
        await new.stop()
        await wait_until(lambda: not any(leaf.route(new) for leaf in leaves), within=2)

    run_cluster(main)


def _random_edges(chance: random.Random, count: int) -> dict[int, list[int]]:
    """Targets of each node: a random tree, and some edges more."""
    targets: dict[int, list[int]] = {n: [] for n in range(1, count + 1)}
    for n in range(2, count + 1):
        other = chance.randrange(1, n)
        dialler, dialled = (n, other) if chance.random() < 0.5 else (other, n)
        targets[dialler].append(dialled)
    for a, b in combinations(range(1, count + 1), 2):
        if chance.random() < 1 / count and b not in targets[a] and a not in targets[b]:
            targets[a].append(b)
    return targets


async def _trouble(cluster: SimulatedCluster, chance: random.Random) -> None:
    """Some minutes of partitions, cuts, crashes and restarts."""
    numbers = list(cluster.nodes)
    for _ in range(chance.randrange(3, 8)):
        await trio.sleep(chance.uniform(0, 50))
        match chance.randrange(5):
            case 0:
                cut = chance.randrange(1, len(numbers))
                chance.shuffle(numbers)
                cluster.world.partition(map(address, numbers[:cut]), map(address, numbers[cut:]))
            case 1:
                a, b = chance.sample(numbers, 2)
                cluster.world.cut(address(a), address(b), one_way=chance.random() < 0.3)
            case 2:
                cluster.world.heal()
            case 3:
                cluster.nodes[chance.choice(numbers)].host.reset_connections()
            case 4:
                node = cluster.nodes[chance.choice(numbers)]
                await node.crash(silent=chance.random() < 0.5)
                await trio.sleep(chance.choice((0, 0.05, 1, 20)))
                await node.start()


@pytest.mark.parametrize("seed", range(12))
def test_any_topology_converges(seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        chance = random.Random(f"topology {seed}")
        count = chance.randrange(5, 13)
        discovery = chance.random() < 0.3
        for number, targets in _random_edges(chance, count).items():
            cluster.node(number, discovery=discovery)
            cluster.nodes[number].targets = tuple(map(address, targets))
        order = list(cluster.nodes)
        chance.shuffle(order)
        for number in order:
            await cluster.nodes[number].start()
            await trio.sleep(chance.choice((0, 0.01, 0.5)))
        await _trouble(cluster, chance)
        cluster.world.heal()
        # What is half dead now needs its timeout, a TCP attempt that hangs 20 s, then the longest wait.
        nodes = list(cluster.nodes.values())
        wanted = {
            node: {n.name for n in nodes if discovery or n.host.address in node.targets} - {node.name} for node in nodes
        }
        await wait_until(
            lambda: all(names <= node.neighbours() for node, names in wanted.items()),
            within=LINK_TIMEOUT + 20 + RETRY + HANDSHAKE,
            what="all links",
        )
        # In a star the hub tells only some of its neighbours at once (7.3), the others with its periodic gossip.
        await trio.sleep(3 * GOSSIP)
        assert agree(nodes)
        check_routes(nodes)

    bad = LinkConditions(latency=0.01, jitter=0.03, loss=0.1, duplication=0.05, reordering=0.1)
    run_cluster(main, seed=seed, link=bad)
