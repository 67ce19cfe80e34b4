"""A cluster of hosts that allocate addresses, for tests of single behaviours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from simulation.ipam_host import IpamHost
from simulation.ipam_invariants import Invariants
from simulation.ipam_ledger import Ledger
from weave_ipam.settings import parse_settings
from weave_router.testing.simulated_cluster import address, run_cluster, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from weave_router.testing.simulated_cluster import SimulatedCluster
    from weave_router.testing.simulated_links import LinkConditions
    from weave_router.testing.simulated_network import SimulatedNetwork

POLL = 0.05


class IpamCluster:
    """Hosts by number; what `Invariants` and `Ledger` say holds as long as it exists."""

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, seed: int) -> None:
        self.world: SimulatedNetwork = cluster.world
        self.hosts: dict[int, IpamHost] = {}
        self.ledger = Ledger()
        self._cluster = cluster
        self._nursery = nursery
        self._seed = seed
        self._invariants = Invariants()

    async def watch(self) -> None:
        """Check what must always hold, all the time."""
        while True:
            self._invariants.check(self.hosts.values())
            await trio.sleep(POLL)

    async def start(self, number: int, *targets: int, network: str = "10.32.0.0/24", init: str = "") -> IpamHost:
        """Start a host with others as targets."""
        settings = parse_settings(network, None, init or None)
        assert settings is not None
        node = self._cluster.node(number, discovery=False)
        host = IpamHost(number, node, self._nursery, settings, self.ledger, seed=self._seed)
        self.hosts[number] = host
        await host.start(*map(address, targets))
        return host

    async def start_full_mesh(self, count: int, *, network: str = "10.32.0.0/24", init: str = "") -> list[IpamHost]:
        """Hosts 1 to `count`, each connected to all others; returns as soon as they are started."""
        return [await self.start(n, *range(1, n), network=network, init=init) for n in range(1, count + 1)]

    async def meet(self) -> None:
        """Wait until everybody can reach everybody."""
        names = {host.node.name for host in self.hosts.values() if host.up}

        def met() -> bool:
            return all(names <= set(h.node.router.mesh.routes.unicast_all) for h in self.hosts.values() if h.up)

        await wait_until(met, within=60, what="everybody can reach everybody")

    def agreed(self) -> bool:
        """Whether all hosts that are up have the same ring."""
        rings = [host.allocator.ring for host in self.hosts.values() if host.up]
        divisions = [[(entry.token, entry.peer) for entry in ring.entries] for ring in rings]
        return bool(divisions[0]) and all(division == divisions[0] for division in divisions)

    def cut(self, some: set[int]) -> None:
        """Cut these hosts off from the others."""
        others = set(self.hosts) - some
        self.world.partition(map(address, sorted(some)), map(address, sorted(others)))


def run_ipam_cluster(
    main: Callable[[IpamCluster], Awaitable[None]], *, seed: int = 0, link: LinkConditions | None = None
) -> None:
    """Run `main(cluster)` to its end."""

    async def run(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            hosts = IpamCluster(cluster, nursery, seed)
            nursery.start_soon(hosts.watch)
            await main(hosts)
            nursery.cancel_scope.cancel()

    run_cluster(run, seed=seed, link=link)
