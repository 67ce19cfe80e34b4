"""Frames as containers send them, built by hand and numbered, so that each can be found again."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from weave_router.frames.checksum import checksum

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_router.testing.simulated_packet_io import InjectedFrame

BROADCAST = b"\xff" * 6
_NUMBERED = 0x88B6
"""EtherType for local experiments (IEEE 802)."""
_MARK = b"number"


def mac(host: int, container: int = 1) -> bytes:
    """The MAC address of a container on a host."""
    return bytes((0x0A, 0, host >> 8, host & 255, container >> 8, container & 255))


def numbered(number: int, source: bytes, destination: bytes = BROADCAST) -> bytes:
    """A frame that carries a number."""
    return (destination + source + _NUMBERED.to_bytes(2) + _MARK + number.to_bytes(4)).ljust(60, b"\0")


def number_of(frame: bytes) -> int | None:
    """The number that a frame carries; None for other frames."""
    return int.from_bytes(frame[20:24]) if frame[14:20] == _MARK else None


def numbers(frames: Iterable[InjectedFrame]) -> list[int]:
    """The numbers of all numbered frames, in the order in which they were injected."""
    return [number for injected in frames if (number := number_of(injected.frame)) is not None]


def ipv4(source: bytes, destination: bytes, payload_bytes: int, *, df: bool, identification: int = 1) -> bytes:
    """An IPv4 packet (protocol 253, for experiments) with so many bytes behind its header."""
    header = bytearray(
        struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + payload_bytes, identification, 0x4000 if df else 0, 64, 253, 0,
            bytes((10, 32, source[3], source[5])), bytes((10, 32, destination[3], destination[5])),
        )
    )  # fmt: skip
    struct.pack_into(">H", header, 10, checksum(header))
    payload = bytes(index * 7 + identification & 255 for index in range(payload_bytes))
    return (destination + source + b"\x08\x00" + bytes(header) + payload).ljust(60, b"\0")


def reassemble(frames: Iterable[bytes]) -> bytes:
    """The payload of one IPv4 packet from its fragments."""
    parts = {}
    for frame in frames:
        total, _, offset = struct.unpack_from(">HHH", frame, 16)
        assert checksum(frame[14:34]) == 0
        parts[(offset & 0x1FFF) * 8] = frame[34 : 14 + total]
    data = b""
    for position in sorted(parts):
        assert position == len(data)
        data += parts[position]
    return data
