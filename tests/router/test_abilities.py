"""Abilities beyond Weave Net 2.8 reach distant peers by gossip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave_router.control.abilities import AbilitiesChannel
from weave_router.errors import ProtocolError
from weave_router.wire.peer_name import PeerName

A, B, C = PeerName(1), PeerName(2), PeerName(3)
EVERYBODY = frozenset({A, B, C})


def channel(name: PeerName, *abilities: str, uid: int = 7, peers: frozenset[PeerName] = EVERYBODY) -> AbilitiesChannel:
    return AbilitiesChannel(name, uid, abilities, peers)


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
    b = channel(B)
    for life, abilities in enumerate((("fly",), ("swim",))):
        assert told(channel(A, *abilities, uid=life), b)
    assert b.can(A, "swim")
    assert not b.can(A, "fly")


def test_an_older_announcement_changes_nothing() -> None:
    a, b = channel(A, "fly"), channel(B)
    (old,) = a.complete_state().encode()
    told(a, b)
    assert not list(b.on_gossip(C, old, 0))


def test_peers_that_are_gone_are_forgotten() -> None:
    b = channel(B, peers=frozenset({B}))
    told(channel(A, "fly"), b)
    assert b.can(A, "fly")
    b.complete_state()
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
