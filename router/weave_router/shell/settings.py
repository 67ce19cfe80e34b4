"""What the operator decides about a router."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

DEFAULT_PORT = 6783
DEFAULT_MTU = 1376
"""Container MTU in bytes: equal on all hosts, fits sleeve and VXLAN on common underlays (1460 - 50 - 34)."""
DEFAULT_CONNECTION_LIMIT = 200


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    """Settings of one router process; nothing in here changes while it runs."""

    name: int
    """Peer name as the 48-bit number of its MAC-like text form."""
    nickname: str
    listen_address: str = "0.0.0.0"  # noqa: S104 - peers connect from anywhere, as in Weave Net
    port: int = DEFAULT_PORT
    password: bytes | None = None
    discovery: bool = True
    trusted_subnets: tuple[IPv4Network | IPv6Network, ...] = ()
    connection_limit: int = DEFAULT_CONNECTION_LIMIT
    """Connections at most; 0 = unlimited."""
    mtu: int = DEFAULT_MTU
    bridge: str = "weave"
    tap: str = "weave-tap"
    fast_datapath: bool = True
    """Whether the kernel may carry frames (VXLAN), on the UDP port after `port`."""
    vxlan: str = "weave-vxlan"
    """The device's name."""

    def __repr__(self) -> str:
        """Without the password, since settings reach logs."""
        return f"RouterSettings(nickname={self.nickname!r}, port={self.port})"
