"""`weave report`: everything that the daemon knows, as JSON under the names of Weave Net 2.8 (cli.md section 6.7).

UIDs are 64-bit integers as in 2.8: a reader that keeps numbers as doubles (JavaScript, jq) rounds those above 2**53.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from weave_net.status_views import connection_attributes, connection_info
from weave_router.wire.peer_name import format_peer_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_dns.status import DnsStatus
    from weave_ipam.status import ElectionStatus, EntryStatus, IpamStatus
    from weave_net.status_views import Snapshot
    from weave_router.status import ConnectionStatus, MacStatus, PeerStatus, RouterStatus

_NUMBER = re.compile(r"-?[0-9]{1,18}")


def full_report(snapshot: Snapshot) -> dict[str, Any]:
    """The document of `GET /report`; the part of a service that is off is left out."""
    report: dict[str, Any] = {
        "Ready": True,
        "Version": snapshot.version,
        "Router": router_report(snapshot.router, snapshot.now),
    }
    if snapshot.ipam is not None:
        report["IPAM"] = ipam_report(snapshot.ipam)
    if snapshot.dns is not None:
        report["DNS"] = dns_report(snapshot.dns)
    return report


def dns_report(status: DnsStatus) -> dict[str, Any]:
    """The part `DNS`. `Listening`, `Troubles` and `Counters` are ours; 2.8's lists are null where they are empty."""
    return {
        "Domain": status.domain,
        "Upstream": list(status.upstream) or None,
        "Address": status.listening[0] if status.listening else "",
        "TTL": status.ttl,
        "Entries": [
            {
                "Hostname": entry.hostname,
                "Origin": format_peer_name(entry.origin),
                "ContainerID": entry.container,
                "Address": str(entry.address),
                "Version": entry.version,
                "Tombstone": entry.tombstone,
            }
            for entry in status.in_memory_order()
        ]
        or None,
        "Listening": list(status.listening),
        "Troubles": list(status.troubles),
        "Counters": dict(status.counters),
    }


def router_report(status: RouterStatus, now: datetime) -> dict[str, Any]:
    """The part `Router`; `now` has a time zone.

    `Counters` and the last keys of each connection are ours, all others are 2.8's.
    """
    return {
        "Protocol": "weave",
        "ProtocolMinVersion": status.protocol_min,
        "ProtocolMaxVersion": status.protocol_max,
        "Encryption": status.encryption,
        "PeerDiscovery": status.discovery,
        "Name": status.name,
        "NickName": status.nickname,
        "UID": status.uid,
        "Port": status.port,
        "Peers": [_peer(peer) for peer in status.peers],
        "UnicastRoutes": [{"Dest": destination, "Via": via} for destination, via in status.unicast_routes],
        "BroadcastRoutes": [{"Source": source, "Via": list(via)} for source, via in status.broadcast_routes],
        "Connections": [_connection(connection, status, now) for connection in status.connections],
        "TerminationCount": status.termination_count,
        "Targets": list(status.targets),
        "OverlayDiagnostics": {name: dict(facts) for name, facts in status.overlay_diagnostics.items()},
        "TrustedSubnets": list(status.trusted_subnets),
        "Interface": status.interface,
        "CaptureStats": {},
        "MACs": [_mac(mac, now) for mac in status.macs],
        "Counters": dict(status.counters),
    }


def ipam_report(status: IpamStatus) -> dict[str, Any]:
    """The part `IPAM`. `WaitingFor` and `Conflicts` are ours; 2.8's lists are null where they are empty, as in 2.8."""
    return {
        "Paxos": _election(status.election) if status.election is not None else None,
        "Range": status.range,
        "RangeNumIPs": status.size,
        "ActiveIPs": status.active,
        "DefaultSubnet": status.default_subnet,
        "Entries": [_entry(entry) for entry in status.entries] or None,
        "PendingClaims": [_claim(*claim) for claim in status.pending_claims] or None,
        "PendingAllocates": [f"{identifier} {subnet}" for identifier, subnet in status.pending_allocations] or None,
        "WaitingFor": list(status.waiting_for),
        "Conflicts": [{"Peer": peer, "Reason": reason} for peer, reason in status.conflicts],
    }


def view_report(view: str, snapshot: Snapshot) -> Any:
    """What a status view answers to a client that asks for JSON: the report's part of the same content.

    `view` is empty for the overview, which leaves the long lists out. None for the view of a service that is off.
    """
    return _VIEWS[view](full_report(snapshot))


def _overview(report: dict[str, Any]) -> dict[str, Any]:
    router = {key: value for key, value in report["Router"].items() if not isinstance(value, (list, dict))}
    router |= {f"{key}Count": len(report["Router"][f"{key}s"]) for key in ("Target", "Connection", "Peer")}
    parts = {**report, "Router": {**router, "TrustedSubnets": report["Router"]["TrustedSubnets"]}}
    if "IPAM" in report:
        lists = {f"{key}s": f"{key}Count" for key in ("PendingClaim", "PendingAllocate", "Conflict")}
        ipam = {key: value for key, value in report["IPAM"].items() if key not in {*lists, "Entries", "WaitingFor"}}
        parts["IPAM"] = ipam | {count: len(report["IPAM"][key] or ()) for key, count in lists.items()}
    if "DNS" in report:
        entries = report["DNS"]["Entries"] or ()
        alive = sum(1 for entry in entries if not entry["Tombstone"])
        parts["DNS"] = {key: value for key, value in report["DNS"].items() if key != "Entries"} | {"EntryCount": alive}
    return parts


_VIEWS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "": _overview,
    "targets": lambda report: report["Router"]["Targets"],
    "connections": lambda report: report["Router"]["Connections"],
    "peers": lambda report: report["Router"]["Peers"],
    "dns": lambda report: report.get("DNS"),
    "ipam": lambda report: report.get("IPAM"),
}


def _connection(connection: ConnectionStatus, status: RouterStatus, now: datetime) -> dict[str, Any]:
    live = connection.peer is not None
    attributes = {"name": connection.overlay, "encrypted": connection.encrypted, **connection_attributes(connection)}
    return {
        "Address": connection.address,
        "Outbound": connection.outbound,
        "State": connection.state,
        "Info": connection_info(connection, status.encryption, now),
        "Attrs": {key: _typed(value) for key, value in attributes.items()} if live else {},
        "Name": connection.peer,
        "NickName": connection.nickname,
        "Overlay": connection.overlay if live else None,
        "Encrypted": connection.encrypted,
        "Cipher": connection.cipher,
        "MTU": connection.mtu,
        "Reason": connection.info,
        "RetryIn": connection.retry_in,
    }


def _peer(peer: PeerStatus) -> dict[str, Any]:
    return {
        "Name": peer.name,
        "NickName": peer.nickname,
        "UID": peer.uid,
        "ShortID": peer.short_id,
        "Version": peer.version,
        "Connections": [
            {
                "Name": link.name,
                "NickName": link.nickname,
                "Address": link.address,
                "Outbound": link.outbound,
                "Established": link.established,
            }
            for link in peer.connections
        ],
    }


def _mac(mac: MacStatus, now: datetime) -> dict[str, Any]:
    seen = now.astimezone(UTC) - timedelta(seconds=mac.age)
    return {
        "Mac": mac.mac,
        "Name": mac.name,
        "NickName": mac.nickname,
        "LastSeen": seen.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def _election(election: ElectionStatus) -> dict[str, Any]:
    return {"Elector": not election.observer, "KnownNodes": election.known, "Quorum": election.quorum}


def _entry(entry: EntryStatus) -> dict[str, Any]:
    return {
        "Token": entry.token,
        "Size": entry.size,
        "Peer": entry.peer,
        "Nickname": entry.nickname,
        "IsKnownPeer": entry.known,
        "Version": entry.version,
    }


def _claim(identifier: str, address: str, prefix: int) -> dict[str, Any]:
    return {"Ident": identifier, "CIDR": {"Addr": address, "PrefixLen": prefix}}


def _typed(value: object) -> object:
    """2.8 writes numbers among the attributes as numbers; the router hands us texts."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    return value
