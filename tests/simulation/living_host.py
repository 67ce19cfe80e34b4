"""One host of a simulated cluster, with a router, a service and a store, from life to life."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from weave_router.testing.stores import SlowStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.shell.router import Router
    from weave_router.testing.simulated_cluster import SimulatedNode

EPOCH = 1_700_000_000.0
"""Unix seconds at the beginning of a simulation, on a host whose clock is right."""
_FASTEST_WRITE = 0.0001


class LivingHost(ABC):
    """A host that lives, dies and lives again.

    A crash ends router and service at once, with everything that was not durable; the store survives, and `start` goes
    on with it. `clock_skew`: seconds that its clock is ahead. `write_seconds`: what a write takes at most until it is
    durable, and again until the writer knows.
    """

    def __init__(
        self,
        number: int,
        node: SimulatedNode,
        nursery: trio.Nursery,
        *,
        seed: int,
        clock_skew: float = 0.0,
        write_seconds: float = 0.01,
    ) -> None:
        self.number = number
        self.node = node
        self.up = False
        self.gone = False
        """It will never come back, and its containers have ended: its disk is lost, or it leaves or has left."""
        self.clock_skew = clock_skew
        self.store = SlowStore(self._write_seconds)
        self._nursery = nursery
        self._slowest_write = write_seconds
        self._seed = seed
        self._chance = random.Random(f"disk {seed} {number}")
        self._scopes: dict[trio.CancelScope, None] = {}
        node.begin = self._begin

    @abstractmethod
    async def _begin(self, router: Router) -> None:
        """Make the service of a new life, and let it read the store; the router does not run yet."""

    @abstractmethod
    async def _serve(self) -> None:
        """Run the service of the present life until cancelled."""

    def clock(self) -> float:
        """What this host takes for the time, in Unix seconds."""
        return EPOCH + self.clock_skew + trio.current_time()

    def _write_seconds(self) -> float:
        return self._chance.uniform(_FASTEST_WRITE, self._slowest_write)

    async def start(self, *targets: str) -> None:
        """Start router and service, with these targets or those of last time."""
        await self.node.start(*targets)
        self.up = True
        self._nursery.start_soon(self._live)

    async def _live(self) -> None:
        with self.until_crash():
            await self._serve()

    async def crash(self, *, silent: bool = False) -> None:
        """End everything now. `silent`: by a loss of power, so that nobody is told."""
        self.store = self.store.crash()
        self._end()
        await self.node.crash(silent=silent)

    async def stop(self) -> None:
        """End the router in good order."""
        await self.node.router.farewell()  # while the services still serve, as in the daemon
        self.store = self.store.crash()
        self._end()
        await self.node.end()

    def lose_disk(self) -> None:
        """While it is down, it gets an empty disk in place of its own."""
        if self.up:
            raise RuntimeError(f"host {self.number} is up")
        self.store = SlowStore(self._write_seconds)

    def _end(self) -> None:
        self.up = False
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def until_crash(self) -> Iterator[trio.CancelScope]:
        """For what runs on this host: it ends with this life, or by the scope."""
        with trio.CancelScope() as scope:
            self._scopes[scope] = None
            try:
                yield scope
            finally:
                del self._scopes[scope]
