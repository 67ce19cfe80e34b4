"""The fast datapath's side of `RecordingHost`: forwarding tables, firewall sets and heartbeats in memory.

What the kernel would do with frames is not part of it: tests say which frames came (`frame_came`,
`RecordedHeartbeats.deliver`) and read what was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from weave_router.host import problems, requests
from weave_router.host.fdb_watch import MAX_ADDRESSES, SETTLE_S
from weave_router.host.heartbeat_socket import ETHERTYPE, MAX_FRAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weave_router.doors import VxlanEntry, VxlanSettings
    from weave_router.testing.hosts import Device

_HEADER_BYTES = 14
_QUEUE_FRAMES = 256
"""What waits at a real socket is bounded, too."""


class RecordedTables:
    """The bridges' tables and those of VXLAN devices; each device keeps its own."""

    def __init__(self, devices: dict[str, Device], add_device: Callable[[str, str, int], Device]) -> None:
        self._devices = devices
        self._add_device = add_device
        self._changed = trio.Event()

    def open(self, settings: VxlanSettings) -> tuple[VxlanEntry, ...]:
        """`doors.Host.open_vxlan`, the bridge being there."""
        device = self._devices.get(settings.device)
        if device is not None and device.kind != "vxlan":
            raise problems.not_a_vxlan(settings.device, device.kind)
        if device is not None and device.bridge not in (None, settings.bridge):
            raise problems.port_of_other_bridge(settings.device, settings.bridge)
        if device is not None and not _fits(device.vxlan, settings):
            del self._devices[settings.device]
            device.up = False  # for sockets that are still open on it
            self.drop_port(settings.device)
            device = None
        if device is None:
            if any(_collides(other.vxlan, settings) for other in self._devices.values()):
                raise problems.vxlan_in_use(settings.port, settings.vni)
            device = self._add_device(settings.device, "vxlan", settings.mtu)
        device.vxlan, device.mtu, device.bridge = settings, settings.mtu, settings.bridge
        device.isolated, device.hairpin, device.up = True, False, True
        kept = {entry.mac for entry in device.entries}
        table = self._devices[settings.bridge].table
        self._drop(table, [mac for mac, port in table.items() if port == settings.device and mac not in kept])
        return tuple(device.entries)

    def program(
        self,
        device: str,
        bridge: str,
        remove: Sequence[VxlanEntry],
        add: Sequence[VxlanEntry],
        unlearn: Sequence[bytes],
        learn: Sequence[bytes],
        tap: str | None,
    ) -> int:
        """`doors.Host.program_vxlan`; returns how many messages the kernel would get."""
        requests.check_programming(device, bridge, (*remove, *add), (*unlearn, *learn), tap)
        port = self._devices.get(device)
        if port is None:
            raise problems.no_device(device)
        master = self._devices.get(bridge)
        if master is None:
            raise problems.no_bridge(bridge)
        for entry in remove:
            port.entries = [kept for kept in port.entries if (kept.mac, kept.remote) != (entry.mac, entry.remote)]
        for entry in add:
            _add_entry(port.entries, entry)
        ports = [name for name in (device, tap) if name in self._devices]
        learnable = [mac for mac in learn if mac != _octets(master.mac)]
        if port.bridge != bridge and (unlearn or learnable):
            raise problems.not_a_port(device, bridge)
        self._drop(master.table, [mac for mac in unlearn if master.table.get(mac) in ports])
        for mac in learnable:
            self.point(bridge, mac, device)
        return len(remove) + len(add) + len(unlearn) * len(ports) + len(learnable)

    def forget_behind(self, bridge: str, port: str, macs: Sequence[bytes]) -> int:
        """`doors.Host.forget_behind`; returns how many messages the kernel would get."""
        requests.check_programming(port, bridge, (), macs, None)
        device = self._devices.get(port)
        if device is None or not macs:
            return 0
        if device.bridge != bridge:
            raise problems.not_a_port(port, bridge)
        table = self._devices[bridge].table
        self._drop(table, [mac for mac in macs if table.get(mac) == port])
        return len(macs)

    def point(self, bridge: str, mac: bytes, port: str) -> None:
        """Let an address be at this port from now on."""
        if self._devices[bridge].table.get(mac) != port:
            self._devices[bridge].table[mac] = port
            self._tell()

    def drop_port(self, port: str) -> None:
        """Forget what was behind a device that is gone."""
        for device in self._devices.values():
            self._drop(device.table, [mac for mac, name in device.table.items() if name == port])
        self._tell()  # the device may have been the bridge that is watched

    def drop(self, bridge: str, mac: bytes) -> None:
        """Let an address age."""
        table = self._devices[bridge].table
        self._drop(table, [mac] if mac in table else [])

    def local(self, bridge: str, leave_out: frozenset[str]) -> dict[bytes, None]:
        """Addresses behind ports other than these, in the order of their coming; none without the bridge."""
        device = self._devices.get(bridge)
        return {} if device is None else {mac: None for mac, port in device.table.items() if port not in leave_out}

    async def wait_changed(self) -> None:
        """Wait for the next change of any bridge's table."""
        await self._changed.wait()

    def _drop(self, table: dict[bytes, str], macs: Sequence[bytes]) -> None:
        for mac in macs:
            del table[mac]
        if macs:
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class RecordedLocalAddresses:
    """The recorder's iterator of `watch_local_addresses`."""

    def __init__(self, tables: RecordedTables, bridge: str, leave_out: frozenset[str]) -> None:
        self.beyond_limit = 0
        self._tables = tables
        self._bridge = bridge
        self._leave_out = leave_out
        self._told: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._began = False

    def __aiter__(self) -> RecordedLocalAddresses:
        return self

    async def __anext__(self) -> tuple[frozenset[bytes], frozenset[bytes]]:
        await trio.lowlevel.checkpoint()
        while (present := self._present()) == self._told and self._began:
            await self._tables.wait_changed()
            await trio.sleep(SETTLE_S)
        added, removed = present - self._told, self._told - present
        self._told, self._began = present, True
        return frozenset(added), frozenset(removed)

    def _present(self) -> set[bytes]:
        local = self._tables.local(self._bridge, self._leave_out)
        present = self._told & local.keys()
        refused = set()
        for mac in local:
            if len(present) < MAX_ADDRESSES:
                present.add(mac)
            elif mac not in present:
                refused.add(mac)
        self.beyond_limit += len(refused - self._refused)
        self._refused = refused
        return present


class RecordedHeartbeats:
    """What goes through the sockets for heartbeats of one host."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        """Every frame that the kernel would have taken."""
        self._open: list[RecordedHeartbeatSocket] = []

    def deliver(self, frame: bytes) -> None:
        """Let a complete frame come out of the VXLAN device; who has no socket open, or is not meant, misses it."""
        if frame[12:14] == ETHERTYPE.to_bytes(2):
            for opened in self._open:
                opened.deliver(frame)

    def open(self, device: Device, bridge: Device) -> RecordedHeartbeatSocket:
        """`doors.Host.open_heartbeats`."""
        opened = RecordedHeartbeatSocket(self.sent, device, bridge, self._open.remove)
        self._open.append(opened)
        return opened


class RecordedHeartbeatSocket:
    """A `doors.HeartbeatSocket` in memory."""

    def __init__(
        self,
        sent: list[bytes],
        device: Device,
        bridge: Device,
        closed: Callable[[RecordedHeartbeatSocket], None],
    ) -> None:
        self._sent = sent
        self._device = device
        self._bridge = bridge
        self._on_close = closed
        self._waiting: list[bytes] = []
        self._woken = trio.Event()
        self._closed = False

    def send(self, frame: bytes) -> bool:
        """Record the frame; False if the kernel would refuse it."""
        if self._closed or not self._device.up or not _HEADER_BYTES <= len(frame) <= self._device.mtu + _HEADER_BYTES:
            return False
        self._sent.append(frame)
        return True

    def deliver(self, frame: bytes) -> None:
        """A frame comes to the bridge."""
        if frame[:6] == _octets(self._bridge.mac) and len(self._waiting) < _QUEUE_FRAMES:
            self._waiting.append(frame)
            self._woken.set()

    async def wait(self) -> None:
        """Wait until something has come."""
        await trio.lowlevel.checkpoint()
        while not self._waiting and not self._closed:
            self._woken = trio.Event()
            await self._woken.wait()
        if self._closed:
            raise trio.ClosedResourceError

    def receive(self) -> list[bytes]:
        """What has come, at most MAX_FRAMES."""
        frames, self._waiting = self._waiting[:MAX_FRAMES], self._waiting[MAX_FRAMES:]
        return frames

    def close(self) -> None:
        """Close it; whoever waits gets trio.ClosedResourceError."""
        if not self._closed:
            self._closed = True
            self._waiting.clear()
            self._on_close(self)
            self._woken.set()


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _fits(found: VxlanSettings | None, wanted: VxlanSettings) -> bool:
    return found is not None and (found.vni, found.port, found.local) == (wanted.vni, wanted.port, wanted.local)


def _collides(other: VxlanSettings | None, wanted: VxlanSettings) -> bool:
    return other is not None and (other.vni, other.port) == (wanted.vni, wanted.port)


def _add_entry(entries: list[VxlanEntry], entry: VxlanEntry) -> None:
    if entry.mac != requests.NO_MAC:
        entries[:] = [kept for kept in entries if kept.mac != entry.mac]
    elif any((kept.mac, kept.remote) == (entry.mac, entry.remote) for kept in entries):
        return
    entries.append(entry)
