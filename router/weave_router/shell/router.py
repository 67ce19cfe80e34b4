"""The router: control plane, data plane and host, wired together under trio.

TCP ─> handshake ─> mesh.admit ─> Connection actor ─> mesh.receive ─┐
mesh events: routes, forgotten peers, overlay messages ─> data plane │ <─ link events (established, failed)
             dial, close ─> nursery, actors                         ┘
"""

from __future__ import annotations

import logging
import random as random_module
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from weave_router.control.mesh import (
    CloseConnection,
    ConnectionRefused,
    Dial,
    Mesh,
    OverlayMessage,
    PeersForgotten,
    RoutesChanged,
    printable,
)
from weave_router.control.targets import DirectPeer, Targets, TargetState
from weave_router.dataplane.data_plane import DataPlane
from weave_router.dataplane.neighbour import Neighbour
from weave_router.doors import VxlanSettings
from weave_router.errors import HostError, TargetError
from weave_router.log_limit import LogLimit
from weave_router.shell.connection import Connection
from weave_router.shell.fast_datapath import VNI, FastDatapath
from weave_router.shell.handshake import OpeningLimit, open_session
from weave_router.shell.network import TrioNetwork
from weave_router.shell.peer_argument import is_address, parse_peer_argument
from weave_router.shell.router_status import router_status
from weave_router.sleeve.cipher import AeadCipher, Cipher, NaclCipher, PlainCipher, choose_cipher, offered_ciphers
from weave_router.sleeve.link import SleeveLink
from weave_router.wire.features import ABILITIES, SLEEVE, VXLAN, Features
from weave_router.wire.peer_name import PeerName, format_peer_name
from weave_router.wire.session import HandshakeError, Session
from weave_router.wire.topology import PeerRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from weave_router.control.mesh import MeshConnection
    from weave_router.doors import Host
    from weave_router.shell.network import Network
    from weave_router.shell.settings import RouterSettings
    from weave_router.status import RouterStatus

log = logging.getLogger(__name__)

DIAL_SECONDS = 20.0
_RESOLVE_INTERVAL = 30.0
_FAREWELL_SECONDS = 0.1
_FAREWELL_LIMIT_SECONDS = 1.0
"""How long we wait at the end for neighbours that are slow to read, or that have gone meanwhile."""
_CLOSE_SECONDS = 2.0
_GROUP_BIT = 1 << 40


class Router:
    """One router process.

    `host`: None for a router that carries no local containers (tests). `targets`: peers as the operator typed them;
    names that do not resolve yet are tried again. `on_targets_changed` is awaited after `connect` and `forget`, with
    the new list, before these return. `random` must be a cryptographic generator but in simulations.
    """

    def __init__(
        self,
        settings: RouterSettings,
        *,
        host: Host | None,
        targets: Sequence[str] = (),
        on_targets_changed: Callable[[tuple[str, ...]], Awaitable[None]] | None = None,
        network: Network | None = None,
        random: random_module.Random | None = None,
    ) -> None:
        self.settings = settings
        self._host = host
        self._first_targets = tuple(targets)
        self._on_targets_changed = on_targets_changed
        local_host = None if settings.listen_address == "0.0.0.0" else settings.listen_address  # noqa: S104
        self._network: Network = network or TrioNetwork(local_host)
        self._random = random or random_module.SystemRandom()
        name = PeerName(settings.name)
        own = PeerRecord(name, settings.nickname, self._random.getrandbits(64) | 1, 0, self._random.randrange(4096))
        self._overlays: tuple[str, ...] = (SLEEVE,)
        self._targets = Targets(name, settings.port, self._random, settings.discovery)
        self.mesh = Mesh(
            own,
            self._targets,
            overlays=self._overlays,
            connection_limit=settings.connection_limit,
            random=self._random,
            now=trio.current_time(),
        )
        self._ciphers = offered_ciphers(aes_instructions=_has_aes_instructions()) if settings.password else ()
        self._connections: dict[MeshConnection, Connection] = {}
        self._neighbours: dict[MeshConnection, Neighbour] = {}
        self._opening = OpeningLimit()
        self._log_limit = LogLimit()
        self._routes_listeners: list[Callable[[], None]] = []
        self._timers_changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.data_plane: DataPlane | None = None
        self.fast_datapath: FastDatapath | None = None
        self.fast_datapath_trouble = "" if settings.fast_datapath else "turned off (--no-fastdp)"
        """Why there is none, where a host is."""

    def on_routes_changed(self, call: Callable[[], None]) -> None:
        """Have `call()` called whenever peers came, went or became reachable."""
        self._routes_listeners.append(call)

    # --- life -------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Route until cancelled; started when TCP, UDP and TAP are open. Raises `HostError` if they cannot be."""
        settings = self.settings
        listener = await self._network.listen(settings.listen_address, settings.port)
        tap = settings.tap if self._host else None
        io = self._network.open_packet_io(tap, settings.listen_address, settings.port)
        try:
            if self._host is not None:
                mac = format_peer_name(settings.name & ~_GROUP_BIT)
                await self._host.ensure_bridge(settings.bridge, mac, settings.mtu)
                await self._host.join_bridge(settings.tap, settings.bridge, mtu=settings.mtu, isolated=True)
                await self._open_fast_datapath(self._host)
            self.data_plane = DataPlane(io, self.mesh.routes)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.data_plane.run)
                if self.fast_datapath is not None:
                    nursery.start_soon(self.fast_datapath.run, self.data_plane)
                nursery.start_soon(self._run_timers)
                nursery.start_soon(listener.serve, self._accepted, nursery)
                await self._add_targets(self._first_targets, keep_unresolved=True)
                nursery.start_soon(self._resolve_again)
                task_status.started()
        finally:
            io.close()
            await self._close_fast_datapath()

    async def _open_fast_datapath(self, host: Host) -> None:
        """Have the kernel carry frames, if it can; without it sleeve carries them all."""
        settings = self.settings
        if not settings.fast_datapath:
            await self._remove_fast_datapath(host)  # an earlier daemon may have left it at work
            return
        listen = IPv4Address(settings.listen_address)
        vxlan = VxlanSettings(
            device=settings.vxlan,
            bridge=settings.bridge,
            port=settings.port + 1,
            vni=VNI,
            mtu=settings.mtu,
            local=None if listen.is_unspecified else listen,
        )
        fast_datapath = FastDatapath(host, vxlan, settings.tap, self.mesh, random=self._random)
        try:
            await fast_datapath.begin()
        except HostError as error:
            self.fast_datapath_trouble = str(error)
            log.warning("The fast datapath is off, sleeve carries all frames: %s", error)
            return
        self.fast_datapath = fast_datapath
        self._overlays = (VXLAN, SLEEVE)
        self.mesh.offer(self._overlays)

    async def _close_fast_datapath(self) -> None:
        if self.fast_datapath is not None and self._host is not None:
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                await self._remove_fast_datapath(self._host)

    async def _remove_fast_datapath(self, host: Host) -> None:
        try:
            await host.close_vxlan(self.settings.vxlan)
        except HostError as error:
            log.warning("The fast datapath's device cannot be removed: %s", error)

    async def farewell(self) -> None:
        """Before the router is cancelled for good: say what is still to be said, also not to wait for us."""
        self.mesh.settle()
        connections = list(self._connections.values())
        if self.fast_datapath is not None and connections:
            self.fast_datapath.farewell()
            await trio.sleep(_FAREWELL_SECONDS)
        with trio.move_on_after(_FAREWELL_LIMIT_SECONDS):
            for connection in connections:
                await connection.all_sent()

    async def _run_timers(self) -> None:
        while True:
            self.mesh.handle_timer(trio.current_time())
            self._pump()
            self._timers_changed = trio.Event()
            with trio.move_on_at(self.mesh.next_timer()):
                await self._timers_changed.wait()
            await trio.lowlevel.checkpoint()

    def _pump(self) -> None:
        """Carry out what the mesh wants."""
        for event in self.mesh.take_events():
            match event:
                case RoutesChanged(routes):
                    if self.data_plane:
                        self.data_plane.publish(routes)
                    for call in self._routes_listeners:
                        call()
                case PeersForgotten(names):
                    if self.data_plane:
                        self.data_plane.forget(names)
                case OverlayMessage(connection, overlay, number, body):
                    neighbour = self._neighbours.get(connection)
                    if overlay == VXLAN and self.fast_datapath:
                        self.fast_datapath.control(connection, number, body)
                    elif neighbour and self.data_plane:
                        self.data_plane.control(neighbour, number, body)
                case Dial(address, direct):
                    if self._nursery:
                        self._nursery.start_soon(self._dial, address, direct)
                case CloseConnection(connection, reason):
                    if connection in self._connections:
                        self._connections[connection].close(reason)
        self._timers_changed.set()

    # --- connections ------------------------------------------------------------------------------------------------

    async def _accepted(self, stream: trio.abc.Stream, address: str) -> None:
        host = address.rpartition(":")[0]
        scope = self._opening.enter(host)
        if scope is None:
            await trio.aclose_forcefully(stream)
            self._complain(host, f"Refused connection from {address}: {host} has too many unfinished handshakes")
            return
        try:
            async with stream:
                with scope:
                    await self._connect(stream, address, outbound=False, direct=False, opening=scope)
        except (HandshakeError, ConnectionRefused) as error:
            self._complain(host, f"Refused connection from {address}: {error}")
        except Exception:
            log.exception("Internal error in the connection from %s (please report this)", address)
        finally:
            self._opening.leave(scope)

    async def _dial(self, address: str, direct: bool) -> None:
        error: Exception | str
        try:
            with trio.fail_after(DIAL_SECONDS):
                stream = await self._network.dial(address)
        except trio.TooSlowError:
            error = "no answer to the TCP connection attempt"
        except OSError as failure:
            error = f"cannot connect: {failure.strerror or failure}"
        else:
            try:
                async with stream:
                    await self._connect(stream, address, outbound=True, direct=direct, opening=None)
                    return
            except (HandshakeError, ConnectionRefused) as refusal:
                error = refusal
            except Exception:
                log.exception("Internal error in the connection to %s (please report this)", address)
                error = "internal error, see the log"
        self._complain(f"-> {address}", f"No connection to {address}: {error}")
        self.mesh.dial_failed(address, error, trio.current_time())
        self._pump()

    def _complain(self, key: str, line: str) -> None:
        if self._log_limit.allows(f"{key} {line.partition(': ')[2]}", trio.current_time()):
            log.warning("%s", line)

    async def _connect(
        self,
        stream: trio.abc.Stream,
        address: str,
        *,
        outbound: bool,
        direct: bool,
        opening: trio.CancelScope | None,
    ) -> None:
        """Handshake, admission, and the life of a connection. Raises `HandshakeError` and `ConnectionRefused`."""
        password = self.settings.password
        session = Session(outbound=outbound, password=password, private_key=self._random.randbytes(32))
        own_half = self._random.getrandbits(64)
        host, _, port = address.rpartition(":")
        trusted = any(ip_address(host) in subnet for subnet in self.settings.trusted_subnets)
        features, early = await open_session(stream, session, partial(self._features, own_half, trusted))
        connection = Connection(stream, session)
        mesh_connection = self.mesh.admit(
            features,
            own_half=own_half,
            address=address,
            outbound=outbound,
            direct=direct,
            wake=connection.wake,
            now=trio.current_time(),
        )
        if opening is not None:
            self._opening.leave(opening)
        cipher = self._cipher(session, mesh_connection, plain=trusted and features.trusted)
        link = SleeveLink(
            mesh_connection.uid,
            cipher.packet_overhead,
            (host, int(port)) if outbound else None,
            trio.current_time(),
        )
        neighbour = Neighbour(mesh_connection.peer, link, cipher, _LinkEvents(self, mesh_connection))
        self._connections[mesh_connection] = connection
        self._neighbours[mesh_connection] = neighbour
        self._pump()  # closes a connection that this one replaces before the data plane is told
        label = f"{format_peer_name(features.name)}({printable(features.nickname)})"
        log.info("Connection %s %s: %s added", "to" if outbound else "from", address, label)
        try:
            if self.data_plane:
                self.data_plane.add(neighbour)
            if self.fast_datapath:
                self.fast_datapath.added(mesh_connection, encrypted=bool(cipher.name))
            await connection.run(mesh_connection, early, partial(self._receive, mesh_connection))
        finally:
            if self.data_plane:
                self.data_plane.remove(neighbour)
            if self.fast_datapath:
                self.fast_datapath.removed(mesh_connection)
            del self._connections[mesh_connection], self._neighbours[mesh_connection]
            log.info("Connection with %s %s ended: %s", address, label, connection.end_reason or "stopping")
            self.mesh.closed(mesh_connection, connection.end_reason, trio.current_time())
            self._pump()

    def _features(self, own_half: int, trusted: bool) -> Features:
        own = self.mesh.topology.own
        return Features(
            name=own.name,
            nickname=own.nickname,
            uid=own.uid,
            connection_half=own_half,
            short_id=own.short_id,
            trusted=trusted,
            overlays=self._overlays,
            ciphers=self._ciphers,
            abilities=ABILITIES,
        )

    def _cipher(self, session: Session, connection: MeshConnection, *, plain: bool) -> Cipher:
        ourselves = self.mesh.ourselves
        if session.key is None or plain:
            return PlainCipher(ourselves)
        name = choose_cipher(self._ciphers, connection.features.ciphers)
        if name == NaclCipher.name:
            return NaclCipher(ourselves, session.key, outbound=connection.outbound)
        return AeadCipher(name, ourselves, connection.peer, connection.uid, session.key)

    def _receive(self, connection: MeshConnection, message: bytes) -> Iterator[None]:
        yield from self.mesh.receive(connection, message, trio.current_time())
        self._pump()

    # --- links ------------------------------------------------------------------------------------------------------

    def link_established(self, connection: MeshConnection) -> None:
        """The data plane tells: the neighbour receives our packets."""
        log.info("Connection with %s established", format_peer_name(connection.peer))
        self.mesh.established(connection, trio.current_time())
        self._pump()

    def link_failed(self, connection: MeshConnection, reason: str) -> None:
        """The data plane tells: the overlay is dead, and with it the connection."""
        self._connections[connection].close(reason)

    # --- the operator -----------------------------------------------------------------------------------------------

    def status(self) -> RouterStatus:
        """A snapshot for status views, report and metrics."""
        return router_status(self, self._targets, self._neighbours, trio.current_time())

    async def connect(self, peers: Sequence[str], *, replace: bool = False) -> None:
        """Add peers to connect to, or with `replace` make them the only ones.

        All or nothing: raises `TargetError` where one makes no sense or cannot be resolved.
        """
        await self._add_targets(peers, keep_unresolved=False, replace=replace)
        await self._targets_changed()

    async def forget(self, peers: Sequence[str]) -> None:
        """Do not connect to these peers any more, and close connections that were dialled to them."""
        addresses = [a for text in peers if (peer := self._targets.remove_direct(text)) for a in peer.addresses]
        forgotten = [c for c in self._connections if c.outbound and c.address in addresses]
        if self.fast_datapath is not None:
            told = [self.fast_datapath.part(connection) for connection in forgotten]
            if any(told):
                await trio.sleep(_FAREWELL_SECONDS)
        for mesh_connection in forgotten:
            if mesh_connection in self._connections:
                self._connections[mesh_connection].close("forgotten by the operator")
        self._examine_targets()
        await self._targets_changed()

    async def _targets_changed(self) -> None:
        if self._on_targets_changed is not None:
            await self._on_targets_changed(tuple(self._targets.direct))

    async def _add_targets(self, peers: Sequence[str], *, keep_unresolved: bool, replace: bool = False) -> None:
        resolved = []
        for text in peers:
            host, port = parse_peer_argument(text)
            try:
                resolved.append(await self._resolve(text, host, port))
            except TargetError as error:
                if not keep_unresolved:
                    raise
                log.warning("%s; will try again", error)
                resolved.append(DirectPeer(text, (), port is not None, str(error)))
        if replace:
            for text in list(self._targets.direct):
                self._targets.remove_direct(text)
        for peer in resolved:
            self._targets.add_direct(peer, trio.current_time())
        self._examine_targets()

    async def _resolve(self, text: str, host: str, port: int | None) -> DirectPeer:
        addresses = (host,) if is_address(host) else await self._network.resolve(host)
        target_port = port or self.settings.port
        return DirectPeer(text, tuple(f"{address}:{target_port}" for address in addresses), port is not None)

    def _examine_targets(self) -> None:
        self.mesh.examine_targets(trio.current_time())
        self._pump()

    async def _resolve_again(self) -> None:
        """Names may begin to resolve, or move to other addresses, while a peer is away."""
        while True:
            await trio.sleep(_RESOLVE_INTERVAL)
            for text, peer in list(self._targets.direct.items()):
                host, port = parse_peer_argument(text)
                states = [t.state for a in peer.addresses if (t := self._targets.targets.get(a))]
                if is_address(host) or TargetState.CONNECTED in states:
                    continue
                try:
                    renewed = await self._resolve(text, host, port)
                except TargetError:
                    continue
                if renewed != peer and text in self._targets.direct:
                    self._targets.add_direct(renewed, trio.current_time())
                    self._examine_targets()


@dataclass(frozen=True, slots=True)
class _LinkEvents:
    """What one connection's link tells (`LinkEvents`)."""

    router: Router
    connection: MeshConnection

    def send_control(self, number: int, body: bytes) -> None:
        self.connection.send_overlay(SLEEVE, number, body)

    def heard(self) -> None:
        self.connection.last_heard = trio.current_time()

    def established(self) -> None:
        self.router.link_established(self.connection)

    def failed(self, reason: str) -> None:
        self.router.link_failed(self.connection, reason)


def _has_aes_instructions() -> bool:
    """Whether the processor computes AES itself, which makes AES-GCM the faster cipher."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    return "aes" in words
