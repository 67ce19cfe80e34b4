"""Sealing of sleeve packets: plain, NaCl toward Weave Net 2.8, AEAD between our own peers.

    plain    name (6) ‖ frames
    sealed   name (6) ‖ w (8) ‖ sealed frames (16 bytes longer)

w is the sequence number with the top bit set for the counter of packets that are sent with DF (sleeve.md section 3).
The AEAD form has the same layout, counters and replay windows; see the design, "Data plane", for its keys.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from nacl import bindings
from nacl.exceptions import CryptoError

from weave_router.sleeve.codec import NAME_BYTES, PacketError
from weave_router.sleeve.replay import ReplayWindow

if TYPE_CHECKING:
    from weave_router.wire.peer_name import PeerName

DF_COUNTER = 1 << 63
_W = struct.Struct(">Q")
_SEALED_START = NAME_BYTES + _W.size
AES, CHACHA = "aes-256-gcm", "chacha20-poly1305"
_EPOCH_BITS = 24
_KEPT_EPOCHS = 4
_SALT = b"weave-net sleeve"


class Replayed(PacketError):  # noqa: N818 - named after what happened
    """A genuine packet that has been seen before."""


class Cipher(Protocol):
    """Makes packets of frames and frames of packets, for one connection."""

    name: str
    """`` for plain, else as in status views."""
    packet_overhead: int
    """Bytes of a packet beside its frames."""

    def seal(self, frames: bytes | memoryview, *, df: bool) -> bytes:
        """The packet of these encoded frames."""

    def open(self, packet: bytes) -> bytes:
        """The encoded frames of a packet. Raises `PacketError` (`Replayed` for a repetition)."""


class PlainCipher:
    """No sealing."""

    name = ""
    packet_overhead = NAME_BYTES

    def __init__(self, ourselves: PeerName) -> None:
        self._name = ourselves.to_bytes(NAME_BYTES)

    def seal(self, frames: bytes | memoryview, *, df: bool) -> bytes:
        """The packet of these encoded frames."""
        return b"".join((self._name, frames))

    def open(self, packet: bytes) -> bytes:
        """The encoded frames of a packet."""
        return packet[NAME_BYTES:]


class _Counters:
    """Sequence numbers out, replay windows in; index 0: non-DF, 1: DF."""

    def __init__(self) -> None:
        self._next = [0, 0]
        self._windows = (ReplayWindow(), ReplayWindow())

    def next(self, *, df: bool) -> int:
        sequence = self._next[df]
        self._next[df] = sequence + 1
        return sequence | DF_COUNTER if df else sequence

    def check(self, w: int) -> None:
        if not self._windows[w >> 63].accept(w & (DF_COUNTER - 1)):
            raise Replayed("packet seen before")


class NaclCipher:
    """XSalsa20-Poly1305 with the session key of the control connection."""

    name = "nacl"
    packet_overhead = _SEALED_START + bindings.crypto_secretbox_MACBYTES

    def __init__(self, ourselves: PeerName, key: bytes, *, outbound: bool) -> None:
        self._name = ourselves.to_bytes(NAME_BYTES)
        self._key = key
        self._ours = (b"\x80" if outbound else b"\0") + bytes(15)
        self._theirs = (b"\0" if outbound else b"\x80") + bytes(15)
        self._counters = _Counters()

    def seal(self, frames: bytes | memoryview, *, df: bool) -> bytes:
        """The packet of these encoded frames."""
        w = _W.pack(self._counters.next(df=df))
        return b"".join((self._name, w, bindings.crypto_secretbox(bytes(frames), self._ours + w, self._key)))

    def open(self, packet: bytes) -> bytes:
        """The encoded frames of a packet."""
        if len(packet) < _SEALED_START:
            raise PacketError("sealed packet without sequence number")
        w = packet[NAME_BYTES:_SEALED_START]
        try:
            frames = bindings.crypto_secretbox_open(packet[_SEALED_START:], self._theirs + w, self._key)
        except (CryptoError, ValueError) as error:
            raise PacketError("packet does not decrypt") from error
        self._counters.check(int.from_bytes(w))
        return frames


class AeadCipher:
    """AES-256-GCM or ChaCha20-Poly1305, with keys per direction that renew every 2^24 packets."""

    packet_overhead = NaclCipher.packet_overhead

    def __init__(
        self, name: str, ourselves: PeerName, neighbour: PeerName, connection_uid: int, session_key: bytes
    ) -> None:
        self.name = name
        self._name = ourselves.to_bytes(NAME_BYTES)
        self._algorithm: type[AESGCM | ChaCha20Poly1305] = AESGCM if name == AES else ChaCha20Poly1305
        mac = HMAC(_SALT, hashes.SHA256())
        mac.update(session_key)
        self._prk = mac.finalize()  # HKDF-Extract (RFC 5869 section 2.2)
        uid = connection_uid.to_bytes(8)
        theirs = neighbour.to_bytes(NAME_BYTES)
        self._seal_info = name.encode() + self._name + theirs + uid
        self._open_info = name.encode() + theirs + self._name + uid
        self._counters = _Counters()
        self._seal_epochs: dict[int, AESGCM | ChaCha20Poly1305] = {}
        self._open_epochs: dict[int, AESGCM | ChaCha20Poly1305] = {}

    def seal(self, frames: bytes | memoryview, *, df: bool) -> bytes:
        """The packet of these encoded frames."""
        w = self._counters.next(df=df)
        epoch = (w & (DF_COUNTER - 1)) >> _EPOCH_BITS
        aead = self._seal_epochs.get(epoch)
        if aead is None:
            aead = self._derive(self._seal_info, epoch)
            _keep(self._seal_epochs, epoch, aead)
        head = self._name + _W.pack(w)
        return head + aead.encrypt(b"\0\0\0\0" + head[NAME_BYTES:], frames, head)

    def open(self, packet: bytes) -> bytes:
        """The encoded frames of a packet."""
        if len(packet) < _SEALED_START:
            raise PacketError("sealed packet without sequence number")
        head = packet[:_SEALED_START]
        w = int.from_bytes(head[NAME_BYTES:])
        epoch = (w & (DF_COUNTER - 1)) >> _EPOCH_BITS
        known = self._open_epochs.get(epoch)
        aead = known or self._derive(self._open_info, epoch)
        try:
            frames = aead.decrypt(b"\0\0\0\0" + head[NAME_BYTES:], packet[_SEALED_START:], head)
        except InvalidTag as error:
            raise PacketError("packet does not decrypt") from error
        if known is None:  # kept only now, so that forged numbers cannot push out the keys in use
            _keep(self._open_epochs, epoch, aead)
        self._counters.check(w)
        return frames

    def _derive(self, info: bytes, epoch: int) -> AESGCM | ChaCha20Poly1305:
        expand = HKDFExpand(hashes.SHA256(), 32, info + epoch.to_bytes(8))
        return self._algorithm(expand.derive(self._prk))


def _keep(epochs: dict[int, AESGCM | ChaCha20Poly1305], epoch: int, aead: AESGCM | ChaCha20Poly1305) -> None:
    if len(epochs) >= _KEPT_EPOCHS:
        del epochs[min(epochs)]
    epochs[epoch] = aead


def offered_ciphers(*, aes_instructions: bool) -> tuple[str, ...]:
    """The feature `Ciphers`: AES first only where the processor makes it the faster one."""
    return (AES, CHACHA) if aes_instructions else (CHACHA, AES)


def choose_cipher(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    """The cipher of a sealed connection; both sides come to the same one. `nacl` toward Weave Net 2.8."""
    if ours[:1] == theirs[:1] == (AES,):
        return AES
    return CHACHA if CHACHA in ours and CHACHA in theirs else NaclCipher.name
