"""The host's own addresses on the weave bridge (`weave expose`), as synchronous operations for the netlink thread."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from weave_router.host import requests, sysctl
from weave_router.host.announce import announcement, close_packet_socket, open_packet_socket
from weave_router.host.bridge import require_bridge
from weave_router.host.veth import superframe_limit

if TYPE_CHECKING:
    from weave_router.host.netlink import Link, Netlink
    from weave_router.host.requests import Address

_log = logging.getLogger(__name__)


def addresses(netlink: Netlink, bridge: str) -> tuple[Address, ...]:
    """`doors.Host.bridge_addresses`."""
    requests.check_name(bridge)
    return tuple(netlink.addresses(require_bridge(netlink, bridge).index))


def add(netlink: Netlink, bridge: str, address: Address) -> bool:
    """`doors.Host.add_bridge_address`."""
    requests.check_name(bridge)
    link = require_bridge(netlink, bridge)
    sysctl.prepare_for_addresses(bridge, ipv6=address.version == 6)
    # As for containers: streams from the host got 1.4 times as fast by it.
    netlink.set_superframe_limit(link.index, superframe_limit(link.mtu))
    added = netlink.add_address(link.index, address)
    _announce(link, address)
    return added


def remove(netlink: Netlink, bridge: str, address: Address) -> bool:
    """`doors.Host.remove_bridge_address`."""
    requests.check_name(bridge)
    link = netlink.find(bridge)
    return link is not None and link.kind == "bridge" and netlink.remove_address(link.index, address)


def _announce(link: Link, address: Address) -> None:
    try:
        announcer = open_packet_socket(link.name)
        try:
            announcer.send(announcement(bytes.fromhex(link.mac.replace(":", "")), address))
        finally:
            close_packet_socket(announcer)
    except OSError as error:
        # Others find the address all the same, once what they remember of it has aged.
        _log.warning("could not announce %s: %s", address, error.strerror)
