"""Gossip over several hops: channels that routers take part in, and channels that they only relay."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio

from simulation.raw_peer import raw_peer
from weave_router.testing.simulated_cluster import address, peer_name, run_cluster, wait_until
from weave_router.testing.simulated_links import LinkConditions
from weave_router.wire.envelope import Envelope, Tag
from weave_router.wire.peer_name import NO_PEER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from simulation.raw_peer import RawPeer
    from weave_router.shell.router import Router
    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode
    from weave_router.wire.peer_name import PeerName

HANDSHAKE = 5.0
CHANNEL = "IPallocation"


async def _line_with_ends(
    cluster: SimulatedCluster, stack: AsyncExitStack
) -> tuple[RawPeer, tuple[SimulatedNode, SimulatedNode, SimulatedNode], RawPeer]:
    """Three routers in a line, and a raw peer at either end: 11 - 1 - 2 - 3 - 13."""
    a, b, c = await cluster.start_line(3, discovery=False)
    await wait_until(lambda: a.route(c) == b.name and c.route(a) == b.name, within=HANDSHAKE)
    first = await stack.enter_async_context(raw_peer(cluster.world, 11, f"{address(1)}:6783"))
    last = await stack.enter_async_context(raw_peer(cluster.world, 13, f"{address(3)}:6783"))
    await first.announce(first.record(1, (1, f"{address(1)}:6783")))
    await last.announce(last.record(1, (3, f"{address(3)}:6783")))
    await trio.sleep(3)
    return first, (a, b, c), last


# --- channels that nobody on the way understands --------------------------------------------------------------------


def test_unicast_of_an_unknown_channel_arrives_byte_for_byte() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        async with AsyncExitStack() as stack:
            first, _, last = await _line_with_ends(cluster, stack)
            # The source as a number of 8 bytes: not the shortest form, but a legal one.
            message = (
                b"\x05\x0f\x0c\x00\x0cIPallocation"
                b"\x0b\x06\x00\xf8" + first.name.to_bytes(8) + b"\x09\x06\x00\xfa" + last.name.to_bytes(6)
                + b"\x09\x0a\x00\x06\x03\xff\x00\x01\x02\x03"
            )  # fmt: skip
            await first.send(message)
            await trio.sleep(1)
            assert [m for m in last.messages if m[0] == Tag.UNICAST] == [message]
            answer = Envelope(Tag.UNICAST, CHANNEL, last.name, b"answer", first.name).encode()
            await last.send(answer)
            await trio.sleep(1)
            assert [m for m in first.messages if m[0] == Tag.UNICAST] == [answer]

    run_cluster(main)


def test_unicast_to_a_router_that_does_not_know_the_channel_or_to_nobody_is_dropped() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        async with AsyncExitStack() as stack:
            first, (a, b, _), last = await _line_with_ends(cluster, stack)
            for destination in (b.name, peer_name(4711), NO_PEER):
                await first.send(Envelope(Tag.UNICAST, CHANNEL, first.name, b"x", destination).encode())
            await trio.sleep(1)
            assert not last.gossip(CHANNEL)
            assert not first.ended.is_set()
            assert a.router.status().counters["unicast_unroutable"] >= 1

    run_cluster(main)


def test_broadcast_of_an_unknown_channel_reaches_everybody_once_and_unchanged() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        async with AsyncExitStack() as stack:
            first, _, last = await _line_with_ends(cluster, stack)
            middle = await stack.enter_async_context(raw_peer(cluster.world, 12, f"{address(2)}:6783"))
            await trio.sleep(3)
            payloads = [bytes((number,)) * 50 for number in range(10)]
            for payload in payloads:
                await first.send(Envelope(Tag.BROADCAST, CHANNEL, first.name, payload).encode())
            await trio.sleep(1)
            for receiver in (middle, last):
                received = receiver.gossip(CHANNEL)
                assert {(e.tag, e.source) for e in received} == {(Tag.BROADCAST, first.name)}
                assert [e.payload for e in received] == payloads
            assert not first.gossip(CHANNEL)
            await first.send(Envelope(Tag.BROADCAST, CHANNEL, first.name, payloads[0]).encode())
            await trio.sleep(1)
            assert len(last.gossip(CHANNEL)) == 11  # broadcasts are relayed always, repeated ones too

    run_cluster(main)


def test_gossip_of_an_unknown_channel_is_relayed_once_in_30_s_with_the_relay_as_source() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        async with AsyncExitStack() as stack:
            first, (_, _, c), last = await _line_with_ends(cluster, stack)
            message = Envelope(Tag.GOSSIP, CHANNEL, first.name, b"state").encode()
            for _ in range(5):
                await first.send(message)
                await trio.sleep(1)
            (received,) = last.gossip(CHANNEL)
            assert (received.tag, received.source, received.payload) == (Tag.GOSSIP, c.name, b"state")
            await trio.sleep(31)
            await first.send(message)
            await trio.sleep(1)
            assert len(last.gossip(CHANNEL)) == 2
            assert not first.gossip(CHANNEL)

    run_cluster(main)


def test_a_source_that_claims_to_be_the_receiver_is_not_sent_round() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        async with AsyncExitStack() as stack:
            first, (a, _, _), last = await _line_with_ends(cluster, stack)
            await first.send(Envelope(Tag.UNICAST, CHANNEL, a.name, b"returned", last.name).encode())
            await first.send(Envelope(Tag.GOSSIP, CHANNEL, NO_PEER, b"of nobody").encode())
            await trio.sleep(1)
            assert not last.gossip(CHANNEL)

    run_cluster(main)


# --- channels of our own --------------------------------------------------------------------------------------------


class Numbers:
    """Gossip data: a set of numbers below 256."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self.numbers = frozenset(numbers)

    def merge(self, other: object) -> Numbers:
        assert isinstance(other, Numbers)
        return Numbers(self.numbers | other.numbers)

    def encode(self) -> list[bytes]:
        return [bytes(sorted(self.numbers))]


class NumbersChannel:
    """A channel whose state only grows. It notes everything that arrives."""

    def __init__(self) -> None:
        self.state: set[int] = set()
        self.gossip: list[bytes] = []
        self.broadcasts: list[tuple[PeerName, bytes]] = []
        self.unicasts: list[tuple[PeerName, bytes]] = []

    def complete_state(self) -> Numbers | None:
        return Numbers(self.state) if self.state else None

    def on_gossip(self, source: PeerName, payload: bytes, now: float) -> Iterator[Numbers | None]:
        self.gossip.append(payload)
        new = set(payload) - self.state
        self.state |= new
        yield None
        if new:
            yield Numbers(new)

    def on_broadcast(self, source: PeerName, payload: bytes, now: float) -> Numbers | None:
        self.broadcasts.append((source, payload))
        self.state |= set(payload)
        return Numbers(payload)

    def on_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        self.unicasts.append((source, payload))


class Channels:
    """Gives every router of a cluster the channel, in each of its lives a fresh one."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self.of: dict[int, NumbersChannel] = {}

    def prepare(self, number: int, **settings: object) -> SimulatedNode:
        def register(router: Router) -> None:
            self.of[number] = NumbersChannel()
            router.mesh.register("numbers", self.of[number])

        node = self._cluster.node(number, **settings)
        node.prepare = register
        return node


def test_a_new_neighbour_gets_the_complete_state_at_once() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        channels = Channels(cluster)
        for number in (1, 2, 3):
            channels.prepare(number)
        await cluster.start(1)
        channels.of[1].state |= {1, 2, 3}
        b = await cluster.start(2, 1)
        await trio.sleep(0.5)
        assert channels.of[2].state == {1, 2, 3}
        await cluster.start(3, 2)
        await trio.sleep(0.5)
        assert channels.of[3].state == {1, 2, 3}
        await b.crash()
        await b.start()
        await trio.sleep(0.5)
        assert channels.of[2].state == {1, 2, 3}

    run_cluster(main)


def test_periodic_gossip_repairs_what_was_never_told() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        channels = Channels(cluster)
        for number in (1, 2, 3, 4):
            channels.prepare(number, discovery=False)
        await cluster.start_line(4)
        await trio.sleep(5)
        channels.of[4].state.add(77)
        await wait_until(lambda: all(77 in channel.state for channel in channels.of.values()), within=31)

    run_cluster(main)


def test_unicast_over_hops_between_routers() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        channels = Channels(cluster)
        for number in (1, 2, 3, 4):
            channels.prepare(number, discovery=False)
        a, _, _, d = await cluster.start_line(4)
        await wait_until(lambda: a.route(d) is not None and d.route(a) is not None, within=HANDSHAKE)
        a.router.mesh.unicast("numbers", d.name, b"hello")
        await trio.sleep(1)
        assert channels.of[4].unicasts == [(a.name, b"hello")]
        assert not channels.of[2].unicasts

    run_cluster(main)


def test_a_unicast_to_a_peer_that_has_just_died_is_not_sent_to_and_fro() -> None:
    """Each of its two neighbours takes the other for the way to it, until they have told each other."""

    async def main(cluster: SimulatedCluster) -> None:
        a = await cluster.start(1, discovery=False)
        b = await cluster.start(2, 1, discovery=False)
        c = await cluster.start(3, 1, 2, discovery=False)
        d = await cluster.start(4, 1, discovery=False)
        await wait_until(lambda: d.route(c) == a.name and b.route(c) == c.name, within=HANDSHAKE)
        await trio.sleep(3)
        await c.crash()
        await trio.sleep(0.2)
        before = b.router.mesh.counters["gossip_received"]
        d.router.mesh.unicast("mail", c.name, b"are you there?")
        await trio.sleep(2)
        assert b.router.mesh.counters["gossip_received"] - before < 10

    run_cluster(main)


def test_what_was_told_just_before_an_orderly_stop_arrives() -> None:
    """Also while routes are to be recalculated, as after a peer came: until then broadcasts wait."""

    async def main(cluster: SimulatedCluster) -> None:
        channels = Channels(cluster)
        for number in (1, 2, 3):
            channels.prepare(number, discovery=False)
        _, b, _ = await cluster.start_line(3, discovery=False)
        await wait_until(lambda: len(b.neighbours()) == 2, within=HANDSHAKE)
        b.router.mesh.broadcast("numbers", Numbers({9}))
        b.router.mesh.unicast("numbers", peer_name(1), b"bye")
        await b.stop()
        await trio.sleep(0.5)
        for number in (1, 3):
            assert channels.of[number].broadcasts == [(b.name, bytes((9,)))]
        assert channels.of[1].unicasts == [(b.name, b"bye")]

    run_cluster(main)


def test_an_orderly_stop_does_not_wait_for_a_neighbour_that_reads_nothing() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        channels = Channels(cluster)
        for number in (1, 2):
            channels.prepare(number)
        await cluster.start(1)
        b = await cluster.start(2, 1)
        await wait_until(lambda: len(b.neighbours()) == 1, within=HANDSHAKE)
        cluster.world.partition([address(1)], [address(2)])
        for _ in range(200):
            b.router.mesh.unicast("numbers", peer_name(1), bytes(100_000))
        before = trio.current_time()
        await b.stop()
        assert trio.current_time() - before < 2

    run_cluster(main)


@pytest.mark.parametrize("seed", range(4))
def test_broadcasts_reach_every_router_exactly_once_in_a_steady_network(seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        channels = Channels(cluster)
        chance = random.Random(seed)
        count = 9
        for number in range(1, count + 1):
            channels.prepare(number, discovery=False)
        for number in range(1, count + 1):
            targets = {chance.randrange(1, number) for _ in range(2)} if number > 1 else set()
            await cluster.start(number, *sorted(targets))
        await trio.sleep(200)  # also hubs have told everybody by now
        for number, node in cluster.nodes.items():
            node.router.mesh.broadcast("numbers", Numbers({number}))
        await trio.sleep(1)
        for number, channel in channels.of.items():
            others = sorted((peer_name(n), bytes((n,))) for n in range(1, count + 1) if n != number)
            assert sorted(channel.broadcasts) == others

    run_cluster(main, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_state_converges_through_partitions(seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        channels = Channels(cluster)
        chance = random.Random(seed)
        numbers = list(range(1, 8))
        for number in numbers:
            channels.prepare(number, discovery=False)
        for number in numbers:
            await cluster.start(number, *([chance.randrange(1, number)] if number > 1 else []))
        told = set()
        for fact in range(100, 140):
            number = chance.choice(numbers)
            router = cluster.nodes[number].router
            channels.of[number].state.add(fact)
            told.add(fact)
            if chance.random() < 0.5:
                router.mesh.broadcast("numbers", Numbers({fact}))
            else:
                router.mesh.gossip("numbers", Numbers({fact}))
            await trio.sleep(chance.uniform(0, 10))
            if chance.random() < 0.2:
                some = set(chance.sample(numbers, 3))
                cluster.world.partition(map(address, some), map(address, set(numbers) - some))
            elif chance.random() < 0.2:
                cluster.world.heal()
        cluster.world.heal()
        await wait_until(lambda: all(c.state == told for c in channels.of.values()), within=60 + 20 + 30 + 5 + 60)

    run_cluster(main, seed=seed, link=LinkConditions(loss=0.05, jitter=0.02, latency=0.005))
