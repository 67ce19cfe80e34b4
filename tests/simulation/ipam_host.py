"""One host of a simulated cluster with everything that allocates addresses on it, from life to life."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from simulation.invariant import InvariantBroken
from simulation.ipam_ledger import Holder
from simulation.living_host import LivingHost
from weave_ipam.service import Ipam

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Interface, IPv6Interface

    from simulation.ipam_ledger import Ledger
    from weave_ipam.allocator import Allocator
    from weave_ipam.ranges import Network
    from weave_ipam.settings import IpamSettings
    from weave_router.shell.router import Router
    from weave_router.testing.simulated_cluster import SimulatedNode


class IpamHost(LivingHost):
    """A host with an allocator. Answers go into the ledger, which checks them."""

    def __init__(
        self,
        number: int,
        node: SimulatedNode,
        nursery: trio.Nursery,
        settings: IpamSettings,
        ledger: Ledger,
        *,
        seed: int,
        clock_skew: float = 0.0,
        write_seconds: float = 0.01,
    ) -> None:
        super().__init__(number, node, nursery, seed=seed, clock_skew=clock_skew, write_seconds=write_seconds)
        self.settings = settings
        self.unanswered: dict[str, None] = {}
        """Identifiers whose requests ended without an answer, by crash or because the asker went away."""
        self._asking: dict[str, None] = {}
        self._ledger = ledger
        self._ipam: Ipam | None = None

    @property
    def ipam(self) -> Ipam:
        """The present life's allocation service."""
        if self._ipam is None:
            raise RuntimeError(f"host {self.number} has not been started")
        return self._ipam

    @property
    def allocator(self) -> Allocator:
        """The present life's allocator."""
        return self.ipam._allocator

    # --- lives ------------------------------------------------------------------------------------------------------

    async def start(self, *targets: str) -> None:
        """Start router and allocator, and check that every answer of earlier lives still holds."""
        await super().start(*targets)
        owned = self.ipam.owned()
        for identifier, addresses in self._ledger.on(self.number).items():
            kept = {interface.ip for interface in owned.get(identifier, ())}
            if not addresses <= kept:
                raise InvariantBroken(f"after its restart host {self.number} has {kept} for {identifier}: {addresses}")

    async def _begin(self, router: Router) -> None:
        self._ipam = Ipam(
            self.settings,
            router.mesh,
            self.store,
            random=random.Random(f"allocator {self._seed} {self.number} {self.node.lives}"),
            clock=self.clock,
        )
        await self._ipam.begin()
        router.on_routes_changed(self._ipam.routes_changed)

    async def _serve(self) -> None:
        await self.ipam.run()

    # --- requests, which end at a crash -------------------------------------------------------------------------------

    async def allocate(self, identifier: str, subnet: Network | None, *, wait: float) -> IPv4Interface | IPv6Interface:
        """Ask for an address. Raises `IpamError`, and `trio.Cancelled` at a crash."""
        with self._asks(identifier):
            interface = await self.ipam.allocate(identifier, subnet, wait=wait)
        self._answered(identifier, interface)
        return interface

    async def claim(self, identifier: str, address: IPv4Interface | IPv6Interface, *, wait: float) -> None:
        """Claim an address. Raises `IpamError`."""
        with self._asks(identifier):
            await self.ipam.claim(identifier, address, wait=wait)
        self._answered(identifier, address)

    async def release(self, identifier: str) -> None:
        """End a container. Raises `NotFound` for one that has no address."""
        self._ledger.released(Holder(self.number, identifier))
        with self._asks(identifier):
            await self.ipam.release(identifier)

    def free_to_ask(self, identifier: str) -> bool:
        """Whether no request of this container is being served."""
        return identifier not in self._asking

    @contextmanager
    def _asks(self, identifier: str) -> Iterator[None]:
        if identifier in self._asking:
            raise RuntimeError(f"{identifier} asks for something already")
        self._asking[identifier] = None
        self.unanswered.pop(identifier, None)
        try:
            yield
        except trio.Cancelled:
            self.unanswered[identifier] = None
            raise
        finally:
            del self._asking[identifier]

    def _answered(self, identifier: str, interface: IPv4Interface | IPv6Interface) -> None:
        if not self.gone:
            self._ledger.answered(Holder(self.number, identifier), interface.ip)
