"""The data plane's door in the simulated network: datagrams with loss and MTUs, and a bridge that tests look into."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import trio

from weave_router.dataplane.captured import burst_of
from weave_router.dataplane.packet_io import Datagrams
from weave_router.frames.segmentation import PLAIN_VNET_HEADER, cut, read_superframe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from weave_router.dataplane.captured import CapturedBurst
    from weave_router.dataplane.packet_io import PacketRun
    from weave_router.frames.joining import Superframe
    from weave_router.sleeve.link import Address
    from weave_router.testing.simulated_links import SimulatedLinks

IP_UDP_BYTES = 28
MAX_DATAGRAM = 65507
MAX_BURST = 64
SOCKET_BUFFER_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Datagram:
    """A UDP datagram on its way."""

    source: Address
    destination: Address
    data: bytes
    df: bool = False


@dataclass(frozen=True, slots=True)
class InjectedFrame:
    """A frame that a router handed to its bridge, and when."""

    time: float
    frame: bytes


class DatagramService:
    """Carries datagrams between the open sockets of all hosts."""

    def __init__(self, links: SimulatedLinks) -> None:
        self._links = links
        self.sockets: dict[Address, SimulatedPacketIO] = {}
        self.watch: Callable[[Datagram], None] | None = None
        """Called with every datagram that a host sends, before the link decides on it."""

    def send(self, datagram: Datagram) -> None:
        """A host sends a datagram."""
        if self.watch:
            self.watch(datagram)
        self.carry(datagram)

    def carry(self, datagram: Datagram) -> None:
        """Put a datagram on its way, whoever sent it."""
        source, destination = datagram.source[0], datagram.destination[0]
        link, random = self._links.conditions(source, destination), self._links.random
        size = len(datagram.data) + IP_UDP_BYTES
        narrowest = min(link.mtu, link.hidden_mtu or link.mtu)
        if size > narrowest and (datagram.df or link.fragments_dropped):
            self._note("lost-mtu", datagram)
            return
        if link.loss and random.random() < link.loss:
            self._note("lost", datagram)
            return
        copies = 2 if link.duplication and random.random() < link.duplication else 1
        for _ in range(copies):
            delay = self._links.latency(source, destination)
            if link.reordering and random.random() < link.reordering:
                delay += random.random() * 20 * link.latency
            self._links.timeline.after(delay, lambda: self._arrive(datagram))

    def _arrive(self, datagram: Datagram) -> None:
        receiver = self.sockets.get(datagram.destination)
        if receiver is None or not self._links.up(datagram.source[0], datagram.destination[0]):
            self._note("lost", datagram)
            return
        self._note("udp", datagram)
        receiver.arrived(datagram)

    def _note(self, event: str, datagram: Datagram) -> None:
        (source, port), (destination, to_port) = datagram.source, datagram.destination
        data = datagram.data
        self._links.note(
            event, f"{source}:{port}", f"{destination}:{to_port}", len(data), f"{zlib.crc32(data):08x}", datagram.df
        )


class SimulatedPacketIO:
    """A `weave_router.dataplane.packet_io.PacketIO` of a simulated host. `injected`: None where there is no TAP."""

    def __init__(
        self,
        links: SimulatedLinks,
        service: DatagramService,
        address: Address,
        tap: str | None,
        injected: list[InjectedFrame] | None,
    ) -> None:
        self.interface = f"{tap} (simulated)" if tap else ""
        self.joins_udp = True
        self.address = address
        self._links = links
        self._service = service
        self._injected = injected
        self._frames: deque[bytes] = deque()
        self._datagrams: deque[tuple[bytes, Address]] = deque()
        self._waiting_bytes = 0
        self._errors: Counter[str] = Counter()
        self._arrived = trio.lowlevel.ParkingLot()
        service.sockets[address] = self

    def frame_in(self, packet: bytes) -> None:
        """A frame, behind its virtio-net header, for the router to capture."""
        if self._injected is not None:
            self._frames.append(packet)
            self._arrived.unpark_all()

    def arrived(self, datagram: Datagram) -> None:
        """A datagram for the router to receive; dropped when the socket's buffer is full."""
        if self._waiting_bytes + len(datagram.data) > SOCKET_BUFFER_BYTES:
            self._links.note("lost-buffer", *datagram.destination)
            return
        self._waiting_bytes += len(datagram.data)
        self._datagrams.append((datagram.data, datagram.source))
        self._arrived.unpark_all()

    # --- the door ---------------------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Return when there is something to capture or to receive."""
        await trio.lowlevel.checkpoint()
        while not (self._frames or self._datagrams):
            await self._arrived.park()

    def poll(self, seconds: float) -> bool:
        """Whether there is something to capture or to receive; no time passes."""
        return bool(self._frames or self._datagrams)

    def capture(self) -> CapturedBurst:
        """A burst of frames from the bridge."""
        return burst_of([self._frames.popleft() for _ in range(min(len(self._frames), MAX_BURST))])

    def inject(self, frames: Sequence[bytes | Superframe]) -> int:
        """Record frames for the bridge, superframes in pieces; all are refused where there is no TAP."""
        if self._injected is None:
            return len(frames)
        for frame in frames:
            pieces = [frame] if isinstance(frame, bytes) else cut([read_superframe(frame.packet())], 0).frames()
            self._injected += [InjectedFrame(trio.current_time(), piece) for piece in pieces]
        return 0

    def receive(self) -> list[Datagrams]:
        """A burst of datagrams; those of one source and length that follow each other come in one piece."""
        burst: list[Datagrams] = []
        for _ in range(min(len(self._datagrams), MAX_BURST)):
            data, source = self._datagrams.popleft()
            self._waiting_bytes -= len(data)
            last = burst[-1] if burst else None
            if last is not None and last.source == source and last.size == len(data):
                last.buffer = np.append(last.buffer, np.frombuffer(data, np.uint8))
                last.total += len(data)
            elif data:
                burst.append(Datagrams(np.frombuffer(bytearray(data), np.uint8), len(data), len(data), source))
        return burst

    def send(self, runs: Sequence[PacketRun], remote: Address, *, df: bool) -> bool:
        """Send datagrams. False where one was larger than the way is known to carry."""
        mtu = self.path_mtu(remote)
        carried = True
        for packet in [packet for run in runs for packet in run.packets()]:
            size = len(packet)
            if size > MAX_DATAGRAM or (df and size + IP_UDP_BYTES > mtu):
                carried = False
                self._errors["drop_larger_than_path"] += 1
            else:
                self._service.send(Datagram(self.address, remote, bytes(packet), df))
        return carried

    def path_mtu(self, remote: Address) -> int:
        """What the way to `remote` is known to carry."""
        return self._links.conditions(self.address[0], remote[0]).mtu

    def diagnostics(self) -> Mapping[str, str]:
        """There are no kernel features here."""
        return {}

    def take_errors(self) -> Mapping[str, int]:
        """Counts of lost packets by cause since the last call."""
        errors, self._errors = self._errors, Counter()
        return errors

    def close(self) -> None:
        """Close the socket; frames and datagrams that wait are lost."""
        if self._service.sockets.get(self.address) is self:
            del self._service.sockets[self.address]


def captured(frame: bytes) -> bytes:
    """A plain frame as it is read from a TAP."""
    return PLAIN_VNET_HEADER + frame
