"""Peers as an operator types them: `host`, `host:port`, an address or a name."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address

from weave_router.errors import TargetError

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?\Z")


def parse_peer_argument(text: str) -> tuple[str, int | None]:
    """Host and port (None if not named) of a peer argument. Raises `TargetError`."""
    host, colon, port = text.strip().partition(":")
    if ":" in port:
        raise TargetError(f"peer {text!r}: IPv6 underlays are not supported; give an IPv4 address or a name")
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise TargetError(f"peer {text!r}: {port!r} is no port number")
    if not is_address(host) and (not _NAME.match(host) or len(host) > 253 or host.replace(".", "").isdigit()):
        raise TargetError(f"peer {text!r}: {host!r} is neither an IPv4 address nor a host name")
    return host, int(port) if colon else None


def is_address(host: str) -> bool:
    """Whether this is an IPv4 address rather than a name."""
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True
