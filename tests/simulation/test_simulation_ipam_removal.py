"""Peers that are gone are taken over by agreement of all owners, and come back as strangers."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio

from weave_ipam.errors import RemovalRefused, Unserved
from weave_ipam.removal import CHANNEL, GONE_SECONDS, Message, Step, decode_message
from weave_ipam.service import AGREEMENT_S, REPEAT_S, Ipam
from weave_ipam.settings import parse_settings
from weave_router.testing.simulated_cluster import address, run_cluster, wait_until
from weave_router.testing.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from weave_router.shell.router import Router
    from weave_router.testing.simulated_cluster import SimulatedCluster
    from weave_router.wire.peer_name import PeerName

RANGE = "10.32.0.0/24"
LONG_GONE = GONE_SECONDS + 70
"""Until everybody has missed a peer that fell silent, and has missed it for long enough."""


class Hosts:
    """Hosts 1 to n, all connected, each with an allocator that owns a part of the range."""

    def __init__(self, cluster: SimulatedCluster, nursery: trio.Nursery, count: int) -> None:
        self.cluster = cluster
        self.numbers = range(1, count + 1)
        self.ipams: dict[int, Ipam] = {}
        self._nursery = nursery
        self._stores: dict[int, MemoryStore] = {}
        self._scopes: dict[int, trio.CancelScope] = {}

    async def start(self, number: int) -> None:
        made: list[Router] = []
        node = self.cluster.node(number)
        node.prepare = made.append
        store = self._stores.setdefault(number, MemoryStore())

        async def live() -> None:
            with trio.CancelScope() as self._scopes[number]:
                await ipam.run()

        others = [address(other) for other in self.ipams if other != number]
        await node.start(*others)
        settings = parse_settings(RANGE, None, "seed=" + ",".join(f"02:00:00:00:00:{n:02x}" for n in self.numbers))
        assert settings is not None
        chance = random.Random(f"{number} {node.lives}")
        ipam = Ipam(settings, made[-1].mesh, store, random=chance, clock=lambda: 1.7e9 + trio.current_time())
        await ipam.begin()
        made[-1].on_routes_changed(ipam.routes_changed)
        self.ipams[number] = ipam
        self._nursery.start_soon(live)

    async def crash(self, number: int) -> None:
        self._stores[number] = self._stores[number].crash()
        self._scopes[number].cancel()
        await self.cluster.node(number).crash(silent=True)

    def shares(self, number: int) -> dict[str, int]:
        return {owner.nickname: owner.size for owner in self.ipams[number].status().owners}


def among(count: int) -> Callable[[Callable[[Hosts], Awaitable[None]]], Callable[[], None]]:
    """Runs a test with so many hosts that know each other; each has given out an address."""

    def decorate(check: Callable[[Hosts], Awaitable[None]]) -> Callable[[], None]:
        def run() -> None:
            async def main(cluster: SimulatedCluster) -> None:
                async with trio.open_nursery() as nursery:
                    hosts = Hosts(cluster, nursery, count)
                    for number in hosts.numbers:
                        await hosts.start(number)
                    nodes = [cluster.node(number) for number in hosts.numbers]
                    everybody = {node.name for node in nodes}
                    await wait_until(
                        lambda: all(node.neighbours() | {node.name} == everybody for node in nodes), within=60
                    )
                    for number in hosts.numbers:
                        await hosts.ipams[number].allocate("first")
                    await trio.sleep(40)
                    await check(hosts)
                    nursery.cancel_scope.cancel()

            run_cluster(main)

        return run

    return decorate


among_four = among(4)


@among_four
async def test_all_agree_and_one_takes_over(hosts: Hosts) -> None:
    await hosts.crash(4)
    await trio.sleep(LONG_GONE)
    assert await hosts.ipams[1].remove_peer("node 4") == 64
    await trio.sleep(5)
    for number in (1, 2, 3):
        assert hosts.shares(number) == {"node 1": 128, "node 2": 64, "node 3": 64}


def questions_of(hosts: Hosts, number: int) -> list[PeerName]:
    """Whom a host asks from now on whether a peer may be removed, each time that it does."""
    asked: list[PeerName] = []
    mesh = hosts.cluster.node(number).router.mesh
    send = mesh.unicast

    def unicast(channel: str, destination: PeerName, payload: bytes) -> None:
        if channel == CHANNEL and decode_message(payload).step is Step.ASK:
            asked.append(destination)
        send(channel, destination, payload)

    mesh.unicast = unicast  # type: ignore[method-assign]
    return asked


@among(12)
async def test_each_owner_is_asked_once_where_all_answer(hosts: Hosts) -> None:
    """And not again with every answer of another: 200 owners would be asked 20 000 times."""
    await hosts.crash(12)
    await trio.sleep(LONG_GONE)
    asked = questions_of(hosts, 1)
    assert await hosts.ipams[1].remove_peer("node 12") > 0
    assert sorted(asked) == [hosts.cluster.node(number).name for number in range(2, 12)]


@among_four
async def test_only_owners_that_do_not_answer_are_asked_again_every_second(hosts: Hosts) -> None:
    await hosts.crash(4)
    await trio.sleep(LONG_GONE)
    hosts.cluster.world.partition([address(1), address(2)], [address(3)])
    asked = questions_of(hosts, 1)
    with pytest.raises(RemovalRefused, match="no answer from 02:00:00:00:00:03"):
        await hosts.ipams[1].remove_peer("node 4")
    assert Counter(asked) == {hosts.cluster.node(2).name: 1, hosts.cluster.node(3).name: AGREEMENT_S / REPEAT_S}


@among_four
async def test_a_peer_that_lives_is_not_removed(hosts: Hosts) -> None:
    with pytest.raises(RemovalRefused, match="can be reached"):
        await hosts.ipams[1].remove_peer("node 4")
    assert hosts.shares(1)["node 4"] == 64


@among_four
async def test_a_peer_that_others_reach_is_not_removed(hosts: Hosts) -> None:
    """Only 1 has lost its way to 4, and to 3, which could have told."""
    world = hosts.cluster.world
    world.partition([address(1), address(2)], [address(3), address(4)])
    await trio.sleep(LONG_GONE)
    with pytest.raises(RemovalRefused, match="cannot be reached: 02:00:00:00:00:03"):
        await hosts.ipams[1].remove_peer("node 4")
    with pytest.raises(RemovalRefused, match="cannot be reached: 02:00:00:00:00:02"):
        await hosts.ipams[3].remove_peer("node 1")


@among_four
async def test_a_peer_that_has_just_fallen_silent_may_come_back(hosts: Hosts) -> None:
    await hosts.crash(4)
    await wait_until(lambda: "node 4" in str([o for o in hosts.ipams[1].status().owners if not o.known]), within=90)
    with pytest.raises(RemovalRefused, match=r"out of reach for .* s only: try again in"):
        await hosts.ipams[1].remove_peer("node 4")


@among_four
async def test_two_who_are_gone_are_named_together(hosts: Hosts) -> None:
    await hosts.crash(3)
    await hosts.crash(4)
    await trio.sleep(LONG_GONE)
    with pytest.raises(RemovalRefused, match="name those as well"):
        await hosts.ipams[1].remove_peer("node 4")
    assert await hosts.ipams[1].remove_peer("node 4", also=["node 3"]) == 64
    assert await hosts.ipams[1].remove_peer("node 3") == 64


@among_four
async def test_two_takers_at_once_do_not_both_take_over(hosts: Hosts) -> None:
    await hosts.crash(4)
    await trio.sleep(LONG_GONE)
    gained: list[int] = []

    async def take(number: int) -> None:
        try:
            gained.append(await hosts.ipams[number].remove_peer("node 4"))
        except RemovalRefused:
            gained.append(0)

    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3):
            nursery.start_soon(take, number)
    if sum(gained) == 0:  # they may have stood in each other's way
        gained.append(await hosts.ipams[2].remove_peer("node 4"))
    assert sum(gained) == 64
    await trio.sleep(40)
    assert hosts.shares(1) == hosts.shares(2) == hosts.shares(3)
    assert sum(hosts.shares(1).values()) == 256


@among_four
async def test_who_was_removed_gives_nothing_out_when_it_is_back(hosts: Hosts) -> None:
    await hosts.crash(4)
    await trio.sleep(LONG_GONE)
    await hosts.ipams[1].remove_peer("node 4")
    hosts.cluster.world.partition([address(4)], [address(1), address(2), address(3)])
    await hosts.start(4)
    assert hosts.shares(4)["node 4"] == 64, "it has not heard of it"
    for identifier in ("first", "second"):
        with pytest.raises(Unserved, match="may have been removed meanwhile"):
            await hosts.ipams[4].allocate(identifier)
    hosts.cluster.world.heal()
    address_again = await hosts.ipams[4].allocate("third", wait=90)
    assert hosts.shares(4).get("node 1", 0) >= 64
    await trio.sleep(40)
    assert hosts.shares(4) == hosts.shares(1) == hosts.shares(2)
    assert not hosts.ipams[1].status().conflicts
    assert not hosts.ipams[4].status().conflicts
    assert hosts.ipams[4].owned() == {"third": (address_again,)}, "what it held before is void"


@among_four
async def test_what_a_peer_did_unheard_before_it_was_gone_does_not_make_it_owner_again(hosts: Hosts) -> None:
    for number in range(150):
        await hosts.ipams[4].allocate(f"short{number}")
        await hosts.ipams[4].release(f"short{number}")
    await hosts.crash(4)
    await trio.sleep(LONG_GONE)
    await hosts.ipams[1].remove_peer("node 4")
    for number in range(100):  # more than it had of its own
        await hosts.ipams[1].allocate(f"new{number}")
    await hosts.start(4)
    taken = {address for addresses in hosts.ipams[1].owned().values() for address in addresses}
    assert await hosts.ipams[4].allocate("after", wait=60) not in taken
    await trio.sleep(40)
    assert hosts.shares(1) == hosts.shares(2) == hosts.shares(4)
    assert not any(hosts.ipams[number].status().conflicts for number in (1, 2, 3, 4))


@among_four
async def test_who_was_away_but_not_removed_goes_on(hosts: Hosts) -> None:
    before = hosts.ipams[4].owned()
    await hosts.crash(4)
    await trio.sleep(LONG_GONE)
    await hosts.start(4)
    assert {"first": (await hosts.ipams[4].allocate("first", wait=30),)} == before


@among_four
async def test_the_last_host_that_is_left_is_freed_by_force(hosts: Hosts) -> None:
    for number in (1, 2, 3, 4):
        await hosts.crash(number)
    await trio.sleep(LONG_GONE)
    await hosts.start(4)
    with pytest.raises(Unserved, match="weave rmpeer --force"):
        await hosts.ipams[4].allocate("second", wait=3)
    for number in (1, 2, 3):
        assert await hosts.ipams[4].remove_peer(f"node {number}", force=True) == 64
    await hosts.ipams[4].allocate("second", wait=3)
    assert hosts.shares(4) == {"node 4": 256}


@among_four
async def test_a_short_restart_needs_nobody(hosts: Hosts) -> None:
    before = hosts.ipams[4].owned()
    await hosts.crash(4)
    hosts.cluster.world.partition([address(4)], [address(1), address(2), address(3)])
    await hosts.start(4)
    assert {"first": (await hosts.ipams[4].allocate("first", wait=1),)} == before
    await hosts.ipams[4].allocate("second", wait=1)


@among_four
async def test_who_agreed_to_a_removal_confirms_nobody_until_the_taker_has_given_up(hosts: Hosts) -> None:
    """The taker crashes between the votes and the deed."""
    await hosts.crash(4)
    await trio.sleep(LONG_GONE)
    removals = hosts.ipams[1]._removals
    vote = removals.begin(hosts.cluster.node(4).name, {hosts.cluster.node(n).name for n in (2, 3)})
    for owner in (2, 3):
        (_, answer), *_ = hosts.ipams[owner]._removals.receive(
            hosts.cluster.node(1).name,
            Message(Step.ASK, hosts.cluster.node(4).name, vote.ballot),
            trio.current_time(),
        )
        assert answer.step.name == "YES", answer
    await trio.sleep(2)  # stored
    await hosts.crash(1)
    await hosts.start(4)
    with pytest.raises(Unserved, match="may have been removed meanwhile"):
        await hosts.ipams[4].allocate("second")
    await hosts.start(1)
    await hosts.ipams[4].allocate("second", wait=60)
