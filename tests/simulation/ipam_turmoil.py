"""Turmoil from a seed: a cluster whose hosts ask for addresses, crash, are cut off, come, leave and are removed.

At every moment `ipam_invariants` must hold; when peace has come all must agree, and everybody must be served.
"""

from __future__ import annotations

import hashlib
from functools import partial
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, ClassVar

import trio

from simulation.invariant import InvariantBroken
from simulation.ipam_host import IpamHost
from simulation.ipam_invariants import Invariants
from simulation.ipam_ledger import Holder, Ledger
from simulation.ipam_plan import Plan, draw_plan, random_address
from simulation.turmoil import Outcome, Turmoil, run_plan
from weave_ipam.errors import IpamError, NotFound, RemovalRefused, Unserved
from weave_ipam.ranges import hosts_of
from weave_ipam.settings import Beginning, IpamSettings, Mode
from weave_router.testing.simulated_cluster import wait_until
from weave_router.wire.peer_name import format_peer_name

if TYPE_CHECKING:
    from simulation.turmoil import Action
    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode

__all__ = ["Outcome", "run_turmoil"]

SETTLE_SECONDS = 300.0
"""Within so long after the last trouble all copies of the ring are equal."""
REST_SECONDS = 61.0
"""For so long released addresses are not given away."""


def run_turmoil(seed: int, most_peers: int) -> Outcome:
    """Run one seed to its end. What went wrong is told by the outcome's `error`."""
    plan = draw_plan(seed, most_peers)
    return run_plan(plan, partial(IpamTurmoil, plan))


class IpamTurmoil(Turmoil[Plan, IpamHost]):
    """One run."""

    most_skew_seconds: ClassVar[float] = 3000.0
    refusals: ClassVar[tuple[type[Exception], ...]] = (IpamError,)

    def __init__(self, plan: Plan, cluster: SimulatedCluster, nursery: trio.Nursery, trace: list[str]) -> None:
        super().__init__(plan, cluster, nursery, trace)
        self.ledger = Ledger()
        self._invariants = Invariants()
        self._names = 0

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

    # --- who is there -----------------------------------------------------------------------------------------------

    @property
    def _begun(self) -> bool:
        """Whether every host of the beginning has the ring, so that nobody can start another one."""
        return all(host.up and host.allocator.ring for host in self.hosts.values() if not host.gone)

    async def _add(self, settings: IpamSettings) -> None:
        def make(number: int, node: SimulatedNode, skew: float) -> IpamHost:
            return IpamHost(
                number,
                node,
                self._nursery,
                settings,
                self.ledger,
                seed=self.plan.seed,
                clock_skew=skew,
                write_seconds=self.plan.write_seconds,
            )

        await self._admit(make)

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
        if not self._room or not (self._begun or self.plan.beginning.mode is Mode.SEED):
            return
        beginning = self.plan.beginning
        if beginning.mode is Mode.CONSENSUS:
            beginning = Beginning(Mode.OBSERVER)  # so many new voters could, cut off together, start a second ring
        await self._add(IpamSettings(self.plan.network, self.plan.default_subnet, beginning))

    def _may_go(self) -> list[IpamHost]:
        if not (self._begun or self.plan.beginning.mode is Mode.SEED):
            return []
        return super()._may_go()

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

    def _containers_ended(self, host: IpamHost) -> None:
        self.ledger.host_gone(host.number)

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
