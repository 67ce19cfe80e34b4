"""What the real host does beyond the common suite: kernel settings, frames on the bridge, races and descriptors."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from lab.host_worlds import LinuxWorld, ip, ip_json
from weave_router.doors import VethRequest
from weave_router.errors import HostError
from weave_router.host import netlink_thread, veth
from weave_router.host.address_watch import SETTLE_S
from weave_router.host.announce import announcement
from weave_router.host.linux import LinuxHost
from weave_router.host.netlink import Netlink
from weave_router.host.netlink_thread import NetlinkThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Interface, IPv6Interface

    from lab.host_worlds import Check, World
    from weave_router.doors import Host
    from weave_router.host.netlink import Link

MAC = "7a:00:00:00:00:01"
MTU = 1376
ETH_P_ALL = 3


def on_linux(check: Check) -> Callable[[], None]:
    @pytest.mark.root
    def run() -> None:
        LinuxWorld().run(check)

    run.__doc__ = check.__doc__
    return run


def request(namespace: str, *addresses: str, host_interface: str = "vethwe00000001", mtu: int = MTU) -> VethRequest:
    return VethRequest(
        namespace=namespace,
        interface="ethwe",
        host_interface=host_interface,
        bridge="weave",
        mtu=mtu,
        addresses=tuple(ip_interface(address) for address in addresses),
    )


def inside(namespace: str, *command: str) -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", Path(namespace).name, *command], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def setting(key: str) -> str:
    return Path("/proc/sys/net", key).read_text().strip()


def disable_ipv6(device: str) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def open_tap(interface: str) -> socket.socket:
    """Hears what leaves through an interface's other end and speaks through it."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.bind((interface, ETH_P_ALL))
    tap.settimeout(0.3)
    return tap


def heard(tap: socket.socket) -> list[bytes]:
    frames = []
    try:
        while True:
            frame, origin = tap.recvfrom(2048)
            if origin[2] != socket.PACKET_OUTGOING:
                frames.append(frame)
    except TimeoutError:
        return frames


async def add_wire(host: Host, name: str, *, isolated: bool) -> str:
    """Put a device on the bridge; returns the name of its other end, where frames are heard and spoken."""
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-end")
    # Down to silence: the kernel's own neighbour discovery is not what these tests listen for.
    disable_ipv6(f"{name}-end")
    ip("link", "set", f"{name}-end", "up")
    await host.join_bridge(name, "weave", mtu=MTU, isolated=isolated)
    deadline = time.monotonic() + 2
    while not any(port["ifname"] == name and port["state"] == "forwarding" for port in bridge_ports()):
        assert time.monotonic() < deadline, f"{name} does not forward"
        await trio.sleep(0.01)
    return f"{name}-end"


def bridge_ports() -> list[dict[str, str]]:
    return [
        {"ifname": link["ifname"], "state": link["linkinfo"]["info_slave_data"]["state"]}
        for link in ip_json("-d", "link")
        if link.get("linkinfo", {}).get("info_slave_kind") == "bridge"
    ]


@on_linux
async def test_bridge_keeps_its_mtu_whatever_its_ports_have(host: Host, world: World) -> None:
    """Also where the value asked for is the one it has, which the kernel takes for no change at all."""
    ip("link", "add", "weave", "type", "bridge")
    await host.ensure_bridge("weave", MAC, 1500)
    world.add_tap("weave-tap")
    await host.join_bridge("weave-tap", "weave", mtu=MTU, isolated=True)
    await host.attach(request(world.start_container(), "10.2.1.1/24"))
    seen = world.device("weave")
    assert seen is not None
    assert (seen.mtu, seen.mac) == (1500, MAC)
    await host.ensure_bridge("weave", MAC, 65535)
    await host.ensure_bridge("weave", MAC, 65535)
    await host.remove_device("weave-tap")
    seen = world.device("weave")
    assert seen is not None
    assert (seen.mtu, seen.mac) == (65535, MAC)


@on_linux
async def test_kernel_settings(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    world.add_tap("weave-tap")
    await host.join_bridge("weave-tap", "weave", mtu=MTU, isolated=True)
    web = world.start_container()
    await host.attach(request(web, "10.2.1.1/24"))
    bridge = next(link for link in ip_json("-d", "link") if link["ifname"] == "weave")
    data = bridge["linkinfo"]["info_data"]
    assert (data["stp_state"], data["forward_delay"], data["mcast_snooping"]) == (0, 0, 0)
    for device in ("weave", "weave-tap", "vethwe00000001"):
        assert setting(f"ipv6/conf/{device}/accept_ra") == "0"
        link = next(link for link in ip_json("addr") if link["ifname"] == device)
        assert link["addr_info"] == [], "a device of the bridge got an address by itself"
    timings = "base_reachable_time", "delay_first_probe_time", "ucast_solicit"
    assert [setting(f"ipv4/neigh/weave/{name}") for name in timings] == ["5", "2", "1"]
    keys = [f"net.ipv4.neigh.ethwe.{name}" for name in timings] + ["net.ipv6.conf.ethwe.accept_ra"]
    assert inside(web, "sysctl", "-n", *keys).split() == ["5", "2", "1", "0"]
    assert "tx-checksumming: on" in inside(web, "ethtool", "-k", "ethwe")
    (inner,) = ip_json("-n", Path(web).name, "-d", "link", "show", "ethwe")
    assert inner["gso_max_size"] == veth.superframe_limit(MTU) < 65536
    assert ip_json("-n", Path(web).name, "addr", "show", "ethwe")[0]["addr_info"][0]["broadcast"] == "10.2.1.255"


@pytest.mark.parametrize("mtu", [1280, 1376, 1410, 1500, 8916, 65000])
@pytest.mark.parametrize("headers", [40, 52, 72])
def test_a_superframe_of_a_stream_leaves_with_one_call(mtu: int, headers: int) -> None:
    """udp(7): 64 packets and 65 507 bytes; TCP fills the limit less its largest headers with whole segments."""
    largest_headers = 321
    segments = (veth.superframe_limit(mtu) - largest_headers) // (mtu - headers)
    most = max(min(64, 65507 // (mtu + 14 + 20 + 24)), 1)
    assert most - 1 <= segments <= most


@on_linux
async def test_first_packet_after_attach_arrives(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    one, two = world.start_container(), world.start_container()
    await host.attach(request(one, "10.2.1.1/24", "fd00:2::1/64", host_interface="vethwe00000001"))
    await host.attach(request(two, "10.2.1.2/24", "fd00:2::2/64", host_interface="vethwe00000002"))
    inside(two, "ping", "-c", "1", "-W", "1", "10.2.1.1")
    inside(two, "ping", "-c", "1", "-W", "1", "-s", "1328", "-M", "do", "fd00:2::1")
    inside(two, "ping", "-c", "1", "-W", "1", "-s", "1348", "-M", "do", "10.2.1.1")


@on_linux
async def test_ipv6_works_where_the_container_engine_turned_it_off(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    inside(web, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1")
    await host.attach(request(web, "fd00:2::1/64"))
    assert world.addresses(web, "ethwe") == {"fd00:2::1/64"}


@on_linux
async def test_isolated_ports_hear_containers_but_not_each_other(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    first = await add_wire(host, "wire1", isolated=True)
    second = await add_wire(host, "wire2", isolated=True)
    third = await add_wire(host, "wire3", isolated=False)
    frame = bytes.fromhex("ffffffffffff 020000000001 88b5") + bytes(50)
    with open_tap(first) as one, open_tap(second) as two, open_tap(third) as three:
        one.send(frame)
        assert frame in heard(three)
        assert frame not in heard(two)
        three.send(frame)
        assert frame in heard(one)
        assert frame in heard(two)


@on_linux
async def test_addresses_are_announced(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    end = await add_wire(host, "wire1", isolated=True)
    with open_tap(end) as tap:
        info = await host.attach(request(world.start_container(), "10.2.1.1/24", "fd00:2::1/64"))
        frames = heard(tap)
    mac = bytes.fromhex(info.mac.replace(":", ""))
    assert announcement(mac, ip_interface("10.2.1.1/24")) in frames
    assert announcement(mac, ip_interface("fd00:2::1/64")) in frames


@on_linux
async def test_announcement_corrects_what_others_remember(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    onlooker, before, after = (world.start_container() for _ in range(3))
    await host.attach(request(onlooker, "10.2.1.1/24", "fd00:2::1/64", host_interface="vethwe00000001"))
    await host.attach(request(before, "10.2.1.2/24", "fd00:2::2/64", host_interface="vethwe00000002"))
    for address in ("10.2.1.2", "fd00:2::2"):
        inside(onlooker, "ping", "-c", "1", "-W", "1", address)
    await host.detach(before, "ethwe", "vethwe00000002")
    info = await host.attach(request(after, "10.2.1.2/24", "fd00:2::2/64", host_interface="vethwe00000003"))
    await trio.sleep(0.05)
    neighbours = {
        entry["dst"]: entry["lladdr"] for entry in ip_json("-n", Path(onlooker).name, "neigh") if "lladdr" in entry
    }
    assert (neighbours["10.2.1.2"], neighbours["fd00:2::2"]) == (info.mac, info.mac)


@on_linux
async def test_address_that_moves_to_the_bridge_is_found_there_at_once(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    onlooker, before = world.start_container(), world.start_container()
    await host.attach(request(onlooker, "10.2.1.1/24", "fd00:2::1/64", host_interface="vethwe00000001"))
    await host.attach(request(before, "10.2.1.2/24", "fd00:2::2/64", host_interface="vethwe00000002"))
    for address in ("10.2.1.2", "fd00:2::2"):
        inside(onlooker, "ping", "-c", "1", "-W", "1", address)
    await host.detach(before, "ethwe", "vethwe00000002")
    end = await add_wire(host, "wire1", isolated=True)
    with open_tap(end) as tap:
        for text in ("10.2.1.2/24", "fd00:2::2/64"):
            await host.add_bridge_address("weave", ip_interface(text))
        frames = heard(tap)
    for text in ("10.2.1.2/24", "fd00:2::2/64"):
        assert announcement(bytes.fromhex(MAC.replace(":", "")), ip_interface(text)) in frames
    neighbours = {
        entry["dst"]: entry["lladdr"] for entry in ip_json("-n", Path(onlooker).name, "neigh") if "lladdr" in entry
    }
    assert (neighbours["10.2.1.2"], neighbours["fd00:2::2"]) == (MAC, MAC)
    for address in ("10.2.1.2", "fd00:2::2"):
        inside(onlooker, "ping", "-c", "1", "-W", "1", address)


@on_linux
async def test_addresses_of_the_bridge_have_what_the_kernel_expects(host: Host, world: World) -> None:
    ip("link", "add", "weave", "type", "bridge")
    disable_ipv6("weave")  # as some machines have it for every new device
    await host.ensure_bridge("weave", MAC, MTU)
    for text in ("10.2.1.5/24", "10.2.2.6/31", "fd00:2::5/64"):
        await host.add_bridge_address("weave", ip_interface(text))
    (details,) = ip_json("-d", "link", "show", "dev", "weave")
    assert details["gso_max_size"] == veth.superframe_limit(MTU), "so that a superframe leaves with one call"
    (link,) = ip_json("addr", "show", "dev", "weave")
    found = {entry["local"]: entry for entry in link["addr_info"]}
    assert found["10.2.1.5"]["broadcast"] == "10.2.1.255"
    assert "broadcast" not in found["10.2.2.6"]
    assert not found["fd00:2::5"].get("tentative")


@on_linux
async def test_watch_that_lost_messages_of_the_kernel_looks_again(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    async with host.watch_addresses("weave") as changes, host.watch_addresses("weave") as witness:
        for watcher in (changes, witness):
            await anext(watcher)
            # The smallest buffer that the kernel grants holds two or three of its messages.
            watcher._notices.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # type: ignore[attr-defined]
        for i in range(1, 31):
            ip("addr", "add", f"10.2.{i}.1/24", "dev", "weave")
        with pytest.raises(OSError, match="buffer"):
            while True:
                witness._notices.recv(8192)  # type: ignore[attr-defined]
        with trio.fail_after(10):
            assert len(await anext(changes)) == 30
            ip("addr", "flush", "dev", "weave")
            assert await anext(changes) == ()


@on_linux
async def test_watch_that_heard_of_other_devices_only_looks_where_messages_were_lost(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    tap = _new_tap(world, 0)
    async with host.watch_addresses("weave") as changes:
        await anext(changes)
        changes._notices.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # type: ignore[attr-defined]
        for i in range(1, 31):
            ip("addr", "add", f"10.3.{i}.1/24", "dev", tap)
        ip("addr", "add", "10.2.1.5/24", "dev", "weave")
        with trio.fail_after(10):
            assert await anext(changes) == (ip_interface("10.2.1.5/24"),)


@on_linux
async def test_watch_that_was_broken_off_before_its_look_looks_again(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    async with host.watch_addresses("weave") as changes:
        await anext(changes)
        ip("addr", "add", "10.2.1.5/24", "dev", "weave")
        scope = trio.CancelScope()

        async def broken_off(*_: object) -> None:
            scope.cancel()
            await trio.lowlevel.checkpoint()

        with pytest.MonkeyPatch.context() as patch, scope:
            patch.setattr(NetlinkThread, "run", broken_off)
            await anext(changes)
        assert scope.cancelled_caught
        with trio.fail_after(10):
            assert await anext(changes) == (ip_interface("10.2.1.5/24"),)


@on_linux
async def test_watch_looks_only_when_the_bridge_is_concerned(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    disable_ipv6("weave")  # else it gets an address of its own with its first port
    container = world.start_container()
    async with host.watch_addresses("weave") as changes:
        await anext(changes)
        with counted_lists() as looks:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, changes)
                for i in range(10):
                    await host.join_bridge(_new_tap(world, i), "weave", mtu=MTU, isolated=False)
                ip("link", "del", "tap3")
                ip("addr", "add", "10.2.1.7/24", "dev", "tap1")
                ip("link", "set", "weave", "mtu", "1400")
                await host.attach(request(container))
                await host.detach(container, "ethwe", "vethwe00000001", ())
                await trio.sleep(3 * SETTLE_S)
                nursery.cancel_scope.cancel()
            assert looks() == 0
        ip("addr", "add", "10.2.1.5/24", "dev", "weave")
        with trio.fail_after(10):
            assert await anext(changes) == (ip_interface("10.2.1.5/24"),)


@on_linux
async def test_watch_looks_seldom_while_many_addresses_change(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    async with host.watch_addresses("weave") as changes:
        await anext(changes)
        began = time.monotonic()
        with counted_lists() as looks:
            for i in range(1, 21):
                ip("addr", "add", f"10.2.{i}.1/24", "dev", "weave")
            with trio.fail_after(10):
                while len(await anext(changes)) < 20:
                    pass
            assert 1 <= looks() <= (time.monotonic() - began) / SETTLE_S + 1


@on_linux
async def test_watch_follows_the_name_of_the_bridge(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    ip("addr", "add", "10.2.1.5/24", "dev", "weave")
    async with host.watch_addresses("weave") as changes:
        with trio.fail_after(10):
            assert await anext(changes) == (ip_interface("10.2.1.5/24"),)
            ip("link", "set", "weave", "name", "elsewhere")
            assert await anext(changes) == ()
            ip("link", "add", "another", "type", "bridge")
            ip("addr", "add", "10.2.1.6/24", "dev", "another")
            ip("link", "set", "another", "name", "weave")
            assert await anext(changes) == (ip_interface("10.2.1.6/24"),)
            ip("link", "del", "weave")
            assert await anext(changes) == ()
            ip("link", "set", "elsewhere", "name", "weave")
            assert await anext(changes) == (ip_interface("10.2.1.5/24"),)


@on_linux
async def test_device_with_thousands_of_addresses(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    expected = [ip_interface(f"10.{i // 250}.{i % 250}.1/32") for i in range(3000)]
    with tempfile.NamedTemporaryFile("w") as commands:
        commands.writelines(f"addr add {address} dev weave\n" for address in expected)
        commands.flush()
        ip("-batch", commands.name)
    assert await host.bridge_addresses("weave") == tuple(expected)


@contextmanager
def counted_lists() -> Iterator[Callable[[], int]]:
    """Tells how often addresses of the host's devices were listed."""
    count, listed = 0, Netlink.addresses

    def counted(netlink: Netlink, index: int) -> list[IPv4Interface | IPv6Interface]:
        nonlocal count
        count += threading.current_thread().name == "netlink"  # not those of threads inside containers
        return listed(netlink, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Netlink, "addresses", counted)
        yield lambda: count


def _new_tap(world: World, number: int) -> str:
    world.add_tap(f"tap{number}")
    return f"tap{number}"


@on_linux
async def test_container_started_anew_under_its_name(host: Host, world: World) -> None:
    """The kernel takes its time to remove the predecessor's interface."""
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    for _ in range(5):
        await host.attach(request(web, "10.2.1.1/24"))
        world.end_container(web)
        ip("netns", "add", Path(web).name)
    await host.attach(request(web, "10.2.1.1/24"))
    assert world.addresses(web, "ethwe") == {"10.2.1.1/24"}


@on_linux
async def test_what_is_no_network_namespace_is_refused(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    fifo = f"/run/wvtest{os.getpid()}.fifo"
    os.mkfifo(fifo)
    try:
        for path in (fifo, "/etc/hostname", "/proc/self/ns/mnt", "/run", "/dev/null"):
            with pytest.raises(HostError, match="is no network namespace"):
                await host.attach(request(path))
    finally:
        os.unlink(fifo)  # noqa: PTH108 - a pathlib call counts as blocking here
    assert await host.list_attached("weave") == ()


@on_linux
async def test_failure_removes_what_the_call_created(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    with pytest.raises(HostError, match="cannot add the address ff02::5/64"):
        await host.attach(request(web, "10.2.1.1/24", "ff02::5/64"))
    assert world.device("vethwe00000001") is None
    await host.attach(request(web, "10.2.1.1/24"))
    with pytest.raises(HostError, match="cannot add the address ff02::5/64"):
        await host.attach(request(web, "10.2.1.1/24", "10.2.1.2/24", "ff02::5/64"))
    assert world.addresses(web, "ethwe") == {"10.2.1.1/24"}


@pytest.mark.root
def test_container_that_dies_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    world = LinuxWorld()
    original = veth._wait_until_forwarding

    async def check(host: Host, world: World) -> None:
        await host.ensure_bridge("weave", MAC, MTU)
        web = world.start_container()

        def end_container(netlink: Netlink, link: Link) -> None:
            original(netlink, link)
            world.end_container(web)

        monkeypatch.setattr(veth, "_wait_until_forwarding", end_container)
        with pytest.raises(HostError, match="disappeared"):
            await host.attach(request(web, "10.2.1.1/24"))
        assert world.device("vethwe00000001") is None

    world.run(check)


@on_linux
async def test_descriptors_and_threads_do_not_leak(host: Host, world: World) -> None:
    await host.ensure_bridge("weave", MAC, MTU)
    web = world.start_container()
    deadline = time.monotonic() + 5
    before = (count_descriptors(), threading.active_count())
    for _ in range(12):
        await host.attach(request(web, "10.2.1.1/24", "fd00:2::1/64"))
        await host.detach(web, "ethwe", "vethwe00000001")
        with pytest.raises(HostError):
            await host.attach(request("/etc/hostname"))
        await host.add_bridge_address("weave", ip_interface("10.2.1.5/24"))
        async with host.watch_addresses("weave") as changes:
            await anext(changes)
        await host.remove_bridge_address("weave", ip_interface("10.2.1.5/24"))
    # Packet sockets are closed in the background.
    while (now := (count_descriptors(), threading.active_count())) != before:
        assert time.monotonic() < deadline, f"{before} descriptors and threads became {now}"
        await trio.sleep(0.01)


@pytest.mark.root
def test_host_must_be_open() -> None:
    async def main() -> None:
        host = LinuxHost()
        with pytest.raises(HostError, match="not running"):
            await host.remove_device("weave-none")
        async with host:
            assert not await host.remove_device("weave-none")
        await host.aclose()
        with pytest.raises(HostError, match="not running"):
            await host.remove_device("weave-none")

    trio.run(main)


def test_calls_are_finished_in_order_even_when_cancelled() -> None:
    done = []

    def slow(_: Netlink, number: int) -> int:
        time.sleep(0.02)
        done.append(number)
        return number

    async def main() -> None:
        thread = NetlinkThread()
        await thread.start()
        with trio.move_on_after(0.005) as scope:
            assert await thread.run(slow, 1) == 1
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert done == [1]
        async with trio.open_nursery() as nursery:
            for number in (2, 3):
                nursery.start_soon(thread.run, slow, number)
                await trio.testing.wait_all_tasks_blocked()
        assert done == [1, 2, 3]
        await thread.aclose()

    trio.run(main)


def test_errors_come_back_and_the_thread_goes_on() -> None:
    def fail(_: Netlink) -> None:
        raise ValueError("as asked")

    async def main() -> None:
        thread = NetlinkThread()
        await thread.start()
        with pytest.raises(ValueError, match="as asked"):
            await thread.run(fail)
        assert await thread.run(lambda _: 5) == 5
        await thread.aclose()
        await thread.aclose()

    trio.run(main)


def test_missing_netlink_is_an_error_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise HostError("no netlink here")

    monkeypatch.setattr(netlink_thread, "Netlink", refuse)

    async def main() -> None:
        with pytest.raises(HostError, match="no netlink here"):
            async with LinuxHost():
                pytest.fail("opened without netlink")

    trio.run(main)


def test_gratuitous_arp_is_laid_out_as_in_the_rfc() -> None:
    frame = announcement(bytes.fromhex("020000000005"), ip_interface("10.2.1.5/24"))
    assert frame.hex(" ", 2) == (
        "ffff ffff ffff 0200 0000 0005 0806 0001 0800 0604 0001 0200 0000 0005 0a02 0105 0000 0000 0000 0a02 0105"
    )


def test_neighbour_advertisement_is_laid_out_as_in_the_rfc() -> None:
    frame = announcement(bytes.fromhex("020000000005"), ip_interface("fd00::5/64"))
    assert frame[:14].hex() == "33330000000102000000000586dd"
    assert frame[14:22].hex() == "6000000000203aff"
    assert frame[22:54].hex() == "fd000000000000000000000000000005ff020000000000000000000000000001"
    assert frame[54:56].hex() == "8800"
    assert frame[58:].hex() == "20000000fd0000000000000000000000000000050201020000000005"
