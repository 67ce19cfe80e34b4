"""`FastDatapath`: what host and data plane are told, in which order, and what of it outlives connections and routers.

The host is the recorder; `Remote` is a neighbour with a real `VxlanLink`, whose heartbeats pass where firewall and
forwarding entries let them. After each call it is examined that no frame could take two ways (`CheckedHost`).
"""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from weave_router.control.gossip import Outbox
from weave_router.control.mesh import Mesh, MeshConnection
from weave_router.control.routes import Routes
from weave_router.control.targets import Targets
from weave_router.dataplane.data_plane import DataPlane
from weave_router.doors import VxlanEntry, VxlanSettings
from weave_router.errors import HostError
from weave_router.host.fdb_watch import SETTLE_S
from weave_router.shell.fast_datapath import (
    ADOPTED_S,
    ELSEWHERE_S,
    FLOOD,
    KEEP_S,
    LOOK_S,
    RETRY_S,
    VNI,
    FastDatapath,
)
from weave_router.testing.hosts import Call, RecordingHost
from weave_router.testing.scripted_packet_io import ScriptedPacketIO
from weave_router.testing.simulated_run import seeded_scheduler
from weave_router.vxlan.link import BEAT_S, LONGEST_PROOF_S, LOST_S, PROOF_S, Action, SendBeat, SendControl, VxlanLink
from weave_router.vxlan.messages import (
    MacsOperation,
    Number,
    decode_heartbeat,
    decode_macs,
    encode_heartbeat,
    encode_macs,
)
from weave_router.wire.envelope import Tag
from weave_router.wire.features import SLEEVE, VXLAN, Features
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import Link, PeerRecord

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from weave_router.dataplane.forwarder import KernelPeers

OURS = PeerName(0x02_00_00_00_05_00)
MTU = 1376
DEVICE, BRIDGE, TAP, PORT = "weave-vxlan", "weave", "weave-tap", "vethwe1"
SETTINGS = VxlanSettings(device=DEVICE, bridge=BRIDGE, port=6784, vni=VNI, mtu=MTU)
TICK_S = 0.1
SOON_S = PROOF_S + 3 * BEAT_S
"""A path that is well is in use."""
GONE_S = LOST_S + 2 * BEAT_S
"""A path that is lost is left."""
WEB, DB, MAIL = (bytes.fromhex(f"0600000000{number:02x}") for number in (1, 2, 3))
PROGRAMMING = ("program_vxlan", "allow_vxlan", "forget_behind", "open_vxlan")


def station(name: int) -> bytes:
    """The MAC address of a peer's bridge: its name without the group bit."""
    return (name & ~(1 << 40)).to_bytes(6)


def address(number: int) -> IPv4Address:
    return IPv4Address("192.0.2.0") + number


class CheckedHost(RecordingHost):
    """The recorder, and what must be true after each of its calls."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.is_checked = True

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
        assert remove or add or unlearn or learn, "a call that changes nothing"
        await super().program_vxlan(device, bridge, remove, add, unlearn, learn, tap=tap)
        self.check()

    async def allow_vxlan(self, port: int, heartbeats: frozenset[IPv4Address], data: frozenset[IPv4Address]) -> None:
        await super().allow_vxlan(port, heartbeats, data)
        self.check()

    def check(self) -> None:
        """No frame of ours goes both ways, none of theirs is taken from both."""
        published = self._world.published
        if published is None or not self.is_checked:
            return
        sent_to = {each for peer in published.sent_to for each in self._world.addresses[peer]}
        accepted_from = {each for peer in published.accepted_from for each in self._world.addresses[peer]}
        entries = self.devices[DEVICE].entries
        assert {entry.remote for entry in entries if entry.mac == FLOOD} <= sent_to, "sent by kernel and by sleeve"
        if self.allowed is not None:
            assert self.allowed.data <= accepted_from, "accepted from the kernel and by sleeve"
            assert self.allowed.data <= self.allowed.heartbeats

    @property
    def entries(self) -> set[VxlanEntry]:
        return set(self.devices[DEVICE].entries)

    @property
    def flooded(self) -> set[IPv4Address]:
        return {entry.remote for entry in self.entries if entry.mac == FLOOD}

    @property
    def placed(self) -> dict[bytes, IPv4Address]:
        """Containers' addresses in the device's table."""
        return {entry.mac: entry.remote for entry in self.entries if entry.learned}

    @property
    def learned(self) -> set[bytes]:
        """What the bridge sends to the device."""
        return {mac for mac, port in self.devices[BRIDGE].table.items() if port == DEVICE}


class Plane(DataPlane):
    """A data plane that writes into the host's list of calls what it is told."""

    def __init__(self, world: World, mesh: Mesh) -> None:
        super().__init__(ScriptedPacketIO(), mesh.routes)
        self._world = world

    def publish_kernel(self, kernel: KernelPeers) -> None:
        super().publish_kernel(kernel)
        self._world.host.calls.append(Call("publish", (kernel,)))
        self._world.published = kernel
        self._world.host.check()


class Remote:
    """A neighbour, and what it has been told."""

    def __init__(self, world: World, number: int, *, name: int | None = None) -> None:
        self.world = world
        self.name = PeerName(0x02_00_00_00_00_00 + number if name is None else name)
        self.address = address(number)
        self.uid = 1000 + number
        self.macs: dict[bytes, None] = {}
        """Addresses that it claims."""
        self.blocked = False
        """Whether the underlay takes heartbeats."""
        self.link: VxlanLink
        self.connection: MeshConnection
        self.is_connected = False
        self.told: list[tuple[int, bytes]] = []
        """Control messages that have come, heartbeats' affairs aside."""
        self.known: dict[bytes, None] = {}
        """Our containers' addresses, as far as it has heard."""
        world.remotes[self.name] = self

    def connect(
        self,
        *,
        encrypted: bool = False,
        overlays: tuple[str, ...] = (VXLAN, SLEEVE),
        at: str | None = None,
        resumed: bool | None = None,
    ) -> None:
        """Have a connection from now on; with one that exists, a second that replaces it."""
        if resumed is None:
            resumed = self.is_connected and self.link.in_use
        self.connection = MeshConnection(
            peer=self.name,
            features=Features(name=self.name, nickname="", uid=self.uid, connection_half=0, overlays=overlays),
            address=at or f"{self.address}:40000",
            outbound=False,
            uid=7,
            overlays=overlays,
            outbox=Outbox(OURS, lambda: None),
            last_heard=trio.current_time(),
        )
        self.is_connected = True
        self.world.addresses.setdefault(self.name, set()).add(self.address)
        self.link = VxlanLink(
            self.name,
            OURS,
            token=bytes([self.world.chance.randrange(256) for _ in range(8)]),
            mtu=MTU,
            now=trio.current_time(),
            resumed=resumed,
        )
        self.world.datapath.added(self.connection, encrypted=encrypted)
        if VXLAN in overlays:
            self._perform(self.link.start())
            self.claim(MacsOperation.ALL, *self.macs)

    def disconnect(self) -> None:
        self.is_connected = False
        self.world.datapath.removed(self.connection)

    def say(self, number: int, body: bytes = b"") -> None:
        self.world.datapath.control(self.connection, number, body)

    def claim(self, operation: MacsOperation, *macs: bytes) -> None:
        if operation is MacsOperation.ALL:
            self.macs.clear()
        for mac in macs:
            if operation is MacsOperation.REMOVED:
                self.macs.pop(mac, None)
            else:
                self.macs[mac] = None
        for body in encode_macs(operation, macs):
            self.say(Number.MACS, body)

    @property
    def in_use(self) -> bool:
        """Whether both sides use the path."""
        ours = self.world.datapath.link_of(self.name)
        return self.is_connected and self.link.in_use and ours is not None and ours.in_use

    @property
    def is_left(self) -> bool:
        ours = self.world.datapath.link_of(self.name)
        return ours is None or not (self.link.accept or self.link.send or ours.accept or ours.send)

    def step(self) -> None:
        """Do what is due."""
        if not self.is_connected:
            return
        now = trio.current_time()
        while (message := self.connection.outbox.pop()) is not None:
            tag, index, number, body = message[0], message[1], message[2], message[3:]
            assert tag == Tag.OVERLAY
            assert self.connection.overlays[index] == VXLAN
            if number == Number.MACS:
                self._hear_macs(body)
            elif number == Number.BYE:
                self.told.append((number, body))
                self._perform(self.link.farewell(now))
            else:
                self._perform(self.link.control(number, body, now))
        if now >= self.link.next_timer:
            self._perform(self.link.handle_timer(now))

    def _hear_macs(self, body: bytes) -> None:
        self.told.append((Number.MACS, body))
        told = decode_macs(body)
        if told.operation is MacsOperation.ALL:
            self.known.clear()
        for mac in told.macs:
            if told.operation is MacsOperation.REMOVED:
                self.known.pop(mac, None)
            else:
                self.known[mac] = None

    def beaten(self, frame: bytes) -> None:
        """A frame of ours comes."""
        beat = decode_heartbeat(frame, MTU)
        assert beat is not None
        assert beat.source == station(OURS)
        if self.is_connected and not self.blocked:
            self._perform(self.link.heartbeat(beat.token, full=beat.full, now=trio.current_time()))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case SendControl(number, body):
                    self.say(number, body)
                case SendBeat(token):
                    allowed = self.world.host.allowed  # without rules all are let in
                    if not self.blocked and (allowed is None or self.address in allowed.heartbeats):
                        for full in (False, True):
                            source = station(self.name)
                            frame = encode_heartbeat(station(OURS), source, token, mtu=MTU, full=full)
                            self.world.host.heartbeats.deliver(frame)


class World:
    """A host, a router on it or none, and its neighbours."""

    def __init__(self) -> None:
        self.chance = random.Random(1)
        self.addresses: dict[PeerName, set[IPv4Address]] = {}
        """Where peers are, or were."""
        self.remotes: dict[PeerName, Remote] = {}
        self.published: KernelPeers | None = None
        self.host = CheckedHost(self)
        self.datapath: FastDatapath
        self.plane: Plane
        self.mesh: Mesh

    async def bridge(self) -> None:
        """What is there before the fast datapath."""
        if BRIDGE not in self.host.devices:
            await self.host.ensure_bridge(BRIDGE, station(OURS).hex(":"), MTU)
            for name in (TAP, PORT):
                self.host.add_device(name)
                await self.host.join_bridge(name, BRIDGE, mtu=MTU, isolated=name == TAP)

    def make(self) -> None:
        """A router that has not begun yet."""
        self.published = None
        self.mesh = Mesh(
            PeerRecord(OURS, "ours", 1),
            Targets(OURS, 6783, self.chance),
            overlays=(VXLAN, SLEEVE),
            connection_limit=0,
            random=self.chance,
            now=trio.current_time(),
        )
        self.plane = Plane(self, self.mesh)
        self.datapath = FastDatapath(self.host, SETTINGS, TAP, self.mesh, random=self.chance)

    @asynccontextmanager
    async def router(self) -> AsyncIterator[None]:
        """A router; at the end it crashes, and what it has programmed stays."""
        await self.bridge()
        self.make()
        await self.datapath.begin()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.datapath.run, self.plane)
                nursery.start_soon(self._run_remotes)
                await trio.sleep(TICK_S)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self.published = None
            for remote in self.remotes.values():
                remote.is_connected = False

    async def _run_remotes(self) -> None:
        while True:
            for remote in self.remotes.values():
                remote.step()
            sent, self.host.heartbeats.sent[:] = list(self.host.heartbeats.sent), []
            stations = {station(remote.name): remote for remote in self.remotes.values()}
            for frame in sent:
                remote = stations[frame[:6]]
                if VxlanEntry(station(remote.name), remote.address) in self.host.entries:
                    remote.beaten(frame)
            await trio.sleep(TICK_S)

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for something that must be so in time."""
        end = trio.current_time() + seconds
        while not condition():
            assert trio.current_time() < end, f"not so after {seconds} s"
            await trio.sleep(TICK_S)

    async def neighbour(self, number: int, *macs: bytes) -> Remote:
        """A neighbour with whom the kernel exchanges frames."""
        remote = Remote(self, number)
        remote.macs = dict.fromkeys(macs)
        remote.connect()
        await self.until(lambda: remote.in_use, SOON_S)
        await self.settle()
        return remote

    async def settle(self) -> None:
        """What has been told is programmed."""
        await trio.sleep(2 * TICK_S + 2 * SETTLE_S)

    def local(self, mac: bytes) -> None:
        """A container of this host sends a frame."""
        self.host.frame_came(BRIDGE, PORT, mac)

    def changes(self) -> list[str]:
        """The calls since the last time that change something, by name."""
        calls = [call.method for call in self.host.calls if call.method in (*PROGRAMMING, "publish")]
        self.host.calls.clear()
        return calls

    def knows(self, *, sent: Iterable[Remote] = (), accepted: Iterable[Remote] = ()) -> None:
        """The data plane serves by sleeve all but these."""
        assert self.published is not None
        assert self.published.sent_to == {remote.name for remote in sent}
        assert self.published.accepted_from == {remote.name for remote in accepted}


def in_world(check: Callable[[World], Awaitable[None]], seed: int = 0) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await check(World())

        with seeded_scheduler(seed):
            trio.run(main, clock=MockClock(autojump_threshold=0))

    run.__doc__ = check.__doc__
    return run


def frames_of(remote: Remote) -> set[VxlanEntry]:
    """Entries of a neighbour that the kernel serves, containers aside."""
    return {VxlanEntry(station(remote.name), remote.address), VxlanEntry(FLOOD, remote.address)}


# --- a neighbour comes, and its path is well ------------------------------------------------------------------------


@in_world
async def test_without_neighbours_the_device_is_there_and_shut(world: World) -> None:
    async with world.router():
        assert world.host.devices[DEVICE].vxlan == SETTINGS
        assert world.host.entries == set()
        assert world.host.allowed is not None
        assert (world.host.allowed.heartbeats, world.host.allowed.data) == (frozenset(), frozenset())
        world.knows()


@in_world
async def test_a_new_neighbour_is_heard_but_sends_by_sleeve_at_first(world: World) -> None:
    async with world.router():
        remote = Remote(world, 1)
        remote.connect()
        await world.settle()
        assert world.host.entries == {VxlanEntry(station(remote.name), remote.address)}
        assert world.host.allowed is not None
        assert world.host.allowed.heartbeats == {remote.address}
        assert world.host.allowed.data == frozenset()
        world.knows()


@in_world
async def test_a_path_that_is_well_is_used(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1)
        assert world.host.entries == frames_of(remote)
        assert world.host.learned == {station(remote.name)}
        assert world.host.allowed is not None
        assert world.host.allowed.data == {remote.address}
        world.knows(sent=[remote], accepted=[remote])
        assert world.datapath.counters["vxlan_switches"] == 1


@pytest.mark.parametrize("number", [1, 0x0600], ids=["the peer leads", "we lead"])
def test_the_host_is_changed_around_what_the_data_plane_is_told(number: int) -> None:
    """Sleeve to kernel: shut, tell, open, add. Kernel to sleeve: remove, shut, tell."""

    @in_world
    async def check(world: World) -> None:
        async with world.router():
            remote = Remote(world, 1, name=0x02_00_00_00_00_00 + number)
            remote.connect()
            await world.settle()
            world.changes()
            await world.until(lambda: remote.in_use, SOON_S)
            await world.settle()
            if number == 1:
                assert world.changes() == ["publish", "allow_vxlan", "program_vxlan"]
            else:  # we accept first, and send when the peer has said that it accepts
                assert world.changes() == ["publish", "allow_vxlan", "publish", "program_vxlan"]
            remote.blocked = True
            await world.until(lambda: remote.is_left, GONE_S)
            await world.settle()
            assert world.changes() == ["program_vxlan", "allow_vxlan", "publish"]
            assert world.host.entries == {VxlanEntry(station(remote.name), remote.address)}
            assert world.host.learned == set()
            assert world.host.allowed is not None
            assert world.host.allowed.data == frozenset()
            assert world.host.allowed.heartbeats == {remote.address}
            world.knows()

    check()


@in_world
async def test_a_path_that_comes_and_goes_leaves_nothing_behind(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        for _ in range(3):
            remote.blocked = True
            await world.until(lambda: remote.is_left, GONE_S)
            await world.settle()
            assert world.host.learned == set()
            assert world.host.placed == {}
            remote.blocked = False
            await world.until(lambda: remote.in_use, LONGEST_PROOF_S + SOON_S)
            await world.settle()
            assert world.host.entries == frames_of(remote) | {VxlanEntry(WEB, remote.address, learned=True)}
            assert world.host.learned == {station(remote.name), WEB}


@in_world
async def test_what_the_bridge_has_learned_at_the_tap_is_forgotten(world: World) -> None:
    """Or the bridge would go on giving these frames to the router, who leaves them to the kernel."""
    async with world.router():
        remote = Remote(world, 1)
        remote.connect()
        for mac, peer in ((WEB, remote.name), (MAIL, PeerName(99))):
            world.plane.forwarder.macs.learn_remote(mac, peer, trio.current_time())
            world.host.frame_came(BRIDGE, TAP, mac)
        await world.until(lambda: remote.in_use, SOON_S)
        await world.settle()
        assert WEB not in world.host.devices[BRIDGE].table
        assert world.host.devices[BRIDGE].table[MAIL] == TAP


@in_world
async def test_heartbeats_are_small_and_full_and_carry_the_peers_token(world: World) -> None:
    async with world.router():
        remote = Remote(world, 1)
        remote.connect()
        await trio.sleep(BEAT_S)
        await trio.sleep(0.6)  # collected in between by `_run_remotes`
        assert remote.link.trouble(trio.current_time() + LOST_S) == "VXLAN is being tried"
        assert world.datapath.counters["vxlan_beats_refused"] == 0
        assert world.datapath.counters["vxlan_beats_unknown"] == 0


@in_world
async def test_heartbeats_that_the_kernel_refuses_are_counted(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1)
        world.host.devices[DEVICE].up = False
        await world.until(lambda: remote.is_left, GONE_S)
        assert world.datapath.counters["vxlan_beats_refused"] >= 2 * (LOST_S / BEAT_S - 1)


@in_world
async def test_made_up_heartbeats_change_nothing(world: World) -> None:
    """A container can send what it likes to the bridge, in anybody's name; it does not know the token."""
    async with world.router():
        remote = Remote(world, 1)
        remote.blocked = True
        remote.connect()
        await world.settle()
        for _ in range(60):
            for source in (station(remote.name), WEB):
                for token in (bytes(8), remote.link.token):
                    for full in (False, True):
                        forged = encode_heartbeat(station(OURS), source, token, mtu=MTU, full=full)
                        world.host.heartbeats.deliver(forged)
            world.host.heartbeats.deliver(station(OURS) + station(remote.name) + b"\x88\xb5")
            await trio.sleep(TICK_S)
        link = world.datapath.link_of(remote.name)
        assert link is not None
        assert "nothing comes" in link.trouble(trio.current_time())
        assert world.datapath.counters["vxlan_beats_unknown"] == 5 * 60
        world.knows()


# --- who does not take part -----------------------------------------------------------------------------------------


@in_world
async def test_frames_that_must_be_encrypted_never_take_this_path(world: World) -> None:
    async with world.router():
        remote = Remote(world, 1)
        remote.connect(encrypted=True)
        await trio.sleep(30)
        assert world.datapath.link_of(remote.name) is None
        assert world.host.entries == set()
        assert world.host.allowed is not None
        assert world.host.allowed.heartbeats == frozenset()
        assert remote.told == []
        world.knows()


@in_world
async def test_a_path_in_use_is_given_up_when_the_peer_comes_back_encrypted(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        remote.disconnect()
        await world.settle()
        remote.connect(encrypted=True)
        await world.settle()
        assert world.host.entries == set()
        assert world.host.learned == set()
        assert world.host.allowed is not None
        assert world.host.allowed.data == world.host.allowed.heartbeats == frozenset()
        world.knows()


@in_world
async def test_what_was_adopted_is_given_up_when_the_peer_comes_back_encrypted(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
    async with world.router():
        assert world.host.flooded == {remote.address}
        remote.connect(encrypted=True)
        await world.settle()
        assert world.host.entries == set()
        world.knows()


@pytest.mark.parametrize("overlays", [(SLEEVE,), ("fastdp", SLEEVE)])
def test_a_peer_without_vxlan_gets_no_path(overlays: tuple[str, ...]) -> None:
    @in_world
    async def check(world: World) -> None:
        async with world.router():
            remote = Remote(world, 1)
            remote.connect(overlays=overlays)
            await trio.sleep(10)
            assert world.datapath.link_of(remote.name) is None
            assert remote.connection.outbox.pop() is None
            assert world.host.entries == set()

    check()


@pytest.mark.parametrize("at", ["[2001:db8::1]:6783", "nonsense", ""])
def test_a_peer_at_no_ipv4_address_gets_no_path(at: str) -> None:
    @in_world
    async def check(world: World) -> None:
        async with world.router():
            remote = Remote(world, 1)
            remote.connect(at=at or ":")
            await trio.sleep(10)
            assert world.datapath.link_of(remote.name) is None
            assert world.host.entries == set()

    check()


@in_world
async def test_of_two_peers_behind_one_address_the_first_has_the_path(world: World) -> None:
    async with world.router():
        first = await world.neighbour(1, WEB)
        second = Remote(world, 2)
        second.address = first.address
        second.macs = {DB: None}
        second.connect()
        await trio.sleep(30)
        assert world.datapath.link_of(second.name) is None
        assert first.in_use
        assert world.host.entries == frames_of(first) | {VxlanEntry(WEB, first.address, learned=True)}
        world.knows(sent=[first], accepted=[first])
        second.disconnect()
        await world.settle()
        assert first.in_use
        assert world.host.flooded == {first.address}


@in_world
async def test_a_host_that_comes_back_with_another_name_takes_over_its_address(world: World) -> None:
    async with world.router():
        first = await world.neighbour(1, WEB)
        first.disconnect()
        await world.settle()
        assert world.host.flooded == {first.address}
        second = Remote(world, 2)
        second.address = first.address
        second.connect()
        await world.settle()
        assert world.host.entries == {VxlanEntry(station(second.name), second.address)}
        world.knows()
        await world.until(lambda: second.in_use, SOON_S)
        await world.settle()
        assert world.host.entries == frames_of(second)
        world.knows(sent=[second], accepted=[second])


@in_world
async def test_a_name_with_the_group_bit_is_no_hindrance(world: World) -> None:
    """A bridge's MAC address cannot have it: there the bit is missing."""
    async with world.router():
        other = await world.neighbour(1)
        remote = Remote(world, 2, name=0x03_00_00_00_00_07)
        remote.connect()
        await world.until(lambda: remote.in_use, SOON_S)
        await world.settle()
        assert world.host.entries == frames_of(remote) | frames_of(other)
        assert other.in_use
        remote.disconnect()
        await trio.sleep(KEEP_S + 1)
        assert world.host.entries == frames_of(other)
        assert other.in_use


@in_world
async def test_a_restarted_router_serves_a_name_with_the_group_bit_again(world: World) -> None:
    """The forwarding entry does not tell the name; the path may have to be proved again, but not for ever."""
    async with world.router():
        remote = Remote(world, 2, name=0x03_00_00_00_00_07)
        remote.connect()
        await world.until(lambda: remote.in_use, SOON_S)
        await world.settle()
    world.addresses[PeerName(0x02_00_00_00_00_07)] = {remote.address}
    async with world.router():
        remote.connect(resumed=False)
        await world.until(lambda: remote.in_use, 2 * SOON_S)
        await world.settle()
        assert world.host.entries == frames_of(remote)


# --- connections end ------------------------------------------------------------------------------------------------


@in_world
async def test_a_peer_whose_connection_has_ended_keeps_its_entries_for_a_while(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        before = world.host.entries
        world.changes()
        remote.disconnect()
        await trio.sleep(KEEP_S - 1)
        assert world.changes() in ([], ["publish"], ["publish", "allow_vxlan"])  # the look after the rules
        assert world.host.entries == before
        assert world.host.allowed is not None
        assert world.host.allowed.data == {remote.address}
        world.knows(sent=[remote], accepted=[remote])
        await trio.sleep(2)
        assert world.host.entries == set()
        assert world.host.learned == set()
        assert world.host.allowed.data == world.host.allowed.heartbeats == frozenset()
        world.knows()


@in_world
async def test_a_peer_that_comes_back_in_time_has_never_been_away(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        remote.disconnect()
        await trio.sleep(KEEP_S / 2)
        messages = world.host.messages
        remote.connect(resumed=True)
        await trio.sleep(60)
        assert remote.in_use
        assert world.host.messages == messages
        link = world.datapath.link_of(remote.name)
        assert link is not None
        assert link.switches == remote.link.switches == 0


@in_world
async def test_a_peer_that_comes_back_without_memory_proves_itself_anew(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        remote.disconnect()
        await trio.sleep(1)
        remote.uid += 1
        remote.connect(resumed=False)
        await world.settle()
        assert world.host.flooded == set()
        world.knows()
        await world.until(lambda: remote.in_use, 2 * PROOF_S + SOON_S)
        await world.settle()
        assert world.host.entries == frames_of(remote) | {VxlanEntry(WEB, remote.address, learned=True)}


@in_world
async def test_a_peer_that_comes_back_from_another_address_proves_itself_anew(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        remote.disconnect()
        await world.settle()
        remote.address = address(9)
        remote.connect(resumed=False)
        await world.settle()
        assert world.host.entries == {VxlanEntry(station(remote.name), address(9))}
        world.knows()
        await world.until(lambda: remote.in_use, SOON_S)
        await world.settle()
        assert world.host.entries == frames_of(remote) | {VxlanEntry(WEB, address(9), learned=True)}


@in_world
async def test_what_was_proved_at_one_address_is_not_believed_of_another(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1)
        remote.disconnect()
        await world.settle()
        remote.address = address(9)
        remote.connect(resumed=True)
        link = world.datapath.link_of(remote.name)
        assert link is not None
        assert not link.accept
        assert not link.send
        await world.settle()
        assert world.host.flooded == set()


@in_world
async def test_two_peers_may_exchange_their_addresses(world: World) -> None:
    async with world.router():
        first, second = await world.neighbour(1, WEB), await world.neighbour(2, DB)
        for remote in (first, second):
            remote.disconnect()
        await world.settle()
        first.address, second.address = second.address, first.address
        for remote in (first, second):
            remote.connect(resumed=False)
        await world.until(lambda: first.in_use and second.in_use, 2 * SOON_S)
        await world.settle()
        assert world.host.placed == {WEB: first.address, DB: second.address}
        assert world.host.entries >= frames_of(first) | frames_of(second)


@in_world
async def test_a_path_that_was_not_in_use_is_removed_at_once(world: World) -> None:
    async with world.router():
        remote = Remote(world, 1)
        remote.connect()
        await world.settle()
        remote.disconnect()
        await world.settle()
        assert world.host.entries == set()
        assert world.host.allowed is not None
        assert world.host.allowed.heartbeats == frozenset()


@in_world
async def test_a_peer_that_can_be_reached_by_others_is_not_waited_for(world: World) -> None:
    async with world.router():
        remote, relay = await world.neighbour(1), PeerName(77)
        pairs = {OURS: (relay,), relay: (OURS, remote.name), remote.name: (relay,)}
        uids = {OURS: 1, relay: 5, remote.name: remote.uid}
        for name, others in pairs.items():
            links = tuple(Link(other, "", outbound=True, established=True) for other in others)
            world.mesh.topology.records[name] = PeerRecord(name, "", uids[name], 1, links=links)
        world.mesh.routes = Routes(OURS, world.mesh.topology.records)
        remote.disconnect()
        await trio.sleep(ELSEWHERE_S - 1)
        assert world.host.flooded == {remote.address}
        await trio.sleep(2)
        assert world.host.entries == set()
        world.knows()


@in_world
async def test_a_peer_that_others_have_seen_restarted_is_waited_for(world: World) -> None:
    """Its new life has not come to us yet; its kernel is at work all the time."""
    async with world.router():
        remote, relay = await world.neighbour(1), PeerName(77)
        pairs = {OURS: (relay,), relay: (OURS, remote.name), remote.name: (relay,)}
        uids = {OURS: 1, relay: 5, remote.name: remote.uid + 1}
        for name, others in pairs.items():
            links = tuple(Link(other, "", outbound=True, established=True) for other in others)
            world.mesh.topology.records[name] = PeerRecord(name, "", uids[name], 1, links=links)
        world.mesh.routes = Routes(OURS, world.mesh.topology.records)
        remote.disconnect()
        await trio.sleep(KEEP_S - 1)
        assert world.host.flooded == {remote.address}


@in_world
async def test_a_connection_that_replaces_another_goes_on_with_its_path(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        old, messages = remote.connection, world.host.messages
        remote.connect()
        world.datapath.removed(old)  # comes afterwards
        await trio.sleep(30)
        assert remote.in_use
        assert world.host.messages == messages


@in_world
async def test_messages_of_a_replaced_connection_are_ignored(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1)
        old = remote.connection
        remote.connect()
        for number, body in ((Number.MODE, b"\0"), (Number.BYE, b""), (Number.MACS, b"\2" + WEB)):
            world.datapath.control(old, number, body)
        await world.settle()
        assert remote.in_use
        assert world.host.placed == {}


# --- goodbye --------------------------------------------------------------------------------------------------------


@in_world
async def test_a_peer_that_stops_for_good_is_left_at_once(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        remote.say(Number.BYE)
        await world.settle()
        assert world.host.flooded == set()
        world.knows()
        remote.disconnect()
        await world.settle()
        assert world.host.entries == set()
        assert world.host.placed == {}


@in_world
async def test_who_stops_for_good_tells_all_neighbours(world: World) -> None:
    async with world.router():
        first, second = await world.neighbour(1), await world.neighbour(2)
        third = Remote(world, 3)
        third.connect(overlays=(SLEEVE,))
        world.datapath.farewell()
        await trio.sleep(2 * TICK_S)
        assert (Number.BYE, b"") in first.told
        assert (Number.BYE, b"") in second.told
        assert not first.link.send
        assert third.told == []


# --- restarted routers ----------------------------------------------------------------------------------------------


@in_world
async def test_a_restarted_router_takes_over_what_it_finds(world: World) -> None:
    async with world.router():
        remotes = [await world.neighbour(1, WEB), await world.neighbour(2, DB)]
        before = world.host.entries
    world.changes()
    async with world.router():
        assert world.host.entries == before
        assert world.host.allowed is not None
        assert world.host.allowed.data == {remote.address for remote in remotes}
        world.knows(sent=remotes, accepted=remotes)
        messages = world.host.messages
        for remote in remotes:
            remote.connect(resumed=True)
        await trio.sleep(60)
        assert world.host.messages == messages
        assert all(remote.in_use for remote in remotes)
        assert all(remote.link.switches == 0 for remote in remotes)


@in_world
async def test_what_is_not_taken_up_again_is_swept(world: World) -> None:
    async with world.router():
        remote, other = await world.neighbour(1, WEB), await world.neighbour(2, DB)
    async with world.router():
        remote.connect(resumed=True)
        await trio.sleep(ADOPTED_S - 2)
        assert world.host.flooded == {remote.address, other.address}
        await trio.sleep(3)
        assert world.host.entries == frames_of(remote) | {VxlanEntry(WEB, remote.address, learned=True)}
        assert world.host.learned == {station(remote.name), WEB}
        assert world.host.allowed is not None
        assert world.host.allowed.data == {remote.address}
        world.knows(sent=[remote], accepted=[remote])


@in_world
async def test_addresses_that_have_gone_during_a_restart_are_removed(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB, DB)
    async with world.router():
        assert world.host.placed == {WEB: remote.address, DB: remote.address}
        remote.macs = {DB: None, MAIL: None}
        remote.connect(resumed=True)
        await world.settle()
        assert world.host.placed == {DB: remote.address, MAIL: remote.address}
        assert world.host.learned == {station(remote.name), DB, MAIL}


@in_world
async def test_only_what_was_complete_is_taken_over(world: World) -> None:
    """The earlier router died half way: a peer without flooding, flooding without a peer, a container of nobody."""
    await world.bridge()
    await world.host.open_vxlan(SETTINGS)
    half, nobody, good = (address(number) for number in (1, 2, 3))
    entries = [
        VxlanEntry(station(1), half),
        VxlanEntry(FLOOD, nobody),
        VxlanEntry(WEB, address(4), learned=True),
        VxlanEntry(station(3), good),
        VxlanEntry(FLOOD, good),
        VxlanEntry(DB, good, learned=True),
    ]
    world.addresses[PeerName(3)] = {good}
    await world.host.program_vxlan(DEVICE, BRIDGE, (), entries, (), (WEB, DB))
    await world.host.allow_vxlan(6784, frozenset({half, nobody, good}), frozenset({half, nobody, good}))
    async with world.router():
        assert world.host.entries == set(entries[3:])
        assert world.host.learned == {DB}
        assert world.host.allowed is not None
        assert world.host.allowed.data == {good}


@in_world
async def test_who_was_not_let_in_is_not_taken_over(world: World) -> None:
    """The firewall says from whom the kernel took frames; without it the host was restarted, or somebody flushed it."""
    async with world.router():
        await world.neighbour(1, WEB)
    world.host.allowed = None
    async with world.router():
        assert world.host.entries == set()
        assert world.host.learned == set()
        world.knows()


@in_world
async def test_where_the_firewall_cannot_be_set_nothing_is_left_open(world: World) -> None:
    """Without rules anybody could send frames to the containers through the device."""
    await world.bridge()
    world.make()
    world.host.fail_next("allow_vxlan", HostError("no nft"))
    with pytest.raises(HostError, match="no nft"):
        await world.datapath.begin()
    assert DEVICE not in world.host.devices


@pytest.mark.parametrize("method", ["vxlan_allowed", "allow_vxlan", "open_vxlan", "program_vxlan", "open_heartbeats"])
def test_who_cannot_begin_takes_away_what_an_earlier_router_left(method: str) -> None:
    """Its kernel would go on sending to neighbours that are served by sleeve from now on, and take whatever comes."""

    @in_world
    async def check(world: World) -> None:
        async with world.router():
            await world.neighbour(1, WEB)
        await world.host.program_vxlan(DEVICE, BRIDGE, (), (VxlanEntry(FLOOD, address(9)),), (), ())  # to be cleared
        world.make()
        world.host.fail_next(method, HostError("not here"))
        with pytest.raises(HostError, match="not here"):
            await world.datapath.begin()
        assert DEVICE not in world.host.devices

    check()


@in_world
async def test_without_a_device_there_is_no_fast_datapath(world: World) -> None:
    await world.bridge()
    world.make()
    world.host.fail_next("open_vxlan", HostError("no VXLAN"))
    with pytest.raises(HostError, match="no VXLAN"):
        await world.datapath.begin()


# --- addresses of the peers' containers -----------------------------------------------------------------------------


@in_world
async def test_claims_are_placed_and_withdrawn(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        assert world.host.placed == {WEB: remote.address}
        assert world.host.learned == {station(remote.name), WEB}
        remote.claim(MacsOperation.ADDED, DB)
        remote.claim(MacsOperation.REMOVED, WEB)
        await world.settle()
        assert world.host.placed == {DB: remote.address}
        assert world.host.learned == {station(remote.name), DB}
        remote.claim(MacsOperation.ALL)
        await world.settle()
        assert world.host.placed == {}
        assert world.host.learned == {station(remote.name)}


@in_world
async def test_the_router_knows_addresses_that_it_never_sees(world: World) -> None:
    """Frames of a container that come through the kernel teach the bridge, not us."""
    async with world.router():
        remote = await world.neighbour(1, WEB)
        assert world.plane.forwarder.macs.owner(WEB) == remote.name


@in_world
async def test_claims_of_a_peer_that_sleeve_serves_are_not_placed(world: World) -> None:
    async with world.router():
        remote = Remote(world, 1)
        remote.blocked = True
        remote.macs = {WEB: None}
        remote.connect()
        await trio.sleep(10)
        assert world.host.placed == {}
        assert world.host.learned == set()


@in_world
async def test_of_two_claims_the_first_counts(world: World) -> None:
    async with world.router():
        first, second = await world.neighbour(1, WEB), await world.neighbour(2)
        messages = world.host.messages
        second.claim(MacsOperation.ADDED, WEB)
        await world.settle()
        assert world.host.placed == {WEB: first.address}
        assert world.host.messages == messages
        first.claim(MacsOperation.REMOVED, WEB)
        await world.settle()
        assert world.host.placed == {WEB: second.address}
        assert WEB in world.host.learned


@in_world
async def test_who_leaves_hands_its_claims_to_the_next(world: World) -> None:
    async with world.router():
        first, second = await world.neighbour(1, WEB), await world.neighbour(2, WEB)
        first.disconnect()
        await trio.sleep(KEEP_S - 1)
        assert world.host.placed == {WEB: first.address}
        await trio.sleep(2)
        assert world.host.placed == {WEB: second.address}
        assert WEB in world.host.learned


@in_world
async def test_an_address_of_our_own_containers_is_never_placed(world: World) -> None:
    async with world.router():
        world.local(WEB)
        await world.settle()
        remote = await world.neighbour(1, WEB)
        assert world.host.placed == {}
        assert world.host.devices[BRIDGE].table[WEB] == PORT
        assert world.plane.forwarder.macs.owner(WEB) != remote.name

        world.host.age(BRIDGE, WEB)  # now it is the peer's
        await world.settle()
        assert world.host.placed == {WEB: remote.address}
        assert WEB in world.host.learned

        world.local(WEB)  # it moves to us
        await world.settle()
        assert world.host.placed == {}
        assert world.host.devices[BRIDGE].table[WEB] == PORT


@in_world
async def test_a_claim_of_our_bridges_address_is_ignored(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1)
        world.changes()
        remote.claim(MacsOperation.ADDED, station(OURS))
        await world.settle()
        assert world.host.placed == {}
        assert world.host.learned == {station(remote.name)}
        assert [call for call in world.changes() if call == "program_vxlan"] == []


@in_world
async def test_a_claim_of_our_bridges_address_does_not_silence_the_host(world: World) -> None:
    """The router drops frames of ours whose source lives at another peer, as far as it knows."""
    async with world.router():
        remote = await world.neighbour(1)
        remote.claim(MacsOperation.ADDED, station(OURS))
        await world.settle()
        assert world.plane.forwarder.macs.owner(station(OURS)) != remote.name


@in_world
async def test_a_claim_of_another_peers_bridge_is_ignored(world: World) -> None:
    async with world.router():
        first, second = await world.neighbour(1), await world.neighbour(2)
        before = world.host.entries
        first.claim(MacsOperation.ADDED, station(second.name), station(first.name))
        await world.settle()
        assert world.host.entries == before
        first.claim(MacsOperation.ALL)
        await world.settle()
        assert world.host.entries == before
        assert world.host.learned == {station(first.name), station(second.name)}


@in_world
async def test_a_peers_bridge_is_its_own_also_if_another_claimed_it_before(world: World) -> None:
    async with world.router():
        first, second = await world.neighbour(1), Remote(world, 2)
        first.claim(MacsOperation.ADDED, station(second.name))
        await world.settle()
        second.connect()
        await world.until(lambda: second.in_use, SOON_S)
        await world.settle()
        assert VxlanEntry(station(second.name), second.address) in world.host.entries
        first.disconnect()
        await trio.sleep(KEEP_S + 1)
        assert world.host.entries == frames_of(second)
        assert world.host.learned == {station(second.name)}


@in_world
async def test_many_addresses_are_placed(world: World) -> None:
    async with world.router():
        macs = [b"\x0a" + number.to_bytes(5) for number in range(1500)]
        remote = await world.neighbour(1, *macs)
        assert world.host.placed == dict.fromkeys(macs, remote.address)


# --- addresses of our own containers --------------------------------------------------------------------------------


@in_world
async def test_our_containers_addresses_are_told(world: World) -> None:
    async with world.router():
        world.local(WEB)
        await world.settle()
        remote = Remote(world, 1)
        remote.connect()
        await world.settle()
        assert remote.told == [(Number.MACS, b"\2" + WEB)]
        world.local(DB)
        await world.settle()
        assert remote.told[1:] == [(Number.MACS, b"\0" + DB)]
        world.host.age(BRIDGE, WEB)
        await world.settle()
        assert remote.told[2:] == [(Number.MACS, b"\1" + WEB)]
        assert set(remote.known) == {DB}


@in_world
async def test_addresses_behind_tap_and_device_are_not_ours(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        world.host.frame_came(BRIDGE, TAP, DB)
        await world.settle()
        assert remote.told == [(Number.MACS, b"\2")]


@in_world
async def test_when_the_watch_of_addresses_fails_peers_are_told_all_anew(world: World) -> None:
    """What has gone meanwhile would stay claimed by us, and the container's new host would claim it in vain."""
    async with world.router():
        remote = await world.neighbour(1)
        world.local(WEB)
        world.local(DB)
        await world.settle()
        assert set(remote.known) == {WEB, DB}
    # A router whose watch fails in its life: the recorder's iterator cannot, so the first one is replaced.
    original, failing = world.host.watch_local_addresses, trio.Event()

    @asynccontextmanager
    async def fails_once(bridge: str, leave_out: frozenset[str]) -> AsyncIterator[object]:
        async with original(bridge, leave_out) as changes:

            async def until_failure() -> AsyncIterator[tuple[frozenset[bytes], frozenset[bytes]]]:
                yield await changes.__anext__()
                await failing.wait()
                raise HostError("the bridge was taken away")

            yield changes if failing.is_set() else until_failure()

    world.host.watch_local_addresses = fails_once  # type: ignore[method-assign, assignment]
    async with world.router():
        remote.connect(resumed=True)
        await world.settle()
        assert set(remote.known) == {WEB, DB}
        failing.set()
        await trio.sleep(1)
        world.host.age(BRIDGE, WEB)
        await trio.sleep(RETRY_S + 1)
        assert set(remote.known) == {DB}


# --- messages that make no sense ------------------------------------------------------------------------------------


@in_world
async def test_bad_messages_are_dropped_counted_and_logged_once(world: World) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("weave_router.shell.fast_datapath")
    logger.addHandler(handler)
    try:
        async with world.router():
            remote = await world.neighbour(1, WEB)
            for _ in range(20):
                for number, body in (
                    (Number.HELLO, b""),
                    (Number.HEARING, b""),
                    (Number.MODE, b""),
                    (Number.MACS, b""),
                    (Number.MACS, b"\7"),
                    (Number.MACS, b"\0" + b"\xff" * 6),
                    (Number.MACS, b"\0" + WEB + b"\0"),
                ):
                    remote.say(number, body)
            remote.say(200, b"whatever")
            await world.settle()
            assert remote.in_use
            assert world.host.placed == {WEB: remote.address}
            assert world.datapath.counters["vxlan_bad_messages"] == 140
            warnings = [record for record in records if record.levelno == logging.WARNING]
            assert len(warnings) == 1
            assert "Dropped a message about VXLAN of 02:00:00:00:00:01" in warnings[0].getMessage()
    finally:
        logger.removeHandler(handler)


@in_world
async def test_messages_of_peers_without_path_are_ignored(world: World) -> None:
    async with world.router():
        remote = Remote(world, 1)
        remote.connect(encrypted=True)
        remote.say(Number.MACS, b"\2" + WEB)
        remote.say(Number.MODE, b"\1")
        remote.say(Number.BYE)
        await world.settle()
        assert world.host.entries == set()
        assert world.plane.forwarder.macs.owner(WEB) is None


# --- when the host refuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["program_vxlan", "allow_vxlan"])
def test_after_a_refusal_all_is_made_again(method: str) -> None:
    @in_world
    async def check(world: World) -> None:
        async with world.router():
            first = await world.neighbour(1, WEB)
            world.host.is_checked = False  # what is there while the host refuses is anybody's guess
            world.host.fail_next(method, HostError("out of memory"))
            second = Remote(world, 2)
            second.macs = {DB: None}
            second.connect()
            await trio.sleep(RETRY_S + LONGEST_PROOF_S + SOON_S)
            assert first.in_use
            assert second.in_use
            world.host.is_checked = True
            world.host.check()
            assert world.host.entries >= frames_of(first) | frames_of(second)
            assert world.host.placed == {WEB: first.address, DB: second.address}
            assert world.host.allowed is not None
            assert world.host.allowed.data == {first.address, second.address}
            world.knows(sent=[first, second], accepted=[first, second])

    check()


@in_world
async def test_a_refusal_does_not_leave_frames_to_a_kernel_that_does_not_send_them(world: World) -> None:
    async with world.router():
        remote = Remote(world, 1)
        remote.connect()
        await world.settle()
        world.host.is_checked = False
        world.host.fail_next("program_vxlan", HostError("out of memory"))  # at the switch
        lost_s = 0.0
        for _ in range(round(20 / TICK_S)):
            await trio.sleep(TICK_S)
            assert world.published is not None
            lost_s += TICK_S * (remote.name in world.published.sent_to and remote.address not in world.host.flooded)
        assert remote.in_use
        assert lost_s < 1


@in_world
async def test_a_refusal_is_told_to_all_neighbours_at_once(world: World) -> None:
    """What they send through the kernel may not arrive."""
    async with world.router():
        first, second = await world.neighbour(1), await world.neighbour(2)
        world.host.is_checked = False
        world.host.fail_next("program_vxlan", HostError("out of memory"))
        first.claim(MacsOperation.ADDED, WEB)
        await world.until(lambda: not first.link.send and not second.link.send, 1)
        world.knows()
        await world.until(lambda: first.in_use and second.in_use, RETRY_S + LONGEST_PROOF_S)
        await world.settle()
        assert world.host.placed == {WEB: first.address}


@in_world
async def test_a_device_that_was_removed_is_made_again(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        world.host.is_checked = False
        await world.host.remove_device(DEVICE)
        await trio.sleep(GONE_S + RETRY_S + LONGEST_PROOF_S + SOON_S)
        assert remote.in_use
        assert world.host.entries == frames_of(remote) | {VxlanEntry(WEB, remote.address, learned=True)}
        assert world.host.allowed is not None
        assert world.host.allowed.data == {remote.address}


@in_world
async def test_while_the_host_refuses_everything_sleeve_carries_the_frames(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1)
        world.host.is_checked = False
        for _ in range(20):
            for method in ("program_vxlan", "open_vxlan"):
                world.host.fail_next(method, HostError("no more"))
        remote.claim(MacsOperation.ADDED, WEB)
        await trio.sleep(RETRY_S + TICK_S)
        world.knows()
        calls = len(world.host.calls)
        await trio.sleep(30)
        assert len(world.host.calls) - calls < 30 / RETRY_S * 10, "it tries again and again without a pause"
        await trio.sleep(40 * RETRY_S + LONGEST_PROOF_S + SOON_S)  # one refusal of the forty each time
        assert remote.in_use
        assert world.host.entries == frames_of(remote) | {VxlanEntry(WEB, remote.address, learned=True)}


@in_world
async def test_rules_that_somebody_flushed_are_made_again(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1)
        allowed, world.host.allowed = world.host.allowed, None
        world.changes()
        await trio.sleep(LOOK_S + 1)
        assert world.changes() == ["allow_vxlan"]
        assert world.host.allowed == allowed
        assert remote.in_use


@in_world
async def test_rules_that_somebody_flushed_are_made_again_also_while_much_changes(world: World) -> None:
    """Containers come and go all the time: the look after the rules must not wait for a pause."""
    async with world.router():
        remote = await world.neighbour(1)
        allowed = world.host.allowed
        world.host.allowed = None
        for number in range(60):
            remote.claim(MacsOperation.ALL, b"\x0a" + number.to_bytes(5))
            await trio.sleep(1)
        assert world.host.allowed == allowed


# --- work -----------------------------------------------------------------------------------------------------------


@in_world
async def test_with_many_peers_a_change_touches_what_has_changed(world: World) -> None:
    async with world.router():
        remotes = [Remote(world, number) for number in range(1, 201)]
        for number, remote in enumerate(remotes):
            remote.macs = {b"\x0a" + number.to_bytes(5): None}
            remote.connect()
            await trio.sleep(0.005)  # heartbeats of all at the same time would be too many for a socket
        await world.until(lambda: all(remote.in_use for remote in remotes), SOON_S)
        await world.settle()
        # Of each: bridge and container in the device's table and the bridge's, flooding, and no container at the TAP.
        assert world.host.messages == 6 * len(remotes)
        assert len(world.host.entries) == 3 * len(remotes)

        async def messages(seconds: float) -> list[Call]:
            """What is programmed within some time."""
            world.host.calls.clear()
            await trio.sleep(seconds)
            return [call for call in world.host.calls if call.method in ("program_vxlan", "forget_behind")]

        before, one = world.host.messages, remotes[100]
        assert await messages(30) == []  # all is well
        one.claim(MacsOperation.ADDED, WEB)
        assert len(await messages(1)) == 1
        assert world.host.messages == before + 2
        one.claim(MacsOperation.REMOVED, WEB)
        await messages(1)
        assert world.host.messages == before + 4
        world.local(DB)
        assert await messages(1) == []
        one.blocked = True
        calls = await messages(GONE_S)
        assert len(calls) == 1
        assert world.host.messages == before + 4 + 4  # flooding, the container; both at the bridge
        touched = {entry.remote for entry in calls[0].arguments[2]}  # type: ignore[attr-defined]
        assert touched == {one.address}
        assert sum(remote.in_use for remote in remotes) == len(remotes) - 1


@in_world
async def test_the_table_for_the_report(world: World) -> None:
    async with world.router():
        remote = await world.neighbour(1, WEB)
        other = Remote(world, 2)
        other.blocked = True
        other.connect()
        await world.settle()
        assert world.datapath.table() == [
            {
                "Peer": "02:00:00:00:00:01",
                "Remote": str(remote.address),
                "Kernel": "sent accepted",
                "MACs": "06:00:00:00:00:01",
            },
            {"Peer": "02:00:00:00:00:02", "Remote": str(other.address), "Kernel": "", "MACs": ""},
        ]


# --- turmoil --------------------------------------------------------------------------------------------------------


def check_all(world: World) -> None:
    """Host and data plane have just what the links and claims ask for."""
    served = [remote for remote in world.remotes.values() if remote.in_use]
    tried = [remote for remote in world.remotes.values() if world.datapath.link_of(remote.name) is not None]
    assert served == tried
    world.knows(sent=served, accepted=served)
    assert world.host.allowed is not None
    assert world.host.allowed.data == world.host.allowed.heartbeats == {remote.address for remote in served}
    plain = {entry for entry in world.host.entries if not entry.learned}
    assert plain == set[VxlanEntry]().union(*map(frames_of, served))
    local = {mac for mac, port in world.host.devices[BRIDGE].table.items() if port == PORT}
    claimed = {mac for remote in served for mac in remote.macs} - local
    assert world.host.placed.keys() == claimed
    for mac, remote_address in world.host.placed.items():
        assert remote_address in {remote.address for remote in served if mac in remote.macs}
    assert world.host.learned == claimed | {station(remote.name) for remote in served}
    for remote in served:
        assert set(remote.known) == local


@pytest.mark.parametrize("refusals", [False, True], ids=["willing", "refusing"])
@pytest.mark.parametrize("seed", range(12))
def test_after_any_turmoil_all_is_as_it_should_be(seed: int, refusals: bool) -> None:
    """Peers come, go, move and lose their path, containers move, routers crash, and the host refuses at times."""
    chance = random.Random(seed)
    macs = [b"\x0a" + number.to_bytes(5) for number in range(6)]

    async def turn(world: World) -> None:
        remote = chance.choice(list(world.remotes.values()))
        match chance.randrange(10):
            case 0 | 1:
                if not remote.is_connected:
                    if chance.random() < 0.3:
                        remote.address = address(chance.randrange(1, 6))
                    remote.connect(resumed=chance.random() < 0.5)
            case 2:
                if remote.is_connected:
                    remote.disconnect()
            case 3:
                remote.blocked = not remote.blocked
            case 4 | 5:
                if remote.is_connected:
                    some = chance.sample(macs, chance.randrange(4))
                    remote.claim(chance.choice(list(MacsOperation)), *some)
            case 6:
                world.local(chance.choice(macs))
            case 7:
                mac = chance.choice(macs)
                if world.host.devices[BRIDGE].table.get(mac) == PORT:
                    world.host.age(BRIDGE, mac)
            case 8:
                if refusals and chance.random() < 0.3:
                    world.host.is_checked = False
                    method = chance.choice(["program_vxlan", "allow_vxlan", "open_vxlan", "forget_behind"])
                    world.host.fail_next(method, HostError("not now"))
            case _:
                if remote.is_connected and chance.random() < 0.3:
                    remote.say(Number.BYE)
        await trio.sleep(chance.choice([0, 0, 0.05, 1, 3, 8]))

    async def check(world: World) -> None:
        for number in range(1, 5):
            Remote(world, number)
        for _ in range(3):
            async with world.router():
                for _ in range(60):
                    await turn(world)
            world.host._failures.clear()
            world.host.is_checked = True
        async with world.router():
            for remote in world.remotes.values():
                remote.blocked = False
                if chance.random() < 0.8:
                    remote.connect(resumed=chance.random() < 0.5)
            await trio.sleep(ADOPTED_S + LONGEST_PROOF_S + LOOK_S + SOON_S)
            world.host.is_checked = True
            check_all(world)

    in_world(check, seed)()
