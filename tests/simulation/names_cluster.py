"""A cluster of hosts with names, for tests of single behaviours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from simulation.host_cluster import HostCluster, run_host_cluster
from simulation.names_host import NamesHost
from simulation.names_invariants import NameInvariants, differences
from simulation.names_ledger import NameLedger
from simulation.received_messages import watched_messages
from weave_dns.messages import CHANNEL6, FAMILIES, Header, decode_message
from weave_dns.names import absolute
from weave_router.testing.simulated_cluster import address, wait_until
from weave_router.wire.envelope import Tag, decode_envelope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    import trio

    from weave_dns.entries import Entry
    from weave_router.control.mesh import Mesh
    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode
    from weave_router.testing.simulated_links import LinkConditions
    from weave_router.wire.peer_name import PeerName

GOSSIP = 30.0


class NamesCluster(HostCluster[NamesHost]):
    """Hosts by number; what `NameInvariants` says holds as long as it exists."""

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, seed: int) -> None:
        super().__init__(cluster, nursery, seed)
        self.ledger = NameLedger()
        self._invariants = NameInvariants(self.ledger)

    def check(self) -> None:
        """What holds at every moment."""
        self._invariants.check(self.hosts.values())

    async def start(self, number: int, *targets: int, clock_skew: float = 0.0) -> NamesHost:
        """Start a host with others as targets."""
        node = self._cluster.node(number, discovery=False)
        host = NamesHost(number, node, self._nursery, self.ledger, seed=self._seed, clock_skew=clock_skew)
        self.hosts[number] = host
        await host.start(*map(address, targets))
        return host

    async def start_full_mesh(self, count: int) -> list[NamesHost]:
        """Hosts 1 to `count`, connected to each other when this returns."""
        hosts = [await self.start(number, *range(1, number)) for number in range(1, count + 1)]
        await self.meet()
        return hosts

    async def start_relay(self, number: int, *targets: int, names4: bool) -> SimulatedNode:
        """Start a router that passes on names without knowing them, or with `names4` knows those of IPv4 only."""
        if names4:
            host = await self.start(number, *targets)
            del host.node.router.mesh._channels[CHANNEL6]
            return host.node
        return await self._cluster.start(number, *targets, discovery=False)

    def found(self, hostname: str) -> list[int]:
        """The hosts that find a name, each as often as it has an address."""
        up = [host for host in self.hosts.values() if host.up]
        return [host.number for host in up for _ in host.names.table.of_name(absolute(hostname))]

    async def agree(self, *, within: float) -> None:
        """Wait until all know the same names, those that the ledger has."""
        hosts = [host for host in self.hosts.values() if host.up]
        try:
            await wait_until(lambda: not differences(hosts, self.ledger), within=within)
        except AssertionError:
            raise AssertionError(f"not within {within:g} s: {differences(hosts, self.ledger)[:5]}") from None


def run_names_cluster(
    main: Callable[[NamesCluster], Awaitable[None]], *, seed: int = 0, link: LinkConditions | None = None
) -> None:
    """Run `main(cluster)` to its end."""
    run_host_cluster(NamesCluster, main, seed=seed, link=link)


class NamesMessage(NamedTuple):
    """A message with names, as a router received it."""

    receiver: PeerName
    bytes: int
    entries: list[Entry]


@contextmanager
def messages_noted() -> Iterator[list[NamesMessage]]:
    """All messages with names that routers receive meanwhile."""
    noted: list[NamesMessage] = []
    families = {family.channel: family for family in FAMILIES}

    def note(mesh: Mesh, message: bytes) -> None:
        if message and message[0] in (Tag.GOSSIP, Tag.BROADCAST):
            envelope = decode_envelope(message)
            if family := families.get(envelope.channel):
                parts = decode_message(family, envelope.payload)
                entries = [entry for part in parts if not isinstance(part, Header) for entry in part]
                noted.append(NamesMessage(mesh.ourselves, len(message), entries))

    with watched_messages(note):
        yield noted
