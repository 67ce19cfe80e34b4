"""Messages of the channel `IPallocation` (ipam.md section 7, gob.md section 8)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from weave_ipam.election import Claims, Proposal, Voter
from weave_ipam.ranges import AddressRange
from weave_ipam.ring import Entry, Ring
from weave_router.wire import gob
from weave_router.wire.peer_name import NO_PEER, PeerName

if TYPE_CHECKING:
    from collections.abc import Mapping

CHANNEL = "IPallocation"
MAX_ENTRIES = 1 << 16
MAX_PEERS = 1 << 14
MAX_NICKNAME_BYTES = 1024

_NAME = gob.Uint(48)
_VOTER = gob.Struct({"Name": _NAME, "UID": gob.UINT})
_PROPOSAL = gob.Struct({"Round": gob.UINT, "Proposer": _VOTER}, "ProposalID")
_VALUE = gob.Struct({"Value": gob.Slice(_NAME, "Value", MAX_PEERS), "Origin": _PROPOSAL}, "AcceptedValue")
_CLAIMS = gob.Struct({"Promise": _PROPOSAL, "Accepted": _PROPOSAL, "AcceptedVal": _VALUE})


def _read_entry(content: Mapping[str, Any]) -> Entry:
    peer = PeerName(content.get("Peer", 0))
    return Entry(content.get("Token", 0), peer, content.get("Version", 0), content.get("Free", 0))


_ENTRY = gob.Struct({"Token": gob.UINT32, "Peer": _NAME, "Version": gob.UINT32, "Free": gob.UINT32}, make=_read_entry)
_RING = gob.Struct(
    {
        "Start": gob.UINT32,
        "End": gob.UINT32,
        "Peer": _NAME,
        "Entries": gob.Slice(_ENTRY, "entries", MAX_ENTRIES, recurring=True),
        "Seeds": gob.Slice(_NAME, limit=MAX_PEERS, recurring=True),
    },
    "Ring",
)
_STATE = gob.Struct(
    {
        "Now": gob.INT,
        "Nicknames": gob.Map(_NAME, gob.String(MAX_NICKNAME_BYTES), limit=MAX_PEERS, recurring=True),
        "Paxos": gob.Map(_VOTER, _CLAIMS, "GossipState", MAX_PEERS),
        "Ring": _RING,
    },
    "gossipState",
)
_RANGE = gob.Struct({"Start": gob.UINT32, "End": gob.UINT32}, "Range")
_STATES, _RANGES = gob.Codec(_STATE), gob.Codec(_RANGE)


class Kind(IntEnum):
    """First byte of a unicast."""

    SPACE_REQUEST = 0
    STATE = 1
    DENIED = 2


@dataclass(frozen=True, slots=True)
class State:
    """What a peer tells of itself. Without ring and claims it is an observer that has no ring."""

    nicknames: Mapping[PeerName, str] = field(default_factory=dict)
    ring: Ring | None = None
    claims: Mapping[Voter, Claims] | None = None
    """An empty one is that of a voter whose election has not begun."""

    def copy(self) -> State:
        """A snapshot."""
        return State(
            dict(self.nicknames),
            None if self.ring is None else self.ring.copy(),
            None if self.claims is None else dict(self.claims),
        )


def encode_state(state: State, clock: int) -> bytes:
    """A payload; `clock` in Unix seconds."""
    # In one order from all peers: whoever reads the next message knows most of it already.
    content: dict[str, Any] = {"Now": clock, "Nicknames": dict(sorted(state.nicknames.items()))}
    if state.ring is not None:
        ring = state.ring
        content["Ring"] = {
            "Start": ring.universe.start,
            "End": ring.universe.end,
            "Peer": ring.owner,
            "Entries": gob.EncodedElements([_encode_entry(entry) for entry in ring.entries]),
            "Seeds": list(ring.seeds),
        }
    elif state.claims is not None:
        content["Paxos"] = [(_voter(voter), _claims(claims)) for voter, claims in state.claims.items()]
    return _STATES.encode(_STATE, content)


@lru_cache(maxsize=65536)
def _encode_entry(entry: Entry) -> bytes:
    return gob.encode_element(
        _ENTRY, {"Token": entry.token, "Peer": entry.peer, "Version": entry.version, "Free": entry.free}
    )


def decode_state(payload: bytes) -> State:
    """Read a payload. Raises `ProtocolError`; an invalid ring (section 2) is found by `Ring.check`."""
    content = _STATES.decode(_STATE, payload)
    claims = content.get("Paxos")
    return State(
        content.get("Nicknames", {}),
        _read_ring(content["Ring"]) if "Ring" in content else None,
        None if claims is None else {_read_voter(voter): _read_claims(value) for voter, value in claims},
    )


def encode_range(wanted: AddressRange) -> bytes:
    """A range as a space request or its denial carry it."""
    return _RANGES.encode(_RANGE, {"Start": wanted.start, "End": wanted.end})


def decode_range(payload: bytes) -> AddressRange:
    """Read a range. Raises `GobError`."""
    content = _RANGES.decode(_RANGE, payload)
    start, end = content.get("Start", 0), content.get("End", 0)
    if start >= end:
        raise gob.GobError(f"range of no addresses: {start}-{end}")
    return AddressRange(start, end)


def _read_ring(content: Mapping[str, Any]) -> Ring:
    return Ring(
        AddressRange(content.get("Start", 0), content.get("End", 0)),
        PeerName(content.get("Peer", 0)),
        content.get("Entries", ()),
        content.get("Seeds", ()),
    )


def _voter(voter: Voter) -> dict[str, int]:
    return {"Name": voter.name, "UID": voter.uid}


def _read_voter(content: Mapping[str, Any]) -> Voter:
    return Voter(PeerName(content.get("Name", NO_PEER)), content.get("UID", 0))


def _proposal(proposal: Proposal) -> dict[str, Any]:
    return {"Round": proposal.round, "Proposer": _voter(proposal.proposer)}


def _read_proposal(content: Mapping[str, Any]) -> Proposal:
    return Proposal(content.get("Round", 0), _read_voter(content.get("Proposer", {})))


def _claims(claims: Claims) -> dict[str, Any]:
    return {
        "Promise": _proposal(claims.promise),
        "Accepted": _proposal(claims.accepted),
        "AcceptedVal": {"Value": list(claims.value), "Origin": _proposal(claims.origin)},
    }


def _read_claims(content: Mapping[str, Any]) -> Claims:
    value = content.get("AcceptedVal", {})
    return Claims(
        _read_proposal(content.get("Promise", {})),
        _read_proposal(content.get("Accepted", {})),
        tuple(value.get("Value", ())),
        _read_proposal(value.get("Origin", {})),
    )
