"""Abilities beyond Weave Net 2.8 reach distant peers by gossip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave_router.control.abilities import AbilitiesChannel
from weave_router.errors import ProtocolError
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import PeerRecord

A, B, C = PeerName(1), PeerName(2), PeerName(3)


def records(*names: PeerName, uid: int = 7) -> dict[PeerName, PeerRecord]:
    return {name: PeerRecord(name, uid=uid) for name in names}


def channel(
    name: PeerName, *abilities: str, uid: int = 7, peers: dict[PeerName, PeerRecord] | None = None
) -> AbilitiesChannel:
    return AbilitiesChannel(name, uid, abilities, records(A, B, C) if peers is None else peers)


def told(teller: AbilitiesChannel, listener: AbilitiesChannel, source: PeerName = A) -> list[bytes]:
    """Tell everything; what the listener passes on."""
    passed_on: list[bytes] = []
    for payload in teller.complete_state().encode():
        for data in listener.on_gossip(source, payload, 0):
            assert data is not None
            passed_on += data.encode()
    return passed_on


def test_abilities_travel_over_peers_in_between() -> None:
    a, b, c = channel(A, "fly"), channel(B), channel(C)
    for payload in told(a, b):
        list(c.on_gossip(B, payload, 0))
    assert c.can(A, "fly")
    assert not c.can(A, "swim")
    assert not c.can(B, "fly")


def test_every_repetition_is_a_new_payload_but_no_news() -> None:
    a, b = channel(A, "fly"), channel(B)
    first, second = (a.complete_state().encode() for _ in range(2))
    assert first != second
    assert told(a, b)
    assert not told(a, b)


def test_a_restarted_peer_may_have_other_abilities() -> None:
    peers = records(A, B)
    b = channel(B, peers=peers)
    old, new = channel(A, "fly"), channel(A, "swim", uid=8)
    assert told(old, b)
    peers.update(records(A, uid=8))
    assert not b.can(A, "fly")
    assert told(new, b)
    assert b.can(A, "swim")
    assert not b.can(A, "fly")
    assert not told(old, b), "an earlier life would chase the later one through the network for ever"
    assert b.can(A, "swim")


def test_two_lives_of_a_peer_do_not_take_turns() -> None:
    b = channel(B, peers=records(B))  # A's record is still on its way
    old, new = channel(A, "fly"), channel(A, "swim", uid=8)
    assert [bool(told(life, b)) for life in (old, new, old, new)] == [True, False, False, False]


def test_an_older_announcement_changes_nothing() -> None:
    a, b = channel(A, "fly"), channel(B)
    (old,) = a.complete_state().encode()
    told(a, b)
    assert not list(b.on_gossip(C, old, 0))


def test_peers_that_are_gone_are_forgotten() -> None:
    peers = records(A, B)
    b = channel(B, peers=peers)
    told(channel(A, "fly"), b)
    assert b.can(A, "fly")
    del peers[A]
    b.complete_state()
    peers.update(records(A))
    assert not b.can(A, "fly")


def test_nobody_else_says_what_we_can() -> None:
    b = channel(B)
    told(channel(B, "fly", uid=8), b)
    assert not b.can(B, "fly")


@given(st.binary(max_size=200))
def test_nonsense_is_a_protocol_error_and_nothing_else(payload: bytes) -> None:
    b = channel(B)
    try:
        list(b.on_gossip(A, payload, 0))
    except ProtocolError:
        assert not b.can(A, "fly")


def test_unicasts_are_refused() -> None:
    with pytest.raises(ProtocolError):
        channel(B).on_unicast(A, b"", 0)
