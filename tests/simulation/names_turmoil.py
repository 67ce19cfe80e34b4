"""Turmoil from a seed: a cluster whose containers get names and lose them while hosts crash, are cut off, come and go.

At every moment `names_invariants` must hold; when peace has come everybody knows the names that the ledger has, and in
the end nothing is left of those that are gone.
"""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, ClassVar

import trio

from simulation.invariant import InvariantBroken
from simulation.names_host import BONDS, NamesHost
from simulation.names_invariants import NameInvariants, differences, remains
from simulation.names_ledger import NameLedger
from simulation.names_plan import Plan, draw_plan
from simulation.turmoil import Outcome, Turmoil, run_plan
from weave_dns.errors import DnsError
from weave_dns.names import absolute
from weave_dns.registry import BURIED_S, TOMBSTONE_S
from weave_router.testing.simulated_cluster import wait_until

if TYPE_CHECKING:
    from simulation.turmoil import Action
    from weave_dns.entries import Address, Identity
    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode

PEACE_SECONDS = 180.0
"""Within so long after the last trouble everybody knows the same."""
SPREAD_SECONDS = 60.0
"""Within so long a change reaches everybody in peace."""
REST_SECONDS = 2 * 3600.0
"""After so long without changes nothing is left of what was deleted."""
_HOSTNAMES = 12
_ADDRESSES = 60
_MANY_SHOWN = 5


def run_turmoil(seed: int, most_peers: int) -> Outcome:
    """Run one seed to its end. What went wrong is told by the outcome's `error`."""
    plan = draw_plan(seed, most_peers)
    return run_plan(plan, partial(NamesTurmoil, plan))


class NamesTurmoil(Turmoil[Plan, NamesHost]):
    """One run."""

    poll_seconds: ClassVar[float] = 0.5
    most_skew_seconds: ClassVar[float] = 3 * 3600.0
    refusals: ClassVar[tuple[type[Exception], ...]] = (DnsError,)

    def __init__(self, plan: Plan, cluster: SimulatedCluster, nursery: trio.Nursery, trace: list[str]) -> None:
        super().__init__(plan, cluster, nursery, trace)
        self.ledger = NameLedger()
        self._invariants = NameInvariants(self.ledger)
        self._containers = 0

    def _check(self) -> None:
        self._invariants.check(self.hosts.values())

    async def run(self) -> None:
        """Turmoil, then peace."""
        for _ in range(self.plan.peers):
            await self._join()
        actions: dict[Action, int] = {
            self._add: 30,
            self._add_everywhere: 4,
            self._add_many: 3,
            self._add_again: 4,
            self._add_former: 5,
            self._remove_container: 8,
            self._remove_by_chance: 6,
            self._crash: 4,
            self._crash_while_storing: 5,
            self._restart: 9,
            self._blink: 4,
            self._lose_disk: 3,
            self._set_clock: 2,
            self._lose: 1,
            self._depart: 1,
            self._join: 3,
            self._partition: 3,
            self._cut_one_way: 3,
            self._heal: 6,
            self._wait: 3,
            self._calm: 1,
        }
        await self._act(actions, self.plan.steps, self.plan.pause)
        await self._make_peace()
        await self._spread()
        if self.plan.rest:
            await self._rest()

    # --- who is there -----------------------------------------------------------------------------------------------

    async def _join(self) -> None:
        if self._room:
            await self._admit(self._host)

    def _host(self, number: int, node: SimulatedNode, skew: float) -> NamesHost:
        return NamesHost(
            number,
            node,
            self._nursery,
            self.ledger,
            seed=self.plan.seed,
            clock_skew=skew,
            write_seconds=self.plan.write_seconds,
        )

    def _containers_ended(self, host: NamesHost) -> None:
        self.ledger.lost(host.number)

    async def _depart(self) -> None:
        """A host's containers end, and it stops for good."""
        if candidates := self._may_go():
            host = self._chance.choice(candidates)
            self._note("leave", host.number)
            with host.until_crash():
                await host.remove()
                await host.stop()
            await self._gone(host)

    async def _set_clock(self) -> None:
        """A clock is set, and jumps."""
        host = self._some()
        host.clock_skew = self._chance.uniform(-self.most_skew_seconds, self.most_skew_seconds)
        self._note("clock of", host.number, round(host.clock_skew))

    async def _wait(self) -> None:
        """Time passes: about as long as things live, short of it or beyond."""
        seconds = self._chance.choice((20.0, 35.0, 70.0, 130.0))
        if self.plan.rest and self._chance.random() < 0.6:
            seconds = TOMBSTONE_S * self._chance.choice((0.99, 1.05))
        self._note("wait", seconds)
        await trio.sleep(seconds)

    # --- requests ---------------------------------------------------------------------------------------------------

    def _container(self, host: NamesHost) -> str:
        """One that runs on the host, or a new one; some are attachments."""
        running = sorted({identity.container for identity in self.ledger.possibly_alive(host.number)})
        if running and self._chance.random() < 0.3:
            return self._chance.choice(running)
        self._containers += 1
        return f"{self._chance.choice((*BONDS, 'c'))}{self._containers}"

    def _address(self) -> Address:
        number = self._chance.randrange(_ADDRESSES)
        return IPv6Address(0xFD << 120 | number) if self._chance.random() < 0.3 else IPv4Address(0x0A200000 | number)

    def _hostname(self) -> str:
        number = self._chance.randrange(_HOSTNAMES)
        return self._spelled(f"{self._chance.choice(('web', 'db.web', 'cache'))}{number}.weave.local")

    def _spelled(self, hostname: str) -> str:
        return hostname.title() if self._chance.random() < 0.2 else hostname

    def _add_to(self, host: NamesHost, container: str, address: Address, hostname: str) -> None:
        patience = self._chance.expovariate(10) if self._chance.random() < 0.1 else float("inf")

        async def request() -> object:
            with trio.move_on_after(patience):
                return (await host.add(container, address, hostname)).version
            return "not waited for"

        self._spawn(host, f"add {hostname} {container} {address}", request)

    async def _add(self) -> None:
        host = self._some()
        self._add_to(host, self._container(host), self._address(), self._hostname())

    async def _add_everywhere(self) -> None:
        for host in self._living:
            self._add_to(host, self._container(host), self._address(), self._hostname())

    async def _add_many(self) -> None:
        """A host starts with many containers."""
        host, many = self._some(), self._chance.randint(1, self.plan.crowd)
        self._containers += 1
        container = f"c{self._containers}"

        async def request() -> object:
            async with trio.open_nursery() as nursery:
                for number in range(many):
                    name = f"{container}-{number}.weave.local"
                    nursery.start_soon(host.add, container, IPv4Address(0x0A300000 | number), name)
            return "all"

        self._spawn(host, f"add {many} names", request)

    async def _add_again(self) -> None:
        """A name that is there already, in this spelling or another one."""
        host = self._some()
        if names := self.ledger.possibly_alive(host.number):
            self._add_like(host, self._chance.choice(names))

    async def _add_former(self) -> None:
        """A name that was there before."""
        host = self._some()
        if names := self.ledger.dead(host.number):
            self._add_like(host, self._chance.choice(names))

    def _add_like(self, host: NamesHost, name: Identity) -> None:
        self._add_to(host, name.container, name.address, self._spelled(name.hostname))

    async def _remove_container(self) -> None:
        host = self._some()
        if names := self.ledger.possibly_alive(host.number):
            self._remove_from(host, container=self._chance.choice(names).container)

    async def _remove_by_chance(self) -> None:
        """By anything that one name has, or everything."""
        host = self._some()
        if not (names := self.ledger.possibly_alive(host.number)):
            return
        name = self._chance.choice(names)
        match self._chance.randrange(8):
            case 0:
                self._remove_from(host)
            case 1 | 2:
                self._remove_from(host, address=name.address)
            case 3 | 4:
                self._remove_from(host, hostname=self._spelled(name.hostname))
            case _:
                self._remove_from(host, name.container, name.address, self._spelled(name.hostname))

    def _remove_from(
        self,
        host: NamesHost,
        container: str | None = None,
        address: Address | None = None,
        hostname: str | None = None,
    ) -> None:
        async def request() -> object:
            return len(await host.remove(container, address, hostname))

        self._spawn(host, f"remove {hostname or ''} {container or ''} {address or ''}", request)

    # --- crashes ----------------------------------------------------------------------------------------------------

    async def _crash_while_storing(self) -> None:
        """Additions and deletions, and a crash while they are being stored and told."""
        if len(self._living) < 3:
            return
        host = self._some()
        for _ in range(3):
            self._add_to(host, self._container(host), self._address(), self._hostname())
        if names := self.ledger.possibly_alive(host.number):
            self._remove_from(host, container=self._chance.choice(names).container)
        await self._crash_soon(host, "while storing")

    async def _blink(self) -> None:
        """A host is away for less time than its names are kept."""
        if len(self._living) > 2:
            host, seconds = self._some(), self._chance.uniform(0, 25)
            self._note("blink", host.number, f"{seconds:.1f} s")
            await host.crash(silent=self._chance.random() < 0.5)
            await trio.sleep(seconds)
            await self._start_again(host)

    async def _lose_disk(self) -> None:
        """A host comes back under its own name and knows nothing any more; some containers are there again."""
        if self._down:
            host = self._chance.choice(self._down)
            self._note("lose disk", host.number)
            host.lose_disk()
            names = self.ledger.possibly_alive(host.number) + self.ledger.dead(host.number)
            self.ledger.lost(host.number)
            await self._start_again(host)
            for name in self._chance.sample(names, min(len(names), self._chance.randrange(5))):
                self._add_like(host, name)

    async def _tidy(self, host: NamesHost) -> None:
        """After a crash some containers are not there any more, and some have other addresses."""
        if self._chance.random() < 0.5:
            kept: dict[str, list[Address]] = {}
            for container in sorted({name.container for name in self.ledger.possibly_alive(host.number)}):
                if self._chance.random() < 0.8:
                    kept[container] = []
            for name in self.ledger.possibly_alive(host.number):
                if name.container in kept and self._chance.random() < 0.8:
                    kept[name.container].append(name.address)
            self._note("keep", host.number, *kept)
            with host.until_crash():
                await host.keep_attached(kept)

    # --- peace ------------------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        """Peace for a while."""
        await self._make_peace()
        await self._spread()

    async def _make_peace(self) -> None:
        """Mend everything, start everybody; after a while all must know the same."""
        await self._heal()
        for host in self._down:
            await self._start_again(host)
        for host in self._living:
            await self._close(host)
        began, differed, seen = trio.current_time(), 0.0, None
        wrong: list[str] = []
        while (passed := trio.current_time() - began) < PEACE_SECONDS:
            await trio.sleep(1)
            present = [(host.names.table, host.names.table.generation) for host in self._living]
            if present != seen:
                seen, wrong = present, differences(self._living, self.ledger)
            if wrong:
                differed = passed + 1
        self._expect(wrong, f"{PEACE_SECONDS:g} s of peace")
        self._note("peace, all equal after", f"{differed:.0f} s", len(self._living[0].living()), "names")

    async def _close(self, host: NamesHost) -> None:
        """Ask again for what was never answered."""
        with host.until_crash():
            for name in self.ledger.open(host.number):
                if self._chance.random() < 0.5:
                    await host.add(name.container, name.address, name.hostname)
                else:
                    await host.remove(name.container, name.address, name.hostname)

    async def _spread(self) -> None:
        """In peace a new name is found everywhere soon, and a deleted one nowhere."""
        names: list[Identity] = []
        hosts = self._chance.sample(self._living, min(3, len(self._living)))
        for host in hosts:
            self._containers += 1
            entry = await host.add(f"c{self._containers}", self._address(), f"new{self._containers}.weave.local")
            names.append(entry.identity)
        await self._everywhere(names, found=True)
        for host, name in zip(hosts, names, strict=True):
            await host.remove(hostname=absolute(name.hostname))
        await self._everywhere(names, found=False)

    async def _everywhere(self, names: list[Identity], *, found: bool) -> None:
        def wrong() -> list[str]:
            return [
                f"host {host.number} finds {name}: {not found}"
                for host in self._living
                for name in names
                if host.finds(name) != found
            ]

        try:
            await wait_until(lambda: not wrong(), within=SPREAD_SECONDS)
        except AssertionError:
            self._expect(wrong(), f"{SPREAD_SECONDS:g} s of peace")

    async def _rest(self) -> None:
        """Nothing happens any more; what is dead goes."""
        await trio.sleep(REST_SECONDS)
        self._expect(differences(self._living, self.ledger), "the rest")
        for host in self._living:
            self._expect(await remains(host), f"{REST_SECONDS:g} s of rest")
        self._note("rested")

    def _expect(self, wrong: list[str], after: str) -> None:
        if wrong:
            more = f" and {len(wrong) - _MANY_SHOWN} more" if len(wrong) > _MANY_SHOWN else ""
            raise InvariantBroken(f"after {after}: {'; '.join(wrong[:_MANY_SHOWN])}{more}")


assert REST_SECONDS > TOMBSTONE_S + BURIED_S
