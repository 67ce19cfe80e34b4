"""What survives a restart, as entries of the store (ipam.md section 13).

    ipam/network          {"range", "peer", "seeds"}
    ipam/ring/<token>     [peer, version, free]
    ipam/lease/<id>       {"addresses": ["10.32.0.1/12", …], "container": false}
    ipam/nicknames        {peer: nickname} of the owners
    ipam/vote/<peer>      [number, taker]: to whose removal we have agreed
    ipam/election         [uid, promise, accepted, value, origin]: what we have said, while there is no ring
    ipam/alive            [boot, seconds]: when this peer was last known to run

An entry each, so that an allocation writes two short ones, however long the ring is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from weave_ipam.election import Claims, Proposal, Voter
from weave_ipam.errors import StoredStateError
from weave_ipam.leases import Lease, Record
from weave_ipam.removal import Ballot
from weave_ipam.ring import Entry
from weave_router.wire.peer_name import PeerName, format_peer_name, parse_peer_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_ipam.ranges import AddressRange, Network

PREFIX = "ipam/"
_NETWORK = "ipam/network"
_RING = "ipam/ring/"
_LEASE = "ipam/lease/"
_NICKNAMES = "ipam/nicknames"
_VOTE = "ipam/vote/"
_ALIVE = "ipam/alive"
_ELECTION = "ipam/election"


@dataclass(frozen=True)
class Stored:
    """Ring and records of an earlier life."""

    entries: list[Entry] = field(default_factory=list)
    seeds: tuple[PeerName, ...] = ()
    records: dict[str, Record] = field(default_factory=dict)
    nicknames: dict[PeerName, str] = field(default_factory=dict)
    votes: dict[PeerName, Ballot] = field(default_factory=dict)
    alive: tuple[str, float] | None = None
    """Which boot of the machine, and how many seconds after its beginning."""
    election: tuple[Voter, Claims] | None = None


def read_stored(values: Mapping[str, Any], network: Network, ourselves: PeerName) -> tuple[Stored | None, str]:
    """The state to go on with. None and the reason where it belongs to another range or peer name.

    `values`: the store's entries with our prefix. Raises `StoredStateError`.
    """
    if _NETWORK not in values:
        return None, ""
    try:
        about = values[_NETWORK]
        if about["range"] != str(network):
            return None, f"the range was {about['range']} and is {network} now"
        if about["peer"] != format_peer_name(ourselves):
            return None, f"the peer name was {about['peer']} and is {format_peer_name(ourselves)} now"
        entries = sorted(
            Entry(int(key.removeprefix(_RING)), parse_peer_name(value[0]), value[1], value[2])
            for key, value in values.items()
            if key.startswith(_RING)
        )
        records = {key.removeprefix(_LEASE): _read_record(v) for key, v in values.items() if key.startswith(_LEASE)}
        nicknames = {parse_peer_name(name): str(text) for name, text in values.get(_NICKNAMES, {}).items()}
        votes = {
            parse_peer_name(key.removeprefix(_VOTE)): Ballot(value[0], parse_peer_name(value[1]))
            for key, value in values.items()
            if key.startswith(_VOTE)
        }
        seeds = tuple(parse_peer_name(name) for name in about["seeds"])
        election = _read_claims(values[_ELECTION], ourselves) if _ELECTION in values else None
        boot, seconds = values.get(_ALIVE, ("", 0))
        alive = (str(boot), float(seconds)) if seconds else None
        return Stored(entries, seeds, records, nicknames, votes, alive, election), ""
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise StoredStateError(f"the stored addresses cannot be read ({error}); 'weave reset' starts anew") from error


def changes(
    network: Network,
    ourselves: PeerName,
    seeds: tuple[PeerName, ...],
    entries: Mapping[int, Entry] | None,
    records: Mapping[str, Record | None],
    universe: AddressRange,
) -> dict[str, Any]:
    """What to write; `entries`: those that changed, None for none of them."""
    written: dict[str, Any] = {}
    if entries is not None:
        written[_NETWORK] = {
            "range": str(network),
            "peer": format_peer_name(ourselves),
            "seeds": [format_peer_name(seed) for seed in seeds],
        }
        for token, entry in entries.items():
            written[f"{_RING}{token}"] = [format_peer_name(entry.peer), entry.version, entry.free]
    for identifier, record in records.items():
        written[_LEASE + identifier] = None if record is None else _record(record, universe)
    return written


def claims_changes(voter: Voter, claims: Claims | None) -> dict[str, Any]:
    """What to write about the election."""
    if claims is None:
        return {_ELECTION: None}
    value = [format_peer_name(name) for name in claims.value]
    proposals = [_proposal(proposal) for proposal in (claims.promise, claims.accepted, claims.origin)]
    return {_ELECTION: [voter.uid, *proposals[:2], value, proposals[2]]}


def _proposal(proposal: Proposal) -> list[int]:
    return [proposal.round, proposal.proposer.name, proposal.proposer.uid]


def _read_claims(value: list[Any], ourselves: PeerName) -> tuple[Voter, Claims]:
    uid, promise, accepted, names, origin = value
    promised, accepted_, first = (Proposal(p[0], Voter(PeerName(p[1]), p[2])) for p in (promise, accepted, origin))
    return Voter(ourselves, uid), Claims(promised, accepted_, tuple(parse_peer_name(name) for name in names), first)


def vote_changes(votes: Mapping[PeerName, Ballot | None]) -> dict[str, Any]:
    """What to write about removals."""
    return {
        _VOTE + format_peer_name(peer): None if vote is None else [vote.number, format_peer_name(vote.taker)]
        for peer, vote in votes.items()
    }


def nickname_changes(nicknames: Mapping[PeerName, str]) -> dict[str, Any]:
    """What to write when an owner's nickname became known."""
    return {_NICKNAMES: {format_peer_name(peer): text for peer, text in nicknames.items()}}


def alive_changes(moment: tuple[str, float]) -> dict[str, Any]:
    """What to write now and then while this peer runs."""
    return {_ALIVE: list(moment)}


def _record(record: Record, universe: AddressRange) -> dict[str, Any]:
    addresses = [f"{universe.address(lease.address)}/{lease.prefix}" for lease in record.leases]
    return {"addresses": addresses, "container": record.container}


def _read_record(value: Mapping[str, Any]) -> Record:
    interfaces = [ip_interface(text) for text in value["addresses"]]
    return Record([Lease(int(i.ip), i.network.prefixlen) for i in interfaces], bool(value["container"]))
