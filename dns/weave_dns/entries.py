"""One name of one container (dns.md section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from weave_dns.names import fold
from weave_router.wire.peer_name import PeerName  # noqa: TC001 - typing.get_type_hints reads it

MAX_CONTAINER_BYTES = 1024
MAX_VERSION = 1 << 62
"""Of an entry; its origin could not count on from the largest number that the field holds."""

Address = IPv4Address | IPv6Address
Order = tuple[bytes, int, bytes, int, int]


class Identity(NamedTuple):
    """What tells entries apart. Names that differ in letter case only are one name (section 14)."""

    hostname: str
    """Folded."""
    origin: PeerName
    container: str
    address: Address


class Bond(StrEnum):
    """With what an own name goes."""

    NOTHING = ""
    CONTAINER = "container"
    """With the container's attachment, whatever address it is of."""
    ADDRESS = "address"
    """With the address of the container's attachment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name, and whether it is there."""

    container: str
    """Whose name this is: free text."""
    origin: PeerName
    """The peer where it was added, the only one that may change it."""
    address: Address
    hostname: str
    """With final dot, in the letter case in which it came."""
    version: int = 0
    """Counts the changes between alive and dead."""
    tombstone: int = 0
    """Unix seconds of its deletion by the origin's clock, 0 while it is alive."""

    @property
    def identity(self) -> Identity:
        """What tells it apart."""
        return Identity(fold(self.hostname), self.origin, self.container, self.address)

    @property
    def wire_order(self) -> Order:
        """Where it stands among the entries of a message."""
        address = self.address
        return (_bytes(self.hostname), self.origin, _bytes(self.container), int(address), address.version)

    @property
    def memory_order(self) -> Order:
        """Where it stands in status and in look-ups by address."""
        return (_bytes(fold(self.hostname)), *self.wire_order[1:])

    def overrules(self, other: Entry) -> bool:
        """Whether this state of an entry is newer than the other; of equal versions the dead one, then the later."""
        return (self.version, self.tombstone) > (other.version, other.tombstone)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
