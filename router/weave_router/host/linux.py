"""`LinuxHost`: the door `weave_router.doors.Host` to the Linux machine that the router runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from weave_router.host import (
    address_watch,
    bridge_address,
    fdb,
    fdb_watch,
    firewall_watch,
    problems,
    requests,
    sysctl,
    vxlan_device,
)
from weave_router.host import bridge as bridges
from weave_router.host import veth as veths
from weave_router.host.firewall import Allowed, Firewall
from weave_router.host.heartbeat_socket import PacketHeartbeats
from weave_router.host.namespace import NamespaceIdentity, current_namespace
from weave_router.host.netlink_thread import NetlinkThread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from ipaddress import IPv4Address
    from types import TracebackType

    from weave_router.doors import (
        BridgeInfo,
        ExposedSubnet,
        HeartbeatSocket,
        LocalAddresses,
        VethInfo,
        VethRequest,
        VxlanEntry,
        VxlanSettings,
    )
    from weave_router.host.netlink import Netlink
    from weave_router.host.requests import Address

_DYING_NAMESPACE_S = 2.0
"""Time for a namespace that is ending: the kernel removes its interfaces some time after its name."""
_DYING_NAMESPACE_POLL_S = 0.05


class LinuxHost:
    """Network devices of the namespace in which it is opened; use it as `async with LinuxHost() as host`.

    Operations run one after the other. One that has begun is finished, or undone by its own failure, even
    when its caller is cancelled.
    """

    def __init__(self) -> None:
        self._netlink = NetlinkThread()
        self._own: NamespaceIdentity = (0, 0)
        self._firewall = Firewall()
        self.messages = 0
        """Netlink messages sent to change forwarding entries."""

    async def __aenter__(self) -> LinuxHost:
        try:
            await self._netlink.start()
            self._own = await self._netlink.run(_namespace_of_thread)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def ensure_bridge(self, name: str, mac: str, mtu: int) -> BridgeInfo:
        """Create or adopt the weave bridge, set MAC and MTU, bring it up; see `doors.Host`."""
        return await self._netlink.run(bridges.ensure_bridge, name, mac, mtu)

    async def join_bridge(self, device: str, bridge: str, *, mtu: int, isolated: bool) -> None:
        """Make an existing device a port of the bridge and bring it up; see `doors.Host`."""
        await self._netlink.run(bridges.join_bridge, device, bridge, mtu=mtu, isolated=isolated)

    async def bridge_addresses(self, bridge: str) -> tuple[Address, ...]:
        """The host's own addresses on the bridge; see `doors.Host`."""
        return await self._netlink.run(bridge_address.addresses, bridge)

    async def add_bridge_address(self, bridge: str, address: Address) -> bool:
        """Give the bridge an address and announce it; see `doors.Host`."""
        return await self._netlink.run(bridge_address.add, bridge, address)

    async def remove_bridge_address(self, bridge: str, address: Address) -> bool:
        """Take an address from the bridge; see `doors.Host`."""
        return await self._netlink.run(bridge_address.remove, bridge, address)

    def watch_addresses(self, bridge: str) -> AbstractAsyncContextManager[AsyncIterator[tuple[Address, ...]]]:
        """The bridge's addresses, now and each time that they have changed; see `doors.Host`."""
        return address_watch.watch_addresses(self._netlink, bridge)

    async def attach(self, request: VethRequest) -> VethInfo:
        """Join a network namespace to the bridge; see `doors.Host`."""
        deadline = trio.current_time() + _DYING_NAMESPACE_S
        while True:
            try:
                return await self._netlink.run(veths.attach, request, self._own)
            except problems.VethElsewhereError:
                # A container that is started anew under its old name meets its predecessor's interface.
                if trio.current_time() > deadline:
                    raise
            await trio.sleep(_DYING_NAMESPACE_POLL_S)

    async def inspect(self, request: VethRequest) -> tuple[str, ...]:
        """What of an attachment is not as it was made; see `doors.Host`."""
        return await self._netlink.run(veths.inspect, request)

    async def detach(
        self, namespace: str | None, interface: str, host_interface: str, addresses: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """Remove addresses and, with the last one, the interface; see `doors.Host`."""
        return await self._netlink.run(veths.detach, namespace, interface, host_interface, addresses, self._own)

    async def remove_device(self, name: str) -> bool:
        """Delete a device of the host; False if there was none."""
        return await self._netlink.run(_remove_device, name)

    async def list_attached(self, bridge: str) -> tuple[str, ...]:
        """Names of our container veths that exist on the host; see `doors.Host`."""
        return await self._netlink.run(veths.list_attached, bridge)

    async def open_vxlan(self, settings: VxlanSettings) -> tuple[VxlanEntry, ...]:
        """Create or adopt the VXLAN device; see `doors.Host`."""
        return await self._netlink.run(vxlan_device.open_vxlan, settings)

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
        """Change forwarding entries of the VXLAN device, then of the bridge; see `doors.Host`."""
        self.messages += await self._netlink.run(fdb.program_vxlan, device, bridge, remove, add, unlearn, learn, tap)

    async def forget_behind(self, bridge: str, port_device: str, macs: Sequence[bytes]) -> None:
        """Remove MACs from the bridge's table where they point at that port; see `doors.Host`."""
        self.messages += await self._netlink.run(fdb.forget_behind, bridge, port_device, macs)

    def watch_local_addresses(
        self, bridge: str, leave_out: frozenset[str]
    ) -> AbstractAsyncContextManager[LocalAddresses]:
        """MAC addresses that live at ports of the bridge other than these devices; see `doors.Host`."""
        return fdb_watch.watch_local_addresses(self._netlink, bridge, leave_out)

    async def allow_vxlan(self, port: int, heartbeats: frozenset[IPv4Address], data: frozenset[IPv4Address]) -> None:
        """Take VXLAN packets from these addresses only; see `doors.Host`."""
        await self._firewall.allow(Allowed(port, heartbeats, data))

    async def device_bytes(self, device: str) -> tuple[int, int]:
        """Bytes that a device has received and sent; see `doors.Host`."""
        return await self._netlink.run(_device_bytes, device)

    async def vxlan_allowed(self) -> frozenset[IPv4Address]:
        """The addresses whose data an earlier daemon let in; see `doors.Host`."""
        return await self._firewall.allowed()

    async def close_vxlan(self, device: str) -> None:
        """Remove the VXLAN device, then its firewall rules; see `doors.Host`."""
        await self._netlink.run(vxlan_device.remove_vxlan, device)
        await self._firewall.shut()

    async def set_exposed(self, bridge: str, exposed: Sequence[ExposedSubnet]) -> None:
        """Let containers and the outside reach each other through this host; see `doors.Host`."""
        await self._firewall.expose(bridge, exposed)

    def watch_rules(self) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Time to repeat `set_exposed`; see `doors.Host`."""
        return firewall_watch.watch_rules(self._netlink, self._firewall)

    async def remove_rules(self, bridge: str) -> bool:
        """Remove all firewall rules of ours; see `doors.Host`."""
        requests.check_name(bridge)
        return await self._firewall.remove()

    async def forwards_packets(self) -> bool:
        """Whether the kernel passes IPv4 packets on between devices; see `doors.Host`."""
        return await self._netlink.run(_forwards_packets)

    def open_heartbeats(self, device: str, bridge: str) -> HeartbeatSocket:
        """A socket for heartbeats; see `doors.Host`."""
        return PacketHeartbeats(device, bridge)

    async def aclose(self) -> None:
        """Stop the netlink thread and close its sockets; the devices stay."""
        await self._netlink.aclose()


def _namespace_of_thread(_: Netlink) -> NamespaceIdentity:
    return current_namespace()


def _forwards_packets(_: Netlink) -> bool:
    return sysctl.forwards_packets()


def _device_bytes(netlink: Netlink, name: str) -> tuple[int, int]:
    requests.check_name(name)
    return netlink.traffic(name)


def _remove_device(netlink: Netlink, name: str) -> bool:
    requests.check_name(name)
    link = netlink.find(name)
    return link is not None and netlink.remove(link.index)
