"""One peer's address allocator, without I/O (ipam.md sections 3 to 14).

It is told what happened, with the time in seconds, and says what to do: `take_changes` is what has to be stored before
anything of `take_effects` is done. So whatever is answered or sent is durable.

    requests ──┐                                          ┌─> answers
    messages ──┼─> ring, leases, election ─> changes ─────┼─> broadcasts, unicasts
    ticks    ──┘                             (stored first)
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from enum import Enum
from typing import TYPE_CHECKING, Any

from weave_ipam.effects import Answer, Broadcast, Effect, SendRange, SendState
from weave_ipam.election import Voter
from weave_ipam.errors import AddressInUse, IpamError, NotFound, RingRefused, SettingsError, Unserved
from weave_ipam.leases import Lease, Leases, Record, block_to_give
from weave_ipam.messages import Kind, State
from weave_ipam.nicknames import Nicknames
from weave_ipam.ranges import SMALLEST_SUBNET, AddressRange, hosts_of, largest_block, range_of
from weave_ipam.requests import ANONYMOUS, Allocation, Claim, Prime, Request
from weave_ipam.ring import Ring
from weave_ipam.ring_start import RingStart
from weave_ipam.settings import Mode
from weave_ipam.space_requests import SpaceRequests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from weave_ipam.election import Claims
    from weave_ipam.peer_directory import PeerDirectory
    from weave_ipam.ranges import Network
    from weave_ipam.settings import IpamSettings
    from weave_ipam.stored import Stored
    from weave_router.control.random_source import RandomSource
    from weave_router.wire.peer_name import PeerName

log = logging.getLogger(__name__)

TICK = 5.0
"""Seconds: proposals, space requests and claims are repeated."""
MAX_EARLY = 256
"""Space requests that are kept until there is a ring."""
MAX_CONFLICTS = 4096
MAX_PENDING = 4096


class Carrier(Enum):
    """How a state came (section 7)."""

    GOSSIP = "gossip"
    BROADCAST = "broadcast"
    UNICAST = "unicast"


class Allocator:
    """`uid`: another number in each life of the process. `stored`: what an earlier life kept.

    `confirmed`: False after a long absence, in which others may have taken our addresses over; nothing is given out
    then until `confirm` is called.
    """

    def __init__(
        self,
        ourselves: PeerName,
        nickname: str,
        uid: int,
        settings: IpamSettings,
        *,
        peers: PeerDirectory,
        random: RandomSource,
        now: float,
        stored: Stored | None = None,
        confirmed: bool = True,
    ) -> None:
        self.ourselves = ourselves
        self.settings = settings
        self.universe = settings.universe
        kept = stored.nicknames if stored is not None else {}
        self.nicknames = Nicknames(ourselves, nickname, peers.nickname, kept)
        self.conflicts: dict[PeerName, str] = {}
        """Peers whose ring contradicts ours, and how."""
        self.ring = Ring(self.universe, ourselves)
        self.leases = Leases(self.universe)
        self.start = RingStart(Voter(ourselves, uid), settings.beginning)
        """Our part in it, while there is no ring."""
        self._peers = peers
        self._effects: list[Effect] = []
        self._stored_entries: dict[int, Any] = {}
        self._changed_leases: set[str] = set()
        self._ring_changed = True
        self._own: list[AddressRange] = []
        self._unseen: set[int] = set()  # tokens of entries whose version nobody else has seen yet
        self._pending: list[Request] = []
        self._space_requests = SpaceRequests(random)
        self._early: dict[tuple[PeerName, AddressRange], None] = {}
        self._next_tick = now + TICK
        self._left = False
        if stored is not None:
            self._restore(stored)
        self.confirmed = confirmed or not self.other_owners()
        if not self.ring and settings.beginning.mode is Mode.SEED:
            self._begin_ring(settings.beginning.seeds)
        self._own = self.ring.owned(ourselves)
        self._recount_all()

    def _restore(self, stored: Stored) -> None:
        if stored.election is not None:
            self.start.restore(*stored.election, over=bool(stored.entries))
        self.ring = Ring(self.universe, self.ourselves, stored.entries, stored.seeds)
        self.ring.check()
        self._stored_entries = {entry.token: entry for entry in stored.entries}
        for identifier, record in stored.records.items():
            for lease in record.leases:
                inside = self.universe.contains(lease.address)
                if inside and (not self.ring or self.ring.owner_of(lease.address) != self.ourselves):
                    log.warning("%s held %s, which is another peer's now", identifier, self._text(lease))
                    self._changed_leases.add(identifier)
                    continue
                self.leases.add(identifier, lease, container=record.container)

    # --- what the shell takes out -----------------------------------------------------------------------------------

    @property
    def pending(self) -> tuple[Request, ...]:
        """Requests that wait."""
        return tuple(self._pending)

    def state(self) -> State:
        """What others are told, as of now."""
        if not self.confirmed:
            return State(self.nicknames.names)  # what we believe to own may be others' by now
        if self.ring:
            return State(self.nicknames.names, ring=self.ring)
        return State(self.nicknames.names, claims=self.start.claims)

    def told(self) -> None:
        """Somebody is being told our ring."""
        self._unseen.clear()

    def take_effects(self) -> list[Effect]:
        """What is to be done once the changes are stored."""
        effects, self._effects = self._effects, []
        return effects

    def take_ring_changes(self) -> dict[int, Any] | None:
        """Entries by token that are new since the last call; None where nothing changed."""
        if not self._ring_changed:
            return None
        self._ring_changed = False
        known = self._stored_entries
        changes = {entry.token: entry for entry in self.ring.entries if known.get(entry.token) is not entry}
        known.update(changes)
        return changes

    def take_lease_changes(self) -> dict[str, Record | None]:
        """Records that changed since the last call; None for those that ended."""
        changed, self._changed_leases = self._changed_leases, set()
        return {identifier: self.leases.records.get(identifier) for identifier in sorted(changed)}

    def take_claims_change(self) -> tuple[Voter, Claims | None] | None:
        """What we have said in the election, if that is new; no claims once there is a ring."""
        return self.start.take_change()

    # --- requests ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> None:
        """Serve a request now or later; see `Request.answered`. Raises `IpamError` where it makes no sense."""
        if isinstance(request, Allocation) and not range_of(request.subnet).overlaps(self.universe):
            raise SettingsError(f"range {request.subnet} out of bounds: {self.settings.network}")
        if self._left and not isinstance(request, Prime):
            raise Unserved(self.reason(request))
        if len(self._pending) >= MAX_PENDING and not isinstance(request, Prime):
            raise Unserved(f"{MAX_PENDING} requests for addresses are waiting already")
        if isinstance(request, Claim) and request.patient and self._is_asked_already(request):
            self._done(request)
            return
        self._pending.append(request)
        self._try(request, now)

    def _is_asked_already(self, claim: Claim) -> bool:
        """Whether the same patient claim goes on already."""
        key = (claim.identifier, claim.lease)
        return any(isinstance(other, Claim) and (other.identifier, other.lease) == key for other in self._pending)

    def give_up(self, request: Request) -> None:
        """The asker has gone."""
        if request in self._pending:
            self._pending.remove(request)

    def release(self, identifier: str, address: int | None, now: float) -> list[Lease]:
        """Free one address of an identifier, or all, and claim them no longer. Raises `NotFound`."""
        withdrawn = [
            request
            for request in self._pending
            if isinstance(request, Claim)
            and request.identifier == identifier
            and address in (None, request.lease.address)
        ]
        for request in withdrawn:
            self._pending.remove(request)
            self._done(request, None if request.answered else Unserved("the address was released"))
        gone = self.leases.remove(identifier, address, now)
        if not gone and not withdrawn:
            if address is None:
                raise NotFound(f"no addresses for {identifier}")
            raise NotFound(f"address {self.universe.address(address)} not found for {identifier}")
        self._changed_leases.add(identifier)
        self._recount(lease.address for lease in gone)
        self._retry(now)
        return gone

    def _try(self, request: Request, now: float) -> None:
        try:
            match request:
                case Allocation():
                    self._try_allocation(request, now)
                case Claim():
                    self._try_claim(request, now)
                case Prime():
                    if self.ring:
                        self._done(request)
                    else:
                        self._need_ring(now)
        except IpamError as error:
            self._done(request, error)

    def _done(self, request: Request, error: IpamError | None = None) -> None:
        if request in self._pending:
            self._pending.remove(request)
        if not request.answered:
            request.answered = True
            request.error = error
            self._effects.append(Answer(request))
        elif error is not None:
            log.warning("A claim that others had to be asked about failed: %s", error)

    def _retry(self, now: float) -> None:
        order = {Prime: 0, Claim: 1, Allocation: 2}
        for request in sorted(self._pending, key=lambda request: order[type(request)]):
            if request in self._pending:  # serving one may serve others
                self._try(request, now)

    def _expire(self, now: float) -> None:
        for request in list(self._pending):
            if request.deadline <= now:
                self._done(request, Unserved(self.reason(request)))

    def reason(self, request: Request) -> str:
        """Why a request waits, for the asker and the status view."""
        if self._left:
            return "this peer has handed its addresses over and is about to stop"
        if not self.ring:
            conflict = next(iter(self.conflicts.items()), None)
            if conflict is not None:
                return f"no ring: that of {self.nicknames.label(conflict[0])} is refused: {conflict[1]}"
            quorum, known = self.start.quorum
            if quorum:
                missing = quorum - known
                return f"no quorum: {known} of {quorum} peers that must agree on the start are known" + (
                    "" if missing > 0 else ", and they have not agreed yet"
                )
            return "no ring yet: waiting for a peer that has one" + (
                "" if self.start.votes else " (this peer is an observer)"
            )
        if not self.confirmed:
            return (
                "this peer was away, and may have been removed meanwhile: none of the other owners of addresses, "
                f"{self.nicknames.labels(self.other_owners())}, has answered "
                "(if they are gone for good: weave rmpeer --force)"
            )
        if isinstance(request, Claim):
            owner = self.ring.owner_of(request.lease.address)
            why = request.refusal or "it has not answered"
            return f"address {self._text(request.lease)} is owned by other peer {self.nicknames.label(owner)} - {why}"
        if isinstance(request, Allocation):
            return self._why_no_space(request)
        return "not served yet"

    def unavailable(self, subnet: Network, now: float) -> str | None:
        """Why an address of the subnet could not be had now; None if one could. Changes nothing."""
        request = Allocation(deadline=now, identifier=ANONYMOUS, subnet=subnet)
        if self._left or not self.ring or not self.confirmed:
            return self.reason(request)
        if self.leases.first_free(self._own_in(hosts_of(subnet)), now) is not None:
            return None
        wanted = self._wanted(request)
        donors = {} if wanted is None else self.ring.donors(wanted)
        return None if any(map(self._peers.is_known, donors)) else self._why_no_space(request)

    def _why_no_space(self, request: Allocation) -> str:
        wanted = self._wanted(request)
        if wanted is None:
            return f"{request.subnet} has no address of {self.settings.network} that may be given out"
        donors = self.ring.donors(wanted)
        gone = [peer for peer in donors if not self._peers.is_known(peer)]
        if gone:
            return (
                f"no free address of {request.subnet} here, and those who own the rest cannot be reached: "
                f"{self.nicknames.labels(gone)} (if they are gone for good: weave rmpeer)"
            )
        asked = self._space_requests.asked(wanted)
        if asked is not None:
            label = self.nicknames.label(asked)
            return f"no free address of {request.subnet} here; {label} was asked and has not answered"
        return f"all addresses of {request.subnet} are in use"

    def _text(self, lease: Lease) -> str:
        return f"{self.universe.address(lease.address)}/{lease.prefix}"

    # --- allocation -------------------------------------------------------------------------------------------------

    def _try_allocation(self, request: Allocation, now: float) -> None:
        known = self.leases.find(request.identifier, range_of(request.subnet))
        if known is not None and request.identifier != ANONYMOUS and self.confirmed:
            request.lease = Lease(known.address, request.subnet.prefixlen)
            self._done(request)
        elif not self.ring:
            self._need_ring(now)
        elif self.confirmed:
            address = self.leases.first_free(self._own_in(hosts_of(request.subnet)), now)
            if address is None:
                self._ask_for_space(request, now)
                return
            request.lease = Lease(address, request.subnet.prefixlen)
            request.recorded = True
            self._record(request.identifier, request.lease, container=request.container)
            self._done(request)

    def _record(self, identifier: str, lease: Lease, *, container: bool) -> None:
        if identifier == ANONYMOUS:
            identifier = str(self.universe.address(lease.address))
        self.leases.add(identifier, lease, container=container)
        self._changed_leases.add(identifier)
        if self.universe.contains(lease.address):
            self._recount((lease.address,))

    def _own_in(self, wanted: AddressRange) -> Iterator[AddressRange]:
        """What we own of a range, ascending."""
        starts = self._own
        index = max(bisect_right(starts, (wanted.start, self.universe.end + 1, 0)) - 1, 0)
        while index < len(starts) and starts[index].start < wanted.end:
            part = starts[index].cut_to(wanted)
            if part is not None:
                yield part
            index += 1

    def _wanted(self, request: Allocation) -> AddressRange | None:
        return hosts_of(request.subnet).cut_to(self.universe)

    def _ask_for_space(self, request: Allocation, now: float) -> None:
        """Ask one peer for space in the subnet, unless one has been asked and may still answer."""
        wanted = self._wanted(request)
        if wanted is None:
            return
        asked = self._space_requests.asked(wanted)
        if asked is not None and self._space_requests.may_answer(wanted, now) and self._peers.is_known(asked):
            return
        donor = self._space_requests.choose(wanted, self.ring.donors(wanted), self._may_be_asked, now)
        if donor is not None:
            self._effects.append(SendRange(donor, Kind.SPACE_REQUEST, wanted))

    def _may_be_asked(self, peer: PeerName) -> bool:
        return self._peers.is_known(peer) and peer not in self.conflicts

    # --- claims -----------------------------------------------------------------------------------------------------

    def _try_claim(self, request: Claim, now: float) -> None:
        address = request.lease.address
        holder = self.leases.holder(address)
        if not self.universe.contains(address):
            self._claim_here(request, holder)
        elif not self.ring:
            self._answer_patient(request)
            self._need_ring(now)
        elif not self.confirmed:
            self._answer_patient(request)
        elif (owner := self.ring.owner_of(address)) == self.ourselves:
            self._claim_here(request, holder)
        else:
            if not self._peers.is_known(owner):
                request.refusal = "it cannot be reached (if it is gone for good: weave rmpeer)"
                self._answer_patient(request)
                return
            wanted = AddressRange(address, address + 1, self.universe.version)
            requests = self._space_requests
            if requests.asked(wanted) != owner or not requests.may_answer(wanted, now):
                requests.note(wanted, owner, now)
                self._effects.append(SendRange(owner, Kind.SPACE_REQUEST, wanted))

    def _answer_patient(self, request: Claim) -> None:
        if request.patient and not request.answered:
            request.answered = True
            request.deadline = float("inf")
            self._effects.append(Answer(request))

    def _claim_here(self, request: Claim, holder: str | None) -> None:
        """Claim an address that is ours, or of no ring."""
        lease, identifier = request.lease, request.identifier
        own_text = str(self.universe.address(lease.address))
        inside = self.universe.contains(lease.address)
        if holder is None:
            if inside or identifier != ANONYMOUS:
                request.recorded = True
                self._record(identifier, lease, container=request.container)
        elif identifier not in (holder, ANONYMOUS):
            if holder == own_text:
                raise AddressInUse(f"address {self._text(lease)} already in use")
            if not inside:
                raise AddressInUse(f"address {self._text(lease)} already in use by {holder}")
            raise AddressInUse(f"address {self._text(lease)} is already owned by {holder}")
        self._done(request)

    # --- messages ---------------------------------------------------------------------------------------------------

    def receive_state(self, source: PeerName, state: State, carrier: Carrier, now: float) -> None:
        """A peer's state. Raises `RingRefused`."""
        self.nicknames.learn(state.nicknames)
        if state.ring is not None:
            self._receive_ring(source, state.ring, now)
        elif self.ring:
            if carrier is not Carrier.GOSSIP:
                self._effects.append(SendState(source))
        elif state.claims is not None:
            self._receive_claims(state.claims, now)
        elif self.start.votes and carrier is not Carrier.GOSSIP:
            self._need_ring(now)

    def _receive_ring(self, source: PeerName, ring: Ring, now: float) -> None:
        if ring.owner == self.ourselves:
            return  # our own copy came back
        if not self.confirmed:
            self._accept_removal(ring, now)
        try:
            changed = self.ring.merge(ring, self._in_use)
        except RingRefused as error:
            self._conflict(ring.owner, str(error))
            raise
        self.conflicts.pop(ring.owner, None)
        self.conflicts.pop(source, None)
        if changed:
            self.start.end()
            self._ring_taken(now)

    def _accept_removal(self, theirs: Ring, now: float) -> None:
        """While we were away others may have taken over what we owned: then our records of it are void."""
        if not theirs or theirs.seeds != self.ring.seeds or theirs.universe != self.universe:
            return
        theirs.check()
        newer = {entry.token: entry.version for entry in theirs.entries}
        for index, entry in enumerate(self.ring.entries):
            if entry.peer != self.ourselves or newer.get(entry.token, 0) <= entry.version:
                continue
            for stretch in self.ring.stretches(index):
                for address in list(self.leases.used_in(stretch)):
                    owner, holder = theirs.owner_of(address), self.leases.holder(address)
                    if owner != self.ourselves and holder is not None:
                        log.warning(
                            "%s was taken over by %s while this peer was away; %s must not use it any more",
                            self.universe.address(address), self.nicknames.label(owner), holder,
                        )  # fmt: skip
                        self.leases.remove(holder, address, now)
                        self._changed_leases.add(holder)

    def confirm(self, now: float) -> None:
        """Another owner has told that nobody took over what is ours, or the ring tells that somebody did."""
        if not self.confirmed:
            self.confirmed = True
            self._ring_changed = True
            self._recount_all()
            self._effects.append(Broadcast())
            self._retry(now)

    def other_owners(self) -> list[PeerName]:
        """Who owns addresses beside us."""
        return [peer for peer in self.ring.owners() if peer != self.ourselves]

    def _conflict(self, peer: PeerName, reason: str) -> None:
        if len(self.conflicts) < MAX_CONFLICTS:
            self.conflicts[peer] = reason

    def _ring_taken(self, now: float) -> None:
        """The ring has changed in other ways than by our own reports."""
        owners = self.ring.owners()
        self.nicknames.keep(lambda peer: peer in owners or self._peers.is_known(peer))
        self._ring_changed = True
        self._own = self.ring.owned(self.ourselves)
        self._recount_all()
        self._space_requests.settle(lambda wanted: any(self._own_in(wanted)))
        early, self._early = self._early, {}
        for asker, wanted in early:
            self._give(asker, wanted, now)
        self._retry(now)

    def _in_use(self, start: int, end: int) -> bool:
        """Whether an address of [start, end), around the end of the range where need be, is not ours and free."""
        low, high, family = self.universe
        parts = [(start, end)] if end > start else [(low, end), (start, high)]
        for first, last in parts:
            if first == last:
                continue
            whole = AddressRange(first, last, family)
            if self.leases.count_used(whole):
                return True
            if sum(part.size for part in self._own_in(whole)) != whole.size:
                return True
        return False

    def receive_range(self, source: PeerName, kind: Kind, wanted: AddressRange, now: float) -> None:
        """A space request, or its denial."""
        if kind is Kind.SPACE_REQUEST:
            if source == self.ourselves or source in self.conflicts or self._left or not self.confirmed:
                return
            if self.ring:
                self._give(source, wanted, now)
            elif len(self._early) < MAX_EARLY:
                self._early[source, wanted] = None  # it has the ring already, ours is on its way
        else:
            self._denial(source, wanted, now)

    def _give(self, asker: PeerName, wanted: AddressRange, now: float) -> None:
        inside = wanted.cut_to(self.universe)
        block = None
        if inside is not None:
            ends = range_of(self.settings.default_subnet)
            useless = {ends.start, ends.end - 1} if wanted.size > 1 else set()
            if wanted.size >= SMALLEST_SUBNET and largest_block(wanted) == wanted:
                useless |= {wanted.start, wanted.end - 1}  # Weave Net asks for the whole subnet, its ends included
            for resting in (False, True):
                free = self.leases.free_stretches(self._own_in(inside), now, resting=resting)
                block = block or block_to_give(part for part in free if part.size > 1 or part.start not in useless)
        if block is None:
            self._effects.append(SendRange(asker, Kind.DENIED, wanted))
        else:
            self.ring.grant(block, asker)
            self._ring_taken(now)
            self._effects.append(Broadcast())
        self._effects.append(SendState(asker))

    def _denial(self, source: PeerName, wanted: AddressRange, now: float) -> None:
        if self._space_requests.asked(wanted) == source:
            self._space_requests.deny(wanted, source, self.ring.donors(wanted).get(source, 0), now)
        for request in list(self._pending):
            if isinstance(request, Claim) and wanted.contains(request.lease.address) and self.ring:
                owner = self.ring.owner_of(request.lease.address)
                if owner == source:
                    label = self.nicknames.label(owner)
                    error = AddressInUse(f"address {self._text(request.lease)} is owned by other peer {label}")
                    self._done(request, error)
        self._retry(now)

    # --- how the ring begins ----------------------------------------------------------------------------------------

    def _need_ring(self, now: float) -> None:
        """There is no ring, and one is wanted."""
        if self._left or self.conflicts:
            return  # a ring exists, only that it contradicts our settings: do not start another one
        self._effects += self.start.want(self._peers.targets() + 1)
        self._check_decision(now)

    def _receive_claims(self, heard: Mapping[Voter, Claims], now: float) -> None:
        self._effects += self.start.hear(heard, now)
        self._check_decision(now)

    def _check_decision(self, now: float) -> None:
        names = self.start.decided()
        if names:
            self._begin_ring(names)
            self._effects.append(Broadcast())
            self._retry(now)

    def _begin_ring(self, names: Iterable[PeerName]) -> None:
        self.ring.divide(names)
        self.start.end()
        self._ring_changed = True
        self._own = self.ring.owned(self.ourselves)
        self._recount_all()

    # --- peers that leave -------------------------------------------------------------------------------------------

    def leave(self) -> PeerName | None:
        """Hand all our space over before we stop (section 14); returns the heir, None where there is none.

        Requests that wait end; new ones are refused.
        """
        self._left = True
        for request in list(self._pending):
            self._done(request, Unserved(self.reason(request)))
        heir = self._heir() if self.ring and self._own and self.confirmed else None
        if heir is not None:
            self.ring.transfer(self.ourselves, heir)
            self._ring_changed = True
            self._own = []
            self._effects.append(Broadcast())
        return heir

    def _heir(self) -> PeerName | None:
        """Another owner, else anybody who takes part; only who can be reached will ever know that it inherits."""
        candidates = [*self.ring.owners(), *self.nicknames.names]
        return next(
            (
                peer
                for peer in candidates
                if peer != self.ourselves and peer not in self.conflicts and self._peers.is_known(peer)
            ),
            None,
        )

    def take_over(self, peer: PeerName, now: float) -> int:
        """Own what a peer owned that is gone; returns how many addresses that is. See `removal` for when one may."""
        if peer == self.ourselves or not self.ring:
            return 0
        moved = self.ring.transfer(peer, self.ourselves)
        gained = sum(stretch.size for stretch in moved)
        if gained:
            self.conflicts.pop(peer, None)
            self._ring_taken(now)
            self._effects.append(Broadcast())
            if not self.other_owners():
                self.confirm(now)
        return gained

    def find_peers(self, text: str) -> list[PeerName]:
        """Owners with this nickname or name."""
        return self.nicknames.find(text, self.ring.owners())

    # --- time -------------------------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """When `handle_timer` is due."""
        times = [self._next_tick, *(request.deadline for request in self._pending)]
        if self._pending:
            times.append(self._space_requests.next_timer())
        return min(times)

    def handle_timer(self, now: float) -> None:
        """Repeat what was not answered, end what waited too long."""
        if now >= self._next_tick:
            self._next_tick = now + TICK
            self._tick(now)
        elif self._space_requests.next_timer() <= now:
            self._retry(now)
        self._space_requests.expire(now)
        self._expire(now)

    def _tick(self, now: float) -> None:
        if self.ring:
            self._retry(now)
        elif self._pending or self.start.elects:
            if self.start.elects and not self.conflicts:
                self._effects += self.start.propose_again(now, TICK)
                self._check_decision(now)
            else:
                self._need_ring(now)

    def peers_changed(self, now: float) -> None:
        """Peers came or went."""
        for peer in [peer for peer in self.conflicts if not self._peers.is_known(peer)]:
            del self.conflicts[peer]
        if self._pending and self.ring:
            self._retry(now)

    # --- bookkeeping ------------------------------------------------------------------------------------------------

    def _recount(self, addresses: Iterable[int]) -> None:
        """The free counts of our entries that these addresses lie in have changed."""
        if not self.ring:
            return
        for index in {self.ring.index_of(address) for address in addresses if self.universe.contains(address)}:
            self._recount_entry(index)

    def _recount_all(self) -> None:
        for index, entry in enumerate(self.ring.entries):
            if entry.peer == self.ourselves:
                self._recount_entry(index)

    def _recount_entry(self, index: int) -> None:
        if self.ring.entries[index].peer != self.ourselves:
            return
        stretches = self.ring.stretches(index)
        used = sum(self.leases.count_used(stretch) for stretch in stretches)
        subnet = range_of(self.settings.default_subnet)
        for end in (subnet.start, subnet.end - 1):  # never given out, so of no use to anybody
            if self.leases.holder(end) is None and any(stretch.contains(end) for stretch in stretches):
                used += 1
        # One version for all that happens between two messages: a peer that takes over one that is gone raises the
        # last version that it heard of by 100, and must come out above what the other has stored.
        token = self.ring.entries[index].token
        if self.ring.report_free(index, self.ring.size(index) - used, raise_version=token not in self._unseen):
            self._ring_changed = True
            self._unseen.add(token)
