"""Pools: the subnet of a Docker network, and the part of it that addresses are taken from.

A pool's id tells all about it, so that ids which the engine kept are understood after the state was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING

from weave_docker.plugin.errors import BadRequest, Refused

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

    Address = IPv4Address | IPv6Address
    Interface = IPv4Interface | IPv6Interface

Network = IPv4Network | IPv6Network

_PREFIX = "weave-"
_HOST_BITS = 64
_RESERVED_BITS = 2
"""A subnet has at least four addresses, of which the first and the last are never given out."""


@dataclass(frozen=True, slots=True)
class Pool:
    """`subnet`: --subnet; `part`: --ip-range, or the same."""

    subnet: Network
    part: Network

    @property
    def id(self) -> str:
        """As the engine keeps it: `weave-10.40.0.0-16`, with a part `weave-10.40.0.0-16-10.40.1.0-24`."""
        texts = [_dashed(self.subnet)] + ([_dashed(self.part)] if self.part != self.subnet else [])
        return _PREFIX + "-".join(texts)

    @property
    def no_gateway(self) -> Interface:
        """What the engine is told instead of a gateway: the network's own address, which costs none."""
        return self.interface(self.subnet.network_address)

    def interface(self, address: Address) -> Interface:
        """An address with the pool's prefix length."""
        return ip_interface((address, self.subnet.prefixlen))

    def read_address(self, text: str) -> Address:
        """An address that a container may have here. Raises `BadRequest`, `Refused`."""
        address = read_address(text)
        if address not in self.subnet:
            raise Refused(f"{address} is not in the subnet {self.subnet}")
        last = self.subnet.broadcast_address if self.subnet.version == 4 else None
        if address in (self.subnet.network_address, last):
            raise Refused(f"{address} belongs to the subnet {self.subnet} itself; choose another address")
        return address

    def address_of_mac(self, mac: str) -> Address:
        """The IPv6 address that follows from a MAC address (RFC 4291, appendix A): no two hosts need to agree on it.

        Raises `BadRequest`, and `Refused` where the part has no room for 64 bits.
        """
        try:
            octets = bytearray(bytes.fromhex(mac.replace(":", "")))
        except ValueError as error:
            raise BadRequest(f"{mac!r} is no MAC address") from error
        if len(octets) != 6:
            raise BadRequest(f"{mac!r} is no MAC address")
        if self.part.prefixlen > 128 - _HOST_BITS:
            raise Refused(
                f"IPv6 addresses are made of the MAC address and need a subnet of /{128 - _HOST_BITS} or larger, not "
                f"{self.part}; give another --subnet, or each container its address with --ip6"
            )
        octets[0] ^= 2
        identifier = int.from_bytes(octets[:3] + b"\xff\xfe" + octets[3:], "big")
        return IPv6Address(int(self.part.network_address) | identifier)


def pool_of(subnet: Network) -> Pool:
    """The pool that takes addresses from all of a subnet."""
    return Pool(subnet, subnet)


def read_pool(subnet_text: str, part_text: str, *, v6: bool) -> Pool:
    """The pool of --subnet and --ip-range, which may be empty. Raises `BadRequest`, `Refused`."""
    subnet = _read_network(subnet_text)
    part = _read_network(part_text) if part_text else subnet
    if subnet.version != part.version or (subnet.version == 6) != v6:
        raise BadRequest(f"the family of {subnet} and {part} is not the one that was asked for")
    if not (int(subnet.network_address) <= int(part.network_address)
            and int(part.broadcast_address) <= int(subnet.broadcast_address)):  # fmt: skip
        raise Refused(f"--ip-range {part} is not inside of --subnet {subnet}")
    for network in (subnet, part):
        if network.max_prefixlen - network.prefixlen < _RESERVED_BITS:
            raise Refused(f"{network} is too small: its first and its last address are never given out")
    return Pool(subnet, part)


def pool_of_id(pool_id: str) -> Pool:
    """The pool that has this id. Raises `BadRequest`."""
    texts = pool_id.removeprefix(_PREFIX).split("-")
    try:
        if not pool_id.startswith(_PREFIX) or len(texts) not in (2, 4):
            raise ValueError("not of our form")
        networks = [ip_network(f"{address}/{length}") for address, length in zip(texts[::2], texts[1::2], strict=True)]
        return read_pool(str(networks[0]), str(networks[-1]), v6=networks[0].version == 6)
    except (ValueError, Refused) as error:
        raise BadRequest(f"{pool_id!r} is no pool of this driver") from error


def read_address(text: str) -> Address:
    """An address with or without prefix length. Raises `BadRequest`."""
    try:
        return ip_address(text.partition("/")[0])
    except ValueError as error:
        raise BadRequest(f"{text!r} is no address") from error


def _read_network(text: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError as error:
        raise BadRequest(f"{text!r} is no subnet") from error


def _dashed(network: Network) -> str:
    return str(network).replace("/", "-")
