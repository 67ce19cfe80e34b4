"""What the operator decides about names."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import NamedTuple

from weave_dns.errors import InvalidName, SettingsError
from weave_dns.names import absolute

DEFAULT_DOMAIN = "weave.local."
DEFAULT_TTL_S = 1
DEFAULT_FALLBACK_TIMEOUT_S = 5.0
DEFAULT_RATE = 10_000
DEFAULT_RESOLV_CONF = Path("/etc/resolv.conf")
MAX_TTL_S = 86_400
MAX_DOMAIN_BYTES = 190
"""So that a label of any length goes before it."""
PORT = 53

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class ListenAddress(NamedTuple):
    """Where the server takes queries."""

    host: Address
    port: int = PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.host.version == 6 else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSettings:
    """Settings of one name server; nothing in here changes while it runs."""

    domain: str = DEFAULT_DOMAIN
    """With final dot."""
    listen: ListenAddress | None = None
    """Beside the addresses of the bridge."""
    ttl: int = DEFAULT_TTL_S
    """Of answers about containers, seconds."""
    fallback_timeout: float = DEFAULT_FALLBACK_TIMEOUT_S
    """Within which outside names are resolved, seconds."""
    resolv_conf: Path = DEFAULT_RESOLV_CONF
    clients: tuple[Network, ...] = ()
    """Networks beyond weave's own for which outside names are resolved."""
    rate: int = DEFAULT_RATE
    """Answers per second that one client gets; 0 for no limit."""


def parse_domain(text: str) -> str:
    """The domain with its final dot. Raises `SettingsError`."""
    try:
        domain = absolute(text)
    except InvalidName as error:
        raise SettingsError(f"--dns-domain: {error}") from error
    if len(domain) > MAX_DOMAIN_BYTES:
        raise SettingsError(f"--dns-domain: {len(domain)} characters leave no room for names of containers")
    return domain


def parse_listen_address(text: str) -> ListenAddress:
    """Read `ADDRESS` or `ADDRESS:PORT`, of IPv6 with port `[ADDRESS]:PORT`. Raises `SettingsError`."""
    host, port = text, str(PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SettingsError(f"--dns-listen-address {text}: an IPv6 address with a port is written [ADDRESS]:PORT")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        host = host or "0.0.0.0"  # noqa: S104 - as Weave Net reads it, and only if it is asked for
    try:
        number = int(port)
        if not port.isdecimal() or not 0 < number < 65536:
            raise ValueError(f"{port!r} is no port")
        return ListenAddress(ip_address(host), number)
    except ValueError as error:
        raise SettingsError(f"--dns-listen-address {text}: {error}; write ADDRESS or ADDRESS:PORT") from error


def parse_duration(text: str) -> float:
    """Read seconds, also in Go's notation with units: `5`, `5s`, `500ms`, `1m`. Raises `SettingsError`."""
    for unit, seconds in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit)) * seconds
            except ValueError:
                continue
            if 0.1 <= value <= 60:
                return value
    raise SettingsError(f"--dns-fallback-timeout {text}: give a time from 0.1 s to 60 s, such as 5s or 500ms")


def parse_clients(text: str) -> tuple[Network, ...]:
    """Read CIDRs separated by commas; host bits are cut off. Raises `SettingsError`."""
    try:
        return tuple(ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(f"--dns-clients: {error}") from error
