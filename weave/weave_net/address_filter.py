"""Which of the addresses that are there a request to remove some means."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING

from weave_net.attachment_request import DEFAULT_SUBNET, SUBNET_PREFIX
from weave_net.errors import AttachmentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from weave_ipam.ranges import Network

Interface = IPv4Interface | IPv6Interface


def address_filter(wanted: Iterable[str], default_subnet: Network | None) -> Callable[[Interface], bool]:
    """A test for addresses: those named with or without prefix length, and those of subnets (`net:`).

    Raises `AttachmentError` for `net:default` where there is no default subnet.
    """
    with_length, plain, subnets = set(), set(), []
    for text in wanted:
        if text == DEFAULT_SUBNET:
            if default_subnet is None:
                raise AttachmentError("address allocation is off, so there is no default subnet: name the addresses")
            subnets.append(default_subnet)
        elif text.startswith(SUBNET_PREFIX):
            subnets.append(ip_network(text.removeprefix(SUBNET_PREFIX)))
        elif "/" in text:
            with_length.add(ip_interface(text))
        else:
            plain.add(ip_address(text))
    return lambda address: (
        address in with_length or address.ip in plain or any(address.ip in subnet for subnet in subnets)
    )
