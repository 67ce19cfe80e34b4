"""A `Mesh` and a test that talks with it: what happened goes in, messages and wishes come out."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from weave_router.control.abilities import CHANNEL as ABILITIES
from weave_router.control.mesh import CloseConnection, Dial, Event, Mesh, MeshConnection, OverlayMessage, RoutesChanged
from weave_router.control.targets import DirectPeer, Targets
from weave_router.testing.simulated_cluster import peer_name
from weave_router.wire.envelope import Envelope, Tag, decode_envelope
from weave_router.wire.features import Features
from weave_router.wire.topology import Link, PeerRecord, decode_records, encode_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from weave_router.wire.peer_name import PeerName

ADDRESS = "10.0.0.{}:6783"


def record(number: int, version: int, *neighbours: int, uid: int | None = None, established: bool = True) -> PeerRecord:
    """The record of peer `number` with links to others, which it dialled."""
    links = tuple(Link(peer_name(n), ADDRESS.format(n), outbound=True, established=established) for n in neighbours)
    return PeerRecord(peer_name(number), f"peer {number}", 100 + number if uid is None else uid, version, number, links)


def topology(source: int, *records: PeerRecord) -> bytes:
    """The topology gossip of a neighbour."""
    return Envelope(Tag.GOSSIP, "topology", peer_name(source), encode_records(records)).encode()


def described(message: bytes) -> object:
    """A message in a form that reads well: (channel, tag, source, {peer: version}) for topology."""
    if message[:1] not in (b"\4", b"\5", b"\6"):
        return message
    envelope = decode_envelope(message)
    source = envelope.source - peer_name(0)
    if envelope.channel != "topology":
        return envelope.channel, envelope.tag.name.lower(), source, envelope.payload
    return "topology", source, {r.name - peer_name(0): r.version for r in decode_records(envelope.payload)}


class Dialogue:
    """Peer 1's mesh. The test plays all the others, by number."""

    def __init__(
        self,
        *,
        limit: int = 0,
        discovery: bool = False,
        direct: Iterable[int] = (),
        short_id: int | None = 1,
        seed: int = 0,
        now: float = 1000.0,
    ) -> None:
        self.now = now
        self.chance = random.Random(seed)
        self.targets = Targets(peer_name(1), 6783, self.chance, discovery)
        own = PeerRecord(peer_name(1), "peer 1", 101, 0, short_id)
        self.mesh = Mesh(own, self.targets, overlays=("sleeve",), connection_limit=limit, random=self.chance, now=now)
        for number in direct:
            self.targets.add_direct(DirectPeer(f"10.0.0.{number}", (ADDRESS.format(number),)), now)
        self.mesh.examine_targets(now)
        self.woken = 0

    def features(self, number: int, **changes: object) -> Features:
        plain = Features(
            name=peer_name(number),
            nickname=f"peer {number}",
            uid=100 + number,
            connection_half=number,
            short_id=number,
            overlays=("sleeve",),
        )
        return replace(plain, **changes)  # type: ignore[arg-type]  # names and types are the dataclass's

    def connect(
        self, number: int, *, outbound: bool = False, direct: bool = True, own_half: int = 0, **features: object
    ) -> MeshConnection:
        """A connection whose features have been read. Without changes its UID is the peer's number."""
        return self.mesh.admit(
            self.features(number, **features),
            own_half=own_half,
            address=ADDRESS.format(number) if outbound else f"10.0.0.{number}:40000",
            outbound=outbound,
            direct=direct,
            wake=self._wake,
            now=self.now,
        )

    def _wake(self) -> None:
        self.woken += 1

    def receive(self, connection: MeshConnection, *messages: bytes) -> None:
        for message in messages:
            for _ in self.mesh.receive(connection, message, self.now):
                pass

    def neighbours(self, *numbers: int) -> list[MeshConnection]:
        """Connections that are established on both sides, with everything said that is said at first."""
        made = [self.connect(number) for number in numbers]
        for number, connection in zip(numbers, made, strict=True):
            self.mesh.established(connection, self.now)
            self.receive(connection, topology(number, record(number, 1, 1)))
        self.pass_time(3)
        for connection in made:
            self.said(connection)
        self.mesh.take_events()
        return made

    def pass_time(self, seconds: float) -> None:
        """Let the timers run up to a point in time."""
        end = self.now + seconds
        while (due := self.mesh.next_timer()) <= end:
            assert due > self.now or due == self.now, "a timer in the past"
            before, self.now = self.now, max(due, self.now)
            self.mesh.handle_timer(self.now)
            assert self.mesh.next_timer() > before or self.now > before, "a timer that stays due"
        self.now = end

    def until_timer(self) -> float:
        """Run the next timer; returns how many seconds that took."""
        took = self.mesh.next_timer() - self.now
        self.now += took
        self.mesh.handle_timer(self.now)
        return took

    @staticmethod
    def messages(connection: MeshConnection) -> Iterator[bytes]:
        """What was sent, the announcements of abilities beyond Weave Net's aside: they have tests of their own."""
        while (message := connection.outbox.pop()) is not None:
            if message[:1] != b"\4" or decode_envelope(message).channel != ABILITIES:
                yield message

    def said(self, connection: MeshConnection) -> list[object]:
        """What was sent to this neighbour since last asked."""
        return [described(message) for message in self.messages(connection)]

    def dialled(self) -> list[str]:
        """Addresses that the mesh wants to be dialled."""
        return [event.address for event in self.mesh.take_events() if isinstance(event, Dial)]

    def closed(self) -> list[tuple[MeshConnection, str]]:
        """Connections that the mesh wants to be closed."""
        events = self.mesh.take_events()
        return [(event.connection, event.reason) for event in events if isinstance(event, CloseConnection)]

    def overlay_messages(self) -> list[tuple[str, int, bytes]]:
        """Overlay control messages that the mesh passed on."""
        events = self.mesh.take_events()
        return [(event.overlay, event.number, event.body) for event in events if isinstance(event, OverlayMessage)]

    def routes_changed(self) -> int:
        """How often routes have been published since last asked."""
        return sum(isinstance(event, RoutesChanged) for event in self.mesh.take_events())

    def events(self) -> list[Event]:
        return self.mesh.take_events()


def numbers(names: Iterable[PeerName]) -> set[int]:
    """Peers' numbers."""
    return {name - peer_name(0) for name in names}
