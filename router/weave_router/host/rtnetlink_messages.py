"""The kernel's messages about devices, their addresses and routes (netlink(7), rtnetlink(7)), as bytes.

Read and written by hand what each attached container needs: pyroute2 takes 0.3 to 0.8 ms for a message. Constants have
the names of the kernel's headers: linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, net_namespace.h in `uapi/linux`.

    nlmsghdr:  u32 length, u16 type, u16 flags, u32 sequence number, u32 port
    ifinfomsg: u8 family, u8, u16 type, i32 interface index, u32 flags, u32 which of the flags to change
    ifaddrmsg: u8 family, u8 prefix length, u8 flags, u8 scope, u32 interface index
    rtmsg:     u8 family, u8 prefix length, u8 source's, u8 tos, u8 table, u8 protocol, u8 scope, u8 type, u32 flags
    rtgenmsg:  u8 family, 3 bytes
    then attributes: u16 length, u16 type, value, padded to 4 bytes; a value may consist of attributes
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.doors import ContainerRoute

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_DUMP_INTR = 0x10
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_GETNSID = 90

_NLM_F_REQUEST, _NLM_F_ACK = 0x1, 0x4
_NLM_F_DUMP = 0x300
_NLM_F_EXCL, _NLM_F_CREATE = 0x200, 0x400
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLA_TYPE_MASK = 0x3FFF
_NLMSGERR_ATTR_MSG = 1
_MAX_ERRNO = 4095

_IFF_UP = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_STATS64, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 23, 28, 29
_IFLA_LINK_NETNSID, _IFLA_GSO_MAX_SIZE = 37, 41
_RTEXT_FILTER_SKIP_STATS = 8
"""Leaves out the counters of IPv6, which take the kernel the longest; those of the device itself come (Linux 4.4)."""
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_IFLA_BRPORT_STATE, _IFLA_BRPORT_MODE, _IFLA_BRPORT_LEARNING, _IFLA_BRPORT_ISOLATED = 1, 4, 8, 33
_BR_STATE_FORWARDING = 3
_IFLA_VXLAN_ID, _IFLA_VXLAN_GROUP, _IFLA_VXLAN_LINK, _IFLA_VXLAN_LOCAL, _IFLA_VXLAN_LEARNING = 1, 2, 3, 4, 7
_IFLA_VXLAN_PORT, _IFLA_VXLAN_GROUP6, _IFLA_VXLAN_LOCAL6, _IFLA_VXLAN_GBP = 15, 16, 17, 23
_IFLA_VXLAN_COLLECT_METADATA, _IFLA_VXLAN_GPE, _IFLA_VXLAN_DF = 25, 27, 29
_VXLAN_DF_SET = 1

_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x02

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_METRICS, _RTA_TABLE = 1, 4, 5, 6, 8, 15
_RTAX_MTU, _RTAX_ADVMSS = 2, 8
_RT_TABLE_MAIN = 254
_RTPROT_STATIC = 4
_RT_SCOPE_LINK = 253
_RTN_UNICAST = 1
_IP6_RT_PRIO_USER = 1024

_NETNSA_NSID, _NETNSA_FD = 1, 3

_NLMSGHDR = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=B3xiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=8BI")
_RTGENMSG = struct.Struct("=B3x")
_ATTRIBUTE = struct.Struct("=HH")
_U32, _I32 = struct.Struct("=I"), struct.Struct("=i")
_STATS64_BYTES = struct.Struct("=16xQQ")
"""Of rtnl_link_stats64: after the packets received and sent, the bytes received and sent."""


class MessageError(OSError):
    """What came from the kernel is no rtnetlink message, or not one that was to be expected."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EBADMSG, f"the kernel's message cannot be understood: {what}")


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


class DeviceAddress(NamedTuple):
    """An address and the index of its device."""

    device: int
    address: IPv4Interface | IPv6Interface


class DeviceRoute(NamedTuple):
    """A route with a single way."""

    device: int
    """Index of the device that it leads through."""
    table: int
    destination: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None


class LinkNotice(NamedTuple):
    """A device came, went or changed."""

    device: int
    name: str
    gone: bool


class AddressNotice(NamedTuple):
    """A device got an address, lost one, or one changed."""

    device: int


# Requests


class Request(NamedTuple):
    """What the kernel is asked or told, except for its sequence number."""

    kind: int
    flags: int
    body: bytes

    def numbered(self, number: int) -> bytes:
        """The complete message."""
        return _NLMSGHDR.pack(_NLMSGHDR.size + len(self.body), self.kind, self.flags, number, 0) + self.body


def get_link(name: str) -> Request:
    """Ask for the device of that name, for `parse_link` and `parse_traffic`."""
    body = _device(0) + _text(_IFLA_IFNAME, name) + _number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Request(RTM_GETLINK, _NLM_F_REQUEST, body)


def list_links() -> Request:
    """Ask for all devices, for `parse_link`."""
    body = _device(0) + _number(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Request(RTM_GETLINK, _NLM_F_REQUEST | _NLM_F_DUMP, body)


def add_veth(name: str, peer: str, *, namespace: int | None, mtu: int, mac: str | None) -> Request:
    """Create a veth; its other end, with the MAC address, begins in the namespace behind a descriptor, or here."""
    other = _device(0) + _text(_IFLA_IFNAME, peer) + _number(_IFLA_MTU, mtu)
    if namespace is not None:
        other += _number(_IFLA_NET_NS_FD, namespace)
    if mac is not None:
        other += _attribute(_IFLA_ADDRESS, _mac_bytes(mac))
    info = _text(_IFLA_INFO_KIND, "veth") + _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, other))
    body = _device(0) + _text(_IFLA_IFNAME, name) + _number(_IFLA_MTU, mtu) + _attribute(_IFLA_LINKINFO, info)
    return _change(RTM_NEWLINK, body, create=True)


def set_up(index: int) -> Request:
    """Bring a device up."""
    return _change(RTM_NEWLINK, _IFINFOMSG.pack(AF_UNSPEC, index, _IFF_UP, _IFF_UP))


def set_mtu(index: int, mtu: int) -> Request:
    """Set a device's MTU."""
    return _change(RTM_NEWLINK, _device(index) + _number(_IFLA_MTU, mtu))


def set_superframe_limit(index: int, size: int) -> Request:
    """Set how many bytes of a stream a device takes as one superframe."""
    return _change(RTM_NEWLINK, _device(index) + _number(_IFLA_GSO_MAX_SIZE, size))


def set_mac(index: int, mac: str) -> Request:
    """Set a device's MAC address."""
    return _change(RTM_NEWLINK, _device(index) + _attribute(_IFLA_ADDRESS, _mac_bytes(mac)))


def set_master(index: int, bridge: int) -> Request:
    """Make a device a port of a bridge."""
    return _change(RTM_NEWLINK, _device(index) + _number(_IFLA_MASTER, bridge))


def set_port(index: int, *, hairpin: bool | None, isolated: bool | None, learning: bool | None) -> Request:
    """Set properties of a bridge's port; None leaves one alone."""
    wanted = ((_IFLA_BRPORT_MODE, hairpin), (_IFLA_BRPORT_ISOLATED, isolated), (_IFLA_BRPORT_LEARNING, learning))
    data = b"".join(_attribute(kind, bytes([value])) for kind, value in wanted if value is not None)
    info = _text(_IFLA_INFO_SLAVE_KIND, "bridge") + _attribute(_IFLA_INFO_SLAVE_DATA, data)
    return _change(RTM_NEWLINK, _device(index) + _attribute(_IFLA_LINKINFO, info))


def remove_link(index: int) -> Request:
    """Delete a device."""
    return _change(RTM_DELLINK, _device(index))


def get_namespace_number(fd: int) -> Request:
    """Ask what number the namespace behind a descriptor has here, for `parse_namespace_number`."""
    return Request(RTM_GETNSID, _NLM_F_REQUEST, _RTGENMSG.pack(AF_UNSPEC) + _number(_NETNSA_FD, fd))


def list_addresses(index: int) -> Request:
    """Ask for a device's addresses, for `parse_address`; kernels before 4.20 tell those of all devices."""
    return Request(RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, _IFADDRMSG.pack(AF_UNSPEC, 0, 0, 0, index))


def add_address(index: int, address: IPv4Interface | IPv6Interface) -> Request:
    """Give a device an address, usable at once."""
    if isinstance(address, IPv6Interface):
        # Duplicate detection would make the address unusable for a second or two. Whoever hands out the addresses
        # keeps them apart, and a frame lost on the way to a distant host would defeat it anyway.
        return _change(RTM_NEWADDR, _address(index, address) + _number(_IFA_FLAGS, _IFA_F_NODAD), create=True)
    body = _address(index, address)
    if address.network.prefixlen < 31:  # RFC 3021: no room for a broadcast address
        body += _attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    return _change(RTM_NEWADDR, body, create=True)


def remove_address(index: int, address: IPv4Interface | IPv6Interface) -> Request:
    """Take an address from a device."""
    return _change(RTM_DELADDR, _address(index, address))


def add_route(index: int, route: ContainerRoute) -> Request:
    """Add a route through a device."""
    return _change(RTM_NEWROUTE, _route(index, route, protocol=_RTPROT_STATIC, kind=_RTN_UNICAST), create=True)


def remove_route(index: int, route: ContainerRoute) -> Request:
    """Remove a route through a device, whoever added it."""
    return _change(RTM_DELROUTE, _route(index, route, protocol=0, kind=0))


def list_routes(index: int, version: int) -> Request:
    """Ask for a device's routes of IPv4 or IPv6, of all tables, for `parse_route`; else as `list_addresses`."""
    family = AF_INET if version == 4 else AF_INET6
    body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + _number(_RTA_OIF, index)
    return Request(RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, body)


def _change(kind: int, body: bytes, *, create: bool = False) -> Request:
    flags = _NLM_F_REQUEST | _NLM_F_ACK | (_NLM_F_CREATE | _NLM_F_EXCL if create else 0)
    return Request(kind, flags, body)


def _device(index: int) -> bytes:
    return _IFINFOMSG.pack(AF_UNSPEC, index, 0, 0)


def _address(index: int, address: IPv4Interface | IPv6Interface) -> bytes:
    family = AF_INET if address.version == 4 else AF_INET6
    body = _IFADDRMSG.pack(family, address.network.prefixlen, 0, 0, index) + _attribute(_IFA_ADDRESS, address.packed)
    return body + _attribute(_IFA_LOCAL, address.packed) if address.version == 4 else body


def _route(index: int, route: ContainerRoute, *, protocol: int, kind: int) -> bytes:
    wanted = route.destination
    family = AF_INET if wanted.version == 4 else AF_INET6
    scope = route.scope if route.scope is not None else (_RT_SCOPE_LINK if route.gateway is None else 0)
    table = route.table if route.table is not None and 0 < route.table < 255 else _RT_TABLE_MAIN  # an octet's worth
    body = _RTMSG.pack(family, wanted.prefixlen, 0, 0, table, protocol, scope, kind, 0) + _number(_RTA_OIF, index)
    if wanted.prefixlen:
        body += _attribute(_RTA_DST, wanted.network_address.packed)
    if route.gateway is not None:
        body += _attribute(_RTA_GATEWAY, route.gateway.packed)
    if route.priority is not None:
        # What the kernel takes for 0 when it adds a route of IPv6; when it removes one, 0 would mean any.
        body += _number(_RTA_PRIORITY, route.priority or (_IP6_RT_PRIO_USER if wanted.version == 6 else 0))
    if route.table is not None:
        body += _number(_RTA_TABLE, route.table)
    metrics = ((_RTAX_MTU, route.mtu), (_RTAX_ADVMSS, route.advmss))
    values = b"".join(_number(metric, value) for metric, value in metrics if value is not None)
    return body + _attribute(_RTA_METRICS, values) if values else body


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, _U32.pack(value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


# Answers and notices. All `parse_…` raise `MessageError` for what they cannot read.


class Message(NamedTuple):
    """One message of the kernel."""

    kind: int
    flags: int
    number: int
    """Sequence number of the request that it answers."""
    body: bytes


class Refusal(NamedTuple):
    """Why the kernel has not done something."""

    code: int
    """Positive error code; 0: it has done it."""
    text: str


def parse(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < _NLMSGHDR.size:
            raise MessageError("it ends in its header")
        length, kind, flags, number, _ = _NLMSGHDR.unpack_from(data, offset)
        if not _NLMSGHDR.size <= length <= len(data) - offset:
            raise MessageError("its length is wrong")
        yield Message(kind, flags, number, data[offset + _NLMSGHDR.size : offset + length])
        offset += (length + 3) & ~3


def parse_refusal(message: Message) -> Refusal:
    """What NLMSG_ERROR says, or NLMSG_DONE at the end of a list."""
    # Old kernels end a list without a code.
    code = -_number_of(message.body[: _I32.size], _I32) if message.body or message.kind == NLMSG_ERROR else 0
    if not 0 <= code <= _MAX_ERRNO:
        raise MessageError(f"it has the error code {-code}")
    text = os.strerror(code)
    if code and message.flags & _NLM_F_ACK_TLVS:
        explanation = _attributes(message.body, _explanation_offset(message)).get(_NLMSGERR_ATTR_MSG)
        if explanation:
            text = f"{text} ({_string(explanation)})"
    return Refusal(code, text)


def _explanation_offset(message: Message) -> int:
    if message.kind == NLMSG_DONE:
        return _I32.size
    if message.flags & _NLM_F_CAPPED or len(message.body) < _I32.size + _NLMSGHDR.size:
        return _I32.size + _NLMSGHDR.size
    (length,) = _U32.unpack_from(message.body, _I32.size)  # the whole request is repeated before
    return int(_I32.size + max(_NLMSGHDR.size, (length + 3) & ~3))


def parse_link(body: bytes) -> Link:
    """A device."""
    _, index, flags, _ = _fields(_IFINFOMSG, body)
    found = _attributes(body, _IFINFOMSG.size)
    info = _attributes(found.get(_IFLA_LINKINFO, b""), 0)
    kind = _string(info.get(_IFLA_INFO_KIND, b""))
    port = None
    if _string(info.get(_IFLA_INFO_SLAVE_KIND, b"")) == "bridge":
        port = _parse_port(info.get(_IFLA_INFO_SLAVE_DATA, b""))
    return Link(
        index=index,
        name=_string(_required(found, _IFLA_IFNAME)),
        kind=kind,
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number_of(_required(found, _IFLA_MTU), _U32),
        up=bool(flags & _IFF_UP),
        master=_optional_number(found, _IFLA_MASTER, _I32),
        port=port,
        peer_index=_optional_number(found, _IFLA_LINK, _I32),
        peer_namespace=_optional_number(found, _IFLA_LINK_NETNSID, _I32),
        vxlan=_parse_vxlan(info[_IFLA_INFO_DATA]) if kind == "vxlan" and _IFLA_INFO_DATA in info else None,
    )


def _parse_port(data: bytes) -> BridgePort:
    found = _attributes(data, 0)
    return BridgePort(
        forwarding=found.get(_IFLA_BRPORT_STATE) == bytes([_BR_STATE_FORWARDING]),
        hairpin=any(found.get(_IFLA_BRPORT_MODE, b"")),
        isolated=any(found.get(_IFLA_BRPORT_ISOLATED, b"")),
    )


def _parse_vxlan(data: bytes) -> VxlanDevice:
    found = _attributes(data, 0)
    local = found.get(_IFLA_VXLAN_LOCAL)
    others = (_IFLA_VXLAN_GROUP, _IFLA_VXLAN_GROUP6, _IFLA_VXLAN_LOCAL6, _IFLA_VXLAN_LINK)
    switches = (_IFLA_VXLAN_COLLECT_METADATA, _IFLA_VXLAN_GPE, _IFLA_VXLAN_GBP)
    return VxlanDevice(
        vni=_number_of(_required(found, _IFLA_VXLAN_ID), _U32),
        port=int.from_bytes(_required(found, _IFLA_VXLAN_PORT), "big"),
        local=None if local is None else IPv4Address(_sized(local, 4)),
        learning=any(found.get(_IFLA_VXLAN_LEARNING, b"")),
        fragmentable=found.get(_IFLA_VXLAN_DF, bytes([_VXLAN_DF_SET])) != bytes([_VXLAN_DF_SET]),
        # A switch is a flag, which is on where it is there and has no value, or an octet.
        plain=not any(any(found.get(kind, b"")) for kind in others)
        and not any(kind in found and (not found[kind] or any(found[kind])) for kind in switches),
    )


def parse_traffic(body: bytes) -> tuple[int, int]:
    """Bytes that a device has received and sent."""
    _fields(_IFINFOMSG, body)
    counters = _required(_attributes(body, _IFINFOMSG.size), _IFLA_STATS64)
    received, sent = _fields(_STATS64_BYTES, counters)
    return received, sent


def parse_namespace_number(body: bytes) -> int | None:
    """A namespace's number, None while it has none."""
    _fields(_RTGENMSG, body)
    number = _number_of(_required(_attributes(body, _RTGENMSG.size), _NETNSA_NSID), _I32)
    return None if number < 0 else number


def parse_address(body: bytes) -> DeviceAddress | None:
    """An address; None if it is of neither IPv4 nor IPv6."""
    family, length, _, _, index = _fields(_IFADDRMSG, body)
    if family not in (AF_INET, AF_INET6):
        return None
    found = _attributes(body, _IFADDRMSG.size)
    # On a point-to-point address IFA_ADDRESS is the other side; IFA_LOCAL is ours where it is given.
    value = found.get(_IFA_LOCAL) or _required(found, _IFA_ADDRESS)
    if family == AF_INET:
        return DeviceAddress(index, IPv4Interface((_sized(value, 4), _at_most(length, 32))))
    return DeviceAddress(index, IPv6Interface((_sized(value, 16), _at_most(length, 128))))


def parse_route(body: bytes) -> DeviceRoute | None:
    """A route; None if it is of neither IPv4 nor IPv6, leads nowhere or by several ways."""
    family, length, _, _, table, _, _, _, _ = _fields(_RTMSG, body)
    found = _attributes(body, _RTMSG.size)
    index = _optional_number(found, _RTA_OIF, _I32)
    if family not in (AF_INET, AF_INET6) or index is None:
        return None
    table = _number_of(found[_RTA_TABLE], _U32) if _RTA_TABLE in found else table
    prefix, gateway = found.get(_RTA_DST), found.get(_RTA_GATEWAY)
    if family == AF_INET:
        return DeviceRoute(
            index,
            table,
            IPv4Network((bytes(4) if prefix is None else _sized(prefix, 4), _at_most(length, 32)), strict=False),
            None if gateway is None else IPv4Address(_sized(gateway, 4)),
        )
    return DeviceRoute(
        index,
        table,
        IPv6Network((bytes(16) if prefix is None else _sized(prefix, 16), _at_most(length, 128)), strict=False),
        None if gateway is None else IPv6Address(_sized(gateway, 16)),
    )


def parse_notice(message: Message) -> LinkNotice | AddressNotice | None:
    """What a message of RTMGRP_LINK, RTMGRP_IPV4_IFADDR or RTMGRP_IPV6_IFADDR tells; None for what is about neither.

    A bridge's notices about its ports (family AF_BRIDGE) are not about devices: a port that leaves does not go.
    """
    if message.kind in (RTM_NEWADDR, RTM_DELADDR):
        return AddressNotice(_fields(_IFADDRMSG, message.body)[4])
    if message.kind not in (RTM_NEWLINK, RTM_DELLINK):
        return None
    family, index, _, _ = _fields(_IFINFOMSG, message.body)
    if family != AF_UNSPEC:
        return None
    for kind, value in _each_attribute(message.body, _IFINFOMSG.size):
        if kind == _IFLA_IFNAME:
            return LinkNotice(index, _string(value), message.kind == RTM_DELLINK)
    raise MessageError("it is about a device without a name")


def _each_attribute(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while len(data) - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= len(data) - offset:
            raise MessageError("an attribute's length is wrong")
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes, offset: int) -> dict[int, bytes]:
    return dict(_each_attribute(data, offset))


def _fields(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise MessageError("it is too short")
    return layout.unpack_from(data)


def _required(found: dict[int, bytes], kind: int) -> bytes:
    if kind not in found:
        raise MessageError(f"it lacks the attribute {kind}")
    return found[kind]


def _sized(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise MessageError(f"an attribute has {len(value)} bytes instead of {size}")
    return value


def _at_most(value: int, limit: int) -> int:
    if value > limit:
        raise MessageError(f"a prefix has {value} bits of {limit}")
    return value


def _number_of(value: bytes, layout: struct.Struct) -> int:
    number: int = layout.unpack(_sized(value, layout.size))[0]
    return number


def _optional_number(found: dict[int, bytes], kind: int, layout: struct.Struct) -> int | None:
    return _number_of(found[kind], layout) if kind in found else None


def _string(value: bytes) -> str:
    # Anything but a zero and a slash may be in a device's name; it must be fit for a log all the same.
    return value.split(b"\0", 1)[0].decode(errors="backslashreplace")
