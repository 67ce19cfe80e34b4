"""The topology: every known peer's record, and the rules by which received records replace them (mesh.md 8 to 10)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from weave_router.wire.topology import MAX_PEERS, MAX_SHORT_ID, Link, PeerRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from weave_router.control.random_source import RandomSource
    from weave_router.wire.peer_name import PeerName


@dataclass(frozen=True, slots=True)
class Merge:
    """What applying a payload changed."""

    new: tuple[PeerName, ...] = ()
    """Peers whose record was taken from the payload: the delta that is relayed."""
    described: tuple[PeerName, ...] = ()
    """All peers that the payload described."""
    announce: bool = False
    """Our own version jumped over an earlier life's: our record is to be sent."""


class Topology:
    """The records known to one router. Ours is among them and is changed by us alone."""

    def __init__(self, own: PeerRecord) -> None:
        self.ourselves = own.name
        self.records: dict[PeerName, PeerRecord] = {own.name: own}
        self.removals = 0
        """How many records have been forgotten since the start."""
        self.encodings: dict[bytes, None] = {}
        """How the records look on the wire: what looks the same is no news."""
        self._claims: dict[int, set[PeerName]] = {}
        self._claim(own)

    @property
    def own(self) -> PeerRecord:
        """Our own record."""
        return self.records[self.ourselves]

    def set_links(self, links: Iterable[Link]) -> None:
        """Replace our own connection list; our version grows by one."""
        own = self.own
        self._put(replace(own, links=tuple(links), version=own.version + 1))

    def learn_neighbour(self, record: PeerRecord) -> None:
        """Record a peer that has just connected, from its features; a record that we have already stays."""
        if record.name not in self.records:
            self._put(replace(record, version=0, links=()))

    def merge(self, received: Sequence[PeerRecord]) -> Merge:
        """Apply the records of a payload (8.2)."""
        created = set()
        for record in received:
            if record.name not in self.records and len(self.records) < MAX_PEERS:
                self._put(replace(record, links=()))
                created.add(record.name)
        for record in received:
            for link in record.links:
                if link.remote not in self.records and len(self.records) < MAX_PEERS:
                    self._put(PeerRecord(link.remote))
        new: dict[PeerName, None] = {}
        announce = False
        for record in received:
            known = self.records.get(record.name)
            if known is None:
                continue  # there is no room for it
            if record.name == self.ourselves:
                announce |= self._jump(record)
            elif record.name in created or _newer(record, known):
                created.discard(record.name)
                self._put(self._with_known_links(record))
                new[record.name] = None
        return Merge(tuple(new), tuple(dict.fromkeys(record.name for record in received)), announce)

    def _jump(self, record: PeerRecord) -> bool:
        """Our own version overtakes what the network remembers of an earlier life, or of a forgery in our name."""
        own = self.own
        earlier_life = record.uid != own.uid and record.version >= own.version
        forged = record.uid == own.uid and record.version > own.version
        if earlier_life or forged:
            self._put(replace(own, version=record.version + 1))
        return earlier_life or forged

    def _with_known_links(self, record: PeerRecord) -> PeerRecord:
        """The record without links to peers for which there was no room."""
        if all(link.remote in self.records for link in record.links):
            return record
        return replace(record, links=tuple(link for link in record.links if link.remote in self.records))

    def collect_garbage(self, neighbours: Iterable[PeerName]) -> set[PeerName]:
        """Forget the peers that cannot be reached over recorded connections (9); returns their names.

        `neighbours`: remotes of our own TCP connections, which stay in any case.
        """
        reached = {self.ourselves}
        pending = [self.ourselves]
        while pending:
            for link in self.records[pending.pop()].links:
                if link.remote in self.records and link.remote not in reached:
                    reached.add(link.remote)
                    pending.append(link.remote)
        removed = self.records.keys() - reached - set(neighbours)
        for name in removed:
            self._unclaim(self.records.pop(name))
        self.removals += len(removed)
        return removed

    def short_id_owner(self, short_id: int) -> PeerName | None:
        """The peer that a short id means: the lowest name among those that claim it."""
        return min(self._claims.get(short_id, ()), default=None)

    def settle_short_id(self, random: RandomSource) -> bool:
        """Give up our short id to a peer of a lower name; returns whether our record changed (10).

        When no id is free the old one is kept; try again after garbage collection.
        """
        own = self.own
        if own.short_id is None or self.short_id_owner(own.short_id) == self.ourselves:
            return False
        for _ in range(10):
            candidate = random.randrange(MAX_SHORT_ID + 1)
            if candidate not in self._claims:
                break
        else:
            free = [number for number in range(MAX_SHORT_ID + 1) if number not in self._claims]
            if not free:
                return False
            candidate = free[random.randrange(len(free))]
        self._put(replace(own, short_id=candidate, version=own.version + 1))
        return True

    def _put(self, record: PeerRecord) -> None:
        known = self.records.get(record.name)
        if known is not None:
            self._unclaim(known)
        self.records[record.name] = record
        self._claim(record)

    def _claim(self, record: PeerRecord) -> None:
        self.encodings[record.encoded] = None
        if record.short_id is not None:
            self._claims.setdefault(record.short_id, set()).add(record.name)

    def _unclaim(self, record: PeerRecord) -> None:
        self.encodings.pop(record.encoded, None)
        if record.short_id is not None:
            claims = self._claims[record.short_id]
            claims.discard(record.name)
            if not claims:
                del self._claims[record.short_id]


def _newer(received: PeerRecord, known: PeerRecord) -> bool:
    if received.version != known.version:
        return received.version > known.version
    if received.uid != known.uid:
        return received.uid > known.uid
    return received.short_id is not None and known.short_id is None
