"""The golden vectors of `tests/vectors`, and the shapes of the gossip payloads that they hold.

In the files byte strings are hex, maps with string keys are objects, other maps are lists of [key, value], and fields
that were absent on the wire are absent (vectors/README.md). `as_recorded` and `from_recorded` translate.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from weave_router.wire import gob
from weave_router.wire.peer_name import NO_PEER, PeerName, parse_peer_name

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

VECTORS = Path(__file__).parent / "vectors"

# Payloads of gossip channels (gob.md section 8).
RANGE = gob.Struct({"Start": gob.UINT32, "End": gob.UINT32}, "Range")
_PEER_ID = gob.Struct({"Name": gob.UINT, "UID": gob.UINT})
_PROPOSAL = gob.Struct({"Round": gob.UINT, "Proposer": _PEER_ID}, "ProposalID")
_ACCEPTED_VALUE = gob.Struct({"Value": gob.Slice(gob.UINT, "Value"), "Origin": _PROPOSAL}, "AcceptedValue")
_CLAIM = gob.Struct({"Promise": _PROPOSAL, "Accepted": _PROPOSAL, "AcceptedVal": _ACCEPTED_VALUE})
_RING_ENTRY = gob.Struct({"Token": gob.UINT32, "Peer": gob.UINT, "Version": gob.UINT32, "Free": gob.UINT32})
_RING = gob.Struct(
    {
        "Start": gob.UINT32,
        "End": gob.UINT32,
        "Peer": gob.UINT,
        "Entries": gob.Slice(_RING_ENTRY, "entries"),
        "Seeds": gob.Slice(gob.UINT),
    },
    "Ring",
)
IPAM_STATE = gob.Struct(
    {
        "Now": gob.INT,
        "Nicknames": gob.Map(gob.UINT, gob.STRING),
        "Paxos": gob.Map(_PEER_ID, _CLAIM, "GossipState"),
        "Ring": _RING,
    },
    "gossipState",
)
DNS = gob.Struct(
    {
        "Timestamp": gob.INT,
        "Entries": gob.Slice(
            gob.Struct(
                {
                    "ContainerID": gob.STRING,
                    "Origin": gob.UINT,
                    "Addr": gob.UINT32,
                    "Hostname": gob.STRING,
                    "Version": gob.INT,
                    "Tombstone": gob.INT,
                },
                "Entry",
            ),
            "Entries",
        ),
    },
    "GossipData",
)


@cache
def load(name: str) -> Any:
    """The content of `tests/vectors/<name>.json`. Shared: do not change it."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def cases(name: str, key: str = "cases", label: str = "name") -> list[ParameterSet]:
    """The entries of one list of a file as test parameters."""
    return [pytest.param(case, id=str(case[label]).replace(" ", "-")) for case in load(name)[key]]


def octets(recorded: Any) -> bytes:
    """The bytes of a packet: hex, or an object with `hex` and perhaps `then_zero_bytes`."""
    if isinstance(recorded, str):
        return bytes.fromhex(recorded)
    return bytes.fromhex(recorded["hex"]) + bytes(recorded.get("then_zero_bytes", 0))


def peer(text: str) -> PeerName:
    """The peer of a name in text form; `00:00:00:00:00:00` stands for "no peer"."""
    return NO_PEER if text == "00:00:00:00:00:00" else parse_peer_name(text)


def as_recorded(schema: gob.Schema, value: Any) -> Any:
    """A decoded value in the form of the files."""
    match schema:
        case gob.Bytes():
            return value.hex()
        case gob.Struct(fields):
            return {name: as_recorded(fields[name], part) for name, part in value.items()}
        case gob.Slice(element):
            return [as_recorded(element, part) for part in value]
        case gob.Map(gob.String(), element):
            return {key: as_recorded(element, part) for key, part in value.items()}
        case gob.Map(key_schema, element):
            pairs = value.items() if isinstance(value, dict) else value
            return [[as_recorded(key_schema, key), as_recorded(element, part)] for key, part in pairs]
    return value


def from_recorded(schema: gob.Schema, value: Any) -> Any:
    """A value of the files in the form that the encoder takes."""
    match schema:
        case gob.Bytes():
            return bytes.fromhex(value)
        case gob.Struct(fields):
            return {name: from_recorded(fields[name], part) for name, part in value.items()}
        case gob.Slice(element):
            return [from_recorded(element, part) for part in value]
        case gob.Map(gob.String(), element):
            return {key: from_recorded(element, part) for key, part in value.items()}
        case gob.Map(gob.Struct() as key_schema, element):
            return [(from_recorded(key_schema, key), from_recorded(element, part)) for key, part in value]
        case gob.Map(key_schema, element):
            return {from_recorded(key_schema, key): from_recorded(element, part) for key, part in value}
    return value


def chunks(stream: bytes) -> list[bytes]:
    """The chunks of a gob stream, without their counts; read by hand from gob.md section 3."""
    found = []
    position = 0
    while position < len(stream):
        first = stream[position]
        width = 0 if first < 0x80 else 256 - first
        length = int.from_bytes(stream[position + 1 : position + 1 + width]) if width else first
        position += 1 + width
        found.append(stream[position : position + length])
        position += length
    return found


def value_bytes(stream: bytes) -> list[bytes]:
    """The values of a gob stream as they were encoded, without type numbers and definitions."""
    found = []
    for chunk in chunks(stream):
        width = 0 if chunk[0] < 0x80 else 256 - chunk[0]
        number = int.from_bytes(chunk[1 : 1 + width]) if width else chunk[0]
        if not number & 1:  # a negative type number, which is odd as an int, defines a type
            found.append(chunk[1 + width :])
    return found


def read_payload(channel: str, tag: int, payload: bytes) -> tuple[dict[str, Any], gob.Schema, bytes]:
    """Decode an IPAM or DNS payload: (as in the files' `decoded`, its schema, its gob stream)."""
    recorded: dict[str, Any] = {}
    schema = DNS if channel == "nameserver" else IPAM_STATE
    if channel == "IPallocation" and tag == 5:
        recorded["kind"] = payload[0]
        schema = IPAM_STATE if payload[0] == 1 else RANGE
        payload = payload[1:]
    decoder = gob.Decoder(payload)
    recorded["value"] = as_recorded(schema, decoder.value(schema))
    assert decoder.at_end()
    return recorded, schema, payload
