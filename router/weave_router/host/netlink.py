"""What this component asks of the kernel over rtnetlink, with types.

What each container needs goes by hand, twenty times as fast as through pyroute2 (`rtnetlink_messages`); what happens
once in a router's life goes through pyroute2, whose interface is untyped: nothing of it leaves this module. An object
belongs to the thread and to the network namespace in which it was made.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from typing import TYPE_CHECKING, Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from weave_router.doors import ContainerRoute
from weave_router.errors import HostError
from weave_router.host import problems, rtnetlink_messages
from weave_router.host.route_socket import RouteSocket
from weave_router.host.rtnetlink_messages import BridgePort, Link, VxlanDevice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from weave_router.doors import VxlanSettings

__all__ = ["BridgePort", "Link", "Netlink", "VxlanDevice", "explained", "refusal"]

_VXLAN_DF_SET = 1

_ADVICE = {
    errno.EPERM: "run the router as root (CAP_NET_ADMIN)",
    errno.EACCES: "run the router as root (CAP_NET_ADMIN)",
    errno.EOPNOTSUPP: "the kernel lacks support for it; load the modules bridge, veth and tun",
    errno.ENOBUFS: "the kernel is short of memory",
    errno.ENOMEM: "the kernel is short of memory",
}


class Netlink:
    """A rtnetlink socket; to be closed in the thread that made it."""

    def __init__(self) -> None:
        with explained("open a netlink socket"):
            self._socket = RouteSocket()
        self._opened: Any = None

    @property
    def _ipr(self) -> Any:
        """pyroute2's socket: to open it takes as long as all else that a container needs."""
        if self._opened is None:
            self._opened = IPRoute(flags=0)  # type: ignore[no-untyped-call]
        return self._opened

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket and what pyroute2 opened."""
        self._socket.close()
        if self._opened is not None:
            self._opened.close()

    def find(self, name: str) -> Link | None:
        """The device of that name, if there is one."""
        with explained(f"look for the device {name}"), _ABSENT_IS_FINE:
            return rtnetlink_messages.parse_link(self._socket.get(rtnetlink_messages.get_link(name)))
        return None

    def traffic(self, name: str) -> tuple[int, int]:
        """Bytes that a device has received and sent. Raises `HostError` if there is none."""
        with explained(f"read the counters of {name}"), _ABSENT_IS_FINE:
            return rtnetlink_messages.parse_traffic(self._socket.get(rtnetlink_messages.get_link(name)))
        raise problems.no_device(name)

    def links(self) -> list[Link]:
        """All devices."""
        with explained("list the network devices"):
            return [rtnetlink_messages.parse_link(body) for body in self._socket.dump(rtnetlink_messages.list_links())]

    def namespace_number(self, fd: int) -> int | None:
        """This namespace's number for another one, as in `Link.peer_namespace`; None while it has none."""
        with explained("identify a network namespace"):
            answer = self._socket.get(rtnetlink_messages.get_namespace_number(fd))
            return rtnetlink_messages.parse_namespace_number(answer)

    def add_bridge(self, name: str) -> Link:
        """Create a bridge, down, that floods multicast like any other frame and knows no spanning tree."""
        with explained(f"create the bridge {name}"):
            self._ipr.link("add", ifname=name, kind="bridge", **_BRIDGE_SETTINGS)
            return self.require(name)

    def set_up_bridge(self, index: int) -> None:
        """Give a bridge that was there before the settings of `add_bridge`."""
        with explained("configure the bridge"):
            self._ipr.link("set", index=index, kind="bridge", **_BRIDGE_SETTINGS)

    def add_veth(self, name: str, peer: str, *, namespace: int | None, mtu: int, mac: str | None) -> Link | None:
        """Create a veth whose other end starts its life in the namespace behind the descriptor `namespace`, or here.

        None if either name is taken.
        """
        with explained(f"create the interface {peer}"), _PRESENT_IS_FINE:
            self._socket.change(rtnetlink_messages.add_veth(name, peer, namespace=namespace, mtu=mtu, mac=mac))
            return self.require(name)
        return None

    def add_vxlan(self, settings: VxlanSettings) -> Link:
        """Create a VXLAN device, down, that learns nothing and sets DF (where the kernel can)."""
        options: dict[str, object] = {} if settings.local is None else {"vxlan_local": str(settings.local)}
        known = {
            errno.EOPNOTSUPP: problems.no_vxlan_support(),
            errno.EEXIST: problems.vxlan_in_use(settings.port, settings.vni),
            errno.EADDRINUSE: problems.vxlan_in_use(settings.port, settings.vni),
        }
        with explained(f"create the VXLAN device {settings.device}", known):
            self._ipr.link(
                "add",
                ifname=settings.device,
                kind="vxlan",
                vxlan_id=settings.vni,
                vxlan_port=settings.port,
                vxlan_learning=0,
                vxlan_df=_VXLAN_DF_SET,
                **options,
            )
            return self.require(settings.device)

    def require(self, name: str) -> Link:
        """The device of that name; it is an error if there is none."""
        link = self.find(name)
        if link is None:
            raise problems.no_device(name)
        return link

    def remove(self, index: int) -> bool:
        """Delete a device; False if it is gone already."""
        with explained("remove a network device"), _ABSENT_IS_FINE:
            self._socket.change(rtnetlink_messages.remove_link(index))
            return True
        return False

    def set_mtu(self, index: int, mtu: int) -> None:
        """Set a device's MTU."""
        with explained(f"set an MTU of {mtu}"):
            self._socket.change(rtnetlink_messages.set_mtu(index, mtu))

    def set_superframe_limit(self, index: int, size: int) -> None:
        """Set how many bytes of a stream a device takes as one superframe (gso_max_size); old kernels ignore it."""
        with explained(f"limit superframes to {size} bytes"):
            self._socket.change(rtnetlink_messages.set_superframe_limit(index, size))

    def set_mac(self, index: int, mac: str) -> None:
        """Set a device's MAC address."""
        with explained(f"set the MAC address {mac}"):
            self._socket.change(rtnetlink_messages.set_mac(index, mac))

    def set_master(self, index: int, bridge: int) -> None:
        """Make a device a port of a bridge."""
        with explained("add a port to the bridge"):
            self._socket.change(rtnetlink_messages.set_master(index, bridge))

    def set_port(
        self, index: int, *, hairpin: bool | None = None, isolated: bool | None = None, learning: bool | None = None
    ) -> None:
        """Set properties of a bridge port; None leaves one alone."""
        request = rtnetlink_messages.set_port(index, hairpin=hairpin, isolated=isolated, learning=learning)
        with explained("configure a port of the bridge"):
            self._socket.change(request)

    def set_up(self, index: int, known: Mapping[int, HostError] | None = None) -> None:
        """Bring a device up; `known` as for `explained`."""
        with explained("bring a network device up", known):
            self._socket.change(rtnetlink_messages.set_up(index))

    def addresses(self, index: int) -> list[IPv4Interface | IPv6Interface]:
        """A device's addresses in the kernel's order, link-local IPv6 left out."""
        with explained("list the addresses of an interface"), _ABSENT_IS_FINE:
            bodies = self._socket.dump(rtnetlink_messages.list_addresses(index))
            found = (rtnetlink_messages.parse_address(body) for body in bodies)
            own = [known.address for known in found if known is not None and known.device == index]
            return [address for address in own if isinstance(address, IPv4Interface) or not address.ip.is_link_local]
        return []

    def add_address(self, index: int, address: IPv4Interface | IPv6Interface) -> bool:
        """Add an address; False if it was there."""
        with explained(f"add the address {address}"), _PRESENT_IS_FINE:
            self._socket.change(rtnetlink_messages.add_address(index, address))
            return True
        return False

    def remove_address(self, index: int, address: IPv4Interface | IPv6Interface) -> bool:
        """Remove an address; False if it is gone already."""
        with explained(f"remove the address {address}"), _ABSENT_IS_FINE:
            self._socket.change(rtnetlink_messages.remove_address(index, address))
            return True
        return False

    def add_link_route(self, index: int, destination: str) -> None:
        """Route a network to the link itself; a route that another interface has already stays."""
        self.add_route(index, ContainerRoute(ip_network(destination)))

    def add_route(self, index: int, route: ContainerRoute) -> bool:
        """Add a route through a device; False if there is one to the same destination already."""
        with explained(f"add the route {_described(route)}"), _PRESENT_IS_FINE:
            self._socket.change(rtnetlink_messages.add_route(index, route))
            return True
        return False

    def remove_route(self, index: int, route: ContainerRoute) -> bool:
        """Remove a route; False if it is gone already."""
        with explained(f"remove the route {_described(route)}"), _NO_ROUTE_IS_FINE:
            self._socket.change(rtnetlink_messages.remove_route(index, route))
            return True
        return False

    def has_route(self, index: int, route: ContainerRoute) -> bool:
        """Whether a device has a route to the destination, by the same gateway."""
        wanted = (route.destination, route.gateway)
        with explained("list the routes of an interface"), _ABSENT_IS_FINE:
            bodies = self._socket.dump(rtnetlink_messages.list_routes(index, route.destination.version))
            for found in map(rtnetlink_messages.parse_route, bodies):
                if found is None or found.device != index or route.table not in (None, found.table):
                    continue
                if (found.destination, found.gateway) == wanted:
                    return True
        return False


_BRIDGE_SETTINGS = {"br_stp_state": 0, "br_forward_delay": 0, "br_mcast_snooping": 0}
"""Snooping is off because group members on other hosts send no reports that the bridge could learn from."""


@contextmanager
def explained(task: str, known: Mapping[int, HostError] | None = None) -> Iterator[None]:
    """Turn the kernel's refusals into HostError; `task` continues "cannot …".

    `known` are errors of better words for some error codes.
    """
    try:
        yield
    except NetlinkError as error:
        raise _host_error(task, error.code, str(error.args[-1]), known) from error
    except OSError as error:
        raise _host_error(task, error.errno or 0, error.strerror or str(error), known) from error


class _Tolerated:
    """Lets a request end quietly when the kernel answers with one of the given error codes."""

    def __init__(self, *codes: int) -> None:
        self._codes = codes

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, NetlinkError) and error.code in self._codes


_ABSENT_IS_FINE = _Tolerated(errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL)
_PRESENT_IS_FINE = _Tolerated(errno.EEXIST)
_NO_ROUTE_IS_FINE = _Tolerated(errno.ESRCH, errno.ENODEV, errno.ENXIO)


def refusal(task: str, code: int) -> HostError:
    """The error for an error code of the kernel; `task` continues "cannot …"."""
    return _host_error(task, code, os.strerror(code), None)


def _host_error(task: str, code: int, text: str, known: Mapping[int, HostError] | None) -> HostError:
    if known is not None and code in known:
        return known[code]
    advice = _ADVICE.get(code)
    return HostError(f"cannot {task}: {text}" + (f"; {advice}" if advice else ""))


def _described(route: ContainerRoute) -> str:
    return f"{route.destination}" + ("" if route.gateway is None else f" via {route.gateway}")
