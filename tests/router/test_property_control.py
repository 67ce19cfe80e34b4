"""Bounds that always hold: back-off of targets (mesh.md section 12), queues toward slow neighbours (7.3)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.control.gossip import (
    MAX_RELAYED_BYTES,
    MAX_RELAYED_PAYLOADS,
    MAX_WAITING_BYTES,
    MAX_WAITING_MESSAGES,
    Outbox,
    RelayedPayloads,
    UnknownChannel,
)
from weave_router.control.targets import DirectPeer, OpenConnection, Targets, TargetState
from weave_router.wire.envelope import Tag, decode_envelope
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import Link, PeerRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

MODERATE = settings(deadline=None)
OURSELVES, FAR, FARTHER = PeerName(1), PeerName(2), PeerName(3)
HOSTS = ["10.0.0.2:6783", "10.0.0.3:6783", "10.0.0.4:7000"]
PEERS = {address: PeerName(50 + number) for number, address in enumerate(HOSTS)}
ADDRESSES = st.sampled_from(HOSTS)
CHANCES = st.integers(0, 2**32).map(random.Random)

# Targets


class Chance:
    """The extremes and everything between."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def random(self) -> float:
        return self.rng.choice([0.0, 0.999999, self.rng.random()])

    def randrange(self, stop: int, /) -> int:
        return self.rng.randrange(stop)


def known(*addresses: str) -> Mapping[PeerName, PeerRecord]:
    """Topology: a peer that has dialled these addresses."""
    links = tuple(
        Link(PeerName(100 + number), address, outbound=True, established=True)
        for number, address in enumerate(addresses)
    )
    return {OURSELVES: PeerRecord(OURSELVES), FAR: PeerRecord(FAR, links=links)}


@dataclass
class Maker:
    """A connection maker in a world where attempts fail, succeed, end and are refused at random."""

    rng: random.Random
    now: float = 100.0
    connected: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    ended_at: dict[str, float] = field(default_factory=dict)
    attempting: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.targets = Targets(OURSELVES, 6783, Chance(self.rng))

    def due(self, *gossiped: str) -> None:
        open_connections = [OpenConnection(address, True, PEERS[address]) for address in sorted(self.connected)]
        for address in self.targets.due(open_connections, known(*gossiped), None, self.now):
            assert address not in self.connected
            assert address not in self.attempting
            assert address not in self.refused, "tried again after it was refused for good"
            if address in self.ended_at:
                assert self.now - self.ended_at.pop(address) >= 0.2 - 1e-9  # mesh.md section 5
            self.attempting.add(address)
        for address, ended in list(self.ended_at.items()):
            target = self.targets.targets.get(address)
            if target is None:  # forgotten, with its back-off (mesh.md section 12)
                del self.ended_at[address]
            elif target.state is TargetState.WAITING:
                assert target.try_at - ended <= 30 + 1e-9

    def step(self, gossiped: list[str]) -> None:
        self.now += self.rng.choice([0.0, 0.1, 1.0, 15.0, 61.0])
        busy = sorted(self.attempting | self.connected)
        address = self.rng.choice(busy) if busy else HOSTS[0]
        match self.rng.choice(["fail", "connect", "end", "refuse", "direct", "forget", "wait"]):
            case "fail" if address in self.attempting:
                self.attempting.discard(address)
                self.ended_at[address] = self.now
                self.targets.ended(address, "no route", self.now)
            case "connect" if address in self.attempting:
                self.attempting.discard(address)
                self.connected.add(address)
                self.targets.connected(address, PEERS[address])
            case "end" if address in self.connected:
                self.connected.discard(address)
                self.ended_at[address] = self.now
                self.targets.ended(address, "reset", self.now)
            case "refuse" if address in self.attempting:
                self.attempting.discard(address)
                self.refused.add(address)
                self.targets.refused(address, "ourselves")
            case "direct":
                chosen = self.rng.choice(HOSTS)
                self.targets.add_direct(DirectPeer(chosen, (chosen,), with_port=True), self.now)
                self.refused.discard(chosen)  # the operator's word counts
                self.ended_at.pop(chosen, None)
            case "forget":
                self.targets.remove_direct(self.rng.choice(HOSTS))
        self.due(*gossiped)


@MODERATE
@given(CHANCES, st.sets(ADDRESSES))
def test_targets_are_retried_in_time_and_never_after_a_refusal(rng: random.Random, gossiped: set[str]) -> None:
    maker = Maker(rng)
    for _ in range(60):
        maker.step(sorted(gossiped))


@MODERATE
@given(CHANCES, st.lists(st.sets(ADDRESSES), min_size=2, max_size=4))
def test_a_refused_target_stays_refused_when_gossip_takes_it_away_and_brings_it_back(
    rng: random.Random, gossip: list[set[str]]
) -> None:
    """mesh.md section 12: after a name collision or self connection, never again by itself."""
    maker = Maker(rng)
    for _ in range(60):
        maker.step(sorted(rng.choice(gossip)))


@MODERATE
@given(CHANCES, st.integers(1, 25))
def test_back_off_of_failing_attempts(rng: random.Random, failures: int) -> None:
    """interval/2 + random[0, interval), from 2 s by 1.5, and never more than 30 s."""
    targets = Targets(OURSELVES, 6783, Chance(rng))
    targets.add_direct(DirectPeer("h", (HOSTS[0],)), 0.0)
    now, interval = 0.0, 2.0
    for _ in range(failures):
        assert targets.due([], {}, None, now) == [HOSTS[0]]
        targets.ended(HOSTS[0], "no route", now)
        next_try = targets.next_try()
        assert next_try is not None
        assert interval * 0.5 - 1e-9 <= next_try - now <= min(interval * 1.5, 30.0) + 1e-9
        assert targets.due([], {}, None, next_try - 0.001) == []
        now, interval = next_try, min(interval * 1.5, 20.0)


@MODERATE
@given(st.floats(0, 200), st.integers(0, 8))
def test_a_lasting_connection_is_dialled_again_at_once(lasted: float, failures: int) -> None:
    targets = Targets(OURSELVES, 6783, random.Random(1))
    targets.add_direct(DirectPeer("h", (HOSTS[0],)), 0.0)
    now = 0.0
    for _ in range(failures):
        targets.due([], {}, None, now)
        targets.ended(HOSTS[0], "no route", now)
        now = targets.next_try() or 0.0
    targets.due([], {}, None, now)
    targets.connected(HOSTS[0], PEERS[HOSTS[0]])
    targets.ended(HOSTS[0], "reset", now + lasted)
    next_try = targets.next_try()
    assert next_try is not None
    if lasted > 60.01:
        assert next_try - now - lasted == pytest.approx(0.2)
    elif lasted < 59.99:
        assert next_try - now - lasted >= 1.0 * 0.999


DIALLED = st.builds(
    lambda remote, address, outbound: Link(PeerName(remote), address, outbound=outbound, established=True),
    st.sampled_from([1, 4, 5, 6]),
    st.one_of(
        ADDRESSES,
        st.sampled_from(
            ["host:6783", "10.0.0.9", "10.0.0.9:", "10.0.0.9:0", ":6783", "", "10.0.0.9:99999", "10.0.0.300:1"]
        ),
        st.sampled_from(["[::1]:6783", "0.0.0.0:6783", "10.0.0.9:٣", "10.0.0.9:6783\n", "1.2.3.4.5:6", "10.0.0.9:+1"]),
        st.text(max_size=20),
    ),
    st.booleans(),
)


@MODERATE
@given(st.lists(DIALLED, max_size=6), st.sets(st.sampled_from([4, 5])), st.booleans())
def test_discovered_targets_are_those_of_the_specification(
    links: list[Link], neighbours: set[int], discovery: bool
) -> None:
    """mesh.md section 12, rule 2; gossip can give no names to look up and nothing that is no address."""
    targets = Targets(OURSELVES, 6790, random.Random(1), discovery=discovery)
    records = {
        OURSELVES: PeerRecord(OURSELVES, links=(Link(PeerName(6), "10.9.9.9:6783", outbound=True, established=True),)),
        FAR: PeerRecord(FAR, links=tuple(links)),
    }
    connections = [OpenConnection(f"10.5.0.{name}:6783", True, PeerName(name)) for name in sorted(neighbours)]
    expected = set()
    for link in links:
        if discovery and link.remote != OURSELVES and link.remote not in neighbours:
            host, _, port = link.address.rpartition(":")
            expected.add(f"{host}:{port if link.outbound else 6790}")
    dialled = set(targets.due(connections, records, None, 1.0))

    assert dialled <= expected
    for address in expected - dialled:
        assert address not in HOSTS
    for address in dialled:
        host, _, port = address.rpartition(":")
        assert 0 < int(port) < 65536
        assert [0 <= int(octet) < 256 for octet in host.split(".")] == [True] * 4
        assert address.isascii()


@MODERATE
@given(st.integers(0, 6), st.integers(0, 6))
def test_the_connection_limit_holds_for_dialling(limit: int, present: int) -> None:
    targets = Targets(OURSELVES, 6783, random.Random(1))
    for number in range(5):
        targets.add_direct(DirectPeer(str(number), (f"10.0.1.{number}:6783",)), 0.0)
    room = limit - present

    assert len(targets.due([], {}, room, 0.0)) == min(max(room, 0), 5)


# Outboxes


def waiting(outbox: Outbox) -> list[bytes]:
    found = []
    while (message := outbox.pop()) is not None:
        found.append(message)
    return found


@dataclass
class Wakes:
    count: int = 0

    def __call__(self) -> None:
        self.count += 1


@MODERATE
@given(st.lists(st.one_of(st.integers(0, 100), st.sampled_from([10**6, 3 * 10**6])), max_size=30))
def test_waiting_messages_are_bounded_and_in_order(sizes: list[int]) -> None:
    outbox = Outbox(OURSELVES, Wakes())
    kept: list[bytes] = []
    for number, size in enumerate(sizes):
        message = bytes([number]) + bytes(size)
        before = outbox.dropped
        outbox.put(message)
        if outbox.dropped == before:
            kept.append(message)
    found = waiting(outbox)

    assert found == kept
    assert len(found) + outbox.dropped == len(sizes)
    assert len(found) <= MAX_WAITING_MESSAGES
    assert sum(map(len, found)) <= max(MAX_WAITING_BYTES, max(map(len, found), default=0))


def test_waiting_messages_are_bounded_in_number() -> None:
    outbox = Outbox(OURSELVES, Wakes())
    for _ in range(3 * MAX_WAITING_MESSAGES):
        outbox.put(b"x")

    assert len(waiting(outbox)) == MAX_WAITING_MESSAGES
    assert outbox.dropped == 2 * MAX_WAITING_MESSAGES
    outbox.put(b"x")
    assert waiting(outbox) == [b"x"]


SENT = st.lists(
    st.tuples(
        st.sampled_from(["gossip", "broadcast", "broadcast", "pop"]),
        st.integers(2, 4).map(PeerName),
        st.one_of(st.integers(0, 50), st.sampled_from([10**6, 5 * 10**6])),
    ),
    max_size=15,
)


@settings(max_examples=30, deadline=None)
@given(SENT)
def test_payloads_of_an_unknown_channel_come_out_whole_in_order_and_as_from_their_source(
    sent: list[tuple[str, PeerName, int]],
) -> None:
    outbox = Outbox(OURSELVES, Wakes())
    given_: dict[tuple[Tag, PeerName], list[bytes]] = {}
    got: dict[tuple[Tag, PeerName], list[bytes]] = {}

    def take(message: bytes | None) -> None:
        if message is not None:
            envelope = decode_envelope(message)
            assert envelope.channel == "strange"
            got.setdefault((envelope.tag, envelope.source), []).append(envelope.payload)

    for number, (action, source, size) in enumerate(sent):
        payload = bytes([number]) + bytes(size)
        if action == "gossip":
            outbox.gossip("strange", RelayedPayloads([payload]))
            given_.setdefault((Tag.GOSSIP, OURSELVES), []).append(payload)
        elif action == "broadcast":
            outbox.broadcast("strange", source, RelayedPayloads([payload]))
            given_.setdefault((Tag.BROADCAST, source), []).append(payload)
        else:
            take(outbox.pop())
    for message in waiting(outbox):
        take(message)
    for key, payloads in got.items():
        in_order = iter(given_[key])
        assert all(payload in in_order for payload in payloads)  # a subsequence: the oldest may be dropped
    newest = max((payload for payloads in given_.values() for payload in payloads), key=lambda p: p[0], default=None)
    assert newest is None or any(newest in payloads for payloads in got.values())


def test_an_unknown_channel_is_bounded_toward_one_neighbour() -> None:
    """MAX_RELAYED_PAYLOADS: "of one unknown channel toward one neighbour"."""
    outbox = Outbox(OURSELVES, Wakes())
    for _ in range(500):
        outbox.gossip("strange", RelayedPayloads([b"x"]))
    assert len(waiting(outbox)) == MAX_RELAYED_PAYLOADS
    for _ in range(8):
        outbox.gossip("strange", RelayedPayloads([bytes(5 * 2**20)]))
    assert sum(map(len, waiting(outbox))) <= MAX_RELAYED_BYTES


def test_an_unknown_channel_is_bounded_also_while_it_is_being_sent() -> None:
    outbox = Outbox(OURSELVES, Wakes())
    for _ in range(3):
        for _ in range(100):
            outbox.gossip("strange", RelayedPayloads([b"x"]))
        outbox.pop()

    assert len(waiting(outbox)) <= MAX_RELAYED_PAYLOADS


def test_an_unknown_channel_is_bounded_also_when_many_peers_broadcast() -> None:
    outbox = Outbox(OURSELVES, Wakes())
    payload = bytes(2**20)
    for source in range(2, 100):
        outbox.broadcast("strange", PeerName(source), RelayedPayloads([payload]))

    assert sum(map(len, waiting(outbox))) <= MAX_RELAYED_BYTES + 64 * 100


@MODERATE
@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 5)), max_size=30))
def test_an_unknown_channel_relays_each_payload_once_in_half_a_minute(told: list[tuple[float, int]]) -> None:
    channel = UnknownChannel()
    now = 0.0
    relayed: dict[int, float] = {}
    for wait, number in told:
        now += wait
        news = [payload for data in channel.on_gossip(FAR, bytes([number]), now) if data for payload in data.encode()]
        due = number not in relayed or now - relayed[number] > 30.0
        assert news == ([bytes([number])] if due else [])
        if due:
            relayed[number] = now
