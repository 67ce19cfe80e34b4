"""Layout of sleeve packets and special frames (sleeve.md sections 2 and 4)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from weave_router.errors import ProtocolError
from weave_router.frames.ethernet import ZERO_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.wire.peer_name import PeerName

NAME_BYTES = 6
FRAME_HEADER_BYTES = 14
"""Source peer, destination peer, length."""
FIRST_FRAME = NAME_BYTES + FRAME_HEADER_BYTES
"""Where the first frame of a plain packet begins: room that a frame needs before it to become a packet in place."""
MAX_DATAGRAM = 65507
"""Largest UDP payload in bytes."""
IP_UDP_BYTES = 28
HEARTBEAT_BYTES = 22
FRAGMENTATION_TEST_BYTES = 60001
DISCOVERY_BYTES = 60000
"""Length of the zero frame that provokes the first path MTU error."""


class PacketError(ProtocolError):
    """A datagram that cannot be read."""


def frame_prefix(source: PeerName, destination: PeerName) -> bytes:
    """The first 12 bytes of a frame header; the length follows."""
    return source.to_bytes(6) + destination.to_bytes(6)


def encode_frame(prefix: bytes, frame: bytes) -> bytes:
    """A frame with its header."""
    return b"".join((prefix, len(frame).to_bytes(2), frame))


def split_frames(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The frames of a packet behind its name: (source name, destination name, frame).

    Raises `PacketError` at the point where the packet is broken; the frames before it have been yielded.
    """
    position, end = 0, len(data)
    while end - position >= FRAME_HEADER_BYTES:
        start = position + FRAME_HEADER_BYTES
        stop = start + (data[start - 2] << 8 | data[start - 1])
        if stop > end:
            raise PacketError("frame longer than its packet")
        yield data[position : position + 6], data[position + 6 : position + 12], data[start:stop]
        position = stop
    if position != end:
        raise PacketError(f"{end - position} stray bytes at the end of a packet")


def is_special(frame: bytes) -> bool:
    """Whether the frame is a message between neighbours rather than a container's."""
    return frame.startswith(ZERO_HEADER)


def heartbeat(connection_uid: int) -> bytes:
    """The special frame that keeps a connection alive."""
    return ZERO_HEADER + struct.pack(">Q", connection_uid)


def read_heartbeat(frame: bytes) -> int:
    """The connection UID of a heartbeat (a special frame of 22 bytes)."""
    return int.from_bytes(frame[14:22])
