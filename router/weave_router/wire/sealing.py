"""Session key and sealing of control messages (mesh.md section 4): NaCl box agreement, secretbox per message."""

from __future__ import annotations

import hashlib
import struct

from nacl import bindings
from nacl.exceptions import CryptoError

from weave_router.errors import ProtocolError

SEAL_BYTES = bindings.crypto_secretbox_MACBYTES
_DIALLER, _TCP = 0x80, 0x40


class SealError(ProtocolError):
    """A sealed message does not open: another key, another order, or changed on the way."""


def public_key(private_key: bytes) -> bytes:
    """The Curve25519 public key (32 bytes) of a private one."""
    return bindings.crypto_scalarmult_base(private_key)


def session_key(their_public: bytes, own_private: bytes, password: bytes) -> bytes:
    """The 32-byte session key: SHA-256 of the NaCl shared key and the password.

    Raises `SealError` for a public key that gives no secret (a point of low order).
    """
    try:
        shared = bindings.crypto_box_beforenm(their_public, own_private)
    except CryptoError as error:
        raise SealError("the peer's public key is unusable") from error
    return hashlib.sha256(shared + password).digest()


class MessageSealer:
    """Seals or opens the messages of one direction, in order.

    `sender_dialled`: whether the sender of this direction dialled the TCP connection. Sequence numbers start at 0
    and count every message.
    """

    def __init__(self, key: bytes, *, sender_dialled: bool) -> None:
        self._key = key
        self._first = bytes((_TCP | (_DIALLER if sender_dialled else 0),))
        self._sequence = 0

    def seal(self, message: bytes) -> bytes:
        """Seal the next message; the result is 16 bytes longer."""
        return bindings.crypto_secretbox(message, self._next_nonce(), self._key)

    def open(self, sealed: bytes) -> bytes:
        """Open the next message. Raises `SealError`."""
        try:
            return bindings.crypto_secretbox_open(sealed, self._next_nonce(), self._key)
        except (CryptoError, ValueError) as error:
            raise SealError("unable to decrypt") from error

    def _next_nonce(self) -> bytes:
        nonce = self._first + bytes(15) + struct.pack(">Q", self._sequence)
        self._sequence += 1
        return nonce
