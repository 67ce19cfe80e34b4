"""IPv4 as sleeve must know it: the DF bit, cutting into fragments, "fragmentation needed" (sleeve.md 6 and 8)."""

from __future__ import annotations

import enum
import struct

from weave_router.frames.checksum import checksum
from weave_router.frames.ethernet import ETHERTYPE_IPV4, HEADER_BYTES

_SHORTEST_FRAME = 60
_DF, _MF, _OFFSET = 0x4000, 0x2000, 0x1FFF


class Kind(enum.Enum):
    """How sleeve treats a frame that is larger than the path."""

    IP_DF = enum.auto()
    IP_NO_DF = enum.auto()
    NOT_IP = enum.auto()
    """Also IPv6, ARP, VLAN-tagged frames, and frames with a broken IPv4 header."""


def classify(frame: bytes | memoryview) -> Kind:
    """The kind of an Ethernet frame."""
    if frame[12:14] != ETHERTYPE_IPV4 or len(frame) < HEADER_BYTES + 20:
        return Kind.NOT_IP
    first = frame[14]
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or len(frame) < HEADER_BYTES + header:
        return Kind.NOT_IP
    total = frame[16] << 8 | frame[17]
    if total < header or total > len(frame) - HEADER_BYTES:
        return Kind.NOT_IP
    return Kind.IP_DF if frame[20] & 0x40 else Kind.IP_NO_DF


def fragment(frame: bytes, mtu: int) -> list[bytes]:
    """Cut an IPv4 frame (`classify` is not `NOT_IP`) into frames whose packets fit `mtu` bytes.

    Ethernet padding is dropped; all options go into all fragments; frames are padded to 60 bytes. Empty when the MTU
    leaves no room for payload.
    """
    header_bytes = (frame[14] & 15) * 4
    start = HEADER_BYTES + header_bytes
    total = frame[16] << 8 | frame[17]
    payload = frame[start : HEADER_BYTES + total]
    step = (mtu - header_bytes) & ~7
    if step <= 0:
        return []
    flags_offset = frame[20] << 8 | frame[21]
    fragments = []
    for position in range(0, max(len(payload), 1), step):
        part = payload[position : position + step]
        last = position + step >= len(payload)
        header = bytearray(frame[HEADER_BYTES:start])
        more = flags_offset & _MF if last else _MF
        offset = ((flags_offset & _OFFSET) + (position >> 3)) & _OFFSET
        struct.pack_into(">H", header, 2, header_bytes + len(part))
        struct.pack_into(">H", header, 6, (flags_offset & ~(_MF | _OFFSET)) | more | offset)
        header[10:12] = b"\0\0"
        struct.pack_into(">H", header, 10, checksum(header))
        fragments.append((frame[:HEADER_BYTES] + header + part).ljust(_SHORTEST_FRAME, b"\0"))
    return fragments


def fragmentation_needed(frame: bytes, mtu: int) -> bytes:
    """The ICMP reply, as an Ethernet frame, to an IPv4 frame with DF that is larger than `mtu` (bytes).

    It comes from the packet's destination, so that it finds its way back through the overlay (sleeve.md 8.4).
    """
    header_bytes = (frame[14] & 15) * 4
    quoted = frame[HEADER_BYTES : HEADER_BYTES + header_bytes + 8]
    icmp = bytearray(struct.pack(">BBHHH", 3, 4, 0, 0, min(mtu, 0xFFFF)) + quoted)
    struct.pack_into(">H", icmp, 2, checksum(icmp))
    ip = bytearray(
        struct.pack(">BBHHHBBH4s4s", 0x45, frame[15], 20 + len(icmp), 0, 0, 64, 1, 0, frame[30:34], frame[26:30])
    )
    struct.pack_into(">H", ip, 10, checksum(ip))
    return frame[6:12] + frame[:6] + ETHERTYPE_IPV4 + bytes(ip) + bytes(icmp)
