"""What becomes of a frame: learned, injected, sent, passed on or dropped (sleeve.md sections 6, 8.4, 8.5 and 9).

The forwarder does no I/O. It reads the routes that the control plane publishes, fills the queues of neighbours and the
list of frames to inject, and counts. A loop (`data_plane`) brings bursts in and takes the results out.

    captured ─> learn local ─┬─> unicast ──> neighbour queue
                             └─> broadcast ─> neighbour queues
    received ─> not for us ──────> unicast (transit)
                for us ──> parent check ─> learn ─> inject ─> pass on along the source's tree
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weave_router.dataplane.captured import WORTHWHILE_ROWS
from weave_router.dataplane.duplicates import DuplicateFilter
from weave_router.dataplane.mac_table import MacTable
from weave_router.frames.alike import LOOKED_AT, alike, gather, is_alike
from weave_router.frames.ethernet import HEADER_BYTES, SPANNING_TREE, ZERO_HEADER, is_group
from weave_router.frames.ipv4 import Kind, classify, fragment, fragmentation_needed
from weave_router.frames.joining import join
from weave_router.frames.segmentation import (
    NEEDS_CHECKSUM,
    VNET_BYTES,
    VNET_HEADER,
    SegmentationError,
    Segments,
    Uncut,
    belongs_to,
    complete_checksum,
    cut,
    read_segment,
    read_superframe,
)
from weave_router.sleeve.codec import FIRST_FRAME, FRAME_HEADER_BYTES, NAME_BYTES, is_special, split_frames
from weave_router.wire.peer_name import NO_PEER, PeerName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from weave_router.control.routes import Routes
    from weave_router.dataplane.captured import CapturedBurst
    from weave_router.dataplane.neighbour import Neighbour
    from weave_router.frames.joining import Superframe


@dataclass(frozen=True, slots=True)
class KernelPeers:
    """Peers with whom frames are exchanged by the kernel (VXLAN), past the router."""

    sent_to: frozenset[PeerName] = frozenset()
    accepted_from: frozenset[PeerName] = frozenset()
    """Frames of theirs that come by sleeve are not taken: so nothing comes twice."""


class Forwarder:
    """Forwarding state of one router. `joins_udp`: whether the bridge takes superframes of UDP."""

    def __init__(self, routes: Routes, *, joins_udp: bool = False) -> None:
        self.ourselves = routes.ourselves
        self.macs = MacTable(self.ourselves)
        self.neighbours: dict[PeerName, Neighbour] = {}
        self.injected: list[bytes | Superframe] = []
        """Frames for the bridge; whoever takes them clears the list."""
        self.pending: dict[Neighbour, None] = {}
        """Neighbours with queued frames; whoever sends them clears it."""
        self.counters: Counter[str] = Counter()
        self._joins_udp = joins_udp
        self._duplicates = DuplicateFilter()
        self._own_bytes = self.ourselves.to_bytes(6)
        self._kernel = KernelPeers()
        self.publish(routes)

    def publish(self, routes: Routes) -> None:
        """New routes are in force."""
        self._routes = routes
        self._names = {name.to_bytes(6): name for name in routes.peers}
        self._own_broadcast = self._plan_own_broadcast()

    def publish_kernel(self, kernel: KernelPeers) -> None:
        """From now on the kernel carries frames of ours to other peers, or theirs to us."""
        self._kernel = kernel
        self._own_broadcast = self._plan_own_broadcast()

    def _plan_own_broadcast(self) -> list[tuple[PeerName, PeerName]]:
        """Next hop and destination of each copy of a broadcast of ours, those aside that the kernel has sent.

        A peer that it came to through the kernel does not see it in its router, so we serve those behind it, too.
        """
        copies = []
        for hop in self._routes.broadcast(self.ourselves):
            if hop not in self._kernel.sent_to:
                copies.append((hop, hop))
            else:
                copies += [(hop, peer) for peer in self._routes.behind(hop) if peer not in self._kernel.sent_to]
        return copies

    def forget(self, peers: frozenset[PeerName]) -> None:
        """These peers are gone: so is what was learned of them."""
        self.macs.forget(peers)
        self._duplicates.forget(peers)

    # --- from the bridge --------------------------------------------------------------------------------------------

    def captured_burst(self, burst: CapturedBurst, now: float) -> None:
        """Frames from the bridge."""
        together: list[Uncut] = []
        """Those that have come so far and can be cut as one."""
        single: memoryview = memoryview(b"")
        """The last of them as it was captured."""
        for piece in burst.pieces():
            uncut: Uncut | None = None
            if isinstance(piece, memoryview) and len(piece) > VNET_BYTES:
                try:
                    uncut = read_superframe(piece) if piece[1] else read_segment(piece)
                except SegmentationError:
                    self.counters["frames_captured"] += 1
                    self.counters["drop_malformed_frame"] += 1
                    continue
            if together and (uncut is None or not belongs_to(uncut, together)):
                self._captured_together(together, single, now)
                together = []
            if isinstance(piece, np.ndarray):
                self._captured_rows(piece, now)
            elif uncut is not None:
                together.append(uncut)
                single = piece
            else:
                self._captured_frame(piece, now)
        if together:
            self._captured_together(together, single, now)

    def _captured_together(self, together: list[Uncut], single: memoryview, now: float) -> None:
        """Superframes and single segments that belong together are cut as one; `single`: where there is only one."""
        count = sum(uncut.segments for uncut in together)
        if count == 1 and not single[1]:
            self._captured_frame(single, now)
            return
        self.counters["superframes_captured"] += sum(uncut.segments > 1 for uncut in together)
        self.counters["frames_captured"] += count
        head = together[0].header[:HEADER_BYTES]
        if self._is_to_be_sent(head, count, now):
            self._from_bridge(head, cut(together, FIRST_FRAME))

    def _captured_frame(self, packet: memoryview, now: float) -> None:
        """A frame from the bridge, behind its virtio-net header."""
        self.counters["frames_captured"] += 1
        frame = bytes(packet[VNET_BYTES:])
        if not self._is_to_be_sent(frame, 1, now):
            return
        flags, _, _, _, start, offset = VNET_HEADER.unpack_from(packet)
        if flags & NEEDS_CHECKSUM:
            try:
                frame = complete_checksum(frame, start, offset)
            except SegmentationError:
                self.counters["drop_malformed_frame"] += 1
                return
        self._from_bridge(frame, frame)

    def _captured_rows(self, packets: NDArray[np.uint8], now: float) -> None:
        """Packets of equal length. Those that are treated alike are sent as one array, unless that is for few only."""
        start, count = 0, len(packets)
        disappointments = 0
        while start < count and disappointments < 2 and packets.shape[1] >= VNET_BYTES + LOOKED_AT:
            run = alike(packets[start:], VNET_BYTES)
            if run < WORTHWHILE_ROWS:
                disappointments += 1
                for packet in packets[start : start + run]:
                    self._captured_frame(packet.data, now)
            else:
                self._captured_alike(packets[start : start + run], now)
            start += run
        for packet in packets[start:]:
            self._captured_frame(packet.data, now)

    def _captured_alike(self, packets: NDArray[np.uint8], now: float) -> None:
        count = len(packets)
        self.counters["frames_captured"] += count
        head = packets[0, VNET_BYTES : VNET_BYTES + HEADER_BYTES].tobytes()
        if not self._is_to_be_sent(head, count, now):
            return
        try:
            frames = gather(packets, FIRST_FRAME)
        except SegmentationError:
            self.counters["drop_malformed_frame"] += count
            return
        self._from_bridge(head, frames)

    def _is_to_be_sent(self, frame: bytes, count: int, now: float) -> bool:
        """Learn from frames of ours that begin like this one. False if they are not for others."""
        if len(frame) < HEADER_BYTES or frame.startswith(ZERO_HEADER):
            self.counters["drop_malformed_frame"] += count
            return False
        if not self.macs.learn_local(frame[6:12], now):
            self.counters["drop_foreign_source_mac"] += count
            return False
        destination = frame[:6]
        return destination != SPANNING_TREE and self.macs.owner(destination) != self.ourselves

    def _from_bridge(self, head: bytes, frame: bytes | Segments) -> None:
        owner = self.macs.owner(head[:6])
        if owner is None:
            for hop, destination in self._own_broadcast:
                neighbour = self.neighbours.get(hop)
                if neighbour is not None:
                    self._send(neighbour, self._own_bytes + destination.to_bytes(6), frame, broadcast=True)
        elif owner in self._kernel.sent_to:
            self.counters["frames_left_to_kernel"] += _count(frame)  # the bridge has flooded it to the device, too
        else:
            self._unicast(owner, self._own_bytes + owner.to_bytes(6), frame)

    # --- from a neighbour -------------------------------------------------------------------------------------------

    def received(self, neighbour: Neighbour, frames: bytes, now: float) -> list[bytes]:
        """The opened content of a packet from `neighbour`; returns the special frames for its link.

        Raises `PacketError` where the packet is broken, after the frames before that point have been handled.
        """
        special: list[bytes] = []
        names = self._names
        counters = self.counters
        for source_bytes, destination_bytes, frame in split_frames(frames):
            counters["frames_received"] += 1
            if is_special(frame):
                if source_bytes == neighbour.name_bytes and destination_bytes == self._own_bytes:
                    special.append(frame)
                else:
                    counters["drop_misdirected_special"] += 1
                continue
            source = names.get(source_bytes)
            destination = names.get(destination_bytes)
            if source is None or destination is None:
                counters["drop_unknown_peer"] += 1
            elif len(frame) < HEADER_BYTES:
                counters["drop_malformed_frame"] += 1
            elif destination != self.ourselves:
                self._transit(neighbour, source, destination, source_bytes + destination_bytes, frame)
            elif source == self.ourselves:
                counters["drop_own_frame_returned"] += 1
            else:
                self._delivered(neighbour, source, source_bytes, frame, now)
        return special

    def received_rows(self, neighbour: Neighbour, rows: NDArray[np.uint8], last: int, now: float) -> int:
        """The opened content of a burst of packets, one per row behind 6 bytes of room; `last`: bytes of the last row.

        Handles, from the first row on, packets with frames of one length, between the same peers and MAC addresses,
        that are treated alike. Returns how many rows that were; the next one, if any, is for `received`.
        """
        stride = rows.shape[1]
        if stride < FIRST_FRAME + LOOKED_AT:
            return 0
        length = int(rows[0, FIRST_FRAME - 2]) << 8 | int(rows[0, FIRST_FRAME - 1])
        unit = FRAME_HEADER_BYTES + length
        per_packet, rest = divmod(int(stride) - NAME_BYTES, unit)
        if length < LOOKED_AT or rest:
            return 0
        full, shorter = divmod(last - NAME_BYTES, unit)  # whole frames of the last row; bytes behind them
        if per_packet == 1:
            units, headroom = rows, FIRST_FRAME
        else:
            units, headroom = np.ascontiguousarray(rows[:, NAME_BYTES:]).reshape(-1, unit), FRAME_HEADER_BYTES
        count = (len(rows) - 1) * per_packet + full
        if count == 0:
            return 0
        start = headroom - FRAME_HEADER_BYTES
        run = alike(units[:count, start:], FRAME_HEADER_BYTES)
        last_bytes = length
        if run == count and shorter:
            if _continues(units[0, start:].tobytes(), units[count, start : start + shorter].tobytes()):
                run, last_bytes = count + 1, shorter - FRAME_HEADER_BYTES
            else:
                run -= full % per_packet  # a packet is handled as a whole
        elif run < count:
            run -= run % per_packet
        if run < WORTHWHILE_ROWS:
            return 0
        segments = Segments(units[:run].reshape(-1), headroom, units.shape[1], run, last_bytes)
        if not self._received_alike(neighbour, units[0, start : start + unit].tobytes(), segments, now):
            return 0
        return -(-run // per_packet)

    def _received_alike(self, neighbour: Neighbour, first: bytes, segments: Segments, now: float) -> bool:
        """Frames that are treated alike; `first`: the first with its header. False if they are not containers'."""
        source, destination = self._names.get(first[:6]), self._names.get(first[6:12])
        if source is None or destination is None or is_special(first[FRAME_HEADER_BYTES:]):
            return False
        count = segments.count
        self.counters["frames_received"] += count
        if destination != self.ourselves:
            self._transit(neighbour, source, destination, first[:12], segments)
        elif source == self.ourselves:
            self.counters["drop_own_frame_returned"] += count
        else:
            self._delivered(neighbour, source, first[:6], segments, now)
        return True

    def _transit(
        self,
        neighbour: Neighbour,
        source: PeerName,
        destination: PeerName,
        prefix: bytes,
        frame: bytes | Segments,
    ) -> None:
        # Where all views agree, a peer sends us only what it would route through us. Elsewhere this breaks loops.
        agreed = self._routes.hop_of(neighbour.name, destination) == self.ourselves
        if agreed and is_group(_macs(frame)):
            # A broadcast for one of those behind us, whom its source serves in our stead. Who is not there any more
            # gets it from its new parent.
            agreed = destination in self._routes.broadcast(source)
        if not agreed:
            self.counters["drop_views_differ"] += _count(frame)
            return
        self.counters["frames_relayed"] += _count(frame)
        self._unicast(destination, prefix, frame)

    def _delivered(
        self, neighbour: Neighbour, source: PeerName, source_bytes: bytes, frame: bytes | Segments, now: float
    ) -> None:
        """A frame for us as destination peer: ours, and perhaps others' behind us in the source's tree."""
        if source in self._kernel.accepted_from:
            self.counters["drop_kernel_has_it"] += _count(frame)
            return
        from_parent = self._routes.parent(source) == neighbour.name
        macs = _macs(frame)
        if is_group(macs) and not from_parent:
            self.counters["drop_not_from_parent"] += _count(frame)
            return
        if is_group(macs):
            frames = [frame] if isinstance(frame, bytes) else frame.frames()
            new = [each for each in frames if self._duplicates.accept(source, neighbour.name, each, now)]
            if len(new) < len(frames):
                self.counters["drop_duplicate"] += len(frames) - len(new)
                for each in new:
                    self._accepted(source, source_bytes, each, now, from_parent=from_parent)
                return
        self._accepted(source, source_bytes, frame, now, from_parent=from_parent)

    def _accepted(
        self, source: PeerName, source_bytes: bytes, frame: bytes | Segments, now: float, *, from_parent: bool
    ) -> None:
        macs = _macs(frame)
        self.macs.learn_remote(macs[6:], source, now)
        if isinstance(frame, bytes):
            self.injected.append(frame)
        else:
            self.injected += join(frame, udp=self._joins_udp)
        if from_parent and self.macs.owner(macs[:6]) != self.ourselves:
            self._broadcast(source_bytes, source, frame)

    # --- to neighbours ----------------------------------------------------------------------------------------------

    def _broadcast(self, source_bytes: bytes, source: PeerName, frame: bytes | Segments) -> None:
        for name in self._routes.broadcast(source):
            neighbour = self.neighbours.get(name)
            if neighbour is not None:
                self._send(neighbour, source_bytes + neighbour.name_bytes, frame, broadcast=True)

    def _unicast(self, destination: PeerName, prefix: bytes, frame: bytes | Segments) -> None:
        neighbour = self.neighbours.get(self._routes.unicast.get(destination, NO_PEER))
        if neighbour is None:
            self.counters["drop_no_route"] += _count(frame)
        else:
            self._send(neighbour, prefix, frame, broadcast=False)

    def _send(self, neighbour: Neighbour, prefix: bytes, frame: bytes | Segments, *, broadcast: bool) -> None:
        """Choose the way with or without DF; cut or refuse what is too large (sleeve.md section 6)."""
        link = neighbour.link
        if link.remote is None:
            self.counters["drop_no_remote_address"] += _count(frame)
            return
        largest = link.path_mtu.mtu + HEADER_BYTES
        if isinstance(frame, Segments):
            if frame.frame_bytes > largest:
                self._send_oversized(neighbour, prefix, frame.frames(), broadcast=broadcast)
                return
            kind = classify(frame.buffer.data[frame.headroom : frame.stride])
            if broadcast:  # headers are written into the buffer, so each next hop needs its own
                frame = Segments(frame.buffer.copy(), frame.headroom, frame.stride, frame.count, frame.last)
        else:
            kind = classify(frame)
            if len(frame) > largest and kind is not Kind.NOT_IP:
                self._send_oversized(neighbour, prefix, [frame], broadcast=broadcast)
                return
        neighbour.queue(prefix, frame, df=_with_df(kind, neighbour))
        self.pending[neighbour] = None

    def _send_oversized(self, neighbour: Neighbour, prefix: bytes, frames: Iterable[bytes], *, broadcast: bool) -> None:
        """Frames that may be larger than the path: fragments, an ICMP reply to the first that must not be cut, …"""
        mtu = neighbour.link.path_mtu.mtu
        refused = False
        for frame in frames:
            kind = classify(frame)
            if kind is Kind.IP_DF and len(frame) > mtu + HEADER_BYTES:
                self.counters["drop_too_big"] += 1
                if not broadcast and not refused:
                    refused = True
                    self._refuse(prefix, frame, mtu)
            elif kind is Kind.IP_NO_DF and not neighbour.link.fragments_pass and len(frame) > mtu + HEADER_BYTES:
                for part in fragment(frame, mtu):
                    neighbour.queue(prefix, part, df=True)
            else:
                neighbour.queue(prefix, frame, df=_with_df(kind, neighbour))
        self.pending[neighbour] = None

    def _refuse(self, prefix: bytes, frame: bytes, mtu: int) -> None:
        """Answer "fragmentation needed", as if the frame's destination had (8.4)."""
        reply = fragmentation_needed(frame, mtu)
        if prefix[:6] == self._own_bytes:
            self.injected.append(reply)
            return
        origin = self._names.get(prefix[:6])
        if origin is not None:
            self._unicast(origin, prefix[6:] + prefix[:6], reply)


def _continues(frame: bytes, shorter: bytes) -> bool:
    """Whether the last, shorter frame of a burst is treated as the others are; both with their headers."""
    return (
        len(shorter) >= FRAME_HEADER_BYTES
        and shorter[:12] == frame[:12]
        and int.from_bytes(shorter[12:14]) == len(shorter) - FRAME_HEADER_BYTES
        and is_alike(frame[FRAME_HEADER_BYTES:], shorter[FRAME_HEADER_BYTES:])
    )


def _macs(frame: bytes | Segments) -> bytes:
    return frame[:12] if isinstance(frame, bytes) else frame.first(12)


def _count(frame: bytes | Segments) -> int:
    return frame.count if isinstance(frame, Segments) else 1


def _with_df(kind: Kind, neighbour: Neighbour) -> bool:
    """Which way a frame goes (sleeve.md section 6)."""
    return kind is Kind.IP_DF or (kind is Kind.IP_NO_DF and not neighbour.link.fragments_pass)
