"""A snapshot of address allocation for status views, report and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weave_ipam.requests import Allocation, Claim
from weave_ipam.settings import Mode
from weave_router.wire.peer_name import format_peer_name

if TYPE_CHECKING:
    from weave_ipam.allocator import Allocator
    from weave_ipam.peer_directory import PeerDirectory


@dataclass(frozen=True, slots=True)
class OwnerStatus:
    """What one peer owns."""

    name: str
    nickname: str
    size: int
    """Addresses."""
    known: bool
    """Whether it can be reached."""


@dataclass(frozen=True, slots=True)
class EntryStatus:
    """One entry of the ring; a wrapping one appears as two."""

    token: str
    size: int
    peer: str
    nickname: str
    known: bool
    version: int


@dataclass(frozen=True, slots=True)
class ElectionStatus:
    """The election that runs."""

    observer: bool
    known: int
    quorum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IpamStatus:
    """Everything at one moment."""

    text: str
    """As 2.8 words it (ipam.md section 16)."""
    waiting_for: tuple[str, ...]
    """What each request waits for, in words."""
    range: str
    default_subnet: str
    size: int
    active: int
    """Addresses of the range in use here."""
    owners: tuple[OwnerStatus, ...]
    """Ourselves first, if we own anything."""
    entries: tuple[EntryStatus, ...]
    election: ElectionStatus | None
    pending_claims: tuple[tuple[str, str, int], ...]
    """Identifier, address, prefix length."""
    pending_allocations: tuple[tuple[str, str], ...]
    """Identifier and subnet."""
    conflicts: tuple[tuple[str, str], ...]
    """Peers whose ring contradicts ours, and how."""


def ipam_status(allocator: Allocator, peers: PeerDirectory) -> IpamStatus:
    """The snapshot."""
    ring, universe = allocator.ring, allocator.universe
    sizes = ring.sizes()
    names = sorted(sizes, key=lambda name: (name != allocator.ourselves, name))

    owners = tuple(
        OwnerStatus(format_peer_name(name), allocator.nicknames(name), sizes[name], peers.is_known(name))
        for name in names
    )
    known = {owner.name: owner for owner in owners}
    entries = []
    for index, entry in enumerate(ring.entries):
        owner = known[format_peer_name(entry.peer)]
        for part in ring.stretches(index):
            token = str(universe.address(part.start))
            entries.append(EntryStatus(token, part.size, owner.name, owner.nickname, owner.known, entry.version))
    claims = [request for request in allocator.pending if isinstance(request, Claim)]
    allocations = [request for request in allocator.pending if isinstance(request, Allocation)]
    quorum, voters = allocator.start.quorum
    return IpamStatus(
        text=_text(allocator, owners, waits=bool(allocations)),
        waiting_for=tuple(dict.fromkeys(allocator.reason(request) for request in allocator.pending)),
        range=str(allocator.settings.network),
        default_subnet=str(allocator.settings.default_subnet),
        size=universe.size,
        active=allocator.leases.count_used(universe),
        owners=owners,
        entries=tuple(sorted(entries, key=lambda entry: tuple(map(int, entry.token.split("."))))),
        election=ElectionStatus(not allocator.start.votes, voters, quorum) if allocator.start.elects else None,
        pending_claims=tuple(
            (claim.identifier, str(universe.address(claim.lease.address)), claim.lease.prefix) for claim in claims
        ),
        pending_allocations=tuple((request.identifier, str(request.subnet)) for request in allocations),
        conflicts=tuple((allocator.nicknames.label(peer), reason) for peer, reason in allocator.conflicts.items()),
    )


def _text(allocator: Allocator, owners: tuple[OwnerStatus, ...], *, waits: bool) -> str:
    if owners:
        if not any(owner.known for owner in owners):
            return "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
        return "waiting for IP(s) to become available" if waits else "ready"
    quorum, known = allocator.start.quorum
    if quorum:
        return f"awaiting consensus (quorum: {quorum}, known: {known})"
    if allocator.conflicts:
        return "conflict with the addresses of other peers - see 'weave status ipam'"
    return "priming" if allocator.settings.beginning.mode is Mode.OBSERVER and allocator.pending else "idle"
