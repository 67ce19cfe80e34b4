"""`Mesh`: what it makes of single messages, good and bad, and whom gossip is sent to."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from simulation.mesh_dialogue import Dialogue, record, topology
from weave_router.control.gossip import MAX_UNKNOWN_CHANNELS
from weave_router.control.mesh import HEARTBEAT
from weave_router.errors import ProtocolError
from weave_router.testing.simulated_cluster import peer_name
from weave_router.wire.envelope import Envelope, Tag
from weave_router.wire.peer_name import NO_PEER

if TYPE_CHECKING:
    from collections.abc import Iterator


# --- overlay messages -----------------------------------------------------------------------------------------------


def test_overlay_messages_carry_an_index_into_the_common_list() -> None:
    d = Dialogue()
    connection = d.connect(2, overlays=("fastdp", "sleeve"))
    assert connection.overlays == ("sleeve",)
    d.receive(connection, b"\x07\x00\x01", b"\x07\x00\x03\x05\x9e")
    assert d.overlay_messages() == [("sleeve", 1, b""), ("sleeve", 3, b"\x05\x9e")]
    d.said(connection)
    connection.send_overlay("sleeve", 3, b"\x05\x9e")
    assert d.said(connection) == [b"\x07\x00\x03\x05\x9e"]


@pytest.mark.parametrize("message", [b"\x07", b"\x07\x00", b"\x07\x01\x01", b"\x07\xff\x01\x01", b"\x07\x02\x01"])
def test_overlay_messages_that_would_kill_weave_net_are_ignored(message: bytes) -> None:
    d = Dialogue()
    d.receive(d.connect(2), message)
    assert d.overlay_messages() == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_bare_tags_are_ignored_from_a_peer_that_announced_overlays(number: int) -> None:
    d = Dialogue()
    d.receive(d.connect(2, overlays=("sleeve",)), bytes((number, 0, 1)))
    assert d.overlay_messages() == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_bare_tags_are_used_both_ways_with_a_peer_that_did_not(number: int) -> None:
    d = Dialogue()
    connection = d.connect(2, overlays=None)
    assert connection.bare_tags
    d.receive(connection, bytes((number,)) + b"body", b"\x07\x00\x01")
    assert d.overlay_messages() == [("sleeve", number, b"body")]
    d.said(connection)
    connection.send_overlay("sleeve", number, b"answer")
    assert d.said(connection) == [bytes((number,)) + b"answer"]


# --- other messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"", HEARTBEAT, b"\0more", b"\x08", b"\xff" * 20])
def test_empty_messages_heartbeats_and_unknown_tags_are_ignored(message: bytes) -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    d.receive(two, message)
    d.pass_time(2)
    assert d.events() == []
    assert d.said(two) == []


@pytest.mark.parametrize(
    "message",
    [
        b"\x04",
        b"\x05\xff\xff",
        b"\x06" + bytes(20),
        Envelope(Tag.GOSSIP, "topology", peer_name(2), b"").encode() + b"\x00",
        Envelope(Tag.GOSSIP, "c" * 257, peer_name(2), b"").encode(),
        b"\x05" + Envelope(Tag.GOSSIP, "topology", peer_name(2), b"").encode()[1:],
    ],
)
def test_a_broken_envelope_is_a_protocol_error(message: bytes) -> None:
    d = Dialogue()
    (two,) = d.neighbours(2)
    with pytest.raises(ProtocolError):
        d.receive(two, message)


def test_a_bad_payload_is_neither_applied_nor_relayed() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    good = topology(2, record(2, 2, 1, 5), record(5, 1, 2))
    envelope = Envelope(Tag.GOSSIP, "topology", two.peer, b"\x05bogus").encode()
    d.receive(two, envelope, good)
    d.pass_time(1)
    assert d.mesh.counters["gossip_rejected"] == 1
    assert d.said(three) == [("topology", 1, {2: 2, 5: 1})]


def test_gossip_of_the_peer_0_is_rejected() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    d.receive(two, Envelope(Tag.BROADCAST, "mail", NO_PEER, b"x").encode())
    assert d.mesh.counters["gossip_rejected"] == 1
    assert d.said(three) == []


def test_unknown_channels_are_relayed_up_to_a_number() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    for number in range(MAX_UNKNOWN_CHANNELS + 5):
        d.receive(two, Envelope(Tag.BROADCAST, f"channel {number}", two.peer, b"x").encode())
    assert d.mesh.counters["gossip_rejected"] == 5
    assert len(d.said(three)) == MAX_UNKNOWN_CHANNELS


def test_a_unicast_is_relayed_as_it_came() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    message = Envelope(Tag.UNICAST, "mail", two.peer, bytes(range(256)), three.peer).encode()
    d.receive(two, message)
    assert list(d.messages(three)) == [message]


def test_a_unicast_of_ours_that_comes_back_is_not_sent_round_again() -> None:
    d = Dialogue()
    two, three = d.neighbours(2, 3)
    d.receive(two, Envelope(Tag.UNICAST, "mail", d.mesh.ourselves, b"x", three.peer).encode())
    assert d.said(three) == []


def test_a_unicast_is_not_sent_back_to_where_it_came_from() -> None:
    """While views differ two peers may each take the other for the next hop."""
    d = Dialogue()
    two, _ = d.neighbours(2, 3)
    d.receive(two, topology(2, record(2, 2, 1, 5), record(5, 1, 2)))
    d.pass_time(1)
    d.said(two)
    d.receive(two, Envelope(Tag.UNICAST, "mail", peer_name(3), b"x", peer_name(5)).encode())
    assert d.said(two) == []


def test_the_channel_that_takes_part_gets_what_is_for_us() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.heard: list[tuple[str, int, bytes]] = []

        def complete_state(self) -> None:
            return None

        def on_gossip(self, source: int, payload: bytes, now: float) -> Iterator[None]:
            self.heard.append(("gossip", source, payload))
            yield None

        def on_broadcast(self, source: int, payload: bytes, now: float) -> None:
            self.heard.append(("broadcast", source, payload))

        def on_unicast(self, source: int, payload: bytes, now: float) -> None:
            self.heard.append(("unicast", source, payload))

    d, recorder = Dialogue(), Recorder()
    d.mesh.register("mail", recorder)
    two, three = d.neighbours(2, 3)
    nine = peer_name(9)
    d.receive(two, Envelope(Tag.GOSSIP, "mail", nine, b"1").encode())
    d.receive(two, Envelope(Tag.BROADCAST, "mail", nine, b"2").encode())
    d.receive(two, Envelope(Tag.UNICAST, "mail", nine, b"3", d.mesh.ourselves).encode())
    d.receive(two, Envelope(Tag.UNICAST, "mail", nine, b"4", three.peer).encode())
    # Gossip comes from the neighbour that sent it, whatever it writes; the rest from its originator.
    assert recorder.heard == [("gossip", two.peer, b"1"), ("broadcast", nine, b"2"), ("unicast", nine, b"3")]


# --- random neighbours ----------------------------------------------------------------------------------------------


def _many(count: int) -> Dialogue:
    d = Dialogue()
    d.neighbours(*range(2, 2 + count))
    return d


def test_all_of_few_neighbours_are_chosen() -> None:
    for count in (1, 2, 3):
        d = _many(count)
        for _ in range(20):
            assert len(d.mesh.routes.random_neighbours(peer_name(0), d.chance)) == count


def test_of_many_neighbours_some_are_chosen_and_never_the_source() -> None:
    d = _many(40)
    chosen: Counter[int] = Counter()
    for _ in range(500):
        some = d.mesh.routes.random_neighbours(peer_name(2), d.chance)
        assert len(some) == len(set(some)) == 10  # floor(2 log2 41)
        assert peer_name(2) not in some
        chosen.update(some)
    assert len(chosen) == 39
    assert max(chosen.values()) < 2 * min(chosen.values())


def test_neighbours_with_more_peers_behind_them_are_chosen_more_often() -> None:
    d = _many(40)
    two = d.mesh.connections[peer_name(2)]
    behind = range(100, 160)
    d.receive(two, topology(2, record(2, 2, 1, *behind), *(record(n, 1, 2) for n in behind)))
    d.pass_time(1)
    chosen: Counter[int] = Counter()
    for _ in range(300):
        chosen.update(d.mesh.routes.random_neighbours(peer_name(0), d.chance))
    assert chosen[peer_name(2)] > 290


def test_chance_comes_from_the_seed() -> None:
    def choices(seed: int) -> list[list[int]]:
        d = _many(20)
        d.chance.seed(seed)
        return [list(d.mesh.routes.random_neighbours(peer_name(0), d.chance)) for _ in range(10)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)
