"""Snapshots of a router for people and programs: status views, report and metrics are made of these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

ConnectionState = Literal["established", "pending", "connecting", "retrying", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatus:
    """One control connection, or one target that has none at present.

    `established` and `pending` connections are live: `peer`, `nickname`, `overlay` and `attrs` are set.
    The other states are targets: `info` holds the last error, `retry_in` the seconds until the next attempt.
    """

    address: str
    """Remote TCP address, `ip:port`."""
    outbound: bool
    state: ConnectionState
    info: str = ""
    """Why the peer is not connected, or not yet established; empty when all is well."""
    peer: str | None = None
    """Peer name in text form."""
    nickname: str = ""
    overlay: str = "none"
    encrypted: bool = False
    """Whether data packets to this peer are sealed."""
    cipher: str = ""
    """`nacl`, `aes-256-gcm`, `chacha20-poly1305`, or empty where data is not sealed."""
    mtu: int | None = None
    """Largest overlay MTU (bytes) that this connection carries at present."""
    retry_in: float | None = None
    attrs: Mapping[str, str] = field(default_factory=dict)
    """Further attributes of the overlay in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class PeerLinkStatus:
    """A connection as a peer's topology record tells it."""

    name: str
    nickname: str
    address: str
    outbound: bool
    established: bool


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer as the topology knows it."""

    name: str
    nickname: str
    uid: int
    short_id: int | None
    version: int
    connections: tuple[PeerLinkStatus, ...]


@dataclass(frozen=True, slots=True)
class MacStatus:
    """One learned MAC address; `age` is the seconds since it was last refreshed."""

    mac: str
    name: str
    nickname: str
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterStatus:
    """Everything that the router tells about itself, taken at one moment."""

    name: str
    nickname: str
    uid: int
    port: int
    encryption: bool
    discovery: bool
    protocol_min: int = 2
    protocol_max: int = 2
    targets: tuple[str, ...] = ()
    """Direct peers as the user typed them."""
    trusted_subnets: tuple[str, ...] = ()
    connections: tuple[ConnectionStatus, ...] = ()
    peers: tuple[PeerStatus, ...] = ()
    unicast_routes: tuple[tuple[str, str], ...] = ()
    """(destination, via); the entry of this peer has via `00:00:00:00:00:00`."""
    broadcast_routes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(source, next hops)."""
    termination_count: int = 0
    interface: str = ""
    """The capture device, for instance `weave-tap (via virtio TAP)`; empty without a data plane."""
    macs: tuple[MacStatus, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    """Packets, frames, bytes and drops since start, by name (`frames_captured`, `drop_no_route`, …)."""
    overlay_diagnostics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per overlay, which kernel features are on and why others are off; of `vxlan` what is programmed."""
