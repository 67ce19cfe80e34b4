"""Takes from the daemon's report what the diagnoses need. A daemon of another release may leave parts out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weave_net.doctor.facts import AllocationFacts, ConnectionFacts, NameFacts, RouterFacts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def read_router(report: Mapping[str, Any]) -> RouterFacts:
    """The part `Router`."""
    router = report.get("Router") or {}
    diagnostics = router.get("OverlayDiagnostics") or {}
    vxlan = diagnostics.get("vxlan") or {}
    unconfirmed = frozenset(_unconfirmed(router))
    return RouterFacts(
        port=int(router.get("Port") or 0),
        encryption=bool(router.get("Encryption")),
        connections=tuple(_connection(row, unconfirmed) for row in router.get("Connections") or ()),
        targets=len(router.get("Targets") or ()),
        tap=str(router.get("Interface") or "").partition(" ")[0],
        vxlan="Device" in vxlan,
        vxlan_trouble=str(vxlan.get("Trouble") or ""),
    )


def read_allocation(report: Mapping[str, Any]) -> AllocationFacts | None:
    """The part `IPAM`; None where address allocation is off."""
    ipam = report.get("IPAM")
    if not ipam:
        return None
    election = ipam.get("Paxos") or {}
    missing: dict[str, int] = {}
    for entry in ipam.get("Entries") or ():
        if not entry.get("IsKnownPeer"):
            owner = entry.get("Nickname") or entry.get("Peer") or "?"
            missing[owner] = missing.get(owner, 0) + int(entry.get("Size") or 0)
    return AllocationFacts(
        range=str(ipam.get("Range") or ""),
        waiting_for=tuple(map(str, ipam.get("WaitingFor") or ())),
        conflicts=tuple((str(row.get("Peer")), str(row.get("Reason"))) for row in ipam.get("Conflicts") or ()),
        quorum=election.get("Quorum"),
        known=int(election.get("KnownNodes") or 0),
        unreachable=tuple(missing.items()),
        size=int(ipam.get("RangeNumIPs") or 0),
    )


def read_names(report: Mapping[str, Any]) -> NameFacts | None:
    """The part `DNS`; None where names are off."""
    dns = report.get("DNS")
    if not dns:
        return None
    return NameFacts(
        domain=str(dns.get("Domain") or ""),
        listening=tuple(map(str, dns.get("Listening") or ())),
        upstream=tuple(map(str, dns.get("Upstream") or ())),
        troubles=tuple(map(str, dns.get("Troubles") or ())),
    )


def _unconfirmed(router: Mapping[str, Any]) -> Iterator[str]:
    """Peers who tell everybody that their connection with us is not established."""
    for peer in router.get("Peers") or ():
        for link in peer.get("Connections") or ():
            if link.get("Name") == router.get("Name") and not link.get("Established"):
                yield str(peer.get("Name"))


def _connection(row: Mapping[str, Any], unconfirmed: frozenset[str]) -> ConnectionFacts:
    mtu = row.get("MTU")
    return ConnectionFacts(
        address=str(row.get("Address") or ""),
        state=str(row.get("State") or ""),
        reason=str(row.get("Reason") or ""),
        peer=str(row.get("Name") or ""),
        nickname=str(row.get("NickName") or ""),
        overlay=str(row.get("Overlay") or ""),
        encrypted=bool(row.get("Encrypted")),
        mtu=int(mtu) if mtu is not None else None,
        confirmed=row.get("Name") not in unconfirmed,
    )
