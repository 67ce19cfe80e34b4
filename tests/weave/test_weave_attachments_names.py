"""Names of attachments: they come and go with the addresses that they lead to, whatever fails."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from weave.fragile_store import FragileStore
from weave.http_asker import WEB, Answer, Asker, on_socket, with_daemon
from weave.lonely_parts import lonely_ipam, lonely_mesh, make_attachments
from weave_dns.entries import Bond
from weave_dns.errors import InvalidName, OutsideDomain, TooMany
from weave_dns.service import Names
from weave_dns.settings import DnsSettings
from weave_net.attachment_request import AttachmentRequest
from weave_net.attachments import GRACE_S, SWEEP_S, Attachments
from weave_net.errors import AttachmentConflict, AttachmentError, StoreError
from weave_net.testing.daemons import running_daemon
from weave_net.testing.wirings import FakeWiring
from weave_router.errors import HostError
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

DB = "/run/netns/db"
NAME = "web.weave.local"
OTHER = "other.weave.local"


class World:
    """A daemon's attachments with its allocator and its names."""

    def __init__(self) -> None:
        self.fakes = FakeWiring()
        self.host = self.fakes.host
        self.store = FragileStore("attachment/")
        self.names: Names
        self.attachments: Attachments

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[None]:
        """The parts of a daemon, at work on the present store; each time it is the next one."""
        mesh = lonely_mesh()
        ipam = lonely_ipam(mesh, self.store)
        await ipam.begin()
        self.names = Names(DnsSettings(), mesh, self.store, clock=lambda: 1_700_000_000.0)
        await self.names.begin()
        self.attachments = make_attachments(self.fakes, self.store, ipam=ipam, names=self.names)
        async with trio.open_nursery() as nursery:
            await nursery.start(ipam.run)
            await nursery.start(self.names.run)
            await self.attachments.adopt()
            yield
            nursery.cancel_scope.cancel()

    async def put(
        self,
        *addresses: str,
        fqdn: str | None = NAME,
        key: str = "web",
        interface: str = "ethwe",
        netns: str = WEB,
        **fields: Any,
    ) -> list[str]:
        """Attach, and return the addresses that this request was given."""
        request = AttachmentRequest(netns=netns, addresses=addresses, fqdn=fqdn, **fields)
        return list((await self.attachments.put(key, interface, request)).given)

    async def delete(self, *addresses: str, key: str = "web", interface: str = "ethwe") -> tuple[str, ...]:
        return await self.attachments.delete(key, interface, addresses)

    async def add(self, address: str, name: str, container: str = "web") -> None:
        """By hand, as `weave dns-add` does: names of a container go with it."""
        bond = Bond.CONTAINER if container == "web" else Bond.NOTHING
        await self.names.add(container, ip_address(address), name, bond=bond)

    def known(self) -> dict[str, list[str]]:
        """The addresses of each name."""
        found: dict[str, list[str]] = {}
        for entry in self.names.table.entries():
            if not entry.tombstone:
                found.setdefault(entry.hostname.removesuffix("."), []).append(str(entry.address))
        return found

    async def stored(self) -> dict[str, list[str]]:
        """The same as the next daemon will find it."""
        found: dict[str, list[str]] = {}
        for value in (await self.store.read("name/")).values():
            if not value["tombstone"]:
                found.setdefault(value["hostname"].removesuffix("."), []).append(value["address"])
        return found

    def restart_container(self, netns: str = WEB) -> None:
        """Another container at the same path."""
        self.host.remove_namespace(netns)
        self.host.add_namespace(netns)


def in_a_world(check: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            world = World()
            await world.host.ensure_bridge("weave", "02:00:00:00:00:01", 1376)
            world.host.add_namespace(WEB)
            world.host.add_namespace(DB)
            async with world.daemon():
                await check(world)

        trio.run(main, clock=MockClock(autojump_threshold=0))

    return run


# Attaching


@in_a_world
async def test_name_leads_to_the_addresses_given(world: World) -> None:
    given = await world.put("net:default", "10.2.1.5/24", "fd00::5/64")
    assert given == ["10.32.0.1/12", "10.2.1.5/24", "fd00::5/64"]
    assert world.known() == {NAME: ["10.2.1.5", "10.32.0.1", "fd00::5"]}
    assert {key: sorted(value) for key, value in (await world.stored()).items()} == world.known()
    (entry, *_) = world.names.table.entries()
    assert (entry.container, entry.origin) == ("web", PeerName(1))


@in_a_world
async def test_name_is_for_the_addresses_of_this_request_only(world: World) -> None:
    await world.put("10.2.1.5/24", fqdn=None)
    assert world.known() == {}
    await world.put("10.2.2.5/24")
    assert world.known() == {NAME: ["10.2.2.5"]}
    await world.put("10.2.1.5/24", "10.2.3.5/24", fqdn=OTHER)
    assert world.known() == {NAME: ["10.2.2.5"], OTHER: ["10.2.1.5", "10.2.3.5"]}


@in_a_world
async def test_address_that_is_there_can_be_given_another_name(world: World) -> None:
    (address,) = await world.put("net:default")
    assert await world.put("net:default", fqdn=OTHER) == [address]
    assert world.known() == {NAME: ["10.32.0.1"], OTHER: ["10.32.0.1"]}


@in_a_world
async def test_repeating_changes_nothing(world: World) -> None:
    await world.put("net:default")
    before = world.names.table.entries()
    for name in (NAME, NAME.upper(), f"{NAME}."):
        await world.put("net:default", fqdn=name)
        assert world.names.table.entries() == before


@in_a_world
async def test_two_wishes_with_one_address(world: World) -> None:
    await world.put("net:default", "net:10.32.0.0/24")
    assert world.known() == {NAME: ["10.32.0.1"]}


@in_a_world
async def test_several_containers_of_one_name(world: World) -> None:
    await world.put("net:default")
    await world.put("net:default", key="db", netns=DB)
    assert sorted(world.known()[NAME]) == ["10.32.0.1", "10.32.0.2"]
    await world.delete()
    assert world.known() == {NAME: ["10.32.0.2"]}


@in_a_world
async def test_attaching_without_an_address_gives_no_name(world: World) -> None:
    assert await world.put() == []
    assert world.known() == {}


BAD_NAMES: list[tuple[str, type[Exception]]] = [
    ("web.example.com", OutsideDomain),
    ("web", OutsideDomain),
    ("w eb.weave.local", InvalidName),
    (f"{'x' * 64}.weave.local", InvalidName),
    ("wéb.weave.local", InvalidName),
    (".", InvalidName),
]


@pytest.mark.parametrize(("name", "error"), BAD_NAMES)
def test_bad_name_attaches_nothing(name: str, error: type[Exception]) -> None:
    @in_a_world
    async def check(world: World) -> None:
        writes, calls = world.store.writes, len(world.host.calls)
        with pytest.raises(error):
            await world.put("net:default", "10.2.1.5/24", fqdn=name)
        assert (world.attachments.list(), world.store.writes, len(world.host.calls)) == ((), writes, calls)
        assert world.known() == {}
        await world.put("net:default")
        with pytest.raises(error):
            await world.put("10.2.1.5/24", fqdn=name)
        (attachment,) = world.attachments.list()
        assert attachment.addresses == ("10.32.0.1/12",)
        assert world.known() == {NAME: ["10.32.0.1"]}

    check()


@pytest.mark.parametrize("who", ["host", "store", "namespace", "conflict"])
def test_attachment_that_fails_adds_no_name(who: str) -> None:
    @in_a_world
    async def check(world: World) -> None:
        wanted = ["net:default"]
        expected: type[Exception] = HostError
        if who == "host":
            world.host.fail_next("attach", HostError("no memory"))
        elif who == "store":
            world.store.failing, expected = True, StoreError
        elif who == "namespace":
            world.host.remove_namespace(WEB)
            expected = AttachmentError
        else:
            await world.put("10.32.0.9/12", fqdn=None, key="db", netns=DB)
            wanted, expected = ["net:default", "10.32.0.9/12"], AttachmentConflict
        with pytest.raises(expected):
            await world.put(*wanted)
        assert (world.known(), await world.stored()) == ({}, {})

    check()


@in_a_world
async def test_no_room_for_another_name(world: World) -> None:
    """The name is an addition: the container stays attached, and whoever asked is told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("weave_dns.table.MAX_ENTRIES", 0)
        with pytest.raises(TooMany):
            await world.put("net:default")
    (attachment,) = world.attachments.list()
    assert attachment.addresses == ("10.32.0.1/12",)
    assert world.known() == {}
    assert await world.put("net:default") == ["10.32.0.1/12"]
    assert world.known() == {NAME: ["10.32.0.1"]}
    await world.delete()
    assert world.known() == {}


# Detaching


@in_a_world
async def test_detached_address_loses_its_names_only(world: World) -> None:
    await world.put("10.2.1.5/24", "10.2.2.5/24")
    await world.put("10.2.1.5/24", "10.2.3.5/24", fqdn=OTHER)
    assert await world.delete("10.2.1.5") == ("10.2.1.5/24",)
    assert world.known() == {NAME: ["10.2.2.5"], OTHER: ["10.2.3.5"]} == await world.stored()
    assert await world.delete("10.2.9.9") == ()
    assert world.known() == {NAME: ["10.2.2.5"], OTHER: ["10.2.3.5"]}
    assert await world.delete("10.2.2.5", "10.2.3.5") == ("10.2.2.5/24", "10.2.3.5/24")
    assert (world.known(), await world.stored()) == ({}, {})


@in_a_world
async def test_last_detach_removes_all_names(world: World) -> None:
    await world.put("net:default", "10.2.1.5/24", "fd00::5/64")
    await world.put("net:default", fqdn=OTHER)
    await world.delete()
    assert (world.known(), await world.stored()) == ({}, {})
    await world.delete()


@in_a_world
async def test_names_by_hand_go_with_the_address(world: World) -> None:
    await world.put("10.2.1.5/24", "10.2.2.5/24", fqdn=None)
    for address in ("10.2.1.5", "10.2.2.5"):
        await world.add(address, NAME)
    await world.add("10.2.1.5", OTHER, container="weave:extern")
    await world.delete("10.2.1.5")
    assert world.known() == {NAME: ["10.2.2.5"], OTHER: ["10.2.1.5"]}, "that of nobody's is another matter"
    await world.delete()
    assert world.known() == {OTHER: ["10.2.1.5"]}


@in_a_world
async def test_names_that_others_see_to_outlive_the_attachment(world: World) -> None:
    """Such as those of a container on one of Docker's networks, which is also attached by hand for a while."""
    await world.put("10.2.1.5/24", fqdn=None)
    await world.names.add("web", ip_address("10.40.0.7"), NAME)
    await world.delete()
    assert world.known() == {NAME: ["10.40.0.7"]}


@in_a_world
async def test_names_by_hand_for_other_addresses_go_with_the_container(world: World) -> None:
    """As the help of 'dns-add' says, and as with 2.8, which forgets all names of a container that died."""
    await world.put("10.2.1.5/24", fqdn=None)
    await world.add("192.0.2.9", NAME)
    await world.delete()
    assert world.known() == {}


@in_a_world
async def test_other_interface_keeps_its_names(world: World) -> None:
    await world.put("net:default")
    await world.put("net:default", interface="eth1")
    assert world.known() == {NAME: ["10.32.0.1", "10.32.0.2"]}
    await world.delete()
    assert world.known() == {NAME: ["10.32.0.2"]}
    await world.delete(interface="eth1")
    assert world.known() == {}


@pytest.mark.parametrize("who", ["host", "store"])
def test_detaching_that_fails_keeps_the_names(who: str) -> None:
    @in_a_world
    async def check(world: World) -> None:
        await world.put("net:default")
        if who == "host":
            world.host.fail_next("detach", HostError("no memory"))
        else:
            world.store.failing = True
        with pytest.raises((HostError, StoreError)):
            await world.delete()
        assert world.known() == {NAME: ["10.32.0.1"]} == await world.stored()
        await world.delete()
        assert world.known() == {}

    check()


@in_a_world
async def test_name_that_was_removed_by_hand_is_no_obstacle(world: World) -> None:
    await world.put("net:default")
    await world.names.remove("web")
    assert world.known() == {}
    assert await world.delete() == ("10.32.0.1/12",)


@in_a_world
async def test_name_that_was_removed_by_hand_comes_back_when_it_is_asked_for(world: World) -> None:
    await world.put("net:default")
    await world.names.remove("web")
    await world.put("net:default", fqdn=None)
    assert world.known() == {}
    await world.put("net:default")
    assert world.known() == {NAME: ["10.32.0.1"]}


# Containers that end or are started anew


@in_a_world
async def test_container_that_is_started_anew_loses_names_of_addresses_that_it_does_not_get_again(world: World) -> None:
    await world.put("net:default", "10.2.1.5/24")
    await world.add("10.32.0.1", OTHER)
    world.restart_container()
    assert world.known() == {NAME: ["10.2.1.5", "10.32.0.1"], OTHER: ["10.32.0.1"]}
    await world.put("net:default")
    assert world.known() == {NAME: ["10.32.0.1"], OTHER: ["10.32.0.1"]}


@in_a_world
async def test_sweep_removes_names(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.attachments.run)
        await world.put("net:default")
        await world.add("10.32.0.1", OTHER)
        await world.put("net:default", key="db", netns=DB, fqdn="db.weave.local")
        world.host.remove_namespace(WEB)
        await trio.sleep(GRACE_S)
        assert len(world.known()) == 3, "it may be started anew"
        await trio.sleep(2 * SWEEP_S)
        assert world.known() == {"db.weave.local": ["10.32.0.2"]} == await world.stored()
        nursery.cancel_scope.cancel()


@in_a_world
async def test_container_that_is_back_in_time_keeps_its_name(world: World) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.attachments.run)
        await world.put("net:default")
        world.host.remove_namespace(WEB)
        await trio.sleep(GRACE_S - 1)
        world.host.add_namespace(WEB)
        await world.put("net:default", fqdn=None)
        await trio.sleep(GRACE_S * 3)
        assert world.known() == {NAME: ["10.32.0.1"]}
        nursery.cancel_scope.cancel()


# Daemons that start


@in_a_world
async def test_names_of_living_attachments_outlive_the_daemon(world: World) -> None:
    await world.put("net:default", "fd00::5/64")
    await world.add("10.32.0.1", OTHER)
    await world.add("10.2.9.9", "printer.weave.local", container="weave:extern")
    before = world.names.table.entries()
    async with world.daemon():
        assert world.names.table.entries() == before
        await world.delete()
        assert world.known() == {"printer.weave.local": ["10.2.9.9"]}


@in_a_world
async def test_names_of_containers_that_ended_meanwhile_are_dropped(world: World) -> None:
    await world.put("net:default")
    await world.add("10.32.0.1", OTHER)
    await world.put("net:default", key="db", netns=DB, fqdn="db.weave.local")
    await world.add("10.2.9.9", "printer.weave.local", container="weave:extern")
    world.host.remove_namespace(WEB)
    async with world.daemon():
        assert world.known() == {"db.weave.local": ["10.32.0.2"], "printer.weave.local": ["10.2.9.9"]}
        assert await world.stored() == world.known()


@in_a_world
async def test_names_of_containers_that_were_started_anew_meanwhile_are_dropped(world: World) -> None:
    await world.put("net:default")
    world.restart_container()
    async with world.daemon():
        assert world.known() == {}
        assert await world.put("net:default") == ["10.32.0.2/12"]
        assert world.known() == {NAME: ["10.32.0.2"]}


@pytest.mark.parametrize("lost", ["one address", "all"])
def test_name_that_a_crash_left_behind_is_dropped(lost: str) -> None:
    """The daemon ended between the change of the attachment and that of the names."""

    @in_a_world
    async def check(world: World) -> None:
        await world.put("net:default", "10.2.1.5/24")
        await world.add("10.2.9.9", "printer.weave.local", container="weave:extern")
        key = "attachment/web/ethwe"
        record = (await world.store.read(key))[key]
        await world.store.write({key: None if lost == "all" else {**record, "addresses": ["10.32.0.1/12"]}})
        async with world.daemon():
            left = {} if lost == "all" else {NAME: ["10.32.0.1"]}
            assert world.known() == {"printer.weave.local": ["10.2.9.9"], **left}
            assert await world.stored() == world.known()

    check()


@in_a_world
async def test_whoever_stops_waiting_leaves_no_name_without_an_address(world: World) -> None:
    for moment in range(25):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.put, "net:default")
            for _ in range(moment):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        if world.known():
            assert world.attachments.get("web", "ethwe") is not None, moment
        await world.delete()
        assert (world.known(), await world.stored()) == ({}, {}), moment


@in_a_world
async def test_names_at_the_same_time(world: World) -> None:
    for number in range(20):
        world.host.add_namespace(f"/run/netns/{number}")
    async with trio.open_nursery() as nursery:
        for number in range(20):
            key = f"c{number}"
            nursery.start_soon(partial(world.put, "net:default", key=key, netns=f"/run/netns/{number}"))
    assert len(world.known()[NAME]) == len(set(world.known()[NAME])) == 20
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(partial(world.delete, key=f"c{number}"))
    assert (world.known(), await world.stored()) == ({}, {})


# By HTTP


async def put(ask: Asker, **body: Any) -> Answer:
    wanted = {"netns": WEB, "addresses": ["net:default"], **body}
    return await ask("PUT", "/attachment/web/ethwe", json.dumps(wanted))


async def addresses(ask: Asker, name: str = "web") -> list[str]:
    return (await ask("GET", f"/lookup/{name}")).body.split()


@on_socket
async def test_attachment_with_a_name(ask: Asker) -> None:
    answer = await put(ask, fqdn=NAME, addresses=["net:default", "fd00::5/64"])
    assert answer.status == 200
    assert await addresses(ask) == [str(ip_interface(text).ip) for text in answer.json["given"]]
    assert "fqdn" not in (await ask("GET", "/attachment/web/ethwe")).json, "a name is no part of the attachment"
    await ask("DELETE", "/attachment/web/ethwe?address=fd00::5")
    assert await addresses(ask) == ["10.32.0.1"]
    await ask("DELETE", "/attachment/web/ethwe")
    assert (await ask("GET", "/lookup/web")).status == 404
    assert (await ask("GET", "/status/dns")).body == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("web.example.com", "web.example.com is outside of the domain weave.local."),
        ("w eb.weave.local", "'w eb.weave.local' is no host name: "),
        ("", "'' is no host name: "),
        (7, "'fqdn' must be a host name such as web.weave.local"),
        ([NAME], "'fqdn' must be a host name such as web.weave.local"),
        (
            f"{'x.' * 150}weave.local",
            f"'{'x.' * 40}' is no host name: labels have 1 to 63 characters, the whole name at",
        ),
    ],
)
def test_attachment_with_a_bad_name(name: object, text: str, tmp_path: Path) -> None:
    @on_socket
    async def check(ask: Asker) -> None:
        answer = await put(ask, fqdn=name)
        assert (answer.status, answer.body.startswith(text)) == (400, True), answer.body
        assert (await ask("GET", "/attachment")).json == []
        assert (await ask("GET", "/ip")).json == {"owned": None}
        assert (await ask("GET", "/status/dns")).body == ""

    check(tmp_path)


@partial(with_daemon, dns=False)
async def test_name_where_names_are_off(ask: Asker) -> None:
    answer = await put(ask, fqdn=NAME)
    assert (answer.status, answer.body) == (400, f"{NAME} cannot be added: names are off (--no-dns)\n")
    assert (await ask("GET", "/attachment")).json == []
    assert (await put(ask)).status == 200
    assert (await put(ask, fqdn=None)).status == 200
    assert (await ask("DELETE", "/attachment/web/ethwe")).status == 200


def test_names_over_a_restart_of_the_whole_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        fakes = FakeWiring()
        for netns in (WEB, DB):
            fakes.host.add_namespace(netns)
        async with running_daemon(tmp_path, fakes) as daemon:
            ask = Asker(daemon)
            assert (await put(ask, fqdn=NAME)).status == 200
            wanted = {"netns": DB, "addresses": ["net:default"], "fqdn": "db.weave.local"}
            assert (await ask("PUT", "/attachment/db/ethwe", json.dumps(wanted))).status == 200
            before = await addresses(ask)
        fakes.host.remove_namespace(DB)
        async with running_daemon(tmp_path, fakes) as daemon:
            ask = Asker(daemon)
            assert await addresses(ask) == before
            assert await addresses(ask, "db") == ["there", "is", "no", "address", "of", "db"]
        async with running_daemon(tmp_path, fakes, dns=False) as daemon:  # for a while without names
            await Asker(daemon)("DELETE", "/attachment/web/ethwe")
        async with running_daemon(tmp_path, fakes) as daemon:
            assert (await Asker(daemon)("GET", "/status/dns")).body == ""

    trio.run(main)
