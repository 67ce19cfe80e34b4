"""A cluster of hosts that allocate addresses, for tests of single behaviours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.host_cluster import HostCluster, run_host_cluster
from simulation.ipam_host import IpamHost
from simulation.ipam_invariants import Invariants
from simulation.ipam_ledger import Ledger
from weave_ipam.settings import parse_settings
from weave_router.testing.simulated_cluster import address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from weave_router.testing.simulated_cluster import SimulatedCluster
    from weave_router.testing.simulated_links import LinkConditions


class IpamCluster(HostCluster[IpamHost]):
    """Hosts by number; what `Invariants` and `Ledger` say holds as long as it exists."""

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, seed: int) -> None:
        super().__init__(cluster, nursery, seed)
        self.ledger = Ledger()
        self._invariants = Invariants()

    def check(self) -> None:
        """What holds at every moment."""
        self._invariants.check(self.hosts.values())

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

    def agreed(self) -> bool:
        """Whether all hosts that are up have the same ring."""
        rings = [host.allocator.ring for host in self.hosts.values() if host.up]
        divisions = [[(entry.token, entry.peer) for entry in ring.entries] for ring in rings]
        return bool(divisions[0]) and all(division == divisions[0] for division in divisions)


def run_ipam_cluster(
    main: Callable[[IpamCluster], Awaitable[None]], *, seed: int = 0, link: LinkConditions | None = None
) -> None:
    """Run `main(cluster)` to its end."""
    run_host_cluster(IpamCluster, main, seed=seed, link=link)
