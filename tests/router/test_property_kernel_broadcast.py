"""Forwarders of which some neighbours exchange frames through the kernel (VXLAN): what becomes of containers' frames.

As in `test_property_forwarding`, peers are joined through their real queues, delivered in random order. What the kernel
does is a model: a bridge floods a frame whose destination it does not know to its router and to all that the router has
it send to; a peer's firewall lets it in only if that peer's router accepts from there; routers never see such frames.
Design, "Data plane": exactly once while the topology is steady, however sleeve, VXLAN and relayed peers are mixed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from router.joined_forwarders import GROUPS, Edge, Edges, JoinedForwarders, connected, routes
from weave_router.dataplane.captured import burst_of
from weave_router.dataplane.forwarder import KernelPeers
from weave_router.dataplane.neighbour import Neighbour
from weave_router.frames.segmentation import PLAIN_VNET_HEADER
from weave_router.sleeve.cipher import PlainCipher
from weave_router.sleeve.link import SleeveLink
from weave_router.testing.silent_link import SilentLink
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hypothesis.strategies import DrawFn

NAMES = [PeerName(name) for name in (1, 2, 3, 7, 2**33, 2**41, 2**47 + 1, 2**47 + 2)]
UNKNOWN = bytes.fromhex("020000000099")
SERIAL = b"\x88\xb6"


def mac(name: PeerName) -> bytes:
    """The address of a container at this peer."""
    return b"\x02\x00\x00\x00\x00" + bytes([NAMES.index(name)])


def frame(destination: bytes, source: PeerName, mark: int = 0) -> bytes:
    return destination + mac(source) + SERIAL + mark.to_bytes(2) + bytes(50)


@dataclass
class Network(JoinedForwarders):
    """Forwarders, sleeve between them, and the kernels.

    `sends`: (from, to) where the kernel carries frames. `accepts`: (at, from) where they are taken from the kernel.
    """

    sends: Edges = frozenset()
    accepts: Edges = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.publish(self.sends, self.accepts)

    def publish(self, sends: Edges, accepts: Edges) -> None:
        self.sends, self.accepts = sends, accepts
        for name, forwarder in self.forwarders.items():
            sent_to = frozenset(there for here, there in sends if here == name)
            accepted_from = frozenset(there for here, there in accepts if here == name)
            forwarder.publish_kernel(KernelPeers(sent_to, accepted_from))

    def know(self, owners: Iterable[PeerName]) -> None:
        """All routers know where these peers' containers are; where the kernel carries frames, the peers told them."""
        for owner in owners:
            for name, forwarder in self.forwarders.items():
                if name == owner:
                    forwarder.macs.learn_local(mac(owner), 0.0)
                else:
                    forwarder.macs.learn_remote(mac(owner), owner, 0.0)

    def send(self, name: PeerName, sent: bytes, now: float = 10.0) -> None:
        """A container of this peer sends a frame to an address that its bridge does not know."""
        for here, there in self.sends:
            if here == name and (there, here) in self.accepts:
                self.came[there][sent] += 1
        self.capture(name, sent, now)

    def dropped(self) -> dict[str, int]:
        """What all routers have dropped."""
        totals: Counter[str] = Counter()
        for forwarder in self.forwarders.values():
            totals.update({name: count for name, count in forwarder.counters.items() if name.startswith("drop_")})
        return dict(totals)


@st.composite
def graphs(draw: DrawFn) -> tuple[list[PeerName], Edges]:
    """2 to 8 peers, and links that connect them all: a tree and some more."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(2, len(NAMES)))]
    return sorted(names), draw(connected(names, 10))


@st.composite
def mixtures(draw: DrawFn) -> Network:
    """Some neighbours use the kernel, in both directions, the others sleeve."""
    names, edges = draw(graphs())
    chosen = draw(st.sets(st.sampled_from(sorted(edges))))
    both = frozenset(chosen) | frozenset((b, a) for a, b in chosen)
    return Network(names, edges, random.Random(draw(st.integers(0, 999))), both, both)


@st.composite
def modes(draw: DrawFn, edges: Edges) -> tuple[Edges, Edges]:
    """What each side does with each neighbour, without regard to what the other does."""
    directed = sorted(edges | {(b, a) for a, b in edges})
    accepts = draw(st.frozensets(st.sampled_from(directed)))
    return draw(st.frozensets(st.sampled_from(directed))), accepts


MANY = settings(max_examples=200)


# --- while nothing changes ------------------------------------------------------------------------------------------


@MANY
@given(mixtures(), st.sampled_from([*GROUPS, UNKNOWN]))
def test_a_broadcast_reaches_every_other_peer_exactly_once(network: Network, destination: bytes) -> None:
    """A frame to an unknown address as well: so its owner, whoever that is, gets it once."""
    for source in network.names:
        sent = frame(destination, source)
        network.send(source, sent)
        assert network.counts(sent) == network.everywhere_but(source)
    assert network.dropped() == {}


@MANY
@given(mixtures())
def test_what_the_kernel_carries_is_not_sent_by_sleeve_too(network: Network) -> None:
    """Each other peer is sent a broadcast once, relaying aside; those that the kernel serves, not by the router."""
    for source in network.names:
        forwarder = network.forwarders[source]
        forwarder.captured_burst(burst_of([PLAIN_VNET_HEADER + frame(GROUPS[0], source)]), 1.0)
        served = {there for here, there in network.sends if here == source}
        targets = Counter[bytes]()
        for neighbour in forwarder.pending:
            groups, _ = neighbour.take_packets()
            for _, runs in groups:
                for run in runs:
                    for packet in run.packets():
                        content = neighbour.cipher.open(bytes(packet))
                        while content:
                            targets[content[6:12]] += 1
                            content = content[14 + int.from_bytes(content[12:14]) :]
        forwarder.pending.clear()
        assert set(targets.values()) <= {1}
        assert not {name.to_bytes(6) for name in served} & targets.keys()


@MANY
@given(mixtures())
def test_a_unicast_reaches_its_owner_once(network: Network) -> None:
    """The router knows the address, the bridge does not: it floods, and the router serves only whom that misses."""
    network.know(network.names)
    for source in network.names:
        kernel = {there for here, there in network.sends if here == source}
        for owner in network.names:
            if owner == source:
                continue
            sent = frame(mac(owner), source, mark=1)
            network.send(source, sent)
            counts = network.counts(sent)
            assert counts[owner] == 1
            assert {name for name, count in counts.items() if count} <= {owner} | kernel
            assert max(counts.values()) == 1
    assert network.dropped() == {}


@MANY
@given(mixtures())
def test_a_unicast_that_only_the_router_is_given_reaches_its_owner_alone(network: Network) -> None:
    """The bridge has learned the address at the TAP; the owner is a peer that sleeve serves."""
    network.know(network.names)
    for source in network.names:
        for owner in network.names:
            if owner == source or (source, owner) in network.sends:
                continue
            sent = frame(mac(owner), source, mark=1)
            network.forwarders[source].captured_burst(burst_of([PLAIN_VNET_HEADER + sent]), 10.0)
            network.settle(10.0)
            assert network.counts(sent) == {name: int(name == owner) for name in network.names}


@MANY
@given(mixtures(), st.data())
def test_after_a_change_of_routes_all_are_served_again(network: Network, data: st.DataObject) -> None:
    """New links: what the kernel covers is planned anew."""
    pairs = [(a, b) for a in network.names for b in network.names if a < b]
    more = network.connections | frozenset(data.draw(st.lists(st.sampled_from(pairs), max_size=5)))
    for a, b in more - network.connections:
        for here, there in ((a, b), (b, a)):
            link = SleeveLink(1, 6, ("10.0.0.1", 6783), 0.0)
            network.forwarders[here].neighbours[there] = Neighbour(there, link, PlainCipher(here), SilentLink())
    for name, forwarder in network.forwarders.items():
        forwarder.publish(routes(name, network.names, more))
    for source in network.names:
        sent = frame(GROUPS[0], source)
        network.send(source, sent)
        assert network.counts(sent) == network.everywhere_but(source)


# --- while neighbours disagree --------------------------------------------------------------------------------------


@MANY
@given(mixtures(), st.sampled_from([*GROUPS, UNKNOWN]), st.data())
def test_whatever_neighbours_believe_nothing_comes_twice(
    network: Network, destination: bytes, data: st.DataObject
) -> None:
    for mark in range(3):
        network.publish(*data.draw(modes(network.connections)))
        for source in network.names:
            sent = frame(destination, source, mark)
            network.send(source, sent)
            counts = network.counts(sent)
            assert max(counts.values()) <= 1
            assert counts[source] == 0


@MANY
@given(mixtures(), st.data())
def test_whatever_neighbours_believe_no_unicast_comes_twice(network: Network, data: st.DataObject) -> None:
    network.know(network.names)
    for mark in range(2):
        network.publish(*data.draw(modes(network.connections)))
        for source in network.names:
            for owner in network.names:
                if owner != source:
                    sent = frame(mac(owner), source, mark)
                    network.send(source, sent)
                    assert max(network.counts(sent).values()) <= 1


@MANY
@given(mixtures(), st.data())
def test_who_agrees_is_served_whatever_the_others_do(network: Network, data: st.DataObject) -> None:
    """A direct neighbour gets each frame if it accepts in the way in which it is sent, whatever happens elsewhere."""
    sends, accepts = data.draw(modes(network.connections))
    network.publish(sends, accepts)
    for source in network.names:
        sent = frame(GROUPS[0], source)
        network.send(source, sent)
        counts = network.counts(sent)
        for a, b in network.connections:
            if source in (a, b):
                other = b if source == a else a
                assert counts[other] == int(((source, other) in sends) == ((other, source) in accepts))


@MANY
@given(mixtures(), st.data())
def test_when_all_agree_again_all_is_as_if_nothing_had_been(network: Network, data: st.DataObject) -> None:
    sends, accepts = network.sends, network.accepts
    network.publish(*data.draw(modes(network.connections)))
    for source in network.names:
        network.send(source, frame(GROUPS[0], source, mark=1))
    network.publish(sends, accepts)
    for source in network.names:
        sent = frame(GROUPS[0], source, mark=2)
        network.send(source, sent, now=20.0)
        assert network.counts(sent) == network.everywhere_but(source)


@MANY
@given(graphs(), st.sampled_from(GROUPS), st.data())
def test_while_views_and_modes_differ_no_group_frame_comes_twice(
    graph: tuple[list[PeerName], Edges], group: bytes, data: st.DataObject
) -> None:
    """Some know of other links; the kernel may serve peers that are no neighbours any more, or not yet."""
    names, edges = graph
    pairs = [(a, b) for a in names for b in names if a < b]
    views = [edges, *(frozenset(data.draw(st.sets(st.sampled_from(pairs)))) for _ in range(2))]
    network = Network(names, frozenset[Edge]().union(*views), random.Random(data.draw(st.integers(0, 999))))
    for name, forwarder in network.forwarders.items():
        forwarder.publish(routes(name, names, data.draw(st.sampled_from(views))))
    network.publish(*data.draw(modes(frozenset(pairs))))
    for source in names:
        sent = frame(group, source)
        network.send(source, sent)
        assert max(network.counts(sent).values()) <= 1
        assert network.counts(sent)[source] == 0


def test_a_peer_that_has_moved_behind_another_gets_a_broadcast_once() -> None:
    """d was behind b and is behind c now, which a has not heard: it sends to c and d by way of b."""
    a, b, c, d = NAMES[:4]
    before, after = frozenset({(a, b), (b, c), (b, d)}), frozenset({(a, b), (b, c), (c, d)})
    network = Network([a, b, c, d], before | after, random.Random(1), frozenset({(a, b)}), frozenset({(b, a)}))
    for name, forwarder in network.forwarders.items():
        forwarder.publish(routes(name, network.names, before if name == a else after))
    sent = frame(GROUPS[0], a)
    network.send(a, sent)
    assert network.counts(sent) == network.everywhere_but(a)


def test_a_kernel_peer_that_is_no_neighbour_any_more_is_not_served_by_sleeve_too() -> None:
    """Its connection has just ended; its entries are kept, in case that it is being restarted."""
    a, b, c = NAMES[:3]
    to_both = frozenset({(a, b), (a, c)})
    from_a = frozenset({(b, a), (c, a)})
    network = Network([a, b, c], frozenset({(a, b), (b, c)}), random.Random(1), to_both, from_a)
    sent = frame(GROUPS[0], a)
    network.send(a, sent)
    assert network.counts(sent) == network.everywhere_but(a)
    assert network.packets == 0


def test_frames_of_a_kernel_peer_that_come_by_sleeve_are_counted() -> None:
    a, b = NAMES[:2]
    network = Network([a, b], frozenset({(a, b)}), random.Random(1), frozenset(), frozenset({(b, a)}))
    network.send(a, frame(GROUPS[0], a))
    assert network.dropped() == {"drop_kernel_has_it": 1}
    network.know([b])
    network.publish(frozenset({(a, b)}), frozenset({(b, a)}))
    network.send(a, frame(mac(b), a))
    assert network.forwarders[a].counters["frames_left_to_kernel"] == 1
    assert network.counts(frame(mac(b), a)) == {a: 0, b: 1}


def test_bursts_of_a_kernel_peer_are_not_taken_from_sleeve() -> None:
    """The fast path for many equal frames decides as the plain one."""
    a, b = NAMES[:2]
    network = Network([a, b], frozenset({(a, b)}), random.Random(1), frozenset(), frozenset({(b, a)}))
    sent = frame(GROUPS[0], a)
    network.forwarders[a].captured_burst(burst_of([PLAIN_VNET_HEADER + sent] * 64), 1.0)
    network.settle(1.0)
    assert network.counts(sent) == {a: 0, b: 0}
    assert network.dropped() == {"drop_kernel_has_it": 64}
