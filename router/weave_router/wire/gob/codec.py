"""Gob for payloads of one kind: type definitions are prepared, since with small payloads they are most of the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weave_router.wire.gob.decoder import DEFAULT_MAX_VALUES, Decoder
from weave_router.wire.gob.encoder import Encoder

if TYPE_CHECKING:
    from weave_router.wire.gob.schemas import Schema

_MAX_IDLE = 8


class Codec:
    """For one kind of payload, whose values are of these schemas; `max_values`: what one may unfold to.

    Definitions are written once, and read once from peers that send the very same ones, as all of ours do.
    """

    def __init__(self, *schemas: Schema, max_values: int = DEFAULT_MAX_VALUES) -> None:
        self._encoder = Encoder()
        for schema in schemas:
            self._encoder.define(schema)
        self.definitions = self._encoder.getvalue()
        """What each payload begins with."""
        self._defined = self._encoder.definitions
        self._max_values = max_values
        self._idle: list[Decoder] = []

    def chunk(self, schema: Schema, value: Any) -> bytes:
        """A value as it follows the definitions."""
        return self._encoder.chunk(schema, value)

    def encode(self, schema: Schema, value: Any) -> bytes:
        """A payload with one value."""
        return self.definitions + self._encoder.chunk(schema, value)

    def decoder(self, payload: bytes) -> Decoder:
        """Reads a payload; to be handed back by `done` when it has been read without an error."""
        if self._idle and payload.startswith(self.definitions):
            decoder = self._idle.pop()
            decoder.restart(payload, len(self.definitions))
            return decoder
        return Decoder(payload, self._max_values)

    def done(self, decoder: Decoder, payload: bytes) -> None:
        """The payload has been read."""
        own = decoder.definitions == self._defined and payload.startswith(self.definitions)
        if own and len(self._idle) < _MAX_IDLE:
            decoder.restart(b"", 0)
            self._idle.append(decoder)

    def decode(self, schema: Schema, payload: bytes) -> Any:
        """The first value of a payload. Raises `GobError`."""
        decoder = self.decoder(payload)
        value = decoder.value(schema)
        self.done(decoder, payload)
        return value
