"""What every implementation of the door `Host` does: one suite for the real host and for the recorder.

The real one works in a network namespace of its own, made for each test, so that the machine's stays as it
is.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING

import pytest
import trio

from lab.host_worlds import LinuxWorld, RecorderWorld, Seen, World
from weave_router.doors import ContainerRoute, VethRequest
from weave_router.errors import HostError
from weave_router.testing.hosts import RecordingHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.host_worlds import Check
    from weave_router.doors import Host

MAC = "7a:00:00:00:00:01"
MTU = 1376
HOST_SIDE = "vethwe1a2b3c4d"


def on_every_host(check: Check) -> Callable[[type[World]], None]:
    @pytest.mark.parametrize(
        "world",
        [pytest.param(RecorderWorld, id="recorder"), pytest.param(LinuxWorld, id="linux", marks=pytest.mark.root)],
    )
    def run(world: type[World]) -> None:
        world().run(check)

    run.__doc__ = check.__doc__
    return run


def request(namespace: str, *addresses: str, **changes: object) -> VethRequest:
    plain = VethRequest(
        namespace=namespace,
        interface="ethwe",
        host_interface=HOST_SIDE,
        bridge="weave",
        mtu=MTU,
        addresses=tuple(ip_interface(address) for address in addresses),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


# The bridge


@on_every_host
async def test_bridge_is_created_as_asked(host: Host, world: World) -> None:
    info = await host.ensure_bridge("weave", MAC, MTU)
    assert (info.name, info.mac, info.mtu) == ("weave", MAC, MTU)
    assert info.index > 0
    assert world.device("weave") == Seen(MAC, MTU, up=True, bridge=None, isolated=False, hairpin=False)


@on_every_host
async def test_bridge_is_adopted_and_changed(host: Host, world: World) -> None:
    first = await host.ensure_bridge("weave", MAC, MTU)
    second = await host.ensure_bridge("weave", "7A:00:00:00:00:02", 8900)
    assert second.index == first.index
    seen = world.device("weave")
    assert seen is not None
    assert (seen.mac, seen.mtu, seen.up) == ("7a:00:00:00:00:02", 8900, True)


@on_every_host
async def test_device_that_is_no_bridge_is_refused(host: Host, world: World) -> None:
    world.add_tap("weave")
    with pytest.raises(HostError, match="weave reset"):
        await host.ensure_bridge("weave", MAC, MTU)
    seen = world.device("weave")
    assert seen is not None
    assert not seen.up


@on_every_host
async def test_nonsense_is_refused_in_words(host: Host, world: World) -> None:
    with pytest.raises(HostError, match="cannot be the name"):
        await host.ensure_bridge("a-name-that-is-too-long", MAC, MTU)
    with pytest.raises(HostError, match="cannot be the name"):
        await host.ensure_bridge("we/ave", MAC, MTU)
    with pytest.raises(HostError, match="no MAC address"):
        await host.ensure_bridge("weave", "7a:00", MTU)
    with pytest.raises(HostError, match="multicast"):
        await host.ensure_bridge("weave", "01:00:5e:00:00:01", MTU)
    with pytest.raises(HostError, match="out of range"):
        await host.ensure_bridge("weave", MAC, 70000)
    assert world.device("weave") is None


# Ports


@on_every_host
async def test_device_joins_the_bridge(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    world.add_tap("weave-tap")
    for _ in range(2):
        await host.join_bridge("weave-tap", "weave", mtu=MTU, isolated=True)
        seen = world.device("weave-tap")
        assert seen is not None
        assert (seen.mtu, seen.up, seen.bridge, seen.isolated) == (MTU, True, "weave", True)


@on_every_host
async def test_port_is_not_isolated_unless_asked(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    world.add_tap("weave-tap")
    await host.join_bridge("weave-tap", "weave", mtu=MTU, isolated=True)
    await host.join_bridge("weave-tap", "weave", mtu=MTU, isolated=False)
    seen = world.device("weave-tap")
    assert seen is not None
    assert not seen.isolated


@on_every_host
async def test_joining_needs_bridge_and_device(host: Host, world: World) -> None:
    with pytest.raises(HostError, match="no bridge weave"):
        await host.join_bridge("weave-tap", "weave", mtu=MTU, isolated=True)
    await host.ensure_bridge("weave", MAC, MTU)
    with pytest.raises(HostError, match="no network device weave-tap"):
        await host.join_bridge("weave-tap", "weave", mtu=MTU, isolated=True)


@on_every_host
async def test_ports_of_other_bridges_stay_theirs(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    await host.ensure_bridge("other", MAC, MTU)
    world.add_tap("weave-tap")
    await host.join_bridge("weave-tap", "other", mtu=MTU, isolated=True)
    with pytest.raises(HostError, match="port of another bridge"):
        await host.join_bridge("weave-tap", "weave", mtu=MTU, isolated=True)


# Addresses of the bridge


@on_every_host
async def test_bridge_gets_and_loses_addresses(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    assert await host.bridge_addresses("weave") == ()
    first, second, third = (ip_interface(text) for text in ("10.2.1.5/24", "10.2.1.6/24", "fd00:2::5/64"))
    for address in (first, second, third):
        assert await host.add_bridge_address("weave", address)
        assert not await host.add_bridge_address("weave", address)
    assert set(await host.bridge_addresses("weave")) == {first, second, third}
    assert world.host_addresses("weave") == {"10.2.1.5/24", "10.2.1.6/24", "fd00:2::5/64"}
    assert await host.remove_bridge_address("weave", first)
    assert not await host.remove_bridge_address("weave", first)
    assert not await host.remove_bridge_address("weave", ip_interface("10.2.1.6/16")), "another prefix length"
    assert world.host_addresses("weave") == {"10.2.1.6/24", "fd00:2::5/64"}, "the first removal took others along"


@on_every_host
async def test_addresses_stay_when_the_bridge_is_adopted(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    await host.add_bridge_address("weave", ip_interface("10.2.1.5/24"))
    await host.ensure_bridge("weave", MAC, 1400)
    assert world.host_addresses("weave") == {"10.2.1.5/24"}


@on_every_host
async def test_addresses_need_a_bridge(host: Host, world: World) -> None:
    address = ip_interface("10.2.1.5/24")
    for _ in range(2):
        with pytest.raises(HostError, match=r"no bridge"):
            await host.bridge_addresses("weave")
        with pytest.raises(HostError, match=r"no bridge"):
            await host.add_bridge_address("weave", address)
        assert not await host.remove_bridge_address("weave", address)
        if world.device("weave") is None:
            world.add_tap("weave")  # the second time it is no bridge
    with pytest.raises(HostError, match="cannot be the name"):
        await host.add_bridge_address("we/ave", address)
    with pytest.raises(HostError, match="cannot be the name"):
        async with host.watch_addresses("we/ave"):
            raise AssertionError("this must not begin")


@on_every_host
async def test_watch_tells_every_change_whoever_makes_it(host: Host, world: World) -> None:
    a, b = ip_interface("10.2.1.5/24"), ip_interface("fd00:2::5/64")
    with trio.fail_after(10):
        async with host.watch_addresses("weave") as changes:
            assert await anext(changes) == (), "without a bridge"
            await host.ensure_bridge("weave", MAC, MTU)
            await host.add_bridge_address("weave", a)
            assert await anext(changes) == (a,)
            world.give_address("weave", "fd00:2::5/64")
            assert set(await anext(changes)) == {a, b}
            world.take_address("weave", "10.2.1.5/24")
            assert await anext(changes) == (b,)
            await host.remove_device("weave")
            assert await anext(changes) == ()
        await host.ensure_bridge("weave", MAC, MTU)
        await host.add_bridge_address("weave", a)
        async with host.watch_addresses("weave") as changes:
            assert await anext(changes) == (a,), "what is there already"


@on_every_host
async def test_watch_is_silent_while_nothing_changes_and_merges_what_does(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    addresses = [ip_interface(f"10.2.1.{i}/24") for i in range(1, 21)]
    async with host.watch_addresses("weave") as changes, host.watch_addresses("weave") as others:
        await anext(changes)
        await anext(others)
        await host.attach(request(world.start_container(), "10.2.1.99/24"))
        with trio.move_on_after(0.3) as silence:
            await anext(changes)
        assert silence.cancelled_caught, "an attachment is no change of the bridge's addresses"
        for address in addresses:
            await host.add_bridge_address("weave", address)
        for watcher in (changes, others):
            with trio.fail_after(10):
                while set(await anext(watcher)) != set(addresses):
                    pass


@on_every_host
async def test_change_is_told_to_one_who_gave_up_waiting_before(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    async with host.watch_addresses("weave") as changes:
        await anext(changes)
        world.give_address("weave", "10.2.1.5/24")
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(changes)
        with trio.fail_after(10):
            assert await anext(changes) == (ip_interface("10.2.1.5/24"),)


# Attaching


@on_every_host
async def test_attach(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    info = await host.attach(request(web, "10.2.1.5/24", "fd00:2::5/64"))
    assert (info.interface, info.host_interface, info.mtu) == ("ethwe", HOST_SIDE, MTU)
    assert set(info.addresses) == {"10.2.1.5/24", "fd00:2::5/64"} == world.addresses(web, "ethwe")
    assert len(bytes.fromhex(info.mac.replace(":", ""))) == 6
    assert world.has_multicast_route(web, "ethwe")
    seen = world.device(HOST_SIDE)
    assert seen is not None
    assert (seen.mtu, seen.up, seen.bridge, seen.hairpin, seen.isolated) == (MTU, True, "weave", True, False)
    assert await host.list_attached("weave") == (HOST_SIDE,)


@on_every_host
async def test_attach_with_all_choices_the_other_way(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    wanted = request(web, interface="eth1", mac="02:AA:00:00:00:05", multicast_route=False, hairpin=False)
    info = await host.attach(wanted)
    assert (info.interface, info.mac, info.addresses) == ("eth1", "02:aa:00:00:00:05", ())
    assert world.addresses(web, "eth1") == set()
    assert not world.has_multicast_route(web, "eth1")
    seen = world.device(HOST_SIDE)
    assert seen is not None
    assert not seen.hairpin


@on_every_host
async def test_attach_keeps_what_is_there_and_adds_what_is_missing(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    first = await host.attach(request(web, "10.2.1.5/24"))
    again = await host.attach(request(web, "10.2.1.5/24"))
    assert again == first
    more = await host.attach(request(web, "10.2.1.5/24", "10.2.2.5/24"))
    assert more.mac == first.mac
    assert set(more.addresses) == {"10.2.1.5/24", "10.2.2.5/24"} == world.addresses(web, "ethwe")


@on_every_host
async def test_attach_repairs_the_port(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    await host.attach(request(web, "10.2.1.5/24"))
    await host.remove_device("weave")
    lost = world.device(HOST_SIDE)
    assert lost is not None
    assert lost.bridge is None
    await host.ensure_bridge("weave", MAC, 1400)
    await host.attach(request(web, "10.2.1.5/24", mtu=1400))
    seen = world.device(HOST_SIDE)
    assert seen is not None
    assert (seen.bridge, seen.hairpin, seen.mtu) == ("weave", True, 1400)


@on_every_host
async def test_attach_many_at_once(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    containers = [world.start_container() for _ in range(5)]
    async with trio.open_nursery() as nursery:
        for i, path in enumerate(containers):
            for _ in range(2):
                wanted = request(path, f"10.2.1.{i + 1}/24", host_interface=f"vethwe0000000{i}")
                nursery.start_soon(host.attach, wanted)
    assert sorted(await host.list_attached("weave")) == [f"vethwe0000000{i}" for i in range(5)]
    for i, path in enumerate(containers):
        assert world.addresses(path, "ethwe") == {f"10.2.1.{i + 1}/24"}


@on_every_host
async def test_host_namespace_is_refused(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    with pytest.raises(HostError, match="namespace of the host"):
        await host.attach(request(world.own_namespace, "10.2.1.5/24"))
    with pytest.raises(HostError, match="namespace of the host"):
        await host.detach(world.own_namespace, "ethwe", HOST_SIDE)
    assert await host.list_attached("weave") == ()


@on_every_host
async def test_missing_namespace_is_refused(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    with pytest.raises(HostError, match="no network namespace /run/netns/wvtest-none"):
        await host.attach(request("/run/netns/wvtest-none", "10.2.1.5/24"))
    assert await host.list_attached("weave") == ()


@on_every_host
async def test_missing_bridge_is_refused(host: Host, world: World) -> None:
    web = world.start_container()
    with pytest.raises(HostError, match="weave launch"):
        await host.attach(request(web, "10.2.1.5/24"))
    assert world.device(HOST_SIDE) is None


@on_every_host
async def test_foreign_interface_is_left_alone(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    world.add_interface(web, "ethwe")
    with pytest.raises(HostError, match="already has an interface ethwe"):
        await host.attach(request(web, "10.2.1.5/24"))
    assert world.device(HOST_SIDE) is None
    assert await host.detach(web, "ethwe", HOST_SIDE) == ()
    assert world.addresses(web, "ethwe") == set()


@on_every_host
async def test_renamed_interface_is_named(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    await host.attach(request(web, "10.2.1.5/24"))
    world.rename_interface(web, "ethwe", "eth9")
    with pytest.raises(HostError, match="no longer called ethwe"):
        await host.attach(request(web, "10.2.1.5/24"))
    world.add_interface(web, "ethwe")
    with pytest.raises(HostError, match="no longer called ethwe"):
        await host.attach(request(web, "10.2.1.5/24"))
    assert world.addresses(web, "eth9") == {"10.2.1.5/24"}
    assert await host.detach(web, "ethwe", HOST_SIDE) == ("10.2.1.5/24",)
    assert world.device(HOST_SIDE) is None


@on_every_host
async def test_one_id_for_two_containers_is_refused(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web, other = world.start_container(), world.start_container()
    await host.attach(request(web, "10.2.1.5/24"))
    with pytest.raises(HostError, match="another namespace"):
        await host.attach(request(other, "10.2.1.6/24"))
    assert world.addresses(web, "ethwe") == {"10.2.1.5/24"}
    assert world.addresses(other, "ethwe") is None


# Detaching


@on_every_host
async def test_detach_all(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    await host.attach(request(web, "10.2.1.5/24", "10.2.2.5/24"))
    assert set(await host.detach(web, "ethwe", HOST_SIDE)) == {"10.2.1.5/24", "10.2.2.5/24"}
    assert world.device(HOST_SIDE) is None
    assert world.addresses(web, "ethwe") is None
    assert await host.detach(web, "ethwe", HOST_SIDE) == ()


@on_every_host
async def test_detach_one_address_after_the_other(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    await host.attach(request(web, "10.2.1.5/24", "10.2.1.6/24", "fd00:2::5/64"))
    assert await host.detach(web, "ethwe", HOST_SIDE, ("10.2.9.9/24", "10.2.1.5/16")) == ()
    assert await host.detach(web, "ethwe", HOST_SIDE, ("10.2.1.5/24",)) == ("10.2.1.5/24",)
    assert world.addresses(web, "ethwe") == {"10.2.1.6/24", "fd00:2::5/64"}, "the first removal took others along"
    assert await host.detach(web, "ethwe", HOST_SIDE, ("fd00:2::5",)) == ("fd00:2::5/64",)
    assert await host.detach(web, "ethwe", HOST_SIDE, ("10.2.1.6",)) == ("10.2.1.6/24",)
    assert world.device(HOST_SIDE) is None
    with pytest.raises(HostError, match="no address"):
        await host.detach(web, "ethwe", HOST_SIDE, ("web",))


@on_every_host
async def test_detach_of_an_ended_container(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    await host.attach(request(web, "10.2.1.5/24"))
    world.end_container(web)
    assert await host.detach(web, "ethwe", HOST_SIDE, ("10.2.1.5/24",)) == ()
    assert world.device(HOST_SIDE) is None
    assert await host.detach(web, "ethwe", HOST_SIDE) == ()


@on_every_host
async def test_detach_without_namespace(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    await host.attach(request(web, "10.2.1.5/24"))
    assert await host.detach(None, "ethwe", HOST_SIDE) == ()
    assert world.device(HOST_SIDE) is None
    assert world.addresses(web, "ethwe") is None


@on_every_host
async def test_detach_with_a_namespace_that_took_over_the_path(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web, other = world.start_container(), world.start_container()
    await host.attach(request(web, "10.2.1.5/24"))
    assert await host.detach(other, "ethwe", HOST_SIDE, ("10.2.1.5/24",)) == ()
    assert world.addresses(web, "ethwe") == {"10.2.1.5/24"}
    assert await host.detach(other, "ethwe", HOST_SIDE) == ()
    assert world.device(HOST_SIDE) is None


# Routes, and what CNI and Docker ask for beyond `weave attach`

DEFAULT = ContainerRoute(ip_network("0.0.0.0/0"), ip_address("10.2.1.254"))
FAR_GATEWAY = ContainerRoute(ip_network("10.3.0.9/32"))
BY_FAR_GATEWAY = ContainerRoute(ip_network("10.4.0.0/16"), ip_address("10.3.0.9"))


@on_every_host
async def test_routes_are_made_once(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    wanted = request(web, "10.2.1.5/24", routes=(BY_FAR_GATEWAY, DEFAULT, FAR_GATEWAY))
    for _ in range(2):
        info = await host.attach(wanted)
        assert set(info.routes) == {DEFAULT, FAR_GATEWAY, BY_FAR_GATEWAY}
        assert world.routes(web, "ethwe") == {
            ("0.0.0.0/0", "10.2.1.254"),
            ("10.3.0.9/32", None),
            ("10.4.0.0/16", "10.3.0.9"),
        }


@on_every_host
async def test_second_interface_leaves_the_default_route_where_it_is(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    routes = (FAR_GATEWAY, BY_FAR_GATEWAY)
    await host.attach(request(web, "10.2.1.5/24", routes=routes))
    second = request(web, "10.5.1.6/24", interface="eth1", host_interface="vethwe00000001", routes=routes)
    assert (await host.attach(second)).routes == ()
    assert len(world.routes(web, "ethwe")) == 2
    assert world.routes(web, "eth1") == set()


@on_every_host
async def test_interface_that_must_be_new(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web, other = world.start_container(), world.start_container()
    world.add_interface(other, "ethwe")
    assert (await host.attach(request(web, "10.2.1.5/24", create=True))).host_mac
    for namespace, side in [(web, HOST_SIDE), (other, "vethwe00000001")]:
        with pytest.raises(HostError, match="already has an interface ethwe"):
            await host.attach(request(namespace, create=True, host_interface=side))
    assert world.addresses(web, "ethwe") == {"10.2.1.5/24"}
    assert world.device("vethwe00000001") is None


@on_every_host
async def test_inspection_tells_what_was_tampered_with(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    wanted = request(web, "10.2.1.5/24", "10.2.1.6/24", routes=(DEFAULT,))
    await host.attach(wanted)
    assert await host.inspect(wanted) == ()
    world.take_inside(web, "ethwe", "10.2.1.6/24")
    assert await host.inspect(wanted) == ("ethwe lacks the address 10.2.1.6/24",)
    await host.attach(wanted)
    assert await host.inspect(wanted) == ()
    await host.remove_device(HOST_SIDE)
    assert await host.inspect(wanted) == (f"{HOST_SIDE}, the host's end of ethwe, is gone",)


@on_every_host
async def test_end_that_an_engine_will_move(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    plain = request("", "10.2.1.5/24", interface="vethwg1a2b3c4d", mac="7a:00:00:00:00:09")
    wanted = replace(plain, namespace=None)
    for _ in range(2):
        info = await host.attach(wanted)
        assert (info.mac, info.mtu) == ("7a:00:00:00:00:09", MTU)
    assert await host.inspect(wanted) == ()
    assert await host.detach(None, "ethwe", HOST_SIDE) == ()
    assert world.device(HOST_SIDE) is None


# The rest


@on_every_host
async def test_remove_device(host: Host, world: World) -> None:
    world.add_tap("weave-tap")
    assert await host.remove_device("weave-tap")
    assert world.device("weave-tap") is None
    assert not await host.remove_device("weave-tap")


@on_every_host
async def test_list_attached_knows_ours_only(host: Host, world: World) -> None:
    assert await host.list_attached("weave") == ()
    await host.ensure_bridge("weave", MAC, MTU)
    await host.ensure_bridge("other", MAC, MTU)
    for bridge, name in [("weave", HOST_SIDE), ("weave", "vethwepl1234567"), ("other", "vethwe00000001")]:
        await host.attach(request(world.start_container(), bridge=bridge, host_interface=name))
    assert await host.list_attached("weave") == (HOST_SIDE,)
    assert await host.list_attached("other") == ("vethwe00000001",)


def test_recorder_records_and_fails_on_demand() -> None:
    async def main() -> None:
        async with RecordingHost() as host:
            host.fail_next("ensure_bridge", HostError("no bridges today"))
            with pytest.raises(HostError, match="no bridges today"):
                await host.ensure_bridge("weave", MAC, MTU)
            assert host.devices == {}
            await host.ensure_bridge("weave", MAC, MTU)
            host.add_namespace("/run/netns/web")
            await host.attach(request("/run/netns/web", "10.2.1.5/24"))
            assert [call.method for call in host.calls] == ["ensure_bridge", "ensure_bridge", "attach"]
            assert host.announced == [("/run/netns/web", "10.2.1.5/24")]
        assert host.closed

    trio.run(main)
