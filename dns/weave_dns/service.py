"""Names under trio: the registry, its gossip channels, its timer and the store.

What changes, changes in the registry at once; then one task stores what changed of our own, in one transaction for all
that came together, and only then is it told to others and are callers answered.

    additions, deletions, gossip, peers, time ─> registry ─> store ─> broadcasts, answers
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from weave_dns import stored
from weave_dns.entries import Bond
from weave_dns.messages import (
    FAMILIES,
    Header,
    batches,
    decode_message,
    encode_message,
    family_of,
)
from weave_dns.network_time import NetworkTime
from weave_dns.registry import Registry
from weave_router.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from weave_dns.entries import Address, Entry, Identity
    from weave_dns.messages import Family
    from weave_dns.settings import DnsSettings
    from weave_dns.table import Table
    from weave_router.control.gossip import GossipData
    from weave_router.control.mesh import Mesh
    from weave_router.doors import Store
    from weave_router.wire.peer_name import PeerName

TICK_S = 5.0
_REMEMBERED_MESSAGES = 64

log = logging.getLogger(__name__)


class Names:
    """The names that one router knows. `clock`: Unix seconds.

    `begin` reads the store; it must be called before anything else, and before the router runs.
    """

    def __init__(self, settings: DnsSettings, mesh: Mesh, store: Store, *, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._mesh = mesh
        self._store = store
        self._clock = clock
        self._time = NetworkTime()
        self._registry = Registry(mesh.ourselves, settings.domain, known=lambda peer: peer in mesh.topology.records)
        self._seen: dict[int, None] = {}
        self._writing: dict[Identity, None] = {}
        """Own entries whose state is being stored."""
        self._work = trio.Event()
        self._committed = trio.Event()

    @property
    def table(self) -> Table:
        """All names, for look-ups."""
        return self._registry.table

    async def begin(self) -> None:
        """Take up what is stored, and join the gossip. Raises `StoredStateError` and the store's errors."""
        values = await self._store.read(stored.PREFIX)
        now = trio.current_time()
        for entry, bond in stored.from_json(values, self._mesh.ourselves):
            self._registry.restore(entry, bond, now=now)
        for family in FAMILIES:
            self._mesh.register(family.channel, _Channel(self, family))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Raises the store's errors."""
        task_status.started()
        next_tick = trio.current_time() + TICK_S
        while True:
            with trio.move_on_at(next_tick):
                await self._work.wait()
            if trio.current_time() >= next_tick:
                next_tick = trio.current_time() + TICK_S
                if self._registry.tick(trio.current_time()):
                    self._seen.clear()
            self._work = trio.Event()
            await self._commit()

    def routes_changed(self) -> None:
        """Peers came or went."""
        self._seen.clear()
        self._time.keep(self._mesh.connections)
        self._tell(self._registry.peers_changed(trio.current_time()), self._mesh.gossip)

    # --- own names --------------------------------------------------------------------------------------------------

    async def add(self, container: str, address: Address, hostname: str, *, bond: Bond = Bond.NOTHING) -> Entry:
        """Give a container's address a name; durable on return.

        Raises `InvalidName`, `OutsideDomain` and `TooMany`.
        """
        entry = self._registry.add(container, address, hostname, bond=bond, now=trio.current_time())
        await self._settled()
        return entry

    def check(self, hostname: str) -> None:
        """Whether this name could be added. Raises `InvalidName` and `OutsideDomain`."""
        self._registry.check(hostname)

    async def remove(
        self, container: str | None = None, address: Address | None = None, hostname: str | None = None
    ) -> list[Entry]:
        """Delete own names; what is not given matches all. Returns those that were there; durable on return."""
        now, unix = trio.current_time(), self._unix()
        gone = self._registry.delete(container, address, hostname, now=now, unix=unix)
        await self._settled()  # also if it was deleted before: that may not be durable yet
        return gone

    async def remove_bound(self, container: str) -> None:
        """Delete the names that go with this container, or with an address of it; durable on return."""
        for entry in self._registry.bound():
            if entry.container == container:
                await self.remove(container, entry.address, entry.hostname)

    async def keep_attached(self, present: Mapping[str, Container[Address]]) -> None:
        """Delete the names that went with other containers than these, or other addresses of theirs: after a crash."""
        for entry in self._registry.bound():
            addresses = present.get(entry.container)
            bound_to_address = self._registry.bond(entry.identity) is Bond.ADDRESS
            if addresses is None or (bound_to_address and entry.address not in addresses):
                await self.remove(entry.container, entry.address, entry.hostname)

    async def _settled(self) -> None:
        self._work.set()
        await self._committed.wait()

    async def _commit(self) -> None:
        registry, table = self._registry, self.table
        committed, self._committed = self._committed, trio.Event()
        unsaved, untold = registry.take_unsaved(), registry.take_untold()
        self._writing = dict.fromkeys(unsaved)
        changes = {}
        for identity in unsaved:
            entry = table.get(identity)
            record = None if entry is None else stored.to_json(entry, registry.bond(identity))
            changes[stored.key_of(identity)] = record
        if changes:
            await self._store.write(changes)
        self._writing = {}
        self._tell(untold, self._mesh.broadcast)
        committed.set()

    # --- gossip -----------------------------------------------------------------------------------------------------

    def _unix(self) -> int:
        return int(self._clock()) + self._time.offset

    def _tell(self, identities: Iterable[Identity], send: Callable[[str, GossipData], None]) -> None:
        sorted_out: dict[str, dict[Identity, None]] = {}
        for identity in identities:
            sorted_out.setdefault(family_of(identity.address).channel, {})[identity] = None
        for family in FAMILIES:
            if family.channel in sorted_out:
                send(family.channel, _NamesGossip(self, family, sorted_out[family.channel]))

    def complete_state(self, family: Family) -> GossipData | None:
        """All entries of a family. Weave Net 2.8 tells, too, that there are none; the channel of ours stays silent."""
        if family.version == 4 or self.table.has_family(family.version):
            return _NamesGossip(self, family)
        return None

    def payloads(self, family: Family, identities: Iterable[Identity] | None) -> Iterator[bytes]:
        """Messages with these entries, or with all, as they are when the first is made.

        Own ones that are not durable yet are left out: they are told when they are.
        """
        if identities is None:
            entries = [entry for entry in self.table.entries() if entry.address.version == family.version]
        else:
            known = (self.table.get(identity) for identity in identities)
            entries = sorted((entry for entry in known if entry is not None), key=lambda entry: entry.wire_order)
        volatile = {**self._registry.unsaved, **self._writing}
        if volatile:
            entries = [entry for entry in entries if entry.identity not in volatile]
        if not entries and identities is not None:
            return
        for batch in batches(entries):
            yield encode_message(family, batch, self._unix())

    def receive(
        self, family: Family, neighbour: PeerName | None, payload: bytes, now: float
    ) -> Iterator[tuple[list[Identity], list[Identity]]]:
        """Take in a message in steps: what was news, and all that may be passed on. Raises `ProtocolError`."""
        mark: int | None = None
        parked = self._registry.parked
        for part in decode_message(family, payload):
            if isinstance(part, Header):
                self._compare_clocks(neighbour, part.clock)
                if neighbour is not None and part.mark in self._seen:
                    return  # merging it again would change nothing
                mark = part.mark
            else:
                self._work.set()
                yield self._registry.receive(part, now, self._unix())
        if mark is not None and self._registry.parked == parked:
            while len(self._seen) >= _REMEMBERED_MESSAGES:
                del self._seen[next(iter(self._seen))]
            self._seen[mark] = None

    def _compare_clocks(self, neighbour: PeerName | None, clock: int) -> None:
        connection = None if neighbour is None else self._mesh.connections.get(neighbour)
        if connection is not None and not connection.features.abilities:
            self._time.heard(connection.peer, clock, int(self._clock()))


class _NamesGossip:
    """Some entries, or all, in the state that they have when they are sent."""

    def __init__(self, names: Names, family: Family, identities: dict[Identity, None] | None = None) -> None:
        self._names = names
        self._family = family
        self._identities = identities

    def merge(self, other: GossipData) -> GossipData:
        if not isinstance(other, _NamesGossip):
            raise TypeError("gossip of another channel")
        if self._identities is None or other._identities is None:
            return _NamesGossip(self._names, self._family)
        return _NamesGossip(self._names, self._family, {**self._identities, **other._identities})

    def encode(self) -> Iterable[bytes]:
        return self._names.payloads(self._family, self._identities)


class _Channel:
    """A gossip channel of names (`weave_router.control.gossip.Channel`)."""

    def __init__(self, names: Names, family: Family) -> None:
        self._names = names
        self._family = family

    def complete_state(self) -> GossipData | None:
        return self._names.complete_state(self._family)

    def on_gossip(self, source: PeerName, payload: bytes, now: float) -> Iterator[GossipData | None]:
        news: dict[Identity, None] = {}
        for new, _ in self._names.receive(self._family, source, payload, now):
            news.update(dict.fromkeys(new))
            yield None
        if news:
            yield _NamesGossip(self._names, self._family, news)

    def on_broadcast(self, source: PeerName, payload: bytes, now: float) -> GossipData | None:
        valid: dict[Identity, None] = {}
        for _, part in self._names.receive(self._family, None, payload, now):
            valid.update(dict.fromkeys(part))
        return _NamesGossip(self._names, self._family, valid) if valid else None

    def on_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        raise ProtocolError("unicast on a channel of broadcasts")
