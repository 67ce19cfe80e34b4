"""Entries of several peers: whatever they do, and in whatever order they hear of it (dns.md sections 4, 5 and 14)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from weave_dns.entries import Bond, Entry, Identity
from weave_dns.messages import IPV4, decode_message, encode_message
from weave_dns.names import fold
from weave_dns.registry import BURIED_S, TOMBSTONE_S, Registry
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

OBSERVER = PeerName(77)
PEERS = (PeerName(1), PeerName(2), PeerName(3), PeerName(1 << 47))
UNIX = 1_700_000_000
NAMES = ("a.weave.local.", "A.weave.local.", "b.weave.local.")

State = dict[Identity, tuple[int, int]]

ENTRIES = st.builds(
    Entry,
    st.sampled_from(("", "c", "C")),
    st.sampled_from(PEERS),
    st.sampled_from((IPv4Address(1), IPv4Address(2))),
    st.sampled_from((*NAMES, "other.example.com.", "\udcff.")),
    st.integers(0, 3),
    st.sampled_from((0, 0, UNIX, UNIX + 1)),
)
MESSAGES = st.lists(ENTRIES, max_size=6)


def registry(ourselves: PeerName = OBSERVER) -> Registry:
    return Registry(ourselves, "weave.local.", known=lambda _: True)


def state(of: Registry) -> State:
    """What is known, whatever its spelling."""
    return {entry.identity: (entry.version, entry.tombstone) for entry in of.table.entries()}


def after(*messages: Iterable[Entry]) -> Registry:
    made = registry()
    for message in messages:
        made.receive(message, 0.0, UNIX)
    return made


def content(message: Iterable[Entry]) -> State:
    """A message by itself: of each identity the newest state."""
    newest: State = {}
    for entry in message:
        found = (entry.version, entry.tombstone)
        newest[entry.identity] = max(found, newest.get(entry.identity, found))
    return newest


# Merging of what others have


@settings(max_examples=300, deadline=None)
@given(MESSAGES, MESSAGES)
def test_merge_is_commutative(one: list[Entry], other: list[Entry]) -> None:
    assert state(after(one, other)) == state(after(other, one))


@settings(max_examples=300, deadline=None)
@given(MESSAGES, MESSAGES, MESSAGES)
def test_merge_is_associative(one: list[Entry], other: list[Entry], third: list[Entry]) -> None:
    """It does not matter which of them somebody else has merged before."""
    left = after(one, other).table.entries()
    right = after(other, third).table.entries()
    assert state(after(left, third)) == state(after(one, right)) == state(after([*one, *other, *third]))


@settings(max_examples=300, deadline=None)
@given(MESSAGES, MESSAGES)
def test_merge_is_idempotent_and_what_is_known_is_no_news(one: list[Entry], other: list[Entry]) -> None:
    made = after(one, other)
    before, generation = made.table.entries(), made.table.generation
    for message in (one, other, before):
        news, valid = made.receive(message, 1.0, UNIX + 1)
        assert news == []
        assert set(valid) == {entry.identity for entry in message}
    assert (made.table.entries(), made.table.generation) == (before, generation)
    assert (made.take_untold(), made.take_unsaved()) == ([], [])


@settings(max_examples=300, deadline=None)
@given(MESSAGES)
def test_merge_takes_the_newest_state_of_each_identity(message: list[Entry]) -> None:
    made = registry()
    news, _ = made.receive(message, 0.0, UNIX)
    assert state(made) == content(message)
    assert set(news) == set(content(message))


@settings(max_examples=200, deadline=None)
@given(MESSAGES, MESSAGES)
def test_exactly_what_changed_is_news(one: list[Entry], other: list[Entry]) -> None:
    made = after(one)
    before = state(made)
    news, _ = made.receive(other, 0.0, UNIX)
    assert set(news) == {identity for identity, now in state(made).items() if before.get(identity) != now}


@settings(max_examples=200, deadline=None)
@given(MESSAGES, MESSAGES, st.integers(0, 3))
def test_waiting_for_an_origin_changes_nothing_in_the_end(one: list[Entry], other: list[Entry], known: int) -> None:
    peers = set(PEERS[:known])
    made = Registry(OBSERVER, "weave.local.", known=lambda name: name in peers)
    made.receive(one, 0.0, UNIX)
    made.receive(other, 1.0, UNIX)
    assert {entry.origin for entry in made.table.entries()} <= peers
    peers.update(PEERS)
    made.peers_changed(2.0)
    assert state(made) == state(after(one, other))


# A world of peers


Wish = tuple[str, int, str]
"""Container, address, folded name."""


@dataclass
class World:
    """Peers that add and delete, crash, and send each other what they know. Messages come late, twice, or never."""

    names: tuple[PeerName, ...]
    chance: random.Random
    registries: dict[PeerName, Registry] = field(default_factory=dict)
    wishes: dict[PeerName, set[Wish]] = field(default_factory=dict)
    sent: list[tuple[PeerName, bytes]] = field(default_factory=list)
    now: float = 0.0
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for name in self.names:
            self.registries[name], self.wishes[name] = registry(name), set()

    @property
    def unix(self) -> int:
        return UNIX + int(self.now)

    def add(self, name: PeerName) -> None:
        container, address = self.chance.choice("cd"), self.chance.randrange(1, 3)
        hostname = self.chance.choice(NAMES)
        self.registries[name].add(container, IPv4Address(address), hostname, now=self.now)
        self.wishes[name].add((container, address, fold(hostname)))
        self._broadcast(name)

    def delete(self, name: PeerName) -> None:
        container = self.chance.choice("cd")
        hostname = self.chance.choice((None, *NAMES))
        self.registries[name].delete(container, None, hostname, now=self.now, unix=self.unix)
        self.wishes[name] = {
            wish
            for wish in self.wishes[name]
            if wish[0] != container or (hostname is not None and wish[2] != fold(hostname))
        }
        self._broadcast(name)

    def restart(self, name: PeerName) -> None:
        """It comes back with what was stored."""
        old, new = self.registries[name], registry(name)
        for entry in old.table.of_origin(name):
            new.restore(entry, Bond.NOTHING, now=self.now)
        self.registries[name] = new

    def lose(self, name: PeerName) -> None:
        """It comes back with nothing: its disk is lost, or it was Weave Net 2.8, which stores nothing."""
        self.registries[name] = registry(name)
        self.wishes[name] = set()

    def pass_time(self) -> None:
        self.now += self.chance.choice((1.0, 60.0, TOMBSTONE_S, BURIED_S))
        for one in self.registries.values():
            one.tick(self.now)

    def tell_all(self, name: PeerName) -> None:
        """Periodic gossip."""
        self._send(name, self.registries[name].table.entries())

    def deliver(self, index: int | None = None) -> None:
        if not self.sent:
            return
        receiver, payload = self.sent.pop(self.chance.randrange(len(self.sent)) if index is None else index)
        fate = self.chance.random() if index is None else 1.0
        if fate < 0.2:
            return
        if fate < 0.4:
            self.sent.append((receiver, payload))
        self.hear(receiver, payload)

    def hear(self, name: PeerName, payload: bytes) -> None:
        entries = [entry for part in decode_message(IPV4, payload) if isinstance(part, list) for entry in part]
        one = self.registries[name]
        news, _ = one.receive(entries, self.now, self.unix)
        told = [entry for entry in map(one.table.get, news) if entry is not None]
        if told:
            self._send(name, sorted(told, key=lambda entry: entry.wire_order))
        self._broadcast(name)

    def _broadcast(self, name: PeerName) -> None:
        one = self.registries[name]
        told = [entry for entry in map(one.table.get, one.take_untold()) if entry is not None]
        one.take_unsaved()
        if told:
            self._send(name, sorted(told, key=lambda entry: entry.wire_order))

    def _send(self, name: PeerName, entries: list[Entry]) -> None:
        """To all others; rules of section 3."""
        assert [entry.wire_order for entry in entries] == sorted(entry.wire_order for entry in entries)
        assert len({entry.identity for entry in entries}) == len(entries)
        payload = encode_message(IPV4, entries, self.unix)
        self.sent += [(other, payload) for other in self.names if other != name]

    def check(self) -> None:
        """What holds at all times: everybody knows his own names."""
        for name, one in self.registries.items():
            own = {
                (entry.container, int(entry.address), entry.identity.hostname)
                for entry in one.table.of_origin(name)
                if not entry.tombstone
            }
            assert own == self.wishes[name]

    def settle(self) -> None:
        """Everybody tells everything, and all of it arrives, until nothing is said any more."""
        for _ in range(4):
            for name in self.names:
                self.tell_all(name)
            steps = 0
            while self.sent:
                self.deliver(0)
                steps += 1
                assert steps < 5000, "they go on telling each other the same"
        for name in self.names:
            before = [one.table.generation for one in self.registries.values()]
            self.tell_all(name)
            while self.sent:
                self.deliver(0)
            assert [one.table.generation for one in self.registries.values()] == before

    def check_agreement(self) -> None:
        """All know exactly the names that their owners want."""
        wanted = {(name, *wish) for name, wishes in self.wishes.items() for wish in wishes}
        for one in self.registries.values():
            alive = {
                (entry.origin, entry.container, int(entry.address), entry.identity.hostname): entry.version
                for entry in one.table.entries()
                if not entry.tombstone
            }
            assert set(alive) == wanted
            first = self.registries[self.names[0]].table
            assert {entry.identity: entry.version for entry in first.entries() if not entry.tombstone} == {
                entry.identity: entry.version for entry in one.table.entries() if not entry.tombstone
            }


ACTIONS = ("add", "add", "add", "delete", "restart", "lose", "pass_time", "tell_all", "deliver", "deliver", "deliver")


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 4), st.lists(st.sampled_from(ACTIONS), max_size=60), st.randoms(use_true_random=False))
def test_peers_agree_in_the_end_whatever_got_lost(count: int, actions: list[str], chance: random.Random) -> None:
    world = World(PEERS[:count], chance)
    for action in actions:
        match action:
            case "deliver" | "pass_time":
                getattr(world, action)()
            case _:
                getattr(world, action)(chance.choice(world.names))
        world.check()
    world.settle()
    world.check()
    world.check_agreement()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), max_size=40), st.randoms(use_true_random=False))
def test_states_are_equal_to_the_last_tombstone_where_none_runs_out(actions: list[str], chance: random.Random) -> None:
    world = World(PEERS[:3], chance)
    for action in actions:
        if action not in ("deliver", "pass_time"):
            getattr(world, action)(chance.choice(world.names))
        elif action == "deliver":
            world.deliver()
    world.settle()
    states = [state(one) for one in world.registries.values()]
    assert all(other == states[0] for other in states)


@settings(max_examples=200, deadline=None)
@given(MESSAGES, st.randoms(use_true_random=False))
def test_origins_correct_zombies(zombies: list[Entry], chance: random.Random) -> None:
    """Whatever others remember of an earlier life: what the origin wants, counts."""
    world = World(PEERS[:3], chance)
    for name in world.names:
        for _ in range(2):
            world.add(name)
    world.sent.clear()
    for name in world.names:
        strangers = [entry for entry in zombies if entry.origin != name and entry.origin in world.names]
        world.registries[name].receive(strangers, 0.0, UNIX)
    world.settle()
    world.check()
    world.check_agreement()
