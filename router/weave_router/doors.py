"""The doors to the outside: what the router and its sister components ask of host and disk.

Tests replace these and nothing else. The real ones are `weave_router.host.linux.LinuxHost` and
`weave_net.sqlite_store.SqliteStore`; the fakes are in `weave_router.testing`. Real and fake pass one suite of tests.
The third door, the network, is `weave_router.shell.network`, since it deals in trio streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from ipaddress import IPv4Interface, IPv6Interface

JsonValue = Any
"""What the json module reads and writes."""


class Store(Protocol):
    """Durable state: JSON values under text keys such as `peer-name` or `attachment/web/ethwe`."""

    async def read(self, prefix: str = "") -> dict[str, JsonValue]:
        """All entries whose key begins with `prefix`."""

    async def write(self, changes: Mapping[str, JsonValue | None]) -> None:
        """Apply all changes (None removes a key) in one transaction; on return they survive a power cut."""


@dataclass(frozen=True, slots=True)
class BridgeInfo:
    """The weave bridge as it is on the host."""

    name: str
    index: int
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class VethRequest:
    """What to put into a container's network namespace."""

    namespace: str
    """Path of the network namespace, for instance `/run/netns/web` or `/proc/4711/ns/net`."""
    interface: str
    """Name inside the container, `ethwe` unless told otherwise."""
    host_interface: str
    """Name of the host side, `vethwe` and 8 hex digits."""
    bridge: str
    mtu: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    mac: str | None = None
    multicast_route: bool = True
    """Whether 224.0.0.0/4 gets a route to the interface."""
    hairpin: bool = True


@dataclass(frozen=True, slots=True)
class VethInfo:
    """The container's interface after `attach`."""

    interface: str
    host_interface: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    """All addresses that the interface has now, `address/len`, link-local IPv6 left out."""


class Host(Protocol):
    """Network devices of the host. Every method may raise `HostError` with a text for the operator."""

    async def ensure_bridge(self, name: str, mac: str, mtu: int) -> BridgeInfo:
        """Create or adopt the weave bridge, set MAC and MTU (also while it has no port of that MTU), bring it up.

        Sets `accept_ra` to 0 and the neighbour timings of Weave Net. An existing device of that name which is no
        bridge is an error that says to run `weave reset`.
        """

    async def join_bridge(self, device: str, bridge: str, *, mtu: int, isolated: bool) -> None:
        """Give an existing device (the TAP) its MTU, make it a port of the bridge and bring it up.

        `isolated` ports do not exchange frames with each other. The port's own MAC learning is left on.
        """

    async def bridge_addresses(self, bridge: str) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The host's own addresses on the bridge, in the kernel's order, link-local IPv6 left out."""

    async def add_bridge_address(self, bridge: str, address: IPv4Interface | IPv6Interface) -> bool:
        """Give the bridge an address and announce it, as `attach` does; False if the bridge had it.

        An address of IPv6 can be used at once: there is no duplicate detection. The same address with another prefix
        length is another one.
        """

    async def remove_bridge_address(self, bridge: str, address: IPv4Interface | IPv6Interface) -> bool:
        """Take an address from the bridge; False if it, or the bridge, is gone already."""

    def watch_addresses(
        self, bridge: str
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[IPv4Interface | IPv6Interface, ...]]]:
        """What `bridge_addresses` answers, now and each time that it has changed, whoever changed it.

        Empty while there is no bridge of that name. Changes in quick succession come as one, so that a slow reader
        misses steps but never the last state. The iteration does not end by itself.
        """

    async def attach(self, request: VethRequest) -> VethInfo:
        """Join a network namespace to the bridge; idempotent: what is there is kept, what is missing is added.

        Refuses the daemon's own namespace and paths that are no network namespace. Any failure removes what this
        call created. Addresses are announced by gratuitous ARP or unsolicited neighbour advertisement.
        """

    async def detach(
        self, namespace: str | None, interface: str, host_interface: str, addresses: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """Remove the addresses (all when empty) and, when none of ours is left, the interface.

        Returns the addresses removed. A namespace or interface that is gone already is no error.
        """

    async def remove_device(self, name: str) -> bool:
        """Delete a device of the host; False if there was none."""

    async def list_attached(self, bridge: str) -> tuple[str, ...]:
        """Names of our container veths (`vethwe…`) that exist on the host."""

    async def aclose(self) -> None:
        """Stop the netlink thread and close its sockets."""
