"""Containers' traffic over real routers: a line of three, plain and with a password."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from lab.network import Container, Host, Lab, LabError, wait_until
from lab.raw_frames import BROADCAST, Station
from lab.reports import connections, link_counts, peer_count, router_report

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct horse battery staple"


def line_of_three(lab: Lab, *launch: str) -> tuple[list[Host], list[Container]]:
    """A–B–C, where A and C reach each other through B only; a container 10.2.1.N on each."""
    hosts = a, b, c = [lab.host(label) for label in "ABC"]
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    lab.link(b, "192.0.2.5/30", c, "192.0.2.6/30")
    b.weave("launch", "--name", "::2", *launch)
    a.weave("launch", "--name", "::1", *launch, "192.0.2.2")
    c.weave("launch", "--name", "::3", *launch, "192.0.2.5")
    wait_until(lambda: all(peer_count(host) == 3 for host in hosts), 15, "three peers everywhere")
    wait_until(lambda: all(link_counts(host) == [1, 1, 2] for host in hosts), 15, "everybody to see both links")
    containers = [host.container("web", f"10.2.1.{number}/24") for number, host in enumerate(hosts, 1)]
    return hosts, containers


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return str(path)


def transfer(sender: Container, receiver: Container, address: str) -> dict[str, float]:
    """One second of TCP; iperf3's sum at the receiver."""
    server = receiver.popen("iperf3", "--server", "--one-off")
    wait_until(lambda: "iperf3" in receiver.run("ss", "-Hltnp", "sport = :5201"), 5, "iperf3 to listen")
    text = sender.run("iperf3", "--client", address, "--time", "1", "--json")
    server.wait(10)
    result: dict[str, float] = json.loads(text)["end"]["sum_received"]
    return result


def test_every_pair_talks_over_a_relay(lab: Lab) -> None:
    hosts, containers = line_of_three(lab)
    for container in containers:
        for number in (1, 2, 3):
            wait_until(lambda c=container, n=number: c.reaches(f"10.2.1.{n}"), 5, "a ping")  # type: ignore[misc]
    assert transfer(containers[0], containers[2], "10.2.1.3")["bytes"] > 1_000_000
    assert [row["Cipher"] for row in connections(hosts[1])] == ["", ""]
    # Larger than any packet: the sender's kernel fragments it, the overlay carries the fragments.
    assert "3 received" in containers[0].run("ping", "-c3", "-i0.2", "-s4000", "10.2.1.3")
    # As large as the MTU with "don't fragment", and nothing larger than that.
    assert "3 received" in containers[0].run("ping", "-c3", "-i0.2", "-Mdo", "-s1348", "10.2.1.3")
    too_large = containers[0].attempt("ping", "-c1", "-Mdo", "-s1349", "10.2.1.3")
    assert too_large.returncode != 0
    assert "message too long" in (too_large.stdout + too_large.stderr).lower()


def test_ipv6_between_containers(lab: Lab) -> None:
    _, containers = line_of_three(lab)
    for number, container in enumerate(containers, 1):
        container.ip("-6", "addr", "add", f"fd00::{number}/64", "dev", "ethwe", "nodad")
    wait_until(lambda: containers[0].reaches("fd00::3"), 5, "IPv6 over the relay")
    assert transfer(containers[0], containers[1], "fd00::2")["bytes"] > 1_000_000


def test_password_seals_with_aead_between_our_own(lab: Lab, password_file: str) -> None:
    hosts, containers = line_of_three(lab, "--password-file", password_file)
    assert {row["Cipher"] for row in connections(hosts[1])} <= {"aes-256-gcm", "chacha20-poly1305"}
    wait_until(lambda: containers[0].reaches("10.2.1.3"), 5, "a ping over the relay")
    assert transfer(containers[0], containers[2], "10.2.1.3")["bytes"] > 1_000_000
    for host in hosts:
        assert PASSWORD not in host.log(10_000)
        assert PASSWORD not in host.weave("report")
        assert PASSWORD not in host.run("cat", f"/proc/{host.pid}/cmdline", f"/proc/{host.pid}/environ")


def test_nothing_of_a_password_network_travels_in_clear(lab: Lab, password_file: str) -> None:
    hosts, containers = line_of_three(lab, "--password-file", password_file)
    wait_until(lambda: containers[0].reaches("10.2.1.2"), 5, "a ping")
    capture = lab.directory / "capture"
    dump = hosts[1].popen("tcpdump", "-ni", "any", "-U", "-w", str(capture), "udp port 6783")
    wait_until(capture.exists, 5, "tcpdump")
    containers[0].run("ping", "-c5", "-i0.2", "-p", "77656176652d746573742d7061747465", "10.2.1.2")
    wait_until(lambda: capture.stat().st_size > 2000, 5, "captured packets")
    dump.terminate()
    dump.wait(5)
    assert b"weave-test-patt" not in capture.read_bytes()


def test_broadcast_and_unicast_arrive_exactly_once(lab: Lab) -> None:
    _, containers = line_of_three(lab)
    with Station(containers[0]) as first, Station(containers[1]) as second, Station(containers[2]) as third:
        for number in range(200):
            first.send(BROADCAST, number)
            third.send(first.mac, number)
        once = dict.fromkeys(range(200), 1)
        with suppress(LabError):  # the comparison below says more
            wait_until(lambda: second.counts(first.mac).total() == third.counts(first.mac).total() == 200, 5, "frames")
            wait_until(lambda: first.counts(third.mac).total() == 200, 5, "unicasts at A")
        time.sleep(0.5)  # a second copy would come now
        assert second.counts(first.mac) == once, "broadcasts at B"
        assert third.counts(first.mac) == once, "broadcasts at C"
        assert first.counts(third.mac) == once, "unicasts at A"
        assert not second.counts(third.mac), "unicast to a known address was flooded"
        # Its own bridge gives a container back what it floods (hairpin); the overlay does not once more.
        assert first.counts(first.mac) == once
        assert max(third.counts(third.mac).values(), default=0) <= 1


def test_multicast_reaches_every_container(lab: Lab) -> None:
    _, containers = line_of_three(lab)
    group = bytes.fromhex("01005e010203")
    with Station(containers[0]) as first, Station(containers[1]) as second, Station(containers[2]) as third:
        first.send(group, 7)
        wait_until(lambda: second.counts(first.mac)[7] == third.counts(first.mac)[7] == 1, 5, "multicast")


def test_a_moved_container_is_found_again(lab: Lab) -> None:
    hosts, containers = line_of_three(lab)
    wait_until(lambda: containers[1].reaches("10.2.1.1"), 5, "a ping")
    mac = json.loads(containers[0].ip("-j", "link", "show", "ethwe"))[0]["address"]
    hosts[0].weave("detach", "--netns", str(containers[0].path))
    moved = lab.namespace("moved")
    hosts[2].weave("attach", "--netns", str(moved.path), "10.2.1.1/24")
    moved.ip("link", "set", "ethwe", "address", mac)
    wait_until(lambda: moved.reaches("10.2.1.2"), 10, "the moved container to be heard")


def test_detach_takes_a_container_out(lab: Lab) -> None:
    hosts, containers = line_of_three(lab)
    wait_until(lambda: containers[1].reaches("10.2.1.1"), 5, "a ping")
    hosts[0].weave("detach", "--netns", str(containers[0].path))
    assert "ethwe" not in containers[0].ip("link")
    assert "vethwe" not in hosts[0].ip("link")
    assert not containers[1].reaches("10.2.1.1")


def test_forget_and_connect(lab: Lab) -> None:
    hosts, _ = line_of_three(lab)
    a, b, _ = hosts
    a.weave("forget", "192.0.2.2")
    wait_until(lambda: peer_count(b) == 2, 5, "B to see A leave")
    assert a.weave("status", "targets") == ""
    a.weave("connect", "192.0.2.2")
    wait_until(lambda: peer_count(b) == 3, 10, "B to see A again")
    assert router_report(a)["Targets"] == ["192.0.2.2"]
