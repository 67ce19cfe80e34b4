"""Looks at devices, routes and settings of this network namespace."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from weave_net.doctor import ethtool
from weave_net.doctor.facts import InterfaceFacts, NetworkFacts, PathFacts
from weave_net.host_facts import read_routes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SYSCTL = Path("/proc/sys/net")
_IP_MTU = 14  # linux/in.h
_STRICT = 1
_SOMEWHERE = "203.0.113.1"
"""An address of no host (RFC 5737), for the default route; nothing is sent."""


def probe_network(bridge: str, tap: str, peers: Iterable[str]) -> NetworkFacts:
    """`bridge`: its name; the bridge that `tap` is a port of, if it is one, is believed before that."""
    from weave_router.host.netlink import Netlink

    with Netlink() as netlink:
        links = netlink.links()
        names = {link.index: link.name for link in links}
        interfaces = {
            link.name: InterfaceFacts(
                name=link.name,
                kind=link.kind,
                mtu=link.mtu,
                up=link.up,
                master=names.get(link.master, "") if link.master is not None else "",
                driver=ethtool.driver(link.name),
                vxlan_port=link.vxlan.port if link.vxlan is not None else None,
                offloads={} if link.kind else ethtool.features(link.name),
                addresses=tuple(map(str, netlink.addresses(link.index)))
                if link.kind != "veth" or link.master is None
                else (),
            )
            for link in links
        }
    if tap in interfaces and interfaces[tap].master:
        bridge = interfaces[tap].master
    owners = {address.partition("/")[0]: each.name for each in interfaces.values() for address in each.addresses}
    paths = {peer: path for peer in dict.fromkeys(peers) if (path := _path(peer, owners)) is not None}
    default = _path(_SOMEWHERE, owners)
    if default is not None:
        paths[""] = default
    return NetworkFacts(
        bridge=bridge,
        interfaces=interfaces,
        routes=read_routes(bridge),
        paths=paths,
        forwarding=_sysctl("ipv4", "ip_forward") == 1,
        bridge_calls_iptables=_sysctl("bridge", "bridge-nf-call-iptables") == 1,
        strict_source_check=tuple(_strict(interfaces)),
    )


def _path(peer: str, owners: Mapping[str, str]) -> PathFacts | None:
    """Where packets to a peer leave, and their largest size as the kernel knows it; nothing is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        probe.connect((peer, 9))
        return PathFacts(
            interface=owners.get(probe.getsockname()[0], ""), mtu=probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        )
    return None


def _strict(interfaces: Mapping[str, InterfaceFacts]) -> Iterable[str]:
    everywhere = _sysctl("ipv4", "conf", "all", "rp_filter") or 0
    for interface in interfaces.values():
        if not interface.up or interface.master or interface.name == "lo":
            continue
        # The larger of the two counts (Documentation/networking/ip-sysctl.rst).
        if max(everywhere, _sysctl("ipv4", "conf", interface.name, "rp_filter") or 0) == _STRICT:
            yield interface.name


def _sysctl(*key: str) -> int | None:
    try:
        return int(_SYSCTL.joinpath(*key).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
