"""Attachments: host and store in step, whatever fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from weave.fragile_store import FragileStore
from weave.lonely_parts import make_attachments
from weave_net.attachment import host_interface_name
from weave_net.attachment_request import AttachmentRequest, check_key, parse_detached_address, parse_interface_address
from weave_net.attachments import OPERATION_LIMIT_S, Attachments
from weave_net.errors import AttachmentConflict, AttachmentError, DaemonError, StoreError
from weave_net.testing.wirings import FakeWiring
from weave_router.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from weave_router.doors import VethInfo, VethRequest
    from weave_router.testing.hosts import ContainerInterface
    from weave_router.testing.stores import MemoryStore

WEB = "/run/netns/web"
DB = "/run/netns/db"
WEB_SIDE = host_interface_name("web", "ethwe")


class World:
    """A daemon's attachments, its host and its store."""

    def __init__(self) -> None:
        self.fakes = FakeWiring()
        self.host = self.fakes.host
        self.store = FragileStore("")
        self.attachments = self.restarted(self.store)

    async def start(self) -> None:
        await self.host.ensure_bridge("weave", "02:00:00:00:00:01", 1376)
        self.host.add_namespace(WEB)
        self.host.add_namespace(DB)

    def restarted(self, store: MemoryStore) -> Attachments:
        return make_attachments(self.fakes, store)

    async def put(self, *addresses: str, key: str = "web", netns: str = WEB, **fields: Any) -> dict[str, Any]:
        request = AttachmentRequest(netns=netns, addresses=addresses, **fields)
        return (await self.attachments.put(key, "ethwe", request)).to_json()

    def inside(self, side: str = WEB_SIDE) -> ContainerInterface | None:
        return device.peer if (device := self.host.devices.get(side)) else None

    def addresses(self) -> list[str]:
        interface = self.inside()
        return [] if interface is None else [str(address) for address in interface.addresses]

    async def stored(self) -> dict[str, list[str]]:
        return {key: value["addresses"] for key, value in (await self.store.read("attachment/")).items()}


def in_a_world(check: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            world = World()
            await world.start()
            await check(world)

        trio.run(main)

    return run


# Putting


@in_a_world
async def test_attachment_is_made_stored_and_described(world: World) -> None:
    description = await world.put("10.2.1.5/24", mac="7a:00:00:00:00:07", owner="cni")
    assert description == {
        "id": "web",
        "interface": "ethwe",
        "netns": WEB,
        "addresses": ["10.2.1.5/24"],
        "mac": "7a:00:00:00:00:07",
        "mtu": 1376,
        "owner": "cni",
        "network": "weave",
        "multicast_route": True,
        "host_interface": WEB_SIDE,
        "host_mac": world.host.devices[WEB_SIDE].mac,
        "peer": "",
        "claim": True,
        "keep": False,
        "hairpin": True,
        "gateway": None,
        "routes": [],
    }
    assert world.addresses() == ["10.2.1.5/24"]
    assert await world.stored() == {"attachment/web/ethwe": ["10.2.1.5/24"]}
    assert [entry.to_json() for entry in world.attachments.list()] == [description]


@in_a_world
async def test_putting_again_changes_nothing(world: World) -> None:
    first = await world.put("10.2.1.5/24")
    writes = world.store.writes
    assert await world.put("10.2.1.5/24") == first
    assert await world.put() == first
    assert world.store.writes == writes


@in_a_world
async def test_missing_addresses_are_added(world: World) -> None:
    await world.put("10.2.1.5/24")
    description = await world.put("10.2.2.5/24", "10.2.1.5/24")
    assert description["addresses"] == ["10.2.1.5/24", "10.2.2.5/24"]
    assert world.addresses() == ["10.2.1.5/24", "10.2.2.5/24"]


@in_a_world
async def test_interface_that_vanished_is_made_again(world: World) -> None:
    await world.put("10.2.1.5/24")
    mac = (await world.put())["mac"]
    await world.host.remove_device(WEB_SIDE)
    world.host.namespaces[WEB].interfaces.clear()
    assert (await world.put("10.2.1.6/24"))["mac"] == mac
    assert world.addresses() == ["10.2.1.5/24", "10.2.1.6/24"]


@in_a_world
async def test_mtu_of_the_request_or_the_network(world: World) -> None:
    assert (await world.put(mtu=1400))["mtu"] == 1400
    assert (await world.put())["mtu"] == 1400
    assert (await world.put(key="db", netns=DB))["mtu"] == 1376


@in_a_world
async def test_restarted_container_is_attached_anew(world: World) -> None:
    await world.put("10.2.1.5/24")
    world.host.remove_namespace(WEB)
    world.host.add_namespace(WEB)
    description = await world.put("10.2.1.9/24")
    assert description["addresses"] == ["10.2.1.9/24"]
    assert world.addresses() == ["10.2.1.9/24"]


@in_a_world
async def test_same_key_in_another_living_namespace_is_a_conflict(world: World) -> None:
    await world.put("10.2.1.5/24")
    with pytest.raises(AttachmentConflict, match=WEB):
        await world.put("10.2.1.6/24", netns=DB)
    assert world.addresses() == ["10.2.1.5/24"]


@in_a_world
async def test_second_id_of_a_namespace_is_told_the_first(world: World) -> None:
    await world.put("10.2.1.5/24")
    with pytest.raises(AttachmentConflict, match=r"interface ethwe of ours already, as web: use that id"):
        await world.put("10.2.1.6/24", key="other")
    assert world.addresses() == ["10.2.1.5/24"]


@in_a_world
async def test_another_mac_is_a_conflict(world: World) -> None:
    mac = (await world.put("10.2.1.5/24"))["mac"]
    assert (await world.put(mac=mac))["mac"] == mac
    with pytest.raises(AttachmentConflict, match=mac):
        await world.put(mac="7a:00:00:00:00:99")


@in_a_world
async def test_missing_namespace(world: World) -> None:
    with pytest.raises(AttachmentError, match="no network namespace at /run/netns/none"):
        await world.put(netns="/run/netns/none")
    assert await world.stored() == {}


@in_a_world
async def test_host_that_fails_leaves_no_record(world: World) -> None:
    world.host.fail_next("attach", HostError("no memory"))
    with pytest.raises(HostError):
        await world.put("10.2.1.5/24")
    assert await world.stored() == {}
    assert world.attachments.list() == ()


@in_a_world
async def test_store_that_fails_leaves_no_interface(world: World) -> None:
    world.store.failing = True
    with pytest.raises(StoreError):
        await world.put("10.2.1.5/24")
    assert world.inside() is None
    assert world.attachments.list() == ()


@in_a_world
async def test_store_that_fails_leaves_what_was_there(world: World) -> None:
    before = await world.put("10.2.1.5/24")
    world.store.failing = True
    with pytest.raises(StoreError):
        await world.put("10.2.1.6/24")
    assert world.addresses() == ["10.2.1.5/24"]
    assert await world.put() == before


@in_a_world
async def test_rollback_that_fails_still_tells_the_first_error(world: World) -> None:
    world.store.failing = True
    world.host.fail_next("detach", HostError("no memory"))
    with pytest.raises(StoreError, match="disk full"):
        await world.put("10.2.1.5/24")


# Deleting


@in_a_world
async def test_addresses_go_one_by_one_and_the_interface_with_the_last(world: World) -> None:
    await world.put("10.2.1.5/24", "10.2.1.6/24", "10.2.1.7/24")
    assert await world.attachments.delete("web", "ethwe", ("10.2.1.5",)) == ("10.2.1.5/24",)
    assert world.addresses() == ["10.2.1.6/24", "10.2.1.7/24"]
    assert await world.stored() == {"attachment/web/ethwe": ["10.2.1.6/24", "10.2.1.7/24"]}
    assert await world.attachments.delete("web", "ethwe", ("10.2.1.6/24", "10.2.1.7/24")) == (
        "10.2.1.6/24",
        "10.2.1.7/24",
    )
    assert world.inside() is None
    assert await world.stored() == {}


@in_a_world
async def test_everything_goes_at_once(world: World) -> None:
    await world.put("10.2.1.5/24", "10.2.1.6/24")
    assert await world.attachments.delete("web", "ethwe") == ("10.2.1.5/24", "10.2.1.6/24")
    assert world.inside() is None
    assert world.attachments.get("web", "ethwe") is None


@in_a_world
async def test_attachment_without_address_goes(world: World) -> None:
    await world.put()
    assert await world.attachments.delete("web", "ethwe") == ()
    assert world.inside() is None
    assert await world.stored() == {}


@in_a_world
async def test_deleting_what_is_not_there(world: World) -> None:
    assert await world.attachments.delete("web", "ethwe") == ()
    await world.put("10.2.1.5/24")
    assert await world.attachments.delete("web", "ethwe", ("10.9.9.9", "10.2.1.5/25")) == ()
    assert world.addresses() == ["10.2.1.5/24"]
    assert await world.attachments.delete("web", "eth1", ("10.2.1.5",)) == ()


@in_a_world
async def test_interface_without_record_goes_when_asked(world: World) -> None:
    """What a crash between host and store leaves behind."""
    await world.put("10.2.1.5/24")
    await world.store.write({"attachment/web/ethwe": None})
    assert await world.restarted(world.store).delete("web", "ethwe") == ()
    assert world.inside() is None


@in_a_world
async def test_container_that_is_gone(world: World) -> None:
    await world.put("10.2.1.5/24")
    world.host.remove_namespace(WEB)
    assert await world.attachments.delete("web", "ethwe") == ("10.2.1.5/24",)
    assert await world.stored() == {}


@in_a_world
async def test_path_that_leads_to_another_container_now(world: World) -> None:
    """The process number of a dead container was given to another: that one is not touched."""
    await world.put("10.2.1.5/24")
    world.host.remove_namespace(WEB)
    world.host.namespaces[WEB] = world.host.namespaces[DB]
    await world.put("10.2.1.5/24", key="db", netns=DB)
    await world.attachments.delete("web", "ethwe")
    assert world.host.calls[-1].arguments[0] is None
    assert world.inside(host_interface_name("db", "ethwe")) is not None


@in_a_world
async def test_host_that_fails_to_delete_keeps_the_record(world: World) -> None:
    before = await world.put("10.2.1.5/24")
    world.host.fail_next("detach", HostError("no memory"))
    with pytest.raises(HostError):
        await world.attachments.delete("web", "ethwe")
    assert await world.stored() == {"attachment/web/ethwe": ["10.2.1.5/24"]}
    assert await world.put() == before


@in_a_world
async def test_store_that_fails_to_delete_keeps_the_interface(world: World) -> None:
    await world.put("10.2.1.5/24")
    world.store.failing = True
    with pytest.raises(StoreError):
        await world.attachments.delete("web", "ethwe")
    assert world.addresses() == ["10.2.1.5/24"]


# Adopting


@in_a_world
async def test_attachments_are_adopted_after_a_crash(world: World) -> None:
    before = await world.put("10.2.1.5/24")
    calls = len(world.host.calls)
    adopted = world.restarted(world.store.crash())
    await adopted.adopt()
    assert [entry.to_json() for entry in adopted.list()] == [before]
    assert [call.method for call in world.host.calls[calls:]] == ["list_attached"]


@in_a_world
async def test_attachments_of_dead_containers_are_dropped(world: World) -> None:
    await world.put("10.2.1.5/24")
    await world.put("10.2.1.6/24", key="db", netns=DB)
    world.host.remove_namespace(WEB)
    world.host.add_namespace(WEB)  # the same path, but another namespace
    adopted = world.restarted(world.store)
    await adopted.adopt()
    assert [entry.id for entry in adopted.list()] == ["db"]
    assert list(await world.stored()) == ["attachment/db/ethwe"]


@in_a_world
async def test_lost_interfaces_are_made_again(world: World) -> None:
    mac = (await world.put("10.2.1.5/24"))["mac"]
    await world.host.remove_device(WEB_SIDE)
    world.host.namespaces[WEB].interfaces.clear()
    await world.restarted(world.store).adopt()
    interface = world.inside()
    assert interface is not None
    assert (interface.mac, world.addresses()) == (mac, ["10.2.1.5/24"])


@in_a_world
async def test_interface_that_cannot_be_made_again_does_not_stop_the_daemon(world: World) -> None:
    await world.put("10.2.1.5/24")
    await world.host.remove_device(WEB_SIDE)
    world.host.fail_next("attach", HostError("no memory"))
    adopted = world.restarted(world.store)
    await adopted.adopt()
    assert [entry.id for entry in adopted.list()] == ["web"]


@in_a_world
async def test_entry_that_cannot_be_read(world: World) -> None:
    await world.store.write({"attachment/web/ethwe": {"addresses": [], "surprise": 1}})
    with pytest.raises(StoreError, match="attachment/web/ethwe"):
        await world.attachments.adopt()


# At the same time


@in_a_world
async def test_changes_of_one_attachment_wait_for_each_other(world: World) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(1, 9):
            nursery.start_soon(world.put, f"10.2.1.{number}/24")
    assert sorted(world.addresses()) == [f"10.2.1.{number}/24" for number in range(1, 9)]
    assert sorted((await world.stored())["attachment/web/ethwe"]) == sorted(world.addresses())
    assert not world.attachments._locks


@in_a_world
async def test_change_is_finished_although_its_caller_went_away(world: World) -> None:
    """Whenever it is cancelled, host and store agree in the end."""
    for moment in range(12):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.put, "10.2.1.5/24")
            for _ in range(moment):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert bool(world.addresses()) == bool(await world.stored()), moment
        await world.attachments.delete("web", "ethwe")


def test_host_that_hangs_does_not_hang_the_daemon() -> None:
    async def main() -> None:
        world = World()
        await world.start()
        working = world.host.attach

        async def hang(request: VethRequest) -> VethInfo:
            await trio.sleep_forever()

        world.host.attach = hang  # type: ignore[method-assign]
        begin = trio.current_time()
        with pytest.raises(DaemonError, match="not changed within"):
            await world.put("10.2.1.5/24")
        assert trio.current_time() - begin == pytest.approx(OPERATION_LIMIT_S)
        world.host.attach = working  # type: ignore[method-assign]
        await world.put("10.2.1.5/24")

    trio.run(main, clock=MockClock(autojump_threshold=0))


# Requests


def test_names() -> None:
    assert len(host_interface_name("x" * 64, "eth0")) == 14
    assert host_interface_name("a", "b") != host_interface_name("b", "a")
    check_key("weave:other", "eth0.5")
    for reserved in ("_", "weave:expose", "weave:extern"):
        with pytest.raises(AttachmentError, match="choose another"):
            check_key(reserved, "eth0")
    for key, interface in (("", "e"), ("a/b", "e"), ("..", "e"), ("a", ""), ("a", "x" * 16), ("a", "e/f"), ("a", "..")):
        with pytest.raises(AttachmentError):
            check_key(key, interface)


def test_request_with_every_field() -> None:
    request = AttachmentRequest.from_json(
        {
            "netns": "/run/netns/web",
            "addresses": [
                "ip:10.2.1.5/24",
                "10.2.1.5/24",
                "FD00::1/64",
                "net:10.2.2.0/24",
                "net:default",
                "net:default",
            ],
            "owner": "cni",
            "network": "blue",
            "mtu": 1400,
            "mac": "7A:00:00:00:00:01",
            "multicast_route": False,
        }
    )
    assert request.addresses == ("10.2.1.5/24", "fd00::1/64", "net:10.2.2.0/24", "net:default")
    assert (request.owner, request.network, request.mtu) == ("cni", "blue", 1400)
    assert (request.mac, request.multicast_route) == ("7a:00:00:00:00:01", False)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"netns": None}, "netns"),
        ({"netns": "relative"}, "absolute path"),
        ({"netns": "/a\0b"}, "absolute path"),
        ({"netns": "/" + "x" * 5000}, "netns"),
        ({"surprise": 1}, "surprise"),
        ({"addresses": "10.0.0.1/8"}, "list"),
        ({"addresses": [5]}, "list"),
        ({"addresses": ["10.0.0.1"]}, "ADDRESS/LEN"),
        ({"addresses": ["10.0.0.1/33"]}, "10.0.0.1/33"),
        ({"addresses": ["net:10.2.1.5/16"]}, "no subnet such as"),
        ({"addresses": ["net:10.2.1.4/31"]}, "too small"),
        ({"addresses": ["net:fd00::/64"]}, "IPv6"),
        ({"addresses": ["net:"]}, "no subnet such as"),
        ({"addresses": ["net:Default"]}, "no subnet such as"),
        ({"addresses": ["224.0.0.1/24"]}, "cannot be"),
        ({"addresses": ["127.0.0.1/8"]}, "cannot be"),
        ({"addresses": ["0.0.0.0/0"]}, "cannot be"),
        ({"addresses": ["fe80::1%eth0/64"]}, "zone"),
        ({"addresses": [f"10.0.0.{n}/24" for n in range(65)]}, "more than 64"),
        ({"owner": ""}, "owner"),
        ({"owner": "x" * 300}, "owner"),
        ({"mtu": 100}, "mtu"),
        ({"mtu": True}, "mtu"),
        ({"mtu": "1400"}, "mtu"),
        ({"mac": "01:00:5e:00:00:01"}, "multicast"),
        ({"mac": "nonsense"}, "MAC"),
        ({"mac": "00:00:00:00:00:00"}, "MAC"),
        ({"multicast_route": "yes"}, "multicast_route"),
    ],
)
def test_bad_requests(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(AttachmentError, match=part):
        AttachmentRequest.from_json({"netns": "/run/netns/web", **changes})


@pytest.mark.parametrize("body", [None, [], "text", 5])
def test_bodies_that_are_no_objects(body: Any) -> None:
    with pytest.raises(AttachmentError, match="JSON object"):
        AttachmentRequest.from_json(body)


def test_addresses_to_detach() -> None:
    assert parse_detached_address("ip:10.2.1.5/24") == "10.2.1.5/24"
    assert parse_detached_address("FD00::1") == "fd00::1"
    with pytest.raises(AttachmentError):
        parse_detached_address("web")
    assert parse_interface_address("10.2.1.5/24") == "10.2.1.5/24"
