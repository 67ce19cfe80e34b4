"""The data plane's side of one connection: its link state, its cipher, and the frames that wait to be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from weave_router.frames.segmentation import Segments
from weave_router.sleeve.codec import FRAME_HEADER_BYTES, MAX_DATAGRAM, NAME_BYTES, encode_frame

if TYPE_CHECKING:
    from weave_router.sleeve.cipher import Cipher
    from weave_router.sleeve.link import SleeveLink
    from weave_router.wire.peer_name import PeerName

SEGMENT_HEADROOM = NAME_BYTES + FRAME_HEADER_BYTES
"""Room before each segment of a superframe for the packet's name and the frame's header."""

Packets = list[bytes | memoryview]


class LinkEvents(Protocol):
    """What the link of one connection tells the control plane."""

    def send_control(self, number: int, body: bytes) -> None:
        """Send a sleeve control message over TCP."""

    def heard(self) -> None:
        """The neighbour gave a sign of life."""

    def established(self) -> None:
        """The neighbour receives our packets."""

    def failed(self, reason: str) -> None:
        """The overlay is dead; the connection must end."""


class Neighbour:
    """One sleeve connection. Frames are queued per way (with and without DF) and leave at the end of a burst."""

    def __init__(self, name: PeerName, link: SleeveLink, cipher: Cipher, events: LinkEvents) -> None:
        self.name = name
        self.name_bytes = name.to_bytes(NAME_BYTES)
        self.link = link
        self.cipher = cipher
        self.events = events
        self._queues: tuple[list[tuple[bytes, bytes | Segments]], list[tuple[bytes, bytes | Segments]]] = ([], [])

    def queue(self, prefix: bytes, frame: bytes | Segments, *, df: bool) -> None:
        """Append a frame, or the segments of a superframe, with the 12 bytes of its peers' names."""
        self._queues[df].append((prefix, frame))

    def take_packets(self, *, df: bool) -> tuple[Packets, int]:
        """Make packets of what waits for this way; also how many frames were too large for any packet.

        Frames share a packet while it stays within the path's limit; segments of a superframe, which fill a packet
        each, do not.
        """
        queue = self._queues[df]
        if not queue:
            return [], 0
        packets: Packets = []
        share_limit = self.link.path_mtu.limit - self.cipher.packet_overhead
        largest = share_limit if df else MAX_DATAGRAM - self.cipher.packet_overhead
        waiting: list[bytes] = []
        waiting_bytes = dropped = 0
        for prefix, frame in queue:
            if isinstance(frame, Segments):
                if waiting:
                    packets.append(self.cipher.seal(b"".join(waiting), df=df))
                    waiting, waiting_bytes = [], 0
                packets += self._seal_segments(prefix, frame, df=df)
                continue
            size = FRAME_HEADER_BYTES + len(frame)
            if waiting and waiting_bytes + size > share_limit:
                packets.append(self.cipher.seal(b"".join(waiting), df=df))
                waiting, waiting_bytes = [], 0
            if size > largest:
                dropped += 1
                continue
            waiting.append(encode_frame(prefix, frame))
            waiting_bytes += size
        if waiting:
            packets.append(self.cipher.seal(b"".join(waiting), df=df))
        queue.clear()
        return packets, dropped

    def _seal_segments(self, prefix: bytes, segments: Segments, *, df: bool) -> Packets:
        """Packets of a superframe: its headers are written into the room before each segment."""
        rows = segments.buffer.reshape(segments.count, segments.stride)
        header = prefix + segments.frame_bytes.to_bytes(2)
        rows[:, NAME_BYTES:SEGMENT_HEADROOM] = memoryview(header)
        rows[-1, SEGMENT_HEADROOM - 2] = segments.last >> 8
        rows[-1, SEGMENT_HEADROOM - 1] = segments.last & 0xFF
        data = segments.buffer.data[: segments.total]
        seal = self.cipher.seal
        return [
            seal(data[start + NAME_BYTES : start + segments.stride], df=df)
            for start in range(0, segments.total, segments.stride)
        ]
