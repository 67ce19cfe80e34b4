"""What may be asked of a host, checked before anything is touched; the same for the real host and the recorder."""

from __future__ import annotations

import re
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import TYPE_CHECKING

from weave_router.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_router.doors import VethRequest

Address = IPv4Interface | IPv6Interface

MAX_NAME_LENGTH = 15
"""Bytes of an interface name: the kernel's IFNAMSIZ less the final zero."""
MIN_MTU = 576
"""Smallest MTU that makes sense: what every IPv4 host must be able to receive (RFC 791)."""
MAX_MTU = 65535
"""Largest MTU of a bridge or veth."""

_NAME = re.compile(r"[!-.0-~]+")
_HOST_INTERFACE = re.compile(r"vethwe[0-9a-f]{8}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def check_name(name: str) -> None:
    """Refuse what the kernel would not take as an interface name."""
    if not _NAME.fullmatch(name) or name in (".", "..") or len(name) > MAX_NAME_LENGTH:
        raise HostError(
            f"{name!r} cannot be the name of a network interface: use 1 to {MAX_NAME_LENGTH} visible ASCII "
            "characters and no slash"
        )


def check_mtu(mtu: int) -> None:
    """Refuse an MTU that no bridge takes."""
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise HostError(f"an MTU of {mtu} is out of range: use {MIN_MTU} to {MAX_MTU} (--mtu, WEAVE_MTU)")


def check_mac(mac: str) -> None:
    """Refuse text that is no MAC address, and addresses of groups, which no interface can have."""
    if not _MAC.fullmatch(mac.lower()):
        raise HostError(f"{mac!r} is no MAC address: write six hexadecimal octets such as 7a:00:00:00:00:01")
    if int(mac[:2], 16) & 1:
        raise HostError(f"{mac} is a multicast address and no interface can have it: make the first octet even")


def check_request(request: VethRequest) -> None:
    """Refuse an attachment that cannot work, before anything is touched."""
    for name in (request.interface, request.host_interface, request.bridge):
        check_name(name)
    check_mtu(request.mtu)
    if request.mac is not None:
        check_mac(request.mac)


def is_host_interface(name: str) -> bool:
    """Whether a name is of the kind that this program gives to the host's side of a container's veth."""
    return _HOST_INTERFACE.fullmatch(name) is not None


def address_filter(addresses: tuple[str, ...]) -> Callable[[Address], bool]:
    """A test for the given addresses, each with or without its prefix length; for all when none is given."""
    with_length, plain = set(), set()
    for text in addresses:
        try:
            if "/" in text:
                with_length.add(ip_interface(text))
            else:
                plain.add(ip_address(text))
        except ValueError as error:
            raise HostError(f"{text!r} is no address: write for instance 10.2.1.5/24") from error
    if not addresses:
        return lambda _: True
    return lambda address: address in with_length or address.ip in plain
