"""`weave report`: everything that the daemon knows, as JSON under the names of Weave Net 2.8 (cli.md section 6.7).

UIDs are 64-bit integers as in 2.8: a reader that keeps numbers as doubles (JavaScript, jq) rounds those above 2**53.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from weave_net.status_views import connection_attributes, connection_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_router.status import ConnectionStatus, MacStatus, PeerStatus, RouterStatus

_NUMBER = re.compile(r"-?[0-9]{1,18}")


def full_report(status: RouterStatus, version: str, now: datetime) -> dict[str, Any]:
    """The document of `GET /report`; `now` has a time zone."""
    return {"Ready": True, "Version": version, "Router": router_report(status, now)}


def router_report(status: RouterStatus, now: datetime) -> dict[str, Any]:
    """The part `Router`. `Counters` and the last keys of each connection are ours, all others are 2.8's."""
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


def view_report(view: str, status: RouterStatus, version: str, now: datetime) -> Any:
    """What a status view answers to a client that asks for JSON: the report's part of the same content.

    `view` is empty for the overview, which leaves the long lists out.
    """
    return _VIEWS[view](full_report(status, version, now))


def _overview(report: dict[str, Any]) -> dict[str, Any]:
    router = {key: value for key, value in report["Router"].items() if not isinstance(value, (list, dict))}
    router |= {f"{key}Count": len(report["Router"][f"{key}s"]) for key in ("Target", "Connection", "Peer")}
    return {**report, "Router": {**router, "TrustedSubnets": report["Router"]["TrustedSubnets"]}}


_VIEWS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "": _overview,
    "targets": lambda report: report["Router"]["Targets"],
    "connections": lambda report: report["Router"]["Connections"],
    "peers": lambda report: report["Router"]["Peers"],
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


def _typed(value: object) -> object:
    """2.8 writes numbers among the attributes as numbers; the router hands us texts."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    return value
