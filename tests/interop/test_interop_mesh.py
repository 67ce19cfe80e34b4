"""Against a real Weave Net 2.8 daemon: it takes us for one of its own, and containers talk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from interop.weave_net_28 import WeaveNet28
from lab.network import Container, Host, wait_until
from lab.reports import connections, established, peer_count, router_report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.network import Lab

pytestmark = [pytest.mark.interop, pytest.mark.root]

PASSWORDS = pytest.mark.parametrize("password", ["", "correct horse battery staple"], ids=["plain", "password"])


@pytest.fixture
def daemons() -> Iterator[list[WeaveNet28]]:
    """Weave Net 2.8 daemons of a test, ended with it."""
    started: list[WeaveNet28] = []
    yield started
    for daemon in started:
        daemon.stop()


def launch_options(password: str, directory: Path) -> list[str]:
    """Options of `weave launch` for a password, or none."""
    if not password:
        return []
    file = directory / "password"
    file.write_text(password)
    return ["--password-file", str(file)]


def line(lab: Lab) -> tuple[Host, Host, Host]:
    """Hosts A–B–C in a line."""
    a, b, c = lab.host("A"), lab.host("B"), lab.host("C")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    lab.link(b, "192.0.2.5/30", c, "192.0.2.6/30")
    return a, b, c


def all_talk(containers: list[Container]) -> None:
    """Every container pings every other one; TCP flows from the first to the last and back."""
    for container in containers:
        for number in range(1, len(containers) + 1):
            # 2.8 loses the first frame that it captures after its start.
            wait_until(lambda c=container, n=number: c.reaches(f"10.2.1.{n}"), 8, f"10.2.1.{number} to answer")  # type: ignore[misc]
    last = len(containers)
    for sender, receiver, address in (
        (containers[0], containers[-1], f"10.2.1.{last}"),
        (containers[-1], containers[0], "10.2.1.1"),
    ):
        server = receiver.popen("iperf3", "--server", "--one-off")
        wait_until(lambda r=receiver: "iperf3" in r.run("ss", "-Hltnp", "sport = :5201"), 5, "iperf3")  # type: ignore[misc]
        result = json.loads(sender.run("iperf3", "--client", address, "--time", "1", "--json"))
        server.wait(10)
        assert result["end"]["sum_received"]["bytes"] > 500_000


@PASSWORDS
def test_pair_sees_each_other_alike(lab: Lab, daemons: list[WeaveNet28], password: str, tmp_path: Path) -> None:
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    old = WeaveNet28(lab, b, "00:00:00:00:00:02")
    daemons.append(old)
    old.launch(password=password)
    a.weave("launch", "--name", "::1", *launch_options(password, tmp_path), "192.0.2.2")
    wait_until(lambda: established(a) == 1 and len(old.established()) == 1, 15, "the connection")
    mtu, cipher = (1414, "nacl") if password else (1438, "")

    def theirs() -> bool:
        (line,) = old.established()
        return "sleeve 00:00:00:00:00:01(A)" in line and f"mtu={mtu}" in line

    def ours() -> bool:
        (row,) = connections(a)
        return (row["MTU"], row["Cipher"]) == (mtu, cipher)

    wait_until(theirs, 10, "its MTU")
    wait_until(ours, 10, "our MTU")
    all_talk([a.container("one", "10.2.1.1/24"), old.container("two", "10.2.1.2/24")])


@PASSWORDS
def test_line_with_ours_in_the_middle(lab: Lab, daemons: list[WeaveNet28], password: str, tmp_path: Path) -> None:
    a, b, c = line(lab)
    b.weave("launch", "--name", "::2", *launch_options(password, tmp_path))
    old_a, old_c = WeaveNet28(lab, a, "00:00:00:00:00:01"), WeaveNet28(lab, c, "00:00:00:00:00:03")
    daemons += [old_a, old_c]
    old_a.launch("192.0.2.2", password=password)
    old_c.launch("192.0.2.5", password=password)
    wait_until(lambda: established(b) == 2 and len(old_a.report()["Peers"]) == 3, 20, "the mesh")
    wait_until(lambda: len(old_c.report()["Peers"]) == 3, 10, "the mesh at C")
    all_talk(
        [old_a.container("one", "10.2.1.1/24"), b.container("two", "10.2.1.2/24"), old_c.container("3", "10.2.1.3/24")]
    )


@PASSWORDS
def test_line_with_weave_net_in_the_middle(lab: Lab, daemons: list[WeaveNet28], password: str, tmp_path: Path) -> None:
    a, b, c = line(lab)
    old = WeaveNet28(lab, b, "00:00:00:00:00:02")
    daemons.append(old)
    old.launch(password=password)
    options = launch_options(password, tmp_path)
    a.weave("launch", "--name", "::1", *options, "192.0.2.2")
    c.weave("launch", "--name", "::3", *options, "192.0.2.5")
    wait_until(lambda: peer_count(a) == peer_count(c) == 3 and len(old.established()) == 2, 20, "the mesh")
    all_talk(
        [a.container("one", "10.2.1.1/24"), old.container("two", "10.2.1.2/24"), c.container("three", "10.2.1.3/24")]
    )

    # Its report has our names and peers, and the same routes as ours.
    theirs, ours = old.report(), router_report(a)
    names = {peer["Name"]: peer["NickName"] for peer in theirs["Peers"]}
    assert names == {peer["Name"]: peer["NickName"] for peer in ours["Peers"]}
    assert {(route["Dest"], route["Via"]) for route in theirs["UnicastRoutes"]} == {
        ("00:00:00:00:00:01", "00:00:00:00:00:01"),
        ("00:00:00:00:00:02", "00:00:00:00:00:00"),
        ("00:00:00:00:00:03", "00:00:00:00:00:03"),
    }
    assert {(route["Dest"], route["Via"]) for route in ours["UnicastRoutes"]} == {
        ("00:00:00:00:00:01", "00:00:00:00:00:00"),
        ("00:00:00:00:00:02", "00:00:00:00:00:02"),
        ("00:00:00:00:00:03", "00:00:00:00:00:02"),
    }
    assert {peer["Name"]: peer["UID"] for peer in theirs["Peers"]} == {
        peer["Name"]: peer["UID"] for peer in ours["Peers"]
    }


@PASSWORDS
def test_restart_of_either_side_heals(lab: Lab, daemons: list[WeaveNet28], password: str, tmp_path: Path) -> None:
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    old = WeaveNet28(lab, b, "00:00:00:00:00:02")
    daemons.append(old)
    old.launch(password=password)
    options = launch_options(password, tmp_path)
    a.weave("launch", "--name", "::1", *options, "192.0.2.2")
    wait_until(lambda: established(a) == 1 and len(old.established()) == 1, 15, "the connection")
    one, two = a.container("one", "10.2.1.1/24"), old.container("two", "10.2.1.2/24")
    wait_until(lambda: one.reaches("10.2.1.2"), 8, "a ping")

    a.kill()
    a.weave("launch", *options, "192.0.2.2")
    wait_until(lambda: established(a) == 1 and len(old.established()) == 1, 20, "the connection after our restart")
    wait_until(lambda: two.reaches("10.2.1.1"), 8, "a ping after our restart")

    old.stop()
    old.launch(password=password)
    wait_until(lambda: established(a) == 1 and len(old.established()) == 1, 40, "the connection after its restart")
    wait_until(lambda: one.reaches("10.2.1.2"), 8, "a ping after its restart")


def test_wrong_password_is_told_on_both_sides(lab: Lab, daemons: list[WeaveNet28], tmp_path: Path) -> None:
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    old = WeaveNet28(lab, b, "00:00:00:00:00:02")
    daemons.append(old)
    old.launch(password="another one")
    a.weave("launch", *launch_options("correct horse", tmp_path), "192.0.2.2")
    wait_until(lambda: any("password" in row["Info"] for row in connections(a)), 10, "a reason")
    assert not old.established()
