"""Our allocators in the recorded scenarios of `vectors/ipam/allocator_scenarios.json`, and what is compared of them.

The network is that of the recording: synchronous, without loss, messages in the order in which they are sent, a
broadcast encoded when it is delivered. Everybody hears everybody, but for links that are cut and peers that are dead.
Messages go through the codec. What is asked of an allocator beyond the recording is checked after each message
(`_check`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, assert_never

from vector_files import peer
from weave_ipam.allocator import Allocator, Carrier
from weave_ipam.effects import Answer, Broadcast, BroadcastClaims, SendRange, SendState
from weave_ipam.errors import IpamError, RingRefused
from weave_ipam.leases import Lease
from weave_ipam.messages import Kind, State, decode_range, decode_state, encode_range, encode_state
from weave_ipam.peer_directory import PeerDirectory
from weave_ipam.ranges import range_of
from weave_ipam.requests import Allocation, Claim, Request
from weave_ipam.settings import Beginning, IpamSettings, Mode
from weave_router.wire.peer_name import parse_peer_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from weave_ipam.election import Voter
    from weave_ipam.ranges import AddressRange
    from weave_ipam.ring import Entry, Ring
    from weave_router.wire.peer_name import PeerName

WAIT = 10.0
"""Seconds that a request waits, as in the daemon."""
CLOCK = 1_700_000_000
MAX_MESSAGES = 100
"""More than any operation of the scenarios leads to: whoever sends so many will not stop."""


def short(address: str) -> str:
    """An address without what all of them begin with."""
    return address.removeprefix("10.0.")


def digit(name: PeerName | str) -> str:
    """The scenarios' peers are 1 to 3."""
    return str(peer(name) if isinstance(name, str) else int(name))


@dataclass
class PeerView:
    """What is compared of a peer: owners and tokens of its ring (`token:owner …`), its records, who waits."""

    ring: str = ""
    records: dict[str, str] = field(default_factory=dict)
    """Addresses with their prefix length by identifier."""
    waiting: tuple[str, ...] = ()
    """Identifiers of allocations."""


@dataclass
class Outcome:
    """What came of one step."""

    result: str
    messages: tuple[str, ...]
    """In order: `from>to carrier content`, or `name refuses: why` behind the message that it was."""
    peers: dict[str, PeerView]


# --- the recording ----------------------------------------------------------------------------------------------------


def recorded_ring(ring: Any) -> str:
    entries = (ring and ring["entries"]) or ()
    return " ".join(f"{short(entry['token'])}:{digit(entry['peer'])}" for entry in entries)


def recorded_messages(messages: Iterable[Any]) -> list[str]:
    lines = []
    for message in messages:
        to = message["to"] if isinstance(message["to"], list) else [message["to"]]
        way = f"{digit(message['from'])}>{','.join(map(digit, to))}"
        if message["kind"] == "unicast" and message["type"] != Kind.STATE:
            first, last = map(short, message["range"].split("-"))
            lines.append(f"{way} {'asks for' if message['type'] == Kind.SPACE_REQUEST else 'denies'} {first}-{last}")
            continue
        state = message["state"]
        if "ring" in state:
            content = "ring"
        elif "paxos" in state:
            content = "claims of " + ",".join(digit(claims["name"]) for claims in state["paxos"])
        else:
            content = "nothing"
        lines.append(f"{way} {message['kind']} {content}")
        lines += [f"{digit(name)} refuses: {text}" for name, text in message.get("errors", {}).items()]
    return lines


def recorded_view(after: Any) -> PeerView:
    return PeerView(
        recorded_ring(after["ring"]),
        {identifier: " ".join(map(short, texts)) for identifier, texts in after["owned"].items()},
        tuple(text.split()[0] for text in after.get("pending_allocations", ())),
    )


# --- our side ---------------------------------------------------------------------------------------------------------


class Chance:
    """Numbers that are drawn in turn, then always the same, so that the owner of most is asked."""

    def __init__(self) -> None:
        self.script: deque[float] = deque()

    def random(self) -> float:
        return self.script.popleft() if self.script else 0.5

    def randrange(self, stop: int, /) -> int:
        return 0


class _Directory(PeerDirectory):
    """The peers that one can talk to."""

    def __init__(self, network: Network, ourselves: PeerName) -> None:
        self._network = network
        self._ourselves = ourselves

    def is_known(self, name: PeerName) -> bool:
        return name == self._ourselves or name in self._network.reachable(self._ourselves)

    def nickname(self, name: PeerName) -> str | None:
        return self._network.nicknames[name] if self.is_known(name) else None

    def targets(self) -> int:
        return 0


@dataclass
class _Message:
    source: PeerName
    carrier: Carrier
    destination: PeerName | None = None
    """None: all."""
    payload: bytes = b""
    """Of unicasts; a state told to all is encoded when it is delivered."""
    voter: Voter | None = None
    """Of broadcasts in an election: whose claims are meant."""


class Network:
    """The peers of a scenario, and what goes between them."""

    def __init__(self, peers: Iterable[Any]) -> None:
        self.now = 1000.0
        self.chance = Chance()
        self.settings = {peer(recorded["peer"]): recorded for recorded in peers}
        self.nicknames = {name: recorded["nickname"] for name, recorded in self.settings.items()}
        self.allocators: dict[PeerName, Allocator] = {}
        self.dead: set[PeerName] = set()
        self.left: set[PeerName] = set()
        self.requests: list[Request] = []
        self._cut: set[frozenset[PeerName]] = set()
        self._queue: deque[_Message] = deque()
        self._log: list[str] = []
        self._seen: dict[PeerName, dict[int, Entry]] = {}
        self._told: dict[PeerName, dict[int, Entry]] = {}

    def reachable(self, name: PeerName) -> list[PeerName]:
        """Whom a peer can talk to."""
        return sorted(
            other
            for other in self.allocators
            if other != name and other not in self.dead and frozenset((name, other)) not in self._cut
        )

    def living(self) -> dict[PeerName, Allocator]:
        return {name: allocator for name, allocator in self.allocators.items() if name not in self.dead}

    # One step

    def play(self, op: Any) -> Outcome:
        """Do an operation and deliver messages until there are none."""
        self._log = []
        finish = self._begin(op)
        self._deliver()
        return Outcome(finish(), tuple(self._log), self.views())

    def views(self) -> dict[str, PeerView]:
        return {digit(name): view(allocator) for name, allocator in sorted(self.living().items())}

    def _begin(self, op: Any) -> Callable[[], str]:
        """Do an operation; what is returned tells its result once the network is quiet."""
        name = peer(op["peer"]) if "peer" in op else None
        match op["do"]:
            case "cut" | "uncut":
                link = frozenset(map(peer, op["peers"]))
                self._cut = self._cut | {link} if op["do"] == "cut" else self._cut - {link}
                self._peers_changed()
                return lambda: "ok"
            case "start":
                assert name is not None
                self.allocators[name] = self._allocator(name)
                self._peers_changed()
                return lambda: "ok"
            case "peer dies":
                assert name is not None
                self.dead.add(name)
                self._peers_changed()
                return lambda: "ok"
        assert name is not None
        allocator = self.allocators[name]
        match op["do"]:
            case "allocate":
                subnet = IPv4Network(op["subnet"])
                return self._submit(allocator, Allocation(deadline=self.now + WAIT, identifier=op["id"], subnet=subnet))
            case "claim":
                address, _, prefix = op["address"].partition("/")
                lease = Lease(int(IPv4Address(address)), int(prefix))
                return self._submit(allocator, Claim(deadline=self.now + WAIT, identifier=op["id"], lease=lease))
            case "release":
                allocator.release(op["id"], None, self.now)
            case "container died":  # whoever attached it sees that it is gone for good, and frees its addresses
                if op["then_31_seconds_pass"]:
                    self.pass_time(31)
                    allocator.release(op["id"], None, self.now)
            case "periodic gossip":
                self._queue.append(_Message(name, Carrier.GOSSIP))
            case "leave":
                allocator.leave()
                self.left.add(name)
            case "rmpeer":  # as `Ipam.remove_peer` with `force`
                gone = [other for other in allocator.find_peers(op["target"]) if other != name]
                gained = sum(allocator.take_over(other, self.now) for other in gone)
                return lambda: str(gained)
            case other:
                raise AssertionError(other)
        return lambda: "ok"

    def _allocator(self, name: PeerName) -> Allocator:
        recorded = self.settings[name]
        network = IPv4Network(recorded["range"])
        match recorded["mode"]:
            case "seed":
                seeds = tuple(sorted(map(parse_peer_name, recorded["seed"])))
                beginning = Beginning(Mode.SEED, seeds=seeds)
            case "observer":
                beginning = Beginning(Mode.OBSERVER)
            case "consensus":
                beginning = Beginning(voters=2 * recorded["quorum"] - 1)
            case other:
                raise AssertionError(other)
        return Allocator(
            name,
            recorded["nickname"],
            recorded["uid"],
            IpamSettings(network, network, beginning),
            peers=_Directory(self, name),
            random=self.chance,
            now=self.now,
        )

    def _submit(self, allocator: Allocator, request: Allocation | Claim) -> Callable[[], str]:
        self.requests.append(request)

        def result() -> str:
            if not request.answered:
                return "pending"
            if request.error is not None:
                return f"error: {request.error}"
            if isinstance(request, Claim):
                return "ok"
            assert request.lease is not None
            assert request.lease.prefix == request.subnet.prefixlen
            return str(IPv4Address(request.lease.address))

        try:
            allocator.submit(request, self.now)
        except IpamError as error:
            request.answered, request.error = True, error
        return result

    def _peers_changed(self) -> None:
        for allocator in self.living().values():
            allocator.peers_changed(self.now)

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on, with all timers that become due."""
        end = self.now + seconds
        while True:
            due, allocator = min(
                ((allocator.next_timer(), allocator) for allocator in self.living().values()), key=lambda pair: pair[0]
            )
            if due > end:
                break
            self.now = max(self.now, due)
            allocator.handle_timer(self.now)
            self._deliver()
        self.now = end

    # Messages

    def _deliver(self) -> None:
        while True:
            for name, allocator in self.living().items():
                self._take_effects(name, allocator)
                self._check(name, allocator)
            if not self._queue:
                return
            assert len(self._log) < MAX_MESSAGES, "messages without end"
            self._pass(self._queue.popleft())

    def _take_effects(self, name: PeerName, allocator: Allocator) -> None:
        for effect in allocator.take_effects():
            match effect:
                case Broadcast():
                    self._queue.append(_Message(name, Carrier.BROADCAST))
                case BroadcastClaims(voter):
                    self._queue.append(_Message(name, Carrier.BROADCAST, voter=voter))
                case SendState(destination):
                    payload = bytes((Kind.STATE,)) + self._encoded(name)
                    self._queue.append(_Message(name, Carrier.UNICAST, destination, payload))
                case SendRange(destination, kind, wanted):
                    payload = bytes((kind,)) + encode_range(wanted)
                    self._queue.append(_Message(name, Carrier.UNICAST, destination, payload))
                case Answer(request):
                    assert request.answered
                    assert request in self.requests
                case other:
                    assert_never(other)

    def _encoded(self, name: PeerName, voter: Voter | None = None) -> bytes:
        """A state as `Ipam` tells it: of the election only what this voter says."""
        allocator = self.allocators[name]
        state = allocator.state()
        if voter is not None and state.ring is None and state.claims is not None:
            said = {voter: state.claims[voter]}
            return encode_state(State({name: allocator.nicknames(name)}, claims=said), CLOCK)
        allocator.told()
        self._told[name] = {entry.token: entry for entry in allocator.ring.entries}
        return encode_state(state, CLOCK)

    def _pass(self, message: _Message) -> None:
        source = message.source
        to = self.reachable(source)
        if message.destination is not None:
            to = [message.destination] if message.destination in to else []
        way = f"{digit(source)}>{','.join(map(digit, to))}"
        payload = message.payload
        if message.destination is not None and payload[0] != Kind.STATE:
            kind, wanted = Kind(payload[0]), decode_range(payload[1:])
            first, last = str(IPv4Address(wanted.start)), str(IPv4Address(wanted.end - 1))
            word = "asks for" if kind is Kind.SPACE_REQUEST else "denies"
            self._log.append(f"{way} {word} {short(first)}-{short(last)}")
            for name in to:
                self.allocators[name].receive_range(source, kind, wanted, self.now)
            return
        payload = self._encoded(source, message.voter) if message.destination is None else payload[1:]
        self._log.append(f"{way} {message.carrier.value} {content(decode_state(payload))}")
        for name in to:
            try:
                self.allocators[name].receive_state(source, decode_state(payload), message.carrier, self.now)
            except RingRefused as refused:
                self._log.append(f"{digit(name)} refuses: {refused}")

    # What holds at every moment

    def _check(self, name: PeerName, allocator: Allocator) -> None:
        ring = allocator.ring
        if not ring:
            return
        ring.check()
        now = {entry.token: entry for entry in ring.entries}
        for token, before in self._seen.get(name, {}).items():
            assert token in now, "a token has gone"
            assert now[token].version >= before.version, "a version went back"
        self._seen[name] = now
        for token, before in self._told.get(name, {}).items():
            if before.peer == now[token].peer == name:
                assert now[token].version > before.version or now[token] == before, "a change without another version"
        for index, entry in enumerate(ring.entries):
            if entry.peer == name:
                assert entry.free == self._free(allocator, ring.stretches(index)), "wrong number of free addresses"
        for record in allocator.leases.records.values():
            for lease in record.leases:
                inside = allocator.universe.contains(lease.address)
                assert not inside or name in self.left or ring.owner_of(lease.address) == name

    def _free(self, allocator: Allocator, stretches: Sequence[AddressRange]) -> int:
        """Addresses that nobody holds, without the ends of the default subnet, which are of no use."""
        held = {lease.address for record in allocator.leases.records.values() for lease in record.leases}
        subnet = range_of(allocator.settings.default_subnet)
        useless = held | {subnet.start, subnet.end - 1}
        total = sum(part.size for part in stretches)
        return total - sum(any(part.contains(address) for part in stretches) for address in useless)


def content(state: State) -> str:
    """What a state tells, as `recorded_messages` names it."""
    if state.ring is not None:
        return "ring"
    if state.claims is not None:
        return "claims of " + ",".join(digit(voter.name) for voter in sorted(state.claims))
    return "nothing"


def ring_text(ring: Ring) -> str:
    return " ".join(f"{short(str(IPv4Address(entry.token)))}:{digit(entry.peer)}" for entry in ring.entries)


def view(allocator: Allocator) -> PeerView:
    records = {
        identifier: " ".join(short(f"{IPv4Address(lease.address)}/{lease.prefix}") for lease in record.leases)
        for identifier, record in allocator.leases.records.items()
    }
    waiting = tuple(request.identifier for request in allocator.pending if isinstance(request, Allocation))
    return PeerView(ring_text(allocator.ring), records, waiting)


def expected_views(
    before: Mapping[str, PeerView], recorded_before: Mapping[str, PeerView], recorded: Mapping[str, PeerView]
) -> dict[str, PeerView]:
    """What to expect of each peer after a step: what it was before, and what the recording says has changed."""
    expected = {}
    for name, new in recorded.items():
        old, basis = recorded_before.get(name, PeerView()), before.get(name, PeerView())
        records = {key: text for key, text in basis.records.items() if key in new.records or key not in old.records}
        records |= {key: text for key, text in new.records.items() if old.records.get(key) != text}
        expected[name] = PeerView(
            basis.ring if new.ring == old.ring else new.ring,
            records,
            basis.waiting if new.waiting == old.waiting else new.waiting,
        )
    return expected
