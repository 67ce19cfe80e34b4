"""Turmoil from a seed, whatever the hosts do: they crash, come and go, and the network between them fails."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import trio

from simulation.cluster_plan import ClusterPlan
from simulation.living_host import LivingHost
from weave_router.testing.simulated_cluster import address, run_cluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode

    Action = Callable[[], Awaitable[None]]
    MakeTurmoil = Callable[[SimulatedCluster, trio.Nursery, list[str]], "Turmoil[Any, Any]"]

PlanT = TypeVar("PlanT", bound=ClusterPlan)
HostT = TypeVar("HostT", bound=LivingHost)

MAX_DEGREE = 8
"""Connections that a host is configured for, its own and those to it."""


@dataclass
class Outcome:
    """What a run came to."""

    plan: ClusterPlan
    trace: list[str] = field(default_factory=list)
    """All that was done and answered, with the simulated time; equal for equal seeds."""
    error: str = ""

    @property
    def digest(self) -> str:
        """A short mark of the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:12]


def run_plan(plan: ClusterPlan, make: MakeTurmoil) -> Outcome:
    """Run one seed to its end. What went wrong is told by the outcome's `error`."""
    outcome = Outcome(plan)

    async def main(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            turmoil = make(cluster, nursery, outcome.trace)
            nursery.start_soon(turmoil.watch)
            await turmoil.run()
            nursery.cancel_scope.cancel()

    try:
        run_cluster(main, seed=plan.seed, link=plan.link)
    except Exception as error:  # one that nobody expected is a failure of this seed, not of the whole run
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


class Turmoil(ABC, Generic[PlanT, HostT]):
    """One run."""

    poll_seconds: ClassVar[float] = 0.05
    """How often it is checked what must always hold."""
    most_skew_seconds: ClassVar[float]
    """How far a clock may be off."""
    most_newcomers: ClassVar[int] = 6
    refusals: ClassVar[tuple[type[Exception], ...]] = ()
    """What a request may be answered with."""

    def __init__(self, plan: PlanT, cluster: SimulatedCluster, nursery: trio.Nursery, trace: list[str]) -> None:
        self.plan = plan
        self.hosts: dict[int, HostT] = {}
        self._cluster = cluster
        self._nursery = nursery
        self._trace = trace
        self._chance = random.Random(f"turmoil {plan.seed}")
        self._degrees: Counter[int] = Counter()

    @abstractmethod
    async def run(self) -> None:
        """Turmoil, then peace. Raises `InvariantBroken`."""

    @abstractmethod
    def _check(self) -> None:
        """What must always hold. Raises `InvariantBroken`."""

    @abstractmethod
    async def _tidy(self, host: HostT) -> None:
        """Settle what the last life of a host left open."""

    @abstractmethod
    def _containers_ended(self, host: HostT) -> None:
        """Take all containers of a host out of the books."""

    async def watch(self) -> None:
        """Check what must always hold, all the time."""
        while True:
            self._check()
            await trio.sleep(self.poll_seconds)

    def _note(self, *facts: object) -> None:
        self._trace.append(" ".join((f"{trio.current_time():10.6f}", *map(str, facts))))

    async def _act(self, actions: Mapping[Action, int], steps: int, pause: float) -> None:
        """So many actions, each as often as its weight says."""
        for _ in range(steps):
            (action,) = self._chance.choices(list(actions), list(actions.values()))
            await action()
            self._check()
            await trio.sleep(self._chance.expovariate(1 / pause))

    # --- who is there -----------------------------------------------------------------------------------------------

    @property
    def _living(self) -> list[HostT]:
        return [host for host in self.hosts.values() if host.up and not host.gone]

    @property
    def _down(self) -> list[HostT]:
        return [host for host in self.hosts.values() if not host.up and not host.gone]

    def _some(self) -> HostT:
        return self._chance.choice(self._living)

    async def _admit(self, make: Callable[[int, SimulatedNode, float], HostT]) -> None:
        """One more host, made from its number, its node and its clock's skew; it knows up to three others."""
        number = len(self.hosts) + 1
        node = self._cluster.node(number, discovery=self.plan.discovery)
        skew = self._chance.uniform(-self.most_skew_seconds, self.most_skew_seconds)
        earlier = [host for host in self.hosts.values() if not host.gone]
        earlier = [host for host in earlier if self._degrees[host.number] < MAX_DEGREE] or earlier
        targets = self._chance.sample(earlier, min(len(earlier), self._chance.randint(1, 3)))
        self._degrees.update([number] * len(targets) + [target.number for target in targets])
        host = make(number, node, skew)
        self.hosts[number] = host
        self._note("start", number, "with", *(target.number for target in targets))
        await host.start(*(address(target.number) for target in targets))

    @property
    def _room(self) -> bool:
        """Whether one more host may join."""
        return len(self.hosts) < self.plan.peers + self.most_newcomers

    # --- requests ---------------------------------------------------------------------------------------------------

    def _spawn(self, host: HostT, what: str, request: Callable[[], Awaitable[object]]) -> None:
        """Let a host be asked for something. The answer is noted; a crash takes it away."""

        async def run() -> None:
            with host.until_crash():
                try:
                    result = await request()
                except self.refusals as error:
                    result = f"{type(error).__name__}: {error}"
                self._note(host.number, what, "->", result)
                self._check()

        self._nursery.start_soon(run)

    # --- crashes ----------------------------------------------------------------------------------------------------

    async def _crash(self) -> None:
        if len(self._living) > 2:
            host, silent = self._some(), self._chance.random() < 0.4
            self._note("crash", host.number, "silently" if silent else "")
            await host.crash(silent=silent)

    async def _crash_soon(self, host: HostT, when: str) -> None:
        link = self.plan.link
        await trio.sleep(self._chance.uniform(0, 2 * (link.latency + link.jitter + 2 * self.plan.write_seconds)))
        self._note("crash", host.number, when)
        await host.crash(silent=self._chance.random() < 0.3)
        if self._chance.random() < 0.6:
            await trio.sleep(self._chance.uniform(0, 2))
            await self._start_again(host)

    async def _restart(self) -> None:
        if self._down:
            await self._start_again(self._chance.choice(self._down))

    async def _start_again(self, host: HostT) -> None:
        self._note("restart", host.number)
        await host.start()
        await self._tidy(host)

    # --- hosts that go ----------------------------------------------------------------------------------------------

    def _may_go(self) -> list[HostT]:
        """Hosts that can be done without."""
        return self._living if len(self._living) > 4 else []

    async def _lose(self) -> None:
        """A host is destroyed, with its disk and its containers."""
        if candidates := self._may_go():
            host = self._chance.choice(candidates)
            self._note("lose", host.number)
            await host.crash(silent=self._chance.random() < 0.5)
            await self._gone(host)

    async def _gone(self, host: HostT) -> None:
        """A host is gone for good; who knew only it and later ones gets another target."""
        host.gone = True
        self._containers_ended(host)
        for number, other in self.hosts.items():
            if other.gone:
                continue
            known = {int(target.rpartition(".")[2]) for target in other.node.targets}
            earlier = [n for n, h in self.hosts.items() if n < number and not h.gone]
            if not earlier or known & set(earlier):
                continue
            target = address(self._chance.choice(earlier))
            other.node.targets = (*other.node.targets, target)
            if other.up:
                await other.node.router.connect([target])

    # --- the network ------------------------------------------------------------------------------------------------

    async def _partition(self) -> None:
        numbers = sorted(self.hosts)
        some = set(self._chance.sample(numbers, self._chance.randint(1, len(numbers) - 1)))
        self._note("partition", *sorted(some))
        self._cluster.world.partition(map(address, sorted(some)), map(address, sorted(set(numbers) - some)))

    async def _cut_one_way(self) -> None:
        numbers = sorted(self.hosts)
        sources = self._chance.sample(numbers, self._chance.randint(1, 3))
        sinks = self._chance.sample(numbers, self._chance.randint(1, len(numbers)))
        self._note("cut", *sources, "->", *sinks)
        for source in sources:
            for sink in sinks:
                self._cluster.world.cut(address(source), address(sink), one_way=True)

    async def _heal(self) -> None:
        self._note("heal")
        self._cluster.world.heal()
