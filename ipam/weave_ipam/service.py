"""Address allocation under trio: the allocator, its gossip channel, its timers and the store.

Whatever happens, happens in the allocator at once; then one task stores what changed, in one transaction for all that
came together, and only then are the answers given and the messages sent.

    requests, gossip, timers ─> allocator ─> store ─> answers, broadcasts, unicasts
"""

from __future__ import annotations

import logging
from ipaddress import ip_interface
from typing import TYPE_CHECKING

import trio

from weave_ipam import stored
from weave_ipam.allocator import MAX_CONFLICTS, Allocator, Carrier
from weave_ipam.effects import Answer, Broadcast, BroadcastClaims, SendRange, SendState
from weave_ipam.errors import NotFound, RemovalRefused
from weave_ipam.leases import Lease
from weave_ipam.messages import CHANNEL, Kind, State, decode_range, decode_state, encode_range, encode_state
from weave_ipam.ranges import hosts_of
from weave_ipam.removal import CHANNEL as REMOVAL_CHANNEL
from weave_ipam.removal import Message, Removals, Step, decode_message, encode_message
from weave_ipam.requests import Allocation, Claim, Prime, Request
from weave_ipam.status import IpamStatus, ipam_status
from weave_router.errors import ProtocolError
from weave_router.wire.features import QUARANTINE, REMOVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from ipaddress import IPv4Interface, IPv6Interface

    from weave_ipam.election import Voter
    from weave_ipam.ranges import Address, Network
    from weave_ipam.removal import Attempt
    from weave_ipam.settings import IpamSettings
    from weave_router.control.gossip import GossipData
    from weave_router.control.mesh import Mesh, MeshConnection
    from weave_router.control.random_source import RandomSource
    from weave_router.doors import Store
    from weave_router.wire.peer_name import PeerName

    Interface = IPv4Interface | IPv6Interface

log = logging.getLogger(__name__)

WAIT_S = 10.0
"""How long a request waits unless its caller says otherwise."""
SHORT_ABSENCE_S = 30.0
"""After a longer one others may have taken our addresses over (`removal`); half of what they wait at least."""
ALIVE_S = 10.0
AGREEMENT_S = 8.0
REPEAT_S = 1.0
HANDOVER_S = 3.0
"""How long a departing peer waits for its heir to confirm."""
_REMEMBERED_PAYLOADS = 64


class Ipam:
    """Address allocation of one router. `clock`: Unix seconds, told to others for information only.

    `uptime`: which boot of the machine this is, and seconds since its beginning, those of sleep included; serves to
    tell for how long this peer was away. The clock may not, since it may jump.

    `begin` reads the store; it must be called before anything else, and before the router runs.
    """

    def __init__(
        self,
        settings: IpamSettings,
        mesh: Mesh,
        store: Store,
        *,
        random: RandomSource,
        clock: Callable[[], float],
        uptime: Callable[[], tuple[str, float]] = lambda: ("", trio.current_time()),
    ) -> None:
        self.settings = settings
        self._mesh = mesh
        self._store = store
        self._random = random
        self._clock = clock
        self._uptime = uptime
        self._allocator: Allocator
        self._removals: Removals
        self._answers = trio.Event()
        self._rings_from: dict[PeerName, None] = {}
        self._replies: list[tuple[PeerName, Message]] = []
        self._stored_nicknames: dict[PeerName, str] = {}
        self._told = State()
        self._encoded: tuple[int, bytes] | None = None
        self._work = trio.Event()
        self._timers = trio.Event()
        self._committed = trio.Event()
        self._waiting: dict[Request, trio.Event] = {}
        self._relays: dict[PeerName, dict[Voter, None] | None] = {}
        self._seen: dict[int, None] = {}
        self._directory = _Directory(mesh)
        self._heir_answered = trio.Event()
        self._heir: PeerName | None = None

    async def begin(self) -> None:
        """Take up what is stored, and join the gossip. Raises `StoredStateError` and the store's errors."""
        values = await self._store.read(stored.PREFIX)
        ourselves = self._mesh.ourselves
        kept, reason = stored.read_stored(values, self.settings.network, ourselves)
        if kept is None and values:
            if reason:
                log.warning("The stored addresses are dropped: %s", reason)
            await self._store.write(dict.fromkeys(values))
        own = self._mesh.topology.own
        self._allocator = Allocator(
            ourselves,
            own.nickname,
            own.uid,
            self.settings,
            peers=self._directory,
            random=self._random,
            now=trio.current_time(),
            stored=kept,
            confirmed=kept is None or self._was_here_just_now(kept),
        )
        self._removals = Removals(
            ourselves,
            kept.votes if kept is not None else {},
            reachable=lambda peer: self._directory.is_known(peer),
            owns=lambda peer: peer in self._allocator.ring.owners(),
            label=self._allocator.nicknames.label,
            now=trio.current_time(),
        )
        await self._commit()
        self._mesh.register(CHANNEL, _Channel(self), self._speaks_to)
        self._mesh.register(REMOVAL_CHANNEL, _RemovalChannel(self))

    def _was_here_just_now(self, kept: stored.Stored) -> bool:
        boot, now = self._uptime()
        return kept.alive is not None and kept.alive[0] == boot and 0 <= now - kept.alive[1] <= SHORT_ABSENCE_S

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Raises the store's errors: what cannot be stored must not be given out."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_timers)
            nursery.start_soon(self._run_watch)
            task_status.started()
            while True:
                await self._work.wait()
                self._work = trio.Event()
                await self._commit()

    def routes_changed(self) -> None:
        """Peers came or went, or became reachable."""
        now = trio.current_time()
        self._removals.seen(self._mesh.routes.unicast_all, now)
        self._allocator.peers_changed(now)
        self._wake()

    # --- requests ---------------------------------------------------------------------------------------------------

    async def allocate(
        self, identifier: str, subnet: Network | None = None, *, wait: float = WAIT_S, container: bool = False
    ) -> Interface:
        """An address of the subnet (default: the default subnet), the same one for the same identifier.

        Durable on return. Raises `SettingsError` for a subnet outside of the range, `Unserved` after `wait` seconds.
        """
        request = Allocation(
            deadline=trio.current_time() + wait,
            identifier=identifier,
            subnet=subnet or self.settings.default_subnet,
            container=container,
        )
        await self._serve(request)
        if request.lease is None:
            raise AssertionError("an allocation without error has an address")
        return self._interface(request.lease)

    async def claim(
        self,
        identifier: str,
        address: Interface,
        *,
        wait: float = WAIT_S,
        container: bool = False,
        patient: bool = False,
    ) -> None:
        """Record that the identifier has just this address; outside of the range nobody is asked about it.

        `patient`: where its owner cannot be asked at present, succeed and go on asking. Durable on return.
        Raises `AddressInUse` and `Unserved`.
        """
        lease = Lease(int(address.ip), address.network.prefixlen)
        if address.version != self.settings.network.version:
            return  # another family: no ring knows about it
        deadline = trio.current_time() + wait
        await self._serve(
            Claim(deadline=deadline, identifier=identifier, lease=lease, container=container, patient=patient)
        )

    async def release(self, identifier: str, address: Address | None = None) -> tuple[Interface, ...]:
        """Free one address of the identifier, or all; returns them. Durable on return. Raises `NotFound`."""
        if address is not None and address.version != self.settings.network.version:
            raise NotFound(f"address {address} not found for {identifier}")
        number = None if address is None else int(address)
        try:
            gone = self._allocator.release(identifier, number, trio.current_time())
        except NotFound:
            await self._committed.wait()  # somebody else may just have released it, and that is not durable yet
            raise
        self._wake()
        await self._committed.wait()
        return tuple(self._interface(lease) for lease in gone)

    async def prime(self, *, wait: float = float("inf")) -> None:
        """Wait until there is a ring, starting the election if nobody did. Raises `Unserved`."""
        await self._serve(Prime(deadline=trio.current_time() + wait))

    def unavailable(self, subnet: Network | None = None) -> str | None:
        """Why no address of a subnet (default: the default subnet) could be had now; None if one could."""
        return self._allocator.unavailable(subnet or self.settings.default_subnet, trio.current_time())

    def lookup(self, identifier: str, subnet: Network | None = None) -> tuple[Interface, ...]:
        """The identifier's addresses in a subnet (default: the default subnet)."""
        record = self._allocator.leases.records.get(identifier)
        inside = hosts_of(subnet or self.settings.default_subnet)
        leases = record.leases if record else []
        return tuple(self._interface(lease) for lease in leases if inside.contains(lease.address))

    def containers(self) -> tuple[str, ...]:
        """The identifiers that were asked for as containers."""
        records = self._allocator.leases.records
        return tuple(identifier for identifier, record in records.items() if record.container)

    def owned(self) -> dict[str, tuple[Interface, ...]]:
        """All addresses that are recorded here, by identifier."""
        records = self._allocator.leases.records
        return {key: tuple(self._interface(lease) for lease in record.leases) for key, record in records.items()}

    def owned_by(self, identifier: str) -> tuple[Interface, ...]:
        """The identifier's addresses, in all subnets."""
        record = self._allocator.leases.records.get(identifier)
        return () if record is None else tuple(self._interface(lease) for lease in record.leases)

    async def leave(self) -> str | None:
        """Hand all space over before this peer stops for good; who got it, None where nobody was there.

        Waits up to 3 s for the heir to say that it knows.
        """
        heir = self._allocator.leave()
        self._wake()
        await self._committed.wait()
        if heir is None:
            return None
        self._heir = heir
        self._ask_for_ring(heir)  # answered after what was broadcast before: that tells it arrived
        with trio.move_on_after(HANDOVER_S) as limit:
            await self._heir_answered.wait()
        if limit.cancelled_caught:
            log.warning("%s has not confirmed that it has our addresses", self._allocator.nicknames.label(heir))
        return self._allocator.nicknames.label(heir)

    async def remove_peer(self, text: str, *, also: Sequence[str] = (), force: bool = False) -> int:
        """Take over what a peer owned that is gone for good; how many addresses that was. 0 for unknown peers.

        All other owners must agree (`removal`), but those that are gone `also`. Raises `RemovalRefused`, unless
        forced.
        """
        gone = {peer for name in also for peer in self._allocator.find_peers(name)}
        gained = 0
        for peer in self._allocator.find_peers(text):
            if peer != self._mesh.ourselves:
                if not force:
                    await self._agree(peer, gone)
                gained += self._allocator.take_over(peer, trio.current_time())
                self._removals.end(peer, committed=True)
        self._wake()
        await self._committed.wait()
        return gained

    async def _agree(self, peer: PeerName, gone: set[PeerName]) -> None:
        """Have all owners agree that a peer is gone. Raises `RemovalRefused`."""
        removals, label = self._removals, self._allocator.nicknames.label
        if not self._allocator.confirmed:
            raise RemovalRefused("this peer was away itself and has not heard from any other owner of addresses yet")
        self._object(peer, self._awaited(peer, gone))
        asked = {owner for owner in self._awaited(peer, gone) if self._mesh.can(owner, REMOVAL)}
        attempt = removals.begin(peer, asked)
        self._rings_from.clear()
        told: set[PeerName] = set()
        """Who has been asked since `due` was set; an answer of one is no reason to ask the others again."""
        due = trio.current_time()
        try:
            with trio.move_on_after(AGREEMENT_S):
                while True:
                    self._answers = trio.Event()
                    if attempt.refusal:
                        raise RemovalRefused(f"{label(peer)} must not be removed: {attempt.refusal}")
                    owners = self._awaited(peer, gone)  # more may have turned up in the rings of those who agreed
                    self._object(peer, owners)
                    new = {owner for owner in owners if self._mesh.can(owner, REMOVAL)} - asked
                    asked |= new
                    attempt.awaited |= new
                    old = owners - asked - self._rings_from.keys()
                    if not attempt.awaited and not old:
                        return
                    if trio.current_time() >= due:
                        due = trio.current_time() + REPEAT_S
                        told.clear()
                    self._ask(attempt, peer, attempt.awaited - told, old - told)
                    told |= attempt.awaited | old
                    with trio.move_on_at(due):
                        await self._answers.wait()
            silent = ", ".join(map(label, sorted(attempt.awaited | old)))
            raise RemovalRefused(f"{label(peer)} was not removed: no answer from {silent}; try again")
        finally:
            if attempt.awaited or attempt.refusal:
                removals.end(peer, committed=False)

    def _awaited(self, peer: PeerName, gone: set[PeerName]) -> set[PeerName]:
        return set(self._allocator.other_owners()) - {peer} - gone

    def _object(self, peer: PeerName, owners: set[PeerName]) -> None:
        objection = self._removals.objection(peer, trio.current_time())
        if objection:
            raise RemovalRefused(
                f"{objection}; if it runs, its containers would share their addresses with others. Before a host goes, "
                "'weave reset' there hands its addresses over. To insist: --force"
            )
        missing = sorted(owner for owner in owners if not self._directory.is_known(owner))
        if missing:
            names = ", ".join(map(self._allocator.nicknames.label, missing))
            raise RemovalRefused(
                f"all owners of addresses must agree, and these cannot be reached: {names}; name those as well that "
                "are gone for good, wait for the others, or insist with --force"
            )

    def _ask(self, attempt: Attempt, peer: PeerName, able: set[PeerName], old: set[PeerName]) -> None:
        self._replies += [(owner, Message(Step.ASK, peer, attempt.ballot)) for owner in sorted(able)]
        self._wake()
        for owner in sorted(old):
            self._ask_for_ring(owner)

    def _ask_for_ring(self, owner: PeerName) -> None:
        """A state without a ring is answered with the ring, by Weave Net 2.8 too."""
        self._send(owner, bytes((Kind.STATE,)) + encode_state(State(self._told.nicknames), int(self._clock())))

    async def _run_watch(self) -> None:
        """Keep account of who is there, and that we are; after an absence, ask whether we have been removed."""
        written = -ALIVE_S
        while True:
            now, allocator = trio.current_time(), self._allocator
            self._removals.seen(self._mesh.routes.unicast_all, now)
            if allocator.ring and not allocator.confirmed:
                self._ask_for_confirmation()
            if allocator.ring and allocator.confirmed and now - written >= ALIVE_S:
                written = now
                await self._store.write(stored.alive_changes(self._uptime()))
            self._wake()
            await trio.sleep(REPEAT_S)

    def _ask_for_confirmation(self) -> None:
        allocator = self._allocator
        owners = [owner for owner in allocator.other_owners() if self._directory.is_known(owner)]
        able = [owner for owner in owners if self._mesh.can(owner, REMOVAL)]
        for owner in able:
            self._replies.append((owner, Message(Step.CONFIRM, allocator.ourselves)))
        if not able:  # Weave Net 2.8 tells by its ring
            if any(owner in self._rings_from for owner in owners) or not allocator.other_owners():
                allocator.confirm(trio.current_time())
            for owner in owners:
                self._ask_for_ring(owner)

    def status(self) -> IpamStatus:
        """A snapshot."""
        return ipam_status(self._allocator, self._directory)

    async def _serve(self, request: Request) -> None:
        done = self._waiting[request] = trio.Event()
        try:
            self._allocator.submit(request, trio.current_time())
            self._wake()
            await done.wait()
        except trio.Cancelled:
            self._take_back(request)
            raise
        finally:
            del self._waiting[request]
        if request.error is not None:
            raise request.error

    def _take_back(self, request: Request) -> None:
        """The asker has gone and does not know the answer."""
        if not request.answered:
            self._allocator.give_up(request)
        elif request.recorded and isinstance(request, Allocation | Claim) and request.lease is not None:
            holder = self._allocator.leases.holder(request.lease.address)
            if holder is not None:
                self._allocator.release(holder, request.lease.address, trio.current_time())
                self._wake()

    def _interface(self, lease: Lease) -> Interface:
        return ip_interface((self.settings.universe.address(lease.address), lease.prefix))

    # --- storing, then acting ---------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Something may have to be stored or done."""
        if not self._work.is_set():
            self._committed = trio.Event()
            self._work.set()
        self._timers.set()

    async def _commit(self) -> None:
        allocator, committed = self._allocator, self._committed
        effects, relays = allocator.take_effects(), self._relays
        self._relays = {}
        ring_changes = allocator.take_ring_changes()
        changes = stored.changes(
            self.settings.network,
            allocator.ourselves,
            allocator.ring.seeds,
            ring_changes,
            allocator.take_lease_changes(),
            allocator.universe,
        )
        state = allocator.state().copy() if effects or relays or ring_changes is not None else self._told
        claims = allocator.take_claims_change()
        if claims is not None:
            changes |= stored.claims_changes(*claims)
        changes |= stored.vote_changes(self._removals.take_changes())
        if ring_changes is not None:
            owners = allocator.ring.owners()
            nicknames = {peer: text for peer, text in allocator.nicknames.names.items() if peer in owners}
            if nicknames != self._stored_nicknames:
                self._stored_nicknames = nicknames
                changes |= stored.nickname_changes(nicknames)
        replies, self._replies = self._replies, []
        if changes:
            await self._store.write(changes | stored.alive_changes(self._uptime()))
        if state is not self._told:
            self._told, self._encoded = state, None
        committed.set()
        for effect in effects:
            match effect:
                case Broadcast():
                    self._mesh.broadcast(CHANNEL, _StateGossip(self))
                case BroadcastClaims(voter):
                    self._mesh.broadcast(CHANNEL, _StateGossip(self, {voter: None}))
                case SendState(destination):
                    self._send(destination, bytes((Kind.STATE,)) + self.encoded_state())
                case SendRange(destination, kind, wanted):
                    self._send(destination, bytes((kind,)) + encode_range(wanted))
                case Answer(request):
                    if request in self._waiting:
                        self._waiting[request].set()
        for destination, message in replies:
            self._mesh.unicast(REMOVAL_CHANNEL, destination, encode_message(message))
        for source, voters in relays.items():
            self._mesh.pass_on(CHANNEL, source, _StateGossip(self, voters))

    def _send(self, destination: PeerName, payload: bytes) -> None:
        self._mesh.unicast(CHANNEL, destination, payload)

    async def _run_timers(self) -> None:
        while True:
            now = trio.current_time()
            if self._allocator.next_timer() <= now:
                self._allocator.handle_timer(now)
                self._wake()
            self._timers = trio.Event()
            with trio.move_on_at(self._allocator.next_timer()):
                await self._timers.wait()
            await trio.lowlevel.checkpoint()

    # --- gossip -----------------------------------------------------------------------------------------------------

    def encoded_state(self) -> bytes:
        """What is stored, as a payload."""
        clock = int(self._clock())
        if self._encoded is None or self._encoded[0] != clock:
            self._encoded = (clock, encode_state(self._told, clock))
            self._allocator.told()
        return self._encoded[1]

    def encoded_claims(self, voters: Mapping[Voter, None]) -> bytes:
        """What is stored of what these say in the election; everything where there is none any more."""
        claims = self._told.claims
        if self._told.ring is not None or claims is None:
            return self.encoded_state()
        own = {self._mesh.ourselves: self._told.nicknames[self._mesh.ourselves]}
        said = {voter: claims[voter] for voter in voters if voter in claims}
        return encode_state(State(own, claims=said), int(self._clock()))

    def receive(self, source: PeerName, payload: bytes, carrier: Carrier, now: float) -> None:
        """A state has come. Raises `ProtocolError`."""
        mark = hash(payload)
        voters: dict[Voter, None] | None = None
        if mark not in self._seen:
            state = decode_state(payload)
            self._allocator.receive_state(source, state, carrier, now)
            if state.ring is not None:
                if state.ring.owner == self._heir:
                    self._heir_answered.set()
                if len(self._rings_from) < MAX_CONFLICTS:
                    self._rings_from[state.ring.owner] = None
                self._answers.set()
                while len(self._seen) >= _REMEMBERED_PAYLOADS:
                    del self._seen[next(iter(self._seen))]
                self._seen[mark] = None  # merging it again would change nothing
            elif state.claims:
                voters = dict.fromkeys(state.claims)
            self._wake()
        if carrier is Carrier.BROADCAST:
            before = self._relays.get(source, {})
            self._relays[source] = None if before is None or voters is None else before | voters
            self._wake()

    def receive_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        """A message to us has come. Raises `ProtocolError`."""
        if not payload or payload[0] not in set(Kind):
            raise ProtocolError("unicast of no known kind")
        kind = Kind(payload[0])
        if kind is Kind.STATE:
            self.receive(source, payload[1:], Carrier.UNICAST, now)
            return
        self._allocator.receive_range(source, kind, decode_range(payload[1:]), now)
        self._wake()

    def receive_about_removal(self, source: PeerName, payload: bytes, now: float) -> None:
        """A message about a removal has come. Raises `ProtocolError`."""
        message = decode_message(payload)
        if message.step is Step.CONFIRMED and message.peer == self._mesh.ourselves:
            self._allocator.confirm(now)
        replies = self._removals.receive(source, message, now)
        for destination, reply in replies:
            if reply.step in (Step.YES, Step.CONFIRMED):  # they need to know all that we know
                self._send(destination, bytes((Kind.STATE,)) + self.encoded_state())
        self._replies += replies
        self._answers.set()
        self._wake()

    def _speaks_to(self, connection: MeshConnection) -> bool:
        """A Weave Net 2.8 peer would end the connection at a ring that it refuses; containers need that connection."""
        return connection.peer not in self._allocator.conflicts or QUARANTINE in connection.features.abilities


class _Directory:
    """Other peers, as the mesh knows them (`PeerDirectory`)."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def is_known(self, name: PeerName) -> bool:
        return name in self._mesh.routes.unicast_all

    def nickname(self, name: PeerName) -> str | None:
        record = self._mesh.topology.records.get(name)
        return record.nickname if record is not None else None

    def targets(self) -> int:
        return self._mesh.targets.count_direct()


class _StateGossip:
    """Our state, as it is stored when it is sent; of the election only what these voters say, unless all are meant."""

    def __init__(self, ipam: Ipam, voters: Mapping[Voter, None] | None = None) -> None:
        self._ipam = ipam
        self._voters = voters

    def merge(self, other: GossipData) -> GossipData:
        if not isinstance(other, _StateGossip):
            raise TypeError("gossip of another channel")
        if self._voters is None or other._voters is None:
            return _StateGossip(self._ipam)
        return _StateGossip(self._ipam, {**self._voters, **other._voters})

    def encode(self) -> Sequence[bytes]:
        return [self._ipam.encoded_state() if self._voters is None else self._ipam.encoded_claims(self._voters)]


class _RemovalChannel:
    """The channel on which removals are agreed on: unicasts only."""

    def __init__(self, ipam: Ipam) -> None:
        self._ipam = ipam

    def complete_state(self) -> None:
        return None

    def on_gossip(self, source: PeerName, payload: bytes, now: float) -> Iterator[GossipData | None]:
        raise ProtocolError("gossip on a channel of unicasts")

    def on_broadcast(self, source: PeerName, payload: bytes, now: float) -> None:
        raise ProtocolError("broadcast on a channel of unicasts")

    def on_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        self._ipam.receive_about_removal(source, payload, now)


class _Channel:
    """The gossip channel (`weave_router.control.gossip.Channel`)."""

    def __init__(self, ipam: Ipam) -> None:
        self._ipam = ipam

    def complete_state(self) -> GossipData:
        return _StateGossip(self._ipam)

    def on_gossip(self, source: PeerName, payload: bytes, now: float) -> Iterator[GossipData | None]:
        self._ipam.receive(source, payload, Carrier.GOSSIP, now)
        yield from ()

    def on_broadcast(self, source: PeerName, payload: bytes, now: float) -> None:
        self._ipam.receive(source, payload, Carrier.BROADCAST, now)

    def on_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        self._ipam.receive_unicast(source, payload, now)
