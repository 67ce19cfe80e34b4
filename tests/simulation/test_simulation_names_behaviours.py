"""Single behaviours of names in a cluster: partitions, absences, clocks, lost disks, many entries, relays."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
import trio

from simulation.names_cluster import GOSSIP, messages_noted, run_names_cluster
from simulation.names_invariants import remains
from weave_dns.messages import ENTRIES_PER_MESSAGE
from weave_dns.registry import ABSENCE_S, BURIED_S, TOMBSTONE_S
from weave_dns.service import TICK_S
from weave_router.testing.simulated_cluster import wait_until

if TYPE_CHECKING:
    from simulation.names_cluster import NamesCluster
    from simulation.names_host import NamesHost

LINK_TIMEOUT = 60.0
HANDSHAKE = 5.0
RECONNECT = 60.0
"""Within so long after an outage peers that want a connection have one: an attempt that hangs, and the next."""
SPREAD = 2.0
"""Within so long a change reaches everybody whom it can reach."""
WEB = IPv4Address("10.32.0.1")
DB = IPv4Address("10.32.0.2")
HOUR = 3600.0


async def _expect_found(cluster: NamesCluster, hostname: str, seconds: float, *numbers: int) -> None:
    """For so long these hosts find a name, without a gap, and no others."""
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        found = [number for number in cluster.found(hostname) if number in numbers]
        up = [number for number in numbers if cluster.hosts[number].up]
        assert found == up, f"at {trio.current_time():.2f} s {hostname} is found by {found} only"
        await trio.sleep(0.5)


# --- partitions and absences ----------------------------------------------------------------------------------------


def test_a_partition_heals_to_the_union() -> None:
    async def main(cluster: NamesCluster) -> None:
        one, two, three, *_ = await cluster.start_full_mesh(5)
        await one.add("web", WEB, "web.weave.local")
        await three.add("db", DB, "db.weave.local")
        await two.add("both", WEB, "removed-meanwhile.weave.local")
        await cluster.agree(within=SPREAD)
        cluster.cut({1, 2})
        await one.add("new", WEB, "new1.weave.local")
        await three.add("new", DB, "new3.weave.local")
        await two.remove("both")
        await trio.sleep(LINK_TIMEOUT + ABSENCE_S + 2 * TICK_S)
        assert cluster.found("web.weave.local") == cluster.found("new1.weave.local") == [1, 2]
        assert cluster.found("db.weave.local") == cluster.found("new3.weave.local") == [3, 4, 5]
        assert not cluster.found("removed-meanwhile.weave.local")
        cluster.world.heal()
        await cluster.agree(within=RECONNECT)
        assert cluster.found("new1.weave.local") == cluster.found("new3.weave.local") == [1, 2, 3, 4, 5]
        assert not cluster.found("removed-meanwhile.weave.local")

    run_names_cluster(main)


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("away", [1.0, 25.0])
def test_a_peer_that_is_away_for_less_than_30_s_keeps_its_names_everywhere(away: float, silent: bool) -> None:
    async def main(cluster: NamesCluster) -> None:
        one, *_ = await cluster.start_full_mesh(4)
        await one.add("web", WEB, "web.weave.local")
        await one.add("web", IPv6Address("fd00::1"), "web6.weave.local")
        await cluster.agree(within=SPREAD)
        await one.crash(silent=silent)
        await _expect_found(cluster, "web.weave.local", away, 1, 2, 3, 4)
        await one.start()
        async with trio.open_nursery() as nursery:
            for name in ("web", "web6"):
                nursery.start_soon(_expect_found, cluster, f"{name}.weave.local", 4 * HOUR / 60, 1, 2, 3, 4)

    run_names_cluster(main)


def test_a_peer_that_has_left_the_topology_for_30_s_loses_its_names_until_it_is_back() -> None:
    async def main(cluster: NamesCluster) -> None:
        one, two, *_ = await cluster.start_full_mesh(4)
        await one.add("web", WEB, "web.weave.local")
        await cluster.agree(within=SPREAD)
        await one.crash()
        await wait_until(lambda: one.node.name not in two.node.router.mesh.topology.records, within=5)
        await _expect_found(cluster, "web.weave.local", ABSENCE_S - 2, 2, 3, 4)
        await trio.sleep(2 + 2 * TICK_S)
        assert not cluster.found("web.weave.local")
        assert not two.names.table.entries()
        await one.start()
        await cluster.agree(within=RECONNECT)
        assert cluster.found("web.weave.local") == [1, 2, 3, 4]

    run_names_cluster(main)


def test_a_peer_that_was_away_while_its_deletions_were_forgotten_keeps_its_new_names() -> None:
    """Nothing of it was left in the others' tables, so that nobody may go on waiting for its end."""

    async def main(cluster: NamesCluster) -> None:
        one, *_ = await cluster.start_full_mesh(3)
        await one.add("web", WEB, "web.weave.local")
        await one.remove("web")
        await trio.sleep(TOMBSTONE_S - 10)
        await one.crash()
        await trio.sleep(15)
        await one.start()
        await cluster.meet()
        await trio.sleep(5)
        await one.add("db", DB, "db.weave.local")
        await trio.sleep(SPREAD)
        await _expect_found(cluster, "db.weave.local", 2 * ABSENCE_S, 1, 2, 3)

    run_names_cluster(main)


# --- clocks, and the end of what was deleted ------------------------------------------------------------------------


def test_names_and_deletions_of_peers_whose_clocks_are_hours_off() -> None:
    async def main(cluster: NamesCluster) -> None:
        one = await cluster.start(1, clock_skew=2 * HOUR)
        two = await cluster.start(2, 1, clock_skew=-2 * HOUR)
        await cluster.start(3, 1, 2)
        await cluster.meet()
        for host in (one, two):
            await host.add("web", WEB, f"web{host.number}.weave.local")
            await host.add("db", DB, f"db{host.number}.weave.local")
        await cluster.agree(within=SPREAD)
        for host in (one, two):
            await host.remove("web")
        await cluster.agree(within=SPREAD)
        await one.add("web", WEB, "web1.weave.local")
        await cluster.agree(within=SPREAD)
        await one.remove("web")
        await trio.sleep(TOMBSTONE_S - TICK_S)
        await cluster.agree(within=0)
        assert [len(host.names.table) for host in cluster.hosts.values()] == [4, 4, 4]
        await trio.sleep(2 * TICK_S + 2 * GOSSIP)
        assert [len(host.names.table) for host in cluster.hosts.values()] == [2, 2, 2]
        await trio.sleep(BURIED_S + 2 * GOSSIP)
        for host in cluster.hosts.values():
            assert not await remains(host)
        assert len(one.node.neighbours()) == 2

    run_names_cluster(main)


# --- stores ---------------------------------------------------------------------------------------------------------


def test_names_of_a_host_that_lost_its_disk_die_everywhere() -> None:
    async def main(cluster: NamesCluster) -> None:
        one, *_ = await cluster.start_full_mesh(4)
        await one.add("web", WEB, "web.weave.local")
        await one.add("db", DB, "db.weave.local")
        await one.remove("db")
        await one.add("db", DB, "db.weave.local")
        await one.add("old", DB, "old.weave.local")
        await one.remove("old")
        await cluster.agree(within=SPREAD)
        await one.crash(silent=True)
        one.lose_disk()
        cluster.ledger.lost(1)
        await trio.sleep(5)
        await one.start()
        await one.add("db", DB, "db.weave.local")
        await one.add("old", DB, "old.weave.local")
        assert cluster.found("web.weave.local") == [2, 3, 4]
        await cluster.agree(within=RECONNECT)
        assert not cluster.found("web.weave.local")
        await trio.sleep(5 * GOSSIP)
        await cluster.agree(within=0)
        assert cluster.found("db.weave.local") == cluster.found("old.weave.local") == [1, 2, 3, 4]

    run_names_cluster(main)


def test_a_host_that_lost_its_disk_and_spells_a_name_otherwise_does_not_split_it_in_two() -> None:
    """To Weave Net 2.8 two spellings are two entries, and bring it down (dns.md section 14)."""

    async def main(cluster: NamesCluster) -> None:
        one, *_ = await cluster.start_full_mesh(3)
        await one.add("web", WEB, "Web.weave.local")
        await cluster.agree(within=SPREAD)
        await one.crash(silent=True)
        one.lose_disk()
        cluster.ledger.lost(1)
        await one.start()
        await one.add("web", WEB, "web.weave.local")
        await trio.sleep(RECONNECT + 3 * GOSSIP)
        assert len({host.names.table.entries()[0].hostname for host in cluster.hosts.values()}) == 1
        await cluster.agree(within=0)

    run_names_cluster(main)


def test_a_host_that_lost_its_disk_names_a_container_as_one_whose_deletion_only_the_others_remember() -> None:
    async def main(cluster: NamesCluster) -> None:
        one, two = await cluster.start_full_mesh(2)
        await one.add("web", WEB, "web.weave.local")
        await one.remove("web")
        await trio.sleep(TOMBSTONE_S + 2 * TICK_S)
        assert not two.names.table.entries()
        await one.crash()
        one.lose_disk()
        await one.start()
        await cluster.meet()
        await one.add("web", WEB, "web.weave.local")
        await cluster.agree(within=2 * GOSSIP)
        assert cluster.found("web.weave.local") == [1, 2]

    run_names_cluster(main)


@pytest.mark.parametrize("later", [TOMBSTONE_S - 60, TOMBSTONE_S + 60])
def test_a_name_that_comes_back_is_spelled_as_before(later: float) -> None:
    """Weave Net 2.8 may remember the deletion in the spelling that it had for up to an hour."""

    async def main(cluster: NamesCluster) -> None:
        one, two = await cluster.start_full_mesh(2)
        await one.add("web", WEB, "Web.weave.local")
        await one.remove("web")
        await trio.sleep(later)
        await one.add("web", WEB, "web.weave.local")
        await cluster.agree(within=SPREAD)
        assert [entry.hostname for entry in two.names.table.entries()] == ["Web.weave.local."]

    run_names_cluster(main)


@pytest.mark.parametrize("moment", [0.05, 0.15])
def test_a_crash_before_or_after_the_write_and_what_the_others_heard(moment: float) -> None:
    """A write becomes durable 0.1 s after the request, and the asker would hear of it 0.1 s later."""

    async def main(cluster: NamesCluster) -> None:
        one, *_ = await cluster.start_full_mesh(3)
        await one.add("old", DB, "old.weave.local")
        one.store._delay = lambda: 0.1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_crash, one, "add")
            nursery.start_soon(_until_crash, one, "remove")
            await trio.sleep(moment)
            await one.crash()
        assert cluster.found("web.weave.local") == []
        assert cluster.found("old.weave.local") == [2, 3]
        await one.start()
        durable = moment > 0.1
        assert cluster.found("web.weave.local") == ([1] if durable else [])
        await cluster.agree(within=RECONNECT)
        assert cluster.found("web.weave.local") == ([1, 2, 3] if durable else [])
        assert cluster.found("old.weave.local") == ([] if durable else [1, 2, 3])

    run_names_cluster(main)


def test_nobody_hears_of_what_is_not_durable() -> None:
    """A newcomer gets everything at once, but not what is being stored."""

    async def main(cluster: NamesCluster) -> None:
        one, *_ = await cluster.start_full_mesh(2)
        await one.add("old", DB, "old.weave.local")
        one.store._delay = lambda: 5.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_crash, one, "add")
            nursery.start_soon(_until_crash, one, "remove")
            await trio.sleep(0.1)
            await cluster.start(3, 1)
            await trio.sleep(3)
            assert cluster.found("web.weave.local") == [1]
            assert cluster.found("old.weave.local") == [2]
            await one.crash()
        await one.start()
        await cluster.agree(within=RECONNECT)
        assert cluster.found("old.weave.local") == [1, 2, 3]
        assert cluster.found("web.weave.local") == []

    run_names_cluster(main)


async def _until_crash(host: NamesHost, what: str) -> None:
    with host.until_crash():
        if what == "add":
            await host.add("web", WEB, "web.weave.local")
        else:
            await host.remove("old")


def test_a_removal_that_is_asked_for_again_is_durable_when_it_is_answered() -> None:
    """The first one was given up by its asker while it was being stored."""

    async def main(cluster: NamesCluster) -> None:
        (one,) = await cluster.start_full_mesh(1)
        await one.add("web", WEB, "web.weave.local")
        one.store._delay = lambda: 1.0
        with trio.move_on_after(0.1):
            await one.remove("web")
        await one.remove("web")
        await one.crash()
        await one.start()
        assert not cluster.found("web.weave.local")

    run_names_cluster(main)


# --- newcomers, many names, and routers that do not know them -------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_newcomer_at_the_end_of_a_line_and_the_others_know_each_others_names_at_once(seed: int) -> None:
    async def main(cluster: NamesCluster) -> None:
        for number in range(1, 7):
            await cluster.start(number, *range(max(number - 1, 1), number))
        await cluster.meet()
        for host in cluster.hosts.values():
            await host.add("web", WEB, "web.weave.local")
        await cluster.agree(within=SPREAD)
        new = await cluster.start(7, 6)
        await new.add("web", WEB, "web.weave.local")
        await cluster.agree(within=HANDSHAKE)

    run_names_cluster(main, seed=seed)


def test_ten_thousand_names_reach_a_newcomer_in_messages_of_bounded_size() -> None:
    many = 10_000

    async def main(cluster: NamesCluster) -> None:
        one = await cluster.start(1)
        async with trio.open_nursery() as nursery:
            for number in range(many):
                container = f"{number:064x}"
                name = f"service-{number}.weave.local"
                nursery.start_soon(one.add, container, IPv4Address(int(WEB) + number), name)
        with messages_noted() as messages:
            two = await cluster.start(2, 1)
            await wait_until(lambda: two.names.table.count_alive() == many, within=10)
            await cluster.agree(within=0)
        told = [message for message in messages if message.receiver == two.node.name]
        assert sum(len(message.entries) for message in told) >= many
        assert max(len(message.entries) for message in told) <= ENTRIES_PER_MESSAGE == 512
        assert max(message.bytes for message in told) <= 64_000

    run_names_cluster(main)


@pytest.mark.parametrize("names4", [False, True])
def test_names_pass_through_a_router_that_does_not_know_them(names4: bool) -> None:
    """As Weave Net 2.8 does with those of IPv6, and without DNS with all."""

    async def main(cluster: NamesCluster) -> None:
        one = await cluster.start(1)
        relay = await cluster.start_relay(2, 1, names4=names4)
        three = await cluster.start(3, 2)
        await cluster.meet()
        await one.add("web", IPv6Address("fd00::1"), "web.weave.local")
        await one.add("web", IPv4Address("10.32.0.1"), "web.weave.local")
        await wait_until(lambda: cluster.found("web.weave.local").count(3) == 2, within=SPREAD)
        await cluster.start(4, 2)  # the relay has nothing to tell it
        await wait_until(lambda: cluster.found("web.weave.local").count(4) == 2, within=3 * GOSSIP)
        assert three.node.route(one.node) == relay.name
        await one.remove("web")
        await wait_until(lambda: not cluster.found("web.weave.local"), within=SPREAD)
        await trio.sleep(4 * GOSSIP)
        assert not cluster.found("web.weave.local")
        assert cluster.hosts[4].names.table.has_family(6)
        assert not names4 or not cluster.hosts[2].names.table.has_family(6)

    run_names_cluster(main)
