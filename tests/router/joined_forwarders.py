"""Forwarders joined through their real queues and plain packets, delivered in random order until nothing is on its way.

mesh = JoinedForwarders(names, connections, rng)
mesh.capture(name, frame)
assert mesh.counts(frame) == {…}
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from weave_router.control.routes import Routes
from weave_router.dataplane.captured import burst_of
from weave_router.dataplane.forwarder import Forwarder
from weave_router.dataplane.neighbour import Neighbour
from weave_router.frames.segmentation import PLAIN_VNET_HEADER
from weave_router.sleeve.cipher import PlainCipher
from weave_router.sleeve.link import SleeveLink
from weave_router.testing.silent_link import SilentLink
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import Link, PeerRecord

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from hypothesis.strategies import DrawFn

Edge = tuple[PeerName, PeerName]
Edges = frozenset[Edge]

GROUPS = [b"\xff" * 6, bytes.fromhex("33330000fb01"), bytes.fromhex("01005e000001")]
"""Addresses of broadcast and of multicast."""
MOST_PACKETS = 2000
"""More than any frame needs here."""


def routes(name: PeerName, names: Iterable[PeerName], edges: Iterable[Edge]) -> Routes:
    """The routes of a peer that knows these links, established at both ends."""
    links = {
        peer: tuple(
            Link(b if a == peer else a, "", outbound=True, established=True) for a, b in sorted(edges) if peer in (a, b)
        )
        for peer in names
    }
    return Routes(name, {peer: PeerRecord(peer, links=links[peer]) for peer in links})


@dataclass
class JoinedForwarders:
    """Forwarders and the connections between them."""

    names: list[PeerName]
    connections: Edges
    rng: random.Random
    views: dict[PeerName, Edges] = field(default_factory=dict, kw_only=True)
    """The links that a peer knows of, where these are not the connections."""
    packets: int = field(default=0, init=False)
    """Delivered so far."""
    came: dict[PeerName, Counter[bytes]] = field(init=False)
    """What the bridge of each was given."""
    forwarders: dict[PeerName, Forwarder] = field(init=False)

    def __post_init__(self) -> None:
        self.came = {name: Counter() for name in self.names}
        self.forwarders = {
            name: Forwarder(routes(name, self.names, self.views.get(name, self.connections))) for name in self.names
        }
        for a, b in self.connections:
            for here, there in ((a, b), (b, a)):
                link = SleeveLink(1, 6, ("10.0.0.1", 6783), 0.0)
                self.forwarders[here].neighbours[there] = Neighbour(there, link, PlainCipher(here), SilentLink())

    def capture(self, name: PeerName, captured: bytes, now: float = 1.0) -> None:
        """A container at this peer sends a frame; everything that follows from it happens."""
        self.forwarders[name].captured_burst(burst_of([PLAIN_VNET_HEADER + captured]), now)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Deliver until nothing is on its way."""
        on_the_way: list[tuple[PeerName, PeerName, bytes]] = []
        last = self.packets + MOST_PACKETS
        while True:
            for name, forwarder in self.forwarders.items():
                self.came[name].update(each for each in forwarder.injected if isinstance(each, bytes))
                forwarder.injected.clear()
                for neighbour in forwarder.pending:
                    groups, dropped = neighbour.take_packets()
                    assert dropped == 0
                    packets = [packet for _, runs in groups for run in runs for packet in run.packets()]
                    on_the_way += [(name, neighbour.name, bytes(packet)) for packet in packets]
                forwarder.pending.clear()
            if not on_the_way:
                return
            self.packets += 1
            assert self.packets < last, "frames go round for ever"
            sender, receiver, packet = on_the_way.pop(self.rng.randrange(len(on_the_way)))
            forwarder = self.forwarders[receiver]
            neighbour = forwarder.neighbours[sender]
            special = forwarder.received(neighbour, neighbour.cipher.open(packet), now)
            assert special == []

    def counts(self, captured: bytes) -> dict[PeerName, int]:
        """How often a frame came to each."""
        return {name: self.came[name][captured] for name in self.names}

    def everywhere_but(self, *names: PeerName) -> dict[PeerName, int]:
        """The counts of a frame that came to all others once."""
        return {name: int(name not in names) for name in self.names}

    def only_at(self, at: PeerName) -> dict[PeerName, int]:
        """The counts of a frame that came to one once."""
        return {name: int(name == at) for name in self.names}


@st.composite
def connected(draw: DrawFn, names: list[PeerName], most_more: int) -> Edges:
    """A connected topology: a tree and some more links."""
    edges = {tuple(sorted((names[number], names[draw(st.integers(0, number - 1))]))) for number in range(1, len(names))}
    pairs = [(a, b) for a in names for b in names if a < b]
    edges |= set(draw(st.lists(st.sampled_from(pairs), max_size=most_more)))
    return frozenset((a, b) for a, b in edges)
