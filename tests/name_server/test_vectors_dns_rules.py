"""Entries against what Weave Net 2.8 did with them (dns.md sections 2 to 5), and where we differ on purpose.

- An entry's identity folds the letter case of its name: one slot, in the spelling that came first. Deletion ignores
  letter case. Cases marked "defect" neither crash nor duplicate.
- Entries of an unknown origin wait for it, and are news when it becomes known. A peer that disappears keeps its names
  for 30 s.
- A message's `Timestamp` is never a reason to refuse it.
- Names outside the domain are refused with `OutsideDomain`.

Beside these, what is passed on differs in form, not in effect:

- Entries are passed on in the state that we know when they are sent, never in an older one that a message had
  (design.md: gossip is state-based).
- What we correct of our own is told by the broadcast of step 6, after it was stored; gossip does not tell it again.
- A broadcast of which nothing is left is not passed on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from vector_files import cases, load, peer
from weave_dns import stored
from weave_dns.entries import Bond, Entry
from weave_dns.errors import OutsideDomain
from weave_dns.messages import IPV4, Header, decode_message, encode_message
from weave_dns.registry import ABSENCE_S, Registry
from weave_dns.service import Names
from weave_dns.settings import DnsSettings
from weave_router.control.mesh import Mesh
from weave_router.control.targets import Targets
from weave_router.testing.stores import MemoryStore
from weave_router.wire.peer_name import parse_peer_name
from weave_router.wire.topology import PeerRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_dns.entries import Identity
    from weave_dns.table import Table
    from weave_router.control.gossip import Channel, GossipData
    from weave_router.wire.peer_name import PeerName

Told = list[tuple[str, str, str, int, int, int]]

SLOTS = "one slot for all spellings"
PARKED = "entries of an unknown origin wait"
CLOCK = "clocks are no reason to refuse"
NEWER = "passed on as we know it"
BROADCAST_ONLY = "own corrections are broadcast only"
NOTHING_LEFT = "a broadcast of which nothing is left is not passed on"

DEVIATIONS = {
    ("gossip", "other letter case of a known name is another identity"): SLOTS,
    ("gossip", "letter case variants again: duplicates pile up (defect)"): SLOTS,
    ("gossip", "same identity twice in one message: receiver stops (defect)"): SLOTS,
    ("gossip", "origin not known: dropped"): PARKED,
    ("broadcast", "origin not known: dropped"): PARKED,
    ("gossip", "clock ahead by 901 s: refused"): CLOCK,
    ("gossip", "clock behind by 901 s: refused"): CLOCK,
    ("broadcast", "mix of new, old and known"): NEWER,
    ("broadcast", "empty message"): NOTHING_LEFT,
    ("gossip", "own entry, incoming newer and dead: mine is kept and its version jumps past"): BROADCAST_ONLY,
    ("gossip", "own entry, same version but dead: mine is kept and its version jumps past"): BROADCAST_ONLY,
    ("gossip", "own entry unknown to me: tombstoned, version raised, broadcast"): BROADCAST_ONLY,
}
RECEIVED = [
    pytest.param(case, id=f"{case['kind']}-{case['name']}".replace(" ", "-")) for case in load("dns/rules")["receive"]
]


def read_entry(recorded: Any) -> Entry:
    return Entry(
        recorded["container"],
        peer(recorded["origin"]),
        IPv4Address(recorded["address"]),
        recorded["hostname"],
        recorded["version"],
        recorded["tombstone"],
    )


def shown(entries: Iterable[Entry]) -> Told:
    return [(e.hostname, e.container, str(e.address), e.origin, e.version, e.tombstone) for e in entries]


def in_memory(table: Table) -> Told:
    return shown(sorted(table.entries(), key=lambda entry: entry.memory_order))


def recorded(entries: Any) -> Told:
    return shown(read_entry(entry) for entry in entries or ())


def in_wire_order(row: tuple[str, str, str, int, int, int]) -> tuple[str, int, str, IPv4Address]:
    hostname, container, address, origin, *_ = row
    return (hostname, origin, container, IPv4Address(address))


def in_payloads(payloads: Iterable[bytes]) -> Told:
    return [
        row
        for payload in payloads
        for part in decode_message(IPV4, payload)
        if not isinstance(part, Header)
        for row in shown(part)
    ]


class RecordingMesh(Mesh):
    """A mesh that tells nobody anything, but what it was asked to tell is remembered."""

    def __init__(self, ourselves: PeerName, peers: Iterable[PeerName]) -> None:
        chance = random.Random(1)
        targets = Targets(ourselves, 6783, chance)
        record = PeerRecord(ourselves, "node", 1)
        super().__init__(record, targets, overlays=(), connection_limit=0, random=chance, now=0.0)
        for name in peers:
            self.topology.learn_neighbour(PeerRecord(name, "peer", 2))
        self.channels: dict[str, Channel] = {}
        self.broadcasts: list[GossipData] = []
        self.gossiped: list[GossipData] = []

    def register(self, name: str, channel: Channel, speaks_to: Any = None) -> None:
        self.channels[name] = channel

    def broadcast(self, channel: str, data: GossipData) -> None:
        self.broadcasts.append(data)

    def gossip(self, channel: str, data: GossipData) -> None:
        self.gossiped.append(data)


@dataclass
class Outcome:
    """What became of a message."""

    after: Told
    relayed: Told
    own_broadcasts: Told
    store: dict[str, Any] = field(default_factory=dict)


async def receive(case: Any) -> Outcome:
    """Hand a message to a node that has the entries of `before`, by its gossip channel."""
    ourselves, now = peer(case["node"]), case["now"]
    before = [read_entry(entry) for entry in case["before"] or ()]
    own = {stored.key_of(e.identity): stored.to_json(e, Bond.NOTHING) for e in before if e.origin == ourselves}
    known = [name for name in map(parse_peer_name, case["known_peers"]) if name != ourselves]
    everybody = {entry.origin for entry in before} - {ourselves}
    mesh = RecordingMesh(ourselves, {*known, *everybody})
    store = MemoryStore(own)
    names = Names(DnsSettings(), mesh, store, clock=lambda: now)
    await names.begin()
    channel = mesh.channels[IPV4.channel]
    async with trio.open_nursery() as nursery:
        await nursery.start(names.run)
        source = peer("00:00:00:00:00:02")
        if everybody:
            others = sorted((e for e in before if e.origin != ourselves), key=lambda entry: entry.wire_order)
            list(channel.on_gossip(source, encode_message(IPV4, others, now), 0.0))
        for name in everybody.difference(known):
            del mesh.topology.records[name]
        await wait_all_tasks_blocked()
        mesh.broadcasts.clear()
        payload = bytes.fromhex(case["message_hex"])
        data: GossipData | None = None
        if case["kind"] == "gossip":
            news = [part for part in channel.on_gossip(source, payload, 0.0) if part is not None]
            assert len(news) <= 1
            data = news[0] if news else None
        else:
            data = channel.on_broadcast(source, payload, 0.0)
        await wait_all_tasks_blocked()
        relayed = [] if data is None else in_payloads(data.encode())
        own_broadcasts = in_payloads(payload for data in mesh.broadcasts for payload in data.encode())
        nursery.cancel_scope.cancel()
    return Outcome(in_memory(names.table), relayed, own_broadcasts, await store.read(""))


@pytest.mark.parametrize("case", RECEIVED)
def test_receiving(case: Any) -> None:
    outcome = trio.run(partial(receive, case), clock=MockClock(autojump_threshold=0))
    deviation = DEVIATIONS.get((case["kind"], case["name"]))
    own, theirs = parse_peer_name("::1"), parse_peer_name("::2")
    after, relayed = recorded(case.get("after")), recorded(case.get("relayed"))
    own_broadcasts = [row for entries in case.get("own_broadcast") or () for row in recorded(_as_list(entries))]
    same_twice: Told = [("q.weave.local.", "c1", "10.0.0.1", theirs, 1, 0)]
    match deviation:
        case None | "entries of an unknown origin wait":
            pass
        case "one slot for all spellings" if "crash" in case:
            before = recorded(case["before"])
            after, relayed = sorted(before + same_twice), same_twice
        case "one slot for all spellings":
            # The one that was there first, and nothing that is new.
            first = {(row[0].lower(), *row[1:]): row for row in reversed(recorded(case["before"]))}
            after, relayed = sorted(first.values(), key=lambda row: row[0].lower()), []
            assert not outcome.relayed
        case "clocks are no reason to refuse":
            new = recorded(case["message_entries"])
            after, relayed = sorted(recorded(case["before"]) + new), new
        case "passed on as we know it":
            assert [row[:4] for row in outcome.relayed] == [row[:4] for row in relayed]
            assert all(ours[4:] >= theirs[4:] for ours, theirs in zip(outcome.relayed, relayed, strict=True))
            relayed = [row for row in after if row[:4] in {passed[:4] for passed in relayed}]
        case "own corrections are broadcast only":
            assert relayed == own_broadcasts
            relayed = []
        case _:
            assert not relayed
    assert outcome.after == after
    assert outcome.relayed == sorted(relayed, key=in_wire_order)
    assert outcome.own_broadcasts == own_broadcasts
    kept = {(row["hostname"], row["container"], row["version"], row["tombstone"]) for row in outcome.store.values()}
    assert kept == {
        (name, container, version, dead) for name, container, _, origin, version, dead in after if origin == own
    }


def _as_list(entries: Any) -> Any:
    return entries if isinstance(entries, list) else [entries]


def test_every_listed_deviation_is_of_a_case() -> None:
    assert {(case["kind"], case["name"]) for case in load("dns/rules")["receive"]} >= set(DEVIATIONS)


def test_entries_of_an_unknown_origin_are_news_when_it_becomes_known() -> None:
    [case] = [
        case
        for case in load("dns/rules")["receive"]
        if case["name"] == "origin not known: dropped" and case["kind"] == "gossip"
    ]
    peers = {parse_peer_name(text) for text in case["known_peers"]}
    registry = Registry(peer(case["node"]), "weave.local.", known=lambda name: name in peers)
    new = [read_entry(entry) for entry in case["message_entries"]]
    assert registry.receive(new, 0.0, case["now"]) == ([], [])
    assert registry.table.entries() == []
    peers.update(entry.origin for entry in new)
    assert registry.peers_changed(30.0) == [entry.identity for entry in new]
    assert registry.table.entries() == new


# Own operations in sequence


def local_operations() -> list[Any]:
    return list(load("dns/rules")["local"])


class LocalRun:
    """One node that goes through the operations of `rules.json`."""

    def __init__(self) -> None:
        self.peers = {parse_peer_name("::1"), parse_peer_name("::2")}
        self.registry = Registry(parse_peer_name("::1"), "weave.local.", known=lambda name: name in self.peers)

    def state(self, identities: Iterable[Identity]) -> Told:
        entries = [entry for entry in map(self.registry.table.get, identities) if entry is not None]
        return shown(sorted(entries, key=lambda entry: entry.wire_order))

    def do(self, operation: Any, unix: int, far: list[Entry]) -> Told:
        """Do it; returns what is to be broadcast."""
        registry, now = self.registry, float(unix)
        match operation["do"]:
            case "add":
                try:
                    registry.add(operation["container"], IPv4Address(operation["address"]), operation["fqdn"], now=now)
                except OutsideDomain:
                    assert operation["fqdn"] in ("one.example.com", "notweave.local")
            case "delete":
                container, address, hostname = (
                    None if operation[key] == "*" else operation[key] for key in ("container", "address", "hostname")
                )
                registry.delete(
                    container, None if address is None else IPv4Address(address), hostname, now=now, unix=unix
                )
            case "container died":
                registry.delete(operation["container"], now=now, unix=unix)
            case "entries of another peer arrive":
                registry.receive(far, now, unix)
            case "peer gone":
                self.peers.discard(peer(operation["peer"]))
                registry.peers_changed(now)
                registry.tick(now + ABSENCE_S - 1)
                assert [e for e in registry.table.entries() if e.origin == peer(operation["peer"])]
                registry.tick(now + ABSENCE_S)
            case _:
                raise AssertionError(operation)
        return self.state(registry.take_untold())


def earlier(rows: Told) -> Told:
    """`One.Weave.Local.` dies when `one.weave.local.` is deleted, 10 s before it does where letter case counts."""
    return [
        (*row[:5], 1_700_000_100) if (row[0], row[4], row[5]) == ("One.Weave.Local.", 1, 1_700_000_110) else row
        for row in rows
    ]


def test_own_operations_in_sequence() -> None:
    run = LocalRun()
    table = run.registry.table
    done = 0
    for step in local_operations():
        operation = step["op"]
        if operation["do"] == "lookup":
            found = sorted(str(entry.address) for entry in table.of_name(operation["hostname"]))
            assert found == sorted(step["result"] or ())
        elif operation["do"] == "reverse lookup":
            entries = table.of_address(IPv4Address(operation["address"]))
            assert (entries[0].hostname if entries else None) == step["result"]
        else:
            far = [read_entry(entry) for entry in step["after"] if entry["origin"] != "00:00:00:00:00:01"]
            told = run.do(operation, step["now"], far)
            expected = [row for entries in step["broadcasts"] or () for row in recorded(entries)]
            after = recorded(step["after"])
            if operation.get("hostname") == "one.weave.local.":
                assert not expected
                expected = [("One.Weave.Local.", "c1", "10.0.0.2", 1, 1, step["now"])]
                after = [expected[0] if row[0] == "One.Weave.Local." else row for row in after]
            elif operation.get("hostname") == "One.Weave.Local.":
                expected = []
            assert told == expected, operation
            assert in_memory(table) == earlier(after), operation
        done += 1
    assert done == len(local_operations()) >= 29


# Merging what waits


@pytest.mark.parametrize("case", cases("dns/rules", "merge_before_sending", "first_timestamp"))
def test_messages_that_wait_are_merged_by_the_rules_of_receiving(case: Any) -> None:
    async def merge() -> Told:
        mesh = RecordingMesh(parse_peer_name("::9"), [parse_peer_name("::1")])
        names = Names(DnsSettings(), mesh, MemoryStore(), clock=lambda: case["result_timestamp"])
        await names.begin()
        channel = mesh.channels[IPV4.channel]
        waiting: list[GossipData] = []
        for key in ("first", "second"):
            payload = encode_message(IPV4, [read_entry(entry) for entry in case[key]], case[f"{key}_timestamp"])
            waiting += [data for data in channel.on_gossip(parse_peer_name("::1"), payload, 0.0) if data is not None]
        first, second = waiting
        payloads = list(first.merge(second).encode())
        [header] = [part for payload in payloads for part in decode_message(IPV4, payload) if isinstance(part, Header)]
        assert header.clock == case["result_timestamp"]
        return in_payloads(payloads)

    assert trio.run(merge) == recorded(case["result"])
