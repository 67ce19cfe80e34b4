"""What arrives by UDP: garbage, copies, late packets, strangers. And how large packets may be."""

from __future__ import annotations

import random
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest
import trio

from simulation.container_frames import ipv4, mac, number_of, numbered, numbers, reassemble
from weave_router.testing.simulated_cluster import address, run_cluster, wait_until
from weave_router.testing.simulated_links import LinkConditions

if TYPE_CHECKING:
    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode
    from weave_router.testing.simulated_packet_io import Datagram

HANDSHAKE = 5.0
PASSWORDS = pytest.mark.parametrize("password", [None, b"secret"], ids=["plain", "sealed"])
OVERHEAD = {None: 62, b"secret": 86}
PLAIN_MTU, SEALED_MTU = 1438, 1414


async def _pair(cluster: SimulatedCluster, **settings: object) -> tuple[SimulatedNode, SimulatedNode]:
    a, b = await cluster.start_line(2, **settings)
    await wait_until(lambda: a.route(b) is not None and b.route(a) is not None, within=HANDSHAKE)
    return a, b


def _mtu(node: SimulatedNode) -> int | None:
    (connection,) = node.connections()
    return connection.mtu


async def _carries(a: SimulatedNode, b: SimulatedNode) -> bool:
    """Whether frames pass both ways."""
    marks = (trio.current_time() * 1000) % 2**31
    there, back = int(marks), int(marks) + 1
    a.host.frames_in(numbered(there, mac(1)))
    b.host.frames_in(numbered(back, mac(2)))
    await trio.sleep(0.5)
    return numbers(b.host.injected).count(there) == 1 and numbers(a.host.injected).count(back) == 1


# --- datagrams that should not be ----------------------------------------------------------------------------------


@PASSWORDS
def test_garbage_has_no_effect(password: bytes | None) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=password)
        chance = random.Random(1)
        names = [b.name.to_bytes(6), a.name.to_bytes(6), bytes(6), b"\xff" * 6]
        for _ in range(2000):
            data = chance.choice(names) * chance.randrange(3) + chance.randbytes(chance.randrange(80))
            if password is None and data.startswith(names[0]):
                data = data[:18]  # frames of a member's would have an effect, and plain packets are taken at their word
            source = (chance.choice((address(2), "10.0.0.99")), chance.randrange(1, 65536))
            cluster.world.send_datagram(source, (address(1), 6783), data)
        before = len(a.host.injected)
        await trio.sleep(120)
        assert len(a.host.injected) == before
        assert await _carries(a, b)
        assert a.router.status().termination_count == 0
        assert a.router.status().counters["drop_unknown_sender"] > 100
        assert a.router.status().counters["drop_bad_packet"] > 100

    run_cluster(main)


@PASSWORDS
def test_truncated_packets_have_no_effect_but_that_of_the_frames_before_the_end(password: bytes | None) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=password)
        await trio.sleep(5)
        seen: list[Datagram] = []
        cluster.world.watch_datagrams(seen.append)
        cluster.world.cut(address(2), address(1), one_way=True)
        b.host.frames_in(numbered(1, mac(2)), numbered(2, mac(2)))  # both in one packet
        await trio.sleep(0.1)
        cluster.world.watch_datagrams(None)
        cluster.world.heal()
        (packet,) = [datagram.data for datagram in seen if datagram.source[0] == address(2)]
        for length in range(len(packet)):
            cluster.world.send_datagram((address(2), 6783), (address(1), 6783), packet[:length])
        await trio.sleep(1)
        # Plain: each cut behind the first frame delivers it. Sealed: nothing opens.
        expected = {1: len(packet) - (6 + 14 + 60)} if password is None else {}
        assert {n: numbers(a.host.injected).count(n) for n in (1, 2) if n in numbers(a.host.injected)} == expected
        assert await _carries(a, b)

    run_cluster(main)


def test_replayed_packets_are_dropped() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=b"secret")
        seen: list[Datagram] = []
        cluster.world.watch_datagrams(seen.append)
        for number in range(50):
            b.host.frames_in(numbered(number, mac(2)))
            await trio.sleep(0.01)
        cluster.world.watch_datagrams(None)
        packets = [datagram for datagram in seen if datagram.destination[0] == address(1)]
        random.Random(1).shuffle(packets)
        for datagram in packets * 3:
            cluster.world.send_datagram(("10.0.0.99", 1), datagram.destination, datagram.data)
        await trio.sleep(1)
        assert numbers(a.host.injected) == list(range(50))
        assert a.router.status().counters["drop_replayed"] == 3 * len(packets)
        assert await _carries(a, b)

    run_cluster(main)


def test_a_replayed_heartbeat_does_not_turn_the_connection_away() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        seen: list[Datagram] = []
        cluster.world.watch_datagrams(seen.append)
        a, b = await _pair(cluster, password=b"secret")
        await trio.sleep(30)
        for datagram in seen:
            if datagram.destination[0] == address(1):
                cluster.world.send_datagram(("10.0.0.99", 1), datagram.destination, datagram.data)
        await trio.sleep(1)
        assert await _carries(a, b)

    run_cluster(main)


def test_packets_of_an_earlier_connection_are_dropped() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        seen: list[Datagram] = []
        cluster.world.watch_datagrams(seen.append)
        a, b = await _pair(cluster, password=b"secret")
        b.host.frames_in(numbered(1, mac(2)))
        await trio.sleep(1)
        cluster.world.watch_datagrams(None)
        await b.crash()
        await b.start()
        await wait_until(lambda: a.route(b) is not None and b.route(a) is not None, within=HANDSHAKE)
        for datagram in seen:
            cluster.world.send_datagram(datagram.source, datagram.destination, datagram.data)
        await trio.sleep(1)
        assert numbers(a.host.injected) == [1]
        assert await _carries(a, b)

    run_cluster(main)


@PASSWORDS
def test_bad_links_lose_frames_but_nothing_else(password: bytes | None) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=password)
        for number in range(500):
            a.host.frames_in(numbered(number, mac(1)))
            await trio.sleep(0.02)
        await trio.sleep(5)
        received = numbers(b.host.injected)
        assert 350 < len(set(received)) < 450
        if password:  # plain packets carry no number that would tell a copy
            assert len(received) == len(set(received))
        await trio.sleep(600)
        assert a.router.status().termination_count == 0

    run_cluster(main, link=LinkConditions(loss=0.2, duplication=0.2, reordering=0.3, latency=0.01))


def test_the_remote_address_follows_genuine_heartbeats() -> None:
    """A peer behind a NAT that changes its mind: its packets come from another port, and answers go there."""

    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=b"secret")
        nat = ("10.0.0.50", 40_000)

        def translate(datagram: Datagram) -> None:
            if datagram.source[0] == address(2):
                cluster.world.send_datagram(nat, datagram.destination, datagram.data)

        cluster.world.cut(address(2), address(1), one_way=True)
        cluster.world.watch_datagrams(translate)
        await trio.sleep(11)
        neighbour = a.router.data_plane.forwarder.neighbours[b.name]  # type: ignore[union-attr]
        assert neighbour.link.remote == nat

    run_cluster(main)


# --- path MTU -------------------------------------------------------------------------------------------------------


@PASSWORDS
@pytest.mark.parametrize("mtu", [9000, 1500, 1492, 1400, 1280, 700])
def test_the_mtu_that_the_kernel_knows_is_found_at_once(password: bytes | None, mtu: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=password)
        await trio.sleep(0.5)
        assert _mtu(a) == _mtu(b) == mtu - OVERHEAD[password]

    run_cluster(main, link=LinkConditions(mtu=mtu))


@PASSWORDS
@pytest.mark.parametrize("hidden", [1499, 1450, 1300, 1000, 650])
def test_an_mtu_that_nobody_tells_is_searched(password: bytes | None, hidden: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=password)
        await wait_until(
            lambda: _mtu(a) == _mtu(b) == hidden - OVERHEAD[password],
            within=30,
            what=f"{hidden - OVERHEAD[password]}, not {_mtu(a)} and {_mtu(b)}",
        )
        largest = hidden - OVERHEAD[password] - 20
        a.host.frames_in(ipv4(mac(1), mac(2), largest, df=True))
        await trio.sleep(0.1)
        assert len(b.host.injected[-1].frame) == largest + 34

    run_cluster(main, link=LinkConditions(hidden_mtu=hidden, fragments_dropped=True))


def test_each_direction_has_its_own_mtu() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster.world.change_link(address(1), address(2), one_way=True, mtu=1300)
        a, b = await _pair(cluster)
        await trio.sleep(1)
        assert (_mtu(a), _mtu(b)) == (1300 - 62, PLAIN_MTU)

    run_cluster(main)


def test_an_mtu_that_shrinks_later_is_found_with_the_next_large_packet() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster)
        await trio.sleep(100)
        cluster.world.change_link(address(1), address(2), mtu=1300)
        a.host.frames_in(ipv4(mac(1), mac(2), 1400, df=True))
        await trio.sleep(0.5)
        assert (_mtu(a), _mtu(b)) == (1300 - 62, PLAIN_MTU)
        assert await _carries(a, b)

    run_cluster(main)


def test_the_search_survives_loss() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster)
        await wait_until(lambda: _mtu(a) == _mtu(b) == 1200 - 62, within=60)

    run_cluster(main, link=LinkConditions(hidden_mtu=1200, loss=0.1, reordering=0.2, duplication=0.1))


def test_a_large_packet_with_df_is_answered_with_the_mtu() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster)
        b.host.frames_in(numbered(1, mac(2)))
        a.host.frames_in(numbered(1, mac(1)))
        await trio.sleep(1)
        a.host.injected.clear()
        a.host.frames_in(ipv4(mac(1), mac(2), PLAIN_MTU - 20, df=True), ipv4(mac(1), mac(2), PLAIN_MTU - 19, df=True))
        await trio.sleep(0.1)
        assert [len(injected.frame) for injected in b.host.injected[-1:]] == [PLAIN_MTU + 14]
        (reply,) = [injected.frame for injected in a.host.injected]
        assert (reply[:6], reply[6:12], reply[34:36]) == (mac(1), mac(2), b"\x03\x04")
        assert int.from_bytes(reply[40:42]) == PLAIN_MTU

    run_cluster(main)


def test_such_an_answer_finds_its_way_back_from_a_relay() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster.world.change_link(address(2), address(3), mtu=1300)
        a, _, c = await cluster.start_line(3, discovery=False)
        await wait_until(lambda: a.route(c) is not None and c.route(a) is not None, within=HANDSHAKE)
        c.host.frames_in(numbered(1, mac(3)))
        a.host.frames_in(numbered(2, mac(1)))
        await trio.sleep(1)
        a.host.injected.clear()
        a.host.frames_in(ipv4(mac(1), mac(3), 1350, df=True))
        await trio.sleep(0.1)
        (reply,) = [injected.frame for injected in a.host.injected]
        assert (reply[:6], reply[34:36]) == (mac(1), b"\x03\x04")
        assert int.from_bytes(reply[40:42]) == 1300 - 62

    run_cluster(main)


@PASSWORDS
@pytest.mark.parametrize("fragments_dropped", [True, False])
def test_a_large_packet_without_df_arrives_whole_or_in_fragments(
    password: bytes | None, fragments_dropped: bool
) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=password)
        await trio.sleep(1)
        sent = ipv4(mac(1), mac(2), 4000, df=False)
        a.host.frames_in(sent)
        await trio.sleep(0.1)
        received = [injected.frame for injected in b.host.injected if number_of(injected.frame) is None]
        assert len(received) == (3 if fragments_dropped else 1)
        assert reassemble(received) == sent[34:]

    run_cluster(main, link=LinkConditions(fragments_dropped=fragments_dropped))


def test_mtu_of_a_trusted_connection_is_that_of_plain_packets() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _pair(cluster, password=b"secret", trusted_subnets=(IPv4Network("10.0.0.0/8"),))
        await trio.sleep(1)
        assert _mtu(a) == _mtu(b) == PLAIN_MTU

    run_cluster(main)
