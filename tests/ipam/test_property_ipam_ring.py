"""Rings of several peers (ipam.md sections 2, 9 and 17): whatever they do and in whatever order they hear of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from ipam.naive_ring import OURS, NaiveMerge, addresses, content, usage
from weave_ipam.errors import RingRefused
from weave_ipam.messages import State, decode_state, encode_state
from weave_ipam.ranges import AddressRange
from weave_ipam.ring import MAX_VERSION, VERSION_OF_TRANSFER, Entry, Ring
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn

MODERATE = settings(deadline=None)
PEERS = (PeerName(1), PeerName(2), PeerName(7), PeerName(2**48 - 1))
STARTS = (0, 0x0A20_0000, 2**32 - 256)
STRANGER = PeerName(99)


def owners(ring: Ring) -> list[PeerName]:
    return [ring.owner_of(address) for address in range(ring.universe.start, ring.universe.end)]


# Two rings that need not come from the same history


@st.composite
def rings(draw: DrawFn, universe: AddressRange) -> Ring:
    """Any valid ring; the names of the owners are few, so that both sides of a merge meet."""
    tokens = sorted(draw(st.sets(st.integers(universe.start, universe.end - 1), max_size=6)))
    ring = Ring(universe, PeerName(0), [Entry(token, PeerName(0)) for token in tokens])
    versions = st.one_of(st.integers(0, 2), st.sampled_from([MAX_VERSION - 1, MAX_VERSION]))
    for index, token in enumerate(tokens):
        free = draw(st.integers(0, ring.size(index)))
        ring.entries[index] = Entry(token, draw(st.sampled_from(PEERS[:3])), draw(versions), free)
    return ring


@st.composite
def meetings(draw: DrawFn) -> tuple[Ring, Ring, set[int]]:
    """Our ring, theirs, and which addresses are in use at our side."""
    start = draw(st.sampled_from(STARTS))
    universe = AddressRange(start, start + draw(st.integers(1, 12)))
    mine, theirs = draw(rings(universe)), draw(rings(universe))
    mine.owner, theirs.owner = draw(st.permutations(PEERS[:3]))[:2]
    own = addresses(mine.owned(mine.owner))
    used = draw(st.sets(st.sampled_from(own), max_size=3)) if own else set()
    return mine, theirs, used


@settings(max_examples=1000, deadline=None)
@given(meetings())
def test_merge_of_any_two_rings_follows_the_rules_written_down_naively(meeting: tuple[Ring, Ring, set[int]]) -> None:
    mine, theirs, used = meeting
    before, sent = mine.copy(), theirs.copy()
    expected = NaiveMerge(mine.copy(), theirs, used, OURS).outcome()
    event(expected.refusal or f"changed: {expected.changed}")
    if expected.refusal is None:
        assert mine.merge(theirs, usage(before, used)) == expected.changed
        assert tuple(mine.entries) == expected.entries
    else:
        with pytest.raises(RingRefused) as refused:
            mine.merge(theirs, usage(before, used))
        if expected.refusal == "entry_in_my_range":
            assert str(refused.value) == expected.text
        assert content(mine) == content(before)
    assert content(theirs) == content(sent)


@settings(max_examples=300, deadline=None)
@given(meetings())
def test_address_in_use_stays_ours_whatever_comes(meeting: tuple[Ring, Ring, set[int]]) -> None:
    mine, theirs, used = meeting
    before = mine.copy()
    try:
        mine.merge(theirs, usage(before, used))
    except RingRefused:
        assert content(mine) == content(before)
    mine.check()
    assert all(mine.owner_of(address) == mine.owner for address in used)
    now = {entry.token: entry.version for entry in mine.entries}
    assert all(now[entry.token] >= entry.version for entry in before.entries)


@settings(max_examples=300, deadline=None)
@given(meetings())
def test_further_merges_of_the_same_ring_move_nothing(meeting: tuple[Ring, Ring, set[int]]) -> None:
    mine, theirs, used = meeting
    try:
        mine.merge(theirs, usage(mine.copy(), used))
        mine.merge(theirs, usage(mine.copy(), used))
    except RingRefused:
        return
    settled = places(mine)
    mine.merge(theirs, usage(mine.copy(), used))
    assert places(mine) == settled


def places(ring: Ring) -> set[tuple[int, PeerName]]:
    return {(entry.token, entry.peer) for entry in ring.entries}


# A world of peers


@dataclass
class World:
    """Peers with their copies of one ring. What they send can arrive late, more than once, or never."""

    copies: dict[PeerName, Ring]
    used: dict[PeerName, set[int]] = field(default_factory=dict)
    sent: list[Ring] = field(default_factory=list)
    left: set[PeerName] = field(default_factory=set)
    refused: int = 0

    def __post_init__(self) -> None:
        self.used = {name: set() for name in self.copies}

    def free(self, name: PeerName) -> list[int]:
        own = addresses(self.copies[name].owned(name))
        return [address for address in own if address not in self.used[name]]

    def report(self, name: PeerName) -> None:
        """Section 3: after every event the free counts of the own entries."""
        ring, free = self.copies[name], set(self.free(name))
        for index, entry in enumerate(ring.entries):
            if entry.peer == name:
                count = sum(
                    address in free for part in ring.stretches(index) for address in range(part.start, part.end)
                )
                before = ring.entries[index]
                assert ring.report_free(index, count) == (before.free != count)
                assert ring.entries[index] == before._replace(
                    free=count, version=before.version + (before.free != count)
                )

    def allocate(self, name: PeerName, rng: random.Random) -> None:
        if free := self.free(name):
            self.used[name].add(rng.choice(free))

    def release(self, name: PeerName, rng: random.Random) -> None:
        if self.used[name]:
            self.used[name].remove(rng.choice(sorted(self.used[name])))

    def grant(self, name: PeerName, to: PeerName, rng: random.Random) -> None:
        """Any part of our space without an address in use, across our entries and up to the end of the range."""
        free = self.free(name)
        if not free or not self.copies[to]:
            return
        first = last = rng.choice(free)
        while last + 1 in free and rng.random() < 0.7:
            last += 1
        while first - 1 in free and rng.random() < 0.3:
            first -= 1
        ring = self.copies[name]
        before = owners(ring)
        ring.grant(AddressRange(first, last + 1), to)
        low = ring.universe.start
        assert owners(ring) == before[: first - low] + [to] * (last + 1 - first) + before[last + 1 - low :]

    def transfer(self, name: PeerName, giver: PeerName, taker: PeerName) -> None:
        ring = self.copies[name]
        before = ring.copy()
        moved = ring.transfer(giver, taker)
        assert addresses(moved) == addresses(before.owned(giver))
        assert owners(ring) == [taker if owner == giver else owner for owner in owners(before)]
        for entry, was in zip(ring.entries, before.entries, strict=True):
            raised = VERSION_OF_TRANSFER if was.peer == giver else 0
            assert entry == was._replace(peer=entry.peer, version=was.version + raised)

    def leave(self, name: PeerName, heir: PeerName) -> None:
        self.used[name].clear()
        self.left.add(name)
        self.transfer(name, name, heir)

    def merge(self, name: PeerName, theirs: Ring) -> bool:
        ring = self.copies[name]
        before = ring.copy()
        try:
            changed = ring.merge(theirs, usage(before, self.used[name]))
        except RingRefused:
            self.refused += 1
            assert content(ring) == content(before)
            return False
        if not changed:  # but for versions of our own entries, which go beyond what others say of them
            assert [entry._replace(version=0) for entry in ring.entries] == [
                entry._replace(version=0) for entry in before.entries
            ]
            assert all(
                entry == was or entry.peer == name for entry, was in zip(ring.entries, before.entries, strict=True)
            )
        return changed

    def step(self, rng: random.Random, hostile: bool) -> None:
        name, other = rng.sample(list(self.copies), 2)
        before = self.copies[name].copy()
        started = bool(before)
        match rng.randrange(11 if hostile else 10):
            case 0 | 1 if started:
                self.allocate(name, rng)
            case 2 if started:
                self.release(name, rng)
            case 3 | 4 if started:
                self.grant(name, other, rng)
            case 5:
                self.sent.append(self.copies[name].copy())
            case 6 if self.sent:
                self.merge(name, rng.choice(self.sent))
            case 9 if started and rng.random() < 0.1:
                self.leave(name, other)
            case 10 if started:
                self.transfer(name, other, name)
            case _:
                self.merge(name, self.copies[other].copy())
        if self.copies[name]:
            self.report(name)
            self.check(name, before)

    def check(self, name: PeerName, before: Ring) -> None:
        ring = self.copies[name]
        ring.check()
        parts = [part for owner in ring.owners() for part in ring.owned(owner)]
        assert addresses(parts) == list(range(ring.universe.start, ring.universe.end))
        assert sum(ring.sizes().values()) == ring.universe.size
        assert ring.sizes() == {owner: sum(part.size for part in ring.owned(owner)) for owner in ring.owners()}
        for owner in ring.owners():
            assert all(ring.owner_of(address) == owner for address in addresses(ring.owned(owner)))
        assert all(ring.owner_of(address) == name for address in self.used[name])
        now = {entry.token: entry.version for entry in ring.entries}
        assert all(now[entry.token] >= entry.version for entry in before.entries)
        assert ring.seeds == before.seeds or not before.seeds

    def settle(self) -> bool:
        """All merge with all until nothing changes; whether nothing was refused in the last round."""
        for _ in range(8 * len(self.copies)):
            self.refused = 0
            before = [list(ring.entries) for ring in self.copies.values()]
            for name, other in permutations(self.copies, 2):
                self.merge(name, self.copies[other].copy())
            if before == [ring.entries for ring in self.copies.values()]:
                return self.refused == 0
        raise AssertionError("the copies do not come to rest")


@st.composite
def worlds(draw: DrawFn) -> World:
    names = PEERS[: draw(st.integers(2, 4))]
    start = draw(st.sampled_from(STARTS))
    universe = AddressRange(start, start + draw(st.sampled_from([4, 13, 32, 60])))
    seeds = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    everywhere = draw(st.booleans())
    copies = {name: Ring(universe, name) for name in names}
    for name in names if everywhere else seeds[:1]:
        copies[name].divide(seeds)
        copies[name].check()
    return World(copies)


@MODERATE
@given(worlds(), st.integers(1, 60), st.randoms(use_true_random=False))
def test_peers_that_keep_to_the_rules_never_refuse_each_other_and_agree(
    world: World, steps: int, rng: random.Random
) -> None:
    for _ in range(steps):
        world.step(rng, hostile=False)
        assert world.refused == 0
    assert world.settle()

    first, *others = world.copies.values()
    assert first
    assert all(places(ring) == places(first) for ring in others)
    held = sorted(address for used in world.used.values() for address in used)
    assert len(held) == len(set(held))
    for name, used in world.used.items():
        assert all(first.owner_of(address) == name for address in used)
    assert all(ring.seeds == first.seeds for ring in others)


@MODERATE
@given(worlds(), st.integers(1, 60), st.randoms(use_true_random=False))
def test_takeovers_of_living_peers_break_no_copy_and_end_in_agreement_or_refusal(
    world: World, steps: int, rng: random.Random
) -> None:
    for _ in range(steps):
        world.step(rng, hostile=True)
    agreed = world.settle()
    event(f"agreed: {agreed}")
    for name, ring in world.copies.items():
        world.check(name, ring)
    if agreed:
        first, *others = (owners(ring) for ring in world.copies.values())
        assert all(other == first for other in others)


@MODERATE
@given(worlds(), st.integers(1, 40), st.randoms(use_true_random=False))
def test_dead_peer_taken_over_by_one_and_by_two_ends_in_the_same_ring_everywhere(
    world: World, steps: int, rng: random.Random
) -> None:
    """Two takers that do not know of each other: while none has used what it gained, both sides come to the same."""
    for _ in range(steps):
        world.step(rng, hostile=False)
    assert world.settle()
    dead, *takers = rng.sample(list(world.copies), len(world.copies))
    del world.copies[dead], world.used[dead]
    for taker in takers[: rng.randint(1, 2)]:
        world.transfer(taker, dead, taker)
    assert world.settle()

    first, *others = (owners(ring) for ring in world.copies.values())
    assert dead not in first
    assert all(other == first for other in others)


# Versions at their end


CHANGES: dict[str, Callable[[Ring], object]] = {
    "report": lambda ring: ring.report_free(0, 200),
    "grant of the beginning": lambda ring: ring.grant(AddressRange(0x0A20_0000, 0x0A20_0040), PEERS[1]),
    "grant from the middle": lambda ring: ring.grant(AddressRange(0x0A20_0020, 0x0A20_0040), PEERS[1]),
    "grant across a token": lambda ring: ring.grant(AddressRange(0x0A20_0020, 0x0A20_00A0), PEERS[1]),
    "transfer": lambda ring: ring.transfer(PEERS[0], PEERS[1]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_version_at_its_end_goes_no_further(name: str) -> None:
    """A version is a number of 32 bits. One that another peer drove to the end must not keep us from being heard."""
    universe = AddressRange(0x0A20_0000, 0x0A20_0100)
    tokens = (universe.start, universe.start + 128)
    ring = Ring(universe, PEERS[0], [Entry(token, PEERS[0], 3, 128) for token in tokens], PEERS[:1])
    forged = Ring(universe, STRANGER, [Entry(token, PEERS[0], MAX_VERSION, 128) for token in tokens], PEERS[:1])
    ring.merge(forged, lambda start, end: True)
    assert [entry.version for entry in ring.entries] == [MAX_VERSION, MAX_VERSION]
    CHANGES[name](ring)

    assert all(entry.version <= MAX_VERSION for entry in ring.entries)
    heard = decode_state(encode_state(State(ring=ring), 0)).ring
    assert heard is not None
    assert content(heard) == content(ring)


# Large rings


def test_merge_of_ten_thousand_tokens() -> None:
    """Every second token is known to us, every fifth of these is newer with them, every seventh newer with us."""
    universe = AddressRange(0x0A00_0000, 0x0B00_0000)
    count, step = 10_000, universe.size // 10_000
    me, other = PEERS[1], PEERS[0]

    def token(number: int) -> int:
        return universe.start + number * step

    def owner(number: int) -> PeerName:
        return PEERS[number // 2 % 4]

    mine = Ring(universe, me)
    theirs = Ring(universe, other)
    expected = []
    ours_entries, their_entries = [], []
    for number in range(count):
        plain = Entry(token(number), owner(number), 5, step // 2)
        if number % 2:
            their_entries.append(plain)
            expected.append(plain)
            continue
        ours, told = plain, plain
        if number % 10 == 0 and owner(number) != me:
            told = plain._replace(version=6, peer=STRANGER, free=step // 4)
        elif number % 14 == 0:
            ours = plain._replace(version=9, free=1)
        ours_entries.append(ours)
        their_entries.append(told)
        expected.append(max(ours, told, key=lambda entry: entry.version))
    mine, theirs = Ring(universe, me, ours_entries), Ring(universe, other, their_entries)
    own = {entry.token for entry in expected if entry.peer == me}
    asked: list[tuple[int, int]] = []

    def in_use(start: int, end: int) -> bool:
        asked.append((start, end))
        return False

    assert len(mine.entries) == count // 2
    assert mine.merge(theirs, in_use)
    assert mine.entries == expected
    assert len(mine.entries) == count
    assert {mine.entries[mine.index_of(address)].token for address in own} == own
    assert {part.start for part in mine.owned(me)} <= own
    assert not mine.merge(theirs, in_use)
    assert asked == []  # nobody else's token fell into our space

    back = Ring(universe, PeerName(98), theirs.entries)  # owns nothing, so that it only listens
    assert back.merge(mine, in_use)
    assert back.entries == expected
