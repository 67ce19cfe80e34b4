"""Single behaviours of address allocation in a cluster: elections, crashes, exhaustion, departure."""

from __future__ import annotations

import random
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

from simulation.ipam_cluster import run_ipam_cluster
from weave_ipam.errors import RemovalRefused, Unserved
from weave_router.testing.simulated_cluster import address, wait_until
from weave_router.testing.simulated_links import LinkConditions

if TYPE_CHECKING:
    from simulation.ipam_cluster import IpamCluster
    from simulation.ipam_host import IpamHost

MINUTE = 60.0


def _ask_and_forget(nursery: trio.Nursery, host: IpamHost, identifier: str) -> None:
    async def ask() -> None:
        with host.until_crash():
            await host.allocate(identifier, None, wait=10 * MINUTE)

    nursery.start_soon(ask)


# --- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [0.05, 0.15])
def test_a_crash_before_or_after_the_write_loses_no_address_and_gives_none_twice(moment: float) -> None:
    """A write becomes durable 0.1 s after the request, and the asker would hear of it 0.1 s later."""

    async def main(cluster: IpamCluster) -> None:
        host = await cluster.start(1, init="consensus=1")
        await host.ipam.prime()
        host.store._delay = lambda: 0.1
        async with trio.open_nursery() as nursery:
            _ask_and_forget(nursery, host, "web")
            await trio.sleep(moment)
            await host.crash()
        assert "web" in host.unanswered
        await host.start()
        recorded = host.ipam.lookup("web")
        assert bool(recorded) == (moment > 0.1)
        other = await host.allocate("other", None, wait=1)
        assert other not in recorded
        again = await host.allocate("web", None, wait=1)
        if recorded:
            assert again == recorded[0]

    run_ipam_cluster(main)


def test_a_donation_that_its_giver_stored_but_never_sent_arrives_after_its_restart() -> None:
    async def main(cluster: IpamCluster) -> None:
        giver = await cluster.start(1, init="seed=02:00:00:00:00:01", network="10.32.0.0/28")
        taker = await cluster.start(2, 1, init="seed=02:00:00:00:00:01", network="10.32.0.0/28")
        await cluster.meet()
        giver.store._delay = lambda: 0.1
        async with trio.open_nursery() as nursery:
            _ask_and_forget(nursery, taker, "web")
            await wait_until(lambda: taker.node.name in giver.allocator.ring.owners(), within=5)
            await trio.sleep(0.15)  # durable by now, but not sent
            await giver.crash()
            await trio.sleep(1)
            assert not taker.ipam.lookup("web")
            await giver.start()
            await wait_until(lambda: bool(taker.ipam.lookup("web")), within=MINUTE)
        await wait_until(cluster.agreed, within=MINUTE)

    run_ipam_cluster(main)


def test_nobody_hears_of_a_donation_that_is_not_durable() -> None:
    async def main(cluster: IpamCluster) -> None:
        giver = await cluster.start(1, init="seed=02:00:00:00:00:01", network="10.32.0.0/28")
        taker = await cluster.start(2, 1, init="seed=02:00:00:00:00:01", network="10.32.0.0/28")
        await cluster.meet()
        giver.store._delay = lambda: 3.0
        async with trio.open_nursery() as nursery:
            _ask_and_forget(nursery, taker, "web")
            await wait_until(lambda: taker.node.name in giver.allocator.ring.owners(), within=5)
            third = await cluster.start(3, 1, init="observer", network="10.32.0.0/28")
            await wait_until(lambda: bool(third.allocator.ring), within=2)
            assert taker.node.name not in third.allocator.ring.owners()
            assert not taker.ipam.lookup("web")
            await wait_until(lambda: bool(taker.ipam.lookup("web")), within=10)

    run_ipam_cluster(main)


@pytest.mark.parametrize("away", [1.0, 3 * MINUTE])
def test_a_restarted_host_keeps_its_addresses_and_gives_out_others_unless_it_was_away_for_long(away: float) -> None:
    """After a minute the others may have removed it: then it has to hear from one of them first."""

    async def main(cluster: IpamCluster) -> None:
        first, *_, last = await cluster.start_full_mesh(3, init="consensus=3")
        await cluster.meet()
        before = await last.allocate("web", None, wait=MINUTE)
        await wait_until(cluster.agreed, within=MINUTE)
        cluster.cut({3})
        await last.crash()
        await trio.sleep(away)
        await last.start()
        assert last.ipam.lookup("web") == (before,)
        await first.allocate("elsewhere", None, wait=MINUTE)
        if away > MINUTE:
            with pytest.raises(Unserved):
                await last.allocate("other", None, wait=1)
            cluster.world.heal()
        assert (await last.allocate("other", None, wait=MINUTE)).ip != before.ip
        assert await last.allocate("web", None, wait=1) == before

    run_ipam_cluster(main)


# --- elections ------------------------------------------------------------------------------------------------------


def test_a_request_waits_for_the_quorum_and_says_so() -> None:
    async def main(cluster: IpamCluster) -> None:
        first, _ = await cluster.start_full_mesh(2, init="consensus=5")
        await cluster.meet()
        async with trio.open_nursery() as nursery:
            _ask_and_forget(nursery, first, "web")
            await trio.sleep(1)
            status = first.ipam.status()
            assert status.text == "awaiting consensus (quorum: 3, known: 2)"
            assert status.waiting_for == ("no quorum: 2 of 3 peers that must agree on the start are known",)
            with pytest.raises(Unserved, match="no quorum: 2 of 3 peers"):
                await first.allocate("impatient", None, wait=1)
            assert not first.allocator.ring
            await cluster.start(3, 1, init="consensus=5")
            await wait_until(lambda: bool(first.ipam.lookup("web")), within=20)

    run_ipam_cluster(main)


@pytest.mark.parametrize("seed", range(10))
def test_a_partition_in_an_election_never_leads_to_two_rings(seed: int) -> None:
    async def main(cluster: IpamCluster) -> None:
        chance = random.Random(seed)
        hosts = await cluster.start_full_mesh(5, init="consensus=5")
        await cluster.meet()
        async with trio.open_nursery() as nursery:
            for host in chance.sample(hosts, 3):
                _ask_and_forget(nursery, host, "web")
            for _ in range(4):
                await trio.sleep(chance.uniform(0, 0.05))
                cluster.cut(set(chance.sample(range(1, 6), 2)))
                await trio.sleep(chance.uniform(0, 12))
                assert len({host.allocator.ring.seeds for host in hosts if host.allocator.ring}) <= 1
                cluster.world.heal()
            await wait_until(cluster.agreed, within=2 * MINUTE)
            nursery.cancel_scope.cancel()
        assert len({host.allocator.ring.seeds for host in hosts}) == 1

    run_ipam_cluster(main, seed=seed)


def test_voters_without_a_quorum_do_not_outdo_each_other() -> None:
    """Each proposal is answered by a broadcast of every voter: one in five seconds is enough for all of them."""

    async def main(cluster: IpamCluster) -> None:
        hosts = await cluster.start_full_mesh(8, init="consensus=20")
        await cluster.meet()

        def rounds() -> set[int]:
            claims = [host.allocator.start.own_claims for host in hosts]
            return {said.promise.round for said in claims if said is not None}

        async with trio.open_nursery() as nursery:
            for number, host in enumerate(hosts):
                _ask_and_forget(nursery, host, "web")
                await trio.sleep(number / 10)
            await trio.sleep(20)
            (before,) = rounds()
            await trio.sleep(MINUTE)
            (after,) = rounds()
            assert 10 <= after - before <= 20
            nursery.cancel_scope.cancel()

    run_ipam_cluster(main)


def test_a_minority_whose_hosts_restart_has_no_quorum() -> None:
    """Each life of a host is another voter, but not another host."""

    async def main(cluster: IpamCluster) -> None:
        hosts = await cluster.start_full_mesh(5, init="consensus=5")
        await cluster.meet()
        cluster.cut({1, 2})
        first, second = hosts[:2]
        async with trio.open_nursery() as nursery:
            _ask_and_forget(nursery, first, "web")
            for _ in range(4):
                await trio.sleep(12)
                await second.crash()
                await second.start()
            await trio.sleep(12)
            assert not first.allocator.ring
            assert not second.allocator.ring
            cluster.world.heal()
            await wait_until(cluster.agreed, within=2 * MINUTE)
            nursery.cancel_scope.cancel()

    run_ipam_cluster(main)


def test_a_vote_that_led_to_a_ring_outlives_a_crash_of_the_voter() -> None:
    """Three of five agree. One of them restarts before it has the ring, and meets the two who know nothing of it."""

    async def main(cluster: IpamCluster) -> None:
        hosts = await cluster.start_full_mesh(5, init="consensus=5")
        await cluster.meet()
        first, _, third, fourth, fifth = hosts
        cluster.cut({4, 5})
        async with trio.open_nursery() as nursery:
            _ask_and_forget(nursery, first, "web")
            await wait_until(lambda: bool(first.allocator.ring), within=5)
            assert _has_accepted(third)
            assert not third.allocator.ring  # it is on its way
            await third.crash()
            cluster.cut({1, 2})
            cluster.world.heal(*map(address, (3, 4, 5)))
            await third.start()
            _ask_and_forget(nursery, fourth, "web")
            _ask_and_forget(nursery, fifth, "web")
            await trio.sleep(2 * MINUTE)
            assert {host.allocator.ring.seeds for host in hosts} <= {first.allocator.ring.seeds, ()}
            cluster.world.heal()
            await wait_until(cluster.agreed, within=2 * MINUTE)
            nursery.cancel_scope.cancel()

    run_ipam_cluster(main, link=LinkConditions(latency=0.2))


def _has_accepted(host: IpamHost) -> bool:
    """Whether a voter has accepted a proposal."""
    claims = host.allocator.start.own_claims
    return claims is not None and bool(claims.accepted.round)


# --- exhaustion -----------------------------------------------------------------------------------------------------


async def _take_all(host: IpamHost) -> int:
    """Allocate until nothing is left; how many addresses that were."""
    for number in count():
        try:
            await host.allocate(f"all-{host.number}-{number}", None, wait=3)
        except Unserved:
            return number
    raise AssertionError


def test_all_addresses_of_a_range_are_given_out_and_then_the_answer_says_that_they_are_in_use() -> None:
    async def main(cluster: IpamCluster) -> None:
        hosts = await cluster.start_full_mesh(4, network="10.32.0.0/28", init="consensus=4")
        assert await _take_all(hosts[0]) == 14
        for host in hosts:
            began = trio.current_time()
            with pytest.raises(Unserved, match="all addresses of 10"):
                await host.allocate("more", None, wait=4)
            assert trio.current_time() - began < 4.5

    run_ipam_cluster(main)


def test_an_exhausted_host_names_those_who_own_the_rest_and_cannot_be_reached() -> None:
    async def main(cluster: IpamCluster) -> None:
        first, second = await cluster.start_full_mesh(2, network="10.32.0.0/28", init="consensus=2")
        await first.allocate("first", None, wait=MINUTE)
        await wait_until(cluster.agreed, within=MINUTE)
        await second.crash(silent=True)
        await wait_until(lambda: second.node.name not in first.node.router.mesh.routes.unicast_all, within=3 * MINUTE)
        await _take_all(first)
        began = trio.current_time()
        with pytest.raises(Unserved, match=r"cannot be reached: 02:00:00:00:00:02\(node 2\)"):
            await first.allocate("more", None, wait=7)
        assert 6.9 < trio.current_time() - began < 7.5
        await second.start()
        await first.allocate("more", None, wait=MINUTE)

    run_ipam_cluster(main)


# --- departure and removal ------------------------------------------------------------------------------------------


def test_what_a_departing_host_owned_belongs_to_its_heir_and_is_given_out_there() -> None:
    async def main(cluster: IpamCluster) -> None:
        hosts = await cluster.start_full_mesh(3, network="10.32.0.0/28", init="consensus=3")
        for host in hosts:
            await host.allocate("web", None, wait=MINUTE)
        await wait_until(cluster.agreed, within=MINUTE)
        leaver = hosts[2]
        leaver.gone = True
        cluster.ledger.host_gone(3)
        began = trio.current_time()
        heir = await leaver.ipam.leave()
        assert trio.current_time() - began < 1  # the heir has confirmed
        await leaver.stop()
        assert heir is not None
        (inheriting,) = [host for host in hosts[:2] if f"node {host.number})" in heir]
        assert leaver.node.name not in inheriting.allocator.ring.owners()
        await wait_until(cluster.agreed, within=MINUTE)
        assert sum(hosts[0].allocator.ring.sizes().values()) == 16
        assert await _take_all(hosts[0]) == 12  # 14 without the two that the hosts which stayed have

    run_ipam_cluster(main)


def test_what_a_lost_host_owned_is_given_out_after_its_removal() -> None:
    async def main(cluster: IpamCluster) -> None:
        hosts = await cluster.start_full_mesh(3, network="10.32.0.0/28", init="consensus=3")
        for host in hosts:
            await host.allocate("web", None, wait=MINUTE)
        await wait_until(cluster.agreed, within=MINUTE)
        first, _, lost = hosts
        await lost.crash()
        lost.gone = True
        cluster.ledger.host_gone(3)
        await wait_until(lambda: lost.node.name not in first.node.router.mesh.routes.unicast_all, within=3 * MINUTE)
        with pytest.raises(RemovalRefused, match="only"):
            await first.ipam.remove_peer("node 3")
        await trio.sleep(MINUTE)
        gained = await first.ipam.remove_peer("node 3")
        assert gained > 0
        await wait_until(cluster.agreed, within=MINUTE)
        assert await _take_all(first) == 12

    run_ipam_cluster(main)
