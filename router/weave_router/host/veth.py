"""Attaching containers to the bridge and detaching them, as synchronous operations for the netlink thread.

    host namespace                         the container's namespace
    bridge `weave` ── `vethwe1a2b3c4d` ════ `ethwe` 10.2.1.5/24

Each operation looks at what is there, adds what is missing and, when it fails, removes what it added. Whether
an interface in a container is ours is decided by where its other end is, never by its name alone.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from weave_router.doors import VethInfo
from weave_router.host import fdb, problems, requests, sysctl
from weave_router.host.announce import announcement, close_packet_socket, open_packet_socket
from weave_router.host.bridge import require_bridge
from weave_router.host.namespace import NamespaceIdentity, NetworkNamespace
from weave_router.host.netlink import Link, Netlink, explained

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from weave_router.doors import ContainerRoute, VethRequest
    from weave_router.host.requests import Address

_log = logging.getLogger(__name__)

_MULTICAST = "224.0.0.0/4"
_FORWARDING_TIMEOUT_S = 1.0
_FORWARDING_POLL_S = 0.001
_SEND_BYTES, _SEND_PACKETS = 65507, 64
"""What one system call of the data plane sends (udp(7), UDP_SEGMENT)."""
_PACKET_OVERHEAD = 58
"""What a packet of the overlay has at most beside a container's IP packet: Ethernet header, names, seal."""
_TCP_HEADERS = 54
"""52 for IPv4 and TCP with time stamps; a little more, so that IPv6 with its 72 has no segment too many."""
_HEADER_ALLOWANCE = 640
"""TCP fills a superframe less its largest headers (MAX_TCP_HEADER, 320 bytes in usual kernels)."""
_LARGEST_SUPERFRAME = 65536


@dataclass(frozen=True, slots=True)
class _Inside:
    """The container's end, set up."""

    link: Link
    addresses: tuple[Address, ...]
    announcer: socket.socket
    routes: tuple[ContainerRoute, ...] = ()


def attach(netlink: Netlink, request: VethRequest, own: NamespaceIdentity) -> VethInfo:
    """`doors.Host.attach`, once.

    Raises VethElsewhereError when the host's side leads into another namespace, maybe one that is ending.
    """
    requests.check_request(request)
    if request.namespace is None:
        return _attach_loose(netlink, request)
    with NetworkNamespace(request.namespace) as namespace, ExitStack() as undo:
        if namespace.identity == own:
            raise problems.own_namespace(request.namespace)
        bridge = require_bridge(netlink, request.bridge)
        host = _host_side(netlink, request, namespace, undo)
        _make_port(netlink, host, bridge, request)
        inside = namespace.run(_set_up_inside, request, host.peer_index)
        undo.callback(close_packet_socket, inside.announcer)
        fdb.pin(host.index, request.host_interface, request.bridge, inside.link.mac)
        if bridge.up:
            _wait_until_forwarding(netlink, host)
        _announce(inside, request)
        if not namespace.still_at_path():
            raise problems.namespace_vanished(request.namespace)
        undo.pop_all()
        close_packet_socket(inside.announcer)
    return VethInfo(
        interface=request.interface,
        host_interface=request.host_interface,
        mac=inside.link.mac,
        mtu=inside.link.mtu,
        addresses=tuple(str(address) for address in inside.addresses),
        host_mac=host.mac,
        routes=inside.routes,
    )


def _attach_loose(netlink: Netlink, request: VethRequest) -> VethInfo:
    """Make a veth whose container's end an engine will move: both ends are ours until then."""
    with ExitStack() as undo:
        bridge = require_bridge(netlink, request.bridge)
        host = netlink.find(request.host_interface)
        if host is None:
            host = netlink.add_veth(
                request.host_interface, request.interface, namespace=None, mtu=request.mtu, mac=request.mac
            )
            if host is None:
                raise problems.interface_exists(request.interface, "this host")
            undo.callback(netlink.remove, host.index)
        elif request.create or netlink.find(request.interface) is None:
            raise problems.interface_exists(request.host_interface, "this host")
        _make_port(netlink, host, bridge, request)
        loose = netlink.require(request.interface)
        sysctl.tune_container_interface(request.interface, ipv6=False)
        netlink.set_superframe_limit(loose.index, superframe_limit(request.mtu))
        fdb.pin(host.index, request.host_interface, request.bridge, loose.mac)
        # In the container's name, since nobody does it when the engine has moved the interface.
        with explained(f"send through {request.bridge}"), closing(open_packet_socket(request.bridge)) as announcer:
            _announce(_Inside(loose, request.addresses, announcer), request)
        undo.pop_all()
    return VethInfo(
        interface=request.interface,
        host_interface=request.host_interface,
        mac=loose.mac,
        mtu=loose.mtu,
        addresses=tuple(str(address) for address in request.addresses),
        host_mac=host.mac,
    )


def inspect(netlink: Netlink, request: VethRequest) -> tuple[str, ...]:
    """`doors.Host.inspect`."""
    requests.check_request(request)
    bridge = require_bridge(netlink, request.bridge)
    host = netlink.find(request.host_interface)
    if host is None:
        return (f"{request.host_interface}, the host's end of {request.interface}, is gone",)
    found = []
    if host.master != bridge.index:
        found.append(f"{host.name} is no port of the bridge {bridge.name}")
    if not host.up:
        found.append(f"{host.name} is down")
    if request.namespace is None:
        return tuple(found)
    with NetworkNamespace(request.namespace) as namespace:
        if not _leads_into(netlink, host, namespace):
            return (*found, f"{host.name} does not lead into {request.namespace}")
        return (*found, *namespace.run(_inspect_inside, request, host.peer_index))


def _inspect_inside(request: VethRequest, index: int | None) -> tuple[str, ...]:
    with Netlink() as netlink:
        link = netlink.find(request.interface)
        if link is None or link.index != index:
            return (f"{request.namespace} has no interface {request.interface} that leads to the bridge",)
        found = []
        if not link.up:
            found.append(f"{link.name} is down")
        if request.mac is not None and link.mac != request.mac:
            found.append(f"{link.name} has the MAC address {link.mac}, not {request.mac}")
        present = netlink.addresses(link.index)
        found += [f"{link.name} lacks the address {text}" for text in request.addresses if text not in present]
        found += [
            f"{link.name} lacks the route to {route.destination}"
            + ("" if route.gateway is None else f" via {route.gateway}")
            for route in request.routes
            if not netlink.has_route(link.index, route)
        ]
        return tuple(found)


def detach(
    netlink: Netlink,
    namespace: str | None,
    interface: str,
    host_interface: str,
    addresses: tuple[str, ...],
    own: NamespaceIdentity,
) -> tuple[str, ...]:
    """`doors.Host.detach`."""
    requests.check_name(interface)
    requests.check_name(host_interface)
    wanted = requests.address_filter(addresses)
    host = netlink.find(host_interface)
    removed: tuple[str, ...] = ()
    done_with = True
    with ExitStack() as stack:
        opened = _open_if_there(namespace, stack)
        if opened is not None:
            if opened.identity == own:
                raise problems.own_namespace(opened.path)
            if host is not None and host.peer_index is not None and _leads_into(netlink, host, opened):
                removed, done_with = opened.run(_clear_inside, host.peer_index, wanted)
            else:
                # The container has no interface of ours; one that leads elsewhere goes with the attachment.
                done_with = not addresses
    if host is not None and done_with:
        netlink.remove(host.index)
    return removed


def list_attached(netlink: Netlink, bridge: str) -> tuple[str, ...]:
    """`doors.Host.list_attached`: ports of that bridge, and those that lost theirs."""
    requests.check_name(bridge)
    master = netlink.find(bridge)
    masters = (None, None if master is None else master.index)
    return tuple(
        link.name
        for link in netlink.links()
        if link.kind == "veth" and requests.is_host_interface(link.name) and link.master in masters
    )


def superframe_limit(mtu: int) -> int:
    """The largest superframe (bytes) whose segments of `mtu` bytes leave with one system call.

    Without it TCP makes superframes of 64 KiB, and the few segments too many cost as much as all others.
    """
    segments = max(min(_SEND_PACKETS, _SEND_BYTES // (mtu + _PACKET_OVERHEAD)), 1)
    return min(segments * (mtu - _TCP_HEADERS) + _HEADER_ALLOWANCE, _LARGEST_SUPERFRAME)


def _host_side(netlink: Netlink, request: VethRequest, namespace: NetworkNamespace, undo: ExitStack) -> Link:
    host = netlink.find(request.host_interface)
    if host is None:
        host = netlink.add_veth(
            request.host_interface,
            request.interface,
            namespace=namespace.fd,
            mtu=request.mtu,
            mac=request.mac,
        )
        if host is None:
            refusal = problems.interface_exists if request.create else problems.interface_taken
            raise refusal(request.interface, namespace.path)
        undo.callback(netlink.remove, host.index)  # takes the container's end along
    elif not _leads_into(netlink, host, namespace):
        raise problems.veth_elsewhere(request.host_interface, namespace.path)
    elif request.create:
        raise problems.interface_exists(request.interface, namespace.path)
    return host


def _leads_into(netlink: Netlink, host: Link, namespace: NetworkNamespace) -> bool:
    if host.kind != "veth" or host.peer_namespace is None:
        return False
    return netlink.namespace_number(namespace.fd) == host.peer_namespace


def _make_port(netlink: Netlink, host: Link, bridge: Link, request: VethRequest) -> None:
    sysctl.tune_port(host.name)
    if host.mtu != request.mtu:
        netlink.set_mtu(host.index, request.mtu)
    if host.master != bridge.index:
        netlink.set_master(host.index, bridge.index)
    netlink.set_port(host.index, hairpin=request.hairpin)
    netlink.set_up(host.index)


def _set_up_inside(request: VethRequest, index: int | None) -> _Inside:
    with Netlink() as netlink, ExitStack() as undo:
        link = netlink.find(request.interface)
        if link is None or link.index != index:
            raise problems.interface_renamed(request.interface, str(request.namespace))
        ipv6 = any(address.version == 6 for address in request.addresses)
        sysctl.tune_container_interface(request.interface, ipv6=ipv6)
        if link.mtu != request.mtu:
            netlink.set_mtu(link.index, request.mtu)
        netlink.set_superframe_limit(link.index, superframe_limit(request.mtu))
        for address in request.addresses:
            if netlink.add_address(link.index, address):
                undo.callback(netlink.remove_address, link.index, address)
        netlink.set_up(link.index)
        with explained(f"send through {request.interface}"):
            announcer = open_packet_socket(request.interface)
        undo.callback(announcer.close)
        if request.multicast_route:
            netlink.add_link_route(link.index, _MULTICAST)  # needs the interface up, hence last
        routes, elsewhere = [], set()
        for route in sorted(request.routes, key=lambda route: route.gateway is not None):  # to a gateway first
            # A second interface is no reason to take routes away from the first one, the default route above all.
            if route.gateway is not None and ip_network(route.gateway) in elsewhere:
                continue
            if netlink.add_route(link.index, route):
                undo.callback(netlink.remove_route, link.index, route)
            elif not netlink.has_route(link.index, route):
                elsewhere.add(route.destination)
                continue
            routes.append(route)
        link = netlink.require(request.interface)
        inside = _Inside(link, tuple(netlink.addresses(link.index)), announcer, tuple(routes))
        undo.pop_all()
    return inside


def _wait_until_forwarding(netlink: Netlink, host: Link) -> None:
    # The kernel notices the carrier a moment after both ends are up; until then the port swallows every
    # frame, and with it the announcement and the container's first packets.
    deadline = time.monotonic() + _FORWARDING_TIMEOUT_S
    while time.monotonic() < deadline:
        port = netlink.require(host.name).port
        if port is not None and port.forwarding:
            return
        time.sleep(_FORWARDING_POLL_S)
    _log.warning("%s is not forwarding yet; the container's first packets may be lost", host.name)


def _announce(inside: _Inside, request: VethRequest) -> None:
    mac = bytes.fromhex(inside.link.mac.replace(":", ""))
    for address in request.addresses:
        try:
            inside.announcer.send(announcement(mac, address))
        except OSError as error:
            # Others find the address all the same, once what they remember of it has aged.
            _log.warning("could not announce %s: %s", address, error.strerror)


def _open_if_there(namespace: str | None, stack: ExitStack) -> NetworkNamespace | None:
    if namespace is not None:
        with suppress(problems.NamespaceMissingError):
            return stack.enter_context(NetworkNamespace(namespace))
    return None


def _clear_inside(index: int, wanted: Callable[[Address], bool]) -> tuple[tuple[str, ...], bool]:
    """Remove addresses; tells which, and whether the interface may go since it has none left."""
    with Netlink() as netlink:
        present = netlink.addresses(index)
        unwanted = [address for address in present if wanted(address)]
        for address in unwanted:
            netlink.remove_address(index, address)
        return tuple(str(address) for address in unwanted), len(unwanted) == len(present)
