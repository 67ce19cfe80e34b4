"""Attachments that engines keep, known by a path or by a descriptor only: partly removed, started anew, used again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

from weave.http_asker import JSON, WEB, Asker, on_socket
from weave.test_weave_attachments_engines import SIDE, World, in_a_world
from weave_net.attachments import GRACE_S, SWEEP_S
from weave_net.errors import AttachmentConflict, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_net.attachment import Attachment
    from weave_router.doors import JsonValue

TWO = ("10.32.0.5/12", "10.32.0.6/12")
HIDDEN = "/somewhere/else/netns"
"""A path that means nothing to the daemon."""


async def put_by_descriptor(world: World, number: int = 7, *addresses: str) -> Attachment:
    """Attach a container whose namespace the daemon knows by a descriptor, which the caller closes at once."""
    path = f"/proc/self/fd/{number}"
    world.host.namespaces[path] = world.host.namespaces[WEB]
    try:
        return await world.put(netns=HIDDEN, descriptor=number, addresses=addresses or TWO)
    finally:
        del world.host.namespaces[path]


def inside(world: World) -> list[str]:
    """The addresses of the container's interface."""
    device = world.host.devices.get(SIDE)
    return [] if device is None or device.peer is None else [str(address) for address in device.peer.addresses]


@in_a_world
async def test_one_address_of_a_namespace_that_only_its_caller_can_open(world: World) -> None:
    """The other address, and the interface, stay: what is recorded is what is there."""
    await put_by_descriptor(world)
    try:
        await world.attachments.delete("web", "eth0", (TWO[0],))
    except AttachmentConflict:
        assert inside(world) == list(TWO)
        return
    (known,) = world.attachments.list()
    assert (list(known.addresses), SIDE in world.host.devices) == ([TWO[1]], True)


@in_a_world
async def test_one_address_of_a_namespace_whose_path_was_taken_away(world: World) -> None:
    """A name under /run/netns may be removed while processes keep the namespace."""
    await world.put(addresses=TWO)
    namespace = world.host.namespaces.pop(WEB)
    try:
        await world.attachments.delete("web", "eth0", (TWO[0],))
    except AttachmentConflict:
        assert inside(world) == list(TWO)
        return
    finally:
        world.host.namespaces[WEB] = namespace
    (known,) = world.attachments.list()
    assert (list(known.addresses), SIDE in world.host.devices) == ([TWO[1]], True)


@in_a_world
async def test_container_known_by_descriptor_outlives_the_daemon(world: World) -> None:
    await put_by_descriptor(world)
    world.attachments = world.restarted()
    await world.attachments.adopt()
    assert inside(world) == list(TWO)
    with pytest.raises(AttachmentConflict):
        await put_by_descriptor(world, 8)
    with trio.move_on_after(GRACE_S + 2 * SWEEP_S):
        await world.attachments.run()
    assert inside(world) == list(TWO)
    await world.attachments.delete("web", "eth0", owner="cni", network="weave")
    assert (world.attachments.list(), SIDE in world.host.devices) == ((), False)
    assert list((await put_by_descriptor(world, 9, "10.32.0.9/12")).addresses) == ["10.32.0.9/12"]


@in_a_world
async def test_path_known_by_descriptor_that_leads_to_another_container(world: World) -> None:
    """Nothing of it is touched, whatever becomes of the attachment."""
    await put_by_descriptor(world)
    decoy = world.host.add_namespace(HIDDEN)
    world.attachments = world.restarted()
    await world.attachments.adopt()
    await world.attachments.delete("web", "eth0")
    assert decoy.interfaces == {}
    assert SIDE not in world.host.devices


@in_a_world
async def test_interface_made_anew_has_what_was_asked_last(world: World) -> None:
    """Somebody removed the interface, and the engine adds it again with another address: the first is not its own."""
    await world.put(addresses=("10.32.0.5/12",))
    await world.host.remove_device(SIDE)
    made = await world.put(addresses=("10.32.0.6/12",), network="other", mac=None)
    assert (made.addresses, made.network) == (("10.32.0.6/12",), "other")
    assert inside(world) == ["10.32.0.6/12"]


@in_a_world
async def test_container_started_anew_in_a_namespace_with_the_number_of_the_last(world: World) -> None:
    """The kernel uses inode numbers of namespaces again."""
    await world.put(addresses=("10.32.0.5/12",))
    world.host.remove_namespace(WEB)
    fresh = world.host.add_namespace(WEB)
    first = world.fakes._seen[0]
    world.fakes._seen = [fresh if seen is first else seen for seen in world.fakes._seen]
    made = await world.put(addresses=("10.32.0.6/12",))
    assert made.addresses == ("10.32.0.6/12",)


@in_a_world
async def test_store_that_fails_at_the_second_step_of_a_delegated_add(world: World) -> None:
    """Interface first, addresses of another plugin then: these go again, the interface is left as it was."""
    await put_by_descriptor(world, 7)
    write = world.store.write

    async def fail(changes: Mapping[str, JsonValue | None]) -> None:
        world.store.write = write  # type: ignore[method-assign]
        raise StoreError("disk full")

    world.store.write = fail  # type: ignore[method-assign]
    path = "/proc/self/fd/8"
    world.host.namespaces[path] = world.host.namespaces[WEB]
    with pytest.raises(StoreError):
        await world.put(netns=HIDDEN, descriptor=8, create=False, addresses=("10.32.0.9/12",))
    (known,) = world.attachments.list()
    assert list(known.addresses) == inside(world) == list(TWO)


@on_socket
async def test_text_that_cannot_be_told_again_is_refused(ask: Asker) -> None:
    """One such text in one attachment, and nobody could list any."""
    for field in ("netns", "network", "owner"):
        ask.daemon.fakes.host.namespaces.setdefault("/run/netns/\udcff", ask.daemon.fakes.host.namespaces[WEB])
        body = {"netns": WEB, "addresses": [], field: "/run/netns/\udcff"}
        answer = await ask("PUT", "/attachment/web/ethwe", json.dumps(body), JSON)
        assert answer.status == 400, field
        listed = await ask("GET", "/attachment")
        assert (listed.status, listed.json) == (200, [])
