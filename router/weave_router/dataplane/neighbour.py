"""The data plane's side of one connection: its link state, its cipher, and the frames that wait to be sent.

Frames with and without DF wait in one queue, so that those of one flow do not overtake each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from weave_router.dataplane.packet_io import MAX_RUN_BYTES, MAX_RUN_PACKETS, PacketRun
from weave_router.frames.segmentation import Segments
from weave_router.sleeve.codec import FIRST_FRAME, FRAME_HEADER_BYTES, MAX_DATAGRAM, NAME_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.sleeve.cipher import Cipher
    from weave_router.sleeve.link import SleeveLink
    from weave_router.wire.peer_name import PeerName


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
    """One sleeve connection. Frames are queued and leave at the end of a burst."""

    def __init__(self, name: PeerName, link: SleeveLink, cipher: Cipher, events: LinkEvents) -> None:
        self.name = name
        self.name_bytes = name.to_bytes(NAME_BYTES)
        self.link = link
        self.cipher = cipher
        self.events = events
        self._queue: list[tuple[bool, list[tuple[bytes, bytes | Segments]]]] = []
        """In order: whether with DF, and the frames that follow each other so."""

    def queue(self, prefix: bytes, frame: bytes | Segments, *, df: bool) -> None:
        """Append a frame, or the segments of a superframe, with the 12 bytes of its peers' names."""
        if not self._queue or self._queue[-1][0] is not df:
            self._queue.append((df, []))
        self._queue[-1][1].append((prefix, frame))

    def take_packets(self) -> tuple[list[tuple[bool, list[PacketRun]]], int]:
        """Make packets of what waits, in order: whether with DF, and runs to be sent so.

        Also tells how many frames were too large for any packet. Frames share a packet while it stays within the path's
        limit.
        """
        queue, self._queue = self._queue, []  # first, so that a frame that we stumble over is not met again
        result: list[tuple[bool, list[PacketRun]]] = []
        dropped = 0
        for df, frames in queue:
            runs, too_large = self._packets(frames, df=df)
            dropped += too_large
            if runs:
                result.append((df, runs))
        return result, dropped

    def _packets(self, queue: list[tuple[bytes, bytes | Segments]], *, df: bool) -> tuple[list[PacketRun], int]:
        runs: list[PacketRun] = []
        packets: list[bytes] = []
        share_limit = self.link.path_mtu.limit - self.cipher.packet_overhead
        largest = (share_limit if df else MAX_DATAGRAM - self.cipher.packet_overhead) - FRAME_HEADER_BYTES
        seal = self.cipher.seal
        waiting: list[bytes] = []
        waiting_bytes = dropped = 0
        for prefix, queued in queue:
            if isinstance(queued, Segments):
                if queued.frame_bytes <= largest:
                    if waiting:
                        packets.append(seal(b"".join(waiting), df=df))
                        waiting, waiting_bytes = [], 0
                    runs += equal_runs(packets)
                    packets = []
                    runs += self._seal_segments(prefix, queued, share_limit, df=df)
                    continue
                frames = queued.frames()
            else:
                frames = [queued]
            for frame in frames:
                size = FRAME_HEADER_BYTES + len(frame)
                if waiting and waiting_bytes + size > share_limit:
                    packets.append(seal(b"".join(waiting), df=df))
                    waiting, waiting_bytes = [], 0
                if len(frame) > largest:
                    dropped += 1
                    continue
                waiting += (prefix, len(frame).to_bytes(2), frame)
                waiting_bytes += size
        if waiting:
            packets.append(seal(b"".join(waiting), df=df))
        return [*runs, *equal_runs(packets)], dropped

    def _seal_segments(self, prefix: bytes, segments: Segments, share_limit: int, *, df: bool) -> Iterator[PacketRun]:
        """Packets of frames in one buffer: as many frames in each as it holds."""
        count, headroom, last = segments.count, segments.headroom, segments.last
        frames = segments.buffer.reshape(count, segments.stride)
        unit = FRAME_HEADER_BYTES + segments.frame_bytes
        share = max(share_limit // unit, 1)
        full = (count - 1) // share
        rest = count - full * share  # frames in the last packet, 1..share
        if share == 1 and headroom == FIRST_FRAME:
            packets = frames  # the headers fit into the room before each
            body = packets[:, NAME_BYTES:].reshape(count, 1, unit)
        else:
            packets = np.empty((full + 1, NAME_BYTES + share * unit), np.uint8)
            body = packets[:, NAME_BYTES:].reshape(full + 1, share, unit)
            body[:full, :, FRAME_HEADER_BYTES:] = frames[: full * share, headroom:].reshape(
                full, share, segments.frame_bytes
            )
            body[full, :rest, FRAME_HEADER_BYTES:] = frames[full * share :, headroom:]
        body[..., :FRAME_HEADER_BYTES] = np.frombuffer(prefix + segments.frame_bytes.to_bytes(2), np.uint8)
        body[full, rest - 1, FRAME_HEADER_BYTES - 2 : FRAME_HEADER_BYTES] = (last >> 8, last & 0xFF)
        last_packet = NAME_BYTES + (rest - 1) * unit + FRAME_HEADER_BYTES + last
        sealed, size = self.cipher.seal_rows(packets, last_packet, df=df)
        step = min(MAX_RUN_PACKETS, MAX_RUN_BYTES // size)
        for first in range(0, full + 1, step):
            sent = min(step, full + 1 - first)
            part = sealed[first * size : (first + sent) * size]
            yield PacketRun((part,), size, sent, len(part))


def equal_runs(packets: list[bytes]) -> Iterator[PacketRun]:
    """The same packets in the same order, those of equal length together."""
    start = 0
    while start < len(packets):
        size = len(packets[start])
        most = min(len(packets), start + MAX_RUN_PACKETS, start + MAX_RUN_BYTES // size)
        stop = start + 1
        while stop < most and len(packets[stop]) == size:
            stop += 1
        if stop < most and len(packets[stop]) < size:
            stop += 1  # the last of a run may be shorter
        run = packets[start:stop]
        yield PacketRun(run, size, len(run), size * (len(run) - 1) + len(run[-1]))
        start = stop
