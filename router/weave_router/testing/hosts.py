"""`RecordingHost`: a host that exists in memory only.

It refuses what `weave_router.host.linux.LinuxHost` refuses, in the same words, and passes the same tests
(`tests/router/test_host_suite.py`). What the kernel would do with frames is not part of it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING

import trio

from weave_router.doors import BridgeInfo, VethInfo
from weave_router.host import problems, requests
from weave_router.host.firewall import Allowed
from weave_router.testing.vxlan import (
    RecordedHeartbeats,
    RecordedHeartbeatSocket,
    RecordedLocalAddresses,
    RecordedTables,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from ipaddress import IPv4Address
    from types import TracebackType

    from weave_router.doors import ContainerRoute, ExposedSubnet, VethRequest, VxlanEntry, VxlanSettings
    from weave_router.errors import HostError
    from weave_router.host.requests import Address

OWN_NAMESPACE = "/proc/self/ns/net"
"""Path of the namespace that the recorder takes for its own."""


@dataclass(slots=True, eq=False)
class ContainerInterface:
    """The container's end of a veth."""

    name: str
    mac: str
    mtu: int
    addresses: list[Address] = field(default_factory=list)
    multicast_route: bool = False
    routes: list[ContainerRoute] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Namespace:
    """A network namespace; several paths may lead to it."""

    interfaces: dict[str, ContainerInterface] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Device:
    """A network device of the host."""

    name: str
    index: int
    kind: str
    mac: str
    mtu: int
    up: bool = False
    bridge: str | None = None
    """The bridge that it is a port of."""
    isolated: bool = False
    hairpin: bool = False
    namespace: Namespace | None = None
    """Of a veth: where its other end is."""
    peer: ContainerInterface | None = None
    """Of a veth: its other end."""
    addresses: list[Address] = field(default_factory=list)
    """The host's own, link-local IPv6 left out."""
    vxlan: VxlanSettings | None = None
    """Of a VXLAN device: what it was opened with."""
    entries: list[VxlanEntry] = field(default_factory=list)
    """Of a VXLAN device: its own forwarding database."""
    table: dict[bytes, str] = field(default_factory=dict)
    """Of a bridge: at which port (name of the device) an address is, the ports' own addresses left out."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a method of the door."""

    method: str
    arguments: tuple[object, ...]


class RecordingHost:
    """A `weave_router.doors.Host` in memory; tests read and change its public attributes at will."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """Every call of the door's methods, refused ones too."""
        self.devices: dict[str, Device] = {}
        self.namespaces: dict[str, Namespace] = {OWN_NAMESPACE: Namespace()}
        self.announced: list[tuple[str, str]] = []
        """(namespace path, address) of each announcement; OWN_NAMESPACE for addresses of the bridge."""
        self.heartbeats = RecordedHeartbeats()
        self.allowed: Allowed | None = None
        """What the firewall's sets hold; None while there are no rules of VXLAN."""
        self.exposed: tuple[ExposedSubnet, ...] | None = None
        """What `set_exposed` was told last; None while there are no such rules."""
        self.forwarding = True
        """Whether the host passes packets on."""
        self.messages = 0
        """Netlink messages that changes of forwarding entries would have taken."""
        self.closed = False
        self._tables = RecordedTables(self.devices, self.add_device)
        self._own = self.namespaces[OWN_NAMESPACE]
        self._last_index = 1
        self._failures: dict[str, list[HostError]] = {}
        self._addresses_changed = trio.Event()
        self._rules_changes = 0
        self._rules_changed = trio.Event()

    async def __aenter__(self) -> RecordingHost:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # What happens to a host from outside

    def add_namespace(self, path: str) -> Namespace:
        """Start a container: from now on `path` leads to a new, empty namespace."""
        self.namespaces[path] = Namespace()
        return self.namespaces[path]

    def remove_namespace(self, path: str) -> None:
        """Stop a container: its namespace goes, and with it all interfaces in it."""
        gone = self.namespaces.pop(path)
        if gone not in self.namespaces.values():
            for device in [device for device in self.devices.values() if device.namespace is gone]:
                del self.devices[device.name]
                self._tables.drop_port(device.name)

    def add_device(self, name: str, kind: str = "tun", mtu: int = 1500) -> Device:
        """Create a device, as the data plane does with the TAP."""
        self._last_index += 1
        index = self._last_index
        device = Device(
            name=name, index=index, kind=kind, mac=f"02:00:00:00:{index >> 8:02x}:{index & 255:02x}", mtu=mtu
        )
        self.devices[name] = device
        return device

    def set_bridge_addresses(self, bridge: str, addresses: Iterable[Address]) -> None:
        """Let the operator give a bridge these addresses and no others, as with `ip addr`."""
        self._require_bridge(bridge).addresses = list(addresses)
        self._tell_watchers()

    def frame_came(self, bridge: str, port: str, mac: bytes) -> None:
        """Let the bridge learn that an address is at a port, from a frame that came in there."""
        self._require_bridge(bridge)
        self._tables.point(bridge, mac, port)

    def age(self, bridge: str, mac: bytes) -> None:
        """Let the bridge forget an address from which nothing has come for long."""
        self._require_bridge(bridge)
        self._tables.drop(bridge, mac)

    def change_rules(self) -> None:
        """Let somebody change firewall rules; what `exposed` and `allowed` are then is the caller's choice."""
        self._rules_changes += 1
        self._rules_changed.set()
        self._rules_changed = trio.Event()

    def fail_next(self, method: str, error: HostError) -> None:
        """Let the next call of a method fail before it does anything."""
        self._failures.setdefault(method, []).append(error)

    # The door

    async def ensure_bridge(self, name: str, mac: str, mtu: int) -> BridgeInfo:
        """Create or adopt the weave bridge; see `doors.Host`."""
        await self._record("ensure_bridge", name, mac, mtu)
        requests.check_name(name)
        requests.check_mac(mac)
        requests.check_mtu(mtu)
        bridge = self.devices.get(name) or self.add_device(name, "bridge")
        if bridge.kind != "bridge":
            raise problems.not_a_bridge(name, bridge.kind)
        bridge.mac, bridge.mtu, bridge.up = mac.lower(), mtu, True
        return BridgeInfo(name=name, index=bridge.index, mac=bridge.mac, mtu=mtu)

    async def join_bridge(self, device: str, bridge: str, *, mtu: int, isolated: bool) -> None:
        """Make a device a port of the bridge; see `doors.Host`."""
        await self._record("join_bridge", device, bridge, mtu, isolated)
        requests.check_name(device)
        requests.check_name(bridge)
        requests.check_mtu(mtu)
        self._require_bridge(bridge)
        port = self.devices.get(device)
        if port is None:
            raise problems.no_device(device)
        if port.bridge not in (None, bridge):
            raise problems.port_of_other_bridge(device, bridge)
        port.mtu, port.bridge, port.isolated, port.up = mtu, bridge, isolated, True

    async def bridge_addresses(self, bridge: str) -> tuple[Address, ...]:
        """The host's own addresses on the bridge; see `doors.Host`."""
        await self._record("bridge_addresses", bridge)
        requests.check_name(bridge)
        return tuple(self._require_bridge(bridge).addresses)

    async def add_bridge_address(self, bridge: str, address: Address) -> bool:
        """Give the bridge an address and announce it; see `doors.Host`."""
        await self._record("add_bridge_address", bridge, address)
        requests.check_name(bridge)
        present = self._require_bridge(bridge).addresses
        self.announced.append((OWN_NAMESPACE, str(address)))
        if address in present:
            return False
        present.append(address)
        self._tell_watchers()
        return True

    async def remove_bridge_address(self, bridge: str, address: Address) -> bool:
        """Take an address from the bridge; see `doors.Host`."""
        await self._record("remove_bridge_address", bridge, address)
        requests.check_name(bridge)
        device = self.devices.get(bridge)
        if device is None or device.kind != "bridge" or address not in device.addresses:
            return False
        device.addresses.remove(address)
        self._tell_watchers()
        return True

    @asynccontextmanager
    async def watch_addresses(self, bridge: str) -> AsyncIterator[AsyncIterator[tuple[Address, ...]]]:
        """The bridge's addresses, now and each time that they have changed; see `doors.Host`."""
        await self._record("watch_addresses", bridge)
        requests.check_name(bridge)
        yield _AddressChanges(self, bridge)

    async def attach(self, request: VethRequest) -> VethInfo:
        """Join a namespace to the bridge; see `doors.Host`."""
        await self._record("attach", request)
        requests.check_request(request)
        path = OWN_NAMESPACE if request.namespace is None else request.namespace
        namespace = self.namespaces.get(path)
        if namespace is None:
            raise problems.no_namespace(path)
        if namespace is self._own and request.namespace is not None:
            raise problems.own_namespace(path)
        self._require_bridge(request.bridge)
        device, inside = self._veth(request, path, namespace)
        device.mtu, device.bridge, device.hairpin, device.up = request.mtu, request.bridge, request.hairpin, True
        inside.mtu = request.mtu
        inside.multicast_route = inside.multicast_route or request.multicast_route
        elsewhere = {
            route.destination
            for other in namespace.interfaces.values()
            if other is not inside
            for route in other.routes
        }
        routes = tuple(
            route
            for route in request.routes
            if route.destination not in elsewhere
            and (route.gateway is None or ip_network(route.gateway) not in elsewhere)
        )
        inside.routes += (route for route in routes if route not in inside.routes)
        for address in request.addresses:
            if address not in inside.addresses:
                inside.addresses.append(address)
            self.announced.append((path, str(address)))
            self._tables.point(request.bridge, bytes.fromhex(inside.mac.replace(":", "")), device.name)
        return VethInfo(
            interface=inside.name,
            host_interface=device.name,
            mac=inside.mac,
            mtu=inside.mtu,
            addresses=tuple(str(address) for address in inside.addresses),
            host_mac=device.mac,
            routes=routes,
        )

    async def inspect(self, request: VethRequest) -> tuple[str, ...]:
        """What of an attachment is not as it was made; see `doors.Host`."""
        await self._record("inspect", request)
        self._require_bridge(request.bridge)
        device = self.devices.get(request.host_interface)
        if device is None or device.peer is None:
            return (f"{request.host_interface}, the host's end of {request.interface}, is gone",)
        found = [] if device.bridge == request.bridge else [f"{device.name} is no port of the bridge {request.bridge}"]
        peer = device.peer
        found += [f"{peer.name} lacks the address {text}" for text in request.addresses if text not in peer.addresses]
        return tuple(found)

    async def detach(
        self, namespace: str | None, interface: str, host_interface: str, addresses: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """Remove addresses and, with the last one, the interface; see `doors.Host`."""
        await self._record("detach", namespace, interface, host_interface, addresses)
        requests.check_name(interface)
        requests.check_name(host_interface)
        wanted = requests.address_filter(addresses)
        opened = None if namespace is None else self.namespaces.get(namespace)
        if opened is self._own:
            raise problems.own_namespace(str(namespace))
        device = self.devices.get(host_interface)
        if device is None:
            return ()
        if opened is None or device.peer is None or device.namespace is not opened:
            if opened is None or not addresses:
                self._remove(device)
            return ()
        removed = [address for address in device.peer.addresses if wanted(address)]
        device.peer.addresses = [address for address in device.peer.addresses if not wanted(address)]
        if not device.peer.addresses:
            self._remove(device)
        return tuple(str(address) for address in removed)

    async def remove_device(self, name: str) -> bool:
        """Delete a device; False if there was none."""
        await self._record("remove_device", name)
        requests.check_name(name)
        device = self.devices.get(name)
        if device is None:
            return False
        self._remove(device)
        return True

    async def list_attached(self, bridge: str) -> tuple[str, ...]:
        """Names of our container veths; see `doors.Host`."""
        await self._record("list_attached", bridge)
        requests.check_name(bridge)
        return tuple(
            device.name
            for device in self.devices.values()
            if device.kind == "veth" and requests.is_host_interface(device.name) and device.bridge in (None, bridge)
        )

    async def open_vxlan(self, settings: VxlanSettings) -> tuple[VxlanEntry, ...]:
        """Create or adopt the VXLAN device; see `doors.Host`."""
        await self._record("open_vxlan", settings)
        requests.check_vxlan(settings)
        self._require_bridge(settings.bridge)
        return self._tables.open(settings)

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
        await self._record("program_vxlan", device, bridge, remove, add, unlearn, learn, tap)
        self.messages += self._tables.program(device, bridge, remove, add, unlearn, learn, tap)

    async def forget_behind(self, bridge: str, port_device: str, macs: Sequence[bytes]) -> None:
        """Remove MACs from the bridge's table where they point at that port; see `doors.Host`."""
        await self._record("forget_behind", bridge, port_device, macs)
        self.messages += self._tables.forget_behind(bridge, port_device, macs)

    @asynccontextmanager
    async def watch_local_addresses(
        self, bridge: str, leave_out: frozenset[str]
    ) -> AsyncIterator[RecordedLocalAddresses]:
        """MAC addresses that live at ports of the bridge other than these devices; see `doors.Host`."""
        await self._record("watch_local_addresses", bridge, leave_out)
        for name in (bridge, *leave_out):
            requests.check_name(name)
        self._require_bridge(bridge)
        yield RecordedLocalAddresses(self._tables, bridge, leave_out)

    async def allow_vxlan(self, port: int, heartbeats: frozenset[IPv4Address], data: frozenset[IPv4Address]) -> None:
        """Take VXLAN packets from these addresses only; see `doors.Host`."""
        await self._record("allow_vxlan", port, heartbeats, data)
        requests.check_port(port)
        self.allowed = Allowed(port, heartbeats, data)

    async def device_bytes(self, device: str) -> tuple[int, int]:
        """Bytes that a device has received and sent: none here; see `doors.Host`."""
        await self._record("device_bytes", device)
        requests.check_name(device)
        if device not in self.devices:
            raise problems.no_device(device)
        return 0, 0

    async def vxlan_allowed(self) -> frozenset[IPv4Address]:
        """The addresses whose data is let in; see `doors.Host`."""
        await self._record("vxlan_allowed")
        return frozenset() if self.allowed is None else self.allowed.data

    async def close_vxlan(self, device: str) -> None:
        """Remove the VXLAN device, then its firewall rules; see `doors.Host`."""
        await self._record("close_vxlan", device)
        requests.check_name(device)
        found = self.devices.get(device)
        if found is not None and found.kind == "vxlan":
            self._remove(found)
        self.allowed = None

    async def set_exposed(self, bridge: str, exposed: Sequence[ExposedSubnet]) -> None:
        """Let containers and the outside reach each other through this host; see `doors.Host`."""
        await self._record("set_exposed", bridge, tuple(exposed))
        requests.check_name(bridge)
        self.exposed = tuple(exposed)

    @asynccontextmanager
    async def watch_rules(self) -> AsyncIterator[AsyncIterator[None]]:
        """Time to repeat `set_exposed`; see `doors.Host`."""
        await self._record("watch_rules")
        yield _RulesChanges(self)

    async def remove_rules(self, bridge: str) -> bool:
        """Remove all firewall rules of ours; see `doors.Host`."""
        await self._record("remove_rules", bridge)
        requests.check_name(bridge)
        found = bool(self.exposed) or self.allowed is not None
        self.exposed = self.allowed = None
        return found

    async def forwards_packets(self) -> bool:
        """Whether the host passes packets on; see `doors.Host`."""
        await self._record("forwards_packets")
        return self.forwarding

    def open_heartbeats(self, device: str, bridge: str) -> RecordedHeartbeatSocket:
        """A socket for heartbeats; see `doors.Host`."""
        self._note("open_heartbeats", device, bridge)
        for name in (device, bridge):
            if name not in self.devices:
                raise problems.no_device(name)
        return self.heartbeats.open(self.devices[device], self.devices[bridge])

    async def aclose(self) -> None:
        """Note that the host was closed; its devices stay."""
        await trio.lowlevel.checkpoint()
        self.closed = True

    async def _record(self, method: str, *arguments: object) -> None:
        await trio.lowlevel.checkpoint()
        self._note(method, *arguments)

    def _note(self, method: str, *arguments: object) -> None:
        self.calls.append(Call(method, arguments))
        if self._failures.get(method):
            raise self._failures[method].pop(0)

    def _require_bridge(self, name: str) -> Device:
        bridge = self.devices.get(name)
        if bridge is None:
            raise problems.no_bridge(name)
        if bridge.kind != "bridge":
            raise problems.not_a_bridge(name, bridge.kind)
        return bridge

    def _veth(self, request: VethRequest, path: str, namespace: Namespace) -> tuple[Device, ContainerInterface]:
        device = self.devices.get(request.host_interface)
        if device is None:
            if request.interface in namespace.interfaces:
                refusal = problems.interface_exists if request.create else problems.interface_taken
                raise refusal(request.interface, path)
            device = self.add_device(request.host_interface, "veth", request.mtu)
            mac = request.mac.lower() if request.mac else device.mac.replace("02:00", "02:01", 1)
            inside = ContainerInterface(name=request.interface, mac=mac, mtu=request.mtu)
            namespace.interfaces[inside.name] = inside
            device.namespace, device.peer = namespace, inside
            return device, inside
        if device.peer is None or device.namespace is not namespace:
            raise problems.veth_elsewhere(request.host_interface, path)
        if request.create:
            raise problems.interface_exists(request.interface, path)
        if namespace.interfaces.get(request.interface) is not device.peer:
            raise problems.interface_renamed(request.interface, path)
        return device, device.peer

    def _tell_watchers(self) -> None:
        self._addresses_changed.set()
        self._addresses_changed = trio.Event()

    def _remove(self, device: Device) -> None:
        del self.devices[device.name]
        device.up = False  # for sockets that are still open on it
        self._tell_watchers()
        self._tables.drop_port(device.name)
        for port in self.devices.values():
            if port.bridge == device.name:
                port.bridge = None
        if device.namespace is not None and device.peer is not None:
            device.namespace.interfaces.pop(device.peer.name, None)


class _AddressChanges:
    """The recorder's iterator of `watch_addresses`."""

    def __init__(self, host: RecordingHost, bridge: str) -> None:
        self._host = host
        self._bridge = bridge
        self._last: tuple[Address, ...] | None = None

    def __aiter__(self) -> _AddressChanges:
        return self

    async def __anext__(self) -> tuple[Address, ...]:
        await trio.lowlevel.checkpoint()
        while (present := self._present()) == self._last:
            await self._host._addresses_changed.wait()
        self._last = present
        return present

    def _present(self) -> tuple[Address, ...]:
        device = self._host.devices.get(self._bridge)
        return () if device is None or device.kind != "bridge" else tuple(device.addresses)


class _RulesChanges:
    """The recorder's iterator of `watch_rules`."""

    def __init__(self, host: RecordingHost) -> None:
        self._host = host
        self._seen = -1

    def __aiter__(self) -> _RulesChanges:
        return self

    async def __anext__(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._host._rules_changes == self._seen:
            await self._host._rules_changed.wait()
        self._seen = self._host._rules_changes
