"""The doors to the outside: what the router and its sister components ask of host and disk.

Tests replace these and nothing else. The real ones are `weave_router.host.linux.LinuxHost` and
`weave_net.sqlite_store.SqliteStore`; the fakes are in `weave_router.testing`. Real and fake pass one suite of tests.
The third door, the network, is `weave_router.shell.network`, since it deals in trio streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

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
class ContainerRoute:
    """A route inside a container, through its interface; None leaves a value to the kernel."""

    destination: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None = None
    """None: the destination is on the link."""
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None
    """As in rtnetlink(7): 0 universe, 253 link."""


@dataclass(frozen=True, slots=True)
class VethRequest:
    """What to put into a container's network namespace."""

    namespace: str | None
    """Path of the network namespace, for instance `/run/netns/web` or `/proc/4711/ns/net`.

    None: the container's end stays with the host, for an engine to move; addresses are announced, not set.
    """
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
    routes: tuple[ContainerRoute, ...] = ()
    create: bool = False
    """Whether the interface must not be there already."""


@dataclass(frozen=True, slots=True)
class VethInfo:
    """The container's interface after `attach`."""

    interface: str
    host_interface: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    """All addresses that the interface has now, `address/len`, link-local IPv6 left out."""
    host_mac: str = ""
    """Of the host's side."""
    routes: tuple[ContainerRoute, ...] = ()
    """Those asked for, less what the container reaches through another interface already."""


@dataclass(frozen=True, slots=True)
class ExposedSubnet:
    """A subnet in which the host has an address of its own."""

    network: IPv4Network | IPv6Network
    masquerade: bool
    """Whether addresses are translated between the subnet and the outside, to those of this host."""


@dataclass(frozen=True, slots=True)
class VxlanSettings:
    """What the VXLAN device is to be."""

    device: str
    """Name, `weave-vxlan` unless told otherwise."""
    bridge: str
    port: int
    """UDP port, ours and the peers'."""
    vni: int
    """VXLAN network identifier, 24 bits (RFC 7348 section 5)."""
    mtu: int
    """Of the network, that is of inner packets; outer ones are 50 bytes longer."""
    local: IPv4Address | None = None
    """Source address of outer packets; None lets the kernel choose by the route."""


@dataclass(frozen=True, slots=True)
class VxlanEntry:
    """One entry of the VXLAN device's own forwarding database: frames to `mac` go to the host `remote`."""

    mac: bytes
    """6 bytes. All zero: one destination of frames that have no entry, broadcasts above all."""
    remote: IPv4Address
    learned: bool = False
    """True: a container's address that its peer told (NTF_EXT_LEARNED); False: made for the peer itself (permanent).
    Neither ages."""


class HeartbeatSocket(Protocol):
    """Sends frames into the VXLAN device, past the bridge, and receives those that peers sent in this way."""

    def send(self, frame: bytes) -> bool:
        """Send a complete Ethernet frame; False if the kernel refuses it.

        It refuses more than the device's MTU and 14 bytes, and anything while its buffers are full, or the device is
        down or gone. True tells nothing about the way: a packet too large for the underlay vanishes.
        """

    async def wait(self) -> None:
        """Wait until something has come; trio.ClosedResourceError if the socket is closed meanwhile."""

    def receive(self) -> list[bytes]:
        """What has come since, at most 64 complete Ethernet frames, only those addressed to the bridge's own MAC.

        They may come from a container of this host just as well: the kernel does not tell through which port.
        """

    def close(self) -> None:
        """Close it; again is fine."""


class LocalAddresses(Protocol):
    """Changes of the set of MAC addresses behind local ports, an asynchronous iterator of (added, removed)."""

    def __aiter__(self) -> LocalAddresses: ...

    async def __anext__(self) -> tuple[frozenset[bytes], frozenset[bytes]]: ...

    @property
    def beyond_limit(self) -> int:
        """Appearances of addresses that were left out because there were 4096 already."""


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

        Refuses the daemon's own namespace and paths that are no network namespace, and with `create` an interface that
        is there. Any failure removes what this call created. The bridge knows the interface's MAC from then on, at its
        port alone. Addresses are announced by gratuitous ARP or unsolicited neighbour advertisement.
        """

    async def inspect(self, request: VethRequest) -> tuple[str, ...]:
        """In words, what of an attachment is not as `attach` left it; what others added is nothing to tell.

        Looks at both ends of the veth, the bridge's port, and inside at MAC, addresses and routes. Changes nothing.
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

    async def open_vxlan(self, settings: VxlanSettings) -> tuple[VxlanEntry, ...]:
        """Create the VXLAN device, or adopt what an earlier daemon left; returns the entries that it has.

        A VXLAN device of that name with other settings is replaced; a device of another kind is an error that says to
        run `weave reset`. The device learns nothing, its packets have DF set (where the kernel can, Linux 5.0), and
        it is an isolated port of the bridge that neither learns nor sends back; it is up on return. Learned addresses
        that only the bridge's table has (the earlier daemon died half way) are removed from there. Errors: the bridge
        is missing, the kernel lacks VXLAN, the UDP port or the VNI is in use.
        """

    async def program_vxlan(
        self,
        device: str,
        bridge: str,
        remove: Sequence[VxlanEntry],
        add: Sequence[VxlanEntry],
        unlearn: Sequence[bytes],
        learn: Sequence[bytes],
        *,
        tap: str | None = None,
    ) -> None:
        """Change forwarding entries, in the order of the arguments: device first, then the bridge's table.

        `add`: a zero MAC gets one more destination, any other MAC has only this one from now on. `remove` touches
        exactly that pair of MAC and remote. `unlearn` removes these MACs from the bridge's table where they point at
        the VXLAN port, and where they point at the port `tap`, if that is given; elsewhere they stay. `learn` makes
        them point at the VXLAN port wherever they pointed before; such an entry does not age, nor does a frame
        from another port with that source move it there (before Linux 4.20 it does). What is there or gone already
        is no error; a real one is raised in the end, when everything else is done. The bridge's own MAC is never
        learned. One netlink message is sent per entry (two per `unlearn` with `tap`).
        """

    async def forget_behind(self, bridge: str, port_device: str, macs: Sequence[bytes]) -> None:
        """Remove MACs from the bridge's table where they point at that port (the TAP): the next frames are flooded.

        A port that is gone is no error.
        """

    def watch_local_addresses(
        self, bridge: str, leave_out: frozenset[str]
    ) -> AbstractAsyncContextManager[LocalAddresses]:
        """MAC addresses that live at ports of the bridge other than these devices (TAP and VXLAN).

        Learned and static ones, not the ports' and the bridge's own. The first item is (all, none), then (added,
        removed) after each change; changes within 20 ms come together, so that a slow reader misses steps but
        never the last state. At most 4096, the first that came; places that become free are given to others
        within some seconds. The iteration does not end by itself; HostError if there is no such bridge at first.
        """

    async def allow_vxlan(self, port: int, heartbeats: frozenset[IPv4Address], data: frozenset[IPv4Address]) -> None:
        """Take VXLAN packets at the UDP port from `data` only; heartbeats (EtherType 0x88b5) from both.

        All others are dropped and counted. The first call makes the rules in the table `inet weave` anew, in one
        transaction; later ones change the elements of its sets. If somebody removed them (`nft flush ruleset`), the
        next call makes them again, also one that changes nothing, and so does `set_exposed`.
        Rules of others are not touched, nor overruled. HostError if nft is missing or the kernel lacks nf_tables.
        """

    async def device_bytes(self, device: str) -> tuple[int, int]:
        """Bytes that a device has received and sent; HostError if there is none."""

    async def vxlan_allowed(self) -> frozenset[IPv4Address]:
        """The addresses whose data an earlier daemon let in and the kernel still does; empty if there is no table."""

    async def close_vxlan(self, device: str) -> None:
        """Remove the VXLAN device (none, or one of another kind, is left alone), then what `allow_vxlan` made."""

    async def set_exposed(self, bridge: str, exposed: Sequence[ExposedSubnet]) -> None:
        """Let containers and the outside reach each other through this host, for these subnets and no others.

        Where a subnet wants it, addresses are translated: of packets that come into it from elsewhere, and of those
        that leave it, multicast and what stays on the link aside. That is in the table `inet weave`, replaced in one
        transaction. Where iptables has a chain FORWARD, rules with the comment `weave-net` are kept at its top, or in
        `DOCKER-USER` where that comes first: what comes from the bridge, answers, and what is for these subnets may
        pass; for IPv6 only if the chain drops all else. So call it also with nothing exposed: bridged packets pass
        that chain too.

        A call that finds all in order changes nothing; one that does not puts back what others removed of these rules
        and of those of `allow_vxlan`. Rules are moved back to the top at most once in 10 s. HostError tells what
        cannot be done, after everything else was done.
        """

    def watch_rules(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Time to repeat `set_exposed`: at once, and each time that somebody may have changed rules of ours.

        Comes about 0.3 s after the change, for legacy iptables 10 s, and at most once a second. Calls of this door
        may be a reason too. The iteration does not end by itself.
        """

    async def remove_rules(self, bridge: str) -> bool:
        """Remove all firewall rules of ours, those of `allow_vxlan` too; False if there were none.

        Also those that an earlier daemon left, for whatever bridge.
        """

    async def forwards_packets(self) -> bool:
        """Whether the kernel passes IPv4 packets on between devices (`net.ipv4.ip_forward`)."""

    def open_heartbeats(self, device: str, bridge: str) -> HeartbeatSocket:
        """A socket for frames of EtherType 0x88b5 that go out at the VXLAN device and are received at the bridge.

        To be opened anew after `open_vxlan`, which may have replaced the device. HostError if either is missing.
        """

    async def aclose(self) -> None:
        """Stop the netlink thread and close its sockets."""
