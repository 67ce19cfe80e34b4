"""The merge of rings written down once more, address by address (ipam.md section 9), for comparison.

With the rules of Weave Net it must come to what Weave Net came to (test_vectors_ipam_ring.py); what it comes to with
our deviations is what our ring must come to. They are:

- `TIE`: same version, other owner, same free count. Weave Net keeps its own, so two copies never agree; with us the
  lower peer name wins on both sides.
- `IN_USE`: no address of ours that is in use goes to another peer, whatever tokens come. Weave Net leaves some ways
  open: behind its own entry with a raised version, and before its first token.
- `LAST_ENTRY`: a token of theirs above all of ours splits our last entry. Weave Net refuses that always, we only if
  an address of the part behind it is in use, as with any other entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from itertools import pairwise
from typing import TYPE_CHECKING

from weave_ipam.ring import MAX_VERSION, Entry, Ring
from weave_router.wire.peer_name import PeerName, format_peer_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from weave_ipam.ranges import AddressRange

TIE, IN_USE, LAST_ENTRY = "tie", "in use", "last entry"
OURS = frozenset({TIE, IN_USE, LAST_ENTRY})
WEAVE_NET = frozenset[str]()


def content(ring: Ring) -> tuple[AddressRange, PeerName, list[Entry], tuple[PeerName, ...]]:
    return ring.universe, ring.owner, ring.entries, ring.seeds


def addresses(ranges: Iterable[AddressRange]) -> list[int]:
    return sorted(address for part in ranges for address in range(part.start, part.end))


def usage(ring: Ring, used: set[int]) -> Callable[[int, int], bool]:
    """What a host answers: whether some address of [x, y) is not both ours and free."""
    own = set(addresses(ring.owned(ring.owner)))
    low, high, _ = ring.universe

    def in_use(start: int, end: int) -> bool:
        parts = [range(start, end)] if end > start else [range(start, high), range(low, end)]
        return any(address in used or address not in own for part in parts for address in part)

    return in_use


@dataclass(frozen=True)
class Outcome:
    """What comes of a merge: a kind of refusal (in the words of the file) with its text, or a ring."""

    refusal: str | None = None
    text: str = ""
    changed: bool = False
    entries: tuple[Entry, ...] = ()
    seeds: tuple[PeerName, ...] = ()


class Refused(Exception):
    """A refusal on the way."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


def entry_of(entries: Sequence[Entry], address: int) -> Entry:
    return max((entry for entry in entries if entry.token <= address), default=entries[-1])


def distance(universe: AddressRange, start: int, end: int) -> int:
    return end - start if end > start else universe.size - (start - end)


def demand_valid(universe: AddressRange, entries: Sequence[Entry]) -> None:
    for before, after in pairwise(entries):
        if before.token > after.token:
            raise Refused("not_sorted", "Ring not sorted")
        if before.token == after.token:
            raise Refused("token_repeated", "Token appears twice in ring")
    for entry in entries:
        if not universe.contains(entry.token):
            raise Refused("token_out_of_range", "Token is out of range")
    for entry, after in zip(entries, [*entries[1:], *entries[:1]], strict=True):
        size = distance(universe, entry.token, after.token)
        if entry.free > size:
            place = f"{IPv4Address(entry.token)}-{IPv4Address(after.token)}"
            text = f"Entry {place} reporting too much free space: {entry.free} > {size}"
            raise Refused("too_much_free", text)


def claimed_by(other: PeerName, address: int) -> Refused:
    text = f"Peer {format_peer_name(other)} says it owns the IP range from {IPv4Address(address)}, which I think I own"
    return Refused("entry_in_my_range", text)


class NaiveMerge:
    """`mine` merges `theirs`; `used`: addresses in use at our side."""

    def __init__(self, mine: Ring, theirs: Ring, used: set[int], rules: frozenset[str]) -> None:
        self.mine, self.theirs, self.rules = mine, theirs, rules
        self.me, self.universe = mine.owner, mine.universe
        everything = range(self.universe.start, self.universe.end)
        self.own = {a for a in everything if mine.entries and entry_of(mine.entries, a).peer == self.me}
        self.used = used & self.own

    def outcome(self) -> Outcome:
        try:
            entries, changed = self.run()
        except Refused as refused:
            return Outcome(refused.kind, refused.text)
        return Outcome(None, "", changed, tuple(entries), self.mine.seeds or self.theirs.seeds)

    def in_use(self, start: int, end: int) -> bool:
        length = distance(self.universe, start, end)
        low, size = self.universe.start, self.universe.size
        around = {low + (start - low + step) % size for step in range(length)}
        return bool(around - self.own or around & self.used)

    def run(self) -> tuple[list[Entry], bool]:
        demand_valid(self.theirs.universe, self.theirs.entries)
        if self.mine.seeds and self.theirs.seeds and self.mine.seeds != self.theirs.seeds:
            raise Refused("different_seeds", "")
        if self.mine.universe != self.theirs.universe:
            raise Refused("different_range", "")
        entries, changed = self.walk()
        for place, entry in enumerate(entries):
            size = distance(self.universe, entry.token, entries[(place + 1) % len(entries)].token)
            if entry.peer == self.me and entry.free > size:
                entries[place] = entry._replace(free=size)
        try:
            demand_valid(self.universe, entries)
        except Refused as refused:
            raise Refused("result_invalid", f"Merge of incoming data causes: {refused.text}") from refused
        if IN_USE in self.rules:
            self.demand_nothing_lost(entries)
        return entries, changed

    def demand_nothing_lost(self, entries: Sequence[Entry]) -> None:
        lost = [address for address in sorted(self.used) if entry_of(entries, address).peer != self.me]
        if lost:
            first, taker = lost[0], entry_of(entries, lost[0])
            while first - 1 in self.own and entry_of(entries, first - 1) == taker:
                first -= 1
            raise claimed_by(taker.peer, first)

    def walk(self) -> tuple[list[Entry], bool]:
        ours = {entry.token: entry for entry in self.mine.entries}
        theirs = {entry.token: entry for entry in self.theirs.entries}
        result: list[Entry] = []
        changed = False
        last: PeerName | None = None
        for token in sorted(ours.keys() | theirs.keys()):
            m, t = ours.get(token), theirs.get(token)
            if t is None:
                assert m is not None
                taken, last = m, m.peer
            elif m is None:
                if last == self.me != t.peer:
                    self.demand_free_behind(t, sorted(ours))
                taken, last, changed = t, None, True
            elif m.version < t.version and m.peer == t.peer == self.me:
                taken = m._replace(version=min(t.version + 1, MAX_VERSION))
            elif self.takes(m, t, min((other for other in ours if other > token), default=min(ours))):
                taken, last, changed = t, None, True
            else:
                taken, last = m, m.peer
            result.append(taken)
        return result, changed

    def demand_free_behind(self, t: Entry, ours: list[int]) -> None:
        ahead = [token for token in ours if token > t.token]
        end = ahead[0] if ahead else ours[0]
        if (not ahead and LAST_ENTRY not in self.rules) or self.in_use(t.token, end):
            raise claimed_by(t.peer, t.token)

    def takes(self, m: Entry, t: Entry, end: int) -> bool:
        """Whether theirs is taken of two entries for the same token; `end`: our next token."""
        if m.version > t.version or (m.version == t.version and m.peer == t.peer):
            return False
        address, theirs = IPv4Address(m.token), format_peer_name(t.peer)
        if m.version == t.version:
            if m.peer == self.me and self.in_use(m.token, end):
                text = f"Inconsistent entries for {address}: owned by me but incoming message says {theirs}"
                raise Refused("inconsistent_entry", text)
            if m.free == t.free and TIE in self.rules:
                return t.peer < m.peer
            return m.free < t.free
        if m.peer == self.me and self.in_use(m.token, end):
            text = f"Received update for IP range I own at {address} v{m.version}: incoming message says owner "
            raise Refused("newer_version", text + f"{theirs} v{t.version}")
        return True
