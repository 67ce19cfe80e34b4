"""Captured conversations over TCP, played against one side of them (mesh.md sections 3 to 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from vector_files import cases, load, peer, read_payload
from weave_router.errors import ProtocolError
from weave_router.wire import gob
from weave_router.wire.envelope import Tag, decode_envelope
from weave_router.wire.features import Features
from weave_router.wire.sealing import MessageSealer, SealError, public_key, session_key
from weave_router.wire.session import FeaturesReceived, KeyAgreed, MessageReceived, Session
from weave_router.wire.topology import PeerRecord, decode_records

# Session keys


@pytest.mark.parametrize("case", cases("session-keys"))
def test_session_key(case: Any) -> None:
    password = bytes.fromhex(case["password_utf8_hex"])
    private = {side: bytes.fromhex(case[f"private_{side}"]) for side in "ab"}
    public = {side: bytes.fromhex(case[f"public_{side}"]) for side in "ab"}

    assert {side: public_key(key) for side, key in private.items()} == public
    assert session_key(public["b"], private["a"], password).hex() == case["session_key"]
    assert session_key(public["a"], private["b"], password).hex() == case["session_key"]


@pytest.mark.parametrize("case", cases("session-keys"))
@pytest.mark.parametrize("side", ["dialler", "acceptor"])
def test_sealed_messages(case: Any, side: str) -> None:
    key = bytes.fromhex(case["session_key"])
    sealing = MessageSealer(key, sender_dialled=side == "dialler")
    opening = MessageSealer(key, sender_dialled=side == "dialler")
    for number in (0, 1):
        plain = bytes.fromhex(case[f"tcp_{side}_seq{number}_plain"])
        sealed = bytes.fromhex(case[f"tcp_{side}_seq{number}_sealed"])

        assert sealing.seal(plain) == sealed
        assert opening.open(sealed) == plain


@pytest.mark.parametrize("case", cases("session-keys"))
def test_a_message_opens_only_at_its_place_and_in_its_direction(case: Any) -> None:
    key = bytes.fromhex(case["session_key"])
    first = bytes.fromhex(case["tcp_dialler_seq0_sealed"])
    second = bytes.fromhex(case["tcp_dialler_seq1_sealed"])

    with pytest.raises(SealError):
        MessageSealer(key, sender_dialled=True).open(second)
    with pytest.raises(SealError):
        MessageSealer(key, sender_dialled=False).open(first)


# Conversations


@dataclass(frozen=True)
class Conversation:
    """One captured conversation as one of its sides lived it."""

    name: str
    side: str
    other: str
    outbound: bool
    private_key: bytes
    password: bytes | None

    def __str__(self) -> str:
        return f"{self.name}-{self.side}"

    @property
    def record(self) -> Any:
        return load(self.name)

    def events(self, side: str, *what: str) -> list[Any]:
        return [event for event in self.record["events"] if event["from"] == side and event["what"] in what]

    def wire(self, side: str) -> bytes:
        return b"".join(bytes.fromhex(event["wire"]) for event in self.record["events"] if event["from"] == side)

    def session(self) -> Session:
        return Session(outbound=self.outbound, password=self.password, private_key=self.private_key)


def conversations() -> list[Conversation]:
    encrypted, client = load("tcp-encrypted-v2"), load("encrypted-v2-client")
    played = [
        Conversation("tcp-plain-v2", "dialler", "acceptor", True, bytes(32), None),
        Conversation("tcp-plain-v2", "acceptor", "dialler", False, bytes(32), None),
    ]
    for side, other in (("dialler", "acceptor"), ("acceptor", "dialler")):
        private = bytes.fromhex(encrypted[side]["private_key"])
        password = encrypted["password"].encode()
        played.append(Conversation("tcp-encrypted-v2", side, other, side == "dialler", private, password))
    private = bytes.fromhex(client["client_private_key"])
    played.append(
        Conversation("encrypted-v2-client", "client", "daemon", True, private, client["password"].encode()),
    )
    return played


CONVERSATIONS = pytest.mark.parametrize("conversation", conversations(), ids=str)
SEALED = pytest.mark.parametrize(
    "conversation", [played for played in conversations() if played.password is not None], ids=str
)


def plain(event: Any) -> bytes:
    """The message of an event, opened."""
    return bytes.fromhex(event["plain"]) if "plain" in event else bytes.fromhex(event["wire"])[4:]


@CONVERSATIONS
@pytest.mark.parametrize("piece", [1, 3, 1000, 10**9], ids=["bytewise", "by-three", "by-thousand", "whole"])
def test_the_other_side_is_understood(conversation: Conversation, piece: int) -> None:
    session = conversation.session()
    stream = conversation.wire(conversation.other)
    received = []
    for start in range(0, len(stream), piece):
        received += session.receive(stream[start : start + piece])

    (features,) = conversation.events(conversation.other, "features")
    messages = conversation.events(conversation.other, "message")
    assert received == [
        KeyAgreed(),
        FeaturesReceived(features["decoded"]),
        *(MessageReceived(plain(event)) for event in messages),
    ]
    key = conversation.record.get("session_key")
    assert session.key == (bytes.fromhex(key) if key else None)


@CONVERSATIONS
def test_our_side_is_written_to_the_byte(conversation: Conversation) -> None:
    session = conversation.session()
    header, flag = (
        bytes.fromhex(conversation.events(conversation.side, what)[0]["wire"]) for what in ("header", "flag")
    )
    hello = session.hello()
    opening = len(header) + len(conversation.events(conversation.other, "flag")[0]["wire"]) // 2
    session.receive(conversation.wire(conversation.other)[:opening])

    assert header[:5] == hello[:5]
    assert hello[5:7] == b"\x02\x02"  # mesh.md 3.1: announce 2..2, whatever the reference announces
    assert hello[7:] == flag
    for event in conversation.events(conversation.side, "features", "message"):
        assert session.send(plain(event)).hex() == event["wire"]


@CONVERSATIONS
def test_our_features_are_read_back_by_a_session_of_the_other_side(conversation: Conversation) -> None:
    """Two of our sessions, joined: what one sends the other reads, also with map entries in another order."""
    ours = conversation.session()
    theirs = Session(
        outbound=not conversation.outbound, password=conversation.password, private_key=bytes(31) + b"\x40"
    )
    ours.receive(theirs.hello())
    (features,) = conversation.events(conversation.side, "features")

    theirs.receive(ours.hello())
    assert theirs.receive(ours.send_features(features["decoded"])) == [FeaturesReceived(features["decoded"])]


@pytest.mark.parametrize("name", ["tcp-plain-v2", "tcp-encrypted-v2", "encrypted-v2-client"])
def test_connection_uid_joins_both_halves(name: str) -> None:
    record = load(name)
    halves = [
        Features.from_map(event["decoded"]).connection_half for event in record["events"] if event["what"] == "features"
    ]

    assert len(halves) == 2
    assert halves[0] ^ halves[1] == int(record["connection_uid"], 16)


def described(record: PeerRecord) -> Any:
    """A record in the form of the files: zero fields absent."""
    summary: dict[str, Any] = {"NameByte": record.name.to_bytes(6).hex()}
    if record.nickname:
        summary["NickName"] = record.nickname
    if record.uid:
        summary["UID"] = record.uid
    if record.version:
        summary["Version"] = record.version
    if record.short_id is not None:
        summary |= {"ShortID": record.short_id, "HasShortID": True}
    connections = []
    for link in record.links:
        connection: dict[str, Any] = {"NameByte": link.remote.to_bytes(6).hex(), "RemoteTCPAddr": link.address}
        if link.outbound:
            connection["Outbound"] = True
        if link.established:
            connection["Established"] = True
        connections.append(connection)
    return {"peer": summary, "connections": connections}


def check_message(message: bytes, decoded: Any) -> None:
    """A message says what the files tell."""
    tag = Tag(message[0])
    assert tag == decoded["tag"]
    if tag is Tag.OVERLAY:
        assert (message[1], message[2], message[3:].hex()) == (
            decoded["overlay_index"],
            decoded["number"],
            decoded["body"],
        )
    elif tag in (Tag.SLEEVE_HEARD, Tag.SLEEVE_FRAGOK, Tag.SLEEVE_MTUOK):
        assert message[1:].hex() == decoded["body"]
    elif tag is Tag.HEARTBEAT:
        assert len(message) == 1
    else:
        envelope = decode_envelope(message)
        assert envelope.channel == decoded["channel"]
        assert envelope.source == peer(decoded["source"])
        assert envelope.destination == (peer(decoded["destination"]) if "destination" in decoded else None)
        assert envelope.payload.hex() == decoded["payload"]
        assert envelope.encode() == message
        if envelope.channel == "topology":
            peers = [described(record) for record in decode_records(envelope.payload)]
            assert {"peers": peers} == decoded["decoded"]
        else:
            assert read_payload(envelope.channel, tag, envelope.payload)[0] == decoded["decoded"]


@pytest.mark.parametrize("name", ["tcp-plain-v2", "tcp-encrypted-v2", "encrypted-v2-client"])
def test_every_message_says_what_was_recorded(name: str) -> None:
    events = [event for event in load(name)["events"] if event["what"] == "message"]
    for event in events:
        check_message(plain(event), event["decoded"])
    assert len({event["decoded"].get("channel") for event in events}) >= 3


# What ends a conversation


@SEALED
def test_a_message_that_was_changed_on_the_way_ends_a_sealed_conversation(conversation: Conversation) -> None:
    stream = bytearray(conversation.wire(conversation.other))
    stream[-1] ^= 1

    with pytest.raises(ProtocolError):
        conversation.session().receive(bytes(stream))


@SEALED
def test_another_password_ends_the_opening(conversation: Conversation) -> None:
    session = Session(outbound=conversation.outbound, password=b"another", private_key=conversation.private_key)

    with pytest.raises(ProtocolError):
        session.receive(conversation.wire(conversation.other))


@pytest.mark.parametrize("version", ["plain", "encrypted"])
@pytest.mark.parametrize("side", ["dialler", "acceptor"])
def test_version_1_is_refused_by_the_session(version: str, side: str) -> None:
    """mesh.md 3.1: a new implementation accepts version 2 only; the dialler of these runs announces 1..1."""
    header = bytes.fromhex(load(f"tcp-{version}-v1")["events"][0 if version == "encrypted" else 1]["wire"])
    assert header == b"weave\x01\x01"
    session = Session(outbound=side == "dialler", password=None, private_key=bytes(32))

    with pytest.raises(ProtocolError):
        session.receive(header)


# Version 1: one gob stream per direction


@pytest.mark.parametrize("name", ["tcp-plain-v1", "tcp-encrypted-v1"])
@pytest.mark.parametrize("side", ["dialler", "acceptor"])
def test_version_1_stream_is_decoded(name: str, side: str) -> None:
    record = load(name)
    events = [event for event in record["events"] if event["from"] == side and event["what"] != "header"]
    decoder = gob.Decoder(b"".join(bytes.fromhex(event["wire"]) for event in events))
    key = record.get("session_key")
    opener = MessageSealer(bytes.fromhex(key), sender_dialled=side == "dialler") if key else None

    for event in events:
        if event["what"] == "features":
            assert decoder.value(gob.Map(gob.STRING, gob.STRING)) == event["decoded"]
        elif event["what"] == "message":
            message = decoder.value(gob.BYTES)
            if opener is not None:
                message = opener.open(message)
                assert message.hex() == event["plain"]
            check_message(message, event["decoded"])
    assert decoder.at_end()
