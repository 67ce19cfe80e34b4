"""Real routers on a simulated network: nodes that start, stop, crash and start again.

Node n has the address 10.0.0.n, the peer name 02:00:00:00:00:n (n in two bytes) and the nickname "node n".
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from weave_router.shell.router import Router
from weave_router.shell.settings import RouterSettings
from weave_router.testing.hosts import RecordingHost
from weave_router.testing.simulated_run import run_simulation
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from weave_router.status import ConnectionStatus
    from weave_router.testing.simulated_links import LinkConditions
    from weave_router.testing.simulated_network import SimulatedNetwork

FIRST_NAME = 0x02_00_00_00_00_00
_POLL = 0.05


def peer_name(number: int) -> PeerName:
    """The peer name of node `number`."""
    return PeerName(FIRST_NAME + number)


def address(number: int) -> str:
    """The address of node `number`."""
    return f"10.0.0.{number}"


async def _nothing(_: Router) -> None:
    """What a node does before its router runs, unless told otherwise."""


class SimulatedNode:
    """One host and the router that runs on it at the time."""

    def __init__(
        self, world: SimulatedNetwork, nursery: trio.Nursery, settings: RouterSettings, ip: str, seed: int
    ) -> None:
        self.world = world
        self.settings = settings
        self.host = world.host(ip)
        self.name = PeerName(settings.name)
        self.lives = 0
        """How often a router has been started here."""
        self._nursery = nursery
        self._seed = seed
        self._router: Router | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self.targets: tuple[str, ...] = ()
        """What the router is started with."""
        self.prepare: Callable[[Router], None] = lambda _: None
        """Called with each new router before it runs, for instance to register channels."""
        self.begin: Callable[[Router], Awaitable[None]] = _nothing
        """Awaited with each new router before it runs, for what reads a store first."""

    @property
    def router(self) -> Router:
        """The present router."""
        if self._router is None:
            raise RuntimeError(f"no router runs at {self.host.address}")
        return self._router

    async def start(self, *targets: str) -> Router:
        """Start a router, with these targets or those of last time; returns when it is ready."""
        self.targets = targets or self.targets
        self.lives += 1
        if not self.host.powered:
            self.host.regain_power()
        bridge = RecordingHost()
        bridge.add_device(self.settings.tap)
        self._router = Router(
            self.settings,
            host=bridge,
            targets=self.targets,
            network=self.host,
            random=random.Random(f"{self._seed} {self.host.address} {self.lives}"),  # noqa: S311 - chance must be repeatable
        )
        self.prepare(self._router)
        await self.begin(self._router)
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        await self._nursery.start(self._live, self._router)
        return self._router

    async def _live(self, router: Router, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                await router.run(task_status=task_status)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Stop the router in order; its connections are closed."""
        await self.router.farewell()
        await self.end()

    async def end(self) -> None:
        """End the router without a word; its connections are closed."""
        self._scope.cancel()
        await self._ended.wait()

    async def crash(self, *, silent: bool = False) -> None:
        """Kill the router. `silent`: the host loses power, so that nobody is told."""
        if silent:
            self.host.lose_power()
        else:
            self.host.reset_connections()
        await self.end()

    # --- what tests ask ---------------------------------------------------------------------------------------------

    def connections(self, state: str = "established") -> list[ConnectionStatus]:
        """The router's connections in this state."""
        return [connection for connection in self.router.status().connections if connection.state == state]

    def neighbours(self) -> set[PeerName]:
        """Peers that this router has an established connection with."""
        mesh = self.router.mesh
        return {name for name, connection in mesh.connections.items() if connection.established}

    def route(self, other: SimulatedNode) -> PeerName | None:
        """The next hop of frames to another node; None where there is none."""
        return self.router.mesh.routes.unicast.get(other.name)


class SimulatedCluster:
    """Nodes by number. Routers of one seed draw the same random numbers in every run."""

    def __init__(self, world: SimulatedNetwork, nursery: trio.Nursery, seed: int = 0) -> None:
        self.world = world
        self.nodes: dict[int, SimulatedNode] = {}
        self._nursery = nursery
        self._seed = seed

    def node(self, number: int, **settings: object) -> SimulatedNode:
        """Node `number`, made when first asked for; `settings` replace fields of its `RouterSettings`."""
        if number not in self.nodes:
            plain = RouterSettings(
                name=peer_name(number),
                nickname=f"node {number}",
                listen_address="0.0.0.0",  # noqa: S104
                fast_datapath=False,  # there is no kernel here that could carry anything
            )
            self.nodes[number] = SimulatedNode(
                self.world,
                self._nursery,
                replace(plain, **settings),  # type: ignore[arg-type]  # names and types are the dataclass's
                address(number),
                self._seed,
            )
        return self.nodes[number]

    async def start(self, number: int, *targets: int, **settings: object) -> SimulatedNode:
        """Start node `number` with other nodes as targets."""
        node = self.node(number, **settings)
        await node.start(*(address(target) for target in targets))
        return node

    async def start_line(self, count: int, **settings: object) -> Sequence[SimulatedNode]:
        """Nodes 1 to `count`, each with the one before as its target."""
        return [await self.start(n, *([n - 1] if n > 1 else []), **settings) for n in range(1, count + 1)]

    async def start_ring(self, count: int, **settings: object) -> Sequence[SimulatedNode]:
        """Nodes 1 to `count`, each with the one before as its target, the first with the last."""
        return [await self.start(n, n - 1 or count, **settings) for n in range(1, count + 1)]


def run_cluster(
    main: Callable[[SimulatedCluster], Awaitable[None]],
    *,
    seed: int = 0,
    link: LinkConditions | None = None,
) -> None:
    """Run `main(cluster)` to its end, then stop all nodes."""

    async def run(world: SimulatedNetwork) -> None:
        async with trio.open_nursery() as nursery:
            await main(SimulatedCluster(world, nursery, seed))
            nursery.cancel_scope.cancel()

    run_simulation(run, seed=seed, link=link)


async def wait_until(condition: Callable[[], bool], *, within: float, what: str = "") -> float:
    """Wait until `condition()` holds; returns how many seconds that took. Fails after `within` seconds."""
    start = trio.current_time()
    while not condition():
        if trio.current_time() - start > within:
            raise AssertionError(f"not within {within:g} s: {what or condition}")
        await trio.sleep(_POLL)
    return trio.current_time() - start
