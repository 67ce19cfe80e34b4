"""One host of a simulated cluster with the names of its containers, from life to life."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.living_host import LivingHost
from simulation.names_ledger import in_order
from weave_dns.entries import Bond, Entry, Identity
from weave_dns.names import absolute
from weave_dns.service import Names
from weave_dns.settings import DnsSettings

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    import trio

    from simulation.names_ledger import NameLedger
    from weave_dns.entries import Address
    from weave_router.shell.router import Router
    from weave_router.testing.simulated_cluster import SimulatedNode

BONDS = {"a": Bond.CONTAINER, "b": Bond.ADDRESS}
"""With what the names of a container go, by the first letter of its identifier; those of others with nothing."""


def bond_of(container: str) -> Bond:
    """With what the names of a container go."""
    return BONDS.get(container[:1], Bond.NOTHING)


class NamesHost(LivingHost):
    """A host with names. What it is asked and answers goes into the ledger, which checks it."""

    def __init__(
        self,
        number: int,
        node: SimulatedNode,
        nursery: trio.Nursery,
        ledger: NameLedger,
        *,
        seed: int,
        clock_skew: float = 0.0,
        write_seconds: float = 0.01,
    ) -> None:
        super().__init__(number, node, nursery, seed=seed, clock_skew=clock_skew, write_seconds=write_seconds)
        self._ledger = ledger
        self._names: Names | None = None

    @property
    def names(self) -> Names:
        """The present life's names."""
        if self._names is None:
            raise RuntimeError(f"host {self.number} has not been started")
        return self._names

    async def _begin(self, router: Router) -> None:
        self._names = Names(DnsSettings(), router.mesh, self.store, clock=self.clock)
        await self._names.begin()
        router.on_routes_changed(self._names.routes_changed)
        self._ledger.restarted(self.number, self.own())

    async def _serve(self) -> None:
        await self.names.run()

    # --- what it knows ----------------------------------------------------------------------------------------------

    def own(self) -> set[Identity]:
        """Its own living names."""
        return {entry.identity for entry in self.names.table.of_origin(self.node.name) if not entry.tombstone}

    def living(self) -> dict[Identity, Entry]:
        """All living names that it knows."""
        return {entry.identity: entry for entry in self.names.table.entries() if not entry.tombstone}

    def finds(self, identity: Identity) -> bool:
        """Whether a look-up by name and one by address give this entry."""
        table = self.names.table
        by_name = any(entry.identity == identity for entry in table.of_name(identity.hostname))
        return by_name and any(entry.identity == identity for entry in table.of_address(identity.address))

    # --- requests, which end at a crash -------------------------------------------------------------------------------

    async def add(self, container: str, address: Address, hostname: str) -> Entry:
        """Give a container's address a name."""
        identity = Identity(absolute(hostname).lower(), self.node.name, container, address)
        call = self._ledger.asked(self.number, [identity], alive=True)
        entry = await self.names.add(container, address, hostname, bond=bond_of(container))
        self._ledger.answered(self.number, call)
        return entry

    async def remove(
        self, container: str | None = None, address: Address | None = None, hostname: str | None = None
    ) -> list[Entry]:
        """Delete names; what is not given matches all."""
        folded = None if hostname is None else absolute(hostname).lower()
        matching = [
            identity
            for identity in self._ledger.possibly_alive(self.number)
            if container in (None, identity.container)
            and address in (None, identity.address)
            and folded in (None, identity.hostname)
        ]
        call = self._ledger.asked(self.number, matching, alive=False)
        gone = await self.names.remove(container, address, hostname)
        self._ledger.answered(self.number, call)
        return gone

    async def keep_attached(self, present: Mapping[str, Container[Address]]) -> None:
        """Delete the names that go with other containers than these, or with other addresses of theirs."""
        ended = []
        for name in self.own():
            bond, addresses = bond_of(name.container), present.get(name.container)
            gone = addresses is None or (bond is Bond.ADDRESS and name.address not in addresses)
            if bond and gone:
                ended.append(name)
        call = self._ledger.asked(self.number, in_order(ended), alive=False)
        await self.names.keep_attached(present)
        self._ledger.answered(self.number, call)
