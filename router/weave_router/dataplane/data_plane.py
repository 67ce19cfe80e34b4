"""The loop that moves bursts between bridge, forwarder and network.

One task waits until the bridge or the network has something, then works up to 2 ms before it returns to trio, so that
the control plane is never starved for longer; a second one runs the timers of links.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from weave_router.dataplane.forwarder import Forwarder
from weave_router.dataplane.mac_table import SWEEP_INTERVAL
from weave_router.dataplane.neighbour import equal_runs
from weave_router.dataplane.patience import Patience
from weave_router.errors import HostError, ProtocolError
from weave_router.log_limit import LOG_INTERVAL, LogLimit
from weave_router.sleeve.cipher import Replayed
from weave_router.sleeve.codec import NAME_BYTES, encode_frame, frame_prefix
from weave_router.sleeve.link import Established, Failed, SendControl, SendSpecial
from weave_router.wire.peer_name import PeerName, format_peer_name

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from weave_router.control.routes import Routes
    from weave_router.dataplane.forwarder import KernelPeers
    from weave_router.dataplane.neighbour import Neighbour
    from weave_router.dataplane.packet_io import Datagrams, PacketIO, PacketRun
    from weave_router.sleeve.link import Action, Address

log = logging.getLogger(__name__)

WORK_SECONDS = 0.002
WORTHWHILE_BYTES = 1500
"""More than this, in packets of one length, is tried as one array."""


class DataPlane:
    """The data plane of one router. The control plane calls its methods between bursts, in the same thread."""

    def __init__(self, io: PacketIO, routes: Routes) -> None:
        self.io = io
        self.forwarder = Forwarder(routes, joins_udp=io.joins_udp)
        self._by_wire_name: dict[bytes, Neighbour] = {}
        self._timers_changed = trio.Event()
        self._log_limit = LogLimit()
        self._patience = Patience()
        self._looked = False

    # --- for the control plane --------------------------------------------------------------------------------------

    def add(self, neighbour: Neighbour) -> None:
        """The connection has been added: its packets are accepted from now on, heartbeats begin."""
        self.forwarder.neighbours[neighbour.name] = neighbour
        self._by_wire_name[neighbour.name_bytes] = neighbour
        self._perform(neighbour, neighbour.link.confirmed(trio.current_time()))

    def remove(self, neighbour: Neighbour) -> None:
        """The connection has ended."""
        if self._by_wire_name.get(neighbour.name_bytes) is neighbour:
            del self._by_wire_name[neighbour.name_bytes]
            del self.forwarder.neighbours[neighbour.name]
        self.forwarder.pending.pop(neighbour, None)

    def control(self, neighbour: Neighbour, number: int, body: bytes) -> None:
        """A sleeve control message has come over TCP."""
        self._perform(neighbour, neighbour.link.control(number, body, trio.current_time()))

    def publish(self, routes: Routes) -> None:
        """New routes are in force."""
        self.forwarder.publish(routes)

    def publish_kernel(self, kernel: KernelPeers) -> None:
        """From now on the kernel carries frames of ours to other peers, or theirs to us."""
        self.forwarder.publish_kernel(kernel)

    def forget(self, peers: frozenset[PeerName]) -> None:
        """These peers are gone: so is what was learned of them."""
        self.forwarder.forget(peers)

    def counters(self) -> Counter[str]:
        """All counts since the start, by name."""
        self.forwarder.counters.update(self.io.take_errors())
        return self.forwarder.counters

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Move packets until cancelled. Raises `HostError` when the TAP is taken away."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_timers)
            nursery.start_soon(self._sweep)
            while True:
                idle_since = trio.current_time()
                looked = self._looked
                await self.io.wait()
                if not looked:
                    self._patience.slept(trio.current_time() - idle_since)
                self._work_a_while()
                await trio.lowlevel.checkpoint()

    def _work_a_while(self) -> None:
        end = trio.current_time() + WORK_SECONDS
        try:
            while (self._work() or self._look()) and trio.current_time() < end:
                pass
        except HostError:
            raise  # without its devices a router is of no use
        except Exception:
            # A defect of ours, not of a peer's: it may cost a burst, but not every container's connectivity.
            self.forwarder.counters["internal_errors"] += 1
            self.forwarder.injected.clear()
            if self._log_limit.allows("internal error", trio.current_time()):
                log.exception("Internal error in the data plane; a burst was lost (please report this)")

    def _look(self) -> bool:
        """Whether something has come while we looked for it; nothing was looked for where that is not worthwhile."""
        seconds = self._patience.seconds
        self._looked = seconds > 0
        if not self._looked:
            return False
        found = self.io.poll(seconds)
        self._patience.looked(found=found)
        return found

    def _work(self) -> bool:
        """One burst in each direction; False when there was nothing to do."""
        io, forwarder = self.io, self.forwarder
        now = trio.current_time()
        bursts = io.receive()
        for datagrams in bursts:
            self._receive(datagrams, now)
        captured = io.capture()
        if captured:
            forwarder.captured_burst(captured, now)
        if forwarder.injected:
            refused = io.inject(forwarder.injected)
            if refused:
                forwarder.counters["drop_refused_by_bridge"] += refused
            forwarder.counters["frames_injected"] += len(forwarder.injected) - refused
            forwarder.injected.clear()
        if forwarder.pending:
            self._flush(now)
        return bool(bursts or captured)

    def _receive(self, datagrams: Datagrams, now: float) -> None:
        self.forwarder.counters["bytes_received"] += datagrams.total
        if datagrams.total <= WORTHWHILE_BYTES or not self._receive_rows(datagrams, now):
            for packet in datagrams.split():
                self._receive_packet(packet, datagrams.source, now)

    def _receive_rows(self, datagrams: Datagrams, now: float) -> bool:
        """Try to open datagrams as rows of one array; False when that does not work."""
        neighbour = self._by_wire_name.get(datagrams.buffer[:NAME_BYTES].tobytes())
        if neighbour is None:
            return False
        try:
            rows, last = neighbour.cipher.open_rows(datagrams.rows, datagrams.last)
        except ProtocolError:
            return False
        forwarder = self.forwarder
        forwarder.counters["packets_received"] += len(rows)
        handled = forwarder.received_rows(neighbour, rows, last, now)
        if 0 < handled < len(rows):  # a second run is likely, more of them mean mixed traffic
            handled += forwarder.received_rows(neighbour, rows[handled:], last, now)
        if handled < len(rows):
            self._receive_unlike(neighbour, rows[handled:], last, datagrams.source, now)
        return True

    def _receive_unlike(
        self, neighbour: Neighbour, rows: NDArray[np.uint8], last: int, source: Address, now: float
    ) -> None:
        """Opened packets that are no burst of one kind, one by one."""
        stride, data = rows.shape[1], rows.tobytes()
        end = len(data) - stride + last
        for start in range(0, end, stride):
            try:
                self._receive_frames(neighbour, data[start + NAME_BYTES : min(start + stride, end)], source, now)
            except ProtocolError as error:
                self.forwarder.counters["drop_bad_packet"] += 1
                self._log_bad(neighbour, source, str(error), now)

    def _receive_packet(self, packet: bytes, source: Address, now: float) -> None:
        counters = self.forwarder.counters
        counters["packets_received"] += 1
        neighbour = self._by_wire_name.get(packet[:NAME_BYTES])
        if neighbour is None:
            counters["drop_unknown_sender"] += 1
            return
        try:
            self._receive_frames(neighbour, neighbour.cipher.open(packet), source, now)
        except Replayed:
            counters["drop_replayed"] += 1
        except ProtocolError as error:
            counters["drop_bad_packet"] += 1
            self._log_bad(neighbour, source, str(error), now)

    def _receive_frames(self, neighbour: Neighbour, frames: bytes, source: Address, now: float) -> None:
        """The opened content of a packet. Raises `PacketError`."""
        for frame in self.forwarder.received(neighbour, frames, now):
            neighbour.events.heard()
            self._perform(neighbour, neighbour.link.special_frame(frame, source, now))

    def _log_bad(self, neighbour: Neighbour, source: Address, reason: str, now: float) -> None:
        if self._log_limit.allows(f"{neighbour.name}", now):
            log.warning(
                "Dropped a packet in the name of %s from %s:%d: %s (repetitions within %d s are only counted)",
                format_peer_name(neighbour.name), *source, reason, int(LOG_INTERVAL),
            )  # fmt: skip

    def _flush(self, now: float) -> None:
        """Send what has been queued for neighbours."""
        forwarder = self.forwarder
        neighbours = list(forwarder.pending)
        forwarder.pending.clear()
        for neighbour in neighbours:
            packets, dropped = neighbour.take_packets()
            if dropped:
                forwarder.counters["drop_too_big"] += dropped
            for df, runs in packets:
                self._send(neighbour, runs, df=df, now=now)

    def _send(self, neighbour: Neighbour, runs: list[PacketRun], *, df: bool, now: float) -> None:
        remote = neighbour.link.remote
        if remote is None:
            return
        counters = self.forwarder.counters
        for run in runs:
            counters["packets_sent"] += run.count
            counters["bytes_sent"] += run.total
        if self.io.send(runs, remote, df=df) or not df:
            return
        path_mtu = self.io.path_mtu(remote)
        if path_mtu is not None:
            self._perform(neighbour, neighbour.link.refused(path_mtu, now))

    def _perform(self, neighbour: Neighbour, actions: Iterable[Action]) -> None:
        """Carry out what a link wants."""
        for action in actions:
            match action:
                case SendSpecial(frame, df):
                    prefix = frame_prefix(self.forwarder.ourselves, neighbour.name)
                    packet = neighbour.cipher.seal(encode_frame(prefix, frame), df=df)
                    self._send(neighbour, [*equal_runs([packet])], df=df, now=trio.current_time())
                case SendControl(number, body):
                    neighbour.events.send_control(number, body)
                case Established():
                    neighbour.events.established()
                case Failed(reason):
                    neighbour.events.failed(reason)
        self._timers_changed.set()

    # --- time -------------------------------------------------------------------------------------------------------

    async def _run_timers(self) -> None:
        while True:
            now = trio.current_time()
            for neighbour in list(self.forwarder.neighbours.values()):
                if neighbour.link.next_timer() <= now:
                    self._perform(neighbour, neighbour.link.handle_timer(now))
            self._timers_changed = trio.Event()
            next_timer = min(
                (neighbour.link.next_timer() for neighbour in self.forwarder.neighbours.values()), default=now + 3600
            )
            with trio.move_on_at(next_timer):
                await self._timers_changed.wait()
            await trio.lowlevel.checkpoint()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            self.forwarder.macs.sweep(trio.current_time())
