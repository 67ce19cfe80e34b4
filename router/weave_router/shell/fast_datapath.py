"""The fast datapath: the kernel's VXLAN carries frames between neighbours that both can use it.

Each neighbour's `VxlanLink` decides whether the kernel carries its frames. One task makes it so: it takes away what
must go, tells the data plane, and then adds what is new, so that no frame takes both ways.

    heartbeats, control messages ─> links ─┐
    addresses of our containers ──> told ──┼─> changes ─> host (FDB, firewall), data plane
    addresses that peers tell ─────────────┘

What is programmed outlives the router: a peer whose connection has ended keeps its entries for a while, and a restarted
router takes over what it finds.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import trio

from weave_router.dataplane.forwarder import KernelPeers
from weave_router.doors import VxlanEntry
from weave_router.errors import HostError, ProtocolError
from weave_router.log_limit import LogLimit
from weave_router.vxlan.addresses import Addresses
from weave_router.vxlan.link import BEAT_S, SendBeat, SendControl, SetMode, VxlanLink
from weave_router.vxlan.messages import (
    TOKEN_BYTES,
    MacsOperation,
    Number,
    decode_heartbeat,
    decode_macs,
    encode_heartbeat,
    encode_macs,
)
from weave_router.wire.features import VXLAN
from weave_router.wire.peer_name import PeerName, format_peer_name

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Iterable, Sequence, Set

    from weave_router.control.mesh import Mesh, MeshConnection
    from weave_router.dataplane.data_plane import DataPlane
    from weave_router.doors import HeartbeatSocket, Host, VxlanSettings
    from weave_router.vxlan.link import Action

log = logging.getLogger(__name__)

VNI = 6784
FLOOD = bytes(6)
KEEP_S = 15.0
"""A peer whose connection has ended keeps its entries for so long: its router may be restarted."""
_GROUP_BIT = 1 << 40
"""A peer's name may have it, its bridge's MAC address cannot."""
ADOPTED_S = 20.0
"""What a restarted router has found is kept for so long."""
ELSEWHERE_S = 1.5
"""A peer that can be reached by way of others, so long after its connection has ended, is not being restarted: by then
they would have told that they have lost it, too."""
RETRY_S = 5.0
LOOK_S = 10.0
"""How often it is made sure that the firewall's rules are there."""


@dataclass(eq=False, slots=True)
class _Path:
    """A neighbour with whom VXLAN may be used."""

    link: VxlanLink
    connection: MeshConnection
    remote: IPv4Address


@dataclass(slots=True)
class _Kept:
    """A peer without connection whose entries stay for a while."""

    remote: IPv4Address
    until: float
    lost_at: float
    uid: int | None
    """Of the peer's life that was connected; None where that was before ours."""


@dataclass(slots=True)
class _Programmed:
    """What host and data plane have of one peer."""

    remote: IPv4Address
    send: bool = False
    accept: bool = False
    macs: dict[bytes, None] = field(default_factory=dict)
    """Containers' addresses that lead there."""


class FastDatapath:
    """The fast datapath of one router; `begin` first, then `run`."""

    def __init__(
        self,
        host: Host,
        settings: VxlanSettings,
        tap: str,
        mesh: Mesh,
        *,
        random: random_module.Random,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._host = host
        self._settings = settings
        self._tap = tap
        self._mesh = mesh
        self._random = random
        self._data_plane: DataPlane | None = None
        self._paths: dict[PeerName, _Path] = {}
        self._kept: dict[PeerName, _Kept] = {}
        self._programmed: dict[PeerName, _Programmed] = {}
        self._stations: dict[bytes, PeerName] = {}
        """Programmed peers by the MAC addresses of their bridges."""
        self._placed: dict[bytes, PeerName] = {}
        self._published = KernelPeers()
        self._allowed: tuple[frozenset[IPv4Address], frozenset[IPv4Address]] | None = None
        self._addresses = Addresses()
        self._local: dict[bytes, None] = {}
        self._dirty: dict[PeerName, None] = {}
        self._dirty_macs: dict[bytes, None] = {}
        self._changed = trio.Event()
        self._timers = trio.Event()
        self._heartbeats: HeartbeatSocket
        self._log_limit = LogLimit()

    async def begin(self) -> None:
        """Make or adopt the device, and shut it for strangers. Raises `HostError` where VXLAN cannot be used here."""
        try:
            left = await self._host.vxlan_allowed()
            await self._allow(left, left)
            await self._adopt(left)
        except HostError:
            with suppress(HostError):
                await self._host.close_vxlan(self._settings.device)  # nothing is left open to strangers
            raise
        if self._kept:
            log.info("Taking over the VXLAN paths to %d peers", len(self._kept))

    async def _adopt(self, left: frozenset[IPv4Address]) -> None:
        settings = self._settings
        found = await self._host.open_vxlan(settings)
        now = trio.current_time()
        flooded = {entry.remote for entry in found if entry.mac == FLOOD}
        for entry in found:
            if entry.mac != FLOOD and not entry.learned and entry.remote in flooded & left:
                peer = PeerName(int.from_bytes(entry.mac))
                self._kept[peer] = _Kept(entry.remote, now + ADOPTED_S, now, None)
                self._programmed[peer] = _Programmed(entry.remote, send=True, accept=True)
                self._stations[entry.mac] = peer
        by_remote = {kept.remote: peer for peer, kept in self._kept.items()}
        stale = []
        for entry in found:
            owner = by_remote.get(entry.remote)
            if owner is None:
                stale.append(entry)
            elif entry.learned:
                self._programmed[owner].macs[entry.mac] = None
                self._placed[entry.mac] = owner
        await self._allow(frozenset(by_remote), frozenset(by_remote))
        await self._clear(stale)
        self._heartbeats = self._host.open_heartbeats(settings.device, settings.bridge)

    async def _clear(self, entries: list[VxlanEntry]) -> None:
        if entries:
            macs = [entry.mac for entry in entries if entry.mac != FLOOD]
            await self._change(remove=entries, unlearn=macs)

    async def _change(
        self,
        *,
        remove: Sequence[VxlanEntry] = (),
        add: Sequence[VxlanEntry] = (),
        unlearn: Sequence[bytes] = (),
        learn: Sequence[bytes] = (),
    ) -> None:
        if remove or add or unlearn or learn:
            settings = self._settings
            await self._host.program_vxlan(settings.device, settings.bridge, remove, add, unlearn, learn)

    async def run(self, data_plane: DataPlane) -> None:
        """Work until cancelled."""
        self._data_plane = data_plane
        self._publish()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_timers)
                nursery.start_soon(self._hear)
                nursery.start_soon(self._watch_local)
                nursery.start_soon(self._program)
        finally:
            self._heartbeats.close()

    # --- the router's calls -----------------------------------------------------------------------------------------

    def added(self, connection: MeshConnection, *, encrypted: bool) -> None:
        """A connection has been added. Frames that must be encrypted never take this path."""
        peer, now = connection.peer, trio.current_time()
        kept, replaced = self._kept.pop(peer, None), self._paths.pop(peer, None)
        self._touch(peer)
        if VXLAN not in connection.overlays or encrypted:
            return
        remote = _remote_of(connection)
        if remote is None or any(path.remote == remote for path in self._paths.values()):
            return  # peers behind one address could not be told apart
        for other in [other for other, entry in self._kept.items() if entry.remote == remote]:
            del self._kept[other]  # that host has another name now
            self._touch(other)
        before = kept.remote if kept is not None else replaced.remote if replaced and replaced.link.in_use else None
        link = VxlanLink(
            self._mesh.ourselves,
            peer,
            token=self._random.randbytes(TOKEN_BYTES),
            mtu=self._settings.mtu,
            now=now,
            resumed=before == remote,
        )
        path = self._paths[peer] = _Path(link, connection, remote)
        self._perform(path, link.start())
        self._tell(path, MacsOperation.ALL, self._local)
        self._timers.set()

    def removed(self, connection: MeshConnection) -> None:
        """A connection has ended."""
        peer, now = connection.peer, trio.current_time()
        path = self._paths.get(peer)
        if path is None or path.connection is not connection:
            return
        del self._paths[peer]
        if path.link.in_use:
            self._kept[peer] = _Kept(path.remote, now + KEEP_S, now, connection.features.uid)
        self._touch(peer)
        self._timers.set()

    def control(self, connection: MeshConnection, number: int, body: bytes) -> None:
        """A control message of this overlay has come. One that makes no sense is dropped."""
        path = self._paths.get(connection.peer)
        if path is None or path.connection is not connection:
            return
        now = trio.current_time()
        try:
            if number == Number.MACS:
                self._learn(connection.peer, body, now)
            elif number == Number.BYE:
                self._perform(path, path.link.farewell(now))
            else:
                self._perform(path, path.link.control(number, body, now))
        except ProtocolError as error:
            self.counters["vxlan_bad_messages"] += 1
            if self._log_limit.allows(f"{connection.peer}", now):
                log.warning("Dropped a message about VXLAN of %s: %s", format_peer_name(connection.peer), error)

    def farewell(self) -> None:
        """This router stops for good: tell the peers not to wait for it."""
        for path in self._paths.values():
            path.connection.send_overlay(VXLAN, Number.BYE, b"")

    def part(self, connection: MeshConnection) -> bool:
        """A connection is about to be ended for good: sleeve is to serve that peer. Whether the peer must be told."""
        path = self._paths.get(connection.peer)
        if path is None or path.connection is not connection or not path.link.in_use:
            return False
        self._perform(path, path.link.farewell(trio.current_time()))
        connection.send_overlay(VXLAN, Number.BYE, b"")
        return True

    def link_of(self, peer: PeerName) -> VxlanLink | None:
        """The path to a neighbour, for status."""
        path = self._paths.get(peer)
        return None if path is None else path.link

    def table(self) -> list[dict[str, str]]:
        """What is programmed, for the report."""
        return [
            {
                "Peer": format_peer_name(peer),
                "Remote": str(programmed.remote),
                "Kernel": " ".join(
                    word for word, flag in (("sent", programmed.send), ("accepted", programmed.accept)) if flag
                ),
                "MACs": " ".join(mac.hex(":") for mac in programmed.macs),
            }
            for peer, programmed in sorted(self._programmed.items())
        ]

    # --- links ------------------------------------------------------------------------------------------------------

    def _perform(self, path: _Path, actions: Iterable[Action]) -> None:
        peer = path.connection.peer
        for action in actions:
            match action:
                case SendControl(number, body):
                    path.connection.send_overlay(VXLAN, number, body)
                case SendBeat(token):
                    self._beat(peer, token)
                case SetMode(accept, send):
                    if accept == send:
                        self.counters["vxlan_switches"] += 1
                    if accept and send:
                        log.info("%s: the kernel carries the frames (VXLAN)", format_peer_name(peer))
                    elif not accept:
                        why = path.link.trouble(trio.current_time())
                        log.info("%s: sleeve carries the frames; %s", format_peer_name(peer), why)
                    self._touch(peer)

    def _beat(self, peer: PeerName, token: bytes) -> None:
        destination, source = _station(peer), _station(self._mesh.ourselves)
        for full in (False, True):
            frame = encode_heartbeat(destination, source, token, mtu=self._settings.mtu, full=full)
            if not self._heartbeats.send(frame):
                self.counters["vxlan_beats_refused"] += 1

    async def _hear(self) -> None:
        while True:
            try:
                await self._heartbeats.wait()
            except trio.ClosedResourceError:  # there is another one, on a new device
                await trio.lowlevel.checkpoint()
                continue
            now = trio.current_time()
            for frame in self._heartbeats.receive():
                beat = decode_heartbeat(frame, self._settings.mtu)
                path = None if beat is None else self._path_of(beat.source)
                if beat is None or path is None:
                    self.counters["vxlan_beats_unknown"] += 1
                else:
                    self._perform(path, path.link.heartbeat(beat.token, full=beat.full, now=now))

    def _path_of(self, station: bytes) -> _Path | None:
        peer = self._stations.get(station)
        return None if peer is None else self._paths.get(peer)

    async def _run_timers(self) -> None:
        while True:
            now = trio.current_time()
            for path in list(self._paths.values()):
                if now >= path.link.next_timer:
                    self._perform(path, path.link.handle_timer(now))
            for peer, kept in list(self._kept.items()):
                if now >= kept.until or self._is_elsewhere(peer, kept, now):
                    del self._kept[peer]
                    self._touch(peer)
            times = [path.link.next_timer for path in self._paths.values()]
            for kept in self._kept.values():
                settled = kept.lost_at + ELSEWHERE_S
                times.append(settled if settled > now else min(kept.until, now + BEAT_S))
            self._timers = trio.Event()
            with trio.move_on_at(min(times, default=float("inf"))):
                await self._timers.wait()
            await trio.lowlevel.checkpoint()

    def _is_elsewhere(self, peer: PeerName, kept: _Kept, now: float) -> bool:
        """Whether the peer's same life can be reached by way of others, so that sleeve serves it."""
        record = self._mesh.topology.records.get(peer)
        return (
            now - kept.lost_at >= ELSEWHERE_S
            and record is not None
            and record.uid == kept.uid
            and peer in self._mesh.routes.unicast
        )

    # --- addresses --------------------------------------------------------------------------------------------------

    async def _watch_local(self) -> None:
        leave_out = frozenset((self._tap, self._settings.device))
        while True:
            try:
                async with self._host.watch_local_addresses(self._settings.bridge, leave_out) as changes:
                    first = True
                    async for added, removed in changes:
                        # The first are all that there are; some may have gone while nobody watched.
                        self._local_changed(added, self._local.keys() - added if first else removed)
                        first = False
            except HostError as error:
                self._complain("watch", "The addresses of containers cannot be watched", error)
            await trio.sleep(RETRY_S)

    def _local_changed(self, added: Set[bytes], removed: Set[bytes]) -> None:
        gone, new = sorted(removed), sorted(added - self._local.keys())
        for mac in gone:
            self._local.pop(mac, None)
        self._local.update(dict.fromkeys(new))
        self._dirty_macs.update(dict.fromkeys((*gone, *new)))
        self._changed.set()
        for path in self._paths.values():
            self._tell(path, MacsOperation.REMOVED, gone)
            self._tell(path, MacsOperation.ADDED, new)

    @staticmethod
    def _tell(path: _Path, operation: MacsOperation, macs: Iterable[bytes]) -> None:
        for body in encode_macs(operation, macs):
            path.connection.send_overlay(VXLAN, Number.MACS, body)

    def _learn(self, peer: PeerName, body: bytes, now: float) -> None:
        """A peer tells of its containers' addresses. Raises `ProtocolError`."""
        told = decode_macs(body)
        changed = self._addresses.tell(peer, told)
        for mac in changed:
            self._dirty_macs[mac] = None
            owner = self._addresses.owner(mac)
            ours = mac in self._local or mac == _station(self._mesh.ourselves)
            if owner is not None and not ours and self._data_plane is not None:
                self._data_plane.forwarder.macs.learn_remote(mac, owner, now)
        if told.operation is MacsOperation.ALL and peer in self._programmed:  # some may be left from before a restart
            self._dirty_macs.update(self._programmed[peer].macs)
        self._changed.set()

    # --- making it so -----------------------------------------------------------------------------------------------

    def _touch(self, peer: PeerName) -> None:
        self._dirty[peer] = None
        self._changed.set()

    def _wanted(self, peer: PeerName) -> _Programmed | None:
        """What host and data plane are to have of a peer, the addresses aside; None for nothing."""
        path = self._paths.get(peer)
        if path is not None:
            return _Programmed(path.remote, path.link.send, path.link.accept)
        kept = self._kept.get(peer)
        return None if kept is None else _Programmed(kept.remote, send=True, accept=True)

    async def _program(self) -> None:
        next_look = trio.current_time() + LOOK_S
        while True:
            with trio.move_on_at(next_look):
                await self._changed.wait()
            try:
                if trio.current_time() >= next_look:
                    next_look = trio.current_time() + LOOK_S
                    await self._look()
                self._changed = trio.Event()
                await self._reconcile()
            except HostError as error:
                self._complain("program", "The kernel's VXLAN cannot be programmed", error)
                self._withdraw()
                await self._recover()

    async def _look(self) -> None:
        """Somebody may have flushed the rules; and how much has the kernel carried?"""
        if self._allowed is not None:
            await self._host.allow_vxlan(self._settings.port, *self._allowed)
        received, sent = await self._host.device_bytes(self._settings.device)
        self.counters["vxlan_bytes_received"], self.counters["vxlan_bytes_sent"] = received, sent

    async def _recover(self) -> None:
        while True:
            await trio.sleep(RETRY_S)
            try:
                await self._start_over()
            except HostError as error:
                self._complain("start over", "The kernel's VXLAN cannot be set up again", error)
            else:
                return

    def _withdraw(self) -> None:
        """Have sleeve carry everything at once, and the neighbours, too."""
        for path in self._paths.values():
            self._perform(path, path.link.abandon(trio.current_time()))
        self._programmed.clear()
        self._publish()

    def _complain(self, key: str, what: str, error: HostError) -> None:
        if self._log_limit.allows(key, trio.current_time()):
            log.warning("%s: %s; trying again", what, error)

    async def _start_over(self) -> None:
        """Whatever the host has by now is not what we think: take all away, and let it be made again."""
        settings = self._settings
        self._allowed = None
        await self._allow(frozenset(), frozenset())
        await self._clear(list(await self._host.open_vxlan(settings)))
        before, self._heartbeats = (
            self._heartbeats,
            self._host.open_heartbeats(settings.device, settings.bridge),
        )
        before.close()
        self._stations.clear()
        self._placed.clear()
        self._dirty.update(dict.fromkeys((*self._paths, *self._kept)))
        self._changed.set()

    async def _reconcile(self) -> None:
        """Take away, tell the data plane, then add; whatever changes meanwhile comes next."""
        settings = self._settings
        dirty, self._dirty = list(self._dirty), {}
        remove: list[VxlanEntry] = []
        unlearn: list[bytes] = []
        add: list[VxlanEntry] = []
        behind_tap: list[bytes] = []
        for peer in dirty:
            before, wanted = self._programmed.get(peer), self._wanted(peer)
            if before is not None and (wanted is None or wanted.remote != before.remote):
                remove.append(VxlanEntry(_station(peer), before.remote))
            if wanted is not None and (before is None or wanted.remote != before.remote):
                add.append(VxlanEntry(_station(peer), wanted.remote))
            sent_before, sent = before is not None and before.send, wanted is not None and wanted.send
            moved = before is not None and wanted is not None and before.remote != wanted.remote
            if before is not None and sent_before and (not sent or moved):
                remove.append(VxlanEntry(FLOOD, before.remote))
                remove += [VxlanEntry(mac, before.remote, learned=True) for mac in before.macs]
                unlearn += [_station(peer), *before.macs]
                for mac in before.macs:
                    del self._placed[mac]
                before.macs.clear()
            if wanted is not None and sent and (not sent_before or moved):
                add.append(VxlanEntry(FLOOD, wanted.remote))
                self._dirty_macs.update(dict.fromkeys((_station(peer), *self._addresses.of(peer))))
                behind_tap += self._learned_at(peer)
            if wanted is None:
                self._programmed.pop(peer, None)
                if self._stations.get(_station(peer)) == peer:
                    del self._stations[_station(peer)]
                self._dirty_macs.update(dict.fromkeys(self._addresses.forget(peer)))
            elif before is None:
                self._programmed[peer] = wanted
                self._stations[_station(peer)] = peer
            else:
                before.remote, before.send, before.accept = wanted.remote, wanted.send, wanted.accept
        macs, self._dirty_macs = list(self._dirty_macs), {}
        learn = self._place(macs, remove, unlearn, add)
        known = frozenset(programmed.remote for programmed in self._programmed.values())
        data = frozenset(programmed.remote for programmed in self._programmed.values() if programmed.accept)
        await self._change(remove=remove, unlearn=unlearn)
        if dirty:
            await self._allow(known, data & self._accepted_now())
            self._publish()
            await self._allow(known, data)
        if behind_tap:
            await self._host.forget_behind(settings.bridge, self._tap, behind_tap)
        await self._change(add=add, learn=learn)

    def _place(
        self, macs: Iterable[bytes], remove: list[VxlanEntry], unlearn: list[bytes], add: list[VxlanEntry]
    ) -> list[bytes]:
        """Have these addresses lead to their owners; returns those that the bridge is to send to the device."""
        learn = []
        for mac in macs:
            if mac == _station(self._mesh.ourselves):
                continue  # our own bridge's, whatever a peer claims
            if mac in self._stations:  # a peer's own address: its entry in the device's table is there always
                if self._programmed[self._stations[mac]].send:
                    learn.append(mac)
                continue
            owner = None if mac in self._local else self._addresses.owner(mac)
            place = None if owner is None else self._programmed.get(owner)
            if place is not None and not place.send:
                place = owner = None
            before = self._placed.get(mac)
            if before == owner or (before is None and place is None):
                continue
            if before is not None:
                programmed = self._programmed[before]
                del programmed.macs[mac], self._placed[mac]
                remove.append(VxlanEntry(mac, programmed.remote, learned=True))
                unlearn.append(mac)
            if place is not None and owner is not None:
                place.macs[mac] = None
                self._placed[mac] = owner
                add.append(VxlanEntry(mac, place.remote, learned=True))
                learn.append(mac)
        return learn

    async def _allow(self, heartbeats: frozenset[IPv4Address], data: frozenset[IPv4Address]) -> None:
        if self._allowed != (heartbeats, data):
            await self._host.allow_vxlan(self._settings.port, heartbeats, data)
            self._allowed = (heartbeats, data)

    def _learned_at(self, peer: PeerName) -> list[bytes]:
        """Addresses of a peer that the bridge has learned at the TAP, perhaps."""
        if self._data_plane is None:
            return []
        return [mac for mac, entry in self._data_plane.forwarder.macs.entries() if entry.peer == peer]

    def _accepted_now(self) -> frozenset[IPv4Address]:
        """Whose frames are taken from the kernel, as far as the data plane knows."""
        accepted = self._published.accepted_from
        return frozenset(self._programmed[peer].remote for peer in accepted if peer in self._programmed)

    def _publish(self) -> None:
        programmed = self._programmed.items()
        self._published = KernelPeers(
            frozenset(peer for peer, entry in programmed if entry.send),
            frozenset(peer for peer, entry in programmed if entry.accept),
        )
        if self._data_plane is not None:
            self._data_plane.publish_kernel(self._published)


def _station(peer: PeerName) -> bytes:
    """The MAC address of a peer's bridge."""
    return (peer & ~_GROUP_BIT).to_bytes(6)


def _remote_of(connection: MeshConnection) -> IPv4Address | None:
    try:
        return IPv4Address(connection.address.rpartition(":")[0])
    except ValueError:
        return None
