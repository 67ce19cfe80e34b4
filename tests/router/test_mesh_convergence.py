"""Many `Mesh`es that hear each other's messages in any order, late, and more than once."""

from __future__ import annotations

import random
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.mesh_dialogue import Dialogue, record
from weave_router.control.mesh import GOSSIP_INTERVAL, Mesh, MeshConnection
from weave_router.control.targets import Targets
from weave_router.control.topology import Topology
from weave_router.testing.simulated_cluster import peer_name
from weave_router.wire.features import Features
from weave_router.wire.topology import PeerRecord, decode_records, encode_records

if TYPE_CHECKING:
    from weave_router.wire.peer_name import PeerName


@st.composite
def histories(draw: st.DrawFn) -> list[PeerRecord]:
    """Every record that some peers had over time: versions grow, links change, peers restart with another UID."""
    records = []
    for number in range(2, draw(st.integers(3, 6))):
        version, uid = 0, number
        for _ in range(draw(st.integers(1, 4))):
            version += draw(st.integers(1, 3))
            if draw(st.booleans()):
                uid += 100
            links = draw(st.sets(st.integers(1, 8), max_size=4)) - {number}
            records.append(record(number, version, *sorted(links), uid=uid))
    return records


@given(histories(), st.randoms(use_true_random=False))
def test_the_newest_records_win_whatever_the_order_and_repetition(
    history: list[PeerRecord], chance: random.Random
) -> None:
    def told(order: list[PeerRecord]) -> dict[PeerName, PeerRecord]:
        topology = Topology(record(1, 0))
        while order:
            some = chance.randrange(1, 4)
            topology.merge(list(decode_records(encode_records(order[:some]))))
            order = order[some:]
        return topology.records

    in_order = told(list(history))
    mixed = history * 2
    chance.shuffle(mixed)
    assert told(mixed) == in_order
    newest = {record.name: record for record in history}  # of each peer the last of its history
    assert all(in_order[name] == known for name, known in newest.items())


@given(histories())
def test_merging_again_changes_nothing_and_is_no_news(history: list[PeerRecord]) -> None:
    topology = Topology(record(1, 0))
    topology.merge(history)
    before = dict(topology.records)
    merge = topology.merge(history)
    assert (merge.new, merge.announce) == ((), False)
    assert topology.records == before


class World:
    """Meshes whose messages travel in any order."""

    def __init__(self, count: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.meshes = {number: self._mesh(number) for number in range(1, count + 1)}
        self.connections: dict[tuple[int, int], MeshConnection] = {}
        self.travelling: list[tuple[int, int, bytes]] = []

    def _mesh(self, number: int, uid: int = 0) -> Mesh:
        own = PeerRecord(peer_name(number), f"peer {number}", uid or 100 + number, 0, number % 3)  # short ids collide
        targets = Targets(own.name, 6783, self.chance, discovery=False)
        return Mesh(own, targets, overlays=("sleeve",), connection_limit=0, random=self.chance, now=self.now)

    def link(self, a: int, b: int) -> None:
        if (a, b) in self.connections:
            return
        features = {n: self._features(n) for n in (a, b)}
        for near, far in ((a, b), (b, a)):
            self.connections[near, far] = self.meshes[near].admit(
                features[far], own_half=near, address=f"10.0.0.{far}:6783", outbound=near == a, direct=True,
                wake=lambda: None, now=self.now,
            )  # fmt: skip

    def _features(self, number: int) -> Features:
        own = self.meshes[number].topology.own
        return Features(
            name=own.name, nickname="", uid=own.uid, connection_half=number, short_id=own.short_id, overlays=("sleeve",)
        )

    def establish(self, near: int, far: int) -> None:
        if (near, far) in self.connections:
            self.meshes[near].established(self.connections[near, far], self.now)

    def unlink(self, a: int, b: int) -> None:
        for near, far in ((a, b), (b, a)):
            if connection := self.connections.pop((near, far), None):
                self.meshes[near].closed(connection, "cut", self.now)

    def restart(self, number: int) -> None:
        for other in list(self.meshes):
            self.unlink(number, other)
        self.meshes[number] = self._mesh(number, uid=self.chance.getrandbits(40))

    def collect(self) -> None:
        for (near, far), connection in self.connections.items():
            self.travelling += [(near, far, message) for message in Dialogue.messages(connection)]

    def deliver(self, *, repeat: bool) -> None:
        """One message, not necessarily the first one sent."""
        if not self.travelling:
            return
        index = self.chance.randrange(len(self.travelling))
        near, far, message = self.travelling[index] if repeat else self.travelling.pop(index)
        if connection := self.connections.get((far, near)):
            for _ in self.meshes[far].receive(connection, message, self.now):
                pass

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for mesh in self.meshes.values():
            while mesh.next_timer() <= self.now:
                mesh.handle_timer(self.now)

    def deliver_all(self) -> None:
        for _ in range(1000):
            self.collect()
            if not self.travelling:
                return
            while self.travelling:
                self.deliver(repeat=False)
            self.pass_time(0.11)
        raise AssertionError("the meshes never fall silent")


@pytest.mark.parametrize("seed", range(30))
def test_all_come_to_one_view(seed: int) -> None:
    chance = random.Random(f"world {seed}")
    count = chance.randrange(2, 9)
    world = World(count, seed)
    pairs = [(a, b) for a, b in permutations(range(1, count + 1), 2) if a < b]
    for _ in range(chance.randrange(20, 200)):
        match chance.randrange(10):
            case 0 | 1:
                world.link(*chance.choice(pairs))
            case 2:
                world.unlink(*chance.choice(pairs))
            case 3:
                a, b = chance.choice(pairs)
                world.establish(*chance.choice(((a, b), (b, a))))
            case 4:
                world.pass_time(chance.choice((0.05, 0.5, 2, 40)))
            case 5 if chance.random() < 0.2:
                world.restart(chance.randrange(1, count + 1))
            case _:
                world.collect()
                world.deliver(repeat=chance.random() < 0.2)
    for number in range(2, count + 1):  # in the end all are connected in some way
        world.link(chance.randrange(1, number), number)
    for near, far in list(world.connections):
        world.establish(near, far)
    for _ in range(4):
        world.deliver_all()
        world.pass_time(GOSSIP_INTERVAL + 1)
    world.deliver_all()
    views = [mesh.topology.records for mesh in world.meshes.values()]
    assert set(views[0]) == {mesh.ourselves for mesh in world.meshes.values()}
    assert all(view == views[0] for view in views)
    short_ids = [record.short_id for record in views[0].values()]
    assert len(set(short_ids)) == len(short_ids)
    for mesh in world.meshes.values():
        assert mesh.topology.own.uid == views[0][mesh.ourselves].uid
        assert mesh.routes.unicast.keys() == mesh.routes.unicast_all.keys() == views[0].keys()
