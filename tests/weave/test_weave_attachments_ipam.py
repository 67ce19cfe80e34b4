"""Attachments whose addresses come from the allocator: host, store and records in step, whatever fails."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from weave.fragile_store import FragileStore
from weave.http_asker import WEB, Asker, on_socket, with_daemon
from weave.lonely_parts import lonely_ipam, lonely_mesh, make_attachments
from weave_ipam.service import WAIT_S, Ipam
from weave_net.attachment import host_interface_name
from weave_net.attachment_request import AttachmentRequest, check_key
from weave_net.attachments import GRACE_S, SWEEP_S, Attachments
from weave_net.errors import AttachmentConflict, AttachmentError, DaemonError, StoreError
from weave_net.testing.wirings import FakeWiring
from weave_router.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from weave_router.doors import VethInfo, VethRequest

DB = "/run/netns/db"
OTHER = "range 10.99.0.0/24 out of bounds: 10.32.0.0/12"


class World:
    """A daemon's attachments with its allocator, which is alone with a quorum of one unless told otherwise."""

    def __init__(self, beginning: str | None = None) -> None:
        self.beginning = beginning
        self.fakes = FakeWiring()
        self.host = self.fakes.host
        self.store = FragileStore("attachment/")
        self.ipam: Ipam
        self.attachments: Attachments

    async def begin(self) -> None:
        """Start the parts of a daemon, or the next one, on the present store."""
        self.ipam = lonely_ipam(lonely_mesh(), self.store, self.beginning)
        await self.ipam.begin()
        self.attachments = make_attachments(self.fakes, self.store, ipam=self.ipam)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """With the allocator at work."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.ipam.run)
            yield
            nursery.cancel_scope.cancel()

    async def put(
        self, *addresses: str, key: str = "web", interface: str = "ethwe", netns: str = WEB, **fields: Any
    ) -> list[str]:
        """Attach, and return the addresses of the attachment."""
        request = AttachmentRequest(netns=netns, addresses=addresses, **fields)
        return list((await self.attachments.put(key, interface, request)).addresses)

    def inside(self, key: str = "web", interface: str = "ethwe") -> list[str]:
        """The addresses that the container's interface has."""
        device = self.host.devices.get(host_interface_name(key, interface))
        return [str(address) for address in device.peer.addresses] if device and device.peer else []

    def owned(self) -> dict[str, list[str]]:
        """What is recorded, by identifier."""
        return {key: [str(address) for address in addresses] for key, addresses in self.ipam.owned().items()}

    async def stored(self) -> tuple[list[str], list[str]]:
        """Keys of attachments and of records in the store."""
        return list(await self.store.read("attachment/")), list(await self.store.read("ipam/lease/"))


def in_a_world(
    check: Callable[[World], Awaitable[None]], beginning: str | None = None, *, mock_clock: bool = True
) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            world = World(beginning)
            await world.host.ensure_bridge("weave", "02:00:00:00:00:01", 1376)
            world.host.add_namespace(WEB)
            world.host.add_namespace(DB)
            await world.begin()
            async with world.running():
                await check(world)

        trio.run(main, clock=MockClock(autojump_threshold=0) if mock_clock else None)

    return run


def without_quorum(check: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    return in_a_world(check, "consensus=3")


# The forms of addresses


@in_a_world
async def test_address_of_the_default_subnet(world: World) -> None:
    assert await world.put("net:default") == ["10.32.0.1/12"]
    assert world.inside() == ["10.32.0.1/12"]
    assert world.owned() == {"web": ["10.32.0.1/12"]}
    assert await world.stored() == (["attachment/web/ethwe"], ["ipam/lease/web"])
    writes = world.store.writes
    assert await world.put("net:default") == ["10.32.0.1/12"]
    assert world.store.writes == writes


@in_a_world
async def test_addresses_of_subnets(world: World) -> None:
    wanted = ("net:10.40.1.0/24", "net:default", "net:10.40.2.0/24")
    addresses = await world.put(*wanted)
    # One of the subnet is one of the range; an address is there once, whatever its length.
    assert addresses == world.inside() == ["10.40.1.1/24", "10.40.2.1/24"]
    assert world.owned() == {"web": ["10.40.1.1/24", "10.40.2.1/24"]}


@in_a_world
async def test_subnet_outside_of_the_range(world: World) -> None:
    with pytest.raises(AttachmentError, match=OTHER):
        await world.put("net:default", "net:10.99.0.0/24")
    assert (world.inside(), world.owned()) == ([], {})


@in_a_world
async def test_plain_addresses_are_claimed(world: World) -> None:
    wanted = ["10.32.0.1/16", "192.168.5.5/24", "fd00::5/64"]
    assert await world.put(*wanted) == wanted
    assert world.owned() == {"web": ["10.32.0.1/16", "192.168.5.5/24"]}
    assert await world.put("net:default", key="db", netns=DB) == ["10.32.0.2/12"]
    assert await world.put("net:default") == wanted, "a claimed address is one of the subnet, too"
    assert world.owned()["web"] == ["10.32.0.1/16", "192.168.5.5/24"]


@pytest.mark.parametrize("taken", ["10.32.0.5/12", "192.168.5.5/24"])
def test_address_of_somebody_else(taken: str) -> None:
    @in_a_world
    async def check(world: World) -> None:
        await world.ipam.claim("db", ip_interface(taken))
        for wanted in ((taken,), ("net:default", taken), ("10.2.1.5/24", taken, "net:10.40.0.0/24")):
            with pytest.raises(AttachmentConflict, match=rf"{taken} (is already owned|already in use) by db"):
                await world.put(*wanted)
            assert world.owned() == {"db": [taken]}
            assert world.inside() == []
            assert await world.stored() == ([], ["ipam/lease/db"])
            assert not world.attachments._locks

    check()


@in_a_world
async def test_conflict_leaves_what_was_there(world: World) -> None:
    before = await world.put("net:default")
    await world.put("10.32.0.9/12", key="db", netns=DB)
    with pytest.raises(AttachmentConflict):
        await world.put("net:default", "10.2.1.5/24", "10.32.0.9/12")
    assert world.inside() == before
    assert world.owned() == {"web": before, "db": ["10.32.0.9/12"]}


@on_socket
async def test_conflict_over_http(ask: Asker) -> None:
    await ask("PUT", "/ip/db/10.32.0.5/12")
    body = {"netns": WEB, "addresses": ["10.32.0.5/12"]}
    answer = await ask("PUT", "/attachment/web/ethwe", json.dumps(body))
    assert (answer.status, answer.body) == (409, "address 10.32.0.5/12 is already owned by db\n")
    answer = await ask("PUT", "/attachment/web/ethwe", json.dumps({**body, "addresses": ["net:10.99.0.0/24"]}))
    assert (answer.status, answer.body) == (400, OTHER + "\n")
    assert (await ask("GET", "/attachment")).json == []
    answer = await ask("PUT", "/attachment/web/ethwe", json.dumps({**body, "addresses": ["net:default"]}))
    assert answer.json["addresses"] == ["10.32.0.1/12"]
    assert "holder" not in answer.json


def test_allocation_that_is_off(tmp_path: Path) -> None:
    async def check(ask: Asker) -> None:
        body = {"netns": WEB, "addresses": ["net:default"]}
        answer = await ask("PUT", "/attachment/web/ethwe", json.dumps(body))
        assert answer.status == 400
        assert answer.body == "net:default: address allocation is off; give an address as ADDRESS/LEN\n"
        answer = await ask("PUT", "/attachment/web/ethwe", json.dumps({**body, "addresses": ["10.32.0.1/12"]}))
        assert answer.json["addresses"] == ["10.32.0.1/12"]
        assert (await ask("DELETE", "/attachment/web/ethwe")).json == {"removed": ["10.32.0.1/12"]}

    with_daemon(check, ipalloc_range="")(tmp_path)


# Failures


@pytest.mark.parametrize("who", ["host", "store"])
def test_failure_frees_what_is_new(who: str) -> None:
    @in_a_world
    async def check(world: World) -> None:
        def fail() -> None:
            if who == "host":
                world.host.fail_next("attach", HostError("no memory"))
            else:
                world.store.failing = True

        fail()
        with pytest.raises((HostError, StoreError)):
            await world.put("net:default", "10.40.0.5/24", "192.168.1.1/24")
        assert (world.owned(), world.inside(), await world.stored()) == ({}, [], ([], []))

        before = await world.put("net:default")
        fail()
        with pytest.raises((HostError, StoreError)):
            await world.put("net:default", "10.40.0.5/24", "net:10.41.0.0/24")
        assert world.owned() == {"web": before}
        assert world.inside() == before
        assert await world.put("10.40.0.5/24") == [*before, "10.40.0.5/24"]

    check()


@in_a_world
async def test_failure_keeps_what_was_reserved_before(world: World) -> None:
    """`POST /ip/web` first, as the callers of 2.8 do, then the attachment."""
    address = str(await world.ipam.allocate("web"))
    world.host.fail_next("attach", HostError("no memory"))
    with pytest.raises(HostError):
        await world.put(address)
    assert world.owned() == {"web": [address]}


@in_a_world
async def test_namespace_that_is_not_there_takes_no_address(world: World) -> None:
    with pytest.raises(AttachmentError, match="no network namespace"):
        await world.put("net:default", netns="/run/netns/none")
    assert world.owned() == {}


@in_a_world
async def test_conflict_of_attachments_takes_no_address(world: World) -> None:
    before = await world.put("net:default", mac="7a:00:00:00:00:01")
    with pytest.raises(AttachmentConflict):
        await world.put("net:10.40.0.0/24", mac="7a:00:00:00:00:02")
    with pytest.raises(AttachmentConflict):
        await world.put("net:10.40.0.0/24", netns=DB)
    assert world.owned() == {"web": before}


@in_a_world
async def test_container_that_dies_while_it_is_attached(world: World) -> None:
    working = world.host.attach

    async def die(request: VethRequest) -> VethInfo:
        world.host.remove_namespace(WEB)
        return await working(request)

    world.host.attach = die  # type: ignore[method-assign]
    with pytest.raises(HostError):
        await world.put("net:default")
    assert (world.owned(), await world.stored()) == ({}, ([], []))


# Containers that are started anew


def restart(world: World) -> None:
    world.host.remove_namespace(WEB)
    world.host.add_namespace(WEB)


@in_a_world
async def test_restarted_container_keeps_its_allocated_address(world: World) -> None:
    assert await world.put("net:default", "10.40.0.5/24", "10.99.0.5/24") == [
        "10.32.0.1/12",
        "10.40.0.5/24",
        "10.99.0.5/24",
    ]
    restart(world)
    assert await world.put("net:default") == ["10.32.0.1/12"]
    assert world.owned() == {"web": ["10.32.0.1/12"]}
    assert world.inside() == ["10.32.0.1/12"]
    assert await world.put("10.40.0.5/24", key="db", netns=DB) == ["10.40.0.5/24"]


@in_a_world
async def test_restarted_container_that_cannot_be_attached_keeps_its_addresses(world: World) -> None:
    before = await world.put("net:default")
    restart(world)
    world.host.fail_next("attach", HostError("no memory"))
    with pytest.raises(HostError):
        await world.put("net:default", "10.40.0.5/24")
    assert world.owned() == {"web": before}
    assert await world.put("net:default") == before


# Detaching


@in_a_world
async def test_detaching_frees(world: World) -> None:
    await world.put("net:default", "10.40.0.5/24", "192.168.1.1/24")
    assert await world.attachments.delete("web", "ethwe", ("10.40.0.5",)) == ("10.40.0.5/24",)
    assert world.owned() == {"web": ["10.32.0.1/12", "192.168.1.1/24"]}
    await world.attachments.delete("web", "ethwe")
    assert (world.owned(), await world.stored()) == ({}, ([], []))
    await world.attachments.delete("web", "ethwe")
    assert await world.put("192.168.1.1/24", "10.40.0.5/24", key="db", netns=DB)


@pytest.mark.parametrize("who", ["host", "store"])
def test_detaching_that_fails_frees_nothing(who: str) -> None:
    @in_a_world
    async def check(world: World) -> None:
        before = await world.put("net:default")
        if who == "host":
            world.host.fail_next("detach", HostError("no memory"))
        else:
            world.store.failing = True
        with pytest.raises((HostError, StoreError)):
            await world.attachments.delete("web", "ethwe")
        assert world.owned() == {"web": before}
        assert world.inside() == before

    check()


@in_a_world
async def test_address_that_was_freed_by_hand_is_no_obstacle(world: World) -> None:
    (address,) = await world.put("net:default")
    await world.ipam.release("web", ip_interface(address).ip)
    assert await world.attachments.delete("web", "ethwe") == (address,)
    assert await world.stored() == ([], [])


@in_a_world
async def test_address_that_is_asked_for_with_two_lengths_is_there_once(world: World) -> None:
    """The allocator answers with the address that the id has, in the length of the subnet that is asked for."""
    assert await world.put("net:default") == ["10.32.0.1/12"]
    assert await world.put("net:10.32.0.0/24") == ["10.32.0.1/12"]
    assert await world.attachments.delete("web", "ethwe", ("10.32.0.1/24",)) == ()
    assert world.inside() == ["10.32.0.1/12"]
    assert world.owned() == {"web": ["10.32.0.1/12"]}


@pytest.mark.parametrize("happens", ["failure", "restart"])
def test_address_that_is_asked_for_in_another_length_stays_held(happens: str) -> None:
    @in_a_world
    async def check(world: World) -> None:
        assert await world.put("net:default") == ["10.32.0.1/12"]
        if happens == "failure":
            world.host.fail_next("attach", HostError("no memory"))
            with pytest.raises(HostError):
                await world.put("net:10.32.0.0/24")
        else:
            restart(world)
            await world.put("net:10.32.0.0/24")
        assert world.inside()
        assert list(world.owned()) == ["web"]

    check()


# Several interfaces


@in_a_world
async def test_two_interfaces_of_one_id_get_two_addresses(world: World) -> None:
    assert await world.put("net:default") == ["10.32.0.1/12"]
    assert await world.put("net:default", interface="eth1") == ["10.32.0.2/12"]
    assert await world.put("net:default", interface="eth1") == ["10.32.0.2/12"]
    with pytest.raises(AttachmentConflict):
        await world.put("10.32.0.1/12", interface="eth1")
    await world.attachments.delete("web", "ethwe")
    assert list(world.owned().values()) == [["10.32.0.2/12"]]
    assert await world.put("net:default") == ["10.32.0.3/12"]
    await world.attachments.delete("web", "eth1")
    await world.attachments.delete("web", "ethwe")
    assert world.owned() == {}


@in_a_world
async def test_interfaces_keep_their_addresses_over_a_restart_of_the_daemon(world: World) -> None:
    for interface in ("ethwe", "eth1"):
        await world.put("net:default", interface=interface)
    before = world.owned()
    await world.begin()
    async with world.running():
        await world.attachments.adopt()
        assert world.owned() == before
        assert await world.put("net:default", interface="eth1") == ["10.32.0.2/12"]
        await world.attachments.delete("web", "ethwe")
        await world.attachments.delete("web", "eth1")
        assert world.owned() == {}


@in_a_world
async def test_two_interfaces_at_the_same_time(world: World) -> None:
    async with trio.open_nursery() as nursery:
        for interface in ("ethwe", "eth1", "eth2"):
            nursery.start_soon(partial(world.put, "net:default", interface=interface))
    addresses = [world.inside(interface=interface) for interface in ("ethwe", "eth1", "eth2")]
    assert sorted(addresses) == [["10.32.0.1/12"], ["10.32.0.2/12"], ["10.32.0.3/12"]]


@in_a_world
async def test_ids_at_the_same_time(world: World) -> None:
    for number in range(20):
        world.host.add_namespace(f"/run/netns/{number}")
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(partial(world.put, "net:default", key=f"c{number}", netns=f"/run/netns/{number}"))
    addresses = [text for number in range(20) for text in world.inside(f"c{number}")]
    assert sorted(addresses, key=ip_interface) == [f"10.32.0.{number}/12" for number in range(1, 21)]


def test_id_that_means_nobody() -> None:
    with pytest.raises(AttachmentError, match="means nobody"):
        check_key("_", "ethwe")


# Containers that end without a word


@in_a_world
async def test_addresses_of_a_container_that_is_gone_are_freed_after_a_while(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.attachments.run)
        await world.put("net:default", "10.40.0.5/24")
        await world.put("net:default", key="db", netns=DB)
        await trio.sleep(3 * SWEEP_S)
        world.host.remove_namespace(WEB)
        await trio.sleep(GRACE_S)
        assert sorted(world.owned()) == ["db", "web"], "it may be started anew"
        await trio.sleep(SWEEP_S + 1)
        assert list(world.owned()) == ["db"]
        assert await world.stored() == (["attachment/db/ethwe"], ["ipam/lease/db"])
        nursery.cancel_scope.cancel()


@in_a_world
async def test_container_that_is_back_in_time_keeps_its_address(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.attachments.run)
        await world.put("net:default")
        world.host.remove_namespace(WEB)
        await trio.sleep(GRACE_S - 1)
        world.host.add_namespace(WEB)
        assert await world.put("net:default") == ["10.32.0.1/12"]
        await trio.sleep(GRACE_S * 3)
        assert world.inside() == ["10.32.0.1/12"]
        assert world.owned() == {"web": ["10.32.0.1/12"]}
        nursery.cancel_scope.cancel()


@in_a_world
async def test_container_that_comes_back_while_it_is_swept_away(world: World) -> None:
    working = world.host.attach

    async def slow(request: VethRequest) -> VethInfo:
        await trio.sleep(2 * SWEEP_S - 2)
        return await working(request)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.attachments.run)
        await world.put("net:default")
        world.host.remove_namespace(WEB)
        await trio.sleep(GRACE_S + SWEEP_S - 1)
        world.host.add_namespace(WEB)
        world.host.attach = slow  # type: ignore[method-assign]
        assert await world.put("net:default") == ["10.32.0.1/12"]
        await trio.sleep(1)
        assert world.inside() == ["10.32.0.1/12"]
        assert world.attachments.get("web", "ethwe") is not None
        nursery.cancel_scope.cancel()


@in_a_world
async def test_sweeping_that_fails_is_tried_again(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.attachments.run)
        await world.put("net:default")
        world.host.remove_namespace(WEB)
        world.store.failing = True
        await trio.sleep(GRACE_S + 3 * SWEEP_S)
        assert world.owned() == {}
        nursery.cancel_scope.cancel()


# Daemons that start


@in_a_world
async def test_lost_records_are_made_again(world: World) -> None:
    before = await world.put("net:default", "10.40.0.5/24", "192.168.1.1/24")
    await world.put("net:default", interface="eth1")
    held = world.owned()
    await world.store.write(dict.fromkeys(await world.store.read("ipam/")))
    await world.begin()
    async with world.running():
        assert world.owned() == {}
        await world.attachments.adopt()
        await world.ipam.prime()
        await trio.testing.wait_all_tasks_blocked()
        assert {key: sorted(value) for key, value in world.owned().items()} == {
            key: sorted(value) for key, value in held.items()
        }
        assert await world.put("net:default") == before
        assert await world.put("net:default", key="db", netns=DB) == ["10.32.0.3/12"]


@without_quorum
async def test_lost_records_without_a_quorum_do_not_hold_up_the_start(world: World) -> None:
    await world.put("10.32.0.1/12")
    await world.begin()
    async with world.running():
        begin = trio.current_time()
        await world.attachments.adopt()
        assert trio.current_time() - begin < 1
        assert world.ipam.status().pending_claims == (("web", "10.32.0.1", 12),)


@in_a_world
async def test_contradiction_at_the_start_is_only_logged(world: World) -> None:
    await world.put("net:default")
    await world.ipam.release("web")
    await world.ipam.claim("db", ip_interface("10.32.0.1/12"))
    await world.begin()
    async with world.running():
        await world.attachments.adopt()
        assert world.owned() == {"db": ["10.32.0.1/12"]}
        assert world.inside() == ["10.32.0.1/12"]


@in_a_world
async def test_containers_that_ended_meanwhile_are_freed_at_the_start(world: World) -> None:
    await world.put("net:default", "10.40.0.5/24")
    await world.put("net:default", key="db", netns=DB)
    restart(world)
    await world.begin()
    async with world.running():
        await world.attachments.adopt()
        assert list(world.owned()) == ["db"]
        assert await world.stored() == (["attachment/db/ethwe"], ["ipam/lease/db"])


@in_a_world
async def test_address_of_an_attachment_that_a_crash_cut_short_is_freed_at_the_start(world: World) -> None:
    working = world.host.attach

    async def slow(request: VethRequest) -> VethInfo:
        await trio.sleep(5)
        return await working(request)

    world.host.attach = slow  # type: ignore[method-assign]
    await world.ipam.allocate("by-hand")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.put, "net:default")
        await trio.sleep(1)
        assert sorted(world.owned()) == ["by-hand", "web"]
        survivor = FragileStore("attachment/", await world.store.read())
        nursery.cancel_scope.cancel()
    world.store = survivor
    await world.begin()
    async with world.running():
        await world.attachments.adopt()
        assert sorted(world.owned()) == ["by-hand"]


# Waiting


@without_quorum
async def test_no_address_to_be_had(world: World) -> None:
    begin = trio.current_time()
    with pytest.raises(DaemonError, match="no address could be had: no quorum: 1 of 2 peers"):
        await world.put("net:default")
    assert trio.current_time() - begin == pytest.approx(WAIT_S)
    assert (await world.stored(), world.inside(), world.ipam.status().pending_allocations) == (([], []), [], ())


@without_quorum
async def test_plain_addresses_do_not_wait(world: World) -> None:
    begin = trio.current_time()
    assert await world.put("10.32.0.5/12", "192.168.1.1/24") == ["10.32.0.5/12", "192.168.1.1/24"]
    assert trio.current_time() - begin < 1
    assert world.ipam.status().pending_claims == (("web", "10.32.0.5", 12),)


@without_quorum
async def test_claim_that_waits_goes_with_its_container(world: World) -> None:
    await world.put("10.32.0.5/12")
    await world.attachments.delete("web", "ethwe")
    assert world.ipam.status().pending_claims == ()


@without_quorum
async def test_claim_that_waits_is_made_once(world: World) -> None:
    for _ in range(3):
        await world.put("10.32.0.5/12")
    assert world.ipam.status().pending_claims == (("web", "10.32.0.5", 12),)


@without_quorum
async def test_whoever_stops_waiting_leaves_nothing(world: World) -> None:
    for delay in (0.0, 0.5, WAIT_S - 0.1):
        with trio.move_on_after(delay) as limit:
            await world.put("net:default")
        assert limit.cancelled_caught
        assert world.ipam._allocator.pending == ()
    await trio.sleep(60)
    assert (world.owned(), world.inside(), await world.stored()) == ({}, [], ([], []))
    assert not world.attachments._locks


@pytest.mark.parametrize("address", ["10.32.0.5/12", "net:default"])
def test_whenever_it_is_cancelled_all_agree(address: str) -> None:
    @in_a_world
    async def check(world: World) -> None:
        for moment in range(25):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.put, address)
                for _ in range(moment):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            attachments, leases = await world.stored()
            there = len(world.inside())
            assert (len(attachments), len(leases), len(world.owned())) == (there, there, there), moment
            await world.attachments.delete("web", "ethwe")
            await world.ipam.prime()
            assert world.owned() == {}, moment

    check()
