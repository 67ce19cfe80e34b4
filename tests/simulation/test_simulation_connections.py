"""How routers find, accept, refuse, lose and regain each other."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import pytest
import trio

from weave_router.errors import TargetError
from weave_router.testing.simulated_cluster import address, peer_name, run_cluster, wait_until

if TYPE_CHECKING:
    from weave_router.status import ConnectionStatus
    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode

HANDSHAKE = 5.0
LINK_TIMEOUT = 60.0
RETRY = 30.0
"""Longest wait before an address is dialled again."""


def joined(*nodes: SimulatedNode) -> bool:
    """Whether every node has a route to every other, and they know nobody else."""
    names = {node.name for node in nodes}
    return all(node.router.mesh.routes.unicast.keys() == names for node in nodes)


def only(node: SimulatedNode, state: str = "established") -> ConnectionStatus:
    (connection,) = node.connections(state)
    return connection


# --- two routers ----------------------------------------------------------------------------------------------------


def test_two_routers_connect() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await cluster.start_line(2)
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        near, far = only(a), only(b)
        assert (near.peer, near.nickname, near.outbound) == ("02:00:00:00:00:02", "node 2", False)
        assert (far.peer, far.nickname, far.outbound, far.address) == (
            "02:00:00:00:00:01", "node 1", True, "10.0.0.1:6783",
        )  # fmt: skip
        assert (near.encrypted, near.cipher, near.overlay) == (False, "", "sleeve")
        await trio.sleep(1)
        assert (only(a).mtu, only(b).mtu) == (1438, 1438)
        await trio.sleep(3600)
        assert a.router.status().termination_count == b.router.status().termination_count == 0

    run_cluster(main)


def test_two_routers_with_a_password_connect_encrypted() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await cluster.start_line(2, password=b"a long random password")
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        await trio.sleep(1)
        for node in (a, b):
            connection = only(node)
            assert connection.encrypted
            assert connection.cipher in ("chacha20-poly1305", "aes-256-gcm")
            assert connection.mtu == 1414
        assert only(a).cipher == only(b).cipher
        await trio.sleep(3600)
        assert a.router.status().termination_count == 0

    run_cluster(main)


@pytest.mark.parametrize("trusting", [(1, 2), (1,), (2,)])
def test_data_is_plain_only_where_both_sides_trust_the_network(trusting: tuple[int, ...]) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        for number in (1, 2):
            subnets = (IPv4Network("10.0.0.0/24"),) if number in trusting else ()
            cluster.node(number, password=b"secret", trusted_subnets=subnets)
        a, b = await cluster.start_line(2)
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        plain = len(trusting) == 2
        for node in (a, b):
            assert only(node).encrypted is not plain
            assert bool(only(node).cipher) is not plain

    run_cluster(main)


@pytest.mark.parametrize("theirs", [b"other", None])
def test_another_password_is_refused_with_a_hint(theirs: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster.node(1, password=b"secret")
        cluster.node(2, password=theirs)
        a, b = await cluster.start_line(2)
        await trio.sleep(600)
        for node in (a, b):
            assert not node.connections()
            assert not node.connections("pending")
            assert len(node.router.status().peers) == 1
        assert "password" in only(b, "failed").info
        retry_in = only(b, "failed").retry_in
        assert retry_in is not None
        assert retry_in <= RETRY
        assert 5 <= sum("password" in message for message in caplog.messages) <= 40  # the log does not drown in it

    run_cluster(main)


def test_without_udp_the_connection_stays_pending_and_says_so() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster.world.change_link(address(1), address(2), loss=1.0)
        a, b = await cluster.start_line(2)
        await trio.sleep(10)
        for node in (a, b):
            assert "UDP" in only(node, "pending").info
        await trio.sleep(LINK_TIMEOUT)
        assert a.router.status().termination_count >= 1
        cluster.world.change_link(address(1), address(2), loss=0.0)
        await wait_until(lambda: joined(a, b), within=2 * RETRY)

    run_cluster(main)


def test_udp_one_way_only_does_not_make_a_route() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        cluster.world.change_link(address(1), address(2), one_way=True, loss=1.0)
        a, b = await cluster.start_line(2)
        await trio.sleep(30)
        assert not joined(a, b)
        assert a.route(b) is b.route(a) is None

    run_cluster(main)


# --- who must not connect -------------------------------------------------------------------------------------------


def test_two_peers_of_one_name_refuse_each_other_for_good(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b, c = cluster.node(1), cluster.node(2, name=peer_name(1)), cluster.node(3)
        await cluster.start(3)
        await a.start(address(3))
        await b.start(address(1))
        await trio.sleep(300)
        refused = only(b, "failed")
        assert "name" in refused.info
        assert refused.retry_in is None
        assert sum("name" in message for message in caplog.messages) == 2  # once on each side: not retried
        assert a.route(c) == c.name
        await b.router.connect([address(1)])  # the operator may try again
        await trio.sleep(1)
        assert sum("name" in message for message in caplog.messages) == 4

    run_cluster(main)


def test_two_peers_of_one_name_do_not_keep_pushing_each_other_out() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(3)
        cluster.world.cut(address(1), address(2))
        await cluster.start(1, 3)
        await cluster.start(2, 3, name=peer_name(1))
        await trio.sleep(60)
        before = cluster.nodes[3].router.status().termination_count
        await trio.sleep(600)
        assert cluster.nodes[3].router.status().termination_count - before <= 2

    run_cluster(main)


def test_a_connection_to_ourselves_is_not_retried(caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a = await cluster.start(1, 1)
        await trio.sleep(300)
        assert "ourselves" in only(a, "failed").info
        assert only(a, "failed").retry_in is None
        assert sum("ourselves" in message for message in caplog.messages) == 2  # both ends of the one attempt
        assert len(a.router.status().peers) == 1

    run_cluster(main)


@pytest.mark.parametrize("seed", range(8))
def test_of_two_connections_made_at_the_same_time_one_stays(seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = cluster.node(1), cluster.node(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.start, address(2))
            nursery.start_soon(b.start, address(1))
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        await trio.sleep(5)
        assert only(a).outbound is not only(b).outbound
        ended = a.router.status().termination_count
        await trio.sleep(600)
        assert joined(a, b)
        assert a.router.status().termination_count == ended

    run_cluster(main, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_peers_that_name_each_other_with_ports_do_not_replace_a_good_connection(seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = cluster.node(1), cluster.node(2)
        await a.start(f"{address(2)}:6783")
        await b.start(f"{address(1)}:6783")
        await trio.sleep(30)
        ended = a.router.status().termination_count
        await trio.sleep(1800)
        assert a.router.status().termination_count == ended

    run_cluster(main, seed=seed)


def test_connection_limit() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a = await cluster.start(1, connection_limit=2)
        others = [await cluster.start(number, 1, discovery=False) for number in (2, 3, 4)]
        await trio.sleep(60)
        assert len(a.connections()) == 2
        (refused,) = [node for node in others if not node.connections()]
        assert "closed" in only(refused, "failed").info or only(refused, "failed").retry_in is not None
        leaving = next(node for node in others if node is not refused)
        await leaving.stop()
        await wait_until(lambda: bool(refused.connections()), within=RETRY + HANDSHAKE)

    run_cluster(main)


def test_a_router_at_its_limit_does_not_dial() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(2, discovery=False)
        await cluster.start(3, discovery=False)
        a = await cluster.start(1, 2, 3, connection_limit=1, discovery=False)
        await trio.sleep(60)
        assert len(a.connections()) == 1

    run_cluster(main)


# --- discovery and the operator -------------------------------------------------------------------------------------


def test_discovery_connects_peers_that_have_never_heard_of_each_other() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        b = await cluster.start(2)
        a, c = await cluster.start(1, 2), await cluster.start(3, 2)
        await wait_until(lambda: a.route(c) == c.name and c.route(a) == a.name, within=HANDSHAKE)
        assert joined(a, b, c)

    run_cluster(main)


def test_discovery_from_dialled_connections() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, c = await cluster.start(1), await cluster.start(3)
        await cluster.start(2, 1, 3)
        await wait_until(lambda: a.route(c) == c.name and c.route(a) == a.name, within=HANDSHAKE)

    run_cluster(main)


def test_no_discovery() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        b = await cluster.start(2, discovery=False)
        a, c = await cluster.start(1, 2, discovery=False), await cluster.start(3, 2, discovery=False)
        await trio.sleep(300)
        assert a.route(c) == b.name
        assert len(a.connections()) == len(c.connections()) == 1

    run_cluster(main)


def test_connect_and_forget() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await cluster.start(1), await cluster.start(2)
        await a.router.connect([address(2)])
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        assert a.router.status().targets == (address(2),)
        await a.router.forget([address(2)])
        await wait_until(lambda: joined(a) and joined(b), within=1)
        assert a.router.status().targets == ()
        await trio.sleep(120)
        assert joined(a)
        assert joined(b)

    run_cluster(main)


def test_forget_leaves_a_connection_that_the_other_side_dialled() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a = await cluster.start(1)
        b = await cluster.start(2, 1)
        await a.router.connect([address(2)])
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        await a.router.forget([address(2), "10.0.0.77"])
        await trio.sleep(10)
        assert joined(a, b)

    run_cluster(main)


def test_connect_replace() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b, c = await cluster.start(1, 2), await cluster.start(2), await cluster.start(3)
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        await a.router.connect([address(3)], replace=True)
        await wait_until(lambda: joined(a, b, c), within=HANDSHAKE)
        assert a.router.status().targets == (address(3),)
        await b.stop()
        await trio.sleep(120)
        assert joined(a, c)
        assert not a.connections("failed")
        assert not a.connections("connecting")

    run_cluster(main)


def test_connect_is_all_or_nothing() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, _ = await cluster.start(1), await cluster.start(2)
        for bad in ("no-such-name", "10.0.0.3:0", "[fe80::1]:6783"):
            with pytest.raises(TargetError):
                await a.router.connect([address(2), bad])
        assert a.router.status().targets == ()
        assert a.router.status().connections == ()

    run_cluster(main)


def test_a_name_that_begins_to_resolve() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = cluster.node(1), await cluster.start(2)
        await a.start("peer.example")
        assert "cannot resolve" in only(a, "failed").info
        cluster.world.names["peer.example"] = (address(2),)
        await wait_until(lambda: joined(a, b), within=30 + HANDSHAKE)
        await b.stop()
        moved = await cluster.start(3)
        cluster.world.names["peer.example"] = (address(3),)
        await wait_until(lambda: joined(a, moved), within=60 + HANDSHAKE)

    run_cluster(main)


# --- losing and regaining -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("dialler", [1, 2])
def test_a_restarted_peer_takes_its_place_again(dialler: int, silent: bool) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        other = 3 - dialler
        await cluster.start(other)
        await cluster.start(dialler, other)
        a, b, c = cluster.nodes[1], cluster.nodes[2], await cluster.start(3, 1)
        await wait_until(lambda: joined(a, b, c) and len(c.connections()) == 2, within=HANDSHAKE)
        await trio.sleep(100)
        old = a.router.mesh.topology.records[b.name]
        await b.crash(silent=silent)
        await trio.sleep(1)
        await b.start()
        await wait_until(lambda: joined(a, b, c), within=RETRY + LINK_TIMEOUT + HANDSHAKE)
        await wait_until(lambda: len(b.connections()) == 2, within=RETRY + HANDSHAKE)
        await trio.sleep(2)
        own = b.router.mesh.topology.own
        for node in (a, c):
            record = node.router.mesh.topology.records[b.name]
            assert (record.uid, record.version, record.links) == (own.uid, own.version, own.links)
            assert record.uid != old.uid

    run_cluster(main)


def test_a_peer_that_comes_back_at_once_overtakes_its_earlier_version() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b, c = await cluster.start_line(3)
        await wait_until(lambda: joined(a, b, c), within=HANDSHAKE)
        for _ in range(20):  # a high version, by its links coming and going
            c.host.reset_connections()
            await trio.sleep(6)
        version = a.router.mesh.topology.records[c.name].version
        assert version > 40
        await c.crash(silent=True)
        await c.start()
        await wait_until(lambda: joined(a, b, c), within=HANDSHAKE)
        assert c.router.mesh.topology.own.version > version
        assert a.router.mesh.topology.records[c.name].uid == c.router.mesh.topology.own.uid

    run_cluster(main)


def test_a_silent_crash_is_noticed_within_the_timeout() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await cluster.start_line(2)
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        await trio.sleep(95)
        await b.crash(silent=True)
        took = await wait_until(lambda: joined(a), within=LINK_TIMEOUT)
        assert took > 20

    run_cluster(main)


def test_a_link_cut_for_a_moment_is_not_lost() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await cluster.start_line(2)
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        for _ in range(5):
            await trio.sleep(60)
            cluster.world.cut(address(1), address(2))
            await trio.sleep(20)
            cluster.world.heal()
        assert a.router.status().termination_count == b.router.status().termination_count == 0

    run_cluster(main)


def test_a_way_that_is_cut_in_one_direction_ends_the_connection_on_both_sides() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await cluster.start_line(2)
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        cluster.world.cut(address(1), address(2), one_way=True)
        await wait_until(lambda: joined(a) and joined(b), within=LINK_TIMEOUT + 1)
        cluster.world.heal()
        await wait_until(lambda: joined(a, b), within=RETRY + HANDSHAKE)

    run_cluster(main)


def test_a_peer_that_is_away_for_long_is_found_within_the_longest_retry() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await cluster.start_line(2)
        await a.stop()
        await trio.sleep(7200)
        await a.start()
        await wait_until(lambda: joined(a, b), within=RETRY + HANDSHAKE)

    run_cluster(main)


def test_stopping_tells_the_peer_at_once() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await cluster.start_line(2)
        await wait_until(lambda: joined(a, b), within=HANDSHAKE)
        await b.stop()
        await wait_until(lambda: joined(a), within=0.5)

    run_cluster(main)
