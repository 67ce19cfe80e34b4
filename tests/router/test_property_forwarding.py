"""Several forwarders joined: what becomes of frames in steady topologies and while views of the topology differ.

sleeve.md sections 9 and 9.6; design, "Data plane": exactly once while steady, at most once while it changes.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from router.joined_forwarders import GROUPS, JoinedForwarders, connected
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

NAMES = [PeerName(name) for name in (1, 2, 3, 7, 2**40, 2**47 + 1, 2**48 - 1)]


def mac(name: PeerName) -> bytes:
    """The address of a container at this peer."""
    return b"\x02\x00\x00\x00\x00" + bytes([NAMES.index(name)])


def frame(destination: bytes, source: PeerName, mark: int = 0) -> bytes:
    return destination + mac(source) + b"\x88\xb5" + bytes([mark]) + bytes(50)


@st.composite
def steady(draw: DrawFn) -> JoinedForwarders:
    names = NAMES[: draw(st.integers(2, len(NAMES)))]
    edges = draw(connected(draw(st.permutations(names)), 6))
    return JoinedForwarders(sorted(names), edges, random.Random(draw(st.integers(0, 999))))


@st.composite
def changing(draw: DrawFn, views: int = 2) -> JoinedForwarders:
    """Some peers know of a change already, others do not; the connections of all views exist still."""
    names = NAMES[: draw(st.integers(3, len(NAMES)))]
    known = [draw(connected(draw(st.permutations(names)), 6)) for _ in range(views)]
    if draw(st.booleans()):  # one link more or less
        known = [known[0], *(frozenset(set(known[0]) ^ {draw(st.sampled_from(sorted(edges)))}) for edges in known[1:])]
    chosen = {name: draw(st.sampled_from(known)) for name in names}
    connections = frozenset[tuple[PeerName, PeerName]]().union(*known)
    return JoinedForwarders(sorted(names), connections, random.Random(draw(st.integers(0, 999))), views=chosen)


STEADY = settings(max_examples=60, deadline=None)
CHANGING = settings(max_examples=200, deadline=None)


# While nothing changes


@STEADY
@given(steady(), st.sampled_from(GROUPS))
def test_a_broadcast_reaches_every_other_peer_exactly_once(mesh: JoinedForwarders, group: bytes) -> None:
    for source in mesh.names:
        captured = frame(group, source)
        mesh.capture(source, captured)

        assert mesh.counts(captured) == mesh.everywhere_but(source)
    # Each peer but the source is sent it once, and nothing else is sent.
    assert mesh.packets == len(mesh.names) * (len(mesh.names) - 1)


@STEADY
@given(steady())
def test_a_unicast_goes_to_its_peer_alone(mesh: JoinedForwarders) -> None:
    for name in mesh.names:
        mesh.capture(name, frame(GROUPS[0], name))  # now everyone knows where this address lives
    for source in mesh.names:
        for destination in mesh.names:
            captured = frame(mac(destination), source, mark=1)
            mesh.capture(source, captured)

            expected = mesh.only_at(destination) if source != destination else dict.fromkeys(mesh.names, 0)
            assert mesh.counts(captured) == expected


@STEADY
@given(steady())
def test_a_frame_to_an_unknown_address_reaches_every_other_peer_exactly_once(mesh: JoinedForwarders) -> None:
    for source in mesh.names:
        captured = frame(bytes.fromhex("020000000099"), source)
        mesh.capture(source, captured)

        assert mesh.counts(captured) == mesh.everywhere_but(source)


@STEADY
@given(steady(), st.data())
def test_an_address_that_only_its_receiver_does_not_know_is_found(mesh: JoinedForwarders, data: st.DataObject) -> None:
    """sleeve.md 9.3: a unicast for a MAC that the receiver does not know goes on along the source's tree, to all."""
    source, believed, owner = (data.draw(st.sampled_from(mesh.names)) for _ in range(3))
    if len({source, believed, owner}) < 3:
        return
    mesh.forwarders[source].macs.learn_remote(mac(owner), believed, 1.0)
    captured = frame(mac(owner), source)
    mesh.capture(source, captured)

    counts = mesh.counts(captured)
    assert counts[believed] == 1
    assert counts[source] == 0
    assert max(counts.values()) == 1


@STEADY
@given(steady(), st.data())
def test_where_addresses_are_is_learned(mesh: JoinedForwarders, data: st.DataObject) -> None:
    """A broadcast teaches all peers; a frame in transit teaches none of the relays (9.3)."""
    source = data.draw(st.sampled_from(mesh.names))
    destination = data.draw(st.sampled_from(mesh.names))
    mesh.capture(destination, frame(GROUPS[0], destination))
    for forwarder in mesh.forwarders.values():
        assert forwarder.macs.owner(mac(destination)) == destination
    if source != destination:
        mesh.capture(source, frame(mac(destination), source))
        for name, forwarder in mesh.forwarders.items():
            expected = source if name in (source, destination) else None
            assert forwarder.macs.owner(mac(source)) == expected


@STEADY
@given(steady(), st.data())
def test_frames_that_nobody_should_send_are_dropped(mesh: JoinedForwarders, data: st.DataObject) -> None:
    """Unknown peers, our own frames coming back, special frames of others, broken packets."""
    receiver = data.draw(st.sampled_from(mesh.names))
    forwarder = mesh.forwarders[receiver]
    neighbour = data.draw(st.sampled_from(sorted(forwarder.neighbours.values(), key=lambda found: found.name)))
    stranger = (12345).to_bytes(6)
    ours, theirs = receiver.to_bytes(6), neighbour.name_bytes
    plain = frame(GROUPS[0], receiver)
    for source, destination, content in (
        (stranger, ours, plain),
        (theirs, stranger, plain),
        (bytes(6), ours, plain),
        (ours, ours, plain),
        (theirs, ours, plain[:13]),
        (theirs, ours, b""),
        (stranger, ours, bytes(22)),
        (ours, ours, bytes(22)),
        (theirs, theirs, bytes(22)),
        (theirs, stranger, bytes(22)),
    ):
        packet = source + destination + len(content).to_bytes(2) + content
        assert forwarder.received(neighbour, packet, 1.0) == []
        assert forwarder.injected == []
        assert not forwarder.pending
    heartbeat = bytes(14) + bytes(range(8))
    packet = theirs + ours + len(heartbeat).to_bytes(2) + heartbeat
    assert forwarder.received(neighbour, packet, 1.0) == [heartbeat]
    assert len(forwarder.macs) == 0


# While it changes


@CHANGING
@given(changing(), st.sampled_from(GROUPS), st.integers(0, 6))
def test_group_frames_are_never_doubled_while_views_differ(mesh: JoinedForwarders, group: bytes, number: int) -> None:
    source = mesh.names[number % len(mesh.names)]
    captured = frame(group, source)
    mesh.capture(source, captured)

    assert max(mesh.counts(captured).values()) <= 1
    assert mesh.counts(captured)[source] == 0


@CHANGING
@given(changing(views=4), st.sampled_from(GROUPS), st.integers(0, 6))
def test_group_frames_are_never_doubled_whatever_the_views(mesh: JoinedForwarders, group: bytes, number: int) -> None:
    """More than two views at a time: several changes at once."""
    source = mesh.names[number % len(mesh.names)]
    captured = frame(group, source)
    mesh.capture(source, captured)

    assert max(mesh.counts(captured).values()) <= 1
    assert mesh.counts(captured)[source] == 0


@CHANGING
@given(changing(), st.integers(0, 6))
def test_frames_to_unknown_addresses_come_to_rest_while_views_differ(mesh: JoinedForwarders, number: int) -> None:
    source = mesh.names[number % len(mesh.names)]
    captured = frame(bytes.fromhex("020000000099"), source)
    mesh.capture(source, captured)

    assert mesh.counts(captured)[source] == 0


def test_a_unicast_does_not_go_round_three_relays() -> None:
    """4 moved from behind 2 to behind 3, which 2 knows, but not yet 1 and 3: 1 sends to 2, 2 to 3, 3 to 1, 1 to 2."""
    one, two, three, four = names = [PeerName(1), PeerName(2), PeerName(3), PeerName(7)]
    before = frozenset({(one, two), (one, three), (two, four)})
    after = frozenset({(one, two), (two, three), (three, four)})
    views = {one: before, two: after, three: before, four: after}
    mesh = JoinedForwarders(names, before | after, random.Random(1), views=views)
    mesh.forwarders[one].macs.learn_remote(mac(four), four, 1.0)

    mesh.capture(one, frame(mac(four), one))


@settings(max_examples=60, deadline=None)
@given(changing())
def test_unicasts_come_to_rest_while_views_differ(mesh: JoinedForwarders) -> None:
    """Between all pairs, to addresses that all know; relays with other views must not send a frame round for ever."""
    for destination in mesh.names:
        for name, forwarder in mesh.forwarders.items():
            if name != destination:
                forwarder.macs.learn_remote(mac(destination), destination, 1.0)
        mesh.forwarders[destination].macs.learn_local(mac(destination), 1.0)
    for source in mesh.names:
        for destination in mesh.names:
            if source == destination:
                continue
            captured = frame(mac(destination), source, mark=1)
            mesh.packets = 0
            mesh.capture(source, captured, now=2.0)

            counts = mesh.counts(captured)
            assert counts[destination] <= 1
            assert sum(counts.values()) == counts[destination]
