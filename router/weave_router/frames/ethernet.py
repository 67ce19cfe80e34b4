"""Ethernet headers as the overlay looks at them."""

from __future__ import annotations

HEADER_BYTES = 14
ETHERTYPE_IPV4 = b"\x08\x00"
ETHERTYPE_IPV6 = b"\x86\xdd"
VLAN_TYPES = (b"\x81\x00", b"\x88\xa8")
SPANNING_TREE = bytes.fromhex("0180c2000000")
ZERO_HEADER = bytes(HEADER_BYTES)
"""A frame that begins like this is a special frame between neighbours (sleeve.md section 4)."""


def is_group(mac: bytes) -> bool:
    """Whether the address is broadcast or multicast."""
    return bool(mac[0] & 1)
