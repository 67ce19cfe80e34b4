"""Attachments as CNI and Docker ask for them: new or not at all, kept until told, with gateway and routes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from weave.lonely_parts import make_attachments
from weave_net.attachment import host_interface_name
from weave_net.attachment_request import AttachmentRequest
from weave_net.attachments import GRACE_S, SWEEP_S, Attachments
from weave_net.errors import AttachmentConflict, AttachmentError
from weave_net.testing.wirings import BRIDGE_ADDRESS, FakeWiring
from weave_router.errors import HostError
from weave_router.testing.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from weave_net.attachment import Attachment

WEB = "/run/netns/web"
SIDE = host_interface_name("web", "eth0")
REQUEST = AttachmentRequest(
    netns=WEB, addresses=("10.32.0.5/12",), owner="cni", network="weave", create=True, keep=True, multicast_route=False
)
DOCKER = AttachmentRequest(peer="vethwg123456789", addresses=("10.40.0.5/16",), owner="docker", claim=False, keep=True)


class World:
    """A daemon's attachments, its host and its store."""

    def __init__(self) -> None:
        self.fakes = FakeWiring()
        self.host = self.fakes.host
        self.store = MemoryStore()
        self.attachments = self.restarted()

    def restarted(self, boot: str = "this boot") -> Attachments:
        return make_attachments(self.fakes, self.store, boot=boot)

    async def put(self, request: AttachmentRequest = REQUEST, **changes: Any) -> Attachment:
        return await self.attachments.put("web", "eth0", replace(request, **changes))


def in_a_world(check: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            world = World()
            await world.host.ensure_bridge("weave", "02:00:00:00:00:01", 1376)
            world.host.add_namespace(WEB)
            await check(world)

        trio.run(main, clock=MockClock(autojump_threshold=0))

    return run


@in_a_world
async def test_second_creation_is_refused_and_changes_nothing(world: World) -> None:
    made = await world.put()
    with pytest.raises(AttachmentConflict, match="eth0 already"):
        await world.put(addresses=("10.32.0.6/12",))
    assert [known.addresses for known in world.attachments.list()] == [made.addresses]
    assert world.host.devices[SIDE].peer is not None


@in_a_world
async def test_container_without_its_interface_can_get_it_again(world: World) -> None:
    await world.put()
    await world.host.remove_device(SIDE)
    assert (await world.put()).addresses == ("10.32.0.5/12",)
    assert SIDE in world.host.devices


@in_a_world
async def test_interface_of_somebody_else_is_in_the_way(world: World) -> None:
    await world.put()
    await world.attachments.delete("web", "eth0")
    await world.attachments.put("other", "eth0", replace(REQUEST, create=False))
    with pytest.raises(HostError, match="already has an interface eth0"):
        await world.put()
    assert [known.id for known in world.attachments.list()] == ["other"]


@in_a_world
async def test_kept_attachment_outlives_its_namespace_and_the_daemon(world: World) -> None:
    await world.put()
    world.host.remove_namespace(WEB)
    with trio.move_on_after(GRACE_S + 2 * SWEEP_S):
        await world.attachments.run()
    assert world.attachments.has("web")
    again = world.restarted()
    await again.adopt()
    assert [known.addresses for known in again.list()] == [("10.32.0.5/12",)]


@in_a_world
async def test_next_start_of_the_host_ends_it(world: World) -> None:
    await world.put()
    world.host.remove_namespace(WEB)
    after = world.restarted("next boot")
    await after.adopt()
    assert after.list() == ()
    assert await world.store.read() == {}


@in_a_world
async def test_interface_that_nobody_was_told_of_is_removed_at_the_start(world: World) -> None:
    await world.put()
    await world.store.write({"attachment/web/eth0": None})  # as a crash between the two leaves it
    await world.restarted().adopt()
    assert SIDE not in world.host.devices


@in_a_world
async def test_default_route_leads_through_the_bridge(world: World) -> None:
    made = await world.put(gateway="bridge")
    assert made.gateway == str(BRIDGE_ADDRESS)
    assert [route.to_json() for route in made.routes] == [{"dst": "0.0.0.0/0", "gw": str(BRIDGE_ADDRESS)}]
    inside = world.host.devices[SIDE].peer
    assert inside is not None
    assert len(inside.routes) == 1


@in_a_world
async def test_gateway_outside_the_subnet_gets_a_route_of_its_own(world: World) -> None:
    made = await world.put(addresses=("10.2.1.5/24",), gateway="bridge")
    assert [route.dst for route in made.routes] == [f"{BRIDGE_ADDRESS}/32", "0.0.0.0/0"]


@in_a_world
async def test_attachment_of_another_network_is_left_alone(world: World) -> None:
    await world.put()
    for owner, network in [("cni", "other"), ("docker", "weave")]:
        with pytest.raises(AttachmentConflict, match="made for cni, network weave"):
            await world.attachments.delete("web", "eth0", owner=owner, network=network)
    assert await world.attachments.delete("web", "eth0", owner="cni", network="weave") == ("10.32.0.5/12",)
    assert world.attachments.list() == ()


@in_a_world
async def test_end_for_an_engine_to_move(world: World) -> None:
    made = await world.put(DOCKER)
    assert "vethwg123456789" in world.host.namespaces["/proc/self/ns/net"].interfaces
    assert await world.put(DOCKER) == made, "Docker repeats itself"
    again = world.restarted()
    await again.adopt()
    assert [known.peer for known in again.list()] == ["vethwg123456789"]
    assert await again.delete("web", "eth0") == ("10.40.0.5/16",)
    assert SIDE not in world.host.devices


@in_a_world
async def test_end_that_vanished_with_its_container_is_not_missed(world: World) -> None:
    """The engine was told nothing could be deleted while no daemon ran, and has forgotten it."""
    await world.put(DOCKER)
    await world.host.remove_device(SIDE)
    again = world.restarted()
    await again.adopt()
    assert again.list() == ()
    assert await world.store.read() == {}


@in_a_world
async def test_address_that_others_see_to_must_be_given(world: World) -> None:
    with pytest.raises(AttachmentError, match="give an address"):
        await world.put(DOCKER, addresses=("net:default",))


@in_a_world
async def test_inspection_tells_what_is_missing(world: World) -> None:
    await world.put()
    assert await world.attachments.inspect("web", "eth0") == ()
    await world.host.remove_device(SIDE)
    assert "is gone" in " ".join(await world.attachments.inspect("web", "eth0"))
    with pytest.raises(AttachmentError, match="no interface eth1"):
        await world.attachments.inspect("web", "eth1")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"peer": "vethwg1"}, "'keep' true"),
        ({"peer": "a name too long for it", "keep": True}, "interface name"),
        ({"peer": "vethwg1", "keep": True, "netns": WEB}, "leave 'netns' out"),
        ({"netns": WEB, "descriptor": "3"}, "descriptor"),
        ({"netns": WEB, "descriptor": True}, "descriptor"),
        ({"netns": WEB, "gateway": "nowhere"}, "gateway"),
        ({"netns": WEB, "gateway": "224.0.0.1"}, "gateway"),
        ({"netns": WEB, "routes": {}}, "list"),
        ({"netns": WEB, "routes": [{}]}, "object"),
        ({"netns": WEB, "routes": [{"dst": "10.0.0.0/8", "via": "10.1.1.1"}]}, "unknown field 'via'"),
        ({"netns": WEB, "routes": [{"dst": "10.0.0.0/8", "gw": "fe80::1"}]}, "other family"),
        ({"netns": WEB, "routes": [{"dst": "10.0.0.0/33"}]}, "cannot be read"),
        ({"netns": WEB, "routes": [{"dst": "10.0.0.0/8", "mtu": -1}]}, "'mtu'"),
        ({"netns": WEB, "routes": [{"dst": "10.0.0.0/8"}] * 257}, "256"),
        ({"netns": WEB, "names": "web"}, "list of host names"),
        ({"netns": WEB, "names": ["x"] * 65}, "64"),
        ({"netns": WEB, "create": "yes"}, "'create'"),
    ],
)
def test_bad_requests_name_what_is_wrong(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(AttachmentError, match=text):
        AttachmentRequest.from_json(fields)
