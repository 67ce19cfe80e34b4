"""The host's own addresses: allocator, bridge, names and store in step, whatever fails; and how they are asked for."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface, ip_address, ip_interface
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from weave.fragile_store import FragileStore
from weave.http_asker import JSON, WEB, Asker, on_socket, on_tcp, on_writable_tcp, with_daemon
from weave.lonely_parts import lonely_ipam, lonely_mesh
from weave_dns.errors import InvalidName, TooMany
from weave_ipam.service import WAIT_S, Ipam
from weave_net.attachments import OPERATION_LIMIT_S
from weave_net.container_addresses import ContainerAddresses
from weave_net.errors import AttachmentConflict, AttachmentError, DaemonError, StoreError
from weave_net.exposures import HOLDER, WATCH_AGAIN_S, Exposures
from weave_net.testing.daemons import running_daemon
from weave_net.testing.wirings import FakeWiring
from weave_router.errors import HostError
from weave_router.testing.hosts import RecordingHost

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path

MAC = "02:00:00:00:00:01"
NAME = "gate.weave.local"


class RememberedNames:
    """A name service in memory. Names with an exclamation mark cannot be, and "full" it has no room for."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], list[str]] = {}

    def check(self, fqdn: str | None) -> None:
        if fqdn is not None and "!" in fqdn:
            raise InvalidName(f"{fqdn} is no name")

    async def add(self, container: str, address: IPv4Address | IPv6Address, fqdn: str) -> None:
        await trio.lowlevel.checkpoint()
        if fqdn == "full":
            raise TooMany("there is no room for another name")
        names = self.known.setdefault((container, str(address)), [])
        if fqdn not in names:
            names.append(fqdn)

    async def remove(self, container: str, address: IPv4Address | IPv6Address) -> None:
        await trio.lowlevel.checkpoint()
        self.known.pop((container, str(address)), None)

    def of(self, address: str) -> list[str]:
        return self.known.get((HOLDER, address), [])


class World:
    """A daemon's exposures with its allocator, which is alone with a quorum of one unless told otherwise."""

    def __init__(self, beginning: str | None = None, network: str = "10.32.0.0/12") -> None:
        self.beginning = beginning
        self.network = network
        self.host = RecordingHost()
        self.store = FragileStore("exposure/")
        self.names = RememberedNames()
        self.ipam: Ipam | None
        self.exposures: Exposures

    @asynccontextmanager
    async def daemon(self, *, watching: bool = False) -> AsyncIterator[None]:
        """The parts of a daemon, at work on the present store and bridge."""
        self.ipam = None
        if self.network:
            self.ipam = lonely_ipam(
                lonely_mesh(), self.store, self.beginning, network=self.network, default_subnet="10.32.0.0/16"
            )
        await self.host.ensure_bridge("weave", MAC, 1376)
        async with trio.open_nursery() as nursery:
            if self.ipam is not None:
                await self.ipam.begin()
                await nursery.start(self.ipam.run)
            self.exposures = Exposures(
                self.host,
                self.store,
                bridge="weave",
                mac=MAC,
                addresses=ContainerAddresses(self.ipam, container=False),
                names=self.names,
            )
            await self.exposures.adopt()
            # As the daemon does for its attachments, of which there are none here.
            await ContainerAddresses(self.ipam).free_all_but(set())
            if watching:
                nursery.start_soon(self.exposures.run)
                await trio.sleep(1)
            yield
            nursery.cancel_scope.cancel()

    def restart_host(self) -> None:
        """The machine is restarted: the bridge is gone."""
        self.host.devices.clear()

    @property
    def bridge(self) -> list[str]:
        """What the bridge has."""
        return [str(address) for address in self.host.devices["weave"].addresses]

    def by_hand(self, *addresses: str) -> None:
        """Have the operator give the bridge these addresses and no others."""
        self.host.set_bridge_addresses("weave", [ip_interface(text) for text in addresses])

    def owned(self, holder: str = HOLDER) -> list[str]:
        """What is recorded for a holder."""
        assert self.ipam is not None
        return [str(address) for address in self.ipam.owned().get(holder, ())]

    async def stored(self) -> list[str]:
        """The keys of the exposures in the store."""
        return [key.removeprefix("exposure/") for key in await self.store.read("exposure/")]

    async def assert_nothing(self) -> None:
        """Neither bridge, nor allocator, nor store, nor names have anything."""
        assert (self.bridge, self.owned(), await self.stored(), self.names.known) == ([], [], [], {})
        assert self.exposures.list() == ()


def in_a_world(check: Callable[[World], Awaitable[None]], beginning: str | None = None) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            world = World(beginning)
            async with world.daemon(watching=True):
                await check(world)

        trio.run(main, clock=MockClock(autojump_threshold=0))

    return run


def over_restarts(check: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        trio.run(check, World(), clock=MockClock(autojump_threshold=0))

    return run


# Exposing


@in_a_world
async def test_address_of_the_default_subnet(world: World) -> None:
    assert await world.exposures.expose() == ("10.32.0.1/16",)
    assert world.bridge == world.owned() == ["10.32.0.1/16"]
    assert await world.stored() == ["10.32.0.1"]
    assert world.host.announced[-1][1] == "10.32.0.1/16"
    writes = world.store.writes
    assert await world.exposures.expose() == await world.exposures.expose(["net:default"]) == ("10.32.0.1/16",)
    assert (world.bridge, world.store.writes) == (["10.32.0.1/16"], writes)


@in_a_world
async def test_all_forms(world: World) -> None:
    wanted = ["10.2.1.5/24", "net:10.40.0.0/24", "fd00::5/64", "net:default"]
    given = ("10.2.1.5/24", "10.40.0.1/24", "fd00::5/64", "10.32.0.1/16")
    assert await world.exposures.expose(wanted) == given
    assert world.bridge == list(given)
    assert [exposure.address for exposure in world.exposures.list()] == [
        "10.2.1.5/24",
        "10.32.0.1/16",
        "10.40.0.1/24",
        "fd00::5/64",
    ]
    assert await world.exposures.present() == given


@in_a_world
async def test_address_is_there_once_however_its_subnet_is_written(world: World) -> None:
    assert await world.exposures.expose(["10.32.0.1/24", "10.32.0.1/12"]) == ("10.32.0.1/24", "10.32.0.1/24")
    assert await world.exposures.expose() == ("10.32.0.1/24",)
    assert world.bridge == ["10.32.0.1/24"]


@in_a_world
async def test_address_of_a_container_is_refused(world: World) -> None:
    assert world.ipam is not None
    await world.ipam.claim("web", ip_interface("10.32.0.7/16"))
    with pytest.raises(AttachmentConflict, match="already owned by web"):
        await world.exposures.expose(["net:default", "10.2.1.5/24", "10.32.0.7/16"])
    await world.assert_nothing()


@in_a_world
async def test_subnet_outside_of_the_range(world: World) -> None:
    with pytest.raises(AttachmentError, match="out of bounds"):
        await world.exposures.expose(["net:10.99.0.0/24"])
    await world.assert_nothing()


def test_no_address_is_to_be_had() -> None:
    async def check(world: World) -> None:
        with pytest.raises(DaemonError, match="no quorum"):
            await world.exposures.expose()
        assert trio.current_time() >= WAIT_S
        await world.assert_nothing()
        assert await world.exposures.hide() == (), "it never waits for a quorum"
        assert await world.exposures.expose(["10.2.1.5/24", "10.32.0.9/16"]) == ("10.2.1.5/24", "10.32.0.9/16")
        assert await world.exposures.hide() == ("10.32.0.9/16",)

    in_a_world(check, "consensus=3")()


def test_without_allocation() -> None:
    async def main() -> None:
        world = World(network="")
        async with world.daemon(watching=True):
            with pytest.raises(AttachmentError, match="allocation is off; give an address"):
                await world.exposures.expose()
            with pytest.raises(AttachmentError, match=r"allocation is off.*name the addresses"):
                await world.exposures.hide()
            assert await world.exposures.expose(["10.2.1.5/24"]) == ("10.2.1.5/24",)
            world.by_hand("10.2.1.5/24", "10.2.1.9/24")
            await trio.sleep(1)
            assert await world.exposures.hide(["10.2.1.5", "10.2.1.9/24"]) == ("10.2.1.5/24", "10.2.1.9/24")
            assert (world.bridge, await world.stored()) == ([], [])

    trio.run(main, clock=MockClock(autojump_threshold=0))


@in_a_world
async def test_many_at_once(world: World) -> None:
    given: list[tuple[str, ...]] = []

    async def expose(text: str) -> None:
        given.append(await world.exposures.expose([text]))

    async with trio.open_nursery() as nursery:
        for text in ("net:default", "net:10.40.0.0/24", "net:default", "10.2.1.5/24") * 3:
            nursery.start_soon(expose, text)
    assert set(given) == {("10.32.0.1/16",), ("10.40.0.1/24",), ("10.2.1.5/24",)}
    assert set(world.bridge) == {"10.32.0.1/16", "10.40.0.1/24", "10.2.1.5/24"}


# Hiding


@in_a_world
async def test_hide_is_about_the_default_subnet_unless_told_otherwise(world: World) -> None:
    await world.exposures.expose(["net:default", "net:10.40.0.0/24", "10.2.1.5/24", "10.32.9.9/32"])
    assert await world.exposures.hide() == ("10.32.0.1/16", "10.32.9.9/32")
    assert world.bridge == ["10.40.0.1/24", "10.2.1.5/24"]
    assert world.owned() == ["10.40.0.1/24", "10.2.1.5/24"]
    assert await world.exposures.hide() == ()
    assert await world.exposures.hide(["10.40.0.1", "10.2.1.5/24"]) == ("10.2.1.5/24", "10.40.0.1/24")
    await world.assert_nothing()


@in_a_world
async def test_hide_ignores_what_is_not_there(world: World) -> None:
    await world.exposures.expose(["10.2.1.5/24"])
    assert await world.exposures.hide(["10.2.1.5/16", "10.2.1.6", "fd00::1"]) == ()
    assert world.bridge == ["10.2.1.5/24"]
    assert world.owned() == ["10.2.1.5/24"]


@in_a_world
async def test_hidden_address_is_free_for_others(world: World) -> None:
    assert world.ipam is not None
    await world.exposures.expose(["10.32.0.1/16"])
    assert str(await world.ipam.allocate("web")) == "10.32.0.2/16"
    await world.exposures.hide()
    await world.ipam.claim("db", ip_interface("10.32.0.1/16"))
    assert await world.exposures.expose() == ("10.32.0.3/16",)


@in_a_world
async def test_hide_frees_what_was_only_recorded(world: World) -> None:
    """As after `POST /ip/weave:expose` by a tool for Weave Net that then went no further."""
    assert world.ipam is not None
    await world.ipam.allocate(HOLDER)
    assert await world.exposures.hide(["10.32.0.1"]) == ()
    assert world.owned() == []


@in_a_world
async def test_hide_on_a_bridge_that_is_gone(world: World) -> None:
    await world.exposures.expose()
    await world.host.remove_device("weave")
    assert await world.exposures.hide() == ("10.32.0.1/16",)
    assert (world.owned(), await world.stored()) == ([], [])


# Failures


@in_a_world
async def test_host_that_fails_half_way(world: World) -> None:
    add = world.host.add_bridge_address

    async def refuse_second(bridge: str, address: object) -> bool:
        if str(address) == "10.2.1.6/24":
            raise HostError("no more addresses today")
        return await add(bridge, address)  # type: ignore[arg-type]

    world.host.add_bridge_address = refuse_second  # type: ignore[method-assign]
    with pytest.raises(HostError, match="no more addresses today"):
        await world.exposures.expose(["10.2.1.5/24", "10.2.1.6/24", "net:default"], fqdn=NAME)
    await trio.sleep(1)
    await world.assert_nothing()


@in_a_world
async def test_store_that_fails(world: World) -> None:
    world.store.failing = True
    with pytest.raises(StoreError, match="disk full"):
        await world.exposures.expose(["10.2.1.5/24", "net:default"], fqdn=NAME)
    await trio.sleep(1)
    await world.assert_nothing()
    await world.exposures.expose(["10.2.1.5/24"], fqdn=NAME)
    world.store.failing = True
    with pytest.raises(StoreError, match="disk full"):
        await world.exposures.expose(["10.2.1.5/24", "net:default"], fqdn="other.weave.local")
    assert world.bridge == world.owned() == ["10.2.1.5/24"]
    assert world.names.of("10.2.1.5") == [NAME]
    world.store.failing = True
    with pytest.raises(StoreError, match="disk full"):
        await world.exposures.hide(["10.2.1.5"])
    assert world.bridge == world.owned() == ["10.2.1.5/24"]


@in_a_world
async def test_hide_that_fails_can_be_repeated(world: World) -> None:
    await world.exposures.expose(["10.2.1.5/24"], fqdn=NAME)
    world.host.fail_next("remove_bridge_address", HostError("not now"))
    with pytest.raises(HostError, match="not now"):
        await world.exposures.hide(["10.2.1.5"])
    assert (world.bridge, world.owned(), await world.stored()) == (["10.2.1.5/24"], ["10.2.1.5/24"], ["10.2.1.5"])
    assert world.names.of("10.2.1.5") == [NAME]
    assert await world.exposures.hide(["10.2.1.5"]) == ("10.2.1.5/24",)
    await world.assert_nothing()


@in_a_world
async def test_what_has_begun_is_finished_when_the_caller_goes_away(world: World) -> None:
    add = world.host.add_bridge_address

    async def slow(bridge: str, address: object) -> bool:
        await trio.sleep(5)
        return await add(bridge, address)  # type: ignore[arg-type]

    world.host.add_bridge_address = slow  # type: ignore[method-assign]
    with trio.move_on_after(1):
        await world.exposures.expose(["10.2.1.5/24"])
    assert (world.bridge, await world.stored()) == (["10.2.1.5/24"], ["10.2.1.5"])

    async def never(bridge: str, address: object) -> bool:
        if str(address) == "10.2.1.7/24":
            await trio.sleep_forever()
        return await add(bridge, address)  # type: ignore[arg-type]

    world.host.add_bridge_address = never  # type: ignore[method-assign]
    began = trio.current_time()
    with pytest.raises(DaemonError, match="try again"):
        await world.exposures.expose(["10.2.1.6/24", "10.2.1.7/24"])
    assert trio.current_time() - began == pytest.approx(OPERATION_LIMIT_S)
    assert world.bridge == world.owned() == ["10.2.1.5/24"]


# Names


@in_a_world
async def test_names_come_and_go_with_the_address(world: World) -> None:
    await world.exposures.expose(["10.2.1.5/24", "fd00::5/64"], fqdn=NAME)
    await world.exposures.expose(["10.2.1.5/24"], fqdn="other.weave.local")
    await world.exposures.expose(["10.2.1.5/24"])
    assert world.names.of("10.2.1.5") == [NAME, "other.weave.local"]
    assert world.names.of("fd00::5") == [NAME]
    await world.exposures.hide(["10.2.1.5"])
    assert world.names.known == {(HOLDER, "fd00::5"): [NAME]}


@in_a_world
async def test_name_that_cannot_be(world: World) -> None:
    with pytest.raises(InvalidName):
        await world.exposures.expose(fqdn="!")
    await world.assert_nothing()


@in_a_world
async def test_address_stays_where_there_is_no_room_for_its_name(world: World) -> None:
    with pytest.raises(TooMany):
        await world.exposures.expose(fqdn="full")
    assert world.bridge == world.owned() == ["10.32.0.1/16"]
    assert await world.exposures.expose(fqdn=NAME) == ("10.32.0.1/16",)
    assert world.names.of("10.32.0.1") == [NAME]


@in_a_world
async def test_hide_removes_the_names_of_an_address_that_is_gone(world: World) -> None:
    """As after a crash half way."""
    await world.names.add(HOLDER, ip_address("10.2.1.5"), NAME)
    await world.names.add(HOLDER, ip_address("10.32.0.1"), NAME)
    assert await world.exposures.hide(["10.2.1.5"]) == ()
    assert world.names.known == {(HOLDER, "10.32.0.1"): [NAME]}


@in_a_world
async def test_name_without_a_name_service(world: World) -> None:
    world.exposures._names = None
    with pytest.raises(AttachmentError, match=r"names are off \(--no-dns\)"):
        await world.exposures.expose(fqdn=NAME)
    await world.assert_nothing()


# The next start


@over_restarts
async def test_exposures_survive_daemon_and_host(world: World) -> None:
    async with world.daemon():
        await world.exposures.expose(["net:default", "10.2.1.5/24", "fd00::5/64"], fqdn=NAME, masquerade=False)
        before = world.exposures.list()
        assert not any(exposure.masquerade for exposure in before)
    for host_too in (False, True):
        if host_too:
            world.restart_host()
        async with world.daemon():
            assert world.exposures.list() == before
            assert set(world.bridge) == {exposure.address for exposure in before}
            assert set(world.owned()) == {"10.32.0.1/16", "10.2.1.5/24"}
            assert world.names.of("fd00::5") == world.names.of("10.32.0.1") == [NAME]
            assert await world.exposures.expose(masquerade=False) == ("10.32.0.1/16",)


@over_restarts
async def test_address_has_one_length_at_the_next_start_too(world: World) -> None:
    async with world.daemon():
        await world.exposures.expose(["10.2.1.5/24"])
    world.by_hand("10.2.1.5/16")
    async with world.daemon():
        assert world.bridge == ["10.2.1.5/16"]
        assert await world.exposures.hide(["10.2.1.5"]) == ("10.2.1.5/24", "10.2.1.5/16")
        await world.assert_nothing()


@over_restarts
async def test_hidden_stays_hidden(world: World) -> None:
    async with world.daemon():
        await world.exposures.expose()
        await world.exposures.hide()
    world.restart_host()
    async with world.daemon():
        await world.assert_nothing()


@over_restarts
async def test_host_that_fails_at_start(world: World) -> None:
    async with world.daemon():
        await world.exposures.expose()
    world.restart_host()
    world.host.fail_next("add_bridge_address", HostError("not now"))
    async with world.daemon():
        assert (world.bridge, world.owned()) == ([], ["10.32.0.1/16"])
        await world.exposures.expose()
        assert world.bridge == ["10.32.0.1/16"]


@over_restarts
async def test_records_without_an_exposure_are_freed(world: World) -> None:
    async with world.daemon():
        assert world.ipam is not None
        await world.ipam.claim(HOLDER, ip_interface("10.32.0.5/16"))
        await world.ipam.claim("somebody", ip_interface("10.32.0.6/16"))
        await world.ipam.claim(HOLDER, ip_interface("192.168.5.5/24"))
        await world.exposures.expose(["10.32.0.7/16"])
        assert world.owned() == ["10.32.0.5/16", "192.168.5.5/24", "10.32.0.7/16"]
    world.by_hand("192.168.5.5/24")
    async with world.daemon():
        assert world.owned() == ["192.168.5.5/24", "10.32.0.7/16"]
        assert world.owned("somebody") == ["10.32.0.6/16"]
    world.by_hand()
    async with world.daemon():
        assert world.owned() == ["10.32.0.7/16"]


@over_restarts
async def test_allocator_that_forgot_everything_is_told(world: World) -> None:
    async with world.daemon():
        await world.exposures.expose()
    await world.store.write(dict.fromkeys(await world.store.read("ipam/")))
    async with world.daemon():
        assert world.owned() == ["10.32.0.1/16"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("10.2.1.5", {"address": "10.2.1.6/24", "masquerade": True}),
        ("10.2.1.5", {"masquerade": True}),
        ("10.2.1.5", {"address": "10.2.1/24", "masquerade": True}),
        ("10.2.1.5", {"address": "10.2.1.5/24", "masquerade": True, "colour": "red"}),
        ("10.2.1.5", 7),
    ],
)
def test_damaged_store(key: str, value: object) -> None:
    async def main() -> None:
        world = World()
        await world.store.write({f"exposure/{key}": value})
        with pytest.raises(ExceptionGroup) as caught:
            async with world.daemon():
                raise AssertionError("this must not begin")
        assert "an exposure that cannot be read (exposure/10.2.1.5" in str(caught.value.exceptions[0])

    trio.run(main, clock=MockClock(autojump_threshold=0))


# Addresses by another hand


@over_restarts
async def test_addresses_that_are_found_on_the_bridge_are_recorded(world: World) -> None:
    await world.host.ensure_bridge("weave", MAC, 1376)
    world.by_hand("10.32.0.1/16", "192.168.5.5/24", "fd00::5/64")
    for _ in range(2):
        async with world.daemon():
            assert world.owned() == ["10.32.0.1/16"], "those inside of the range"
            assert (world.exposures.list(), await world.stored()) == ((), [])
    world.restart_host()
    async with world.daemon():
        assert (world.bridge, world.owned()) == ([], [])


@in_a_world
async def test_addresses_that_come_later_are_noticed(world: World) -> None:
    assert world.ipam is not None
    world.by_hand("10.32.0.1/16", "192.168.5.5/24")
    await trio.sleep(1)
    assert world.owned() == ["10.32.0.1/16"]
    assert str(await world.ipam.allocate("web")) == "10.32.0.2/16"
    world.by_hand()
    await trio.sleep(1)
    assert world.owned() == []


@in_a_world
async def test_address_by_another_hand_can_be_exposed_and_hidden(world: World) -> None:
    world.by_hand("10.32.0.1/24", "10.2.1.5/24")
    await trio.sleep(1)
    assert await world.exposures.expose() == ("10.32.0.1/24",)
    assert (world.bridge, await world.stored()) == (["10.32.0.1/24", "10.2.1.5/24"], ["10.32.0.1"])
    assert await world.exposures.hide(["10.2.1.5", "10.32.0.1"]) == ("10.32.0.1/24", "10.2.1.5/24")
    await trio.sleep(1)
    await world.assert_nothing()


def test_contradiction_with_a_container_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def check(world: World) -> None:
        assert world.ipam is not None
        await world.ipam.claim("web", ip_interface("10.32.0.1/16"))
        for addresses in (["10.32.0.1/16"], ["10.32.0.1/16", "10.2.1.5/24"], ["10.32.0.1/16"]):
            world.by_hand(*addresses)
            await trio.sleep(1)
        assert [record.getMessage() for record in caplog.records] == [
            "weave:expose uses 10.32.0.1/16, which is not its own: address 10.32.0.1/16 is already owned by web"
        ]
        world.by_hand()
        await trio.sleep(1)
        assert world.owned("web") == ["10.32.0.1/16"]

    with caplog.at_level(logging.WARNING, "weave_net"):
        in_a_world(check)()


def test_address_that_is_taken_by_another_hand_is_missed_once(caplog: pytest.LogCaptureFixture) -> None:
    async def check(world: World) -> None:
        await world.exposures.expose()
        await trio.sleep(1)
        for addresses in ([], ["10.2.1.5/24"]):
            world.by_hand(*addresses)
            await trio.sleep(1)
        assert [record.getMessage() for record in caplog.records] == [
            "10.32.0.1 was taken from weave by another hand; 'weave expose' puts it back"
        ]
        assert world.owned() == ["10.32.0.1/16"]
        await world.exposures.expose()
        await trio.sleep(1)
        await world.exposures.hide()
        await trio.sleep(1)
        assert len(caplog.records) == 1, "hiding is no other hand"

    with caplog.at_level(logging.WARNING, "weave_net"):
        in_a_world(check)()


def test_watch_that_fails_is_taken_up_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        world.host.fail_next("watch_addresses", HostError("the kernel is short of memory"))
        async with world.daemon(watching=True):
            world.by_hand("10.32.0.1/16")
            await trio.sleep(1)
            assert world.owned() == []
            await trio.sleep(WATCH_AGAIN_S)
            assert world.owned() == ["10.32.0.1/16"]

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert "the kernel is short of memory; trying again in 10 s" in caplog.text


# Firewall rules


def exposed(world: World) -> dict[str, bool]:
    """The subnets that the host lets through, and whether their addresses are translated."""
    assert world.host.exposed is not None
    return {str(subnet.network): subnet.masquerade for subnet in world.host.exposed}


@in_a_world
async def test_host_is_told_what_is_exposed(world: World) -> None:
    assert world.host.exposed == (), "bridged frames need rules, too"
    await world.exposures.expose(["10.2.1.5/24", "10.2.1.6/24", "fd00::5/64"], masquerade=False)
    assert exposed(world) == {"10.2.1.0/24": False, "fd00::/64": False}
    await world.exposures.expose()
    await world.exposures.expose(["10.2.1.6/24"])
    assert exposed(world) == {"10.2.1.0/24": True, "10.32.0.0/16": True, "fd00::/64": False}
    await world.exposures.hide(["10.2.1.6", "fd00::5"])
    assert exposed(world) == {"10.2.1.0/24": False, "10.32.0.0/16": True}
    await world.exposures.hide(["10.2.1.5", "10.32.0.1"])
    assert world.host.exposed == ()


@over_restarts
async def test_host_is_told_again_at_the_next_start(world: World) -> None:
    async with world.daemon():
        await world.exposures.expose()
    world.host.exposed = None
    async with world.daemon():
        assert exposed(world) == {"10.32.0.0/16": True}


@in_a_world
async def test_rules_that_others_change_are_put_back(world: World) -> None:
    await world.exposures.expose()
    for _ in range(2):
        world.host.exposed = None
        world.host.change_rules()
        await trio.sleep(1)
        assert exposed(world) == {"10.32.0.0/16": True}


@in_a_world
async def test_failure_undoes_the_address_and_leaves_the_rules(world: World) -> None:
    world.store.failing = True
    with pytest.raises(StoreError, match="disk full"):
        await world.exposures.expose()
    assert world.host.exposed == ()


def test_host_that_refuses_rules_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        for _ in range(4):
            world.host.fail_next("set_exposed", HostError("no nft today"))
        async with world.daemon(watching=True):
            assert await world.exposures.expose() == ("10.32.0.1/16",)
            world.host.change_rules()
            await trio.sleep(1)
            assert [record.getMessage() for record in caplog.records] == ["no nft today"]
            world.host.change_rules()
            await trio.sleep(1)
            assert exposed(world) == {"10.32.0.0/16": True}
            world.host.fail_next("set_exposed", HostError("no nft today"))
            await world.exposures.hide()
            assert len(caplog.records) == 2, "it was all right in between"

    with caplog.at_level(logging.WARNING, "weave_net"):
        trio.run(main, clock=MockClock(autojump_threshold=0))


def test_watch_of_the_rules_that_fails_is_taken_up_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        for _ in range(2):
            world.host.fail_next("watch_rules", HostError("the kernel is short of memory"))
        async with world.daemon(watching=True):
            world.host.exposed = None
            await trio.sleep(WATCH_AGAIN_S)
            assert world.host.exposed is None
            await trio.sleep(WATCH_AGAIN_S)
            assert exposed(world) == {}
        assert caplog.text.count("short of memory") == 1

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_host_that_passes_nothing_on_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def check(world: World) -> None:
        world.host.forwarding = False
        await world.exposures.expose(["10.2.1.5/24", "fd00::5/64"], masquerade=False)
        await world.exposures.expose(["fd00::6/64"])
        assert caplog.records == [], "nothing is asked for that would need it"
        for _ in range(2):
            await world.exposures.expose()
        (record,) = caplog.records
        assert "`sysctl -w net.ipv4.ip_forward=1`" in record.getMessage()

    with caplog.at_level(logging.WARNING, "weave_net"):
        in_a_world(check)()


# Gateways


@pytest.mark.parametrize(
    ("there", "address", "gateway"),
    [
        (["10.32.0.9/16"], "10.32.0.5/16", "10.32.0.9"),
        (["fd00::5/64", "10.2.1.5/24", "10.2.2.5/24"], "10.2.2.7/24", "10.2.2.5"),
        (["10.2.1.5/24", "10.32.0.9/16"], "10.32.7.7/24", "10.32.0.9"),  # its subnet has the container in it
        (["10.32.0.9/16", "10.32.7.9/24"], "10.32.7.7/24", "10.32.7.9"),  # but this one is nearer
        (["fd00::5/64", "10.2.1.5/24"], "10.32.0.5/16", "10.32.0.1"),  # exposed in its subnet
        (["10.2.1.5/24"], "10.40.0.5/24", "10.40.0.1"),
        (["10.2.1.5/24"], "10.40.0.5/32", "10.2.1.5"),  # no room for another one
        (["10.2.1.5/24", "10.2.2.5/24"], "192.168.1.7/24", "10.2.1.5"),  # any will do
        ([], "192.168.1.7/24", "10.32.0.1"),
        ([], "10.40.0.5/24", "10.40.0.1"),
    ],
)
def test_gateway(there: list[str], address: str, gateway: str) -> None:
    async def check(world: World) -> None:
        if there:
            await world.exposures.expose(there)
        before = len(world.bridge)
        wanted = ip_interface(address)
        assert isinstance(wanted, IPv4Interface)
        assert str(await world.exposures.gateway(wanted)) == gateway
        assert str(await world.exposures.gateway(wanted)) == gateway
        assert len(world.bridge) == before + (gateway not in {text.partition("/")[0] for text in there})
        assert all(exposure.masquerade for exposure in world.exposures.list())

    in_a_world(check)()


@in_a_world
async def test_gateway_by_another_hand_stays_so(world: World) -> None:
    world.by_hand("10.32.0.7/16")
    assert await world.exposures.gateway(IPv4Interface("10.32.0.5/16")) == ip_address("10.32.0.7")
    assert world.exposures.list() == ()


@in_a_world
async def test_many_want_a_gateway_at_once(world: World) -> None:
    given = set()

    async def want(number: int) -> None:
        given.add(str(await world.exposures.gateway(IPv4Interface(f"10.32.0.{number}/16"))))

    async with trio.open_nursery() as nursery:
        for number in range(100, 120):
            nursery.start_soon(want, number)
    assert given == {"10.32.0.1"}
    assert world.bridge == ["10.32.0.1/16"]


def test_no_gateway_is_to_be_had() -> None:
    async def main() -> None:
        world = World(network="")
        async with world.daemon():
            with pytest.raises(AttachmentError, match=r"no address that could be the gateway.*'weave expose"):
                await world.exposures.gateway(IPv4Interface("10.2.1.7/24"))
            await world.exposures.expose(["10.2.1.5/24"])
            assert await world.exposures.gateway(IPv4Interface("10.2.1.7/24")) == ip_address("10.2.1.5")

    trio.run(main, clock=MockClock(autojump_threshold=0))


# Over HTTP


@on_socket
async def test_life_of_an_exposure_over_http(ask: Asker) -> None:
    empty = {"bridge": "weave", "mac": "00:00:00:00:00:01", "addresses": [], "exposed": []}
    assert (await ask("GET", "/expose")).json == empty
    made = await ask("PUT", "/expose", json.dumps({"addresses": ["10.2.1.5/24", "ip:fd00::5/64"], "masquerade": False}))
    assert (made.status, made.json) == (200, {"given": ["10.2.1.5/24", "fd00::5/64"]})
    known = (await ask("GET", "/expose")).json
    assert known["addresses"] == ["10.2.1.5/24", "fd00::5/64"]
    assert known["exposed"][0] == {"address": "10.2.1.5/24", "masquerade": False}
    removed = await ask("DELETE", "/expose?address=10.2.1.5&address=fd00::5/64")
    assert removed.json == {"removed": ["10.2.1.5/24", "fd00::5/64"]}
    assert (await ask("PUT", "/expose", "{}")).json == {"given": ["10.32.0.1/12"]}
    assert "weave:expose" in (await ask("GET", "/ip")).body
    assert (await ask("DELETE", "/expose")).json == {"removed": ["10.32.0.1/12"]}
    assert (await ask("GET", "/expose")).json == empty


@on_socket
async def test_bad_requests(ask: Asker) -> None:
    for body in (
        "no json",
        "[]",
        '{"addresses": "10.2.1.5/24"}',
        '{"addresses": [7]}',
        '{"addresses": ["10.2.1.5"]}',
        '{"addresses": ["net:10.2.2.1/24"]}',
        '{"addresses": ["fe80::5/64"]}',
        '{"addresses": ["127.0.0.1/8"]}',
        json.dumps({"addresses": [f"10.2.1.{i}/24" for i in range(1, 66)]}),
        '{"addresses": ["10.2.1.5/24"], "fqdn": ""}',
        '{"addresses": ["10.2.1.5/24"], "fqdn": 7}',
        '{"addresses": ["10.2.1.5/24"], "masquerade": "no"}',
        '{"addresses": ["10.2.1.5/24"], "colour": "red"}',
        json.dumps({"addresses": ["10.2.1.5/24"], "fqdn": "a" * 256}),
    ):
        answer = await ask("PUT", "/expose", body, JSON)
        assert (answer.status, bool(answer.json["error"])) == (400, True), body
    assert (await ask("DELETE", "/expose?address=x")).status == 400
    assert (await ask("POST", "/expose")).status == 405
    assert (await ask("GET", "/expose/10.2.1.5/24")).status == 405
    assert (await ask("GET", "/expose")).json["addresses"] == []


@on_writable_tcp
async def test_the_path_of_weave_net(ask: Asker) -> None:
    bridge = ask.daemon.fakes.host.devices["weave"]
    for path in (
        "/expose/10.2.1.5/33",
        "/expose/10.2.1/24",
        "/expose/net:10.40.0.0/24",
        "/expose/ip:10.2.1.5/24",
        "/expose/fe80::1/64",
        "/expose/10.2.1.5/24?skipNAT=maybe",
    ):
        assert (await ask("POST", path)).status == 400, path
    assert bridge.addresses == []
    for body in ("", "skipNAT=true", "skipNAT=false"):
        answer = await ask("POST", "/expose/10.2.1.5/24", body)
        assert (answer.status, answer.body) == (204, "")
        assert bridge.addresses == [ip_interface("10.2.1.5/24")]
    assert (await ask("POST", "/ip/weave:expose")).body == "10.32.0.1/12"
    assert (await ask("POST", "/expose/10.32.0.1/12?skipNAT=t")).status == 204
    assert ip_interface("10.32.0.1/12") in bridge.addresses
    assert (await ask("PUT", "/ip/web/10.32.0.9/12")).status == 204
    assert (await ask("POST", "/expose/10.32.0.9/12")).status == 409
    for method in ("GET", "PUT", "DELETE"):
        assert (await ask(method, "/expose")).status == 403


@on_tcp
async def test_read_only_address_exposes_nothing(ask: Asker) -> None:
    assert (await ask("POST", "/expose/10.2.1.5/24")).status == 403
    assert ask.daemon.fakes.host.devices["weave"].addresses == []


def test_without_allocation_over_http(tmp_path: Path) -> None:
    async def check(ask: Asker) -> None:
        answer = await ask("DELETE", "/expose")
        assert (answer.status, "name the addresses" in answer.body) == (400, True)
        assert (await ask("PUT", "/expose", "{}")).status == 400
        assert (await ask("POST", "/expose/10.2.1.5/24")).status == 204

    with_daemon(check, ipalloc_range="")(tmp_path)


@on_socket
async def test_name_over_http(ask: Asker) -> None:
    body = {"addresses": ["10.2.1.5/24"], "fqdn": NAME}
    assert (await ask("PUT", "/expose", json.dumps(body))).status == 200
    (entry,) = (await ask("GET", "/name", headers=JSON)).json
    assert (entry["ContainerID"], entry["Addr"]) == (HOLDER, "10.2.1.5")
    assert (await ask("PUT", "/expose", json.dumps({**body, "fqdn": "gate.example.org"}))).status == 400
    assert (await ask("DELETE", "/expose?address=10.2.1.5")).status == 200
    names = (await ask("GET", "/name", headers=JSON)).json or []
    assert [entry for entry in names if not entry["Tombstone"]] == []


def test_names_are_off(tmp_path: Path) -> None:
    async def check(ask: Asker) -> None:
        answer = await ask("PUT", "/expose", json.dumps({"addresses": ["10.2.1.5/24"], "fqdn": NAME}))
        assert (answer.status, answer.body) == (400, f"{NAME} cannot be added: names are off (--no-dns)\n")
        assert (await ask("GET", "/expose")).json["addresses"] == []

    with_daemon(check, dns=False)(tmp_path)


# In the daemon


def test_daemon_puts_exposures_back(tmp_path: Path) -> None:
    async def main() -> None:
        fakes = FakeWiring()
        fakes.host.add_namespace(WEB)
        async with running_daemon(tmp_path, fakes) as daemon:
            assert await daemon.call(lambda client: client.expose({})) == ["10.32.0.1/12"]
            body = {"netns": WEB, "addresses": ["net:default"]}
            made = await daemon.call(lambda client: client.put_attachment("web", "ethwe", body))
            assert made["given"] == ["10.32.0.2/12"]
        fakes.host.devices["weave"].addresses.clear()
        async with running_daemon(tmp_path, fakes) as daemon:
            assert (await daemon.call(lambda client: client.exposed()))["addresses"] == ["10.32.0.1/12"]
            assert fakes.host.devices["weave"].addresses == [ip_interface("10.32.0.1/12")]
            assert await daemon.call(lambda client: client.hide([])) == ["10.32.0.1/12"]
            assert ip_address("10.32.0.1") not in {a.ip for a in fakes.host.devices["weave"].addresses}

    trio.run(main)


def test_daemon_keeps_an_eye_on_the_bridge(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_daemon(tmp_path) as daemon:
            daemon.fakes.host.set_bridge_addresses("weave", [ip_interface("10.32.0.1/12")])
            deadline = trio.current_time() + 5
            while "10.32.0.1/12" not in await daemon.call(lambda client: client.document("/ip")):
                assert trio.current_time() < deadline
                await trio.sleep(0.01)

    trio.run(main)
