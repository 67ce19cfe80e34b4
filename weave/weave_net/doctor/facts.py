"""What the diagnoses judge: everything that is known about host and daemon at one moment.

A part that could not be found out is `Unknown`, with the reason; diagnoses are never handed one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ipaddress import IPv4Address, IPv4Network
    from pathlib import Path

    from weave_net.doctor.packet_filter import Ruleset


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part that could not be gathered."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a daemon works with here, or would."""

    port: int
    mtu: int
    range: IPv4Network | None
    """Of address allocation; None where that is off."""
    http_port: int
    """TCP port of the HTTP API on 127.0.0.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFacts:
    """A connection to a peer, or a target without one, as the report tells it."""

    address: str
    """`ip:port`."""
    state: str
    reason: str = ""
    peer: str = ""
    nickname: str = ""
    overlay: str = ""
    encrypted: bool = False
    mtu: int | None = None
    """Largest packet of containers, in bytes, that this connection carries whole."""
    confirmed: bool = True
    """Whether the peer, too, says that it is established."""

    @property
    def label(self) -> str:
        """For people: the nickname, else the address."""
        return self.nickname or self.peer or self.address

    @property
    def host(self) -> str:
        """The remote address without port."""
        return self.address.rpartition(":")[0].strip("[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterFacts:
    """The router of a daemon that runs."""

    port: int
    encryption: bool
    connections: tuple[ConnectionFacts, ...] = ()
    targets: int = 0
    """How many hosts it was told to connect to."""
    tap: str = ""
    vxlan: bool = False
    """Whether the kernel may carry packets here."""
    vxlan_trouble: str = ""
    """Why it may not, although it was wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationFacts:
    """Address allocation of a daemon that runs."""

    range: str
    waiting_for: tuple[str, ...] = ()
    conflicts: tuple[tuple[str, str], ...] = ()
    """Peer, and what contradicts."""
    quorum: int | None = None
    """Votes that an election needs which runs at present."""
    known: int = 0
    """Peers that take part in it."""
    unreachable: tuple[tuple[str, int], ...] = ()
    """Owners that are out of reach, and how many addresses they own."""
    size: int = 0
    """Addresses of the range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameFacts:
    """The name server of a daemon that runs."""

    domain: str
    listening: tuple[str, ...] = ()
    upstream: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFacts:
    """The daemon; `router` and what follows are None where it does not run or not answer."""

    version: str = ""
    """Of the daemon."""
    own_version: str = ""
    """Of this command."""
    pid: int | None = None
    """None: no daemon runs; 0: one runs, and its number is not known."""
    trouble: str = ""
    """Why it does not answer."""
    same_network: bool = True
    """Whether it lives in the network namespace that this command looks at."""
    router: RouterFacts | None = None
    allocation: AllocationFacts | None = None
    names: NameFacts | None = None
    bridge: str = ""
    """Name of the bridge, where the daemon tells it."""
    exposed: tuple[str, ...] = ()
    """Addresses of the bridge."""
    gateways: int = 0
    """Attachments that leave the network by way of this host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFacts:
    """What this kernel lets us make; a text says why not, an empty one that it works."""

    release: str
    devices: Mapping[str, str]
    """By kind: `bridge`, `veth`, `TAP`, `VXLAN`."""
    isolated_ports: str = ""
    features: Mapping[str, str] = field(default_factory=dict)
    """`tap_segmentation`, `udp_gro`, `udp_segment` as the daemon reports them."""
    nft: str = ""
    """Rules of the fast datapath."""
    nft_nat: str = ""
    """Rules that masquerade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceFacts:
    """A network interface."""

    name: str
    kind: str
    """`bridge`, `veth`, …; empty for hardware."""
    mtu: int
    up: bool
    master: str = ""
    driver: str = ""
    offloads: Mapping[str, bool] = field(default_factory=dict)
    """Of hardware and the like that carries packets to peers: feature names of ethtool."""
    vxlan_port: int | None = None
    addresses: tuple[str, ...] = ()
    """`address/len`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathFacts:
    """The way to a peer, as this host's kernel knows it."""

    interface: str
    """Empty where it could not be told."""
    mtu: int
    """Bytes of an IP packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """Devices, routes and settings of this network namespace."""

    bridge: str
    interfaces: Mapping[str, InterfaceFacts] = field(default_factory=dict)
    routes: tuple[IPv4Network, ...] = ()
    """Where routes lead, the default route and those of the bridge left out."""
    paths: Mapping[str, PathFacts] = field(default_factory=dict)
    """By the address of a peer; None of an empty text: where the default route leads."""
    forwarding: bool = False
    """net.ipv4.ip_forward."""
    bridge_calls_iptables: bool = False
    """net.bridge.bridge-nf-call-iptables."""
    strict_source_check: tuple[str, ...] = ()
    """Interfaces where rp_filter is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallFacts:
    """The packet filter."""

    ruleset: Ruleset
    peers: tuple[IPv4Address, ...] = ()
    """Whose packets must come in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketFacts:
    """A local socket that may be in the way."""

    protocol: str
    """`TCP` (listening) or `UDP`."""
    address: str
    port: int
    owner: str = ""
    """Program and pid; empty where unknown."""
    kernel: bool = False
    """Whether the kernel itself has it, as for a VXLAN device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFacts:
    """One of the daemon's directories."""

    path: Path
    exists: bool = True
    kind_ok: bool = True
    """Whether it is a directory."""
    writable: bool = True
    others_write: bool = False
    others_read: bool = False
    free_bytes: int = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """The daemon's files."""

    state: DirectoryFacts
    run: DirectoryFacts
    database_trouble: str = ""
    """Looked for only while no daemon runs."""
    socket_open_to_others: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CniFacts:
    """Files of the CNI plugins."""

    plugin_dir: Path
    configuration_dir: Path
    plugins: Mapping[str, str | None] = field(default_factory=dict)
    """By name of the program: empty if it runs, why not, None if it is not there."""
    configurations: tuple[str, ...] = ()
    """File names in the order in which runtimes look at them."""
    ours: tuple[str, ...] = ()
    """Those that use our plugins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerFacts:
    """Docker's plugin sockets of ours, by path: whether somebody answers there."""

    sockets: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFacts:
    """This host's clock."""

    now: float
    """Seconds since 1970."""
    synchronised: bool | None
    """None where the kernel does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageFacts:
    """Python packages that the program needs, by name: why one cannot be used; empty if all is well."""

    troubles: Mapping[str, str] = field(default_factory=dict)
    checked: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All parts."""

    wanted: Wanted
    daemon: DaemonFacts | Unknown
    kernel: KernelFacts | Unknown
    network: NetworkFacts | Unknown
    firewall: FirewallFacts | Unknown
    sockets: tuple[SocketFacts, ...] | Unknown
    files: FileFacts | Unknown
    cni: CniFacts | Unknown
    docker: DockerFacts | Unknown
    clock: ClockFacts | Unknown
    packages: PackageFacts | Unknown
