"""What a client of the API asks about an attachment, checked before anything is done."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from weave_ipam.ranges import SMALLEST_SUBNET
from weave_net.attachment_routes import Route, parse_gateway, parse_routes
from weave_net.errors import AttachmentError
from weave_net.settings import MAX_MTU, MIN_MTU

MAX_ADDRESSES = 64
"""Addresses of one interface; a container has one or two."""
MAX_NAMES = 64
MAX_TEXT = 255
"""Longest id, owner or network name, in characters; a container id has 64."""

BRIDGE_GATEWAY = "bridge"

SUBNET_PREFIX = "net:"
DEFAULT_SUBNET = "net:default"
"""Ask for any address of the default subnet."""

_RESERVED_IDS = {"_": "nobody", "weave:expose": "this host", "weave:extern": "no container"}
"""Under which the allocator and the name server record what belongs to no attachment."""
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_INTERFACE = re.compile(r"(?!\.\.?$)[!-.0-9;-~]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentRequest:
    """The body of `PUT /attachment/{id}/{ifname}`."""

    netns: str = ""
    """Absolute path of the network namespace; empty with `peer`."""
    descriptor: int | None = None
    """Of the namespace, in the daemon's own process, for paths that mean nothing to it."""
    peer: str = ""
    """Instead of a namespace: the name under which the container's end stays with the host, for an engine to move."""
    addresses: tuple[str, ...] = ()
    """`address/len` in the usual spelling, `net:<subnet>` or `net:default`; none gives an interface without address."""
    owner: str = "cli"
    network: str = "weave"
    mtu: int | None = None
    """Bytes; None takes the network's."""
    mac: str | None = None
    multicast_route: bool = True
    fqdn: str | None = None
    """Name that leads to the addresses."""
    names: tuple[str, ...] = ()
    """More names, fully qualified or not; what cannot be one in the network's domain is left out."""
    claim: bool = True
    """False: somebody else sees to it that nobody is given the addresses."""
    create: bool = False
    """Whether it is an error if the attachment, or an interface of that name, is there already."""
    keep: bool = False
    """Whether the attachment stays until it is deleted, although its namespace is gone."""
    hairpin: bool = True
    gateway: str | None = None
    """Where routes without a gateway lead: an address, or `bridge` for the host's own on the network."""
    routes: tuple[Route, ...] = ()

    @property
    def namespace(self) -> str | None:
        """The path by which the daemon opens the namespace; None with `peer`."""
        if self.descriptor is not None:
            return f"/proc/self/fd/{self.descriptor}"
        return self.netns or None

    @classmethod
    def from_json(cls, body: Any) -> AttachmentRequest:
        """Check a decoded JSON body. Raises `AttachmentError` that names the field."""
        if not isinstance(body, dict):
            raise AttachmentError('the body is no JSON object such as {"netns": "/run/netns/web"}')
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise AttachmentError("the body has half a character in it (a lone surrogate)") from error
        unknown = body.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise AttachmentError(f"unknown field {min(map(str, unknown))!r}")
        keep = _flag(body, "keep", default=False)
        netns, peer = _place(body, keep=keep)
        return cls(
            netns=netns,
            descriptor=_descriptor(body.get("descriptor")),
            peer=peer,
            addresses=_addresses(body.get("addresses", [])),
            owner=_text(body, "owner", "cli"),
            network=_text(body, "network", "weave"),
            mtu=_mtu(body.get("mtu")),
            mac=None if body.get("mac") is None else check_mac(_text(body, "mac", None)),
            multicast_route=_flag(body, "multicast_route", default=True),
            fqdn=_host_name(body.get("fqdn")),
            names=_names(body.get("names", [])),
            claim=_flag(body, "claim", default=True),
            create=_flag(body, "create", default=False),
            keep=keep,
            hairpin=_flag(body, "hairpin", default=True),
            gateway=_gateway(body.get("gateway")),
            routes=parse_routes(body.get("routes", [])),
        )


def check_key(attachment_id: str, interface: str) -> None:
    """Whether these may name an attachment. Raises `AttachmentError`."""
    if len(attachment_id) > MAX_TEXT or not _ID.fullmatch(attachment_id):
        raise AttachmentError(f"{attachment_id!r} is no attachment id (letters, digits and _ . : - are allowed)")
    if attachment_id in _RESERVED_IDS:
        raise AttachmentError(f"{attachment_id} means {_RESERVED_IDS[attachment_id]}; choose another attachment id")
    if not _INTERFACE.fullmatch(interface):
        raise AttachmentError(f"{interface!r} is no interface name (1 to 15 visible ASCII characters, no / and no :)")


def parse_interface_address(text: str) -> str:
    """A wish for an address in the usual spelling: `[ip:]10.2.1.5/24`, `net:10.2.2.0/24`, `net:default`.

    Raises `AttachmentError`.
    """
    plain = text.removeprefix("ip:")
    if plain.startswith(SUBNET_PREFIX):
        return _parse_subnet(plain)
    if "/" not in plain:
        raise AttachmentError(f"{text!r} is not of the form ADDRESS/LEN, for instance 10.2.1.5/24")
    try:
        address = ip_interface(plain)
    except ValueError as error:
        raise AttachmentError(f"{text!r} is no address of an interface: {error}") from error
    if address.ip.is_multicast or address.ip.is_unspecified or address.ip.is_loopback:
        raise AttachmentError(f"{text} cannot be the address of a container")
    if address.version == 4 and address.network.prefixlen < 31 and address.ip == address.network.network_address:
        raise AttachmentError(f"{text} is the address of the subnet itself; net:{text} means any address of it")
    if getattr(address, "scope_id", None):
        raise AttachmentError(f"{text}: a zone is not possible here")
    return str(address)


def _parse_subnet(text: str) -> str:
    if text == DEFAULT_SUBNET:
        return text
    try:
        subnet = ip_network(text.removeprefix(SUBNET_PREFIX))
    except ValueError as error:
        raise AttachmentError(f"{text!r} is no subnet such as net:10.2.2.0/24: {error}") from error
    if subnet.version != 4:
        raise AttachmentError(f"{text}: addresses of IPv6 are not allocated yet; give one as ADDRESS/LEN")
    if subnet.num_addresses < SMALLEST_SUBNET:
        raise AttachmentError(f"{text} is too small: the first and the last address are never given out")
    return f"{SUBNET_PREFIX}{subnet}"


def parse_detached_address(text: str) -> str:
    """An address to remove, with or without prefix length, or a subnet whose addresses to remove (`net:`).

    Raises `AttachmentError`.
    """
    plain = text.removeprefix("ip:")
    if plain.startswith(SUBNET_PREFIX):
        return _parse_subnet(plain)
    try:
        return str(ip_interface(plain) if "/" in plain else ip_address(plain))
    except ValueError as error:
        raise AttachmentError(f"{text!r} is no address: {error}") from error


def check_mac(text: str) -> str:
    """A MAC address that a device may have, in lower case. Raises `AttachmentError`."""
    mac = text.lower()
    if not _MAC.fullmatch(mac) or mac == "00:00:00:00:00:00":
        raise AttachmentError(f"{text!r} is no MAC address of the form 02:42:ac:11:00:05")
    if int(mac[:2], 16) & 1:
        raise AttachmentError(f"{text} is a multicast MAC address, which no interface can have")
    return mac


def _place(body: dict[str, Any], *, keep: bool) -> tuple[str, str]:
    if body.get("peer") is None:
        netns = _text(body, "netns", None)
        if not netns.startswith("/") or "\0" in netns:
            raise AttachmentError(f"'netns' must be an absolute path, not {netns!r}")
        return netns, ""
    peer = _text(body, "peer", None)
    if body.get("netns") is not None or body.get("descriptor") is not None:
        raise AttachmentError("'peer' is for an engine that moves the interface itself: leave 'netns' out")
    if not keep or not _INTERFACE.fullmatch(peer):
        raise AttachmentError("'peer' must be an interface name, and 'keep' true with it")
    return "", peer


def _descriptor(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise AttachmentError("'descriptor' must be the number of an open descriptor")
    return None if value is None else int(value)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise AttachmentError("'names' must be a list of host names")
    if len(value) > MAX_NAMES:
        raise AttachmentError(f"more than {MAX_NAMES} names for one interface")
    return tuple(dict.fromkeys(value))


def _gateway(value: Any) -> str | None:
    if value is None:
        return None
    if value == BRIDGE_GATEWAY:
        return BRIDGE_GATEWAY
    try:
        return str(parse_gateway(value))
    except ValueError as error:
        raise AttachmentError(f"'gateway' must be an address or {BRIDGE_GATEWAY!r}: {error}") from error


def _addresses(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise AttachmentError("'addresses' must be a list of texts such as 10.2.1.5/24")
    if len(value) > MAX_ADDRESSES:
        raise AttachmentError(f"more than {MAX_ADDRESSES} addresses for one interface")
    return tuple(dict.fromkeys(parse_interface_address(entry) for entry in value))


def _text(body: dict[str, Any], field: str, default: str | None) -> str:
    value = body.get(field, default)
    if not isinstance(value, str) or not value or len(value) > (4096 if field == "netns" else MAX_TEXT):
        raise AttachmentError(f"{field!r} must be a text that is not empty")
    return value


def _host_name(value: Any) -> str | None:
    """Whether it is one, the name server knows."""
    if value is not None and not isinstance(value, str):
        raise AttachmentError("'fqdn' must be a host name such as web.weave.local")
    return value


def _flag(body: dict[str, Any], field: str, *, default: bool) -> bool:
    value = body.get(field, default)
    if not isinstance(value, bool):
        raise AttachmentError(f"{field!r} must be true or false")
    return value


def _mtu(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_MTU <= value <= MAX_MTU:
        raise AttachmentError(f"'mtu' must be a number of bytes from {MIN_MTU} to {MAX_MTU}")
    return value
