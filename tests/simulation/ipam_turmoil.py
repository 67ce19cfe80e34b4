"""Turmoil from a seed: a cluster whose hosts ask for addresses, crash, are cut off, come, leave and are removed.

At every moment `ipam_invariants` must hold; when peace has come all must agree, and everybody must be served.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING

import trio

from simulation.ipam_host import IpamHost
from simulation.ipam_invariants import Invariants
from simulation.ipam_ledger import Holder, InvariantBroken, Ledger
from simulation.ipam_plan import Plan, draw_plan, random_address
from weave_ipam.errors import IpamError, NotFound, RemovalRefused, Unserved
from weave_ipam.ranges import hosts_of
from weave_ipam.settings import Beginning, IpamSettings, Mode
from weave_router.testing.simulated_cluster import address, run_cluster, wait_until
from weave_router.wire.peer_name import format_peer_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from weave_router.testing.simulated_cluster import SimulatedCluster

    Action = Callable[[], Awaitable[None]]

POLL = 0.05
SETTLE_SECONDS = 300.0
MAX_DEGREE = 8
"""Connections that a host is configured for, its own and those to it."""
"""Within so long after the last trouble all copies of the ring are equal."""
REST_SECONDS = 61.0
"""For so long released addresses are not given away."""
_SKEW_SECONDS = 3000.0


@dataclass
class Outcome:
    """What a run came to."""

    plan: Plan
    trace: list[str] = field(default_factory=list)
    """All that was done and answered, with the simulated time; equal for equal seeds."""
    error: str = ""

    @property
    def digest(self) -> str:
        """A short mark of the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()[:12]


def run_turmoil(seed: int, most_peers: int) -> Outcome:
    """Run one seed to its end. What went wrong is told by the outcome's `error`."""
    plan = draw_plan(seed, most_peers)
    outcome = Outcome(plan)

    async def main(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            turmoil = Turmoil(plan, cluster, nursery, outcome.trace)
            nursery.start_soon(turmoil.watch)
            await turmoil.run()
            nursery.cancel_scope.cancel()

    try:
        run_cluster(main, seed=seed, link=plan.link)
    except Exception as error:  # one that nobody expected is a failure of this seed, not of the whole run
        outcome.error = f"{type(error).__name__}: {error}"
    return outcome


class Turmoil:
    """One run."""

    def __init__(self, plan: Plan, cluster: SimulatedCluster, nursery: trio.Nursery, trace: list[str]) -> None:
        self.plan = plan
        self.hosts: dict[int, IpamHost] = {}
        self.ledger = Ledger()
        self._cluster = cluster
        self._nursery = nursery
        self._trace = trace
        self._chance = random.Random(f"turmoil {plan.seed}")
        self._invariants = Invariants()
        self._names = 0
        self._degrees: Counter[int] = Counter()
        self._cut = False

    def _note(self, *facts: object) -> None:
        self._trace.append(" ".join((f"{trio.current_time():10.6f}", *map(str, facts))))

    async def watch(self) -> None:
        """Check what must always hold, all the time."""
        while True:
            self._check()
            await trio.sleep(POLL)

    def _check(self) -> None:
        self._invariants.check(self.hosts.values())

    async def run(self) -> None:
        """Turmoil, then peace."""
        for number in range(1, self.plan.peers + 1):
            await self._add(self.plan.settings(number))
        if self.plan.agreed_start:
            await self._agree()
        if self.plan.troubled_start:
            await self._trouble_the_start()
        actions: dict[Action, int] = {
            self._ask: 30,
            self._ask_all: 4,
            self._ask_again: 4,
            self._claim: 8,
            self._release: 14,
            self._crash: 4,
            self._crash_while_serving: 4,
            self._crash_while_giving: 4,
            self._restart: 9,
            self._lose: 1,
            self._remove: 2,
            self._depart: 1,
            self._join: 3,
            self._partition: 3,
            self._cut_one_way: 3,
            self._heal: 6,
        }
        await self._act(actions, self.plan.steps, self.plan.pause)
        await self._make_peace()
        await self._judge()

    async def _trouble_the_start(self) -> None:
        actions: dict[Action, int] = {
            self._ask: 4,
            self._crash: 3,
            self._restart: 4,
            self._partition: 2,
            self._cut_one_way: 2,
            self._heal: 2,
        }
        await self._act(actions, self._chance.randint(10, 40), self._chance.choice((0.05, 0.5, 3.0)))

    async def _act(self, actions: Mapping[Action, int], steps: int, pause: float) -> None:
        for _ in range(steps):
            (action,) = self._chance.choices(list(actions), list(actions.values()))
            await action()
            self._check()
            await trio.sleep(self._chance.expovariate(1 / pause))

    # --- who is there -----------------------------------------------------------------------------------------------

    @property
    def _living(self) -> list[IpamHost]:
        return [host for host in self.hosts.values() if host.up and not host.gone]

    @property
    def _down(self) -> list[IpamHost]:
        return [host for host in self.hosts.values() if not host.up and not host.gone]

    def _some(self) -> IpamHost:
        return self._chance.choice(self._living)

    @property
    def _begun(self) -> bool:
        """Whether every host of the beginning has the ring, so that nobody can start another one."""
        return all(host.up and host.allocator.ring for host in self.hosts.values() if not host.gone)

    async def _add(self, settings: IpamSettings) -> None:
        number = len(self.hosts) + 1
        node = self._cluster.node(number, discovery=self.plan.discovery)
        skew = self._chance.uniform(-_SKEW_SECONDS, _SKEW_SECONDS)
        earlier = [host for host in self.hosts.values() if not host.gone]
        earlier = [host for host in earlier if self._degrees[host.number] < MAX_DEGREE] or earlier
        targets = self._chance.sample(earlier, min(len(earlier), self._chance.randint(1, 3)))
        self._degrees.update([number] * len(targets) + [target.number for target in targets])
        host = IpamHost(
            number,
            node,
            self._nursery,
            settings,
            self.ledger,
            seed=self.plan.seed,
            clock_skew=skew,
            write_seconds=self.plan.write_seconds,
        )
        self.hosts[number] = host
        self._note("start", number, "with", *(target.number for target in targets))
        await host.start(*(address(target.number) for target in targets))

    async def _agree(self) -> None:
        """Wait for the mesh, begin the ring at one host, and let all hear of it."""
        everybody = {host.node.name for host in self._living}
        await wait_until(
            lambda: all(everybody == set(host.node.router.mesh.routes.unicast_all) for host in self._living),
            within=SETTLE_SECONDS,
            what="mesh",
        )
        await self.hosts[1].ipam.prime(wait=SETTLE_SECONDS)
        await wait_until(lambda: self._begun, within=SETTLE_SECONDS, what="ring")
        self._note("agreed")

    # --- requests ---------------------------------------------------------------------------------------------------

    def _identifier(self) -> str:
        self._names += 1
        return f"c{self._names}"

    def _spawn(self, host: IpamHost, what: str, request: Callable[[], Awaitable[object]]) -> None:
        async def run() -> None:
            with host.until_crash():
                try:
                    result = await request()
                except IpamError as error:
                    result = f"{type(error).__name__}: {error}"
                self._note(host.number, what, "->", result)
                self._check()

        self._nursery.start_soon(run)

    def _allocate(self, host: IpamHost, identifier: str) -> None:
        chance = self._chance
        subnet = chance.choice(self.plan.subnets) if chance.random() < 0.25 else None
        wait = chance.choice((2.0, 10.0, 30.0))
        patience = chance.expovariate(1.0) if chance.random() < 0.05 else float("inf")

        async def request() -> object:
            with trio.move_on_after(patience):
                return await host.allocate(identifier, subnet, wait=wait)
            return "not waited for"

        self._spawn(host, f"allocate {identifier} {subnet or ''}", request)

    async def _ask(self) -> None:
        self._allocate(self._some(), self._identifier())

    async def _ask_all(self) -> None:
        for host in self._living:
            self._allocate(host, self._identifier())

    async def _ask_again(self) -> None:
        """The same identifier gets the same address."""
        if (holder := self._some_container()) is None:
            return
        host = self.hosts[holder.host]
        # Recorded may be more than it knows of: an answer that a crash kept back, to a request for another subnet.
        held = {interface.ip for interface in host.ipam.owned()[holder.identifier]}
        with host.until_crash():
            try:
                again = await host.allocate(holder.identifier, self.plan.network, wait=5)
            except Unserved:  # a host that was away says nothing until another owner has answered it
                return
            if again.ip not in held:
                raise InvariantBroken(f"{holder} had {held} and was then given {again}")

    def _some_container(self) -> Holder | None:
        """One that runs and asks for nothing at present."""
        hosts = self.hosts
        holders = {
            holder
            for holder in self.ledger.holders.values()
            if hosts[holder.host].up and hosts[holder.host].free_to_ask(holder.identifier)
        }
        return self._chance.choice(sorted(holders)) if holders else None

    async def _claim(self) -> None:
        self._claim_at(self._some(), random_address(self.plan.network, self._chance))

    def _claim_at(self, host: IpamHost, number: int) -> None:
        identifier = self._identifier()
        interface = IPv4Interface((number, self.plan.network.prefixlen))
        wait = self._chance.choice((2.0, 20.0))
        self._spawn(host, f"claim {interface} {identifier}", lambda: host.claim(identifier, interface, wait=wait))

    async def _release(self) -> None:
        if holder := self._some_container():
            host = self.hosts[holder.host]
            self._spawn(host, f"release {holder.identifier}", lambda: host.release(holder.identifier))

    # --- crashes ----------------------------------------------------------------------------------------------------

    async def _crash(self) -> None:
        if len(self._living) > 2:
            host, silent = self._some(), self._chance.random() < 0.4
            self._note("crash", host.number, "silently" if silent else "")
            await host.crash(silent=silent)

    async def _crash_while_serving(self) -> None:
        """Requests here and elsewhere, and a crash while they are being stored and donated."""
        if len(self._living) < 3:
            return
        host = self._some()
        for asker in (host, host, self._some(), self._some()):
            self._allocate(asker, self._identifier())
        await self._crash_soon(host, "while serving")

    async def _crash_while_giving(self) -> None:
        """Others claim addresses that a host owns, and it crashes while it stores and tells that they are theirs."""
        if len(self._living) < 3:
            return
        host = self._some()
        owned = host.allocator.ring.owned(host.node.name)
        if not owned:
            return
        for _ in range(2):
            part = self._chance.choice(owned)
            number = self._chance.randrange(part.start, min(part.end, part.start + 64))
            self._claim_at(self._some(), number)
        await self._crash_soon(host, "while giving")

    async def _crash_soon(self, host: IpamHost, when: str) -> None:
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

    async def _start_again(self, host: IpamHost) -> None:
        self._note("restart", host.number)
        await host.start()
        await self._tidy(host)

    async def _tidy(self, host: IpamHost) -> None:
        """Whoever never got an answer asks again, or gives up what it may have."""
        for identifier in list(host.unanswered):
            if self._chance.random() < 0.3:
                self._allocate(host, identifier)
                continue
            with host.until_crash():
                try:
                    await host.release(identifier)
                except NotFound:
                    continue

    # --- hosts that come and go -------------------------------------------------------------------------------------

    async def _join(self) -> None:
        if len(self.hosts) >= self.plan.peers + 6 or not (self._begun or self.plan.beginning.mode is Mode.SEED):
            return
        beginning = self.plan.beginning
        if beginning.mode is Mode.CONSENSUS:
            beginning = Beginning(Mode.OBSERVER)  # so many new voters could, cut off together, start a second ring
        await self._add(IpamSettings(self.plan.network, self.plan.default_subnet, beginning))

    def _may_go(self) -> list[IpamHost]:
        mode = self.plan.beginning.mode
        if len(self._living) <= 4 or not (self._begun or mode is Mode.SEED):
            return []
        return self._living

    async def _lose(self) -> None:
        """A host is destroyed, with its disk and its containers."""
        if candidates := self._may_go():
            host = self._chance.choice(candidates)
            self._note("lose", host.number)
            await host.crash(silent=self._chance.random() < 0.5)
            await self._gone(host)

    async def _depart(self) -> None:
        """A host's containers end, it hands its addresses over, and stops for good."""
        if candidates := self._may_go():
            host = self._chance.choice(candidates)
            host.gone = True
            self.ledger.host_gone(host.number)
            with host.until_crash():
                heir = await host.ipam.leave()
                self._note("leave", host.number, "to", heir)
                await host.stop()
            await self._gone(host)

    async def _gone(self, host: IpamHost) -> None:
        host.gone = True
        self.ledger.host_gone(host.number)
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

    async def _remove(self) -> None:
        """Somebody tries to take over what a lost host owned, whatever the others know; they may refuse."""
        if lost := self._lost_owners():
            gone, remover = self._chance.choice(lost), self._some()
            self._spawn(remover, f"remove {gone.number}", lambda: self._remove_by(remover, gone))

    async def _remove_by(self, remover: IpamHost, gone: IpamHost) -> int:
        lost = [format_peer_name(host.node.name) for host in self._lost_owners()]
        return await remover.ipam.remove_peer(format_peer_name(gone.node.name), also=lost)

    async def _remove_all(self) -> None:
        """In peace all lost hosts can be removed."""
        deadline = trio.current_time() + SETTLE_SECONDS
        while lost := self._lost_owners():
            remover = self._some()
            try:
                gained = await self._remove_by(remover, lost[0])
                self._note("remove", lost[0].number, "by", remover.number, "gained", gained)
            except RemovalRefused as error:
                self._note("not removed", lost[0].number, error)
                if trio.current_time() > deadline:
                    raise InvariantBroken(f"lost host {lost[0].number} cannot be removed: {error}") from error
                await trio.sleep(5)

    def _lost_owners(self) -> list[IpamHost]:
        owners = {name for host in self._living for name in host.allocator.ring.owners()}
        return [host for host in self.hosts.values() if host.gone and host.node.name in owners]

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

    # --- peace ------------------------------------------------------------------------------------------------------

    async def _make_peace(self) -> None:
        """Mend everything, start everybody, and wait until all say the same."""
        await self._heal()
        for host in self._down:
            await self._start_again(host)
        first = self._living[0]
        with trio.move_on_after(SETTLE_SECONDS):
            await first.ipam.prime(wait=SETTLE_SECONDS)
        try:
            await wait_until(self._agreed, within=SETTLE_SECONDS)
        except AssertionError:
            raise InvariantBroken(f"no agreement in {SETTLE_SECONDS:g} s: {self._differences()}") from None
        self._note("agreement", len(first.allocator.ring.entries), "entries")

    def _agreed(self) -> bool:
        rings = [self._division(host) for host in self._living]
        return bool(rings[0]) and all(ring == rings[0] for ring in rings)

    def _division(self, host: IpamHost) -> list[tuple[int, int]]:
        return [(entry.token, entry.peer) for entry in host.allocator.ring.entries]

    def _differences(self) -> str:
        by_ring: dict[str, list[int]] = {}
        for host in self._living:
            seeds = "+".join(format_peer_name(seed)[-5:] for seed in host.allocator.ring.seeds)
            mark = hashlib.sha256(repr(self._division(host)).encode()).hexdigest()[:6]
            known = len(host.node.router.mesh.routes.unicast_all)
            by_ring.setdefault(f"{mark} (seeds {seeds}, reaches {known})", []).append(host.number)
        conflicts = {host.number: dict(host.ipam.status().conflicts) for host in self._living}
        return f"{by_ring}, conflicts { ({n: c for n, c in conflicts.items() if c}) }"

    async def _judge(self) -> None:
        """Whether all is well after the troubles."""
        if self._chance.random() < 0.7:
            await self._remove_all()
            await self._make_peace()
        for host in self._living:
            await self._tidy(host)
        await trio.sleep(REST_SECONDS)
        await self._make_peace()
        lost = {host.node.name for host in self.hosts.values() if host.gone}
        present = {host.node.name for host in self._living}
        ring = self._living[0].allocator.ring
        if strangers := set(ring.owners()) - present - lost:
            raise InvariantBroken(f"strangers own space: {strangers}")
        if sum(ring.sizes().values()) != self.plan.network.num_addresses:
            raise InvariantBroken(f"the ring has {sum(ring.sizes().values())} addresses")
        for host in self._living:
            if host.allocator.conflicts:
                raise InvariantBroken(f"host {host.number} has conflicts left: {host.ipam.status().conflicts}")
        await self._serve_everybody()
        await self._make_peace()
        self._note("peace", sorted((int(n), s) for n, s in ring.sizes().items()))

    async def _serve_everybody(self) -> None:
        for host in self._living:
            await wait_until(self._agreed, within=SETTLE_SECONDS, what="the last donation has arrived")
            owners = self._free_addresses()
            free = sum(owners.values())
            self._note(host.number, "asks for one of", owners)
            identifier = self._identifier()
            try:
                interface = await host.allocate(identifier, None, wait=60 if free else 5)
            except Unserved as error:
                if free:
                    raise InvariantBroken(f"addresses are free, {owners}, but host {host.number}: {error}") from error
                self._note(error)
                continue
            if not free:
                raise InvariantBroken(f"nothing was free, and host {host.number} was given {interface}")

    def _free_addresses(self) -> dict[int, int]:
        """How many addresses of the default subnet each host that is there could give out."""
        wanted = hosts_of(self.plan.default_subnet)
        free: dict[int, int] = {}
        for host in self._living:
            for part in host.allocator._own_in(wanted):
                if count := part.size - host.allocator.leases.count_used(part):
                    free[host.number] = free.get(host.number, 0) + count
        return free
