"""Message tags and the gossip envelope (mesh.md sections 6 and 7.1)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from weave_router.wire import gob
from weave_router.wire.peer_name import PeerName

MAX_CHANNEL_BYTES = 256
_NAME = gob.Uint(48)


class Tag(enum.IntEnum):
    """First byte of a message."""

    HEARTBEAT = 0
    SLEEVE_HEARD = 1
    SLEEVE_FRAGOK = 2
    SLEEVE_MTUOK = 3
    GOSSIP = 4
    UNICAST = 5
    BROADCAST = 6
    OVERLAY = 7


_GOSSIP_TAGS = (Tag.GOSSIP, Tag.UNICAST, Tag.BROADCAST)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A gossip message. `destination` is set for unicasts only."""

    tag: Tag
    channel: str
    source: PeerName
    """Originator; for tag `GOSSIP` the peer that sent this very message."""
    payload: bytes
    destination: PeerName | None = None

    def encode(self) -> bytes:
        """The message, tag byte included."""
        encoder = gob.Encoder()
        encoder.encode(gob.STRING, self.channel)
        encoder.encode(gob.UINT, self.source)
        if self.destination is not None:
            encoder.encode(gob.UINT, self.destination)
        encoder.encode(gob.BYTES, self.payload)
        return bytes((self.tag,)) + encoder.getvalue()


def decode_envelope(message: bytes) -> Envelope:
    """Read a message of tag 4, 5 or 6. Raises `GobError`."""
    if not message or message[0] not in _GOSSIP_TAGS:
        raise gob.GobError("not a gossip message")
    tag = Tag(message[0])
    decoder = gob.Decoder(message[1:])
    channel = decoder.value(gob.STRING)
    if gob.byte_length(channel) > MAX_CHANNEL_BYTES:
        raise gob.GobError(f"channel name of {gob.byte_length(channel)} bytes")
    source = PeerName(decoder.value(_NAME))
    destination = PeerName(decoder.value(_NAME)) if tag is Tag.UNICAST else None
    payload = decoder.value(gob.BYTES)
    if not decoder.at_end():
        raise gob.GobError("bytes left over behind the gossip payload")
    return Envelope(tag, channel, source, payload, destination)
