"""What this component asks of the kernel over rtnetlink, with types.

pyroute2's interface is untyped and returns nested attributes; nothing of it leaves this module. An object
belongs to the thread and to the network namespace in which it was made.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_interface, ip_network
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from weave_router.errors import HostError
from weave_router.host import problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from weave_router.doors import ContainerRoute, VxlanSettings

_IFF_UP = 1
_PORT_FORWARDING = 3
_VXLAN_DF_SET = 1
_IFA_F_NODAD = 0x02
_SCOPE_LINK = 253
_DUMP_ATTEMPTS = 5

_ADVICE = {
    errno.EPERM: "run the router as root (CAP_NET_ADMIN)",
    errno.EACCES: "run the router as root (CAP_NET_ADMIN)",
    errno.EOPNOTSUPP: "the kernel lacks support for it; load the modules bridge, veth and tun",
    errno.ENOBUFS: "the kernel is short of memory",
    errno.ENOMEM: "the kernel is short of memory",
}


@dataclass(frozen=True, slots=True)
class BridgePort:
    """A device's role as a port of a bridge."""

    forwarding: bool
    hairpin: bool
    isolated: bool
    """False also where the kernel does not know isolation (before 4.18)."""


@dataclass(frozen=True, slots=True)
class VxlanDevice:
    """What a VXLAN device was created with."""

    vni: int
    port: int
    local: IPv4Address | None
    learning: bool
    fragmentable: bool
    """Whether its packets go without DF, though this kernel could set it."""
    plain: bool
    """No multicast group, no device beneath, no metadata from outside: as `add_vxlan` makes them."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network device at one moment."""

    index: int
    name: str
    kind: str
    """`bridge`, `veth`, `tun`, …; empty for hardware and loopback."""
    mac: str
    mtu: int
    up: bool
    master: int | None
    """Index of the bridge that the device is a port of."""
    port: BridgePort | None
    peer_index: int | None
    """Of a veth: index of the other end, in the other end's namespace."""
    peer_namespace: int | None
    """Of a veth: number of the other end's namespace as seen from here; None when it is the same one."""
    vxlan: VxlanDevice | None


class Netlink:
    """A rtnetlink socket; to be closed in the thread that made it."""

    def __init__(self) -> None:
        with explained("open a netlink socket"):
            self._ipr: Any = IPRoute(flags=0)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket and what pyroute2 opened with it."""
        self._ipr.close()

    def find(self, name: str) -> Link | None:
        """The device of that name, if there is one."""
        with explained(f"look for the device {name}"), _ABSENT_IS_FINE:
            return _link(self._ipr.link("get", ifname=name)[0])
        return None

    def traffic(self, name: str) -> tuple[int, int]:
        """Bytes that a device has received and sent. Raises `HostError` if there is none."""
        with explained(f"read the counters of {name}"), _ABSENT_IS_FINE:
            statistics = self._ipr.link("get", ifname=name)[0].get_attr("IFLA_STATS64")
            return int(statistics["rx_bytes"]), int(statistics["tx_bytes"])
        raise problems.no_device(name)

    def links(self) -> list[Link]:
        """All devices."""
        with explained("list the network devices"):
            return [_link(message) for message in self._dump("link")]

    def namespace_number(self, fd: int) -> int | None:
        """This namespace's number for another one, as in `Link.peer_namespace`; None while it has none."""
        with explained("identify a network namespace"):
            answer = self._ipr.get_netnsid(fd=fd)
        number = None if answer is None else answer["nsid"]
        return None if number is None or number < 0 else int(number)

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
        inside: dict[str, object] = {"ifname": peer, "mtu": mtu}
        if namespace is not None:
            inside["net_ns_fd"] = namespace
        if mac is not None:
            inside["address"] = mac
        with explained(f"create the interface {peer}"), _PRESENT_IS_FINE:
            self._ipr.link("add", ifname=name, kind="veth", mtu=mtu, peer=inside)
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
            self._ipr.link("del", index=index)
            return True
        return False

    def set_mtu(self, index: int, mtu: int) -> None:
        """Set a device's MTU."""
        with explained(f"set an MTU of {mtu}"):
            self._ipr.link("set", index=index, mtu=mtu)

    def set_superframe_limit(self, index: int, size: int) -> None:
        """Set how many bytes of a stream a device takes as one superframe (gso_max_size); old kernels ignore it."""
        with explained(f"limit superframes to {size} bytes"):
            self._ipr.link("set", index=index, gso_max_size=size)

    def set_mac(self, index: int, mac: str) -> None:
        """Set a device's MAC address."""
        with explained(f"set the MAC address {mac}"):
            self._ipr.link("set", index=index, address=mac)

    def set_master(self, index: int, bridge: int) -> None:
        """Make a device a port of a bridge."""
        with explained("add a port to the bridge"):
            self._ipr.link("set", index=index, master=bridge)

    def set_port(
        self, index: int, *, hairpin: bool | None = None, isolated: bool | None = None, learning: bool | None = None
    ) -> None:
        """Set properties of a bridge port; None leaves one alone."""
        wanted = {"mode": hairpin, "isolated": isolated, "learning": learning}
        given = {name: int(value) for name, value in wanted.items() if value is not None}
        with explained("configure a port of the bridge"):
            self._ipr.brport("set", index=index, **given)

    def set_up(self, index: int, known: Mapping[int, HostError] | None = None) -> None:
        """Bring a device up; `known` as for `explained`."""
        with explained("bring a network device up", known):
            self._ipr.link("set", index=index, state="up")

    def addresses(self, index: int) -> list[IPv4Interface | IPv6Interface]:
        """A device's addresses in the kernel's order, link-local IPv6 left out."""
        found = []
        with explained("list the addresses of an interface"):
            for message in self._dump("addr", index=index):
                # On a point-to-point address IFA_ADDRESS is the other side; IFA_LOCAL is ours where it is
                # given.
                text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
                address = ip_interface(f"{text}/{message['prefixlen']}")
                if isinstance(address, IPv4Interface) or not address.ip.is_link_local:
                    found.append(address)
        return found

    def add_address(self, index: int, address: IPv4Interface | IPv6Interface) -> bool:
        """Add an address; False if it was there."""
        options: dict[str, object] = {}
        if isinstance(address, IPv6Interface):
            # Duplicate detection would make the address unusable for a second or two. Whoever hands out the
            # addresses keeps them apart, and a frame lost on the way to a distant host would defeat it
            # anyway.
            options["flags"] = _IFA_F_NODAD
        elif address.network.prefixlen < 31:
            options["broadcast"] = str(address.network.broadcast_address)
        with explained(f"add the address {address}"), _PRESENT_IS_FINE:
            prefix = address.network.prefixlen
            self._ipr.addr("add", index=index, address=str(address.ip), prefixlen=prefix, **options)
            return True
        return False

    def remove_address(self, index: int, address: IPv4Interface | IPv6Interface) -> bool:
        """Remove an address; False if it is gone already."""
        with explained(f"remove the address {address}"), _ABSENT_IS_FINE:
            self._ipr.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
            return True
        return False

    def add_link_route(self, index: int, destination: str) -> None:
        """Route a network to the link itself; a route that another interface has already stays."""
        with explained(f"add the route {destination}"), _PRESENT_IS_FINE:
            self._ipr.route("add", dst=destination, oif=index, scope=_SCOPE_LINK)

    def add_route(self, index: int, route: ContainerRoute) -> bool:
        """Add a route through a device; False if there is one to the same destination already."""
        with explained(f"add the route {_described(route)}"), _PRESENT_IS_FINE:
            self._ipr.route("add", oif=index, **_route_options(route))
            return True
        return False

    def remove_route(self, index: int, route: ContainerRoute) -> bool:
        """Remove a route; False if it is gone already."""
        with explained(f"remove the route {_described(route)}"), _NO_ROUTE_IS_FINE:
            self._ipr.route("del", oif=index, **_route_options(route))
            return True
        return False

    def has_route(self, index: int, route: ContainerRoute) -> bool:
        """Whether a device has a route to the destination, by the same gateway."""
        wanted = route.destination
        length = wanted.prefixlen
        with explained("list the routes of an interface"):
            for message in self._dump("route", family=AF_INET if wanted.version == 4 else AF_INET6, oif=index):
                if route.table is not None and message.get_attr("RTA_TABLE") != route.table:
                    continue
                text = message.get_attr("RTA_DST") or str(wanted.network_address.__class__(0))
                if ip_network(f"{text}/{message['dst_len']}") != wanted or message["dst_len"] != length:
                    continue
                gateway = message.get_attr("RTA_GATEWAY")
                if gateway == (None if route.gateway is None else str(route.gateway)):
                    return True
        return False

    def _dump(self, method: str, **arguments: object) -> list[Any]:
        # The kernel marks a dump during which something changed; it may lack entries or have them twice.
        for _ in range(_DUMP_ATTEMPTS - 1):
            with suppress(NetlinkDumpInterrupted):
                return list(getattr(self._ipr, method)("dump", **arguments))
        return list(getattr(self._ipr, method)("dump", **arguments))


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


def _route_options(route: ContainerRoute) -> dict[str, object]:
    options: dict[str, object] = {
        "family": AF_INET if route.destination.version == 4 else AF_INET6,
        "dst": str(route.destination),
    }
    if route.gateway is not None:
        options["gateway"] = str(route.gateway)
    scope = route.scope if route.scope is not None or route.gateway is not None else _SCOPE_LINK
    given = {"scope": scope, "priority": route.priority, "table": route.table}
    options |= {name: value for name, value in given.items() if value is not None}
    metrics = {name: value for name, value in (("mtu", route.mtu), ("advmss", route.advmss)) if value is not None}
    if metrics:
        options["metrics"] = metrics
    return options


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    port = None
    if info is not None and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge":
        data = info.get_attr("IFLA_INFO_SLAVE_DATA")
        port = BridgePort(
            forwarding=data.get_attr("IFLA_BRPORT_STATE") == _PORT_FORWARDING,
            hairpin=bool(data.get_attr("IFLA_BRPORT_MODE")),
            isolated=bool(data.get_attr("IFLA_BRPORT_ISOLATED")),
        )
    kind = (info.get_attr("IFLA_INFO_KIND") or "") if info is not None else ""
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=kind,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU"),
        up=bool(message["flags"] & _IFF_UP),
        master=message.get_attr("IFLA_MASTER"),
        port=port,
        peer_index=message.get_attr("IFLA_LINK"),
        peer_namespace=message.get_attr("IFLA_LINK_NETNSID"),
        vxlan=_vxlan(info.get_attr("IFLA_INFO_DATA")) if kind == "vxlan" else None,
    )


def _vxlan(data: Any) -> VxlanDevice | None:
    if data is None:
        return None
    local = data.get_attr("IFLA_VXLAN_LOCAL")
    others = ("GROUP", "GROUP6", "LOCAL6", "LINK", "COLLECT_METADATA", "GPE", "GBP")
    df = data.get_attr("IFLA_VXLAN_DF")
    return VxlanDevice(
        vni=data.get_attr("IFLA_VXLAN_ID"),
        port=data.get_attr("IFLA_VXLAN_PORT"),
        local=None if local is None else IPv4Address(local),
        learning=bool(data.get_attr("IFLA_VXLAN_LEARNING")),
        fragmentable=df is not None and df != _VXLAN_DF_SET,
        plain=not any(data.get_attr(f"IFLA_VXLAN_{name}") for name in others),
    )
