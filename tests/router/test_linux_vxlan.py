"""What the kernel does with frames once the fast datapath is programmed: two hosts with a cable between them."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from pyroute2.netlink.exceptions import NetlinkError

from lab.host_worlds import ip, ip_json
from lab.raw_frames import packet_socket
from lab.vxlan_hosts import DEVICE, FLOOD, MTU, PORT, VNI, Cabled, VxlanHost
from lab.vxlan_worlds import VxlanLinuxWorld, fdb, octets, run
from weave_router.doors import VxlanEntry, VxlanSettings
from weave_router.errors import HostError
from weave_router.host.fdb_watch import MAX_ADDRESSES
from weave_router.host.netlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.namespace import Namespace
    from lab.vxlan_worlds import VxlanCheck, VxlanWorld
    from weave_router.doors import HeartbeatSocket, Host

MAC = "7a:00:00:00:00:01"
SETTINGS = VxlanSettings(device=DEVICE, bridge="weave", port=PORT, vni=VNI, mtu=MTU)
LEFT_OUT = frozenset({"weave-tap", DEVICE})
STRANGER = bytes.fromhex("02000000bad1")
BROADCAST = b"\xff" * 6


@pytest.fixture
def cabled() -> Iterator[Cabled]:
    with Cabled() as cabled:
        yield cabled


def on_linux(check: VxlanCheck) -> Callable[[], None]:
    @pytest.mark.root
    def run() -> None:
        VxlanLinuxWorld().run(check)

    run.__doc__ = check.__doc__
    return run


class Ears:
    """Raw sockets in namespaces; a context manager."""

    def __init__(self) -> None:
        self._cleanup = ExitStack()

    def __enter__(self) -> Ears:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def at(self, namespace: Namespace, interface: str) -> socket.socket:
        ear = self._cleanup.enter_context(packet_socket(namespace, interface))
        ear.settimeout(0.5)
        return ear


def hears(ear: socket.socket, frame: bytes) -> bool:
    try:
        while True:
            data, (_, _, kind, *_) = ear.recvfrom(2048)
            if data == frame and kind != socket.PACKET_OUTGOING:
                return True
    except TimeoutError:
        return False


def numbered(destination: bytes, source: bytes, number: int) -> bytes:
    """A frame that no protocol stack answers."""
    return destination + source + b"\x88\xb6" + struct.pack(">Q", number) + bytes(42)


def heartbeat(sender: VxlanHost, receiver: VxlanHost, payload: int = 46) -> bytes:
    return receiver.mac + sender.mac + b"\x88\xb5" + bytes(payload)


def received(host: VxlanHost, heartbeats: HeartbeatSocket) -> list[bytes]:
    """What comes first, within half a second."""

    async def wait() -> list[bytes]:
        with trio.move_on_after(0.5):
            while True:
                await heartbeats.wait()
                if frames := heartbeats.receive():
                    return frames
        return []

    return host.call(wait)


def passes(
    sender: VxlanHost, outgoing: HeartbeatSocket, receiver: VxlanHost, incoming: HeartbeatSocket, size: int
) -> bool:
    frame = heartbeat(sender, receiver, size)
    assert sender.call_sync(outgoing.send, frame)
    return received(receiver, incoming) == [frame]


def table(host: VxlanHost) -> dict[bytes, str]:
    lines = [line.split() for line in host.run("bridge", "fdb", "show", "br", "weave").splitlines()]
    return {octets(words[0]): words[2] for words in lines if "master" in words and "permanent" not in words}


def entries(host: VxlanHost) -> set[str]:
    return {line.strip() for line in host.run("bridge", "fdb", "show", "dev", DEVICE).splitlines() if " self " in line}


def send_vxlan(host: VxlanHost, source: str, destination: VxlanHost, inner: bytes) -> None:
    """As anybody may, who knows port and network."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((source, 0))
            header = struct.pack(">B3xI", 0x08, VNI << 8)
            sender.sendto(header + inner, (str(destination.underlay), PORT))

    host.call_sync(send)


# Frames


@pytest.mark.root
def test_containers_of_two_hosts_reach_each_other(cabled: Cabled) -> None:
    web, db = cabled.one.container("10.2.1.1/24"), cabled.two.container("10.2.1.2/24")
    assert not web.reaches(db.address)
    cabled.meet()
    web.ping(db.address, count=2)
    cabled.one.program(add=(VxlanEntry(db.mac, cabled.two.underlay, learned=True),), learn=(db.mac,))
    cabled.two.program(add=(VxlanEntry(web.mac, cabled.one.underlay, learned=True),), learn=(web.mac,))
    web.ping(db.address, count=2)
    web.run("ping", "-c", "1", "-W", "1", "-M", "do", "-s", str(MTU - 28), db.address)
    assert (cabled.one.dropped(), cabled.two.dropped()) == (0, 0)


@pytest.mark.root
def test_tap_and_vxlan_do_not_hear_each_other(cabled: Cabled) -> None:
    """Else routers would carry on what the kernel has brought, and the other way round."""
    cabled.meet()
    web, db = cabled.one.container("10.2.1.1/24"), cabled.two.container("10.2.1.2/24")
    with Ears() as ears:
        at_web, at_db = ears.at(web, "ethwe"), ears.at(db, "ethwe")
        taps = [ears.at(host, "tap-end") for host in cabled]
        of_web = numbered(BROADCAST, web.mac, 1)
        at_web.send(of_web)
        assert hears(at_db, of_web)
        assert hears(taps[0], of_web), "our router serves those whom the kernel does not"
        assert not hears(taps[1], of_web)
        of_router = numbered(BROADCAST, STRANGER, 2)
        taps[0].send(of_router)
        assert hears(at_web, of_router)
        assert not hears(at_db, of_router)


@pytest.mark.root
def test_learning_and_unlearning_move_traffic(cabled: Cabled) -> None:
    cabled.meet()
    web, db = cabled.one.container("10.2.1.1/24"), cabled.two.container("10.2.1.2/24")
    with Ears() as ears:
        at_web, at_db, tap = ears.at(web, "ethwe"), ears.at(db, "ethwe"), ears.at(cabled.one, "tap-end")

        def ways(number: int) -> tuple[bool, bool]:
            """Whether a frame to db goes by the router, and whether by the kernel."""
            frame = numbered(db.mac, web.mac, number)
            at_web.send(frame)
            return hears(tap, frame), hears(at_db, frame)

        tap.send(numbered(web.mac, db.mac, 1))
        assert ways(2) == (True, False)
        cabled.one.program(add=(VxlanEntry(db.mac, cabled.two.underlay, learned=True),), learn=(db.mac,))
        assert ways(3) == (False, True)
        cabled.one.program(remove=(VxlanEntry(db.mac, cabled.two.underlay),), unlearn=(db.mac,))
        assert ways(4) == (True, True), "nobody knows, so it is flooded"
        tap.send(numbered(web.mac, db.mac, 5))
        assert ways(6) == (True, False)
        cabled.one.call(cabled.one.host.forget_behind, "weave", "weave-tap", [db.mac])
        assert ways(7) == (True, True)


@pytest.mark.root
def test_address_of_a_peer_is_taken_over_only_when_it_is_let_go(cabled: Cabled) -> None:
    """A container that sends under another's address draws nothing away from it, on its own host either."""
    cabled.meet()
    web, db = cabled.one.container("10.2.1.1/24"), cabled.one.container("10.2.1.2/24")
    cabled.one.program(add=(VxlanEntry(db.mac, cabled.two.underlay, learned=True),), learn=(db.mac,))
    assert table(cabled.one)[db.mac] == DEVICE
    with Ears() as ears:
        impostor = ears.at(db, "ethwe")
        impostor.send(numbered(BROADCAST, db.mac, 1))
        assert table(cabled.one)[db.mac] == DEVICE
        cabled.one.program(remove=(VxlanEntry(db.mac, cabled.two.underlay, learned=True),), unlearn=(db.mac,))
        impostor.send(numbered(BROADCAST, db.mac, 2))
    assert table(cabled.one)[db.mac] == db.host_interface
    web.ping(db.address)


@pytest.mark.root
def test_adoption_costs_no_frame(cabled: Cabled) -> None:
    cabled.meet()
    web, db = cabled.one.container("10.2.1.1/24"), cabled.two.container("10.2.1.2/24")
    learned = VxlanEntry(db.mac, cabled.two.underlay, learned=True)
    cabled.one.program(add=(learned,), learn=(db.mac,))
    before = entries(cabled.one)
    ping = web.popen("ping", "-c", "40", "-i", "0.02", "-W", "1", db.address)
    for _ in range(5):
        adopted = cabled.one.set_up()
    assert set(adopted) == {
        VxlanEntry(FLOOD, cabled.two.underlay),
        VxlanEntry(cabled.two.mac, cabled.two.underlay),
        learned,
    }
    assert ping.wait(20) == 0
    assert ping.stdout is not None
    with ping.stdout:
        assert ", 0% packet loss" in ping.stdout.read()
    assert entries(cabled.one) == before
    assert cabled.one.call(cabled.one.host.vxlan_allowed) == {cabled.two.underlay}


@pytest.mark.root
def test_packets_of_strangers_are_dropped(cabled: Cabled) -> None:
    cabled.meet()
    one, two = cabled
    two.ip("addr", "add", "192.0.2.66/24", "dev", "underlay")
    web = one.container("10.2.1.1/24")
    before = table(one), entries(one)
    with Ears() as ears:
        at_web = ears.at(web, "ethwe")
        spoofed = numbered(BROADCAST, STRANGER, 1)
        send_vxlan(two, "192.0.2.66", one, spoofed)
        assert not hears(at_web, spoofed)
        assert one.dropped() == 1
        send_vxlan(two, str(two.underlay), one, spoofed)
        assert hears(at_web, spoofed)
    assert (table(one), entries(one)) == before, "nothing is learned, not even from a peer"


# Heartbeats


@pytest.mark.root
def test_peer_may_send_heartbeats_before_it_may_send_data(cabled: Cabled) -> None:
    cabled.meet()
    one, two = cabled
    web = two.container("10.2.1.2/24")
    two.call(two.host.allow_vxlan, PORT, frozenset({one.underlay}), frozenset())
    with Ears() as ears:
        at_web, sender = ears.at(web, "ethwe"), ears.at(one.container("10.2.1.1/24"), "ethwe")
        dropped = two.dropped()
        outgoing, incoming = one.open_heartbeats(), two.open_heartbeats()
        assert passes(one, outgoing, two, incoming, 46)
        frame = numbered(BROADCAST, STRANGER, 1)
        sender.send(frame)
        assert not hears(at_web, frame)
        assert two.dropped() > dropped
        two.call(two.host.allow_vxlan, PORT, frozenset(), frozenset())
        assert not passes(one, outgoing, two, incoming, 46)
    for host, opened in ((one, outgoing), (two, incoming)):
        host.call_sync(opened.close)


@pytest.mark.root
def test_heartbeat_of_full_mtu_passes_only_where_the_underlay_carries_it(cabled: Cabled) -> None:
    cabled.meet()
    one, two = cabled
    outgoing, incoming = one.open_heartbeats(), two.open_heartbeats()
    assert passes(one, outgoing, two, incoming, MTU)
    assert not one.call_sync(outgoing.send, heartbeat(one, two, MTU + 1))
    cabled.set_underlay_mtu(MTU + 49)
    assert not passes(one, outgoing, two, incoming, MTU), "its packet must not be fragmented"
    assert passes(one, outgoing, two, incoming, MTU - 1)
    cabled.set_underlay_mtu(MTU + 50)
    assert passes(one, outgoing, two, incoming, MTU)
    for host, opened in ((one, outgoing), (two, incoming)):
        host.call_sync(opened.close)


# Settings of the kernel


async def with_vxlan(host: Host, world: VxlanWorld, *wires: str) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    for wire in wires:
        world.add_wire(wire)
        await host.join_bridge(wire, "weave", mtu=MTU, isolated=False)
        await world.takes_frames(wire)
    await host.open_vxlan(SETTINGS)


@on_linux
async def test_device_learns_nothing(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    for _ in range(2):
        (link,) = ip_json("-d", "link", "show", "dev", DEVICE)
        data, port = link["linkinfo"]["info_data"], link["linkinfo"]["info_slave_data"]
        assert (data["learning"], data["df"]) == (False, "set")
        assert (port["learning"], port["isolated"], port["hairpin"]) == (False, True, False)
        assert (port["flood"], port["mcast_flood"], port["bcast_flood"]) == (True, True, True)
        assert run("sysctl", "-n", f"net.ipv6.conf.{DEVICE}.disable_ipv6") == "1\n"
        run("bridge", "link", "set", "dev", DEVICE, "learning", "on", "isolated", "off", "hairpin", "on")
        await host.open_vxlan(SETTINGS)


@on_linux
async def test_learned_addresses_do_not_age(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web")
    ip("link", "set", "weave", "type", "bridge", "ageing_time", "10")
    learned = VxlanEntry(b"\2learn", IPv4Address("192.0.2.1"), learned=True)
    await host.program_vxlan(DEVICE, "weave", (), [learned], (), [learned.mac])
    world.frame_came("weave", "web", b"\2\0\0age")
    with trio.fail_after(10):
        while b"\2\0\0age" in world.table("weave"):  # noqa: ASYNC110 - the kernel tells nobody
            await trio.sleep(0.05)
    await trio.sleep(0.3)
    assert world.table("weave") == {learned.mac: DEVICE}
    (entry,) = (entry for entry in fdb("dev", DEVICE) if "self" in entry["flags"])
    assert (entry["flags"], entry["state"]) == (["self", "extern_learn"], "permanent")


@pytest.mark.parametrize(
    "options",
    [
        ("id", str(VNI), "dstport", str(PORT), "df", "set"),
        ("id", str(VNI), "dstport", str(PORT), "nolearning"),
        ("id", str(VNI), "dstport", str(PORT), "df", "set", "nolearning", "group", "239.0.0.1", "dev", "lo"),
        ("dstport", str(PORT), "df", "set", "nolearning", "external"),
    ],
    ids=["learning", "no DF", "multicast", "metadata from outside"],
)
@pytest.mark.root
def test_device_that_would_behave_otherwise_is_replaced(options: tuple[str, ...]) -> None:
    async def check(host: Host, world: VxlanWorld) -> None:
        await host.ensure_bridge("weave", MAC, MTU)
        ip("link", "add", DEVICE, "type", "vxlan", *options)
        before = world.device(DEVICE)
        await host.open_vxlan(SETTINGS)
        after = world.device(DEVICE)
        assert before is not None
        assert after is not None
        assert before.mac != after.mac
        assert world.vxlan(DEVICE) == SETTINGS

    VxlanLinuxWorld().run(check)


@on_linux
async def test_port_that_another_program_has_is_told(host: Host, world: VxlanWorld) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", PORT))
        with pytest.raises(HostError, match=f"ss -lnup sport = :{PORT}"):
            await host.open_vxlan(SETTINGS)
    assert world.device(DEVICE) is None
    await host.open_vxlan(SETTINGS)


@pytest.mark.root
def test_kernel_without_vxlan_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Netlink() as netlink:

        def refuse(*_: object, **__: object) -> None:
            raise NetlinkError(errno.EOPNOTSUPP)  # type: ignore[no-untyped-call]

        monkeypatch.setattr(netlink._ipr, "link", refuse)
        with pytest.raises(HostError, match="this kernel has no VXLAN: load its module with `modprobe vxlan`"):
            netlink.add_vxlan(SETTINGS)


# Many


@on_linux
async def test_two_hundred_peers_are_programmed_within_a_second(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)
    peers = [IPv4Address("192.0.2.0") + i for i in range(200)]
    flood = [VxlanEntry(FLOOD, peer) for peer in peers]
    own = [VxlanEntry(b"\x7a\0\0\0\1" + bytes([i]), peer) for i, peer in enumerate(peers)]
    before, began = world.messages(), time.perf_counter()
    await host.program_vxlan(DEVICE, "weave", (), flood + own, (), ())
    took = time.perf_counter() - began
    assert world.messages() - before == 400
    assert world.entries(DEVICE) == {*flood, *own}
    print(f"400 entries: {took * 1000:.1f} ms")
    assert took < 1
    began = time.perf_counter()
    assert set(await host.open_vxlan(SETTINGS)) == {*flood, *own}
    print(f"adopted in {(time.perf_counter() - began) * 1000:.1f} ms")
    before = world.messages()
    await host.program_vxlan(DEVICE, "weave", [flood[7]], (), (), ())
    assert world.messages() - before == 1


@on_linux
async def test_watch_that_lost_messages_of_the_kernel_reads_the_table(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web")
    macs = [b"\2\0\0" + i.to_bytes(3) for i in range(500)]
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        await anext(changes)
        notices: socket.socket = changes._notices  # type: ignore[attr-defined]
        notices.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        fill("web", macs)
        seen: set[bytes] = set()
        with trio.fail_after(20):
            while len(seen) < len(macs):
                added, removed = await anext(changes)
                seen = (seen | added) - removed
        assert seen == set(macs)
        ip("link", "set", "web", "nomaster")
        with trio.fail_after(20):
            while seen:
                added, removed = await anext(changes)
                seen = (seen | added) - removed


@on_linux
async def test_container_with_too_many_addresses(host: Host, world: VxlanWorld) -> None:
    """It costs others nothing, and whoever was told first stays told."""
    await with_vxlan(host, world, "web", "flood")
    world.frame_came("weave", "web", b"\2first")
    many = [b"\2\0\0" + i.to_bytes(3) for i in range(MAX_ADDRESSES + 500)]
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        seen, _ = await anext(changes)
        assert seen == {b"\2first"}
        fill("flood", many)
        with trio.fail_after(30):
            while len(seen) < MAX_ADDRESSES:
                added, removed = await anext(changes)
                assert not removed
                seen |= added
        assert len(seen) == MAX_ADDRESSES
        with trio.move_on_after(2):
            added, removed = await anext(changes)
            pytest.fail(f"{added} {removed}")
        assert changes.beyond_limit >= 501
        told = next(iter(seen - {b"\2first"}))
        world.age("weave", "flood", told)
        with trio.fail_after(10):
            assert await anext(changes) == (frozenset(), frozenset({told}))
            added, removed = await anext(changes)
        assert (len(added), len(removed)) == (1, 0), "somebody else gets the place"
        seen = (seen | added) - {told}
        world.frame_came("weave", "web", b"\2last!")
        ip("link", "set", "flood", "nomaster")
        with trio.fail_after(30):
            while seen != {b"\2first", b"\2last!"}:
                added, removed = await anext(changes)
                seen = (seen | added) - removed


def fill(port: str, macs: list[bytes]) -> None:
    """Let frames with these source addresses come in at a port."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
        sender.bind((f"{port}-end", 0))
        for mac in macs:
            sender.send(numbered(b"\2nobod", mac, 0))


@on_linux
async def test_watch_that_was_broken_off_goes_on(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web")
    seen: set[bytes] = set()
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        for number in range(20):
            mac = b"\2\0\0\0\0" + bytes([number])
            world.frame_came("weave", "web", mac)
            with trio.move_on_after(0.003 * number):
                added, _ = await anext(changes)
                seen |= added
        with trio.fail_after(10):
            while len(seen) < 20:
                added, _ = await anext(changes)
                seen |= added


@on_linux
async def test_watch_that_was_broken_off_with_a_change_in_hand_tells_it_later(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world, "web")
    async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
        await anext(changes)
        world.frame_came("weave", "web", b"\2\0\0web")
        take, scope = changes._take_notices, trio.CancelScope()  # type: ignore[attr-defined]

        async def broken_off() -> None:
            await take()
            scope.cancel()
            await trio.lowlevel.checkpoint()

        changes._take_notices = broken_off  # type: ignore[attr-defined]
        with scope:
            await anext(changes)
        changes._take_notices = take  # type: ignore[attr-defined]
        with trio.fail_after(10):
            assert await anext(changes) == (frozenset({b"\2\0\0web"}), frozenset())


@on_linux
async def test_descriptors_and_threads_do_not_leak(host: Host, world: VxlanWorld) -> None:
    await with_vxlan(host, world)

    def count() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = count()
    for _ in range(12):
        await host.open_vxlan(SETTINGS)
        await host.program_vxlan(DEVICE, "weave", (), [VxlanEntry(FLOOD, IPv4Address("192.0.2.1"))], (), [b"\2\0\0web"])
        await host.allow_vxlan(PORT, frozenset(), frozenset())
        with pytest.raises(HostError):
            await host.program_vxlan("gone", "weave", (), (), (), ())
        with pytest.raises(HostError):
            host.open_heartbeats(DEVICE, "gone")
        host.open_heartbeats(DEVICE, "weave").close()
        async with host.watch_local_addresses("weave", LEFT_OUT) as changes:
            await anext(changes)
        await host.close_vxlan(DEVICE)
    deadline = time.monotonic() + 5
    while (now := count()) != before:
        assert time.monotonic() < deadline, f"{before} descriptors and threads became {now}"
        await trio.sleep(0.01)
