"""The kernel's messages about forwarding databases (rtnetlink(7), family AF_BRIDGE), as bytes.

Read and written by hand, since hundreds go in one batch and pyroute2 takes 0.3 ms for each. Two databases share the
format. Entries of a bridge's table name the bridge as their master; entries of a VXLAN device's own table do not.

    nlmsghdr: u32 length, u16 type, u16 flags, u32 sequence number, u32 port
    ndmsg:    u8 family, 3 bytes, i32 interface index, u16 state, u8 flags, u8 type
    then attributes: u16 length, u16 type, value, padded to 4 bytes
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

from weave_router.host.requests import NO_MAC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.doors import VxlanEntry

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
PERMANENT = 0x80
"""NUD_PERMANENT. In a bridge's table: the addresses of the bridge itself and of its ports."""
EXT_LEARNED = 0x10
"""Flag of entries that a program learned, not the kernel (NTF_EXT_LEARNED): they do not age."""

_REQUEST, _ACK, _REPLACE, _CREATE, _APPEND = 0x1, 0x4, 0x100, 0x400, 0x800
_DUMP = 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_AF_BRIDGE = 7
_STATIC = 0x40
"""NUD_NOARP."""
_STICKY = 0x40
"""NTF_STICKY: a frame from another port does not move the entry there (since Linux 4.20)."""
_SELF, _MASTER = 0x02, 0x04
_NDA_DST, _NDA_LLADDR, _NDA_MASTER = 1, 2, 9
_IFLA_MASTER = 10

_NLMSGHDR = struct.Struct("=IHHII")
_NDMSG = struct.Struct("=B3xiHBB")
_IFINFOMSG = struct.Struct("=B3xiII")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")
_MAC_ATTRIBUTE = struct.Struct("=HH6s2x")
_WORD_ATTRIBUTE = struct.Struct("=HH4s")


class Request(NamedTuple):
    """A change of one entry, except for its sequence number."""

    kind: int
    flags: int
    body: bytes

    def numbered(self, number: int, *, answered: bool) -> bytes:
        """The complete message; the kernel answers a failure always, success only if `answered`."""
        flags = self.flags | (_ACK if answered else 0)
        return _NLMSGHDR.pack(_NLMSGHDR.size + len(self.body), self.kind, flags, number, 0) + self.body


def add_entry(device: int, entry: VxlanEntry) -> Request:
    """Give a VXLAN device (by index) an entry: one more for flooding, else in place of another for that MAC."""
    flags = _REQUEST | _CREATE | (_APPEND if entry.mac == NO_MAC else _REPLACE)
    # Permanent in any case: before Linux 5.0 VXLAN devices let learned entries age all the same.
    kind = EXT_LEARNED if entry.learned else 0
    return Request(RTM_NEWNEIGH, flags, _body(device, PERMANENT, _SELF | kind, entry.mac) + _remote(entry.remote))


def remove_entry(device: int, entry: VxlanEntry) -> Request:
    """Take exactly this entry from a VXLAN device; ENOENT if it has none such."""
    return Request(RTM_DELNEIGH, _REQUEST, _body(device, 0, _SELF, entry.mac) + _remote(entry.remote))


def learn(port: int, mac: bytes) -> Request:
    """Let the bridge find a MAC at this port of its, wherever it was before, whatever a container claims to be."""
    flags = _REQUEST | _CREATE | _REPLACE
    return Request(RTM_NEWNEIGH, flags, _body(port, _STATIC, _MASTER | _STICKY, mac))


def unlearn(port: int, mac: bytes) -> Request:
    """Let the bridge forget a MAC where it points at this port; ENOENT if it does not."""
    return Request(RTM_DELNEIGH, _REQUEST, _body(port, 0, _MASTER, mac))


def dump_request(*, port: int = 0, bridge: int = 0) -> bytes:
    """Ask for all entries of a device (in its own table and in its bridge's), or of a bridge and of all its ports.

    The interface message is the old form of the question, which kernels of any age understand alike.
    """
    body = _IFINFOMSG.pack(_AF_BRIDGE, port, 0, 0)
    if bridge:
        body += _WORD_ATTRIBUTE.pack(8, _IFLA_MASTER, _INT.pack(bridge))
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), RTM_GETNEIGH, _REQUEST | _DUMP, 1, 0) + body


class Answer(NamedTuple):
    """The kernel's answer to the request of that number, or the end of a dump."""

    number: int
    error: int
    """Positive error code; 0: done."""


class Entry(NamedTuple):
    """An entry that a message is about."""

    added: bool
    """False: it was removed."""
    device: int
    """Index of the VXLAN device, or of the bridge's port."""
    state: int
    flags: int
    mac: bytes
    remote: IPv4Address | None
    bridge: int | None
    """Index of the bridge whose table it is in; None for a device's own table."""


def parse(data: bytes) -> Iterator[Answer | Entry]:
    """The messages of one datagram of the kernel; what is of another kind or family is passed over."""
    offset = 0
    while offset + _NLMSGHDR.size <= len(data):
        length, kind, _, number, _ = _NLMSGHDR.unpack_from(data, offset)
        start, end = offset + _NLMSGHDR.size, offset + length
        if length < _NLMSGHDR.size or end > len(data):
            return
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            if end - start >= _NDMSG.size and data[start] == _AF_BRIDGE:
                yield _entry(data, kind, start, end)
        elif kind in (_NLMSG_ERROR, _NLMSG_DONE):
            yield Answer(number, -_INT.unpack_from(data, start)[0] if end - start >= _INT.size else 0)
        offset += (length + 3) & ~3


def _entry(data: bytes, kind: int, start: int, end: int) -> Entry:
    _, device, state, flags, _ = _NDMSG.unpack_from(data, start)
    mac, remote, bridge = b"", None, None
    offset = start + _NDMSG.size
    while offset + _ATTRIBUTE.size <= end:
        length, attribute = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= end - offset:
            break
        value = data[offset + _ATTRIBUTE.size : offset + length]
        if attribute == _NDA_LLADDR:
            mac = value
        elif attribute == _NDA_DST and length == _WORD_ATTRIBUTE.size:
            remote = IPv4Address(value)
        elif attribute == _NDA_MASTER and length == _WORD_ATTRIBUTE.size:
            bridge = _INT.unpack(value)[0]
        offset += (length + 3) & ~3
    return Entry(kind == RTM_NEWNEIGH, device, state, flags, mac, remote, bridge)


def _body(device: int, state: int, flags: int, mac: bytes) -> bytes:
    return _NDMSG.pack(_AF_BRIDGE, device, state, flags, 0) + _MAC_ATTRIBUTE.pack(10, _NDA_LLADDR, mac)


def _remote(remote: IPv4Address) -> bytes:
    return _WORD_ATTRIBUTE.pack(8, _NDA_DST, remote.packed)
