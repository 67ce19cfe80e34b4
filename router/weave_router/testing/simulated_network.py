"""`SimulatedNetwork`: a world of hosts with IP addresses, in memory and on trio's clock.

    world = SimulatedNetwork(seed=1)        # world.run must run in a nursery, see simulated_run
    router = Router(settings, host=None, network=world.host("10.0.0.1"))
    world.change_link("10.0.0.1", "10.0.0.2", loss=0.1, mtu=1400)
    world.partition(["10.0.0.1"], ["10.0.0.2", "10.0.0.3"])
    world.heal()

What is cut off does not fail, it falls silent. With `trace=True` the world writes down every packet, cut and healing.
"""

from __future__ import annotations

import errno
import os
import random
from collections import deque
from ipaddress import AddressValueError, IPv4Address
from itertools import combinations, count, permutations, product
from typing import TYPE_CHECKING

import trio

from weave_router.errors import HostError, TargetError
from weave_router.testing.simulated_links import LinkConditions, SimulatedLinks
from weave_router.testing.simulated_packet_io import (
    Datagram,
    DatagramService,
    InjectedFrame,
    SimulatedPacketIO,
    captured,
)
from weave_router.testing.simulated_stream import BUFFER_BYTES, SimulatedStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Unpack

    from weave_router.shell.network import AcceptHandler
    from weave_router.sleeve.link import Address
    from weave_router.testing.simulated_links import Changes

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - compared, not bound
SYN_WAITS = (1, 2, 4, 8, 16, 32, 64)
"""Seconds between the attempts of a TCP connection, as Linux makes them; then it fails."""
BACKLOG = 128
_FIRST_EPHEMERAL_PORT = 32768


class SimulatedNetwork:
    """All hosts and the links between them. Hosts are given by address."""

    def __init__(self, seed: int = 0, *, link: LinkConditions | None = None, trace: bool = False) -> None:
        """`link`: how every link is unless changed."""
        self.trace: list[str] = []
        """Everything that happened, if wanted; equal for equal seeds."""
        self.names: dict[str, tuple[str, ...]] = {}
        """What names resolve to."""
        self._links = SimulatedLinks(
            link or LinkConditions(),
            random.Random(f"network {seed}"),  # noqa: S311 - chance must be repeatable here
            self.trace if trace else None,
        )
        self._datagrams = DatagramService(self._links)
        self._hosts: dict[str, SimulatedHost] = {}

    def host(self, address: str) -> SimulatedHost:
        """The host with this address, made when first asked for."""
        if address not in self._hosts:
            self._hosts[address] = SimulatedHost(address, self._hosts, self.names, self._links, self._datagrams)
        return self._hosts[address]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry packets until cancelled."""
        task_status.started()
        await self._links.timeline.run()

    # --- links ------------------------------------------------------------------------------------------------------

    def change_link(self, a: str, b: str, *, one_way: bool = False, **changes: Unpack[Changes]) -> None:
        """Change conditions between two hosts; with `one_way` only from the first to the second."""
        self._links.change(a, b, **changes)
        if not one_way:
            self._links.change(b, a, **changes)

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Let nothing pass between two hosts; with `one_way` only from the first to the second."""
        self._links.cut([(a, b)] if one_way else [(a, b), (b, a)])

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut all links between hosts of different groups."""
        for one, other in combinations([list(group) for group in groups], 2):
            self._links.cut([*product(one, other), *product(other, one)])

    def isolate(self, address: str) -> None:
        """Cut all links of one host."""
        self.partition([address], [other for other in self._hosts if other != address])

    def heal(self, *addresses: str) -> None:
        """Mend all links, or those between the hosts named."""
        self._links.heal(permutations(addresses, 2) if addresses else None)

    # --- datagrams from nowhere -------------------------------------------------------------------------------------

    def send_datagram(self, source: Address, destination: Address, data: bytes) -> None:
        """Send a datagram with any source address, as an attacker can. It is not shown to who watches."""
        self._datagrams.carry(Datagram(source, destination, data))

    def watch_datagrams(self, watch: Callable[[Datagram], None] | None) -> None:
        """Have every datagram shown to a function when it is sent."""
        self._datagrams.watch = watch


class SimulatedHost:
    """One host: the `weave_router.shell.network.Network` of the router that runs on it, and a bridge to look into."""

    def __init__(
        self,
        address: str,
        hosts: dict[str, SimulatedHost],
        names: dict[str, tuple[str, ...]],
        links: SimulatedLinks,
        datagrams: DatagramService,
    ) -> None:
        self.address = address
        self.injected: list[InjectedFrame] = []
        """Every frame that routers of this host have handed to the bridge."""
        self.tcp_buffer_bytes = BUFFER_BYTES
        """What one direction of connections dialled from here holds; for tests of slow readers."""
        self.powered = True
        self._hosts = hosts
        self._names = names
        self._links = links
        self._datagrams = datagrams
        self._listeners: dict[int, SimulatedListener] = {}
        self._streams: dict[SimulatedStream, None] = {}
        self._ports = count(_FIRST_EPHEMERAL_PORT)
        self._packet_io: SimulatedPacketIO | None = None

    # --- what a test does to it -------------------------------------------------------------------------------------

    def frames_in(self, *frames: bytes) -> None:
        """Frames of containers reach the bridge. They are lost where no router captures them."""
        if self._packet_io is not None:
            for frame in frames:
                self._packet_io.frame_in(captured(frame))

    def packets_in(self, *packets: bytes) -> None:
        """The same with virtio-net headers of the test's own."""
        if self._packet_io is not None:
            for packet in packets:
                self._packet_io.frame_in(packet)

    def lose_power(self) -> None:
        """All connections of this host vanish silently, and nothing reaches it; cancel its router then."""
        self.powered = False
        self._links.note("power-off", self.address)
        for stream in list(self._streams):
            stream.lose_power(lambda: self.powered)
        self._listeners.clear()
        if self._packet_io is not None:
            self._packet_io.close()
            self._packet_io = None

    def regain_power(self) -> None:
        """The host can be used again. Peers that still write to its old connections get a reset."""
        self.powered = True
        self._links.note("power-on", self.address)
        self._links.retransmit()

    def reset_connections(self) -> None:
        """Reset all connections of this host."""
        for stream in list(self._streams):
            stream.abort()

    # --- the door ---------------------------------------------------------------------------------------------------

    async def dial(self, address: str) -> SimulatedStream:
        """Connect to `ip:port`: refused at closed ports, waiting and then failing where nothing answers."""
        ip, _, port = address.rpartition(":")
        local = (self.address, next(self._ports))
        self._links.note("dial", *local, address)
        for wait in SYN_WAITS:
            answer = await self._knock(ip, int(port), local)
            if isinstance(answer, SimulatedStream):
                return answer
            if answer:
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            await trio.sleep(wait)
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    async def _knock(self, ip: str, port: int, local: Address) -> SimulatedStream | bool:
        """One SYN: a stream, True for a refusal, False for silence."""
        host = self._hosts.get(ip)
        if host is None or not self._passes(host):
            return False
        await trio.sleep(self._links.latency(self.address, ip))
        if not self._passes(host):
            return False
        listener = host._listeners.get(port)
        if listener is not None and listener.full:
            return False
        stream = None if listener is None else self._accept(host, listener, local, (ip, port))
        try:
            await trio.sleep(self._links.latency(ip, self.address))
        except trio.Cancelled:
            if stream is not None:
                stream.abort()
            raise
        return True if stream is None else stream

    def _passes(self, host: SimulatedHost) -> bool:
        there, back = (self.address, host.address), (host.address, self.address)
        return host.powered and self._links.up(*there) and self._links.up(*back)

    def _accept(
        self, host: SimulatedHost, listener: SimulatedListener, local: Address, remote: Address
    ) -> SimulatedStream:
        def forget(end: SimulatedStream) -> None:
            self._streams.pop(end, None)
            host._streams.pop(end, None)

        near, far = SimulatedStream.pair(self._links, local, remote, buffer_bytes=self.tcp_buffer_bytes, forget=forget)
        self._streams[near] = host._streams[far] = None
        listener.arrived(far)
        return near

    async def listen(self, host: str, port: int) -> SimulatedListener:
        """Bind a TCP port. Raises `HostError`."""
        await trio.lowlevel.checkpoint()
        self._check_local(host, port)
        if port in self._listeners:
            raise HostError(f"cannot listen on TCP {host}:{port} ({os.strerror(errno.EADDRINUSE)})")
        listener = SimulatedListener(self._listeners, port)
        self._listeners[port] = listener
        return listener

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of a name, or the address itself. Raises `TargetError`."""
        await trio.lowlevel.checkpoint()
        try:
            return (str(IPv4Address(host)),)
        except AddressValueError:
            if host not in self._names:
                raise TargetError(f"cannot resolve {host!r}: Name or service not known") from None
            return self._names[host]

    def open_packet_io(self, tap: str | None, host: str, port: int) -> SimulatedPacketIO:
        """Open a UDP socket and, with `tap`, the bridge. Raises `HostError`."""
        self._check_local(host, port)
        address = (self.address, port)
        if address in self._datagrams.sockets:
            raise HostError(f"cannot listen on UDP {host}:{port}: {os.strerror(errno.EADDRINUSE)}")
        injected = self.injected if tap else None
        self._packet_io = SimulatedPacketIO(self._links, self._datagrams, address, tap, injected)
        return self._packet_io

    def _check_local(self, host: str, port: int) -> None:
        if host not in (ANY_ADDRESS, self.address):
            raise HostError(f"cannot listen on {host}:{port} ({os.strerror(errno.EADDRNOTAVAIL)})")


class SimulatedListener:
    """A bound TCP port of a simulated host."""

    def __init__(self, bound: dict[int, SimulatedListener], port: int) -> None:
        self._bound = bound
        self._port = port
        self._waiting: deque[SimulatedStream] = deque()
        self._arrived = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        """Whether so many connections wait that the host does not answer any more."""
        return len(self._waiting) >= BACKLOG

    def arrived(self, stream: SimulatedStream) -> None:
        """The host has a new connection, whether anybody accepts it or not."""
        self._waiting.append(stream)
        self._arrived.unpark()

    async def serve(self, handler: AcceptHandler, nursery: trio.Nursery) -> None:
        """Start `handler(stream, "ip:port")` in the nursery for each connection, until cancelled."""
        try:
            while True:
                while not self._waiting:
                    await self._arrived.park()
                stream = self._waiting.popleft()
                ip, port = stream.remote
                nursery.start_soon(handler, stream, f"{ip}:{port}")
                await trio.lowlevel.checkpoint()
        finally:
            if self._bound.get(self._port) is self:
                del self._bound[self._port]
            for stream in self._waiting:
                stream.abort()


__all__ = [
    "InjectedFrame",
    "LinkConditions",
    "SimulatedHost",
    "SimulatedListener",
    "SimulatedNetwork",
]
