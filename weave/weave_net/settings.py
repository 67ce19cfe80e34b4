"""What the operator decides about a daemon, and the way in which it reaches the daemon process.

The command line turns flags and environment into `DaemonSettings`; the daemon reads them as JSON from its standard
input, so that no secret stands in a process list.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from weave_dns.errors import SettingsError as DnsSettingsError
from weave_dns.settings import (
    DEFAULT_DOMAIN,
    DEFAULT_FALLBACK_TIMEOUT_S,
    DEFAULT_RATE,
    DEFAULT_RESOLV_CONF,
    DEFAULT_TTL_S,
    DnsSettings,
    parse_clients,
    parse_domain,
    parse_duration,
    parse_listen_address,
)
from weave_docker.engine_errors import EngineAddressError
from weave_docker.engine_sockets import Engine, default_engines, parse_engines
from weave_ipam.errors import SettingsError as IpamSettingsError
from weave_ipam.settings import DEFAULT_RANGE, parse_settings
from weave_net.directories import Directories
from weave_net.errors import SettingsError
from weave_router.errors import TargetError
from weave_router.shell.peer_argument import parse_peer_argument
from weave_router.shell.settings import DEFAULT_CONNECTION_LIMIT, DEFAULT_MTU, DEFAULT_PORT, RouterSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weave_ipam.settings import IpamSettings

LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)

MIN_MTU = 576
"""Bytes; every IPv4 host must take datagrams of this size (RFC 791)."""
MAX_MTU = 65535


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """A TCP address of the HTTP API."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class DaemonSettings:
    """Settings of one daemon process; nothing in here changes while it runs."""

    directories: Directories = field(default_factory=Directories)
    name: int | None = None
    """Peer name given by the operator; None leaves the choice to `identity`."""
    nickname: str = ""
    listen_address: str = RouterSettings.listen_address
    port: int = DEFAULT_PORT
    mtu: int = DEFAULT_MTU
    bridge: str = RouterSettings.bridge
    tap: str = RouterSettings.tap
    fast_datapath: bool = True
    """Whether the kernel may carry containers' packets."""
    vxlan: str = RouterSettings.vxlan
    password: str | None = field(default=None, repr=False)
    discovery: bool = True
    trusted_subnets: tuple[IPv4Network | IPv6Network, ...] = ()
    connection_limit: int = DEFAULT_CONNECTION_LIMIT
    peers: tuple[str, ...] = ()
    """Peers named on the command line, as typed."""
    resume: bool = False
    ipalloc_range: str = DEFAULT_RANGE
    """Empty turns address allocation off."""
    ipalloc_range_given: bool = False
    """Whether the operator chose it; else it must not overlap a route of the host."""
    ipalloc_default_subnet: str = ""
    """Empty means the range."""
    ipalloc_init: str = ""
    """How a ring begins; empty means consensus."""
    dns: bool = True
    """Whether there is a name server."""
    dns_domain: str = DEFAULT_DOMAIN
    dns_listen_address: str = ""
    """Beside the bridge's addresses."""
    dns_ttl: int = DEFAULT_TTL_S
    dns_fallback_timeout: str = f"{DEFAULT_FALLBACK_TIMEOUT_S:g}s"
    resolv_conf: str = str(DEFAULT_RESOLV_CONF)
    dns_clients: str = ""
    """Networks beside weave's for which outside names are resolved."""
    dns_rate_limit: int = DEFAULT_RATE
    engines: tuple[Engine, ...] = ()
    """Container engines whose events are followed where they are there."""
    plugin_socket: Path | None = None
    """Where Docker finds its network driver; None: nowhere."""
    http_address: HttpAddress | None = None
    """TCP address of the API; None turns it off."""
    http_writable: bool = False
    log_level: LogLevel = "info"
    log_file: Path | None = None
    """Where standard error goes, so that it can be opened anew after a rotation; None when it is no file of ours."""

    def ipam_settings(self) -> IpamSettings | None:
        """The part that address allocation gets; None where it is off. Raises `SettingsError`."""
        try:
            return parse_settings(self.ipalloc_range, self.ipalloc_default_subnet or None, self.ipalloc_init or None)
        except IpamSettingsError as error:
            raise SettingsError(str(error)) from error

    def dns_settings(self) -> DnsSettings | None:
        """The part that the name server gets; None where it is off. Raises `SettingsError`."""
        if not self.dns:
            return None
        try:
            return DnsSettings(
                domain=parse_domain(self.dns_domain),
                listen=parse_listen_address(self.dns_listen_address) if self.dns_listen_address else None,
                ttl=self.dns_ttl,
                fallback_timeout=parse_duration(self.dns_fallback_timeout),
                resolv_conf=Path(self.resolv_conf),
                clients=parse_clients(self.dns_clients),
                rate=self.dns_rate_limit,
            )
        except DnsSettingsError as error:
            raise SettingsError(str(error)) from error

    def router_settings(self, name: int) -> RouterSettings:
        """The part that the router gets, under the peer name that was chosen."""
        return RouterSettings(
            name=name,
            nickname=self.nickname,
            listen_address=self.listen_address,
            port=self.port,
            password=self.password.encode() if self.password else None,
            discovery=self.discovery,
            trusted_subnets=self.trusted_subnets,
            connection_limit=self.connection_limit,
            mtu=self.mtu,
            bridge=self.bridge,
            tap=self.tap,
            fast_datapath=self.fast_datapath,
            vxlan=self.vxlan,
        )

    def to_json(self) -> str:
        """All settings, the password included: for the daemon's standard input and nothing else."""
        values: dict[str, Any] = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        values["directories"] = [str(self.directories.state), str(self.directories.run)]
        values["trusted_subnets"] = [str(subnet) for subnet in self.trusted_subnets]
        values["engines"] = [str(engine.socket) for engine in self.engines]
        values["http_address"] = None if self.http_address is None else dataclasses.astuple(self.http_address)
        for name in ("log_file", "plugin_socket"):
            values[name] = None if values[name] is None else str(values[name])
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> DaemonSettings:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        state, run = values["directories"]
        values["directories"] = Directories(Path(state), Path(run))
        values["trusted_subnets"] = tuple(ip_network(subnet) for subnet in values["trusted_subnets"])
        values["peers"] = tuple(values["peers"])
        values["engines"] = tuple(Engine(Path(path)) for path in values["engines"])
        if values["http_address"] is not None:
            values["http_address"] = HttpAddress(*values["http_address"])
        for name in ("log_file", "plugin_socket"):
            values[name] = None if values[name] is None else Path(values[name])
        return cls(**values)


def parse_http_address(text: str, default_port: int) -> HttpAddress | None:
    """Read `host`, `host:port`, `:port` or `[IPv6]:port`; an empty text turns the address off (None).

    Raises `SettingsError`.
    """
    if not text:
        return None
    if text.startswith("/"):
        raise SettingsError(
            f"--http-addr {text}: no path is possible here; the Unix socket is always weave.sock in the run directory"
        )
    host, port = _split_port(text)
    return HttpAddress(host or "127.0.0.1", default_port if port is None else port)


def check_peers(peers: Sequence[str]) -> tuple[str, ...]:
    """Peer arguments as typed, without repetitions, after a look at their form; the router resolves names.

    Raises `SettingsError`.
    """
    try:
        for peer in peers:
            parse_peer_argument(peer)
    except TargetError as error:
        raise SettingsError(str(error)) from error
    return tuple(dict.fromkeys(peers))


def choose_engines(flag: str | None, environment: str | None) -> tuple[Engine, ...]:
    """The container engines of this host: those of `--docker-api` ('' for none), else the usual ones.

    `environment`: DOCKER_HOST, where Docker is if not at its usual place. Raises `SettingsError`.
    """
    try:
        return default_engines(environment) if flag is None else parse_engines(flag)
    except EngineAddressError as error:
        raise SettingsError(f"{'DOCKER_HOST' if flag is None else '--docker-api'}: {error}") from error


def _split_port(text: str) -> tuple[str, int | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SettingsError(f"--http-addr {text}: an IPv6 address with a port is written [ADDRESS]:PORT")
        port_text = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    else:  # no port, or a bare IPv6 address
        host, port_text = text, None
    if port_text is None:
        return host, None
    if not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise SettingsError(f"--http-addr {text}: {port_text!r} is no port, which is a number from 1 to 65535")
    return host, int(port_text)


def parse_subnets(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read `--trusted-subnets`: CIDRs separated by commas; host bits are cut off. Raises `SettingsError`."""
    subnets = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            subnets.append(ip_network(part, strict=False))
        except ValueError as error:
            raise SettingsError(f"--trusted-subnets: {error}") from error
    return tuple(subnets)


def check_bridge_name(name: str) -> str:
    """A name that the kernel takes for a device. Raises `SettingsError`."""
    if not 0 < len(name.encode()) <= 15 or name in {".", ".."} or any(c.isspace() or c in "/:" for c in name):
        raise SettingsError(
            f"--weave-bridge {name!r} is no name for a network device (15 characters at most, no space, slash or colon)"
        )
    return name


def choose_password(flag: str | None, file: Path | None, environment: str | None) -> str | None:
    """The network's password: `--password` or `--password-file`, else WEAVE_PASSWORD; an empty text means none.

    Raises `SettingsError` for both flags at once and for a file that cannot be read or is empty.
    """
    if flag is not None and file is not None:
        raise SettingsError("--password and --password-file contradict each other; give one of them")
    if file is None:
        return (environment if flag is None else flag) or None
    try:
        # Editors end a file with a line feed; no other character is taken away, since all may be part of a password.
        password = file.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"the password file {file} cannot be read: {reason}") from error
    if not password:
        raise SettingsError(f"the password file {file} is empty; remove --password-file to run without a password")
    return password
