"""The fast datapath between real hosts: how fast, how it fails and comes back, who is let in, and what is left behind.

Figures are printed (`pytest -rP` shows them). A mixture of overlays is in test_lab_fast_datapath_mixture.py.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from bench.system_kernel import KernelVxlan
from bench.traffic import End, Traffic
from interop.weave_net_28 import WeaveNet28
from lab.flow import Flow
from lab.inside import call_inside
from lab.network import Container, Host, Lab, wait_until
from lab.overlays import (
    DEVICE,
    FLOOD,
    VXLAN_PORT,
    block,
    blocked,
    bridge_port,
    counters,
    device_entries,
    dropped,
    has_table,
    mac_of,
    overlays,
    report,
    trouble,
    unblock,
    uses,
    wait_for_overlay,
)
from lab.raw_frames import BROADCAST, ETHERTYPE, Station
from lab.transfers import exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lab.underlay import Segment

MESH_S = 30.0
TO_SLEEVE_S = 10.0
TO_VXLAN_S = 60.0
PAUSE_S = 1.0
"""A router that is killed and launched again may stop traffic for so long."""
MOVED_S = 5.0
VNI = 6784
NO_FASTDP = ("--no-fastdp",)


def launch(hosts: list[Host], *options: str, others: Mapping[str, tuple[str, ...]] | None = None) -> None:
    """Launch routers with the fast datapath; all connect to the first. `others`: options of single hosts by label."""
    for host in hosts:
        host.fast_datapath = True
        first = () if host is hosts[0] else ("192.0.2.1",)
        host.weave("launch", *options, *(others or {}).get(host.label, ()), *first)


def mesh(
    lab: Lab, count: int, *options: str, others: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[list[Host], list[Container], Segment]:
    """Hosts A, B, … on one switch (192.0.2.N), each with a container 10.2.1.N."""
    hosts = [lab.host(label) for label in "ABCDEF"[:count]]
    segment = lab.segment({host: f"192.0.2.{number}/24" for number, host in enumerate(hosts, 1)})
    launch(hosts, *options, others=others)
    wait_until(lambda: all(len(overlays(host)) == count - 1 for host in hosts), MESH_S, "all connections")
    return hosts, [host.container("web", f"10.2.1.{number}/24") for number, host in enumerate(hosts, 1)], segment


def mesh_of_vxlan(lab: Lab, count: int, *options: str) -> tuple[list[Host], list[Container], Segment]:
    """`mesh`, once the kernel carries everything."""
    hosts, containers, segment = mesh(lab, count, *options)
    wait_for_overlay("vxlan", hosts)
    for container in containers[1:]:
        wait_until(lambda c=container: c.reaches("10.2.1.1"), 5, "a ping")  # type: ignore[misc]
    return hosts, containers, segment


def processor_s(host: Host) -> float:
    """Processor time that the daemon has used."""
    fields = host.run("cat", f"/proc/{host.pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds_until(predicate: Callable[[], object], timeout_s: float, what: str) -> float:
    """How long something took."""
    began = time.monotonic()
    wait_until(predicate, timeout_s, what)
    return time.monotonic() - began


class Listening:
    """What a packet filter (pcap-filter(7)) sees at an interface meanwhile; a context manager."""

    def __init__(self, host: Host, interface: str, expression: str) -> None:
        self._command = ("tcpdump", "-Uni", interface, "-w", "-", expression)
        self._host = host
        self.bytes = 0
        """Of the capture, when it is over; 24 are its header."""

    def __enter__(self) -> Listening:
        self._file = self._host.state_dir.parent / f"capture-{time.monotonic_ns()}"
        self._file.parent.mkdir(exist_ok=True)
        command = ("sh", "-c", f'exec "$@" >{self._file} 2>/dev/null', "sh", *self._command)
        self._process = self._host.popen(*command)
        wait_until(lambda: self._file.exists() and self._file.stat().st_size >= 24, 5, "tcpdump")
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)  # for what the capture holds back
        self._process.terminate()
        self._process.wait(5)
        self.bytes = self._file.stat().st_size

    @property
    def nothing(self) -> bool:
        """Whether no packet was seen."""
        return self.bytes == 24


# --- speed -----------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_the_kernel_does_all_the_work(lab: Lab) -> None:
    """Rounds, whose order alternates; a pair of containers on two of three hosts, and a bridge with VXLAN by hand.

    How fast it is, is only printed here, and judged by `make bench`.
    """
    hosts, containers, _ = mesh_of_vxlan(lab, 3)
    by_hand = KernelVxlan().build(lab)
    wait_until(lambda: by_hand.left.container.reaches(by_hand.right.address), 10, "a ping over VXLAN made by hand")
    ends = [End(container, f"10.2.1.{number}") for number, container in enumerate(containers, 1)]
    traffic = Traffic(lab.directory, 1.0)
    ratios, rates, shares = [], [], []
    before = [counters(host).get("frames_captured", 0) for host in hosts]
    with Listening(hosts[0], "weave-tap", "not ether multicast") as sender_tap:
        for number in range(int(os.environ.get("WEAVE_ROUNDS", "3"))):
            sender, receiver = ends[0], ends[1 + number % 2]
            measured = {}
            for ours in (True, False) if number % 2 else (False, True):
                began, busy = time.monotonic(), [processor_s(host) for host in hosts]
                way = (sender, receiver) if ours else (by_hand.left, by_hand.right)
                measured[ours] = traffic.tcp(*way, 1).bits_per_s
                if ours:
                    elapsed = time.monotonic() - began
                    shares += [(processor_s(host) - b) / elapsed for host, b in zip(hosts, busy, strict=True)]
            rates.append((measured[True] / 1e9, measured[False] / 1e9))
            ratios.append(measured[True] / measured[False])
    captured = [counters(host).get("frames_captured", 0) - b for host, b in zip(hosts, before, strict=True)]
    ratio = statistics.median(ratios)
    print("Gbit/s, fast datapath and VXLAN by hand:", ", ".join(f"{a:.1f} {b:.1f}" for a, b in rates))
    print(f"ratio {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"routers' share of a processor: median {statistics.median(shares):.3f}, most {max(shares):.3f}")
    print(f"frames captured meanwhile: {captured}; unicast frames at the sender's TAP: {sender_tap.bytes - 24} bytes")
    assert statistics.median(shares) < 0.03
    assert max(captured) < 100, "ARP aside nothing is to be read from the TAP"
    assert sender_tap.nothing


def test_the_report_tells_what_is_programmed(lab: Lab) -> None:
    hosts, containers, _ = mesh_of_vxlan(lab, 3)
    told = report(hosts[0])["OverlayDiagnostics"]["vxlan"]["Peers"]
    assert {row["Remote"]: row["Kernel"] for row in told} == dict.fromkeys(("192.0.2.2", "192.0.2.3"), "sent accepted")
    entries = {(mac, row["Remote"]) for row in told for mac in (FLOOD, row["Peer"], *row["MACs"].split())}
    assert entries == device_entries(hosts[0])
    assert {(mac_of(container), f"192.0.2.{number}") for number, container in enumerate(containers[1:], 2)} < entries


# --- failure and return ----------------------------------------------------------------------------------------------


@pytest.mark.waits
@pytest.mark.parametrize("one_way", [False, True], ids=["both ways", "one way"])
@pytest.mark.timeout(300)
def test_closed_port_leads_to_sleeve_and_back(lab: Lab, one_way: bool) -> None:
    hosts, containers, _ = mesh_of_vxlan(lab, 3)
    a, b, c = hosts
    with Flow(containers[0], containers[1], "10.2.1.2", bytes_per_s=20e6) as flow:
        wait_until(flow.moves, 5, "TCP")
        began = time.monotonic()
        with blocked(b, "192.0.2.1"):
            if not one_way:
                block(a, "192.0.2.2")
            away = seconds_until(lambda: uses("sleeve", a, b), TO_SLEEVE_S, "sleeve")
            wait_until(flow.moves, TO_SLEEVE_S, "TCP to go on")
            moved = time.monotonic() - began
            assert uses("vxlan", a, c)
            assert uses("vxlan", b, c)
            said = trouble(a, b), trouble(b, a)
            assert all(text.startswith("VXLAN: nothing ") for text in said), said
            assert moved < TO_SLEEVE_S
            seen = counters(a).get("frames_captured", 0)
            wait_until(
                lambda: counters(a)["frames_captured"] > seen + 100, 5, "frames to take the way through the router"
            )
        unblock(a)
        pause = flow.longest_pause(began)
        again = time.monotonic()
        back = seconds_until(lambda: uses("vxlan", a, b), TO_VXLAN_S, "VXLAN")
        wait_until(flow.moves, 5, "TCP to go on")
        returned = flow.longest_pause(again)
        assert flow.error is None
        wait_until(lambda: (trouble(a, b), trouble(b, a)) == ("", ""), 5, "no complaint any more")
    print(f"on sleeve after {away:.1f} s ({said[0]} / {said[1]}), TCP paused for {pause:.1f} s")
    print(f"back after {back:.1f} s, TCP paused for {returned:.2f} s")
    assert returned < PAUSE_S


@pytest.mark.waits
@pytest.mark.timeout(300)
def test_flapping_is_damped(lab: Lab) -> None:
    hosts, _, _ = mesh_of_vxlan(lab, 2)
    a, b = hosts
    waits = []
    for _ in range(3):
        with blocked(b, "192.0.2.1"):
            wait_until(lambda: uses("sleeve", a, b), TO_SLEEVE_S, "sleeve")
        waits.append(seconds_until(lambda: uses("vxlan", a, b), TO_VXLAN_S, "VXLAN"))
    print("back on VXLAN after", ", ".join(f"{wait:.1f} s" for wait in waits))
    assert waits[0] < waits[1] < waits[2] < 30
    assert waits[2] > 10


def test_small_underlay_means_sleeve_and_says_so(lab: Lab) -> None:
    a, b, c = hosts = [lab.host(label) for label in "ABC"]
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30", mtu=1400)
    lab.link(a, "192.0.2.5/30", c, "192.0.2.6/30")
    for host, target in ((a, ()), (b, ("192.0.2.1",)), (c, ("192.0.2.5",))):
        host.fast_datapath = True
        host.weave("launch", "--no-discovery", *target)
    one, two, _ = [host.container("web", f"10.2.1.{number}/24") for number, host in enumerate(hosts, 1)]
    wait_until(lambda: uses("vxlan", a, c), MESH_S, "VXLAN where it fits")
    for host, peer in ((a, b), (b, a)):
        wait_until(lambda h=host, p=peer: "1376 bytes do not pass" in trouble(h, p), 10, "the reason")  # type: ignore[misc]
    assert uses("sleeve", a, b)
    assert "the underlay's MTU is too small" in a.weave("status", "connections")
    wait_until(lambda: one.reaches("10.2.1.2"), 5, "a ping")
    exchange(one, two, "10.2.1.2", 2_000_000)


def test_without_nft_sleeve_carries_all(lab: Lab) -> None:
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    a.fast_datapath = b.fast_datapath = True
    # The daemon looks for nft in these folders, too, so they are hidden from it.
    hide = "for folder in /usr/sbin /usr/local/sbin; do mount -t tmpfs none $folder; done; PATH=/usr/bin:/bin"
    a.run(
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-c",
        f'{hide}; exec "$@"',
        "sh",
        *a.weave_command("launch", "--nickname", "A"),
    )
    b.weave("launch", "192.0.2.1")
    wait_until(lambda: uses("sleeve", a, b), MESH_S, "the connection")
    one, two = a.container("one", "10.2.1.1/24"), b.container("two", "10.2.1.2/24")
    wait_until(lambda: one.reaches("10.2.1.2"), 5, "a ping")
    exchange(one, two, "10.2.1.2", 2_000_000)
    told = report(a)["OverlayDiagnostics"]["vxlan"]
    print(told)
    assert "nft" in told["Trouble"]
    (line,) = [line for line in a.log(1000).splitlines() if "fast datapath is off" in line]
    assert "nft" in line
    assert DEVICE not in a.ip("link"), "a device that nothing guards"
    assert uses("sleeve", a, b)


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.parametrize("which", [0, 1], ids=["leader", "follower"])
@pytest.mark.timeout(300)
def test_a_killed_router_stops_no_traffic(lab: Lab, which: int) -> None:
    a, b = hosts = [lab.host(label) for label in "AB"]
    lab.segment({a: "192.0.2.1/24", b: "192.0.2.2/24"})
    # The lower name leads.
    launch(hosts, others={"A": ("--name", "::1"), "B": ("--name", "::2")})
    containers = [host.container("web", f"10.2.1.{number}/24") for number, host in enumerate(hosts, 1)]
    wait_for_overlay("vxlan", hosts)
    wait_until(lambda: containers[0].reaches("10.2.1.2"), 5, "a ping")
    host = hosts[which]
    with (
        Flow(containers[0], containers[1], "10.2.1.2") as there,
        Flow(containers[1], containers[0], "10.2.1.1", bytes_per_s=5e6) as back,
    ):
        wait_until(lambda: there.moves() and back.moves(), 5, "TCP")
        before = device_entries(host)
        killed = time.monotonic()
        host.kill()
        assert device_entries(host) == before
        host.weave("launch", "--name", f"::{which + 1}", "192.0.2.1" if which else "192.0.2.2")
        launched = time.monotonic() - killed
        connected = seconds_until(lambda: uses("vxlan", a, b), 20, "the connection") + launched
        assert device_entries(host) == before
        time.sleep(max(0.0, killed + launched + 24 - time.monotonic()))  # what is left over is swept after 20 s
        assert uses("vxlan", a, b)
        pauses = [flow.longest_pause(killed) for flow in (there, back)]
        assert there.error is back.error is None
        assert device_entries(host) == before
    print(f"launched {launched:.1f} s after the kill, connected by VXLAN {connected:.1f} s after it")
    print(f"longest pause {max(pauses):.2f} s, {there.received * 8 / 1e9 / (time.monotonic() - killed):.1f} Gbit/s")
    assert max(pauses) < PAUSE_S


@pytest.mark.waits
@pytest.mark.timeout(240)
def test_a_router_that_stays_dead_is_swept(lab: Lab) -> None:
    hosts, _, _ = mesh_of_vxlan(lab, 2)
    a, b = hosts
    assert (FLOOD, "192.0.2.2") in device_entries(a)
    b.kill()
    took = seconds_until(lambda: not device_entries(a), 30, "the dead peer's entries to go")
    print(f"entries gone {took:.1f} s after the kill")
    assert took > 10, "too soon for a restart"


@pytest.mark.timeout(240)
def test_stopped_and_launched_again(lab: Lab) -> None:
    hosts, containers, _ = mesh_of_vxlan(lab, 2)
    a, b = hosts
    b.weave("stop")
    assert DEVICE not in b.ip("link")
    assert not has_table(b)
    gone = seconds_until(lambda: not device_entries(a), 3, "the peer's entries to go at once")
    b.weave("launch", "192.0.2.1")
    pinged = seconds_until(lambda: containers[0].reaches("10.2.1.2"), 15, "a ping")
    back = pinged + seconds_until(lambda: uses("vxlan", a, b), 30, "VXLAN")
    print(f"entries gone {gone:.1f} s after the stop; after the launch a ping in {pinged:.1f} s, VXLAN in {back:.1f} s")
    with Flow(containers[0], containers[1], "10.2.1.2") as flow:
        wait_until(flow.moves, 5, "TCP")


def test_reset_leaves_neither_device_nor_rules(lab: Lab) -> None:
    hosts, _, _ = mesh_of_vxlan(lab, 2)
    a, b = hosts
    assert has_table(a)
    a.weave("reset")
    assert DEVICE not in a.ip("link")
    assert not has_table(a)
    b.kill()
    assert has_table(b)
    b.weave("reset", "--force")
    assert DEVICE not in b.ip("link")
    assert not has_table(b)


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.timeout(180)
def test_no_fastdp_after_a_run_with_it(lab: Lab, how: str) -> None:
    hosts, containers, _ = mesh_of_vxlan(lab, 2)
    a, b = hosts
    if how == "kill":
        b.kill()
    else:
        b.weave("stop")
    b.weave("launch", "--no-fastdp", "192.0.2.1")
    assert DEVICE not in b.ip("link")
    assert not has_table(b)
    wait_until(lambda: uses("sleeve", a, b), 20, "the connection")
    took = seconds_until(lambda: containers[0].reaches("10.2.1.2"), 20, "a ping")
    wait_until(lambda: not device_entries(a), 20, "the peer's entries to go")
    print(f"a ping {took:.1f} s after the connection")
    exchange(containers[0], containers[1], "10.2.1.2", 1_000_000)
    assert "VXLAN" not in trouble(a, b)


def test_the_rules_are_made_again(lab: Lab) -> None:
    hosts, containers, _ = mesh_of_vxlan(lab, 2)
    hosts[0].run("nft", "flush", "ruleset")
    took = seconds_until(lambda: has_table(hosts[0]), 15, "the table")
    print(f"table back after {took:.1f} s")
    assert containers[0].reaches("10.2.1.2")
    assert uses("vxlan", *hosts)


# --- who is let in ---------------------------------------------------------------------------------------------------


def vxlan_packet(destination: bytes, source: bytes, number: int) -> bytes:
    """The UDP payload of a numbered frame in VXLAN (RFC 7348 section 5), as `Station` reads it."""
    header = struct.pack(">BxxxI", 0x08, VNI << 8)
    return header + destination + source + ETHERTYPE.to_bytes(2) + struct.pack(">Q", number) + bytes(40)


def send_vxlan(host: Host, target: str, frames: list[bytes]) -> None:
    """Send payloads to a host's VXLAN port."""
    with call_inside(host.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as plain:
        for frame in frames:
            plain.sendto(frame, (target, VXLAN_PORT))


def test_strangers_are_not_heard(lab: Lab) -> None:
    """Of three on the switch one is no peer, one is a peer that does not use the fast datapath."""
    a, b, d = (lab.host(label) for label in "ABD")
    stranger = lab.host("stranger")
    lab.segment({host: f"192.0.2.{number}/24" for number, host in enumerate((a, b, d, stranger), 1)})
    launch([a, b, d], others={"D": NO_FASTDP})
    wait_until(lambda: uses("vxlan", a, b) and uses("sleeve", a, d), MESH_S, "the mesh")
    web, other = a.container("web", "10.2.1.1/24"), b.container("other", "10.2.1.2/24")
    wait_until(lambda: other.reaches("10.2.1.1"), 5, "a ping")
    invented = bytes.fromhex("020000000099")
    theirs = bytes.fromhex(mac_of(other).replace(":", ""))
    with Station(web) as station:
        wait_until(lambda: bridge_port(a, mac_of(other)) == DEVICE, 5, "the other container's entry")
        entries, bridge, drops = device_entries(a), a.run("bridge", "fdb", "show", "br", "weave"), dropped(a)
        for host in (stranger, d):
            for source in (invented, theirs):
                packets = [vxlan_packet(target, source, 7) for target in (BROADCAST, station.mac)]
                send_vxlan(host, "192.0.2.1", packets * 10)
        send_vxlan(b, "192.0.2.1", [vxlan_packet(BROADCAST, theirs, 8)])  # what a peer sends is delivered
        wait_until(lambda: station.counts(theirs)[8] == 1, 5, "the peer's frame")
        assert not station.counts(invented)
        assert station.counts(theirs) == {8: 1}
        print(f"{dropped(a) - drops} packets dropped")
        assert dropped(a) - drops == 80
        assert device_entries(a) == entries
        assert a.run("bridge", "fdb", "show", "br", "weave") == bridge
        assert invented.hex(":") not in json.dumps(report(a))
    assert web.reaches("10.2.1.2")


def fake(attacker: Container, source: str, *, times: int = 20) -> None:
    """Send broadcasts under another's address."""
    with Station(attacker) as station:
        station.mac = bytes.fromhex(source.replace(":", ""))
        for number in range(times):
            station.send(BROADCAST, number)
            time.sleep(0.05)


@pytest.mark.timeout(240)
def test_a_container_cannot_take_anothers_traffic_from_other_hosts(lab: Lab) -> None:
    hosts, containers, _ = mesh_of_vxlan(lab, 3)
    victim = mac_of(containers[1])
    attacker = hosts[2].container("attacker", "10.2.1.9/24")
    wait_until(lambda: attacker.reaches("10.2.1.1"), 5, "a ping")
    with Flow(containers[0], containers[1], "10.2.1.2", bytes_per_s=10e6) as flow:
        wait_until(flow.moves, 5, "TCP")
        began = time.monotonic()
        fake(attacker, victim, times=60)
        time.sleep(2)
        pause = flow.longest_pause(began)
        assert flow.error is None
    print(f"longest pause on another host: {pause:.2f} s")
    assert pause < PAUSE_S
    assert bridge_port(hosts[0], victim) == DEVICE
    assert (victim, "192.0.2.2") in device_entries(hosts[0])
    assert (victim, "192.0.2.3") not in device_entries(hosts[0])


def test_nor_from_its_own_host(lab: Lab) -> None:
    """The entry toward the victim's host is sticky (NTF_STICKY); else the bridge's ageing time, 300 s, would pass."""
    hosts, containers, _ = mesh_of_vxlan(lab, 3)
    victim, here = mac_of(containers[1]), containers[2]
    attacker = hosts[2].container("attacker", "10.2.1.9/24")
    wait_until(lambda: attacker.reaches("10.2.1.2") and here.reaches("10.2.1.2"), 5, "a ping")
    with Flow(here, containers[1], "10.2.1.2", bytes_per_s=10e6) as flow:
        wait_until(flow.moves, 5, "TCP")
        began = time.monotonic()
        fake(attacker, victim, times=40)
        assert bridge_port(hosts[2], victim) == DEVICE
        pause = flow.longest_pause(began)
        assert flow.error is None
    print(f"longest pause on the attacker's own host: {pause:.2f} s")
    assert pause < PAUSE_S
    assert containers[0].reaches("10.2.1.2")


@pytest.mark.waits
@pytest.mark.timeout(240)
def test_the_address_of_a_silent_container_is_not_lost_for_good(lab: Lab) -> None:
    """Its claim ages while another host's container goes on sending under its address; then it speaks again."""
    hosts, containers, _ = mesh_of_vxlan(lab, 3)
    victim = mac_of(containers[1])
    for host in hosts:
        host.ip("link", "set", "weave", "type", "bridge", "ageing_time", "1000")
    attacker = hosts[2].container("attacker", "10.2.1.9/24")
    wait_until(lambda: attacker.reaches("10.2.1.1"), 5, "a ping")
    containers[1].ip("link", "set", "ethwe", "arp", "off")  # it keeps its peace
    stopped = threading.Event()

    def attack() -> None:
        while not stopped.is_set():
            fake(attacker, victim, times=1)
            stopped.wait(1)

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        time.sleep(25)
        print("while it is silent:", sorted(entry for entry in device_entries(hosts[0]) if entry[0] == victim))
        containers[1].ip("link", "set", "ethwe", "arp", "on")
        reached = False
        spoke = time.monotonic()
        while not reached and time.monotonic() < spoke + 18:
            reached = containers[1].reaches("10.2.1.1", timeout_s=0.3)
        print(f"talks with another host: {reached}, {time.monotonic() - spoke:.1f} s after it has spoken")
    finally:
        stopped.set()
        thread.join()
    ended = seconds_until(lambda: containers[1].reaches("10.2.1.1", timeout_s=0.3), 40, "a ping after the attack")
    print(f"and {ended:.1f} s after the attack has ended")
    assert reached, "for as long as the attack lasts, it is lost"


def test_password_without_trust_never_uses_vxlan(lab: Lab, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse battery staple\n")
    a, b = hosts = [lab.host(label) for label in "AB"]
    lab.segment({a: "192.0.2.1/24", b: "192.0.2.2/24"})
    with Listening(a, "eth0", f"udp port {VXLAN_PORT}") as wire:
        # One side's trust is not enough.
        others = {"A": ("--trusted-subnets", "192.0.2.0/24")}
        launch(hosts, "--password-file", str(password), others=others)
        wait_until(lambda: uses("sleeve", a, b), MESH_S, "the connection")
        one, two = [host.container("web", f"10.2.1.{number}/24") for number, host in enumerate(hosts, 1)]
        wait_until(lambda: one.reaches("10.2.1.2"), 5, "a ping")
        with Station(one) as station:
            for number in range(20):
                station.send(BROADCAST, number)
        exchange(one, two, "10.2.1.2", 1_000_000)
        time.sleep(6)
        assert uses("sleeve", a, b)
        assert {row["Encrypted"] for row in report(a)["Connections"]} == {True}
        assert device_entries(a) == device_entries(b) == set()
    assert wire.nothing, "VXLAN packets of a network with a password"


def test_password_with_trust_uses_vxlan(lab: Lab, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("correct horse battery staple\n")
    trust = ("--password-file", str(password), "--trusted-subnets", "192.0.2.0/24")
    hosts, containers, _ = mesh_of_vxlan(lab, 2, *trust)
    assert {row["Encrypted"] for row in report(hosts[0])["Connections"]} == {False}
    exchange(containers[0], containers[1], "10.2.1.2", 1_000_000)


# --- who is reached --------------------------------------------------------------------------------------------------


@pytest.mark.interop
def test_weave_net_28_uses_sleeve(lab: Lab) -> None:
    a, b, old = lab.host("A"), lab.host("B"), lab.host("old")
    lab.segment({a: "192.0.2.1/24", b: "192.0.2.2/24", old: "192.0.2.3/24"})
    launch([a, b])
    daemon = WeaveNet28(lab, old, "00:00:00:00:00:03")
    daemon.launch("192.0.2.1", "192.0.2.2")
    try:
        wait_until(lambda: uses("vxlan", a, b), MESH_S, "VXLAN between our own")
        wait_until(lambda: overlays(a).get("old") == overlays(b).get("old") == "sleeve", MESH_S, "sleeve toward 2.8")
        containers = [a.container("web", "10.2.1.1/24"), b.container("web", "10.2.1.2/24")]
        containers.append(daemon.container("web", "10.2.1.3/24"))
        for container in containers:
            for number in (1, 2, 3):
                wait_until(lambda c=container, n=number: c.reaches(f"10.2.1.{n}"), 8, "a ping")  # type: ignore[misc]
        exchange(containers[0], containers[2], "10.2.1.3", 1_000_000)
    finally:
        daemon.stop()


def test_an_exposed_host_is_reached(lab: Lab) -> None:
    hosts, containers, _ = mesh_of_vxlan(lab, 2, "--ipalloc-init", "consensus=2")
    a, b = hosts
    a.weave("expose", "10.2.1.9/24")
    wait_until(lambda: containers[1].reaches("10.2.1.9"), 5, "a ping to the host")
    assert a.reaches("10.2.1.2")
    b.weave("expose", "10.2.1.8/24")
    wait_until(lambda: a.reaches("10.2.1.8"), 5, "a ping between hosts")
    assert b.reaches("10.2.1.9")
    before = [counters(host).get("frames_captured", 0) for host in hosts]
    exchange(containers[1], a, "10.2.1.9", 5_000_000)
    exchange(a, containers[1], "10.2.1.2", 5_000_000)
    exchange(a, b, "10.2.1.8", 5_000_000)
    captured = [counters(host).get("frames_captured", 0) - b for host, b in zip(hosts, before, strict=True)]
    print(f"frames captured: {captured}")
    assert max(captured) < 50


@pytest.mark.parametrize("overlap", [False, True], ids=["detached first", "attached first"])
@pytest.mark.timeout(180)
def test_a_container_moves_with_its_address(lab: Lab, overlap: bool) -> None:
    hosts, containers, _ = mesh_of_vxlan(lab, 3)
    a, b, c = hosts
    moving, mac = containers[0], mac_of(containers[0])
    here = a.container("here", "10.2.1.4/24")  # one that stays where the moving one was
    took = []
    place: tuple[Host, Container] = (a, moving)
    for number, target in enumerate((c, b, a)):
        new = lab.add(Container(lab.name(f"moved{number}"), "moved"))
        attach = ("attach", "--netns", str(new.path), "--mac", mac, "10.2.1.1/24")
        if overlap:
            target.weave(*attach)
        place[0].weave("detach", "--netns", str(place[1].path))
        began = time.monotonic()
        if not overlap:
            target.weave(*attach)
        place = (target, new)
        for watcher in (containers[1], containers[2], here):
            wait_until(lambda w=watcher: w.reaches("10.2.1.1", timeout_s=0.3), 2 * MOVED_S, "the moved container")  # type: ignore[misc]
        took.append(time.monotonic() - began)
        assert mac_of(new) == mac
    print("reached from everywhere after", ", ".join(f"{seconds:.1f} s" for seconds in took))
    assert max(took) < MOVED_S
    with ThreadPoolExecutor() as pool:
        transfers = [pool.submit(exchange, watcher, place[1], "10.2.1.1", 500_000) for watcher in containers[1:]]
        for transfer in transfers:
            transfer.result()
