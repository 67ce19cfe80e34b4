"""Captured gob streams and the reference decoder's verdicts (gob.md): values, and bytes where they are determined."""

from __future__ import annotations

from typing import Any

import pytest

from vector_files import (
    IPAM_STATE,
    as_recorded,
    cases,
    chunks,
    from_recorded,
    load,
    peer,
    read_payload,
    value_bytes,
)
from weave_router.errors import ProtocolError
from weave_router.wire import gob
from weave_router.wire.envelope import Envelope, Tag, decode_envelope
from weave_router.wire.features import Features, decode_features, encode_features
from weave_router.wire.peer_name import format_peer_name
from weave_router.wire.topology import Link, PeerRecord, decode_records, encode_records

_INNER = gob.Struct({"A": gob.UINT, "B": gob.STRING}, "Inner")
_RECORD = gob.Struct(
    {
        "U": gob.UINT,
        "I": gob.INT,
        "S": gob.STRING,
        "Y": gob.BYTES,
        "L": gob.Slice(gob.UINT),
        "M": gob.Map(gob.UINT, gob.STRING),
        "N": _INNER,
        "P": _INNER,
        "T": gob.BOOL,
    },
    "Rec",
)
_SCHEMAS: dict[str, gob.Schema] = {
    "uint": gob.UINT,
    "int": gob.INT,
    "bool": gob.BOOL,
    "string": gob.STRING,
    "bytes": gob.BYTES,
    "map": gob.Map(gob.STRING, gob.STRING),
    "struct,": _RECORD,
    "slice": gob.Slice(_INNER),
}

MALFORMED_DEVIATIONS = {
    "bytes after the value inside the chunk": "gob.md section 9: a value must use up its chunk exactly",
}


def primitive_cases() -> list[Any]:
    values = load("gob-primitives")["values"]
    return [pytest.param(case, id=f"{number}-{case['what'][:24]}") for number, case in enumerate(values)]


def recorded_value(case: Any) -> Any:
    return "78" * 200 if case["value"] == "x*200" else case["value"]


# Primitives


@pytest.mark.parametrize("case", primitive_cases())
def test_primitive_is_decoded(case: Any) -> None:
    schema = _SCHEMAS[case["what"].split()[0]]
    decoder = gob.Decoder(bytes.fromhex(case["stream"]))

    assert as_recorded(schema, decoder.value(schema)) == recorded_value(case)
    assert decoder.at_end()


@pytest.mark.parametrize("case", primitive_cases())
def test_primitive_is_encoded_to_the_same_value_bytes(case: Any) -> None:
    schema = _SCHEMAS[case["what"].split()[0]]
    stream = bytes.fromhex(case["stream"])
    encoder = gob.Encoder()
    encoder.encode(schema, from_recorded(schema, recorded_value(case)))

    assert value_bytes(encoder.getvalue()) == value_bytes(stream)
    assert len(chunks(encoder.getvalue())) == len(chunks(stream))


# Streams that a peer should not send


@pytest.mark.parametrize("case", cases("gob-malformed", label="case"))
def test_malformed_stream_meets_the_reference_verdict(case: Any) -> None:
    stream = bytes.fromhex(case["stream"])
    if case["reference"] == "rejects" or case["case"] in MALFORMED_DEVIATIONS:
        with pytest.raises(ProtocolError):
            decode_features(stream)
    else:
        assert decode_features(stream) == case["value"]


def test_every_listed_deviation_is_a_case_that_the_reference_accepts() -> None:
    accepted = {case["case"] for case in load("gob-malformed")["cases"] if case["reference"] == "accepts"}

    assert accepted >= MALFORMED_DEVIATIONS.keys()


# Features


@pytest.mark.parametrize("case", cases("gob-features"))
def test_features_stream_is_decoded(case: Any) -> None:
    assert decode_features(bytes.fromhex(case["stream"])) == case["value"]


@pytest.mark.parametrize("case", cases("gob-features"))
def test_features_are_encoded_to_an_equivalent_stream(case: Any) -> None:
    stream = encode_features(case["value"])

    assert decode_features(stream) == case["value"]
    assert value_bytes(stream) == value_bytes(bytes.fromhex(case["stream"]))


@pytest.mark.parametrize("case", cases("gob-features"))
def test_features_are_understood(case: Any) -> None:
    value = case["value"]
    features = Features.from_map(value)

    assert format_peer_name(features.name) == value["Name"]
    assert features.nickname == value["NickName"]
    assert features.uid == int(value["UID"])
    assert features.connection_half == int(value["ConnID"])
    assert features.short_id == (int(value["ShortID"]) if "ShortID" in value else None)
    assert features.trusted is False
    assert features.overlays == (("sleeve",) if "Overlays" in value else None)
    if "Overlays" in value:
        assert features.to_map() == value


# Topology payloads


def record_of(described: Any) -> PeerRecord:
    summary = described["peer"]
    return PeerRecord(
        name=peer(bytes.fromhex(summary["NameByte"]).hex(":")),
        nickname=summary.get("NickName", ""),
        uid=summary.get("UID", 0),
        version=summary.get("Version", 0),
        short_id=summary.get("ShortID", 0) if summary.get("HasShortID") else None,
        links=tuple(
            Link(
                remote=peer(bytes.fromhex(connection["NameByte"]).hex(":")),
                address=connection.get("RemoteTCPAddr", ""),
                outbound=connection.get("Outbound", False),
                established=connection.get("Established", False),
            )
            for connection in described["connections"]
        ),
    )


@pytest.mark.parametrize("case", cases("gob-topology"))
def test_topology_payload_is_decoded(case: Any) -> None:
    records = list(decode_records(bytes.fromhex(case["payload"])))

    assert len(records) == case["peers"]
    assert records == [record_of(described) for described in case["decoded"]]


@pytest.mark.parametrize("case", cases("gob-topology"))
def test_topology_payload_is_encoded_to_the_same_value_bytes(case: Any) -> None:
    payload = encode_records([record_of(described) for described in case["decoded"]])

    assert value_bytes(payload) == value_bytes(bytes.fromhex(case["payload"]))


# IPAM and DNS payloads


@pytest.mark.parametrize("case", cases("gob-payloads"))
def test_payload_is_decoded(case: Any) -> None:
    recorded, _, _ = read_payload(case["channel"], case["tag"], bytes.fromhex(case["payload"]))

    assert recorded == case["decoded"]


@pytest.mark.parametrize("case", cases("gob-payloads"))
def test_payload_is_encoded_to_the_same_value_bytes(case: Any) -> None:
    _, schema, stream = read_payload(case["channel"], case["tag"], bytes.fromhex(case["payload"]))
    encoder = gob.Encoder()
    encoder.encode(schema, from_recorded(schema, case["decoded"]["value"]))

    assert value_bytes(encoder.getvalue()) == value_bytes(stream)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"Now": 1}, id="all-absent"),
        pytest.param({"Now": 1, "Nicknames": {}}, id="empty-nicknames"),
        pytest.param({"Now": 1, "Paxos": []}, id="empty-consensus"),
        pytest.param({"Now": 1, "Ring": {}}, id="empty-ring"),
        pytest.param({"Nicknames": {}, "Paxos": [], "Ring": {}}, id="all-empty"),
    ],
)
def test_absent_and_empty_are_different_statements(value: dict[str, Any]) -> None:
    encoder = gob.Encoder()
    encoder.encode(IPAM_STATE, value)

    assert gob.Decoder(encoder.getvalue()).value(IPAM_STATE) == value


# The envelopes of the channel IPallocation, through a relay


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case["t"])) for case in load("ipam-channel")["messages"]])
def test_ipam_message_is_read_and_written_to_the_byte(case: Any) -> None:
    message = bytes.fromhex(case["message"])
    decoded = case["decoded"]
    envelope = decode_envelope(message)

    assert envelope.tag is Tag(case["tag"])
    assert envelope.channel == decoded["channel"]
    assert envelope.source == peer(decoded["source"])
    assert envelope.destination == (peer(decoded["destination"]) if "destination" in decoded else None)
    assert read_payload(envelope.channel, envelope.tag, envelope.payload)[0] == decoded["decoded"]
    assert envelope.encode() == message


def test_envelope_of_the_worked_example() -> None:
    """gob.md section 3: the chunks of a gossip message, written down by hand."""
    payload = bytes(307)
    expected = bytes.fromhex("04 0b0c0008746f706f6c6f6779 03060001 fe01380a00fe0133") + payload

    assert Envelope(Tag.GOSSIP, "topology", peer("00:00:00:00:00:01"), payload).encode() == expected
