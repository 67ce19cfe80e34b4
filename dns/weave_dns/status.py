"""What the name server tells of itself, as it is at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class NameStatus:
    """One entry, dead ones too."""

    hostname: str
    """With final dot."""
    origin: int
    """Peer name."""
    container: str
    address: str
    version: int
    tombstone: int
    """Unix seconds, 0 while it is alive."""


@dataclass(frozen=True, slots=True)
class DnsStatus:
    """The whole service."""

    domain: str
    upstream: tuple[str, ...]
    ttl: int
    listening: tuple[str, ...]
    """Addresses with ports."""
    troubles: tuple[str, ...]
    """What keeps it from answering, in words for the operator."""
    entries: tuple[NameStatus, ...]
    """All, in the order of memory."""
    own: int
    """Living entries of this peer."""
    counters: Mapping[str, int]
