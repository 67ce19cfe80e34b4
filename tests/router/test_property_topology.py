"""Merging topology records (mesh.md sections 8 to 10): whatever the order, all peers come to know the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.control.topology import Topology
from weave_router.wire.gob import GobError
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import MAX_SHORT_ID, Link, PeerRecord, decode_records, encode_records

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from hypothesis.strategies import DrawFn

MODERATE = settings(deadline=None)
OBSERVERS = (PeerName(3), PeerName(2**47))
NAMES = [PeerName(name) for name in (1, 2, 5, 9, 2**40, 2**48 - 1)]


def link(remote: PeerName, established: bool = True) -> Link:
    return Link(remote, f"10.0.0.{remote % 250}:6783", outbound=True, established=established)


@st.composite
def histories(draw: DrawFn) -> list[PeerRecord]:
    """Records that some peers have told over time; none changes without a higher version or another UID."""
    found: dict[tuple[PeerName, int, int, bool], PeerRecord] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        for _ in range(draw(st.integers(1, 4))):
            uid = draw(st.sampled_from([1, 2, 2**63, 2**64 - 1]))
            version = draw(st.one_of(st.integers(0, 4), st.integers(0, 2**63)))
            short_id = draw(st.one_of(st.none(), st.integers(0, MAX_SHORT_ID)))
            remotes = draw(st.lists(st.sampled_from([*NAMES, *OBSERVERS]), max_size=4, unique=True))
            links = tuple(link(remote, draw(st.booleans())) for remote in remotes if remote != name)
            record = PeerRecord(name, draw(st.text(max_size=4)), uid, version, short_id, links)
            found.setdefault((name, version, uid, short_id is None), record)
    return list(found.values())


def observer(name: PeerName) -> Topology:
    return Topology(PeerRecord(name, "me", uid=77, version=5, short_id=1))


def told(topology: Topology, payloads: Iterable[Sequence[PeerRecord]]) -> Topology:
    for payload in payloads:
        topology.merge(payload)
    return topology


def order_of_merge(record: PeerRecord) -> tuple[int, int, bool]:
    """mesh.md 8.2: version, then UID, then whether there is a short ID."""
    return record.version, record.uid, record.short_id is not None


@MODERATE
@given(histories(), st.randoms(use_true_random=False))
def test_every_order_with_repetitions_leads_to_the_newest_records(
    records: list[PeerRecord], rng: random.Random
) -> None:
    views = []
    for name in OBSERVERS:
        arriving = records * 2
        rng.shuffle(arriving)
        payloads: list[list[PeerRecord]] = []
        while arriving:
            payload: list[PeerRecord] = []
            for _ in range(rng.randint(1, 4)):
                if arriving and arriving[-1].name not in {record.name for record in payload}:
                    payload.append(arriving.pop())
            payloads.append(payload)
        topology = told(observer(name), payloads)
        assert topology.own == PeerRecord(name, "me", uid=77, version=5, short_id=1)
        views.append({name: topology.records[name] for name in {record.name for record in records}})

    newest: dict[PeerName, PeerRecord] = {}
    for record in sorted(records, key=order_of_merge):
        newest[record.name] = record
    assert views == [newest, newest]


@MODERATE
@given(histories())
def test_a_repetition_brings_nothing_new(records: list[PeerRecord]) -> None:
    topology = observer(OBSERVERS[0])
    for record in sorted(records, key=order_of_merge):
        merge = topology.merge([record])
        assert merge.new == (record.name,)
        assert merge.described == (record.name,)
    before = dict(topology.records)
    for record in records:
        merge = topology.merge([record])
        assert merge.new == ()
        assert not merge.announce
    assert topology.records == before


@MODERATE
@given(histories())
def test_all_remotes_of_connections_are_known_at_least_by_name(records: list[PeerRecord]) -> None:
    topology = observer(OBSERVERS[0])
    for record in records:
        topology.merge([record])
    mentioned = {link.remote for record in topology.records.values() for link in record.links}
    described = {record.name for record in records}

    assert mentioned <= topology.records.keys()
    for name in topology.records.keys() - described - {OBSERVERS[0]}:
        assert topology.records[name] == PeerRecord(name)


@MODERATE
@given(st.lists(st.tuples(st.integers(0, 2**63), st.sampled_from([77, 78, 1])), max_size=8))
def test_our_own_record_is_overtaken_by_nobody(received: list[tuple[int, int]]) -> None:
    """After each payload ours is the record that others take, and its content was changed by us alone."""
    own = PeerRecord(OBSERVERS[0], "me", uid=77, version=5, short_id=1, links=(link(NAMES[0]),))
    topology = Topology(own)
    for version, uid in received:
        before = topology.own
        merge = topology.merge([PeerRecord(own.name, "someone", uid, version, short_id=9)])

        assert merge.new == ()
        assert merge.announce == (topology.own != before)
        assert replace(topology.own, version=0) == replace(own, version=0)
        if uid != own.uid and version >= before.version:
            assert topology.own.version == version + 1
        if merge.announce:
            assert topology.own.version > version
        assert topology.own.version >= version


@MODERATE
@given(st.integers(0, 2**63 - 1), st.sampled_from([77, 1, 2**64 - 1]))
def test_others_take_our_record_after_we_overtook_a_forgery(version: int, uid: int) -> None:
    """mesh.md 8.2 and 14: whoever knew us before, or believed the forgery, hears us again."""
    own = PeerRecord(OBSERVERS[0], "me", uid=77, version=5, short_id=1)
    forged = replace(own, uid=uid, version=version, nickname="forged")
    victim, unaware, deceived = Topology(own), observer(OBSERVERS[1]), observer(OBSERVERS[1])
    unaware.merge([own])
    deceived.merge([forged])

    victim.merge([forged])
    victim.set_links([link(NAMES[0])])
    for other in (unaware, deceived):
        other.merge([forged])
        other.merge([victim.own])
        assert other.records[own.name] == victim.own


@MODERATE
@given(histories(), st.lists(st.sampled_from(NAMES), max_size=3), st.sets(st.sampled_from(NAMES)))
def test_what_is_reached_by_no_connection_is_forgotten(
    records: list[PeerRecord], ours: list[PeerName], neighbours: set[PeerName]
) -> None:
    """mesh.md 9: all connections as recorded, one direction, established or not; against repeated widening."""
    topology = told(observer(OBSERVERS[0]), [[record] for record in records])
    topology.merge([PeerRecord(name, uid=1) for name in ours])
    topology.set_links([link(name, established=False) for name in dict.fromkeys(ours)])
    reached = {OBSERVERS[0]}
    while True:
        wider = reached | {link.remote for name in reached for link in topology.records[name].links}
        if wider == reached:
            break
        reached = wider
    known = set(topology.records)
    removed = topology.collect_garbage(neighbours)

    assert removed == known - reached - neighbours
    assert set(topology.records) == known - removed
    for short_id in {record.short_id for record in records if record.short_id is not None}:
        claimants = [name for name, record in topology.records.items() if record.short_id == short_id]
        assert topology.short_id_owner(short_id) == min(claimants, default=None)


# Short ids


class Chance:
    """Gives the same numbers again and again."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return 0.5

    def randrange(self, stop: int, /) -> int:
        number = self.numbers.pop(0)
        assert 0 <= number < stop
        return number


def crowded(free: set[int]) -> Topology:
    """We (name 100) and a peer of a lower name both claim 7; all other ids but the free ones are taken."""
    topology = Topology(PeerRecord(PeerName(100), uid=1, version=5, short_id=7))
    taken = [number for number in range(MAX_SHORT_ID + 1) if number not in free and number != 7]
    others = [PeerRecord(PeerName(1000 + number), uid=1, version=1, short_id=number) for number in taken]
    for start in range(0, len(others), 2000):
        topology.merge(others[start : start + 2000])
    topology.merge([PeerRecord(PeerName(99), uid=1, version=1, short_id=7)])
    return topology


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, MAX_SHORT_ID).filter(lambda number: number != 7), max_size=5), st.data())
def test_of_a_crowded_space_a_free_id_is_found(free: set[int], data: st.DataObject) -> None:
    topology = crowded(free)
    before = topology.own
    if not free:
        assert not topology.settle_short_id(Chance(*range(10)))
        assert topology.own == before
        return
    choice = data.draw(st.integers(0, len(free) - 1))
    taken = [number for number in range(20) if number not in free][:10]
    assert topology.settle_short_id(Chance(*taken, choice))

    assert topology.own == replace(before, short_id=sorted(free)[choice], version=6)
    assert not topology.settle_short_id(Chance())


def test_the_lowest_name_keeps_its_short_id() -> None:
    topology = Topology(PeerRecord(PeerName(100), uid=1, version=5, short_id=7))
    topology.merge([PeerRecord(PeerName(101), uid=1, version=1, short_id=7)])

    assert topology.short_id_owner(7) == 100
    assert not topology.settle_short_id(Chance())
    topology.merge([PeerRecord(PeerName(99), uid=1, version=1, short_id=7)])
    assert topology.short_id_owner(7) == 99
    assert topology.settle_short_id(Chance(0))
    assert topology.own == PeerRecord(PeerName(100), uid=1, version=6, short_id=0)


# A whole network


@dataclass
class Network:
    """Peers that tell each other all they know, at random, until nothing changes."""

    topologies: dict[PeerName, Topology]
    rng: random.Random

    def gossip(self) -> None:
        for _ in range(60):
            names = list(self.topologies)
            for sender in self.rng.sample(names, len(names)):
                records = list(self.topologies[sender].records.values())
                self.rng.shuffle(records)
                self.receive(self.rng.choice(names), records)
            before = {name: dict(topology.records) for name, topology in self.topologies.items()}
            for sender in names:
                for receiver in names:
                    self.receive(receiver, list(self.topologies[sender].records.values()))
            if before == {name: dict(topology.records) for name, topology in self.topologies.items()}:
                return
        raise AssertionError("the network does not come to rest")

    def receive(self, name: PeerName, records: list[PeerRecord]) -> None:
        topology = self.topologies[name]
        topology.merge([record for record in records if record.name != name or record.uid != topology.own.uid])
        topology.settle_short_id(self.rng)

    def restart(self, name: PeerName) -> None:
        """The peer comes back with another UID at version 0, and asks the network for nothing."""
        own = self.topologies[name].own
        fresh = PeerRecord(name, "again", uid=own.uid + self.rng.choice((-5, 5)), version=0, short_id=own.short_id)
        self.topologies[name] = Topology(fresh)
        self.topologies[name].set_links(own.links)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.randoms(use_true_random=False), st.lists(st.sampled_from(NAMES), max_size=3))
def test_a_network_agrees_on_all_records_and_on_distinct_short_ids(
    count: int, rng: random.Random, restarts: list[PeerName]
) -> None:
    names = NAMES[:count]
    topologies = {}
    for name in names:
        own = PeerRecord(
            name, str(name), uid=rng.randint(10, 2**63), version=rng.randint(0, 9), short_id=rng.choice((4, 5))
        )
        topologies[name] = Topology(own)
        topologies[name].set_links(link(other) for other in names if other != name)
    network = Network(topologies, rng)
    network.gossip()
    for name in restarts:
        if name in topologies:
            network.restart(name)
            network.gossip()

    first, *others = (dict(topology.records) for topology in topologies.values())
    assert all(other == first for other in others)
    assert first.keys() == set(names)
    for name in names:
        assert first[name] == topologies[name].own
    assert len({record.short_id for record in first.values()}) == count


def test_payloads_do_not_mix_whatever_came_before() -> None:
    """Decoders are used again; one that gave up in the middle must leave nothing behind."""
    one = encode_records([PeerRecord(PeerName(1), "one", 1, 2)])
    two = encode_records(
        [PeerRecord(PeerName(2), "two", 1, 2, links=(Link(PeerName(1), "192.0.2.1:6783", True, True),))]
    )
    expected = list(decode_records(two))
    both = decode_records(one), decode_records(two)
    assert [next(records).nickname for records in both] == ["one", "two"]
    with pytest.raises(GobError):
        list(decode_records(one[:-3]))
    assert list(decode_records(two)) == expected
    assert list(decode_records(two, {expected[0].encoded: None})) == []
