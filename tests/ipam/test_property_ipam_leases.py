"""Records and free space against a naive model (ipam.md sections 3 and 6), and simulated elections (10.3)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from weave_ipam import leases as leases_module
from weave_ipam.election import Claims, Election, Voter
from weave_ipam.leases import MAX_RESTING, REST_SECONDS, Lease, Leases, block_to_give
from weave_ipam.ranges import AddressRange, largest_block, without
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import Iterable

MODERATE = settings(deadline=None)
LOW, HIGH = 0x0A20_0000, 0x0A20_0018
UNIVERSE = AddressRange(LOW, HIGH)
IDENTIFIERS = ("a", "b", "weave:expose")


# Records


@dataclass
class Model:
    """What a host has to remember, as lists; the one released first comes first in `resting`."""

    limit: int
    held: list[tuple[str, Lease]] = field(default_factory=list)
    resting: list[tuple[int, float]] = field(default_factory=list)
    containers: set[str] = field(default_factory=set)

    def addresses(self) -> set[int]:
        return {lease.address for _, lease in self.held}

    def add(self, identifier: str, lease: Lease, container: bool) -> None:
        self.held.append((identifier, lease))
        self.resting = [(address, until) for address, until in self.resting if address != lease.address]
        if container:
            self.containers.add(identifier)

    def remove(self, identifier: str, address: int | None, now: float) -> list[Lease]:
        gone = [lease for name, lease in self.held if name == identifier and address in (None, lease.address)]
        self.held = [(name, lease) for name, lease in self.held if name != identifier or lease not in gone]
        if identifier not in {name for name, _ in self.held}:
            self.containers.discard(identifier)
        self.tick(now)
        for lease in gone:
            if LOW <= lease.address < HIGH:
                self.resting = [*self.resting, (lease.address, now + REST_SECONDS)][-self.limit :]
        return gone

    def tick(self, now: float) -> None:
        self.resting = [(address, until) for address, until in self.resting if until > now]

    def rests(self) -> list[int]:
        return [address for address, _ in self.resting]

    def first_free(self, own: list[int]) -> int | None:
        rested = [address for address in own if address not in self.addresses() and address not in self.rests()]
        return min(rested) if rested else next((address for address in self.rests() if address in own), None)


def numbers(stretches: Iterable[AddressRange]) -> list[int]:
    return [address for stretch in stretches for address in range(stretch.start, stretch.end)]


@st.composite
def owned(draw: st.DrawFn) -> list[AddressRange]:
    """Some ranges within the universe, ascending; they may touch each other."""
    cuts = sorted(draw(st.sets(st.integers(LOW, HIGH), max_size=8)))
    parts = [AddressRange(start, end) for start, end in pairwise(cuts)]
    return [part for part in parts if draw(st.booleans())]


ADDRESSES = st.integers(LOW - 2, HIGH + 1)
OPERATIONS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(IDENTIFIERS), ADDRESSES, st.booleans()),
    st.tuples(st.just("remove"), st.sampled_from(IDENTIFIERS), st.one_of(st.none(), ADDRESSES), st.just(False)),
    st.tuples(st.just("remove one"), st.sampled_from(IDENTIFIERS), ADDRESSES, st.just(False)),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 30, 59, 60, 61]), st.just(False)),
    st.tuples(st.just("take"), st.sampled_from(IDENTIFIERS), st.none(), st.just(False)),
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(OPERATIONS, max_size=40),
    st.lists(owned(), min_size=1, max_size=4),
    st.sampled_from([1, 3, MAX_RESTING]),
)
def test_records_and_free_space_are_those_of_the_model(
    operations: list[tuple[str, str, int | None, bool]], owns: list[list[AddressRange]], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases_module, "MAX_RESTING", limit)
        leases, model, now = Leases(UNIVERSE), Model(limit), 1000.0
        for number, (operation, identifier, value, container) in enumerate(operations):
            own = owns[number % len(owns)]
            match operation:
                case "wait":
                    assert value is not None
                    now += value
                case "take":
                    model.tick(now)
                    address = leases.first_free(own, now)
                    assert address == model.first_free(numbers(own))
                    if address is not None:
                        leases.add(identifier, Lease(address, 12))
                        model.add(identifier, Lease(address, 12), container)
                case "add" if value in model.addresses():
                    with pytest.raises(ValueError, match="is held already"):
                        leases.add(identifier, Lease(value, 24), container=container)
                case "add":
                    assert value is not None
                    leases.add(identifier, Lease(value, 24), container=container)
                    model.add(identifier, Lease(value, 24), container)
                case "remove one" if model.held:
                    identifier, lease = model.held[(value or 0) % len(model.held)]
                    assert leases.remove(identifier, lease.address, now) == [lease]
                    model.remove(identifier, lease.address, now)
                case "remove":
                    assert leases.remove(identifier, value, now) == model.remove(identifier, value, now)
            compare(leases, model, own, now)


def compare(leases: Leases, model: Model, own: list[AddressRange], now: float) -> None:
    model.tick(now)
    held = model.addresses()
    assert {name: record.leases for name, record in leases.records.items()} == {
        name: [lease for holder, lease in model.held if holder == name] for name in {name for name, _ in model.held}
    }
    assert {name for name, record in leases.records.items() if record.container} == model.containers
    holders = {lease.address: name for name, lease in model.held}
    assert all(leases.holder(address) == holders.get(address) for address in range(LOW - 3, HIGH + 3))
    for stretch in [*own, UNIVERSE]:
        inside = [address for address in numbers([stretch]) if address in held]
        assert list(leases.used_in(stretch)) == inside
        assert leases.count_used(stretch) == len(inside)
        for name in IDENTIFIERS:
            found = [lease for holder, lease in model.held if holder == name and stretch.contains(lease.address)]
            assert leases.find(name, stretch) == (found[0] if found else None)
    assert leases.first_free(own, now) == model.first_free(numbers(own))
    free = list(leases.free_stretches(own, now))
    assert numbers(free) == [a for a in numbers(own) if a not in held and a not in model.rests()]
    assert all(stretch.size > 0 for stretch in free)


def test_released_address_rests_to_the_second() -> None:
    leases = Leases(UNIVERSE)
    for number in range(3):
        leases.add("a", Lease(LOW + number, 24))
    leases.remove("a", LOW, 100.0)
    everything = [UNIVERSE]

    assert leases.first_free(everything, 100.0 + REST_SECONDS - 0.001) == LOW + 3
    assert list(leases.free_stretches(everything, 100.0 + REST_SECONDS - 0.001)) == [AddressRange(LOW + 3, HIGH)]
    assert leases.first_free(everything, 100.0 + REST_SECONDS) == LOW
    assert list(leases.free_stretches(everything, 100.0 + REST_SECONDS)) == [
        AddressRange(LOW, LOW + 1),
        AddressRange(LOW + 3, HIGH),
    ]


def test_where_all_rest_the_one_released_first_is_given_out() -> None:
    leases = Leases(UNIVERSE)
    for address in (LOW, LOW + 1, LOW + 2):
        leases.add("a", Lease(address, 24))
    for address in (LOW + 2, LOW, LOW + 1):
        leases.remove("a", address, 10.0)

    assert leases.first_free([AddressRange(LOW, LOW + 3)], 11.0) == LOW + 2
    assert leases.first_free([AddressRange(LOW, LOW + 2)], 11.0) == LOW
    assert not list(leases.free_stretches([AddressRange(LOW, LOW + 3)], 11.0))


def test_no_more_addresses_rest_than_the_limit() -> None:
    wide = AddressRange(LOW, LOW + 2 * MAX_RESTING)
    leases = Leases(wide)
    for address in range(LOW, LOW + MAX_RESTING + 2):
        leases.add("a", Lease(address, 12))
    leases.remove("a", None, 5.0)

    assert list(leases.free_stretches([wide], 6.0)) == [
        AddressRange(LOW, LOW + 2),
        AddressRange(LOW + MAX_RESTING + 2, wide.end),
    ]
    assert leases.first_free([wide], 6.0) == LOW


# Blocks


@MODERATE
@given(st.integers(0, 2000), st.integers(1, 600))
def test_largest_block_is_the_lowest_of_the_largest(start: int, size: int) -> None:
    stretch = AddressRange(start, start + size)
    aligned = [
        AddressRange(first, first + (1 << bits))
        for bits in range(size.bit_length())
        for first in range(start + -start % (1 << bits), stretch.end - (1 << bits) + 1, 1 << bits)
    ]
    assert largest_block(stretch) == max(aligned, key=lambda block: (block.size, -block.start))


@MODERATE
@given(owned(), st.sets(st.integers(LOW, HIGH - 1)))
def test_block_given_is_free_and_never_all_that_is_free(own: list[AddressRange], used: set[int]) -> None:
    free = list(without(own, sorted(used)))
    assert numbers(free) == [address for address in numbers(own) if address not in used]
    block = block_to_give(free)
    if block is None:
        assert not free
        return
    total = len(numbers(free))
    assert set(numbers([block])) <= set(numbers(free))
    assert block.size <= total // 2 or total == block.size == 1
    best = max(largest_block(stretch).size for stretch in free)
    assert block.size == (best if best <= total // 2 else best - best // 2)


# Elections

STEPS = st.lists(st.tuples(st.sampled_from("pssssrrrrrr"), st.integers(0, 63), st.integers(0, 63)), max_size=120)
Value = tuple[PeerName, ...]

SPLIT = [
    ("send", 1, "a"),  # 3 promises to 1
    ("hear", 3, "a"),
    ("send", 3, "b"),
    ("hear", 1, "b"),  # 1 accepts its own proposal; its value is 1 and 3; nobody hears of that
    ("propose", 2, ""),
    ("send", 2, "c"),
    ("hear", 3, "c"),  # 3 promises to 2, which is the higher name of the same round
    ("send", 3, "d"),
    ("hear", 2, "d"),  # 2 accepts its own; its value is 1, 2 and 3; nobody hears of that
    ("propose", 3, ""),
    ("send", 3, "e"),
    ("hear", 1, "e"),  # 1 promises to 3
    ("send", 1, "f"),
    ("hear", 3, "f"),  # 3 accepts the value of 1, under its own proposal; nobody hears of that
    ("propose", 1, ""),
    ("send", 1, "g"),
    ("hear", 2, "g"),  # 2 promises to 1
    ("send", 2, "h"),
    ("hear", 1, "h"),  # 1 accepts the value of 2, which is the one accepted last as far as these two know
]


class Voters:
    """Voters that know nothing of each other at first, each with a majority as quorum, and what they ever decided."""

    def __init__(self, count: int) -> None:
        self.elections = [Election(Voter(PeerName(n), 1000 - n), count // 2 + 1) for n in range(1, count + 1)]
        self.mail: list[dict[Voter, Claims]] = []
        self.decisions: set[Value] = set()

    def propose(self, election: Election) -> None:
        before = dict(election.claims)
        election.propose()
        ours = election.claims[election.ourselves]
        assert all(ours.promise > said.promise and ours.promise.round > said.accepted.round for said in before.values())
        self.note(election)

    def send(self, election: Election) -> dict[Voter, Claims]:
        return dict(election.claims)

    def hear(self, election: Election, state: dict[Voter, Claims]) -> bool:
        before = dict(election.claims)
        changed = election.learn({voter: replace(said) for voter, said in state.items()})  # fresh from a message
        assert changed == (election.claims != before)
        if changed:
            thought = dict(election.claims)
            assert election.think() == (election.claims != thought)
            assert not election.think()
        for voter, was in before.items():  # invariant 8: nothing that was said is undone
            now = election.claims[voter]
            assert now.promise >= was.promise
            assert now.accepted >= was.accepted
        self.note(election)
        return changed

    def note(self, election: Election) -> None:
        if (decided := election.decided()) is not None:
            assert len(set(decided)) == len(decided)
            self.decisions.add(tuple(sorted(decided)))

    def exchange(self) -> None:
        """Everybody hears everybody, until nothing is new."""
        for _ in range(10 * len(self.elections)):
            states = [self.send(election) for election in self.elections]
            news = [self.hear(election, state) for election in self.elections for state in states]
            if not any(news):
                return
        raise AssertionError("the voters do not come to rest")


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), STEPS)
def test_no_two_values_are_ever_decided(count: int, steps: list[tuple[str, int, int]]) -> None:
    """States are lost, come twice and overtake each other; anybody proposes at any time."""
    voters = Voters(count)
    for kind, one, two in steps:
        election = voters.elections[one % count]
        if kind == "p":
            voters.propose(election)
        elif kind == "s" or not voters.mail:
            voters.mail.append(voters.send(election))
        else:
            voters.hear(election, voters.mail[-1 - two % len(voters.mail)])
        assert len(voters.decisions) <= 1
    voters.exchange()
    event(f"decisions: {len(voters.decisions)}")
    assert len(voters.decisions) <= 1


def test_value_accepted_in_two_rounds_by_a_minority_each_is_no_decision() -> None:
    """Three voters; one value was accepted by 1 in round 1 and by 3 in round 2, the other by 2 in between.

    No proposal was accepted by two. If the votes for one value from different rounds counted together, 3 would see a
    decision that the two others do not know of, and they would be bound to come to another one.
    """
    voters = Voters(3)
    states: dict[str, dict[Voter, Claims]] = {}
    voters.propose(voters.elections[0])
    for kind, number, label in SPLIT:
        election = voters.elections[number - 1]
        match kind:
            case "propose":
                voters.propose(election)
            case "send":
                states[label] = voters.send(election)
            case _:
                voters.hear(election, states[label])
    said = [election.claims[election.ourselves] for election in voters.elections]
    assert {said[1].value, said[2].value} == {(1, 2, 3), (1, 3)}  # the scenario is as described

    assert voters.decisions == set()
    voters.exchange()
    assert len(voters.decisions) <= 1


@MODERATE
@given(st.integers(1, 7), st.integers(0, 6), STEPS)
def test_single_proposer_comes_to_a_decision_once_messages_arrive(
    count: int, first: int, steps: list[tuple[str, int, int]]
) -> None:
    """Before, its states were lost and its rounds repeated; the decision is everybody's, and of a majority at least."""
    voters = Voters(count)
    proposer = voters.elections[first % count]
    for kind, one, two in steps:
        election = voters.elections[one % count]
        if kind == "p":
            voters.propose(proposer)
        elif kind == "s" or not voters.mail:
            voters.mail.append(voters.send(election))
        else:
            voters.hear(election, voters.mail[-1 - two % len(voters.mail)])
    voters.propose(proposer)
    proposer.think()
    voters.exchange()

    decisions = {tuple(sorted(election.decided() or ())) for election in voters.elections}
    assert len(decisions) == 1
    assert decisions >= voters.decisions
    (value,) = decisions
    assert count // 2 + 1 <= len(value)
    assert set(value) <= {election.ourselves.name for election in voters.elections}
    assert proposer.ourselves.name in value


def test_what_is_known_already_is_no_news() -> None:
    election = Election(Voter(PeerName(1), 11), 2)
    election.propose()

    assert not election.learn(dict(election.claims))
    assert not election.learn({})


@MODERATE
@given(st.integers(2, 7), st.integers(1, 6))
def test_without_a_majority_nothing_is_decided(count: int, silent: int) -> None:
    voters = Voters(count)
    reached = max(count // 2 + 1 - silent, 0)
    voters.elections = voters.elections[: max(reached, 1)]
    if len(voters.elections) > count // 2:
        return
    for _ in range(3):
        for election in voters.elections:
            voters.propose(election)
        voters.exchange()
    assert voters.decisions == set()


def test_voter_without_a_quorum_sees_no_decision_and_takes_part_all_the_same() -> None:
    """Section 10.3: who has not computed a quorum promises and accepts, and waits for the ring."""
    proposer, passive = Election(Voter(PeerName(1), 11), 2), Election(Voter(PeerName(2), 22))
    proposer.propose()
    passive.learn(dict(proposer.claims))
    passive.think()
    proposer.learn(dict(passive.claims))
    proposer.think()
    assert proposer.decided() is None  # it has accepted; who else?
    passive.learn(dict(proposer.claims))
    passive.think()
    assert passive.decided() is None
    proposer.learn(dict(passive.claims))
    assert proposer.decided() == (1, 2)
