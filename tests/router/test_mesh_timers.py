"""`Mesh`: when it tells what to whom, and what waits for what."""

from __future__ import annotations

import pytest

from simulation.mesh_dialogue import Dialogue, numbers, record, topology
from weave_router.control.mesh import GARBAGE_DELAY, GOSSIP_INTERVAL, ROUTES_DELAY, UPDATE_DELAY
from weave_router.testing.simulated_cluster import peer_name
from weave_router.wire.envelope import Envelope, Tag


def unicast(source: int, destination: int, payload: bytes = b"x") -> bytes:
    return Envelope(Tag.UNICAST, "mail", peer_name(source), payload, peer_name(destination)).encode()


# --- updates --------------------------------------------------------------------------------------------------------


def test_a_change_is_told_after_one_second_with_what_else_happened_meanwhile() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    three = d.connect(3)
    d.said(three)
    d.pass_time(0.5)
    d.mesh.established(three, d.now)
    d.pass_time(0.4)
    assert d.said(two) == []
    d.pass_time(0.11)
    assert d.said(two) == [("topology", 1, {1: d.mesh.topology.own.version, 3: 0})]
    assert d.said(three) == [("topology", 1, {1: d.mesh.topology.own.version, 3: 0})]
    d.pass_time(5)
    assert d.said(two) == []


def test_a_change_after_the_update_is_told_by_the_next_one_and_alone() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    three = d.connect(3)
    d.pass_time(UPDATE_DELAY + 0.1)
    d.said(two)
    d.mesh.established(three, d.now)
    d.pass_time(UPDATE_DELAY)
    assert d.said(two) == [("topology", 1, {1: d.mesh.topology.own.version})]


def test_the_timer_is_not_pushed_back_by_further_changes() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    three = d.connect(3)
    for _ in range(4):
        d.pass_time(0.11)
        d.mesh.closed(three, "lost", d.now)
        d.pass_time(0.11)
        three = d.connect(3)
    d.pass_time(0.11)
    assert d.said(two) == []
    d.pass_time(0.02)
    assert len(d.said(two)) == 1


def test_the_update_of_an_ended_connection_speaks_of_us_alone() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    d.mesh.closed(three, "lost", d.now)
    d.pass_time(UPDATE_DELAY)
    assert d.said(two) == [("topology", 1, {1: d.mesh.topology.own.version})]


# --- routes ---------------------------------------------------------------------------------------------------------


def test_routes_follow_100_ms_after_the_first_of_several_changes() -> None:
    d = Dialogue()
    d.neighbours(2)
    d.connect(3)
    assert d.until_timer() == pytest.approx(ROUTES_DELAY)
    assert d.routes_changed() == 1
    d.connect(4)
    d.pass_time(0.06)
    d.connect(5)
    d.pass_time(0.03)
    assert d.routes_changed() == 0
    d.pass_time(0.02)
    assert d.routes_changed() == 1
    assert {3, 4, 5} <= numbers(d.mesh.routes.unicast_all)


def test_what_changes_nothing_calls_for_no_routes() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    d.receive(two, topology(2, record(2, 1, 1)), topology(2, record(2, 0)), b"\0")
    d.pass_time(5)
    assert d.routes_changed() == 0


def test_relaying_waits_for_requested_routes() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    d.receive(two, topology(2, record(2, 2, 1, 4), record(4, 1, 2)))
    d.receive(three, unicast(3, 4))
    assert d.said(two) == []  # 4 is reached by routes that are not made yet
    d.pass_time(ROUTES_DELAY)
    assert d.said(two) == [("mail", "unicast", 3, b"x")]
    d.receive(three, unicast(3, 4, b"at once"))
    assert d.said(two) == [("mail", "unicast", 3, b"at once")]


def test_waiting_messages_keep_their_order() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    d.connect(9)
    for number in range(20):
        d.receive(three, unicast(3, 2, bytes((number,))))
    d.pass_time(ROUTES_DELAY)
    assert d.said(two) == [("mail", "unicast", 3, bytes((number,))) for number in range(20)]


def test_too_many_waiting_messages_bring_the_routes_forward() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    d.connect(9)
    d.events()
    for number in range(300):
        d.receive(three, unicast(3, 2, number.to_bytes(2)))
    assert d.routes_changed() == 1
    assert len(d.said(two)) == 300


def test_news_go_on_after_the_routes_to_all_but_their_sender() -> None:
    d = Dialogue()
    two, three, four = d.neighbours(2, 3, 4)
    d.receive(two, topology(2, record(2, 2, 1, 5), record(5, 1, 2)))
    assert d.said(three) == []
    d.pass_time(ROUTES_DELAY)
    assert d.said(three) == d.said(four) == [("topology", 1, {2: 2, 5: 1})]
    assert d.said(two) == []


def test_only_what_is_new_goes_on_and_in_its_present_form() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    d.receive(two, topology(2, record(3, 1, 1), record(2, 2, 1, 5), record(5, 1, 2)))
    d.receive(two, topology(2, record(5, 9, 2)))
    d.pass_time(ROUTES_DELAY)
    assert d.said(three) == [("topology", 1, {2: 2, 5: 9})]


# --- periodic gossip ------------------------------------------------------------------------------------------------


def test_everything_is_told_every_30_s() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    told = []
    for _ in range(3 * int(GOSSIP_INTERVAL)):
        d.pass_time(1)
        told += [d.now - 1000] * len(d.said(two))
    assert told == [GOSSIP_INTERVAL, 2 * GOSSIP_INTERVAL, 3 * GOSSIP_INTERVAL]


def test_periodic_gossip_holds_every_record() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    d.receive(two, topology(2, record(2, 2, 1, 5), record(5, 1, 2, 6)))
    d.pass_time(GOSSIP_INTERVAL)
    (told,) = d.said(two)
    assert told == ("topology", 1, {1: d.mesh.topology.own.version, 2: 2, 5: 1, 6: 0})


def test_nothing_happens_without_neighbours() -> None:
    d = Dialogue()
    d.pass_time(3600)
    assert d.events() == []
    assert d.mesh.topology.own.version == 0


def test_a_late_timer_does_not_make_up_for_what_it_missed() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    d.now += 10 * GOSSIP_INTERVAL
    d.mesh.handle_timer(d.now)
    assert len(d.said(two)) == 1
    assert d.mesh.next_timer() > d.now


# --- garbage --------------------------------------------------------------------------------------------------------


def test_unreachable_peers_are_forgotten_a_second_after_gossip() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    d.receive(two, topology(2, record(2, 2, 1), record(5, 1, 6), record(6, 1, 5)))
    d.pass_time(GARBAGE_DELAY - 0.01)
    assert numbers(d.mesh.topology.records) == {1, 2, 5, 6}
    d.pass_time(0.02)
    assert numbers(d.mesh.topology.records) == {1, 2}
    d.pass_time(ROUTES_DELAY)
    assert numbers(d.mesh.routes.peers) == {1, 2}


def test_a_neighbour_that_speaks_only_of_others_stays() -> None:
    d = Dialogue()
    two = d.connect(2)
    d.receive(two, topology(2, record(2, 5, 3), record(3, 1)))
    d.pass_time(10)
    assert numbers(d.mesh.topology.records) == {1, 2, 3}


def test_news_of_a_peer_that_was_forgotten_count_again() -> None:
    """The payload is the same as before, but what it says has been forgotten meanwhile."""
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    payload = topology(2, record(2, 2, 1, 5), record(5, 1, 2))
    d.receive(two, payload)
    d.receive(three, topology(3, record(2, 3, 1)))
    d.pass_time(GARBAGE_DELAY + 0.1)
    assert 5 not in numbers(d.mesh.topology.records)
    d.receive(two, topology(2, record(2, 4, 1, 5), record(5, 1, 2)))
    d.receive(two, payload)
    assert 5 in numbers(d.mesh.topology.records)


# --- earlier lives --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uid", "ahead", "jumps"), [(666, 0, True), (666, 10, True), (666, -1, False), (101, 10, True)]
)
def test_our_version_jumps_over_what_the_network_remembers(uid: int, ahead: int, jumps: bool) -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    before = d.mesh.topology.own
    d.receive(two, topology(2, record(1, before.version + ahead, 7, uid=uid)))
    own = d.mesh.topology.own
    assert own.links == before.links
    assert own.uid == 101
    assert own.version == (before.version + ahead + 1 if jumps else before.version)
    d.pass_time(UPDATE_DELAY + ROUTES_DELAY)
    assert d.said(two) == ([("topology", 1, {1: own.version})] if jumps else [])


def test_our_own_record_coming_back_changes_nothing() -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    own = d.mesh.topology.own
    d.receive(two, topology(2, own))
    assert d.mesh.topology.own is own


# --- back-off -------------------------------------------------------------------------------------------------------


def test_failing_attempts_come_at_growing_intervals_of_at_most_30_s() -> None:
    d = Dialogue(direct=[2])
    (address,) = d.dialled()
    waits = []
    for _ in range(12):
        d.mesh.dial_failed(address, "no answer", d.now)
        start = d.now
        while not (dialled := d.dialled()):
            d.until_timer()
        assert dialled == [address]
        waits.append(d.now - start)
    for index, wait in enumerate(waits):
        interval = min(2 * 1.5**index, 20)
        assert interval / 2 <= wait <= interval * 1.5
        assert wait <= 30


@pytest.mark.parametrize("limit", [1, 3])
def test_targets_beyond_the_limit_wait_without_spinning(limit: int) -> None:
    d = Dialogue(direct=range(2, 10), limit=limit)
    attempts = d.dialled()
    assert len(attempts) == limit
    for address in attempts:
        d.connect(int(address.split(":")[0].split(".")[3]), outbound=True)
    d.pass_time(100)
    assert d.dialled() == []
