"""What every host does for the fast datapath: one suite for the real host and for the recorder."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_interface
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from lab.vxlan_worlds import VxlanLinuxWorld, VxlanRecorderWorld, VxlanWorld
from weave_router.doors import VethRequest, VxlanEntry, VxlanSettings
from weave_router.errors import HostError
from weave_router.host.fdb_watch import MAX_ADDRESSES, SETTLE_S
from weave_router.host.firewall import Allowed
from weave_router.host.heartbeat_socket import MAX_FRAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.vxlan_worlds import VxlanCheck
    from weave_router.doors import Host

MAC = "7a:00:00:00:00:01"
OWN = bytes.fromhex("7a0000000001")
MTU = 1376
DEVICE = "weave-vxlan"
SETTINGS = VxlanSettings(device=DEVICE, bridge="weave", port=6784, vni=0x776561, mtu=MTU)
FLOOD = bytes(6)
ONE, TWO = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
WEB, DB = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
HEARTBEAT = OWN + bytes.fromhex("7a0000000002 88b5") + bytes(50)
NONE: frozenset[bytes] = frozenset()
LEFT_OUT = frozenset({"weave-tap", DEVICE})


def on_every_host(check: VxlanCheck) -> Callable[[type[VxlanWorld]], None]:
    @pytest.mark.parametrize(
        "world",
        [
            pytest.param(VxlanRecorderWorld, id="recorder"),
            pytest.param(VxlanLinuxWorld, id="linux", marks=pytest.mark.root),
        ],
    )
    def run(world: type[VxlanWorld]) -> None:
        world().run(check)  # type: ignore[arg-type]

    run.__doc__ = check.__doc__
    return run


async def with_bridge(host: Host, world: VxlanWorld, *wires: str) -> None:
    """A bridge with a TAP and other ports that frames may come from."""
    await host.ensure_bridge("weave", MAC, MTU)
    for wire in ("weave-tap", *wires):
        world.add_wire(wire)
        await host.join_bridge(wire, "weave", mtu=MTU, isolated=wire == "weave-tap")
        await world.takes_frames(wire)


async def with_vxlan(host: Host, world: VxlanWorld, *wires: str) -> None:
    await with_bridge(host, world, *wires)
    await host.open_vxlan(SETTINGS)


async def add(host: Host, *entries: VxlanEntry) -> None:
    await host.program_vxlan(DEVICE, "weave", (), entries, (), ())


async def learn(host: Host, *macs: bytes) -> None:
    await host.program_vxlan(DEVICE, "weave", (), (), (), macs)


async def unlearn(host: Host, *macs: bytes, tap: str | None = None) -> None:
    await host.program_vxlan(DEVICE, "weave", (), (), macs, (), tap=tap)


def only(*macs: bytes) -> frozenset[bytes]:
    return frozenset(macs)


# The device


@on_every_host
async def test_device_is_made_as_asked(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world)
    settings = replace(SETTINGS, local=IPv4Address("192.0.2.9"))
    assert await host.open_vxlan(settings) == ()
    assert world.vxlan(DEVICE) == settings
    seen = world.device(DEVICE)
    assert seen is not None
    assert (seen.mtu, seen.up, seen.bridge, seen.isolated, seen.hairpin) == (MTU, True, "weave", True, False)


@on_every_host
async def test_device_is_adopted_with_its_entries(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    made = world.device(DEVICE)
    entries = {VxlanEntry(FLOOD, ONE), VxlanEntry(FLOOD, TWO), VxlanEntry(DB, ONE), VxlanEntry(WEB, TWO, learned=True)}
    await host.program_vxlan(DEVICE, "weave", (), sorted(entries, key=str), (), [WEB])
    assert set(await host.open_vxlan(SETTINGS)) == entries
    assert world.entries(DEVICE) == entries
    assert world.table("weave") == {WEB: DEVICE}
    assert world.device(DEVICE) == made


@on_every_host
async def test_adopted_device_gets_another_mtu(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    await add(host, VxlanEntry(FLOOD, ONE))
    assert await host.open_vxlan(replace(SETTINGS, mtu=1400)) == (VxlanEntry(FLOOD, ONE),)
    assert world.vxlan(DEVICE) == replace(SETTINGS, mtu=1400)


@on_every_host
async def test_what_only_the_bridge_remembers_is_forgotten_at_adoption(host: Host, world: VxlanWorld) -> None:
    """The daemon may have died between its two steps."""
    await with_vxlan(host, world, "web")
    await add(host, VxlanEntry(WEB, ONE, learned=True))
    await learn(host, WEB, DB)
    world.frame_came("weave", "web", b"\2other")
    await host.open_vxlan(SETTINGS)
    assert world.table("weave") == {WEB: DEVICE, b"\2other": "web"}


@on_every_host
async def test_device_of_other_settings_is_replaced(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    for settings in (replace(SETTINGS, vni=7), replace(SETTINGS, port=7000), replace(SETTINGS, local=ONE), SETTINGS):
        await host.program_vxlan(DEVICE, "weave", (), [VxlanEntry(WEB, ONE)], (), [WEB])
        assert await host.open_vxlan(settings) == ()
        assert world.vxlan(DEVICE) == settings
        assert world.table("weave") == {}
        assert world.entries(DEVICE) == set()


@on_every_host
async def test_foreign_device_of_that_name_is_left_alone(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world)
    world.add_wire(DEVICE)
    before = world.device(DEVICE)
    with pytest.raises(
        HostError, match=f"{DEVICE} exists on this host and is a veth device, no VXLAN; run `weave reset`"
    ):
        await host.open_vxlan(SETTINGS)
    await host.close_vxlan(DEVICE)
    assert world.device(DEVICE) == before


@on_every_host
async def test_network_or_port_in_use_is_refused(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    with pytest.raises(HostError, match="UDP port 6784, or VXLAN network 7824737 at this port, is in use"):
        await host.open_vxlan(replace(SETTINGS, device="other"))
    assert world.device("other") is None
    await host.open_vxlan(replace(SETTINGS, device="other", vni=7))


@on_every_host
async def test_device_of_another_bridge_is_left_there(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    await host.ensure_bridge("other", "7a:00:00:00:00:02", MTU)
    with pytest.raises(HostError, match="port of another bridge"):
        await host.open_vxlan(replace(SETTINGS, bridge="other", vni=7))
    assert world.vxlan(DEVICE) == SETTINGS


@on_every_host
async def test_nonsense_is_refused_in_words(host: Host, world: VxlanWorld) -> None:
    with pytest.raises(HostError, match="there is no bridge weave"):
        await host.open_vxlan(SETTINGS)
    await with_bridge(host, world)
    for change, words in (
        ({"device": "a/b"}, "cannot be the name"),
        ({"port": 0}, "cannot be the UDP port"),
        ({"port": 65536}, "cannot be the UDP port"),
        ({"vni": 1 << 24}, "cannot be a VXLAN network"),
        ({"mtu": 100}, "out of range"),
    ):
        with pytest.raises(HostError, match=words):
            await host.open_vxlan(replace(SETTINGS, **change))
    with pytest.raises(HostError, match="cannot be the UDP port"):
        await host.allow_vxlan(0, frozenset(), frozenset())
    assert world.device(DEVICE) is None
    assert world.allowed() is None


# Forwarding entries


@on_every_host
async def test_flooding_goes_to_each_remote_once(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    await add(host, VxlanEntry(FLOOD, ONE), VxlanEntry(FLOOD, TWO), VxlanEntry(FLOOD, ONE))
    assert world.entries(DEVICE) == {VxlanEntry(FLOOD, ONE), VxlanEntry(FLOOD, TWO)}
    await host.program_vxlan(DEVICE, "weave", [VxlanEntry(FLOOD, ONE)], (), (), ())
    assert world.entries(DEVICE) == {VxlanEntry(FLOOD, TWO)}


@on_every_host
async def test_address_is_at_one_remote(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    await add(host, VxlanEntry(WEB, ONE, learned=True))
    await add(host, VxlanEntry(WEB, TWO, learned=True))
    assert world.entries(DEVICE) == {VxlanEntry(WEB, TWO, learned=True)}
    await host.program_vxlan(DEVICE, "weave", [VxlanEntry(WEB, ONE)], (), (), ())
    assert world.entries(DEVICE) == {VxlanEntry(WEB, TWO, learned=True)}, "it was at another remote meanwhile"
    await host.program_vxlan(DEVICE, "weave", [VxlanEntry(WEB, TWO)], (), (), ())
    assert world.entries(DEVICE) == set()


@on_every_host
async def test_removing_comes_before_adding(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    same = [VxlanEntry(FLOOD, ONE)]
    await host.program_vxlan(DEVICE, "weave", same, same, [WEB], [WEB])
    assert world.entries(DEVICE) == set(same)
    assert world.table("weave") == {WEB: DEVICE}


@on_every_host
async def test_learned_address_moves_to_the_device_and_away_again(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web")
    world.frame_came("weave", "weave-tap", WEB)
    world.frame_came("weave", "web", DB)
    await learn(host, WEB, DB)
    await learn(host, WEB)
    assert world.table("weave") == {WEB: DEVICE, DB: DEVICE}
    world.frame_came("weave", "web", WEB)
    await unlearn(host, WEB, DB)
    assert world.table("weave") == {WEB: "web"}, "only what pointed at the device is forgotten"
    await unlearn(host, WEB, DB)
    assert world.table("weave") == {WEB: "web"}


@on_every_host
async def test_unlearning_at_the_tap(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web")
    world.frame_came("weave", "weave-tap", WEB)
    await unlearn(host, WEB)
    assert world.table("weave") == {WEB: "weave-tap"}
    world.frame_came("weave", "web", DB)
    await unlearn(host, WEB, DB, tap="weave-tap")
    assert world.table("weave") == {DB: "web"}
    await learn(host, WEB)
    await unlearn(host, WEB, tap="gone")
    assert world.table("weave") == {DB: "web"}


@on_every_host
async def test_forgetting_behind_a_port(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web")
    world.frame_came("weave", "weave-tap", WEB)
    world.frame_came("weave", "web", DB)
    await host.forget_behind("weave", "weave-tap", [WEB, DB, b"\2other"])
    assert world.table("weave") == {DB: "web"}
    await host.forget_behind("weave", "gone", [WEB])
    await host.forget_behind("weave", "weave-tap", [])
    assert world.messages() == 3


@on_every_host
async def test_own_address_of_the_bridge_is_not_learned(host: Host, world: VxlanWorld) -> None:
    """The kernel would hand it over, and the host would be off its own network."""
    await with_vxlan(host, world)
    await learn(host, OWN, WEB)
    assert world.table("weave") == {WEB: DEVICE}
    await unlearn(host, OWN)
    with_own_address = host.open_heartbeats(DEVICE, "weave")
    world.heartbeat_came("weave-tap", HEARTBEAT)
    with trio.fail_after(5):
        await with_own_address.wait()
    with_own_address.close()


@on_every_host
async def test_each_change_is_one_message(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    before = world.messages()
    await host.program_vxlan(DEVICE, "weave", (), (), (), ())
    assert world.messages() == before
    entries = [VxlanEntry(FLOOD, ONE), VxlanEntry(WEB, ONE, learned=True)]
    await host.program_vxlan(DEVICE, "weave", [VxlanEntry(FLOOD, TWO)], entries, [DB], [WEB])
    assert world.messages() == before + 5
    await unlearn(host, WEB, tap="weave-tap")
    assert world.messages() == before + 7


@on_every_host
async def test_hundreds_of_changes_at_once(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    entries = [VxlanEntry(b"\2\0\0" + i.to_bytes(3), IPv4Address(0x0A000000 + i), learned=True) for i in range(1, 701)]
    macs = [entry.mac for entry in entries]
    await host.program_vxlan(DEVICE, "weave", entries, entries, macs, macs)
    assert world.entries(DEVICE) == set(entries)
    assert world.table("weave") == dict.fromkeys(macs, DEVICE)
    await host.program_vxlan(DEVICE, "weave", entries, (), macs, ())
    assert world.entries(DEVICE) == set()
    assert world.table("weave") == {}


@on_every_host
async def test_what_is_no_station_is_refused_before_anything_is_done(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    for bad in (bytes(6), b"", b"\2" * 5, b"\2" * 7, b"\1\0\0\0\0\1", b"\xff" * 6):
        for unlearned, learned in (([bad], []), ([], [bad])):
            with pytest.raises(HostError, match="is no MAC address of a single station"):
                await host.program_vxlan(DEVICE, "weave", (), [VxlanEntry(WEB, ONE)], unlearned, learned)
        with pytest.raises(HostError, match="is no MAC address of a single station"):
            await host.forget_behind("weave", "weave-tap", [bad])
        if bad != FLOOD:
            with pytest.raises(HostError, match="is no MAC address of a single station"):
                await add(host, VxlanEntry(WEB, ONE), VxlanEntry(bad, ONE))
    assert world.entries(DEVICE) == set()


@on_every_host
async def test_missing_device_or_port_is_an_error(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world)
    with pytest.raises(HostError, match=f"no network device {DEVICE}"):
        await add(host, VxlanEntry(WEB, ONE))
    await host.open_vxlan(SETTINGS)
    with pytest.raises(HostError, match="no bridge other"):
        await host.program_vxlan(DEVICE, "other", (), (), (), [WEB])
    await host.remove_device("weave")
    await host.ensure_bridge("weave", MAC, MTU)
    with pytest.raises(HostError, match=f"{DEVICE} is no port of the bridge weave any more"):
        await host.program_vxlan(DEVICE, "weave", (), [VxlanEntry(WEB, ONE)], (), [WEB])
    assert world.entries(DEVICE) == {VxlanEntry(WEB, ONE)}, "all else is done"
    await host.open_vxlan(SETTINGS)
    await learn(host, WEB)
    assert world.table("weave") == {WEB: DEVICE}


# Local addresses


@on_every_host
async def test_local_addresses_now_and_later(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web", "db")
    world.frame_came("weave", "web", WEB)
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        with trio.fail_after(10):
            assert await anext(changes) == (only(WEB), NONE)
            world.frame_came("weave", "db", DB)
            assert await anext(changes) == (only(DB), NONE)
            world.age("weave", "web", WEB)
            assert await anext(changes) == (NONE, only(WEB))
            await host.remove_device("db")
            assert await anext(changes) == (NONE, only(DB))
    assert changes.beyond_limit == 0


@on_every_host
async def test_addresses_behind_tap_and_vxlan_are_not_local(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web")
    world.frame_came("weave", "weave-tap", WEB)
    await learn(host, DB)
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        with trio.fail_after(10):
            assert await anext(changes) == (NONE, NONE)
            world.frame_came("weave", "web", WEB)
            world.frame_came("weave", "web", DB)
            assert await anext(changes) == (only(WEB, DB), NONE)
            world.frame_came("weave", "weave-tap", WEB)
            assert await anext(changes) == (NONE, only(WEB))
            await learn(host, DB)
            assert await anext(changes) == (NONE, only(DB))


@on_every_host
async def test_devices_left_out_may_come_later_and_again(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world, "web")
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        with trio.fail_after(10):
            assert await anext(changes) == (NONE, NONE)
            for vni in (7, 8):
                await host.open_vxlan(replace(SETTINGS, vni=vni))
                await learn(host, WEB)
                await trio.sleep(2 * SETTLE_S)
            world.frame_came("weave", "web", DB)
            assert await anext(changes) == (only(DB), NONE)


@on_every_host
async def test_quick_changes_come_as_one(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world, "web", "db")
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        with trio.fail_after(10):
            await anext(changes)
            world.frame_came("weave", "web", WEB)
            world.frame_came("weave", "db", WEB)
            world.frame_came("weave", "web", DB)
            world.age("weave", "db", WEB)
            assert await anext(changes) == (only(DB), NONE)


@on_every_host
async def test_change_waits_for_others_to_come(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world, "web")
    told = []
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        await anext(changes)

        async def listen() -> None:
            told.append(await anext(changes))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await trio.testing.wait_all_tasks_blocked()
                world.frame_came("weave", "web", WEB)
                await trio.sleep(SETTLE_S / 4)
                world.frame_came("weave", "web", DB)
    assert told == [(only(WEB, DB), NONE)]


@on_every_host
async def test_change_that_is_undone_at_once_is_none(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world, "web")
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        with trio.fail_after(10):
            await anext(changes)
            world.frame_came("weave", "web", WEB)
            world.age("weave", "web", WEB)
            with trio.move_on_after(5 * SETTLE_S):
                pytest.fail(f"{await anext(changes)}")


@on_every_host
async def test_watch_of_no_bridge_is_an_error(host: Host, world: VxlanWorld) -> None:
    with pytest.raises(HostError, match="there is no bridge weave"):
        async with host.watch_local_addresses("weave", LEFT_OUT):
            pytest.fail("watches nothing")


@on_every_host
async def test_all_are_gone_with_the_bridge(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world, "web")
    world.frame_came("weave", "web", WEB)
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        with trio.fail_after(10):
            await anext(changes)
            await host.remove_device("weave")
            assert await anext(changes) == (NONE, only(WEB))


@on_every_host
async def test_containers_announce_themselves(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world)
    request = VethRequest(
        namespace=world.start_container(),
        interface="ethwe",
        host_interface="vethwe00000001",
        bridge="weave",
        mtu=MTU,
        addresses=(ip_interface("10.2.1.1/24"),),
    )
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        with trio.fail_after(10):
            await anext(changes)
            info = await host.attach(request)
            added, removed = await anext(changes)
    assert bytes.fromhex(info.mac.replace(":", "")) in added
    assert not removed


def test_recorder_tells_only_so_many_addresses() -> None:
    async def check(host: Host, world: VxlanWorld) -> None:
        await with_bridge(host, world, "web")
        macs = [b"\2\0\0" + i.to_bytes(3) for i in range(MAX_ADDRESSES + 3)]
        for mac in macs:
            world.frame_came("weave", "web", mac)
        async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
            assert await anext(changes) == (frozenset(macs[:MAX_ADDRESSES]), frozenset())
            assert changes.beyond_limit == 3
            world.age("weave", "web", macs[0])
            assert await anext(changes) == (only(macs[MAX_ADDRESSES]), only(macs[0]))

    VxlanRecorderWorld().run(check)  # type: ignore[arg-type]


# The firewall


@on_every_host
async def test_firewall_lets_in_what_it_is_told(host: Host, world: VxlanWorld) -> None:
    assert await host.vxlan_allowed() == frozenset()
    for heartbeats, data in (
        ({ONE, TWO}, {ONE}),
        ({ONE, TWO}, {TWO}),
        (set(), {TWO}),
        (set(), set()),
        ({ONE}, {ONE, TWO}),
        ({ONE}, {ONE, TWO}),
    ):
        await host.allow_vxlan(6784, frozenset(heartbeats), frozenset(data))
        assert world.allowed() == Allowed(6784, frozenset(heartbeats), frozenset(data))
        assert await host.vxlan_allowed() == data
    await host.allow_vxlan(7000, frozenset(), frozenset({TWO}))
    assert world.allowed() == Allowed(7000, frozenset(), frozenset({TWO}))


@on_every_host
async def test_closing_removes_device_and_table(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    await host.allow_vxlan(6784, frozenset(), frozenset({ONE}))
    for _ in range(2):
        await host.close_vxlan(DEVICE)
        assert world.device(DEVICE) is None
        assert world.allowed() is None
        assert await host.vxlan_allowed() == frozenset()
    await host.allow_vxlan(6784, frozenset(), frozenset({ONE}))
    assert world.allowed() == Allowed(6784, frozenset(), frozenset({ONE}))


# Heartbeats


@on_every_host
async def test_heartbeats_that_come_are_handed_out(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    heartbeats = host.open_heartbeats(DEVICE, "weave")
    assert heartbeats.receive() == []
    to_others = [b"\xff" * 6 + HEARTBEAT[6:], bytes.fromhex("7a0000000009") + HEARTBEAT[6:]]
    of_others = HEARTBEAT[:12] + b"\x88\xb6" + HEARTBEAT[14:]
    for frame in (*to_others, of_others, HEARTBEAT):
        world.heartbeat_came("weave-tap", frame)
    received: list[bytes] = []
    with trio.fail_after(5):
        while not received:
            await heartbeats.wait()
            received += heartbeats.receive()
    assert received == [HEARTBEAT]
    heartbeats.close()


@on_every_host
async def test_heartbeat_larger_than_the_mtu_is_refused(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    heartbeats = host.open_heartbeats(DEVICE, "weave")
    assert heartbeats.send(HEARTBEAT)
    assert heartbeats.send(HEARTBEAT[:14] + bytes(MTU))
    assert not heartbeats.send(HEARTBEAT[:14] + bytes(MTU + 1))
    assert not heartbeats.send(HEARTBEAT[:13])
    assert heartbeats.send(HEARTBEAT)
    heartbeats.close()
    assert not heartbeats.send(HEARTBEAT)


@on_every_host
async def test_flood_of_heartbeats_is_handed_out_in_pieces(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    heartbeats = host.open_heartbeats(DEVICE, "weave")
    for _ in range(100):
        world.heartbeat_came("weave-tap", HEARTBEAT)
    pieces: list[int] = []
    with trio.fail_after(5):
        while sum(pieces) < 100:
            await heartbeats.wait()
            pieces.append(len(heartbeats.receive()))
    assert max(pieces) <= MAX_FRAMES
    assert heartbeats.receive() == []
    heartbeats.close()


@on_every_host
async def test_socket_of_a_device_that_was_replaced_is_dead(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    heartbeats = host.open_heartbeats(DEVICE, "weave")
    await host.open_vxlan(replace(SETTINGS, vni=7))
    assert not heartbeats.send(HEARTBEAT)
    heartbeats.close()
    heartbeats = host.open_heartbeats(DEVICE, "weave")
    assert heartbeats.send(HEARTBEAT)
    heartbeats.close()


@on_every_host
async def test_waiting_ends_when_the_socket_is_closed(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    heartbeats = host.open_heartbeats(DEVICE, "weave")

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await heartbeats.wait()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            heartbeats.close()
    heartbeats.close()
    with pytest.raises(trio.ClosedResourceError):
        await heartbeats.wait()


@on_every_host
async def test_heartbeats_need_both_devices(host: Host, world: VxlanWorld) -> None:
    await with_bridge(host, world)
    with pytest.raises(HostError, match=DEVICE):
        host.open_heartbeats(DEVICE, "weave")
    await host.open_vxlan(SETTINGS)
    with pytest.raises(HostError, match="other"):
        host.open_heartbeats(DEVICE, "other")
