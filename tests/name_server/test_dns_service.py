"""`Names`: nothing is told or answered before it is durable, a restart keeps it, peers hear of it (dns.md 2 to 5)."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from weave_dns import stored
from weave_dns.entries import Bond, Entry
from weave_dns.errors import InvalidName, OutsideDomain, StoredStateError
from weave_dns.messages import CHANNEL, CHANNEL6, ENTRIES_PER_MESSAGE, FAMILIES, IPV4, Header, decode_message
from weave_dns.messages import encode_message as encode
from weave_dns.registry import ABSENCE_S, PARKING_S, TOMBSTONE_S
from weave_dns.service import Names
from weave_dns.settings import DnsSettings
from weave_router.control.gossip import Outbox
from weave_router.control.mesh import Mesh, MeshConnection
from weave_router.control.targets import Targets
from weave_router.errors import ProtocolError
from weave_router.testing.simulated_cluster import SimulatedCluster, address, peer_name, run_cluster, wait_until
from weave_router.testing.stores import MemoryStore, SlowStore
from weave_router.wire.features import ABILITIES, Features
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import PeerRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from weave_dns.entries import Address
    from weave_dns.messages import Family
    from weave_router.control.gossip import Channel, GossipData
    from weave_router.shell.router import Router

OURSELVES, PEER, OTHER, STRANGER = PeerName(1), PeerName(2), PeerName(3), PeerName(99)
UNIX = 1_700_000_000
FOUR = IPv4Address("10.32.0.1")
SIX = IPv6Address("fd00::1")
WRITE_S = 0.1
"""From a write until it is durable, and again until the writer knows."""


class RecordingMesh(Mesh):
    """A mesh that tells nobody anything, but what it was asked to tell is remembered, in the state of that moment."""

    def __init__(self, *peers: PeerName) -> None:
        chance = random.Random(1)
        targets = Targets(OURSELVES, 6783, chance)
        super().__init__(
            PeerRecord(OURSELVES, "node", 1), targets, overlays=(), connection_limit=0, random=chance, now=0.0
        )
        for name in peers:
            self.topology.learn_neighbour(PeerRecord(name, "peer", 2))
        self.channels: dict[str, Channel] = {}
        self.broadcasts: list[Entry] = []
        self.gossiped: list[Entry] = []

    def register(self, name: str, channel: Channel, speaks_to: Any = None) -> None:
        self.channels[name] = channel

    def broadcast(self, channel: str, data: GossipData) -> None:
        self.broadcasts += entries_in(channel, data)

    def gossip(self, channel: str, data: GossipData) -> None:
        self.gossiped += entries_in(channel, data)

    def connect(self, name: PeerName, abilities: tuple[str, ...]) -> None:
        features = Features(name=name, nickname="", uid=5, connection_half=6, abilities=abilities)
        self.connections[name] = MeshConnection(
            peer=name,
            features=features,
            address="192.0.2.1:6783",
            outbound=True,
            uid=7,
            overlays=("sleeve",),
            outbox=Outbox(OURSELVES, lambda: None),
            last_heard=0.0,
        )


def family_of(channel: str) -> Family:
    return next(family for family in FAMILIES if family.channel == channel)


def entries_in(channel: str, data: GossipData) -> list[Entry]:
    return [entry for payload in data.encode() for entry in decoded(channel, payload)[1]]


def decoded(channel: str, payload: bytes) -> tuple[int, list[Entry]]:
    """Its time, and its entries."""
    clock, entries = 0, []
    for part in decode_message(family_of(channel), payload):
        if isinstance(part, Header):
            clock = part.clock
        else:
            entries += part
    return clock, entries


class Host:
    """`Names` of one host on a recording mesh."""

    def __init__(self, store: MemoryStore, *peers: PeerName) -> None:
        self.store = store
        self.mesh = RecordingMesh(*(peers or (PEER, OTHER)))
        self.clock = UNIX
        self.names = Names(
            DnsSettings(), self.mesh, store, clock=lambda: self.clock + trio.current_time() - self.started
        )
        self.started = trio.current_time()
        self.scope = trio.CancelScope()

    async def start(self, nursery: trio.Nursery) -> Host:
        await self.names.begin()
        await nursery.start(self._live)
        return self

    async def _live(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.scope:
            await self.names.run(task_status=task_status)

    def crash(self) -> MemoryStore:
        """End this life; returns what is on the disk."""
        self.scope.cancel()
        return self.store.crash()

    def hear(self, *entries: Entry, channel: str = CHANNEL, source: PeerName = PEER, clock: int = UNIX) -> list[Entry]:
        """Gossip of a neighbour; returns what is passed on."""
        family = family_of(channel)
        message = encode(family, sorted(entries, key=lambda entry: entry.wire_order), clock)
        return self.hear_message(message, channel=channel, source=source)

    def hear_message(self, message: bytes, *, channel: str = CHANNEL, source: PeerName = PEER) -> list[Entry]:
        told = [
            data
            for data in self.mesh.channels[channel].on_gossip(source, message, trio.current_time())
            if data is not None
        ]
        return [entry for data in told for entry in entries_in(channel, data)]

    def complete_state(self, channel: str = CHANNEL) -> list[bytes] | None:
        data = self.mesh.channels[channel].complete_state()
        return None if data is None else list(data.encode())

    def alive(self) -> set[tuple[str, str]]:
        return alive(self.names)


def alive(names: Names) -> set[tuple[str, str]]:
    return {(entry.hostname, str(entry.address)) for entry in names.table.entries() if not entry.tombstone}


def run(main: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """Run it in a nursery that is cancelled in the end, on a clock that jumps."""

    async def in_nursery() -> None:
        async with trio.open_nursery() as nursery:
            await main(nursery)
            nursery.cancel_scope.cancel()

    trio.run(in_nursery, clock=MockClock(autojump_threshold=0))


def theirs(name: str = "a.weave.local.", origin: PeerName = PEER, *, version: int = 0, tombstone: int = 0) -> Entry:
    return Entry("c", origin, FOUR, name, version, tombstone)


# Durable first


def test_addition_is_durable_before_it_is_told_and_told_before_it_is_answered() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(SlowStore(lambda: WRITE_S)).start(nursery)
        answered: list[Entry] = []

        async def ask() -> None:
            answered.append(await host.names.add("c", FOUR, "web.weave.local"))

        nursery.start_soon(ask)
        await trio.sleep(1.5 * WRITE_S)
        assert await host.store.read("name/"), "written"
        assert (host.mesh.broadcasts, answered) == ([], []), "but the writer does not know yet"
        await trio.sleep(WRITE_S)
        assert host.mesh.broadcasts == answered == host.names.table.entries()

    run(main)


def test_deletion_is_durable_before_it_is_told_and_answered() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(SlowStore(lambda: WRITE_S)).start(nursery)
        entry = await host.names.add("c", FOUR, "web.weave.local")
        host.mesh.broadcasts.clear()
        answered: list[Sequence[Entry]] = []

        async def ask() -> None:
            answered.append(await host.names.remove("c"))

        nursery.start_soon(ask)
        await trio.sleep(0.5 * WRITE_S)
        [value] = (await host.store.read("name/")).values()
        assert isinstance(value, dict)
        assert value["version"] == 0
        await trio.sleep(WRITE_S)
        assert (host.mesh.broadcasts, answered) == ([], [])
        await trio.sleep(WRITE_S)
        assert answered == [[entry]]
        [told] = host.mesh.broadcasts
        assert (told.version, told.tombstone >= UNIX) == (1, True)

    run(main)


def test_repeated_deletion_is_not_answered_before_the_first_is_durable() -> None:
    """A client that lost its connection asks again; what it is told must survive a crash."""

    async def main(nursery: trio.Nursery) -> None:
        host = await Host(SlowStore(lambda: WRITE_S)).start(nursery)
        await host.names.add("c", FOUR, "web.weave.local")
        nursery.start_soon(host.names.remove, "c")
        await trio.sleep(0.1 * WRITE_S)
        await host.names.remove("c")
        [value] = (await host.store.read("name/")).values()
        assert isinstance(value, dict)
        assert value["version"] == 1

    run(main)


@pytest.mark.parametrize("kind", ["add", "remove", "correction"])
def test_complete_state_does_not_tell_what_is_not_durable(kind: str) -> None:
    """A new neighbour gets it at once, and would remember it after our crash."""

    async def main(nursery: trio.Nursery) -> None:
        host = await Host(SlowStore(lambda: WRITE_S)).start(nursery)
        before = await host.names.add("c", FOUR, "web.weave.local")
        if kind == "add":
            nursery.start_soon(host.names.add, "d", FOUR, "new.weave.local")
        elif kind == "remove":
            nursery.start_soon(host.names.remove, "c")
        else:
            host.hear(replace(before, version=5))
        await trio.sleep(0.5 * WRITE_S)
        told = [entry for payload in host.complete_state() or () for entry in decoded(CHANNEL, payload)[1]]
        assert told in ([], [before])

    run(main)


@pytest.mark.parametrize("moment", [0.5 * WRITE_S, 1.5 * WRITE_S])
@pytest.mark.parametrize("kind", ["add", "remove"])
def test_crash_before_or_after_the_write(moment: float, kind: str) -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(SlowStore(lambda: WRITE_S)).start(nursery)
        await host.names.add("c", FOUR, "web.weave.local")
        host.mesh.broadcasts.clear()
        operation = partial(host.names.add, "c", SIX, "web.weave.local") if kind == "add" else host.names.remove

        life = trio.CancelScope()

        async def ask() -> None:
            with life:
                await operation()

        nursery.start_soon(ask)
        await trio.sleep(moment)
        life.cancel()
        store = host.crash()
        again = await Host(store).start(nursery)
        before, added = {("web.weave.local.", str(FOUR))}, {("web.weave.local.", str(SIX))}
        if moment < WRITE_S:
            assert again.alive() == before
        else:
            assert again.alive() == (before | added if kind == "add" else set())
        assert host.mesh.broadcasts == []

    run(main)


def test_what_comes_together_is_one_transaction() -> None:
    async def main(nursery: trio.Nursery) -> None:
        store = SlowStore(lambda: WRITE_S)
        host = await Host(store).start(nursery)
        async with trio.open_nursery() as asking:
            for number in range(50):
                asking.start_soon(host.names.add, "c", IPv4Address(number + 1), f"h{number}.weave.local")
        assert store.writes <= 2
        assert len(host.alive()) == len(set(host.mesh.broadcasts)) == 50
        assert trio.current_time() < host.started + 5 * WRITE_S

    run(main)


def test_addition_while_another_one_is_written_is_durable_when_answered() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(SlowStore(lambda: WRITE_S)).start(nursery)
        nursery.start_soon(host.names.add, "c", FOUR, "one.weave.local")
        await trio.sleep(0.5 * WRITE_S)
        await host.names.add("c", FOUR, "two.weave.local")
        assert len(await host.store.read("name/")) == 2

    run(main)


def test_what_is_refused_or_changes_nothing_is_not_written() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        with pytest.raises(InvalidName):
            await host.names.add("c", FOUR, "a..b")
        with pytest.raises(OutsideDomain):
            await host.names.add("c", FOUR, "www.example.com")
        assert await host.names.remove("c") == []
        host.hear(theirs(), theirs("d.weave.local.", version=1, tombstone=UNIX))
        await trio.sleep(20)
        assert host.store.writes == 0
        assert host.mesh.broadcasts == []
        await host.names.add("c", FOUR, "web.weave.local")
        await host.names.add("c", FOUR, "web.weave.local")
        assert host.store.writes == 1
        assert len(host.mesh.broadcasts) == 2, "each addition is broadcast (section 2)"

    run(main)


# Restart


def test_restart_keeps_names_versions_and_attachments() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        names = host.names
        await names.add("c", FOUR, "Web.weave.local", bond=Bond.ADDRESS)
        await names.add("c/ü %", SIX, "web.weave.local")
        for _ in range(3):
            await names.add("d", FOUR, "d.weave.local")
            await names.remove("d")
        host.hear(theirs())
        before = [entry for entry in names.table.entries() if entry.origin == OURSELVES]
        again = await Host(host.crash()).start(nursery)
        assert again.names.table.entries() == before
        assert {entry.version for entry in before} == {0, 5}
        await again.names.keep_attached({})
        assert again.alive() == {("web.weave.local.", str(SIX))}, "only the other one is attached"
        assert (await again.names.add("d", FOUR, "d.weave.local")).version == 6
        third = await Host(again.crash()).start(nursery)
        assert {(e.container, e.version) for e in third.names.table.entries()} == {("c", 1), ("c/ü %", 0), ("d", 6)}

    run(main)


def test_names_of_attachments_that_are_there_are_kept() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        for container, where, bond in (
            ("c", FOUR, Bond.ADDRESS),
            ("c", SIX, Bond.ADDRESS),
            ("d", FOUR, Bond.ADDRESS),
            ("d", SIX, Bond.CONTAINER),
            ("f", FOUR, Bond.CONTAINER),
            ("g", FOUR, Bond.NOTHING),
        ):
            await host.names.add(container, where, "web.weave.local", bond=bond)
        await host.names.keep_attached({"c": [FOUR], "d": [FOUR], "e": [SIX]})
        assert {(e.container, e.address) for e in host.names.table.entries() if not e.tombstone} == {
            ("c", FOUR),
            ("d", FOUR),
            ("d", SIX),
            ("g", FOUR),
        }

    run(main)


def test_identities_have_keys_of_their_own() -> None:
    containers = ("", "c", "C", "c/10.32.0.1", "c%2F10.32.0.1", "weave:extern", "\udcff", "ÿ", " ", "é", "e\u0301")
    entries = [Entry(c, OURSELVES, where, name) for c in containers for where in (FOUR, SIX) for name in ("a.", "a.b.")]
    assert len({stored.key_of(entry.identity) for entry in entries}) == len(entries)
    for entry in entries:
        value = json.loads(json.dumps(stored.to_json(entry, Bond.ADDRESS)))
        assert stored.from_json({"k": value}, OURSELVES) == [(entry, Bond.ADDRESS)]
        stored.key_of(entry.identity).encode("utf-8")  # as a file wants it


GOOD = stored.to_json(Entry("c", OURSELVES, FOUR, "web.weave.local."), Bond.NOTHING)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="null"),
        pytest.param([], id="list"),
        pytest.param("x", id="text"),
        pytest.param({}, id="empty"),
        *(
            pytest.param({key: value for key, value in GOOD.items() if key != missing}, id=f"no {missing}")
            for missing in GOOD
        ),
        pytest.param({**GOOD, "address": "x"}, id="address"),
        pytest.param({**GOOD, "version": "x"}, id="version"),
        pytest.param({**GOOD, "tombstone": None}, id="tombstone"),
        pytest.param({**GOOD, "container": 5}, id="container"),
        pytest.param({**GOOD, "hostname": None}, id="hostname"),
    ],
)
def test_stored_nonsense_is_told_as_such(value: Any) -> None:
    async def main(nursery: trio.Nursery) -> None:
        with pytest.raises(StoredStateError):
            await Host(MemoryStore({"name/x": value})).start(nursery)

    run(main)


def test_tombstones_leave_the_store_when_they_have_had_their_time() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        await host.names.add("c", FOUR, "web.weave.local")
        await host.names.remove("c")
        await trio.sleep(TOMBSTONE_S - 10)
        assert len(await host.store.read("name/")) == len(host.names.table) == 1
        await trio.sleep(20)
        assert len(await host.store.read("name/")) == len(host.names.table) == 0

    run(main)


# Gossip


def test_both_channels_are_joined() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        assert set(host.mesh.channels) == {CHANNEL, CHANNEL6} == {"nameserver", "nameserver6"}
        empty = host.complete_state()
        assert empty is not None, "Weave Net tells it too"
        assert [decoded(CHANNEL, payload) for payload in empty] == [(UNIX, [])]
        assert host.complete_state(CHANNEL6) is None

    run(main)


def test_families_do_not_mix() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        await host.names.add("c", FOUR, "web.weave.local")
        await host.names.add("c", SIX, "web.weave.local")
        told = {
            channel: [decoded(channel, m)[1] for m in host.complete_state(channel) or ()]
            for channel in host.mesh.channels
        }
        assert [[entry.address for entry in message] for message in told[CHANNEL]] == [[FOUR]]
        assert [[entry.address for entry in message] for message in told[CHANNEL6]] == [[SIX]]
        await host.names.remove()
        told6 = [entry for m in host.complete_state(CHANNEL6) or () for entry in decoded(CHANNEL6, m)[1]]
        assert [bool(entry.tombstone) for entry in told6] == [True], "dead ones are told too"

    run(main)


@pytest.mark.parametrize("count", [0, 1, ENTRIES_PER_MESSAGE, ENTRIES_PER_MESSAGE + 1, 1300])
def test_complete_state_comes_in_sorted_messages_without_repetition(count: int) -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        entries = [
            Entry(f"c{n % 7}", PEER, IPv4Address(n + 1), f"{'Hh'[n % 2]}{n % 50}.weave.local.") for n in range(count)
        ]
        host.hear(*entries)
        messages = [decoded(CHANNEL, payload)[1] for payload in host.complete_state() or ()]
        assert all(len(message) <= ENTRIES_PER_MESSAGE for message in messages)
        assert len(messages) == max(1, -(-count // ENTRIES_PER_MESSAGE))
        told = [entry for message in messages for entry in message]
        assert told == sorted(entries, key=lambda entry: entry.wire_order)

    run(main)


def test_news_is_passed_on_in_sorted_messages() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        entries = [theirs(f"{name}.weave.local.") for name in "cab"]
        host.hear(entries[0])
        message = encode(IPV4, entries, UNIX)
        assert host.hear_message(message) == [entries[1], entries[2]]
        assert host.hear_message(message) == []

    run(main)


@pytest.mark.parametrize("channel", [CHANNEL, CHANNEL6])
def test_unicasts_and_broken_messages_are_refused(channel: str) -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        there = host.mesh.channels[channel]
        with pytest.raises(ProtocolError):
            there.on_unicast(PEER, encode(family_of(channel), [], UNIX), 0.0)
        for payload in (b"", b"\0", b"\xff" * 50, encode(IPV4, [theirs()], UNIX)[:-3]):
            with pytest.raises(ProtocolError):
                list(there.on_gossip(PEER, payload, 0.0))
            with pytest.raises(ProtocolError):
                there.on_broadcast(PEER, payload, 0.0)
        assert len(host.names.table) == 0

    run(main)


def test_message_that_breaks_off_late_is_not_passed_on() -> None:
    """`Channel`: a payload that makes no sense is not relayed, and not applied from that point on."""

    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        payload = encode(IPV4, [theirs(f"h{n:03}.weave.local.") for n in range(200)], UNIX)
        broken = payload[:-40] + b"\xff" * 40
        with pytest.raises(ProtocolError):
            host.hear_message(broken)
        with pytest.raises(ProtocolError):
            host.mesh.channels[CHANNEL].on_broadcast(PEER, broken, 0.0)
        assert len(host.names.table) < 200
        assert host.mesh.broadcasts == []

    run(main)


def test_corrections_are_stored_then_broadcast() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(SlowStore(lambda: WRITE_S)).start(nursery)
        host.hear(theirs("zombie.weave.local.", OURSELVES, version=3))
        await trio.sleep(WRITE_S / 2)
        assert host.mesh.broadcasts == []
        await trio.sleep(2 * WRITE_S)
        [told] = host.mesh.broadcasts
        assert (told.version, bool(told.tombstone)) == (4, True)
        [value] = (await host.store.read("name/")).values()
        assert isinstance(value, dict)
        assert (value["version"], value["tombstone"]) == (4, told.tombstone)

    run(main)


@pytest.mark.parametrize(
    ("container", "hostname"),
    [("\udcff", "a.weave.local."), ("c", "\udcff.weave.local."), ("a/b\0", "a/b\0."), ("\ufffe" * 300, "é" * 127)],
)
@pytest.mark.parametrize("tombstone", [0, UNIX])
def test_own_entries_of_any_text_do_no_harm(container: str, hostname: str, tombstone: int) -> None:
    """Anybody can send one that has our name as origin, in bytes that are no UTF-8."""

    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        entry = Entry(container, OURSELVES, FOUR, hostname, 1, tombstone)
        host.hear(entry)
        await trio.sleep(1)
        expected = 1 if tombstone else 2
        assert [e.version for e in host.names.table.entries()] == [expected]
        await host.names.add("c", FOUR, "web.weave.local")
        for key, value in (await host.store.read("name/")).items():
            key.encode("utf-8")
            json.dumps(value).encode("utf-8")
        again = await Host(host.crash()).start(nursery)
        assert entry.identity in {e.identity for e in again.names.table.entries()}

    run(main)


def test_entries_of_a_peer_that_becomes_known_are_gossiped_as_news() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        entry = theirs(origin=STRANGER)
        assert host.hear(entry) == []
        host.mesh.topology.learn_neighbour(PeerRecord(STRANGER, "late", 9))
        host.names.routes_changed()
        assert host.mesh.gossiped == [entry] == host.names.table.entries()
        host.names.routes_changed()
        assert host.mesh.gossiped == [entry]

    run(main)


def test_entries_that_neighbours_go_on_telling_wait_for_as_long_as_they_do() -> None:
    """Neighbours repeat all that they know every 30 s; what they repeat is waiting when its origin becomes known."""

    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        entry = theirs(origin=STRANGER)
        for _ in range(5):
            host.hear(entry)
            await trio.sleep(30)
        assert trio.current_time() - host.started > PARKING_S
        host.mesh.topology.learn_neighbour(PeerRecord(STRANGER, "late", 9))
        host.names.routes_changed()
        assert host.names.table.entries() == [entry]

    run(main)


def test_a_message_that_was_heard_before_counts_when_it_says_something_new_again() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        entry = theirs()
        assert host.hear(entry) == [entry]
        del host.mesh.topology.records[PEER]
        host.names.routes_changed()
        await trio.sleep(ABSENCE_S + 10)
        assert len(host.names.table) == 0
        host.mesh.topology.learn_neighbour(PeerRecord(PEER, "back", 3))
        host.names.routes_changed()
        assert host.hear(entry) == [entry]

    run(main)


# Clocks


def timestamp(host: Host) -> int:
    return decoded(CHANNEL, (host.complete_state() or [b""])[0])[0]


@pytest.mark.parametrize("difference", [-100_000, -1000, 1000, 100_000])
def test_messages_carry_the_time_of_weave_net_neighbours(difference: int) -> None:
    """They would end the connection where it differs by more than 900 s."""

    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        assert timestamp(host) == UNIX
        host.mesh.connect(PEER, ())
        host.hear(theirs(), clock=UNIX + difference)
        assert abs(timestamp(host) - UNIX - difference) <= 150
        await host.names.add("c", FOUR, "web.weave.local")
        await host.names.remove("c")
        [gone] = [entry for entry in host.names.table.entries() if entry.tombstone]
        assert abs(gone.tombstone - UNIX - difference) <= 150, "2.8 reckons a tombstone's age by its own clock"
        host.hear(theirs(), clock=UNIX)
        assert timestamp(host) == UNIX, "the clocks agree again"

    run(main)


@pytest.mark.parametrize("difference", [-300, -10, 0, 10, 300])
def test_small_differences_do_not_matter(difference: int) -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        host.mesh.connect(PEER, ())
        host.hear(theirs(), clock=UNIX + difference)
        assert timestamp(host) == UNIX

    run(main)


def test_clocks_of_our_own_kind_and_of_distant_peers_do_not_matter() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        host.mesh.connect(PEER, ABILITIES)
        assert host.hear(theirs(), clock=UNIX + 5000) == [theirs()]
        host.mesh.channels[CHANNEL].on_broadcast(OTHER, encode(IPV4, [theirs(origin=OTHER)], UNIX + 5000), 0.0)
        assert timestamp(host) == UNIX
        assert {entry.origin for entry in host.names.table.entries()} == {PEER, OTHER}

    run(main)


def test_one_of_several_neighbours_with_a_wrong_clock_does_not_count() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore(), PEER, OTHER, STRANGER).start(nursery)
        for peer, clock in ((PEER, UNIX), (OTHER, UNIX - 3000), (STRANGER, UNIX + 5)):
            host.mesh.connect(peer, ())
            host.hear(source=peer, clock=clock)
        assert timestamp(host) == UNIX

    run(main)


def test_neighbour_that_is_gone_has_no_say_any_more() -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        host.mesh.connect(PEER, ())
        host.hear(source=PEER, clock=UNIX - 3000)
        del host.mesh.connections[PEER]
        host.mesh.connect(OTHER, ())
        host.hear(source=OTHER, clock=UNIX)
        assert timestamp(host) == UNIX

    run(main)


@pytest.mark.parametrize("clock", [(1 << 63) - 1, -(1 << 63), 0, -1])
def test_absurd_clock_of_a_neighbour_does_no_harm(clock: int) -> None:
    async def main(nursery: trio.Nursery) -> None:
        host = await Host(MemoryStore()).start(nursery)
        host.mesh.connect(PEER, ())
        host.hear(theirs(), clock=clock)
        await trio.sleep(100)
        timestamp(host)
        await host.names.add("c", FOUR, "web.weave.local")
        await host.names.remove("c")
        assert [entry.tombstone > 0 for entry in host.names.table.entries()] == [False, True]
        host.clock -= 1000
        timestamp(host)

    run(main)


# Two routers and more


class NamesNode:
    """A node of a simulated cluster with names on it, from life to life."""

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, number: int) -> None:
        self.node = cluster.node(number)
        self.name = peer_name(number)
        self.store = MemoryStore()
        self._nursery = nursery
        self._names: Names | None = None
        self._scope = trio.CancelScope()
        self.node.begin = self._begin

    @property
    def names(self) -> Names:
        assert self._names is not None
        return self._names

    async def start(self, *targets: int) -> NamesNode:
        await self.node.start(*map(address, targets))
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._live)
        return self

    async def _begin(self, router: Router) -> None:
        self._names = Names(DnsSettings(), router.mesh, self.store, clock=lambda: UNIX + trio.current_time())
        await self._names.begin()
        router.on_routes_changed(self._names.routes_changed)

    async def _live(self) -> None:
        with self._scope:
            await self.names.run()

    async def crash(self) -> None:
        self.store = self.store.crash()
        self._scope.cancel()
        await self.node.crash()

    def knows(self, name: str, *addresses: Address) -> bool:
        return {entry.address for entry in self.names.table.of_name(name)} == set(addresses)


def cluster_of(main: Callable[[Callable[[int], NamesNode]], Awaitable[None]]) -> None:
    async def with_nodes(cluster: SimulatedCluster) -> None:
        async with trio.open_nursery() as nursery:
            await main(partial(NamesNode, cluster, nursery))
            nursery.cancel_scope.cancel()

    run_cluster(with_nodes)


async def met(*nodes: NamesNode) -> None:
    everybody = {node.name for node in nodes}
    await wait_until(
        lambda: all(everybody <= set(node.node.router.mesh.topology.records) for node in nodes),
        within=10,
        what="meeting",
    )
    await trio.sleep(2)


def all_know(nodes: Iterable[NamesNode], name: str, *addresses: Address) -> bool:
    return all(node.knows(name, *addresses) for node in nodes)


def test_names_of_both_families_reach_the_other_host_at_once_and_go_again() -> None:
    async def main(node: Callable[[int], NamesNode]) -> None:
        one, two = await node(1).start(), await node(2).start(1)
        await met(one, two)
        await one.names.add("c", FOUR, "web.weave.local")
        await two.names.add("d", SIX, "web.weave.local")
        await wait_until(lambda: all_know((one, two), "web.weave.local.", FOUR, SIX), within=1)
        await one.names.remove("c")
        await two.names.remove("d", SIX)
        await wait_until(lambda: all_know((one, two), "web.weave.local."), within=1)
        assert one.names.table.entries() == two.names.table.entries()
        assert [entry.version for entry in one.names.table.entries()] == [1, 1]

    cluster_of(main)


def test_newcomer_hears_of_all_names_soon() -> None:
    """Not only with the next periodic gossip, as a peer of Weave Net may (section 15)."""

    async def main(node: Callable[[int], NamesNode]) -> None:
        one, two = await node(1).start(), await node(2).start(1)
        await met(one, two)
        await one.names.add("c", FOUR, "web.weave.local")
        await one.names.add("c", SIX, "web.weave.local")
        three = await node(3).start(2)
        await wait_until(lambda: three.knows("web.weave.local.", FOUR, SIX), within=5)

    cluster_of(main)


def test_names_cross_hosts_in_a_line() -> None:
    async def main(node: Callable[[int], NamesNode]) -> None:
        line = [await node(1).start(), await node(2).start(1), await node(3).start(2), await node(4).start(3)]
        await met(*line)
        await line[0].names.add("c", FOUR, "web.weave.local")
        await line[3].names.add("c", SIX, "web.weave.local")
        await wait_until(lambda: all_know(line, "web.weave.local.", FOUR, SIX), within=2)

    cluster_of(main)


def test_crashed_host_keeps_its_names_for_a_while_and_returns_with_them() -> None:
    async def main(node: Callable[[int], NamesNode]) -> None:
        one, two = await node(1).start(), await node(2).start(1)
        await met(one, two)
        await two.names.add("c", FOUR, "web.weave.local")
        await wait_until(lambda: one.knows("web.weave.local.", FOUR), within=1)
        await two.crash()
        await trio.sleep(ABSENCE_S - 5)
        assert one.knows("web.weave.local.", FOUR)
        await wait_until(lambda: one.knows("web.weave.local."), within=20)
        assert len(one.names.table) == 0
        await two.start()
        await wait_until(lambda: one.knows("web.weave.local.", FOUR), within=20)
        assert [entry.version for entry in one.names.table.entries()] == [0]

    cluster_of(main)


@pytest.mark.parametrize("family", ["4", "6"])
def test_host_that_lost_its_store_takes_its_old_names_back(family: str) -> None:
    async def main(node: Callable[[int], NamesNode]) -> None:
        one, two = await node(1).start(), await node(2).start(1)
        await met(one, two)
        where = FOUR if family == "4" else SIX
        await two.names.add("c", where, "web.weave.local")
        await wait_until(lambda: one.knows("web.weave.local.", where), within=1)
        await two.crash()
        two.store = MemoryStore()
        await two.start()
        await wait_until(lambda: one.knows("web.weave.local."), within=20)
        assert one.names.table.entries() == two.names.table.entries()
        assert [(entry.version, bool(entry.tombstone)) for entry in one.names.table.entries()] == [(1, True)]

    cluster_of(main)


def test_host_that_crashed_before_it_could_store_a_deletion_still_has_the_name() -> None:
    async def main(node: Callable[[int], NamesNode]) -> None:
        one, two = await node(1).start(), node(2)
        two.store = SlowStore(lambda: 1.0)
        await two.start(1)
        await met(one, two)
        await two.names.add("c", FOUR, "web.weave.local")
        await trio.sleep(1)
        removed = trio.CancelScope()

        async def remove() -> None:
            with removed:
                await two.names.remove("c")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove)
            await trio.sleep(0.5)
            removed.cancel()
        await two.crash()
        await two.start()
        await wait_until(lambda: all_know((one, two), "web.weave.local.", FOUR), within=20)
        await trio.sleep(60)
        assert all_know((one, two), "web.weave.local.", FOUR)
        assert one.names.table.entries() == two.names.table.entries()

    cluster_of(main)
