"""All entries that a peer knows, dead ones too, and the ways to find them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from weave_dns.names import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from weave_dns.entries import Address, Entry, Identity, Order
    from weave_router.wire.peer_name import PeerName

K = TypeVar("K")

MAX_ENTRIES = 1 << 17
"""Of all peers together; what goes beyond is not kept."""


class Table:
    """The entries by identity, with indexes of the living."""

    def __init__(self) -> None:
        self._entries: dict[Identity, Entry] = {}
        self._order: list[Order] = []
        self._sorted: list[Entry] = []
        self._names: dict[str, dict[Identity, Entry]] = {}
        self._parents: dict[str, int] = {}
        self._addresses: dict[Address, dict[Identity, Entry]] = {}
        self._origins: dict[PeerName, dict[Identity, None]] = {}
        self._families: Counter[int] = Counter()
        self.generation = 0
        """Grows with every change."""

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """All of them, in wire order."""
        return self._sorted.copy()

    def get(self, identity: Identity) -> Entry | None:
        """The present state of an entry."""
        return self._entries.get(identity)

    def put(self, entry: Entry) -> bool:
        """Set an entry's state; False for one too many."""
        identity = entry.identity
        before = self._entries.get(identity)
        if before is None and len(self._entries) >= MAX_ENTRIES:
            return False
        if before is None:
            self._families[entry.address.version] += 1
        else:
            self._leave_indexes(identity, before)
            self._leave_order(before)
        order = entry.wire_order
        index = bisect_left(self._order, order)
        self._order.insert(index, order)
        self._sorted.insert(index, entry)
        self._entries[identity] = entry
        self._origins.setdefault(entry.origin, {})[identity] = None
        if not entry.tombstone:
            self._names.setdefault(identity.hostname, {})[identity] = entry
            self._addresses.setdefault(entry.address, {})[identity] = entry
            for parent in _parents(identity.hostname):
                self._parents[parent] = self._parents.get(parent, 0) + 1
        self.generation += 1
        return True

    def remove(self, identity: Identity) -> None:
        """Forget an entry."""
        entry = self._entries.pop(identity)
        self._leave_indexes(identity, entry)
        self._leave_order(entry)
        self._families[entry.address.version] -= 1
        origin = self._origins[entry.origin]
        del origin[identity]
        if not origin:
            del self._origins[entry.origin]
        self.generation += 1

    def of_name(self, name: str) -> Iterable[Entry]:
        """The living entries of a name, which is written in any letter case, with final dot."""
        return self._names.get(fold(name), {}).values()

    def is_parent(self, name: str) -> bool:
        """Whether there are living entries below a name."""
        return fold(name) in self._parents

    def of_address(self, address: Address) -> list[Entry]:
        """The living entries of an address, in the order of memory."""
        return sorted(self._addresses.get(address, {}).values(), key=lambda entry: entry.memory_order)

    def of_origin(self, origin: PeerName) -> list[Entry]:
        """All entries of a peer, dead ones too."""
        return [self._entries[identity] for identity in self._origins.get(origin, ())]

    def origins(self) -> list[PeerName]:
        """The peers that have entries."""
        return list(self._origins)

    def has_family(self, version: int) -> bool:
        """Whether there are entries, alive or dead, with addresses of IPv4 or IPv6 (4 or 6)."""
        return self._families[version] > 0

    def count_alive(self) -> int:
        """How many entries are alive."""
        return sum(map(len, self._names.values()))

    def _leave_order(self, entry: Entry) -> None:
        index = bisect_left(self._order, entry.wire_order)
        del self._order[index], self._sorted[index]

    def _leave_indexes(self, identity: Identity, entry: Entry) -> None:
        if entry.tombstone:
            return
        _leave(self._names, identity.hostname, identity)
        _leave(self._addresses, entry.address, identity)
        for parent in _parents(identity.hostname):
            self._parents[parent] -= 1
            if not self._parents[parent]:
                del self._parents[parent]


def _leave(index: dict[K, dict[Identity, Entry]], key: K, identity: Identity) -> None:
    found = index[key]
    del found[identity]
    if not found:
        del index[key]


def _parents(name: str) -> Iterator[str]:
    """The names above a name, the root left out."""
    while True:
        _, dot, name = name.partition(".")
        if not dot or not name:
            return
        yield name
