"""The control plane of one router, without I/O: connections, gossip, topology, routes and targets in one machine.

The shell reports what happened (`admit`, `receive`, `established`, `closed`, `handle_timer`) with the time in seconds,
and carries out what `take_events` returns. Messages for a neighbour wait in its connection's `outbox`.

    receive ─> envelope ─> channel ─> relay (deferred until routes are recalculated) ─> outboxes
    own record changes ─> update timer (1 s), recalculation timer (100 ms), garbage collection ─> events
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from weave_router.control.abilities import CHANNEL as ABILITIES_CHANNEL
from weave_router.control.abilities import AbilitiesChannel
from weave_router.control.gossip import MAX_UNKNOWN_CHANNELS, Outbox, UnknownChannel
from weave_router.control.routes import Routes
from weave_router.control.targets import OpenConnection, Targets
from weave_router.control.topology import Merge, Topology
from weave_router.control.topology_channel import CHANNEL as TOPOLOGY
from weave_router.control.topology_channel import TopologyChannel, TopologyGossip
from weave_router.errors import ProtocolError, RouterError
from weave_router.log_limit import LOG_INTERVAL, LogLimit
from weave_router.wire.envelope import Envelope, Tag, decode_envelope
from weave_router.wire.features import ABILITIES, Features, common_overlays
from weave_router.wire.peer_name import NO_PEER, PeerName, format_peer_name
from weave_router.wire.topology import Link, PeerRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from weave_router.control.gossip import Channel, GossipData
    from weave_router.control.random_source import RandomSource

log = logging.getLogger(__name__)

GOSSIP_INTERVAL = 30.0
UPDATE_DELAY = 1.0
ROUTES_DELAY = 0.1
GARBAGE_DELAY = 1.0
HEARTBEAT = bytes((Tag.HEARTBEAT,))
ALIVE_SECONDS = 15.0
"""A peer sends UDP heartbeats every 10 s: one that has been silent for longer may be gone."""
_MAX_DEFERRED = 256
_FEW_RECORDS = 4


class ConnectionRefused(RouterError):  # noqa: N818 - named after what happened
    """The handshake went well, but the connection must not be kept.

    `final`: the same address will never do (ourselves, or another peer of our name). `duplicate_of`: the peer behind
    this address, to which another connection exists.
    """

    def __init__(self, reason: str, *, final: bool = False, duplicate_of: PeerName | None = None) -> None:
        super().__init__(reason)
        self.final = final
        self.duplicate_of = duplicate_of


@dataclass(eq=False, kw_only=True)
class MeshConnection:
    """A connection that has been added: its neighbour is in our record."""

    peer: PeerName
    features: Features
    address: str
    outbound: bool
    uid: int
    """Connection UID: both random halves, combined by exclusive or."""
    overlays: tuple[str, ...]
    """Overlays in common; control messages carry an index into this."""
    outbox: Outbox
    last_heard: float
    """When the peer last gave a sign of life, over TCP or UDP (seconds)."""
    established: bool = False

    @property
    def bare_tags(self) -> bool:
        """Whether sleeve's control messages travel as tags 1 to 3 (the peer announced no overlays)."""
        return self.features.overlays is None

    def send_overlay(self, overlay: str, number: int, body: bytes) -> None:
        """Queue a control message of an overlay."""
        if self.bare_tags:
            self.outbox.put(bytes((number,)) + body)
        else:
            self.outbox.put(bytes((Tag.OVERLAY, self.overlays.index(overlay), number)) + body)


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close this connection; it has been removed already."""

    connection: MeshConnection
    reason: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a connection to this address. `direct`: the operator named it, so that any peer may answer."""

    address: str
    direct: bool


@dataclass(frozen=True, slots=True)
class RoutesChanged:
    """New routes are in force."""

    routes: Routes


@dataclass(frozen=True, slots=True)
class PeersForgotten:
    """These peers are gone from the topology."""

    names: frozenset[PeerName]


@dataclass(frozen=True, slots=True)
class OverlayMessage:
    """A control message of an overlay of this connection."""

    connection: MeshConnection
    overlay: str
    number: int
    body: bytes


Event = CloseConnection | Dial | RoutesChanged | PeersForgotten | OverlayMessage


@dataclass(eq=False)
class _Timers:
    gossip: float
    update: float | None = None
    routes: float | None = None
    garbage: float | None = None


class Mesh:
    """The control plane of one router.

    `overlays`: what we offer. `connection_limit`: 0 for none. `random`: for short ids, back-off and gossip partners.
    """

    def __init__(
        self,
        own: PeerRecord,
        targets: Targets,
        *,
        overlays: tuple[str, ...],
        connection_limit: int,
        random: RandomSource,
        now: float,
    ) -> None:
        self.topology = Topology(own)
        self.targets = targets
        self.routes = Routes(own.name, self.topology.records)
        self.connections: dict[PeerName, MeshConnection] = {}
        self.counters: Counter[str] = Counter()
        self._overlays = overlays
        self._limit = connection_limit
        self._random = random
        self._timers = _Timers(gossip=now + GOSSIP_INTERVAL)
        self._log_limit = LogLimit()
        self._update_names: dict[PeerName, None] = {}
        self._deferred: list[Callable[[], None]] = []
        self._events: list[Event] = []
        self._topology_channel = TopologyChannel(self.topology, self._merged)
        self._abilities = AbilitiesChannel(own.name, own.uid, ABILITIES, self.topology.records)
        self._channels: dict[str, Channel] = {TOPOLOGY: self._topology_channel, ABILITIES_CHANNEL: self._abilities}
        self._speaks_to: dict[str, Callable[[MeshConnection], bool]] = {}
        self._unknown: dict[str, UnknownChannel] = {}

    def offer(self, overlays: tuple[str, ...]) -> None:
        """What connections that begin from now on have to choose from."""
        self._overlays = overlays

    @property
    def ourselves(self) -> PeerName:
        """Our own peer name."""
        return self.topology.ourselves

    def register(
        self, name: str, channel: Channel, speaks_to: Callable[[MeshConnection], bool] = lambda _: True
    ) -> None:
        """Take part in a gossip channel from now on. `speaks_to`: whether a neighbour is told of this channel."""
        self._channels[name] = channel
        self._speaks_to[name] = speaks_to
        self._unknown.pop(name, None)

    def can(self, peer: PeerName, ability: str) -> bool:
        """Whether a peer has an ability beyond Weave Net 2.8, as far as it is known."""
        connection = self.connections.get(peer)
        if connection is not None:
            return ability in connection.features.abilities
        return self._abilities.can(peer, ability)

    def take_events(self) -> list[Event]:
        """What the shell has to do now; each event is returned once."""
        events, self._events = self._events, []
        return events

    # --- connections ------------------------------------------------------------------------------------------------

    def admit(
        self,
        features: Features,
        *,
        own_half: int,
        address: str,
        outbound: bool,
        direct: bool,
        wake: Callable[[], None],
        now: float,
    ) -> MeshConnection:
        """Decide on a connection whose features have been read (mesh.md section 5), and add it.

        `direct`: the operator named the address. `wake` is called when there is something to send.
        Raises `ConnectionRefused`.
        """
        own = self.topology.own
        name = features.name
        if outbound and not direct and name != own.name and name not in self.topology.records:
            raise ConnectionRefused(f"unexpected peer {format_peer_name(name)} at {address}")
        if name == own.name:
            if features.uid == own.uid:
                raise ConnectionRefused("this address leads to ourselves", final=True)
            raise ConnectionRefused(
                f"another peer has our name {format_peer_name(name)}: give one of the two another --name",
                final=True,
            )
        overlays = common_overlays(self._overlays, features.overlays)
        if not overlays:
            raise ConnectionRefused(f"no overlay in common (the peer has: {' '.join(features.overlays or ())})")
        uid = own_half ^ features.connection_half
        self._settle_duplicate(features, uid, now)
        if self._limit and len(self.connections) >= self._limit:
            raise ConnectionRefused(f"the limit of {self._limit} connections is reached")
        connection = MeshConnection(
            peer=name,
            features=features,
            address=address,
            outbound=outbound,
            uid=uid,
            overlays=overlays,
            outbox=Outbox(own.name, wake),
            last_heard=now,
        )
        self.topology.learn_neighbour(PeerRecord(name, features.nickname, features.uid, 0, features.short_id))
        self.connections[name] = connection
        if outbound:
            self.targets.connected(address, name)
        self._own_links_changed(now, name)
        self._settle_short_id(now)
        for channel_name, channel in self._channels.items():
            state = channel.complete_state()
            if state is not None and self._is_told(channel_name, connection):
                connection.outbox.gossip(channel_name, state)
        self.examine_targets(now)
        return connection

    def _settle_duplicate(self, features: Features, uid: int, now: float) -> None:
        """Of two connections to one peer the one with the lower UID stays; both ends come to the same decision."""
        present = self.connections.get(features.name)
        if present is None:
            return
        if features.uid != present.features.uid:
            # Restarted, with the old connection dead though nobody has told us yet; or two peers of one name.
            if now - present.last_heard < ALIVE_SECONDS:
                present.outbox.put(HEARTBEAT)  # a restarted host answers with a reset, which ends the old connection
                raise ConnectionRefused(
                    f"another peer named {format_peer_name(features.name)} is connected: has it been restarted, "
                    "or do two hosts have the same --name?"
                )
            self._drop(present, "the peer was restarted", now)
        elif uid < present.uid:
            self._drop(present, "replaced by a duplicate connection", now)
        elif uid > present.uid:
            raise ConnectionRefused("duplicate of a connection that we have", duplicate_of=present.peer)
        else:
            self._drop(present, "duplicate connections of one UID", now)
            raise ConnectionRefused("duplicate connections of one UID")

    def established(self, connection: MeshConnection, now: float) -> None:
        """The overlay works: the remote has confirmed to receive our packets."""
        if connection.established or self.connections.get(connection.peer) is not connection:
            return
        connection.established = True
        self._own_links_changed(now)

    def closed(self, connection: MeshConnection, reason: str, now: float) -> None:
        """The connection has ended."""
        if self.connections.get(connection.peer) is connection:
            self._remove(connection, now)
        if connection.outbound:
            self.targets.ended(connection.address, reason, now)
        self.examine_targets(now)

    def dial_failed(self, address: str, error: Exception | str, now: float) -> None:
        """An attempt failed before its connection was added."""
        if isinstance(error, ConnectionRefused) and error.final:
            self.targets.refused(address, str(error))
        else:
            if isinstance(error, ConnectionRefused) and error.duplicate_of is not None:
                self.targets.leads_to(address, error.duplicate_of)
            self.targets.ended(address, str(error), now)
        self.examine_targets(now)

    def _drop(self, connection: MeshConnection, reason: str, now: float) -> None:
        self._remove(connection, now)
        self._events.append(CloseConnection(connection, reason))

    def _remove(self, connection: MeshConnection, now: float) -> None:
        del self.connections[connection.peer]
        self._topology_channel.forget(connection.peer)
        self.counters["terminations"] += 1
        self._own_links_changed(now)
        self._collect_garbage(now)

    def _own_links_changed(self, now: float, *concerned: PeerName) -> None:
        self.topology.set_links(
            Link(connection.peer, connection.address, connection.outbound, connection.established)
            for connection in self.connections.values()
        )
        self._request_routes(now)
        self._announce(now, *concerned)

    # --- messages ---------------------------------------------------------------------------------------------------

    def receive(self, connection: MeshConnection, message: bytes, now: float) -> Iterator[None]:
        """Handle a message of a neighbour, yielding where a long one may pause.

        Raises `ProtocolError` where the message's frame is broken: the connection is to be closed. A bad payload is
        only dropped, since the neighbour may merely have relayed it.
        """
        connection.last_heard = now
        if not message:
            return
        tag = message[0]
        if tag in (Tag.GOSSIP, Tag.UNICAST, Tag.BROADCAST):
            yield from self._receive_gossip(connection, message, now)
        elif tag == Tag.OVERLAY and not connection.bare_tags:
            if len(message) >= 3 and message[1] < len(connection.overlays):
                overlay = connection.overlays[message[1]]
                self._events.append(OverlayMessage(connection, overlay, message[2], message[3:]))
        elif tag in (Tag.SLEEVE_HEARD, Tag.SLEEVE_FRAGOK, Tag.SLEEVE_MTUOK) and connection.bare_tags:
            self._events.append(OverlayMessage(connection, connection.overlays[0], tag, message[1:]))

    def _receive_gossip(self, connection: MeshConnection, message: bytes, now: float) -> Iterator[None]:
        envelope = decode_envelope(message)
        self.counters["gossip_received"] += 1
        if envelope.source == NO_PEER:
            self._reject(connection, envelope.channel, "gossip of the peer 0", now)
            return
        channel = self._channel(envelope.channel)
        if channel is None:
            self._reject(connection, "", f"more than {MAX_UNKNOWN_CHANNELS} unknown gossip channels", now)
            return
        try:
            if envelope.tag is Tag.UNICAST:
                self._receive_unicast(connection, channel, envelope, message, now)
            elif envelope.tag is Tag.BROADCAST:
                data = channel.on_broadcast(envelope.source, envelope.payload, now)
                if data is not None:
                    self._when_routed(partial(self._relay_broadcast, envelope.channel, envelope.source, data))
            else:
                for data in channel.on_gossip(connection.peer, envelope.payload, now):
                    if data is None:
                        yield
                    else:
                        self._when_routed(partial(self._gossip, envelope.channel, connection.peer, data))
        except ProtocolError as error:
            self._reject(connection, envelope.channel, str(error), now)

    def _receive_unicast(
        self, connection: MeshConnection, channel: Channel, envelope: Envelope, message: bytes, now: float
    ) -> None:
        if envelope.destination == self.ourselves:
            channel.on_unicast(envelope.source, envelope.payload, now)
        elif envelope.destination is not None and envelope.source != self.ourselves:
            self._when_routed(partial(self._relay_unicast, envelope.destination, message, connection.peer))

    def _channel(self, name: str) -> Channel | None:
        channel = self._channels.get(name) or self._unknown.get(name)
        if channel is None and len(self._unknown) < MAX_UNKNOWN_CHANNELS:
            channel = self._unknown[name] = UnknownChannel()
        return channel

    def _reject(self, connection: MeshConnection, channel: str, reason: str, now: float) -> None:
        self.counters["gossip_rejected"] += 1
        if self._log_limit.allows(f"{connection.peer} {channel}", now):
            log.warning(
                "Dropped gossip on channel %r that came over %s(%s): %s (repetitions within %d s are only counted)",
                channel[:32], format_peer_name(connection.peer), printable(connection.features.nickname), reason,
                int(LOG_INTERVAL),
            )  # fmt: skip

    # --- sending ----------------------------------------------------------------------------------------------------

    def broadcast(self, channel: str, data: GossipData) -> None:
        """Broadcast something of ours to all peers."""
        self._when_routed(partial(self._relay_broadcast, channel, self.ourselves, data))

    def pass_on(self, channel: str, source: PeerName, data: GossipData) -> None:
        """Pass on a broadcast of `source` along its tree, where a channel could not do so at once."""
        self._when_routed(partial(self._relay_broadcast, channel, source, data))

    def gossip(self, channel: str, data: GossipData) -> None:
        """Tell something of ours to a random set of neighbours, who pass it on if it is news to them."""
        self._when_routed(partial(self._gossip, channel, self.ourselves, data))

    def unicast(self, channel: str, destination: PeerName, payload: bytes) -> None:
        """Send a message to one peer, which may be many hops away. May be lost."""
        message = Envelope(Tag.UNICAST, channel, self.ourselves, payload, destination).encode()
        self._when_routed(partial(self._relay_unicast, destination, message, None))

    def _relay_unicast(self, destination: PeerName, message: bytes, came_from: PeerName | None) -> None:
        hop = self.routes.unicast_all.get(destination, NO_PEER)
        if came_from is not None:
            # Where all views agree, a peer sends us only what it would route through us. Elsewhere this breaks loops.
            theirs = self.routes.hop_of_all(came_from, destination)
            if hop == came_from or theirs not in (self.ourselves, NO_PEER):
                self.counters["unicast_views_differ"] += 1
                return
        connection = self.connections.get(hop)
        if connection is None:
            self.counters["unicast_unroutable"] += 1
        else:
            connection.outbox.put(message)

    def _relay_broadcast(self, channel: str, source: PeerName, data: GossipData) -> None:
        for connection in self._present(self.routes.broadcast_all(source)):
            if self._is_told(channel, connection):
                connection.outbox.broadcast(channel, source, data)

    def _gossip(self, channel: str, leave_out: PeerName, data: GossipData) -> None:
        names = dict.fromkeys(self.routes.random_neighbours(leave_out, self._random))
        if isinstance(data, TopologyGossip):
            names.update(dict.fromkeys(self._eager(data)))
            names.pop(leave_out, None)
        for connection in self._present(names):
            if self._is_told(channel, connection):
                connection.outbox.gossip(channel, data)

    def _is_told(self, channel: str, connection: MeshConnection) -> bool:
        speaks_to = self._speaks_to.get(channel)
        return speaks_to is None or speaks_to(connection)

    def _eager(self, data: TopologyGossip) -> Iterable[PeerName]:
        """Neighbours that are told of changed records at once, whatever chance says: in a star, a random set of the
        hub's neighbours leaves the others waiting for the next periodic gossip.
        """
        if len(data.names) > _FEW_RECORDS:
            return self.connections
        return [hop for name in data.names for hop in self.routes.broadcast_all(name)]

    def _present(self, names: Iterable[PeerName]) -> list[MeshConnection]:
        return [self.connections[name] for name in names if name in self.connections]

    def _when_routed(self, action: Callable[[], None]) -> None:
        """Do it with current routes: at once, or when a requested recalculation has been made (7.3)."""
        if self._timers.routes is None:
            action()
            return
        self._deferred.append(action)
        if len(self._deferred) >= _MAX_DEFERRED:
            self._recalculate()

    def settle(self) -> None:
        """Recalculate routes now if that is due, so that what waits for it goes out: the last act of a router."""
        if self._timers.routes is not None:
            self._recalculate()

    # --- changes of the topology ------------------------------------------------------------------------------------

    def _merged(self, merge: Merge, now: float) -> None:
        if merge.announce:
            self._announce(now)
        if merge.new:
            self._request_routes(now)
            self._settle_short_id(now)
            self.examine_targets(now)
        if self._timers.garbage is None:
            self._timers.garbage = now + GARBAGE_DELAY

    def _settle_short_id(self, now: float) -> None:
        if self.topology.settle_short_id(self._random):
            self._announce(now)

    def _announce(self, now: float, *concerned: PeerName) -> None:
        self._update_names.update(dict.fromkeys((self.ourselves, *concerned)))
        if self._timers.update is None:
            self._timers.update = now + UPDATE_DELAY

    def _request_routes(self, now: float) -> None:
        if self._timers.routes is None:
            self._timers.routes = now + ROUTES_DELAY

    def _collect_garbage(self, now: float) -> None:
        removed = self.topology.collect_garbage(self.connections)
        if removed:
            self._events.append(PeersForgotten(frozenset(removed)))
            self._request_routes(now)
            self._settle_short_id(now)

    def examine_targets(self, now: float) -> None:
        """Dial what is worth a connection now; the shell calls it when the operator changed the direct peers."""
        room = self._limit - len(self.connections) if self._limit else None
        present = [OpenConnection(c.address, c.outbound, c.peer) for c in self.connections.values()]
        for address in self.targets.due(present, self.topology.records, room, now):
            self._events.append(Dial(address, self.targets.is_direct(address)))

    # --- time -------------------------------------------------------------------------------------------------------

    def next_timer(self) -> float:
        """When `handle_timer` is due next."""
        timers = self._timers
        times = (timers.gossip, timers.update, timers.routes, timers.garbage, self.targets.next_try())
        return min(time for time in times if time is not None)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        timers = self._timers
        if timers.garbage is not None and now >= timers.garbage:
            timers.garbage = None
            self._collect_garbage(now)
        if timers.routes is not None and now >= timers.routes:
            self._recalculate()
        if timers.update is not None and now >= timers.update:
            timers.update = None
            names, self._update_names = self._update_names, {}
            self.gossip(TOPOLOGY, TopologyGossip(self.topology, names))
        if now >= timers.gossip:
            timers.gossip = now + GOSSIP_INTERVAL
            for name, channel in self._channels.items():
                state = channel.complete_state()
                if state is not None:
                    self.gossip(name, state)
        next_try = self.targets.next_try()
        if next_try is not None and now >= next_try:
            self.examine_targets(now)

    def _recalculate(self) -> None:
        self._timers.routes = None
        self.routes = Routes(self.ourselves, self.topology.records)
        self._events.append(RoutesChanged(self.routes))
        deferred, self._deferred = self._deferred, []
        for action in deferred:
            action()


def printable(text: str) -> str:
    """A peer's text for logs and status: control characters and invalid UTF-8 made visible."""
    return "".join(c if c.isprintable() else f"\\x{ord(c) & 0xFF:02x}" for c in text)
