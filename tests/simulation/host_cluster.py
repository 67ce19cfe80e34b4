"""A cluster of hosts with a service, for tests of single behaviours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio

from simulation.living_host import LivingHost
from weave_router.testing.simulated_cluster import address, run_cluster, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from weave_router.testing.simulated_cluster import SimulatedCluster
    from weave_router.testing.simulated_links import LinkConditions
    from weave_router.testing.simulated_network import SimulatedNetwork

HostT = TypeVar("HostT", bound=LivingHost)
ClusterT = TypeVar("ClusterT", bound="HostCluster[Any]")

POLL = 0.05


class HostCluster(ABC, Generic[HostT]):
    """Hosts by number, and what holds as long as they exist."""

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, seed: int) -> None:
        self.world: SimulatedNetwork = cluster.world
        self.hosts: dict[int, HostT] = {}
        self._cluster = cluster
        self._nursery = nursery
        self._seed = seed

    @abstractmethod
    def check(self) -> None:
        """Raises `InvariantBroken`."""

    async def watch(self) -> None:
        """Check what must always hold, all the time."""
        while True:
            self.check()
            await trio.sleep(POLL)

    async def meet(self) -> None:
        """Wait until everybody can reach everybody."""
        names = {host.node.name for host in self.hosts.values() if host.up}

        def met() -> bool:
            return all(names <= set(h.node.router.mesh.routes.unicast_all) for h in self.hosts.values() if h.up)

        await wait_until(met, within=60, what="everybody can reach everybody")

    def cut(self, some: set[int]) -> None:
        """Cut these hosts off from the others."""
        others = set(self.hosts) - some
        self.world.partition(map(address, sorted(some)), map(address, sorted(others)))


def run_host_cluster(
    make: Callable[[SimulatedCluster, trio.Nursery, int], ClusterT],
    main: Callable[[ClusterT], Awaitable[None]],
    *,
    seed: int,
    link: LinkConditions | None,
) -> None:
    """Run `main(make(…))` to its end."""

    async def run(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            hosts = make(cluster, nursery, seed)
            nursery.start_soon(hosts.watch)
            await main(hosts)
            nursery.cancel_scope.cancel()

    run_cluster(run, seed=seed, link=link)
