"""One attachment, as it is stored and told: an interface of a container on the network."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from weave_net.attachment_routes import Route
from weave_net.errors import StoreError

Address = IPv4Interface | IPv6Interface

_PRIVATE = ("namespace_identity", "holder", "boot", "given", "by_descriptor")
"""Fields that nobody outside can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """An interface that this daemon made, as it is stored."""

    id: str
    interface: str
    netns: str
    """Path of the network namespace."""
    namespace_identity: str
    """Tells whether the path still leads to the same namespace."""
    addresses: tuple[str, ...]
    """`address/len` in the order in which they came."""
    mac: str
    mtu: int
    owner: str
    """Who asked for it: `cli`, `cni`, …"""
    network: str
    multicast_route: bool
    holder: str = ""
    """The identifier under which the allocator records the addresses: the id, unless that has another interface."""
    peer: str = ""
    """Where an engine moves the container's end into its namespace: the name that this end has before."""
    by_descriptor: bool = False
    """Whether the path means nothing to the daemon, which knows the namespace by a descriptor only."""
    claim: bool = True
    """False: somebody else sees to it that nobody is given the addresses."""
    keep: bool = False
    """Whether it stays until it is deleted, although its namespace is gone; not beyond the host's next start."""
    boot: str = ""
    """Identifies the host's start."""
    hairpin: bool = True
    gateway: str | None = None
    host_mac: str = ""
    """MAC address of the host side of the veth."""
    routes: tuple[Route, ...] = ()
    given: tuple[str, ...] = ()
    """For each wish of the last request its address; not stored."""

    @property
    def host_interface(self) -> str:
        """Name of the host side of the veth."""
        return host_interface_name(self.id, self.interface)

    @property
    def recorded_for(self) -> str:
        """The allocator's identifier; older records lack it."""
        return self.holder or self.id

    def to_json(self) -> dict[str, Any]:
        """What the HTTP API answers."""
        values = {name: value for name, value in asdict(self).items() if name not in _PRIVATE}
        return {
            **values,
            "addresses": list(self.addresses),
            "routes": [route.to_json() for route in self.routes],
            "host_interface": self.host_interface,
        }

    def to_record(self) -> dict[str, Any]:
        """What is stored."""
        values = asdict(self)
        del values["given"]
        return {**values, "addresses": list(self.addresses), "routes": [route.to_json() for route in self.routes]}

    @classmethod
    def from_record(cls, key: str, value: Any) -> Attachment:
        """Read what is stored. Raises `StoreError`."""
        try:
            routes = tuple(Route(**route) for route in value.get("routes", ()))
            attachment = cls(**{**value, "addresses": tuple(value["addresses"]), "routes": routes})
            for text in attachment.addresses:
                ip_interface(text)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise StoreError(f"the state file holds an attachment that cannot be read ({key}: {error})") from error
        return attachment


def host_interface_name(attachment_id: str, interface: str) -> str:
    """`vethwe` and 8 hex digits: always the same for an attachment, and short enough for the kernel (15 characters)."""
    return "vethwe" + hashlib.sha256(f"{attachment_id}/{interface}".encode()).hexdigest()[:8]
