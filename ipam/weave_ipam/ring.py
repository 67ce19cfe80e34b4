"""The ring: who owns which part of the range (ipam.md sections 2, 9 and 10.2).

A ring is a list of entries sorted by token; an entry reaches to the next token, the last one around the end of the
range to the first. Entries are immutable, so a snapshot is a copy of a list. Tokens are never removed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from weave_ipam.errors import RingRefused
from weave_ipam.ranges import AddressRange
from weave_router.wire.peer_name import PeerName, format_peer_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

VERSION_OF_TRANSFER = 100
"""A version is raised by this when an entry changes hands without its owner (takeover, departure)."""
MAX_VERSION = 0xFFFF_FFFF


class Entry(NamedTuple):
    """One entry of a ring."""

    token: int
    """First address."""
    peer: PeerName
    """Owner."""
    version: int = 0
    free: int = 0
    """Unused addresses, as last reported by the owner; a hint."""


class Ring:
    """A peer's copy of the ring. `owner`: the peer whose copy it is. Without entries: not started."""

    def __init__(
        self,
        universe: AddressRange,
        owner: PeerName,
        entries: Iterable[Entry] = (),
        seeds: Sequence[PeerName] = (),
    ) -> None:
        self.universe = universe
        self.owner = owner
        self.seeds = tuple(seeds)
        """The peers among whom the range was divided at first."""
        self.entries = list(entries)
        self._tokens = [entry.token for entry in self.entries]

    def __bool__(self) -> bool:
        return bool(self.entries)

    def copy(self) -> Ring:
        """A snapshot."""
        return Ring(self.universe, self.owner, self.entries, self.seeds)

    # --- questions --------------------------------------------------------------------------------------------------

    def distance(self, start: int, end: int) -> int:
        """Addresses from one token to another, around the end of the range where need be."""
        if end > start:
            return end - start
        return (self.universe.end - start) + (end - self.universe.start)

    def next_token(self, index: int) -> int:
        """The token after that of the entry with this index."""
        return self._tokens[(index + 1) % len(self._tokens)]

    def size(self, index: int) -> int:
        """Addresses of an entry."""
        return self.distance(self._tokens[index], self.next_token(index))

    def index_of(self, address: int) -> int:
        """The index of the entry that an address lies in; the ring must not be empty."""
        return (bisect_right(self._tokens, address) - 1) % len(self._tokens)

    def owner_of(self, address: int) -> PeerName:
        """Who owns an address of the range."""
        return self.entries[self.index_of(address)].peer

    def stretches(self, index: int) -> list[AddressRange]:
        """The addresses of an entry: one range, or two for the one that wraps, the first part of the range first."""
        start, end = self._tokens[index], self.next_token(index)
        low, high, family = self.universe
        if end > start:
            return [AddressRange(start, end, family)]
        parts = [AddressRange(low, end, family), AddressRange(start, high, family)]
        return [part for part in parts if part.size]

    def owned(self, peer: PeerName) -> list[AddressRange]:
        """What a peer owns, ascending; adjacent ranges are joined."""
        parts = [
            part for index, entry in enumerate(self.entries) if entry.peer == peer for part in self.stretches(index)
        ]
        parts.sort()
        joined: list[AddressRange] = []
        for part in parts:
            if joined and joined[-1].end == part.start:
                joined[-1] = AddressRange(joined[-1].start, part.end, part.version)
            else:
                joined.append(part)
        return joined

    def sizes(self) -> dict[PeerName, int]:
        """How many addresses each owner has, in order of the ring."""
        sizes: dict[PeerName, int] = {}
        for index, entry in enumerate(self.entries):
            sizes[entry.peer] = sizes.get(entry.peer, 0) + self.size(index)
        return sizes

    def owners(self) -> dict[PeerName, None]:
        """All owners in order of the ring."""
        return dict.fromkeys(entry.peer for entry in self.entries)

    def donors(self, wanted: AddressRange) -> dict[PeerName, int]:
        """Who, ourselves aside, may have free addresses in a range, and how many in the entries that touch it (8)."""
        free: dict[PeerName, int] = {}
        last = len(self.entries) - 1
        for index, entry in enumerate(self.entries):
            if self.next_token(index) <= wanted.start and index != last:
                continue
            if entry.token >= wanted.end:
                break
            if entry.free and entry.peer != self.owner:
                free[entry.peer] = free.get(entry.peer, 0) + entry.free
        return free

    def check(self) -> None:
        """Whether the ring is valid (section 2). Raises `RingRefused`."""
        low, high, _ = self.universe
        tokens = self._tokens
        if low >= high:
            raise RingRefused(f"Ring of no addresses: {low}-{high}")
        for before, after in pairwise(tokens):
            if before >= after:
                raise RingRefused("Token appears twice in ring" if before == after else "Ring not sorted")
        if tokens and not (low <= tokens[0] and tokens[-1] < high):
            raise RingRefused("Token is out of range")
        for entry, size in zip(self.entries, self._distances(), strict=True):
            if entry.free > size:
                low, high, _ = self.universe
                end = entry.token + size
                end = end if end < high else end - (high - low)
                ends = f"{self.universe.address(entry.token)}-{self.universe.address(end)}"
                raise RingRefused(f"Entry {ends} reporting too much free space: {entry.free} > {size}")

    def _distances(self) -> Iterator[int]:
        tokens = self._tokens
        for start, end in pairwise(tokens):
            yield end - start
        if tokens:
            yield self.distance(tokens[-1], tokens[0])

    # --- changes of our own -----------------------------------------------------------------------------------------

    def divide(self, names: Iterable[PeerName]) -> None:
        """Start the ring: the range divided among these peers (10.2)."""
        seeds = sorted(set(names))
        self.seeds = tuple(seeds)
        self._assign(list(self._shares(self.universe.start, self.universe.end, seeds)))

    def _shares(self, start: int, end: int, names: Sequence[PeerName]) -> Iterator[Entry]:
        if end == start or not names:
            return
        if end - start == 1 or len(names) == 1:
            yield Entry(start, names[0], 0, end - start)
            return
        middle, half = start + (end - start) // 2, len(names) // 2
        yield from self._shares(start, middle, names[:half])
        yield from self._shares(middle, end, names[half:])

    def grant(self, granted: AddressRange, peer: PeerName) -> None:
        """Give a range, of which we own every address, to another peer."""
        start, end, _ = granted
        index = self.index_of(start)
        entry = self.entries[index]
        free = min(self.distance(start, self.next_token(index)), end - start)
        if entry.token == start:
            self.entries[index] = Entry(start, peer, _raised(entry.version), free)
        else:
            self.entries[index] = entry._replace(version=_raised(entry.version), free=self.distance(entry.token, start))
            self._insert(Entry(start, peer, 0, free))
        for inner in range(bisect_right(self._tokens, start), bisect_left(self._tokens, end)):
            token, _, version, reported = self.entries[inner]
            self.entries[inner] = Entry(token, peer, _raised(version), min(reported, self.distance(token, end)))
        if end == self.universe.end:
            end = self.universe.start
        if end not in self._tokens:
            at = self._insert(Entry(end, self.owner))
            self.entries[at] = self.entries[at]._replace(free=self.size(at))

    def transfer(self, giver: PeerName, taker: PeerName) -> list[AddressRange]:
        """Let a peer own all that another one owns (section 14); returns what that was."""
        moved = self.owned(giver)
        for index, entry in enumerate(self.entries):
            if entry.peer == giver:
                self.entries[index] = entry._replace(peer=taker, version=_raised(entry.version, VERSION_OF_TRANSFER))
        return moved

    def report_free(self, index: int, free: int, *, raise_version: bool = True) -> bool:
        """Set the number of free addresses of an entry of ours; False if it is that already."""
        entry = self.entries[index]
        if entry.free == free:
            return False
        version = _raised(entry.version) if raise_version else entry.version
        self.entries[index] = entry._replace(free=free, version=version)
        return True

    def _insert(self, entry: Entry) -> int:
        at = bisect_left(self._tokens, entry.token)
        self._tokens.insert(at, entry.token)
        self.entries.insert(at, entry)
        return at

    def _assign(self, entries: list[Entry]) -> None:
        self.entries = entries
        self._tokens = [entry.token for entry in entries]

    # --- merge ------------------------------------------------------------------------------------------------------

    def merge(self, theirs: Ring, in_use: Callable[[int, int], bool]) -> bool:
        """Take over what is newer in another peer's copy (section 9); whether anything was.

        `in_use(x, y)`: whether an address of [x, y), around the end of the range where y <= x, is not both ours and
        free. Beyond Weave Net's rules, no address of ours that is in use ever goes to another peer, whatever tokens
        come; and of equal versions and free counts the lower peer name wins, so that all come to the same.
        Raises `RingRefused`; our ring is then unchanged.
        """
        same = theirs.entries == self.entries and theirs.universe[:2] == self.universe[:2]  # most are
        if not same:
            theirs.check()
        if self.seeds and theirs.seeds and self.seeds != theirs.seeds:
            raise RingRefused(
                "IP allocation was seeded by different peers "
                f"(received: {_names(theirs.seeds)}, ours: {_names(self.seeds)})"
            )
        if theirs.universe[:2] != self.universe[:2]:
            raise RingRefused(f"Incompatible IP allocation ranges (received: {theirs.universe}, ours: {self.universe})")
        seeds = self.seeds or theirs.seeds
        if same:
            self.seeds = seeds
            return False
        merged, changed = _Walk(self, theirs, in_use).run()
        result = Ring(self.universe, self.owner, merged, seeds)
        for index, entry in enumerate(result.entries):
            if entry.peer == self.owner and entry.free > (size := result.size(index)):
                result.entries[index] = entry._replace(free=size)
        try:
            result.check()
        except RingRefused as error:
            raise RingRefused(f"Merge of incoming data causes: {error}") from error
        if changed:
            self._check_losses(result, in_use)
        self.seeds = seeds
        self._assign(result.entries)
        return changed

    def _check_losses(self, result: Ring, in_use: Callable[[int, int], bool]) -> None:
        for before in self.owned(self.owner):
            place = before.start
            while place < before.end:
                index = result.index_of(place)
                end = min((part.end for part in result.stretches(index) if part.contains(place)), default=before.end)
                end = min(end, before.end)
                peer = result.entries[index].peer
                if peer != self.owner and in_use(place, end):
                    raise self.claimed_by_other(peer, place)
                place = end

    def claimed_by_other(self, peer: PeerName, start: int) -> RingRefused:
        """The refusal of a ring that gives away what we use."""
        address = self.universe.address(start)
        return RingRefused(
            f"Peer {format_peer_name(peer)} says it owns the IP range from {address}, which I think I own"
        )


class _Walk:
    """Both lists of entries side by side, by ascending token."""

    def __init__(self, ours: Ring, theirs: Ring, in_use: Callable[[int, int], bool]) -> None:
        self._ours = ours
        self._theirs = theirs
        self._in_use = in_use

    def run(self) -> tuple[list[Entry], bool]:
        """The merged entries, and whether one of theirs was taken."""
        ours, theirs, me = self._ours.entries, self._theirs.entries, self._ours.owner
        result: list[Entry] = []
        last: PeerName | None = None  # owner of the entry just kept; None after one of theirs
        changed = False
        i = j = 0
        while i < len(ours) and j < len(theirs):
            mine, other = ours[i], theirs[j]
            if mine == other:
                result.append(mine)
                last = mine.peer
                i += 1
                j += 1
            elif mine.token < other.token:
                result.append(mine)
                last = mine.peer
                i += 1
            elif other.token < mine.token:
                if last == me != other.peer and self._in_use(other.token, mine.token):
                    raise self._ours.claimed_by_other(other.peer, other.token)
                result.append(other)
                last = None
                changed = True
                j += 1
            else:
                choice = self._choose(i, other)
                result.append(choice)
                if choice is other:
                    last = None
                    changed = True
                elif choice is mine:
                    last = mine.peer
                i += 1
                j += 1
        result += ours[i:]
        if ours[i:]:
            last = ours[-1].peer
        for other in theirs[j:]:
            # Weave Net refuses this even where nothing is in use, and then has to go on refusing.
            if last == me != other.peer and self._in_use(other.token, ours[0].token):
                raise self._ours.claimed_by_other(other.peer, other.token)
            result.append(other)
            last = None
            changed = True
        return result, changed

    def _choose(self, index: int, other: Entry) -> Entry:
        ring = self._ours
        mine, me = ring.entries[index], ring.owner
        if mine.version > other.version:
            return mine
        if mine.version == other.version:
            if mine.peer == other.peer:
                return mine
            if mine.peer == me and self._in_use(mine.token, ring.next_token(index)):
                raise RingRefused(
                    f"Inconsistent entries for {ring.universe.address(mine.token)}: owned by me but incoming message "
                    f"says {format_peer_name(other.peer)}"
                )
            ours_wins = (mine.free, -mine.peer) >= (other.free, -other.peer)
            return mine if ours_wins else other
        if mine.peer != me:
            return other
        if other.peer == me:
            return mine._replace(version=_raised(other.version))
        if self._in_use(mine.token, ring.next_token(index)):
            raise RingRefused(
                f"Received update for IP range I own at {ring.universe.address(mine.token)} v{mine.version}: "
                f"incoming message says owner {format_peer_name(other.peer)} v{other.version}"
            )
        return other


def _raised(version: int, by: int = 1) -> int:
    """A version goes no further than its 32 bits; only a forged one ever gets there."""
    return min(version + by, MAX_VERSION)


def _names(names: Iterable[PeerName]) -> str:
    return ",".join(map(format_peer_name, names))
