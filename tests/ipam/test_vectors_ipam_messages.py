"""Messages of the channel `IPallocation` as Weave Net 2.8 sent them (ipam.md section 7), and damaged ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vector_files import load, peer, read_payload
from weave_ipam.election import Claims, Election, Proposal, Voter
from weave_ipam.messages import (
    CHANNEL,
    Kind,
    State,
    decode_range,
    decode_state,
    encode_range,
    encode_state,
)
from weave_ipam.ranges import AddressRange
from weave_ipam.ring import Entry, Ring
from weave_router.errors import ProtocolError
from weave_router.wire.envelope import Tag, decode_envelope
from weave_router.wire.peer_name import PeerName

KINDS = {
    "space request": Kind.SPACE_REQUEST,
    "ring update": Kind.STATE,
    "space request denied": Kind.DENIED,
    None: Kind.STATE,  # no unicast
}
TAGS = {"gossip": Tag.GOSSIP, "broadcast": Tag.BROADCAST, "unicast": Tag.UNICAST}


def captured() -> list[Any]:
    """All messages of `wire.json`, with the name of their scenario."""
    return [
        {**message, "scenario": scenario}
        for scenario, messages in load("ipam/wire").items()
        if isinstance(messages, list)
        for message in messages
    ]


CAPTURED = captured()
MESSAGES = [
    pytest.param(message, id=f"{number}-{message['scenario'].split(':')[0]}-{message['tag']}")
    for number, message in enumerate(CAPTURED)
]


def without_kind(tag: Tag, payload: bytes) -> tuple[Kind, bytes]:
    """What a payload is, and its gob stream; only unicasts begin with a kind."""
    if tag is Tag.UNICAST:
        return Kind(payload[0]), payload[1:]
    return Kind.STATE, payload


def streams() -> dict[Kind, list[bytes]]:
    """All different gob streams, by what they are."""
    found: dict[Kind, dict[bytes, None]] = {kind: {} for kind in Kind}
    for message in CAPTURED:
        kind, stream = without_kind(TAGS[message["tag"]], bytes.fromhex(message["payload_hex"]))
        found[kind][stream] = None
    return {kind: list(there) for kind, there in found.items()}


STREAMS = streams()
STATES = STREAMS[Kind.STATE]
RANGES = list(dict.fromkeys(STREAMS[Kind.SPACE_REQUEST] + STREAMS[Kind.DENIED]))


# What was recorded, in our terms; absent fields are zero


def expected_voter(recorded: Any) -> Voter:
    return Voter(PeerName(recorded.get("Name", 0)), recorded.get("UID", 0))


def expected_proposal(recorded: Any) -> Proposal:
    return Proposal(recorded.get("Round", 0), expected_voter(recorded["Proposer"]))


def expected_claims(recorded: Any) -> Claims:
    accepted = recorded["AcceptedVal"]
    return Claims(
        expected_proposal(recorded["Promise"]),
        expected_proposal(recorded["Accepted"]),
        tuple(accepted.get("Value", ())),
        expected_proposal(accepted["Origin"]),
    )


def assert_is_ring(ring: Ring, recorded: Any) -> None:
    assert ring.universe == AddressRange(recorded["Start"], recorded["End"])
    assert ring.owner == recorded["Peer"]
    assert ring.seeds == tuple(recorded.get("Seeds", ()))
    assert ring.entries == [
        Entry(item["Token"], PeerName(item["Peer"]), item.get("Version", 0), item.get("Free", 0))
        for item in recorded["Entries"]
    ]
    ring.check()


def assert_is_state(state: State, recorded: Any) -> None:
    assert state.nicknames == dict(recorded["Nicknames"])
    assert (state.ring is None) == ("Ring" not in recorded)
    assert (state.claims is None) == ("Paxos" not in recorded)
    if state.ring is not None:
        assert_is_ring(state.ring, recorded["Ring"])
    if state.claims is not None:
        assert state.claims == {expected_voter(voter): expected_claims(said) for voter, said in recorded["Paxos"]}


def same(one: State, other: State) -> bool:
    def content(ring: Ring | None) -> Any:
        return None if ring is None else (ring.universe, ring.owner, ring.entries, ring.seeds)

    return (one.nicknames, one.claims, content(one.ring)) == (other.nicknames, other.claims, content(other.ring))


@pytest.mark.parametrize("message", MESSAGES)
def test_message_is_decoded(message: Any) -> None:
    kind, stream = without_kind(TAGS[message["tag"]], bytes.fromhex(message["payload_hex"]))
    recorded = message["decoded"]

    assert kind is KINDS[message.get("kind")]
    if kind is Kind.STATE:
        assert_is_state(decode_state(stream), recorded)
    else:
        assert decode_range(stream) == AddressRange(recorded["Start"], recorded["End"])


@pytest.mark.parametrize("message", MESSAGES)
def test_message_is_encoded_to_the_same_fields(message: Any) -> None:
    """Field by field as Weave Net wrote it, read by another decoder than ours; and by ours to the same again.

    Weave Net writes nicknames in an order that chance decides, we write them in order of the names.
    """
    tag = TAGS[message["tag"]]
    kind, stream = without_kind(tag, bytes.fromhex(message["payload_hex"]))
    if kind is Kind.STATE:
        state = decode_state(stream)
        ours = encode_state(state, message["decoded"]["Now"])
        assert same(decode_state(ours), state)
    else:
        ours = encode_range(decode_range(stream))
        assert decode_range(ours) == decode_range(stream)
    payload = bytes((kind,)) + ours if tag is Tag.UNICAST else ours

    recorded = message["decoded"]
    if "Nicknames" in recorded:
        recorded = {**recorded, "Nicknames": sorted(recorded["Nicknames"])}
    assert read_payload(CHANNEL, tag, payload)[0]["value"] == recorded


@pytest.mark.parametrize(
    "frame",
    [pytest.param(frame, id=f"{number}-{frame['tag']}") for number, frame in enumerate(load("ipam/frames")["frames"])],
)
def test_frame_is_read_down_to_the_content(frame: Any) -> None:
    message = bytes.fromhex(frame["message_hex"])
    envelope = decode_envelope(message)
    names = [envelope.source, *([] if envelope.destination is None else [envelope.destination])]
    assert (envelope.tag, [envelope.channel, *names]) == (frame["tag"], frame["envelope"])
    assert envelope.channel == frame["channel"] == CHANNEL
    assert len(envelope.payload) == frame["payload_len"]
    assert envelope.encode() == message

    kind, stream = without_kind(envelope.tag, envelope.payload)
    recorded = read_payload(envelope.channel, envelope.tag, envelope.payload)[0]["value"]
    assert frame["payload_types"][0]["name"] == ("gossipState" if kind is Kind.STATE else "Range")
    if kind is Kind.STATE:
        assert_is_state(decode_state(stream), recorded)
    else:
        assert decode_range(stream) == AddressRange(recorded["Start"], recorded["End"])


def test_captures_hold_every_form_of_message() -> None:
    forms = {
        (message["tag"], message.get("kind"), *(key for key in ("Paxos", "Ring") if key in message["decoded"]))
        for message in CAPTURED
    }
    assert forms >= {
        ("gossip", None),
        ("broadcast", None),
        ("gossip", None, "Paxos"),
        ("broadcast", None, "Paxos"),
        ("gossip", None, "Ring"),
        ("broadcast", None, "Ring"),
        ("unicast", "space request"),
        ("unicast", "ring update", "Ring"),
        ("unicast", "space request denied"),
    }
    assert {message["decoded"].get("Paxos") == [] for message in CAPTURED} == {True, False}


@pytest.mark.parametrize("claims", [None, {}])
def test_voter_without_claims_is_no_observer(claims: dict[Voter, Claims] | None) -> None:
    """Section 7: `Paxos` present but empty, and absent, are different statements."""
    assert decode_state(encode_state(State({PeerName(1): "h1"}, None, claims), 5)).claims == claims


# Damaged messages


@pytest.mark.parametrize("stream", [pytest.param(stream, id=str(n)) for n, stream in enumerate(STATES)])
def test_state_cut_short_is_refused(stream: bytes) -> None:
    for length in range(len(stream)):
        with pytest.raises(ProtocolError):
            decode_state(stream[:length])


@pytest.mark.parametrize("stream", [pytest.param(stream, id=str(n)) for n, stream in enumerate(RANGES)])
def test_range_cut_short_is_refused(stream: bytes) -> None:
    for length in range(len(stream)):
        with pytest.raises(ProtocolError):
            decode_range(stream[:length])


def test_state_is_no_range_and_range_no_state() -> None:
    for stream in STATES:
        with pytest.raises(ProtocolError):
            decode_range(stream)
    for stream in RANGES:
        try:
            state = decode_state(stream)
        except ProtocolError:
            continue
        assert same(state, State())  # unknown fields are skipped, and nothing else is there


@pytest.mark.parametrize(("start", "end"), [(0, 0), (5, 5), (6, 5), (0xFFFF_FFFF, 0)])
def test_range_of_no_addresses_is_refused(start: int, end: int) -> None:
    with pytest.raises(ProtocolError):
        decode_range(encode_range(AddressRange(start, end)))


def damaged(streams_: list[bytes]) -> st.SearchStrategy[bytes]:
    """A stream with a few bytes changed; half of them behind the type definitions, where the values are."""

    def change(drawn: tuple[bytes, list[tuple[int, int]], bool]) -> bytes:
        stream, changes, late = drawn
        result = bytearray(stream)
        for place, byte in changes:
            first = len(result) // 2 if late else 0
            result[first + place % (len(result) - first)] = byte
        return bytes(result)

    changes = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4)
    return st.tuples(st.sampled_from(streams_), changes, st.booleans()).map(change)


@settings(max_examples=600, deadline=None)
@given(damaged(STATES))
def test_damaged_state_is_refused_or_understood(payload: bytes) -> None:
    """Whatever was understood can be handled, and sent on to the same effect."""
    try:
        state = decode_state(payload)
    except ProtocolError:
        return
    assert same(decode_state(encode_state(State(state.nicknames, state.ring, None), 1)), without_claims(state))
    assert same(decode_state(encode_state(State(state.nicknames, None, state.claims), 1)), without_ring(state))
    if state.ring is not None:
        ring = Ring(AddressRange(0x0A20_0000, 0x0A30_0000), peer("00:00:00:00:00:01"))
        try:
            ring.merge(state.ring, lambda start, end: True)
        except ProtocolError:
            assert not ring
        else:
            assert ring.entries == state.ring.entries
            ring.check()
    if state.claims:
        election = Election(Voter(PeerName(1), 2**64 - 1), 2)
        election.learn(state.claims)
        election.think()
        election.propose()
        election.think()
        election.decided()
        claims = decode_state(encode_state(State(claims=election.claims), 1)).claims
        assert claims == election.claims


def without_claims(state: State) -> State:
    return State(state.nicknames, state.ring, None)


def without_ring(state: State) -> State:
    return State(state.nicknames, None, state.claims)


@settings(max_examples=200, deadline=None)
@given(damaged(RANGES))
def test_damaged_range_is_refused_or_understood(payload: bytes) -> None:
    try:
        wanted = decode_range(payload)
    except ProtocolError:
        return
    assert 0 <= wanted.start < wanted.end < 1 << 32
    assert decode_range(encode_range(wanted)) == wanted


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_refused_or_understood(payload: bytes) -> None:
    for decode in (decode_state, decode_range):
        try:
            decode(payload)
        except ProtocolError:
            continue
