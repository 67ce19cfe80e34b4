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
from typing import TYPE_CHECKING

from weave_router.dataplane.mac_table import MacTable
from weave_router.dataplane.neighbour import SEGMENT_HEADROOM, Neighbour
from weave_router.frames.ethernet import HEADER_BYTES, SPANNING_TREE, ZERO_HEADER, is_group
from weave_router.frames.ipv4 import Kind, classify, fragment, fragmentation_needed
from weave_router.frames.segmentation import (
    NEEDS_CHECKSUM,
    VNET_BYTES,
    VNET_HEADER,
    SegmentationError,
    Segments,
    complete_checksum,
    cut,
)
from weave_router.sleeve.codec import is_special, split_frames
from weave_router.wire.peer_name import NO_PEER, PeerName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_router.control.routes import Routes

_DATA = slice(VNET_BYTES + HEADER_BYTES, None)


class Forwarder:
    """Forwarding state of one router."""

    def __init__(self, routes: Routes) -> None:
        self.ourselves = routes.ourselves
        self.macs = MacTable(self.ourselves)
        self.neighbours: dict[PeerName, Neighbour] = {}
        self.injected: list[bytes] = []
        """Frames for the bridge; whoever takes them clears the list."""
        self.pending: dict[Neighbour, None] = {}
        """Neighbours with queued frames; whoever sends them clears it."""
        self.counters: Counter[str] = Counter()
        self._own_bytes = self.ourselves.to_bytes(6)
        self.publish(routes)

    def publish(self, routes: Routes) -> None:
        """New routes are in force."""
        self._routes = routes
        self._names = {name.to_bytes(6): name for name in routes.peers}

    # --- from the bridge --------------------------------------------------------------------------------------------

    def captured(self, packet: bytes, now: float) -> None:
        """A frame from the bridge, behind its virtio-net header."""
        counters = self.counters
        counters["frames_captured"] += 1
        if len(packet) < VNET_BYTES + HEADER_BYTES or packet.startswith(ZERO_HEADER, VNET_BYTES):
            counters["drop_malformed_frame"] += 1
            return
        destination = packet[10:16]
        if not self.macs.learn_local(packet[16:22], now):
            counters["drop_foreign_source_mac"] += 1
            return
        if destination == SPANNING_TREE:
            return
        owner = self.macs.owner(destination)
        if owner == self.ourselves:
            return
        try:
            frame = self._complete(packet)
        except SegmentationError:
            counters["drop_malformed_frame"] += 1
            return
        if owner is None:
            self._broadcast(self._own_bytes, self.ourselves, frame)
        else:
            self._unicast(owner, self._own_bytes + owner.to_bytes(6), frame)

    def _complete(self, packet: bytes) -> bytes | Segments:
        """The frame without virtio header and with complete checksums; superframes are cut."""
        flags, gso_type, _, _, start, offset = VNET_HEADER.unpack_from(packet)
        if gso_type:
            segments = cut(packet, SEGMENT_HEADROOM)
            self.counters["superframes_captured"] += 1
            self.counters["frames_captured"] += segments.count - 1
            return segments
        frame = packet[VNET_BYTES:]
        return complete_checksum(frame, start, offset) if flags & NEEDS_CHECKSUM else frame

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
                self._transit(neighbour, destination, source_bytes + destination_bytes, frame)
            elif source == self.ourselves:
                counters["drop_own_frame_returned"] += 1
            else:
                self._delivered(neighbour, source, source_bytes, frame, now)
        return special

    def _transit(self, neighbour: Neighbour, destination: PeerName, prefix: bytes, frame: bytes) -> None:
        if self._routes.unicast.get(destination) == neighbour.name:
            # Views of the topology differ just now; back to where it came from would be a loop.
            self.counters["drop_returning"] += 1
            return
        self.counters["frames_relayed"] += 1
        self._unicast(destination, prefix, frame)

    def _delivered(self, neighbour: Neighbour, source: PeerName, source_bytes: bytes, frame: bytes, now: float) -> None:
        """A frame for us as destination peer: ours, and perhaps others' behind us in the source's tree."""
        from_parent = self._routes.parent(source) == neighbour.name
        if is_group(frame) and not from_parent:
            self.counters["drop_not_from_parent"] += 1
            return
        self.macs.learn_remote(frame[6:12], source, now)
        self.injected.append(frame)
        if from_parent and self.macs.owner(frame[:6]) != self.ourselves:
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
            self.counters["drop_no_route"] += 1
        else:
            self._send(neighbour, prefix, frame, broadcast=False)

    def _send(self, neighbour: Neighbour, prefix: bytes, frame: bytes | Segments, *, broadcast: bool) -> None:
        """Choose the way with or without DF; cut or refuse what is too large (sleeve.md section 6)."""
        link = neighbour.link
        if link.remote is None:
            self.counters["drop_no_remote_address"] += 1
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
        df = kind is Kind.IP_DF or (kind is Kind.IP_NO_DF and not link.fragments_pass)
        neighbour.queue(prefix, frame, df=df)
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
                neighbour.queue(prefix, frame, df=kind is not Kind.NOT_IP and not neighbour.link.fragments_pass)
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
