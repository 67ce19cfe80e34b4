"""What a peer knows of all names, and how it changes (dns.md sections 2, 4, 5, 14, 15); without I/O.

    own additions and deletions ─┐
    entries of other peers ──────┼─> table ──> to store (own), to broadcast (own), to pass on (news)
    peers that come and go ──────┘

Beyond the reference: entries of a peer that the topology does not know yet wait for it; those of a peer that is out of
sight stay for a while; a tombstone's age is counted from when it came here, so that no clock but our own matters, and
what it buried is remembered for longer, so that peers do not hand old tombstones round for ever.

Times: `now` in seconds of a clock that never jumps, `unix` in Unix seconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from weave_dns.entries import MAX_CONTAINER_BYTES, MAX_VERSION, Bond, Entry
from weave_dns.errors import InvalidName, OutsideDomain, TooMany
from weave_dns.names import absolute, fold, is_within
from weave_dns.table import MAX_ENTRIES, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from weave_dns.entries import Address, Identity
    from weave_router.wire.peer_name import PeerName

ABSENCE_S = 30.0
"""Names of a peer that cannot be reached are kept for so long."""
PARKING_S = 60.0
"""Entries of a peer that is not known wait for so long that it becomes known."""
TOMBSTONE_S = 1800.0
"""How long a deletion is told to others."""
BURIED_S = 3600.0
"""How long after its last mention a deletion that is no longer told is remembered."""
MAX_PARKED = 1 << 14


class _Parked(NamedTuple):
    entry: Entry
    until: float


class _Buried(NamedTuple):
    state: Entry
    until: float


class Registry:
    """All that one peer knows of names.

    `known`: whether the topology has a peer. `domain`: with final dot, in which own names must be.
    """

    def __init__(self, ourselves: PeerName, domain: str, *, known: Callable[[PeerName], bool]) -> None:
        self.ourselves = ourselves
        self.domain = domain
        self.table = Table()
        self.refused = 0
        """Entries that were not taken because there were too many."""
        self.parked = 0
        """How often an entry has come whose origin is not known."""
        self._known = known
        self._bonds: dict[Identity, Bond] = {}
        self._parked: dict[PeerName, dict[Identity, _Parked]] = {}
        self._parked_count = 0
        self._absent: dict[PeerName, float] = {}
        self._dead_since: dict[Identity, float] = {}
        self._buried: dict[Identity, _Buried] = {}
        self._unsaved: dict[Identity, None] = {}
        self._untold: dict[Identity, None] = {}

    # --- own names --------------------------------------------------------------------------------------------------

    def restore(self, entry: Entry, bond: Bond, *, now: float) -> None:
        """Take up an own entry that was stored."""
        self._put(entry, now)
        if bond:
            self._bonds[entry.identity] = bond

    def add(self, container: str, address: Address, hostname: str, *, bond: Bond = Bond.NOTHING, now: float) -> Entry:
        """Give a container's address a name. Raises `InvalidName`, `OutsideDomain`, `TooMany`.

        A name that is there already is told again.
        """
        name = self.check(hostname)
        if len(container.encode("utf-8", "surrogatepass")) > MAX_CONTAINER_BYTES or not _is_text(container):
            raise InvalidName(f"a container's name has at most {MAX_CONTAINER_BYTES} bytes of text")
        wanted = Entry(container, self.ourselves, address, name)
        identity = wanted.identity
        present, buried = self.table.get(identity), self._buried.get(identity)
        if present is None:
            again = replace(buried.state, version=buried.state.version + 1, tombstone=0) if buried else wanted
            self._change(again, now)
        elif present.tombstone:
            # In the spelling that was sent first: to Weave Net 2.8 another one is another entry.
            self._change(replace(present, version=present.version + 1, tombstone=0), now)
        entry = self.table.get(identity)
        if entry is None:
            raise TooMany(f"{name} is not added: this peer knows {MAX_ENTRIES} names already, and keeps no more")
        self._untold[identity] = None
        if bond and self._bonds.get(identity) != bond:
            self._bonds[identity] = bond
            self._unsaved[identity] = None
        return entry

    def check(self, hostname: str) -> str:
        """The name that would be added, with final dot. Raises `InvalidName` and `OutsideDomain`."""
        name = absolute(hostname)
        if not is_within(name, self.domain):
            raise OutsideDomain(f"{hostname} is outside of the domain {self.domain} that containers' names are in")
        return name

    def delete(
        self,
        container: str | None = None,
        address: Address | None = None,
        hostname: str | None = None,
        *,
        now: float,
        unix: int,
    ) -> list[Entry]:
        """Delete own names; what is not given matches all. Returns those that were alive."""
        name = None if hostname is None else fold(hostname if hostname.endswith(".") else f"{hostname}.")
        gone = [
            entry
            for entry in self.table.of_origin(self.ourselves)
            if not entry.tombstone
            and container in (None, entry.container)
            and address in (None, entry.address)
            and name in (None, entry.identity.hostname)
        ]
        for entry in gone:
            self._change(replace(entry, version=entry.version + 1, tombstone=max(unix, 1)), now)
            self._untold[entry.identity] = None
        return gone

    def bound(self) -> list[Entry]:
        """Living names that go with something of this host."""
        entries = (self.table.get(identity) for identity in self._bonds)
        return [entry for entry in entries if entry is not None and not entry.tombstone]

    def bond(self, identity: Identity) -> Bond:
        """With what this own entry goes."""
        return self._bonds.get(identity, Bond.NOTHING)

    @property
    def unsaved(self) -> Mapping[Identity, None]:
        """Own entries whose state must be stored."""
        return self._unsaved

    def take_unsaved(self) -> list[Identity]:
        """Own entries whose state must be stored (or removed from the store, where the table lacks them)."""
        unsaved, self._unsaved = list(self._unsaved), {}
        return unsaved

    def take_untold(self) -> list[Identity]:
        """Own entries that are to be broadcast."""
        untold, self._untold = list(self._untold), {}
        return untold

    # --- names of others --------------------------------------------------------------------------------------------

    def receive(self, entries: Iterable[Entry], now: float, unix: int) -> tuple[list[Identity], list[Identity]]:
        """Take in what a peer tells: what was new, and all that may be passed on."""
        news: list[Identity] = []
        valid: list[Identity] = []
        for entry in entries:
            identity = entry.identity
            if entry.origin == self.ourselves:
                if self._hear_of_own(entry, identity, now, unix):
                    news.append(identity)
            elif not self._known(entry.origin) and entry.origin not in self._absent:
                self._park(entry, identity, now)
                continue
            elif self._merge(entry, identity, now):
                news.append(identity)
            if self.table.get(identity) is not None:
                valid.append(identity)
        return news, valid

    def _hear_of_own(self, heard: Entry, identity: Identity, now: float, unix: int) -> bool:
        """Take in what others have of ours; True where it is news that others did not hear from us as a correction."""
        present = self.table.get(identity)
        if present is not None:
            if heard.version > present.version or (
                heard.version == present.version
                and (heard.tombstone, heard.hostname) != (present.tombstone, present.hostname)
            ):
                # What they have is from an earlier life of ours; its spelling is the one that they know.
                self._change(replace(present, hostname=heard.hostname, version=_after(heard)), now)
                self._untold[identity] = None
        elif heard.tombstone:
            if self._merge(heard, identity, now):
                self._unsaved[identity] = None
                return True
        else:
            buried = self._buried.get(identity)
            if buried is not None and not heard.overrules(buried.state):
                self._change(buried.state, now)
            else:
                self._change(replace(heard, version=_after(heard), tombstone=max(unix, 1)), now)
            self._untold[identity] = None
        return False

    def _merge(self, heard: Entry, identity: Identity, now: float) -> bool:
        present = self.table.get(identity)
        if present is not None:
            # In the spelling that is known: a Weave Net 2.8 peer that hears of two takes them for two names.
            return heard.overrules(present) and self._put(replace(heard, hostname=present.hostname), now)
        buried = self._buried.get(identity)
        if buried is None:
            return self._put(heard, now)
        if heard.overrules(buried.state):
            return self._put(replace(heard, hostname=buried.state.hostname), now)
        if heard.tombstone:
            self._bury(buried.state, identity, now)
            return False
        return self._put(buried.state, now)  # they have not heard that it is dead

    def _park(self, entry: Entry, identity: Identity, now: float) -> None:
        self.parked += 1
        parked = self._parked.get(entry.origin, {})
        present = parked.get(identity)
        if present is None:
            if self._parked_count >= MAX_PARKED:
                self.refused += 1
                return
            self._parked_count += 1
            self._parked[entry.origin] = parked
        elif entry.overrules(present.entry):
            entry = replace(entry, hostname=present.entry.hostname)
        else:
            entry = present.entry
        parked[identity] = _Parked(entry, now + PARKING_S)

    def peers_changed(self, now: float) -> list[Identity]:
        """Peers came or went; returns what is news because its origin is known now."""
        for origin in [origin for origin in self._absent if self._known(origin)]:
            del self._absent[origin]
        for origin in self.table.origins():
            if origin != self.ourselves and not self._known(origin):
                self._absent.setdefault(origin, now)
        news = []
        for origin in [origin for origin in self._parked if self._known(origin)]:
            parked = self._parked.pop(origin)
            self._parked_count -= len(parked)
            news += [identity for identity, (entry, _) in parked.items() if self._merge(entry, identity, now)]
        return news

    # --- time -------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Let go what has had its time; to be called every few seconds. Whether there was anything."""
        before = (self.table.generation, self._parked_count)
        for origin, since in list(self._absent.items()):
            if now - since >= ABSENCE_S:
                del self._absent[origin]
                for entry in self.table.of_origin(origin):
                    self._drop(entry.identity)
        for origin, parked in list(self._parked.items()):
            for identity in [identity for identity, (_, until) in parked.items() if until <= now]:
                del parked[identity]
                self._parked_count -= 1
            if not parked:
                del self._parked[origin]
        for identity, since in list(self._dead_since.items()):
            if now - since < TOMBSTONE_S:
                break
            dead = self.table.get(identity)
            self._drop(identity)
            if dead is not None:
                self._bury(dead, identity, now)
        for identity, buried in list(self._buried.items()):
            if buried.until > now:
                break
            del self._buried[identity]
        return before != (self.table.generation, self._parked_count)

    # --- the table --------------------------------------------------------------------------------------------------

    def _change(self, entry: Entry, now: float) -> None:
        """Set the state of an own entry."""
        self._put(entry, now)
        self._unsaved[entry.identity] = None

    def _put(self, entry: Entry, now: float) -> bool:
        identity = entry.identity
        if not self.table.put(entry):
            self.refused += 1
            return False
        self._buried.pop(identity, None)
        self._dead_since.pop(identity, None)
        if entry.tombstone:
            self._dead_since[identity] = now
            self._bonds.pop(identity, None)
        return True

    def _drop(self, identity: Identity) -> None:
        self._dead_since.pop(identity, None)
        self.table.remove(identity)
        if identity.origin == self.ourselves:
            self._unsaved[identity] = None

    def _bury(self, state: Entry, identity: Identity, now: float) -> None:
        self._buried.pop(identity, None)  # to the end: the oldest is the first
        while len(self._buried) >= MAX_ENTRIES:
            del self._buried[next(iter(self._buried))]
        self._buried[identity] = _Buried(state, now + BURIED_S)


def _after(heard: Entry) -> int:
    """The version of a correction. There is none after the last, but of equal ones the dead one counts."""
    return min(heard.version + 1, MAX_VERSION - 1)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
