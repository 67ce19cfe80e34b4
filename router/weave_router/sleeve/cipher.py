"""Sealing of sleeve packets: plain, NaCl toward Weave Net 2.8, AEAD between our own peers.

    plain    name (6) ‖ frames
    sealed   name (6) ‖ w (8) ‖ sealed frames (16 bytes longer)

w is the sequence number with the top bit set for the counter of packets that are sent with DF (sleeve.md section 3).
The AEAD form has the same layout, counters and replay windows; see the design, "Data plane", for its keys.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import numpy as np
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
    from numpy.typing import NDArray

    from weave_router.wire.peer_name import PeerName

DF_COUNTER = 1 << 63
_W = struct.Struct(">Q")
_SEALED_START = NAME_BYTES + _W.size
SEAL_BYTES = 16
AES, CHACHA = "aes-256-gcm", "chacha20-poly1305"
_EPOCH_BITS = 24
_KEPT_EPOCHS = 4
_SALT = b"weave-net sleeve"


class Replayed(PacketError):  # noqa: N818 - named after what happened
    """A genuine packet that has been seen before."""


class Cipher(Protocol):
    """Makes packets of frames and frames of packets, for one connection.

    `seal` and `open` take one packet. The others take a burst as an array of shape (count, stride): each row is 6 bytes
    of room for the name and then encoded frames; the last row may be shorter. They spare a copy and a call per packet.
    """

    name: str
    """Empty for plain, else as in status views."""
    packet_overhead: int
    """Bytes of a packet beside its frames."""

    def seal(self, frames: bytes | memoryview, *, df: bool) -> bytes:
        """The packet of these encoded frames."""

    def open(self, packet: bytes) -> bytes:
        """The encoded frames of a packet. Raises `PacketError` (`Replayed` for a repetition)."""

    def seal_rows(self, rows: NDArray[np.uint8], last: int, *, df: bool) -> tuple[memoryview, int]:
        """The packets of rows in one piece, and the length of each but the last. `last`: bytes of the last row.

        `rows` is contiguous; it may be written to and become part of the result.
        """

    def open_rows(self, packets: NDArray[np.uint8], last: int) -> tuple[NDArray[np.uint8], int]:
        """The rows of packets, one per row of `packets`, and the bytes of the last row. `last`: of the last packet.

        All or nothing: raises `PacketError` if any packet does not open or was seen before; none counts as seen then,
        and they can be opened one by one. `packets` is contiguous; it is not changed, but may be the result.
        """


class PlainCipher:
    """No sealing."""

    name = ""
    packet_overhead = NAME_BYTES

    def __init__(self, ourselves: PeerName) -> None:
        self._name = ourselves.to_bytes(NAME_BYTES)
        self._name_row = np.frombuffer(self._name, np.uint8)

    def seal(self, frames: bytes | memoryview, *, df: bool) -> bytes:
        """The packet of these encoded frames."""
        return b"".join((self._name, frames))

    def open(self, packet: bytes) -> bytes:
        """The encoded frames of a packet."""
        return packet[NAME_BYTES:]

    def seal_rows(self, rows: NDArray[np.uint8], last: int, *, df: bool) -> tuple[memoryview, int]:
        """The rows themselves, with the name written into them."""
        rows[:, :NAME_BYTES] = self._name_row
        stride = rows.shape[1]
        return rows.reshape(-1).data[: (len(rows) - 1) * stride + last], stride

    def open_rows(self, packets: NDArray[np.uint8], last: int) -> tuple[NDArray[np.uint8], int]:
        """The packets themselves."""
        names = packets[:, :NAME_BYTES].tobytes()
        if last < NAME_BYTES or names != names[:NAME_BYTES] * len(packets):
            raise PacketError("packets of several senders")
        return packets, last


class _Sealed(ABC):
    """What both kinds of sealed packets share: their layout, counters and replay windows."""

    packet_overhead = _SEALED_START + SEAL_BYTES

    def __init__(self, ourselves: PeerName) -> None:
        self._name = ourselves.to_bytes(NAME_BYTES)
        self._name_row = np.frombuffer(self._name, np.uint8)
        self._next = [0, 0]  # index 0: without DF, 1: with
        self._windows = (ReplayWindow(), ReplayWindow())

    def _reserve(self, count: int, *, df: bool) -> int:
        """w of the first of `count` packets."""
        first = self._next[df]
        self._next[df] = first + count
        return first | DF_COUNTER if df else first

    def _check(self, w: int) -> None:
        if not self._windows[w >> 63].accept(w & (DF_COUNTER - 1)):
            raise Replayed("packet seen before")

    @abstractmethod
    def _seal_into(self, frames: memoryview, packet: memoryview) -> None:
        """Write what follows name and w in a packet, which has these already."""

    @abstractmethod
    def _open_into(self, packet: memoryview, frames: memoryview) -> None:
        """Write the frames of a packet. Raises `PacketError`."""

    def _seal_each(self, first: int, source: memoryview, stride: int, target: memoryview, size: int) -> None:
        """Seal the rows of `source` into the packets of `target`; `first`: w of the first."""
        for start, place in zip(range(0, len(source), stride), range(0, len(target), size), strict=True):
            self._seal_into(source[start + NAME_BYTES : start + stride], target[place : place + size])

    def _open_each(self, first: int, source: memoryview, size: int, target: memoryview, stride: int) -> None:
        """Open the packets of `source` into the rows of `target`; `first`: w of the first. Raises `PacketError`.

        All have the same counter and epoch.
        """
        for start, place in zip(range(0, len(source), size), range(0, len(target), stride), strict=True):
            self._open_into(source[start : start + size], target[place + NAME_BYTES : place + stride])

    def seal(self, frames: bytes | memoryview, *, df: bool) -> bytes:
        """The packet of these encoded frames."""
        packet = bytearray(len(frames) + self.packet_overhead)
        packet[:_SEALED_START] = self._name + _W.pack(self._reserve(1, df=df))
        self._seal_into(memoryview(frames), memoryview(packet))
        return bytes(packet)

    def open(self, packet: bytes) -> bytes:
        """The encoded frames of a packet."""
        frames = bytearray(max(len(packet) - self.packet_overhead, 0))
        self._open_into(memoryview(packet), memoryview(frames))
        self._check(int.from_bytes(packet[NAME_BYTES:_SEALED_START]))
        return bytes(frames)

    def seal_rows(self, rows: NDArray[np.uint8], last: int, *, df: bool) -> tuple[memoryview, int]:
        """The packets of rows, sealed straight into a new piece."""
        count, stride = rows.shape
        growth = self.packet_overhead - NAME_BYTES
        size = stride + growth
        packets = np.empty((count, size), np.uint8)
        first = self._reserve(count, df=df)
        packets[:, :NAME_BYTES] = self._name_row
        packets[:, NAME_BYTES:_SEALED_START] = _numbers(first, count)
        source = rows.reshape(-1).data[: (count - 1) * stride + last]
        target = packets.reshape(-1).data[: (count - 1) * size + last + growth]
        self._seal_each(first, source, stride, target, size)
        return target, size

    def open_rows(self, packets: NDArray[np.uint8], last: int) -> tuple[NDArray[np.uint8], int]:
        """The rows of packets, opened straight into a new array."""
        count, size = packets.shape
        growth = self.packet_overhead - NAME_BYTES
        stride = size - growth
        if stride <= NAME_BYTES or last < self.packet_overhead:
            raise PacketError("sealed packet that is too short")
        numbers = np.ascontiguousarray(packets[:, NAME_BYTES:_SEALED_START]).view(">u8")[:, 0].tolist()
        first = numbers[0]
        if min(numbers) >> _EPOCH_BITS != max(numbers) >> _EPOCH_BITS:
            raise PacketError("packets of two counters or keys")
        rows = np.empty((count, stride), np.uint8)
        source = packets.reshape(-1).data[: (count - 1) * size + last]
        target = rows.reshape(-1).data[: (count - 1) * stride + last - growth]
        self._open_each(first, source, size, target, stride)
        window, counter = self._windows[first >> 63], first & DF_COUNTER
        if numbers == [*range(first, first + count)]:
            new = window.accept_range(first ^ counter, count)
        else:
            new = window.accept_all(w ^ counter for w in numbers)
        if not new:
            raise Replayed("packet seen before")
        return rows, last - growth


class NaclCipher(_Sealed):
    """XSalsa20-Poly1305 with the session key of the control connection."""

    name = "nacl"

    def __init__(self, ourselves: PeerName, key: bytes, *, outbound: bool) -> None:
        super().__init__(ourselves)
        self._key = key
        self._ours = (b"\x80" if outbound else b"\0") + bytes(15)
        self._theirs = (b"\0" if outbound else b"\x80") + bytes(15)

    def _seal_into(self, frames: memoryview, packet: memoryview) -> None:
        nonce = self._ours + packet[NAME_BYTES:_SEALED_START]
        packet[_SEALED_START:] = bindings.crypto_secretbox(bytes(frames), nonce, self._key)

    def _open_into(self, packet: memoryview, frames: memoryview) -> None:
        nonce = self._theirs + bytes(packet[NAME_BYTES:_SEALED_START])
        try:
            frames[:] = bindings.crypto_secretbox_open(bytes(packet[_SEALED_START:]), nonce, self._key)
        except (CryptoError, ValueError) as error:
            raise PacketError("packet does not decrypt") from error


class AeadCipher(_Sealed):
    """AES-256-GCM or ChaCha20-Poly1305, with keys per direction that renew every 2^24 packets."""

    def __init__(
        self, name: str, ourselves: PeerName, neighbour: PeerName, connection_uid: int, session_key: bytes
    ) -> None:
        super().__init__(ourselves)
        self.name = name
        self._algorithm: type[AESGCM | ChaCha20Poly1305] = AESGCM if name == AES else ChaCha20Poly1305
        mac = HMAC(_SALT, hashes.SHA256())
        mac.update(session_key)
        self._prk = mac.finalize()  # HKDF-Extract (RFC 5869 section 2.2)
        uid = connection_uid.to_bytes(8)
        theirs = neighbour.to_bytes(NAME_BYTES)
        self._seal_info = name.encode() + self._name + theirs + uid
        self._open_info = name.encode() + theirs + self._name + uid
        self._seal_epochs: dict[int, AESGCM | ChaCha20Poly1305] = {}
        self._open_epochs: dict[int, AESGCM | ChaCha20Poly1305] = {}

    def _seal_into(self, frames: memoryview, packet: memoryview) -> None:
        head = bytes(packet[:_SEALED_START])
        aead = self._sealing(int.from_bytes(head[NAME_BYTES:]))
        aead.encrypt_into(b"\0\0\0\0" + head[NAME_BYTES:], frames, head, packet[_SEALED_START:])

    def _open_into(self, packet: memoryview, frames: memoryview) -> None:
        if len(packet) < self.packet_overhead:
            raise PacketError("sealed packet that is too short")
        head = bytes(packet[:_SEALED_START])
        w = int.from_bytes(head[NAME_BYTES:])
        aead = self._opening(w)
        try:
            aead.decrypt_into(b"\0\0\0\0" + head[NAME_BYTES:], packet[_SEALED_START:], head, frames)
        except InvalidTag as error:
            raise PacketError("packet does not decrypt") from error
        self._opened(w, aead)

    def _seal_each(self, first: int, source: memoryview, stride: int, target: memoryview, size: int) -> None:
        if _epoch(first) != _epoch(first + len(target) // size):
            super()._seal_each(first, source, stride, target, size)
            return
        encrypt = self._sealing(first).encrypt_into
        start = NAME_BYTES
        for place in range(0, len(target), size):
            body = place + _SEALED_START
            nonce = b"\0\0\0\0" + target[place + NAME_BYTES : body]
            encrypt(nonce, source[start : start + stride - NAME_BYTES], target[place:body], target[body : place + size])
            start += stride

    def _open_each(self, first: int, source: memoryview, size: int, target: memoryview, stride: int) -> None:
        aead = self._opening(first)
        decrypt = aead.decrypt_into
        place = NAME_BYTES
        try:
            for start in range(0, len(source), size):
                body = start + _SEALED_START
                nonce = b"\0\0\0\0" + source[start + NAME_BYTES : body]
                frames = target[place : place + stride - NAME_BYTES]
                decrypt(nonce, source[body : start + size], source[start:body], frames)
                place += stride
        except InvalidTag as error:
            raise PacketError("packet does not decrypt") from error
        self._opened(first, aead)

    def _sealing(self, w: int) -> AESGCM | ChaCha20Poly1305:
        epoch = _epoch(w)
        aead = self._seal_epochs.get(epoch)
        if aead is None:
            aead = self._derive(self._seal_info, epoch)
            _keep(self._seal_epochs, epoch, aead)
        return aead

    def _opening(self, w: int) -> AESGCM | ChaCha20Poly1305:
        epoch = _epoch(w)
        return self._open_epochs.get(epoch) or self._derive(self._open_info, epoch)

    def _opened(self, w: int, aead: AESGCM | ChaCha20Poly1305) -> None:
        """Keep a key only once it has opened something, so that forged numbers cannot push out the keys in use."""
        epoch = _epoch(w)
        if epoch not in self._open_epochs:
            _keep(self._open_epochs, epoch, aead)

    def _derive(self, info: bytes, epoch: int) -> AESGCM | ChaCha20Poly1305:
        expand = HKDFExpand(hashes.SHA256(), 32, info + epoch.to_bytes(8))
        return self._algorithm(expand.derive(self._prk))


def _epoch(w: int) -> int:
    return (w & (DF_COUNTER - 1)) >> _EPOCH_BITS


def _numbers(first: int, count: int) -> NDArray[np.uint8]:
    """The bytes of `count` consecutive w, as an array of shape (count, 8)."""
    return np.arange(first, first + count, dtype=np.uint64).astype(">u8").view(np.uint8).reshape(count, _W.size)


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
