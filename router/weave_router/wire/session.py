"""The control connection without I/O: opening exchange, framing, sealing (mesh.md sections 3 and 4).

    header ──> flag ──> features ──> open

Bytes from the peer go into `receive`, which returns events; `hello`, `send_features` and `send` return bytes for the
peer. The session does not know a socket or the time; whoever drives it closes the connection on `HandshakeError`
(opening exchange) or any other `ProtocolError`.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from weave_router.errors import ProtocolError
from weave_router.wire.features import MAX_FEATURES_BYTES, decode_features, encode_features
from weave_router.wire.sealing import MessageSealer, SealError, public_key, session_key

MAGIC = b"weave"
VERSION = 2
"""The only version that we speak: version 1 has its features in clear (mesh.md 3.1)."""
MAX_MESSAGE_BYTES = 10 * 1024 * 1024
_MAX_FEATURES_MESSAGE = MAX_FEATURES_BYTES + 1024
_LENGTH = struct.Struct(">I")


class HandshakeError(ProtocolError):
    """The opening exchange failed; the text tells the operator why."""


@dataclass(frozen=True, slots=True)
class KeyAgreed:
    """The peer's flag has been read: `send_features` is due now."""


@dataclass(frozen=True, slots=True)
class FeaturesReceived:
    """The peer's features map; the session is open."""

    features: dict[str, str]


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message of the open session: tag byte and body, or empty."""

    message: bytes


Event = KeyAgreed | FeaturesReceived | MessageReceived


class _State(enum.Enum):
    HEADER = enum.auto()
    FLAG = enum.auto()
    FEATURES = enum.auto()
    OPEN = enum.auto()


class Session:
    """One control connection.

    `outbound`: whether we dialled. `password`: None for a plain connection. `private_key`: 32 fresh random bytes.
    """

    def __init__(self, *, outbound: bool, password: bytes | None, private_key: bytes) -> None:
        self._outbound = outbound
        self._password = password
        self._private_key = private_key
        self._state = _State.HEADER
        self._buffer = bytearray()
        self._seal: MessageSealer | None = None
        self._open: MessageSealer | None = None
        self.key: bytes | None = None
        """The session key, once agreed; None on plain connections."""

    def hello(self) -> bytes:
        """What to send first, at once: version header, encryption flag and public key."""
        header = MAGIC + bytes((VERSION, VERSION))
        if self._password is None:
            return header + b"\0"
        return header + b"\x01" + public_key(self._private_key)

    def send_features(self, features: dict[str, str]) -> bytes:
        """The features message; after `KeyAgreed`."""
        return self.send(encode_features(features))

    def send(self, message: bytes) -> bytes:
        """Frame and seal a message. A message over 10 MiB would end the connection: raises `ProtocolError`."""
        if self._seal is not None:
            message = self._seal.seal(message)
        if len(message) > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"message of {len(message)} bytes, more than a peer accepts")
        return _LENGTH.pack(len(message)) + message

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes from the peer. Raises `HandshakeError` before the session is open, `ProtocolError` after."""
        self._buffer += data
        events: list[Event] = []
        while event := self._step():
            events.append(event)
        return events

    def _step(self) -> Event | None:
        match self._state:
            case _State.HEADER:
                if not self._read_header():
                    return None
                return self._read_flag()
            case _State.FLAG:
                return self._read_flag()
            case _State.FEATURES:
                message = self._read_message(_MAX_FEATURES_MESSAGE)
                if message is None:
                    return None
                try:
                    features = decode_features(message)
                except ProtocolError as error:
                    raise HandshakeError(f"bad features: {error}") from error
                self._state = _State.OPEN
                return FeaturesReceived(features)
            case _State.OPEN:
                message = self._read_message(MAX_MESSAGE_BYTES)
                return None if message is None else MessageReceived(message)

    def _read_header(self) -> bool:
        buffer = self._buffer
        if not MAGIC.startswith(buffer[: len(MAGIC)]):
            raise HandshakeError("the remote does not speak Weave's protocol")
        if len(buffer) < len(MAGIC) + 2:
            return False
        lowest, highest = buffer[5], buffer[6]
        if not lowest <= VERSION <= highest:
            raise HandshakeError(f"the peer speaks protocol versions {lowest}..{highest}, we speak {VERSION}")
        del buffer[:7]
        self._state = _State.FLAG
        return True

    def _read_flag(self) -> Event | None:
        buffer = self._buffer
        if not buffer:
            return None
        if buffer[0] > 1:
            raise HandshakeError(f"bad encryption flag {buffer[0]}")
        if buffer[0] == 0:
            if self._password is not None:
                raise HandshakeError("the peer has no password, but one is set here")
            del buffer[:1]
        else:
            if self._password is None:
                raise HandshakeError("the peer has a password, but none is set here")
            if len(buffer) < 33:
                return None
            try:
                key = session_key(bytes(buffer[1:33]), self._private_key, self._password)
            except SealError as error:
                raise HandshakeError(str(error)) from error
            del buffer[:33]
            self.key = key
            self._seal = MessageSealer(key, sender_dialled=self._outbound)
            self._open = MessageSealer(key, sender_dialled=not self._outbound)
        self._state = _State.FEATURES
        return KeyAgreed()

    def _read_message(self, limit: int) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if length > limit:
            error = HandshakeError if self._state is _State.FEATURES else ProtocolError
            raise error(f"message of {length} bytes, more than the {limit} allowed")
        end = _LENGTH.size + length
        if len(buffer) < end:
            return None
        message = bytes(buffer[_LENGTH.size : end])
        del buffer[:end]
        if self._open is None:
            return message
        try:
            return self._open.open(message)
        except SealError as error:
            if self._state is _State.FEATURES:
                raise HandshakeError("the passwords differ: the peer's first message does not decrypt") from error
            raise
