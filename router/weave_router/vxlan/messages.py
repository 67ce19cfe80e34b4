"""What two peers tell each other about their VXLAN path: control messages of the overlay `vxlan`, and heartbeats.

Control messages travel over the control connection (`Tag.OVERLAY`, index of `vxlan`, number, body):

    1 HELLO    token (8), MTU (2)       each heartbeat to us must carry this token, which containers cannot know
    2 HEARING  bits (1)                 what is heard of the other's heartbeats
    3 MODE     0 or 1                   how frames are accepted: by sleeve, or by the kernel
    4 MACS     operation (1), 6 each    addresses of our containers: added, removed, or all that there are
    5 BYE                               we stop for good, or start anew without what you know: forget us

A heartbeat is an Ethernet frame of type 0x88B5 (IEEE 802, local experiments) from bridge to bridge, through the VXLAN
path itself:

    destination (6), source (6), type (2), version (1), size class (1), token (8), zeros up to 46 bytes or the MTU
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

from weave_router.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

ETHERTYPE = 0x88B5
TOKEN_BYTES = 8
MAC_BYTES = 6
MOST_MACS = 4096
"""Of one peer. A container can invent addresses; more than these are not taken over."""
MACS_PER_MESSAGE = 512
SMALL_PAYLOAD_BYTES = 46
_VERSION = 1
_HELLO = struct.Struct(">8sH")
_BEAT = struct.Struct(">6s6sHBB8s")
_HEADER_BYTES = 14


class Number(IntEnum):
    """Kinds of control messages."""

    HELLO = 1
    HEARING = 2
    MODE = 3
    MACS = 4
    BYE = 5


class Hearing(IntFlag):
    """Which heartbeats are heard."""

    NONE = 0
    SMALL = 1
    FULL = 2


class MacsOperation(IntEnum):
    """What a list of addresses means."""

    ADDED = 0
    REMOVED = 1
    ALL = 2


class VxlanError(ProtocolError):
    """A message about the VXLAN path that makes no sense."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What a side wants to find in heartbeats, and its MTU in bytes."""

    token: bytes
    mtu: int


@dataclass(frozen=True, slots=True)
class Macs:
    """Addresses, 6 bytes each."""

    operation: MacsOperation
    macs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat as it was received."""

    source: bytes
    token: bytes
    full: bool


def encode_hello(hello: Hello) -> bytes:
    """The body of HELLO."""
    return _HELLO.pack(hello.token, hello.mtu)


def decode_hello(body: bytes) -> Hello:
    """Read HELLO; more may follow in later releases. Raises `VxlanError`."""
    if len(body) < _HELLO.size:
        raise VxlanError(f"HELLO of {len(body)} bytes")
    return Hello(*_HELLO.unpack_from(body))


def decode_flag(body: bytes) -> int:
    """Read HEARING or MODE. Raises `VxlanError`."""
    if not body:
        raise VxlanError("message without content")
    return body[0]


def encode_macs(operation: MacsOperation, macs: Iterable[bytes]) -> list[bytes]:
    """Bodies of MACS: as many as are needed, and one even for an empty `ALL`."""
    listed = list(macs)
    first = [listed[:MACS_PER_MESSAGE]] if listed or operation is MacsOperation.ALL else []
    rest = [
        listed[start : start + MACS_PER_MESSAGE] for start in range(MACS_PER_MESSAGE, len(listed), MACS_PER_MESSAGE)
    ]
    further = MacsOperation.REMOVED if operation is MacsOperation.REMOVED else MacsOperation.ADDED
    return [bytes((operation,)) + b"".join(part) for part in first] + [
        bytes((further,)) + b"".join(part) for part in rest
    ]


def decode_macs(body: bytes) -> Macs:
    """Read MACS. Raises `VxlanError`."""
    if not body or (len(body) - 1) % MAC_BYTES or body[0] not in set(MacsOperation):
        raise VxlanError(f"MACS of {len(body)} bytes")
    if len(body) > 1 + MOST_MACS * MAC_BYTES:
        raise VxlanError(f"more than {MOST_MACS} addresses")
    macs = tuple(body[start : start + MAC_BYTES] for start in range(1, len(body), MAC_BYTES))
    if any(mac[0] & 1 or not any(mac) for mac in macs):
        raise VxlanError("address of a group, or of nobody")
    return Macs(MacsOperation(body[0]), macs)


def encode_heartbeat(destination: bytes, source: bytes, token: bytes, *, mtu: int, full: bool) -> bytes:
    """A heartbeat's frame; a full one is as large as the network's MTU allows."""
    frame = _BEAT.pack(destination, source, ETHERTYPE, _VERSION, full, token)
    return frame.ljust(_HEADER_BYTES + (mtu if full else SMALL_PAYLOAD_BYTES), b"\0")


def decode_heartbeat(frame: bytes, mtu: int) -> Heartbeat | None:
    """Read a frame; None for one that is no heartbeat. One is full only if it is as large as ours would be."""
    if len(frame) < _BEAT.size:
        return None
    _, source, ethertype, version, full, token = _BEAT.unpack_from(frame)
    if ethertype != ETHERTYPE or version != _VERSION:
        return None
    return Heartbeat(source, token, bool(full) and len(frame) >= _HEADER_BYTES + mtu)
