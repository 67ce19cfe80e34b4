"""Driver and offload features of a network interface, by the ethtool ioctl (linux/ethtool.h)."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
_GDRVINFO, _GSTRINGS, _GSSET_INFO, _GFEATURES = 0x03, 0x1B, 0x37, 0x3A
_DRIVER_INFO_BYTES = 196  # sizeof(struct ethtool_drvinfo)
_SET_OF_FEATURES = 4  # ETH_SS_FEATURES
_NAME_BYTES = 32  # ETH_GSTRING_LEN
MAX_FEATURES = 1024
"""Kernels know some 70."""


def driver(name: str) -> str:
    """The driver; empty where there is none that tells."""
    info = bytearray(struct.pack(f"I{_DRIVER_INFO_BYTES - 4}x", _GDRVINFO))
    try:
        return _ask(name, info)[4:36].rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


def features(name: str) -> dict[str, bool]:
    """The features by their names in ethtool, and whether each is on; empty where the kernel does not tell."""
    try:
        count = struct.unpack_from("I", _ask(name, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SET_OF_FEATURES, 0)), 16)[
            0
        ]
        if not 0 < count <= MAX_FEATURES:
            return {}
        request = struct.pack("=III", _GSTRINGS, _SET_OF_FEATURES, count) + bytes(count * _NAME_BYTES)
        names = _ask(name, request)[12:]
        blocks = -(-count // 32)
        # Each block: available, requested, active, never changed.
        answer = _ask(name, struct.pack("=II", _GFEATURES, blocks) + bytes(16 * blocks))
    except OSError:
        return {}
    active = [struct.unpack_from("=I", answer, 8 + 16 * block + 8)[0] for block in range(blocks)]
    return {
        names[place * _NAME_BYTES : (place + 1) * _NAME_BYTES].split(b"\0")[0].decode(errors="replace"): bool(
            active[place // 32] >> (place % 32) & 1
        )
        for place in range(count)
    }


def _ask(name: str, request: bytes | bytearray) -> bytes:
    """What the kernel makes of a request. Raises `OSError`."""
    buffer = array.array("B", bytes(request))
    address, _ = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    return buffer.tobytes()
