"""What may be asked of a host, checked before anything is touched; the same for the real host and the recorder."""

from __future__ import annotations

import re
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import TYPE_CHECKING

from weave_router.errors import HostError
from weave_router.host import problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from weave_router.doors import VethRequest, VxlanEntry, VxlanSettings

Address = IPv4Interface | IPv6Interface

MAX_NAME_LENGTH = 15
"""Bytes of an interface name: the kernel's IFNAMSIZ less the final zero."""
MIN_MTU = 576
"""Smallest MTU that makes sense: what every IPv4 host must be able to receive (RFC 791)."""
MAX_MTU = 65535
"""Largest MTU of a bridge or veth."""
MAX_PORT = 65535
MAX_VNI = (1 << 24) - 1
"""Largest VXLAN network identifier (RFC 7348 section 5)."""
NO_MAC = bytes(6)
"""Stands for all frames that have no entry, in the forwarding database of a VXLAN device."""

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


def check_vxlan(settings: VxlanSettings) -> None:
    """Refuse a VXLAN device that no kernel makes."""
    check_name(settings.device)
    check_name(settings.bridge)
    check_mtu(settings.mtu)
    check_port(settings.port)
    if not 0 <= settings.vni <= MAX_VNI:
        raise HostError(f"{settings.vni} cannot be a VXLAN network: use 0 to {MAX_VNI}")


def check_port(port: int) -> None:
    """Refuse what is no UDP port."""
    if not 1 <= port <= MAX_PORT:
        raise HostError(f"{port} cannot be the UDP port of the fast datapath: use 1 to {MAX_PORT}")


def check_stations(macs: Iterable[bytes]) -> None:
    """Refuse what is no MAC address of a single station: of another length, of a group, or zero."""
    for mac in macs:
        if len(mac) != len(NO_MAC) or mac[0] & 1 or mac == NO_MAC:
            raise problems.not_a_station(mac)


def check_entries(entries: Iterable[VxlanEntry]) -> None:
    """Refuse forwarding entries of a VXLAN device for groups; one for the zero MAC is for flooding."""
    check_stations(entry.mac for entry in entries if entry.mac != NO_MAC)


def check_programming(
    device: str, bridge: str, entries: Iterable[VxlanEntry], macs: Iterable[bytes], tap: str | None
) -> None:
    """Refuse changes of forwarding entries that cannot be made, before anything is touched."""
    for name in (device, bridge) if tap is None else (device, bridge, tap):
        check_name(name)
    check_entries(entries)
    check_stations(macs)


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
