"""The texts of `weave status` and its views: the columns of Weave Net 2.8, which scripts read (cli.md section 6)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from weave_router.wire.peer_name import format_peer_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from weave_dns.entries import Entry
    from weave_dns.status import DnsStatus
    from weave_ipam.status import IpamStatus, OwnerStatus
    from weave_router.status import ConnectionStatus, PeerStatus, RouterStatus

CONNECTION_STATES = ("established", "pending", "retrying", "failed", "connecting")
"""In the order in which the summary counts them."""

LIVE_STATES = ("established", "pending")
"""States with a TCP connection behind them."""

_LABEL_WIDTH = 15


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A daemon at one moment: what views, report and metrics are made of."""

    router: RouterStatus
    ipam: IpamStatus | None
    """None where address allocation is off."""
    dns: DnsStatus | None
    """None where names are off."""
    now: datetime
    """When it was taken, with time zone."""
    version: str
    """The release that runs."""


def peer_text(name: str, nickname: str) -> str:
    """A peer as all views write it: `02:42:ac:11:00:05(h2)`."""
    return f"{name}({nickname})"


def overview(snapshot: Snapshot) -> str:
    """`weave status`: right-aligned labels, a blank line between the services; one that is off is left out."""
    blocks = [[("Version", snapshot.version)], _router(snapshot.router)]
    if snapshot.ipam is not None:
        blocks.append(_ipam(snapshot.ipam))
    if snapshot.dns is not None:
        blocks.append(_dns(snapshot.dns))
    return "\n".join(map(_block, blocks))


def _router(status: RouterStatus) -> list[tuple[str, str]]:
    states: Counter[str] = Counter(connection.state for connection in status.connections)
    links = Counter(
        "established" if link.established else "pending" for peer in status.peers for link in peer.connections
    )
    return [
        ("Service", "router"),
        ("Protocol", f"weave {_versions(status)}"),
        ("Name", peer_text(status.name, status.nickname)),
        ("Encryption", _on(status.encryption)),
        ("PeerDiscovery", _on(status.discovery)),
        ("Targets", str(len(status.targets))),
        ("Connections", f"{len(status.connections)}{_counts(states, CONNECTION_STATES)}"),
        ("Peers", f"{len(status.peers)}{_counts(links, LIVE_STATES, '(with {} connections)')}"),
        ("TrustedSubnets", ", ".join(status.trusted_subnets) or "none"),
    ]


def _ipam(status: IpamStatus) -> list[tuple[str, str]]:
    return [
        ("Service", "ipam"),
        ("Status", status.text),
        ("Range", status.range),
        ("DefaultSubnet", status.default_subnet),
    ]


def _dns(status: DnsStatus) -> list[tuple[str, str]]:
    return [
        ("Service", "dns"),
        ("Domain", status.domain),
        ("Upstream", ", ".join(status.upstream) or "none"),
        ("TTL", str(status.ttl)),
        ("Entries", str(status.alive)),
        ("Listening", ", ".join(status.listening) or "none"),
        *(("Trouble", trouble) for trouble in status.troubles),
    ]


def targets(status: RouterStatus) -> str:
    """`weave status targets`: one per line, as typed."""
    return _lines(status.targets)


def connections(status: RouterStatus, now: datetime) -> str:
    """`weave status connections`; `now` (with time zone) serves to tell when a failed one is tried again."""
    return _lines(_connection(connection, status.encryption, now) for connection in status.connections)


def peers(status: RouterStatus) -> str:
    """`weave status peers`: each peer, and below it the connections that it tells of."""
    return "".join(_peer(peer) for peer in status.peers)


def ipam(status: IpamStatus | None, ourselves: str) -> str:
    """`weave status ipam`: who owns how much; below a blank line, which 2.8 never has, what is wrong, if anything.

    `ourselves` is this peer's name in text form. Empty where allocation is off. Without a ring the blank line comes
    first, so that a script may take all lines up to it for those of 2.8.
    """
    if status is None:
        return ""
    troubles = [
        *(f"waiting: {reason}" for reason in status.waiting_for),
        *(f"conflict with {peer}: {reason}" for peer, reason in status.conflicts),
    ]
    owners = _lines(_owner(owner, status, ourselves) for owner in status.owners)
    return f"{owners}\n{_lines(troubles)}" if troubles else owners


def names(status: DnsStatus | None) -> str:
    """`weave status dns`: name without the domain, address, first 12 characters of the container, peer."""
    if status is None:
        return ""
    return _lines(_name(entry, status.domain) for entry in status.in_memory_order() if not entry.tombstone)


def connection_info(connection: ConnectionStatus, encryption: bool, now: datetime) -> str:
    """The info column: who is there and how, or why nobody is. Attributes are not part of it."""
    if connection.state in LIVE_STATES:
        sealed = f"{'encrypted' if connection.encrypted else 'unencrypted':<11} " if encryption else ""
        return f"{sealed}{connection.overlay:<6} {peer_text(connection.peer or '?', connection.nickname)}"
    if connection.state == "failed" and connection.retry_in is not None:
        retry = f"retry: {retry_time(connection.retry_in, now)}"
        return f"{connection.info}, {retry}" if connection.info else retry
    return connection.info


def retry_time(retry_in: float, now: datetime) -> str:
    """The time of the next attempt, in the notation of 2.8 without fractions: `2026-01-31 12:00:00 +0000 UTC`."""
    return (now.astimezone(UTC) + timedelta(seconds=retry_in)).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")


def connection_attributes(connection: ConnectionStatus) -> dict[str, str | int]:
    """The overlay's attributes in the order in which they are shown, the path MTU and an unusual cipher first."""
    attributes: dict[str, str | int] = {}
    if connection.cipher not in ("", "nacl"):  # what Weave Net uses goes without saying
        attributes["cipher"] = connection.cipher
    if connection.mtu is not None:
        attributes["mtu"] = connection.mtu
    return {**attributes, **{key: value for key, value in connection.attrs.items() if key not in ("name", "encrypted")}}


def _connection(connection: ConnectionStatus, encryption: bool, now: datetime) -> str:
    live = connection.state in LIVE_STATES
    attributes = connection_attributes(connection) if live else {}
    parts = [
        "->" if connection.outbound else "<-",
        f"{connection.address:<21}",
        f"{connection.state:<11}",
        connection_info(connection, encryption, now),
        *(f"{key}={value}" for key, value in attributes.items()),
    ]
    if live and connection.info:
        parts.append(f"({connection.info})")
    return " ".join(parts).rstrip()


def _peer(peer: PeerStatus) -> str:
    links = [
        f"   {'->' if link.outbound else '<-'} {link.address:<21} {peer_text(link.name, link.nickname):<37} "
        f"{'established' if link.established else 'pending'}"
        for link in peer.connections
    ]
    return _lines([peer_text(peer.name, peer.nickname), *links])


def _owner(owner: OwnerStatus, status: IpamStatus, ourselves: str) -> str:
    remark = "" if owner.known else "- unreachable!"
    if owner.name == ourselves:
        remark = f"({status.active} active)"
    return (  # without a remark it ends with a blank, as in 2.8
        f"{peer_text(owner.name, owner.nickname):<37} {owner.size:>8} IPs "
        f"({100 * owner.size / status.size:04.1f}% of total) {remark}"
    )


def _name(entry: Entry, domain: str) -> str:
    name = entry.hostname.removesuffix(f".{domain}")
    origin = format_peer_name(entry.origin)
    return f"{name:<12} {entry.address!s:<15} {entry.container[:12]:>12} {origin}"


def _versions(status: RouterStatus) -> str:
    low, high = status.protocol_min, status.protocol_max
    return str(low) if low == high else f"{low}..{high}"


def _counts(counter: Mapping[str, int], order: Iterable[str], frame: str = "({})") -> str:
    listed = ", ".join(f"{counter[key]} {key}" for key in order if counter.get(key))
    return f" {frame.format(listed)}" if listed else ""


def _on(flag: bool) -> str:
    return "enabled" if flag else "disabled"


def _block(rows: Iterable[tuple[str, str]]) -> str:
    return _lines(f"{label:>{_LABEL_WIDTH}}: {value}" for label, value in rows)


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{_printable(line)}\n" for line in lines)


def _printable(line: str) -> str:
    """Nicknames and errors come from peers: control characters could forge lines or command the terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


VIEWS: dict[str, Callable[[Snapshot], str]] = {
    "targets": lambda snapshot: targets(snapshot.router),
    "connections": lambda snapshot: connections(snapshot.router, snapshot.now),
    "peers": lambda snapshot: peers(snapshot.router),
    "dns": lambda snapshot: names(snapshot.dns),
    "ipam": lambda snapshot: ipam(snapshot.ipam, snapshot.router.name),
}
"""The views beside the overview, by the last part of their path."""
