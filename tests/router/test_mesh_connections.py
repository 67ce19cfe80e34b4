"""`Mesh`: which connections are kept, and what a new one is told."""

from __future__ import annotations

import pytest

from simulation.mesh_dialogue import ADDRESS, Dialogue, numbers, record, topology
from weave_router.control.mesh import ALIVE_SECONDS, ConnectionRefused, PeersForgotten
from weave_router.control.targets import RECONNECT_DELAY, TargetState


def connected(dialogue: Dialogue) -> set[int]:
    return numbers(dialogue.mesh.connections)


# --- admission ------------------------------------------------------------------------------------------------------


def test_a_connection_is_added_and_listed_as_not_yet_established() -> None:
    d = Dialogue()
    connection = d.connect(2)
    own = d.mesh.topology.own
    assert own.version == 1
    assert [(link.remote, link.address, link.outbound, link.established) for link in own.links] == [
        (connection.peer, "10.0.0.2:40000", False, False)
    ]
    d.mesh.established(connection, d.now)
    assert d.mesh.topology.own.version == 2
    assert d.mesh.topology.own.links[0].established
    d.mesh.established(connection, d.now)
    assert d.mesh.topology.own.version == 2


def test_connection_uid_combines_both_halves() -> None:
    assert Dialogue().connect(2, own_half=0b1100, connection_half=0b1010).uid == 0b0110


def test_ourselves_are_refused_for_good() -> None:
    d = Dialogue()
    with pytest.raises(ConnectionRefused, match="ourselves") as caught:
        d.connect(1, uid=101, outbound=True)
    assert caught.value.final


@pytest.mark.parametrize("outbound", [True, False])
def test_a_namesake_is_refused_for_good(outbound: bool) -> None:
    d = Dialogue()
    with pytest.raises(ConnectionRefused, match="our name") as caught:
        d.connect(1, uid=999, outbound=outbound)
    assert caught.value.final
    assert d.mesh.topology.own.version == 0


def test_no_overlay_in_common() -> None:
    with pytest.raises(ConnectionRefused, match="overlay"):
        Dialogue().connect(2, overlays=("awsvpc", "fastdp"))
    with pytest.raises(ConnectionRefused, match="overlay"):
        Dialogue().connect(2, overlays=())


def test_unexpected_peers_are_refused_where_gossip_gave_the_address() -> None:
    d = Dialogue()
    with pytest.raises(ConnectionRefused, match="unexpected"):
        d.connect(2, outbound=True, direct=False)
    d.connect(2, outbound=True, direct=True)
    (neighbour,) = d.mesh.connections.values()
    d.receive(neighbour, topology(2, record(2, 1, 3)))
    d.connect(3, outbound=True, direct=False)  # known by now
    d.connect(4, outbound=False, direct=False)  # whoever dials us is welcome
    assert connected(d) == {2, 3, 4}


def test_the_limit() -> None:
    d = Dialogue(limit=2)
    d.connect(2)
    first = d.connect(3)
    with pytest.raises(ConnectionRefused, match="limit"):
        d.connect(4)
    assert 4 not in numbers(d.mesh.topology.records)
    d.mesh.closed(first, "lost", d.now)
    d.connect(4)
    assert connected(d) == {2, 4}


def test_a_duplicate_may_replace_a_connection_at_the_limit() -> None:
    d = Dialogue(limit=1)
    d.connect(2, own_half=1 << 40)
    new = d.connect(2, own_half=0)
    assert d.mesh.connections[new.peer] is new


# --- duplicates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first_uid", "second_uid", "winner"), [(7, 5, "second"), (5, 7, "first"), (5, 5, "none")])
def test_of_two_connections_the_lower_uid_stays(first_uid: int, second_uid: int, winner: str) -> None:
    d = Dialogue()
    first = d.connect(2, connection_half=first_uid)
    d.events()
    if winner == "second":
        second = d.connect(2, connection_half=second_uid, outbound=True)
        assert d.mesh.connections[first.peer] is second
        assert [connection for connection, _ in d.closed()] == [first]
        d.mesh.closed(first, "replaced", d.now)  # the shell reports the end of what it closed
        assert d.mesh.connections[first.peer] is second
    else:
        with pytest.raises(ConnectionRefused, match="duplicate"):
            d.connect(2, connection_half=second_uid, outbound=True)
        assert (first.peer in d.mesh.connections) is (winner == "first")
        assert bool(d.closed()) is (winner == "none")


@pytest.mark.parametrize("high", [1 << 63, (1 << 64) - 1])
def test_uids_are_compared_as_unsigned_numbers(high: int) -> None:
    d = Dialogue()
    d.connect(2, connection_half=high)
    d.connect(2, connection_half=1)
    assert next(iter(d.mesh.connections.values())).uid == 1


def test_both_ends_decide_alike() -> None:
    for seed in range(20):
        ends = Dialogue(seed=seed), Dialogue(seed=seed)
        halves = [(ends[0].chance.getrandbits(64), ends[0].chance.getrandbits(64)) for _ in range(2)]
        kept = []
        for end, order, mine in ((ends[0], (0, 1), 0), (ends[1], (1, 0), 1)):
            for index in order:
                own, other = halves[index][mine], halves[index][1 - mine]
                try:
                    end.connect(2, own_half=own, connection_half=other)
                except ConnectionRefused:
                    continue
            kept.append(next(iter(end.mesh.connections.values())).uid)
        assert kept[0] == kept[1] == min(a ^ b for a, b in halves)


def test_a_refused_duplicate_leaves_its_target_alone_while_we_are_connected() -> None:
    d = Dialogue(direct=[2])
    assert d.dialled() == [ADDRESS.format(2)]
    accepted = d.connect(2, connection_half=1)
    with pytest.raises(ConnectionRefused) as caught:
        d.connect(2, connection_half=5, outbound=True)
    d.mesh.dial_failed(ADDRESS.format(2), caught.value, d.now)
    d.pass_time(300)
    assert d.dialled() == []
    d.mesh.closed(accepted, "lost", d.now)
    d.pass_time(31)
    assert d.dialled() == [ADDRESS.format(2)]


def test_a_restarted_peer_takes_over_from_a_silent_connection() -> None:
    d = Dialogue()
    old = d.connect(2, connection_half=1)
    d.pass_time(ALIVE_SECONDS + 1)
    d.events()
    new = d.connect(2, connection_half=99, uid=4711)
    assert d.mesh.connections[old.peer] is new
    assert [connection for connection, _ in d.closed()] == [old]


def test_a_namesake_of_a_living_peer_is_refused_but_may_come_back() -> None:
    d = Dialogue()
    old = d.connect(2)
    d.pass_time(100)
    d.receive(old, b"\0")
    with pytest.raises(ConnectionRefused, match="name") as caught:
        d.connect(2, uid=4711)
    assert not caught.value.final
    assert d.mesh.connections[old.peer] is old


# --- endings --------------------------------------------------------------------------------------------------------


def test_an_ended_connection_leaves_our_record_and_what_was_behind_it_is_forgotten() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    d.receive(two, topology(2, record(2, 2, 1, 4), record(4, 1, 2)))
    d.pass_time(1)
    d.events()
    version = d.mesh.topology.own.version
    d.mesh.closed(two, "lost", d.now)
    assert d.mesh.topology.own.version == version + 1
    assert numbers(link.remote for link in d.mesh.topology.own.links) == {3}
    (forgotten,) = [event for event in d.events() if isinstance(event, PeersForgotten)]
    assert numbers(forgotten.names) == {2, 4}
    assert d.mesh.counters["terminations"] == 1
    assert three.peer in d.mesh.connections


def test_reporting_an_end_twice_changes_nothing() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    d.mesh.closed(two, "lost", d.now)
    own = d.mesh.topology.own
    d.mesh.closed(two, "lost again", d.now)
    d.mesh.established(two, d.now)
    assert d.mesh.topology.own is own
    assert d.mesh.counters["terminations"] == 1


def test_a_dialled_connection_that_lasted_is_dialled_again_soon_but_not_at_once() -> None:
    d = Dialogue(direct=[2])
    d.dialled()
    connection = d.connect(2, outbound=True)
    d.pass_time(100)
    d.mesh.closed(connection, "lost", d.now)
    assert d.dialled() == []
    took = 0.0
    while d.targets.targets[ADDRESS.format(2)].state is TargetState.WAITING:
        took += d.until_timer()
    assert took == pytest.approx(RECONNECT_DELAY)
    assert d.dialled() == [ADDRESS.format(2)]


# --- what a new neighbour is told -----------------------------------------------------------------------------------


def test_every_new_connection_is_told_everything_at_once() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    d.receive(two, topology(2, record(2, 2, 1, 4), record(4, 7, 2)))
    d.pass_time(1)
    own = d.mesh.topology.own.version
    three = d.connect(3)
    assert d.said(three) == [("topology", 1, {1: own + 1, 2: 2, 4: 7, 3: 0})]
    d.mesh.closed(three, "lost", d.now)
    # Within 100 ms the tables still say that the peer can be reached. It is told everything all the same.
    d.pass_time(0.05)
    again = d.connect(3)
    assert d.said(again) == [("topology", 1, {1: own + 3, 2: 2, 4: 7, 3: 0})]


def test_a_peer_that_is_known_already_is_told_everything_too() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    d.receive(two, topology(2, record(2, 2, 1, 4), record(4, 7, 2)))
    d.pass_time(1)
    four = d.connect(4)
    assert d.said(four) == [("topology", 1, {1: d.mesh.topology.own.version, 2: 2, 4: 7})]
    # Its record stays as gossip gave it; features replace nothing.
    assert d.mesh.topology.records[four.peer].version == 7


def test_channels_with_nothing_to_say_stay_silent_and_others_speak() -> None:
    class Speaker:
        def merge(self, other: object) -> Speaker:
            return self

        def encode(self) -> list[bytes]:
            return [b"everything"]

        def complete_state(self) -> Speaker | None:
            return self if self.speaks else None

        on_gossip = on_broadcast = on_unicast = None
        speaks = False

    d, speaker = Dialogue(), Speaker()
    d.mesh.register("words", speaker)  # type: ignore[arg-type]  # only the state is asked for
    assert len(d.said(d.connect(2))) == 1
    speaker.speaks = True
    assert d.said(d.connect(3))[1:] == [("words", "gossip", 1, b"everything")]


def test_a_short_id_of_a_lower_name_makes_us_choose_another() -> None:
    d = Dialogue(short_id=7)
    d.connect(2, short_id=7)  # a higher name: it has to change
    assert d.mesh.topology.own.short_id == 7
    d.mesh.topology.records.clear()
    d = Dialogue(short_id=7)
    lower = d.features(2, short_id=7)
    object.__setattr__(lower, "name", 1)
    d.mesh.admit(lower, own_half=0, address="x:1", outbound=False, direct=True, wake=lambda: None, now=d.now)
    assert d.mesh.topology.own.short_id != 7
    assert d.mesh.topology.own.version == 2
