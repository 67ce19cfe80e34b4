"""Peer names: 48-bit numbers, written like MAC addresses (mesh.md section 1)."""

from __future__ import annotations

import re
from typing import NewType

PeerName = NewType("PeerName", int)
"""A peer's name; ordered as an unsigned number. 0 means "no such peer" and never names one."""

NO_PEER = PeerName(0)
_GROUP = re.compile(r"[0-9A-Fa-f]{1,2}\Z")


class InvalidPeerName(ValueError):  # noqa: N818 - reads as what it is at the place where it is raised
    """The text is no peer name; the message says why."""


def parse_peer_name(text: str) -> PeerName:
    """Read `02:42:ac:11:00:05`, also in upper case, with one-digit groups, and with one `::` for zero groups.

    Raises `InvalidPeerName`, also for the zero name.
    """
    if text.count("::") > 1 or ":::" in text:
        raise InvalidPeerName(f"peer name {text!r}: '::' may stand once")
    if "::" in text:
        head, tail = text.split("::")
        left = head.split(":") if head else []
        right = tail.split(":") if tail else []
        missing = 6 - len(left) - len(right)
        if missing < 1:
            raise InvalidPeerName(f"peer name {text!r} has more than six groups")
        groups = [*left, *(["0"] * missing), *right]
    else:
        groups = text.split(":")
    if len(groups) != 6 or not all(_GROUP.match(group) for group in groups):
        raise InvalidPeerName(f"peer name {text!r} is not of the form 02:42:ac:11:00:05")
    name = int.from_bytes(bytes(int(group, 16) for group in groups))
    if name == NO_PEER:
        raise InvalidPeerName("peer name 00:00:00:00:00:00 stands for 'no peer' and cannot be used")
    return PeerName(name)


def format_peer_name(name: int) -> str:
    """The text form of a name: six two-digit lower-case groups."""
    return name.to_bytes(6).hex(":")
