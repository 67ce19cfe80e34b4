"""A router that dies and comes back: containers keep their interfaces, peers their names."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from lab.network import wait_until
from lab.reports import established, router_report

if TYPE_CHECKING:
    from lab.network import Host, Lab

RECONNECTED_S = 15


def pair(lab: Lab) -> tuple[Host, Host]:
    """Two hosts, B connects to A."""
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    a.weave("launch")
    b.weave("launch", "192.0.2.1")
    wait_until(lambda: established(a) == established(b) == 1, 15, "the connection")
    return a, b


def interfaces(host: Host) -> list[str]:
    """Names of all devices but the TAP, which belongs to the daemon."""
    names = [line.split(":")[1].strip().split("@")[0] for line in host.ip("-o", "link").splitlines()]
    return sorted(name for name in names if name != "weave-tap")


def test_killed_and_launched_again(lab: Lab) -> None:
    a, b = pair(lab)
    one, two = a.container("one", "10.2.1.1/24"), b.container("two", "10.2.1.2/24")
    wait_until(lambda: one.reaches("10.2.1.2"), 5, "a ping")
    for host, launch in ((b, ["192.0.2.1"]), (a, [])):
        name, before = router_report(host)["Name"], interfaces(host)
        host.kill()
        killed = time.monotonic()
        host.weave("launch", *launch)
        wait_until(lambda: established(a) == established(b) == 1, RECONNECTED_S, "the connection")
        wait_until(lambda: one.reaches("10.2.1.2") and two.reaches("10.2.1.1"), RECONNECTED_S, "a ping")
        assert time.monotonic() - killed < RECONNECTED_S
        assert router_report(host)["Name"] == name
        assert interfaces(host) == before


def test_targets_survive_a_crash(lab: Lab) -> None:
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    a.weave("launch")
    b.weave("launch")
    b.weave("connect", "192.0.2.1")
    wait_until(lambda: established(b) == 1, 15, "the connection")
    b.kill()
    b.weave("launch")
    wait_until(lambda: established(b) == 1, RECONNECTED_S, "the connection after the crash")


def test_containers_of_one_host_talk_while_the_router_is_stopped(lab: Lab) -> None:
    host = lab.host("A")
    host.weave("launch")
    one, two = host.container("one", "10.2.1.1/24"), host.container("two", "10.2.1.2/24")
    wait_until(lambda: one.reaches("10.2.1.2"), 5, "a ping")
    host.weave("stop")
    assert host.pid is None
    assert two.reaches("10.2.1.1")


def test_reset_leaves_nothing(lab: Lab) -> None:
    host = lab.host("A")
    before = interfaces(host)
    host.weave("launch")
    container = host.container("one", "10.2.1.1/24")
    host.weave("reset")
    assert interfaces(host) == before
    assert "ethwe" not in container.ip("link")
    assert not [path for path in host.state_dir.glob("*") if path.suffix != ".log"]


def test_a_daemon_whose_tap_is_removed_ends_and_says_why(lab: Lab) -> None:
    host = lab.host("A")
    host.weave("launch")
    host.ip("link", "del", "weave-tap")
    wait_until(lambda: host.pid is None, 10, "the daemon to end")
    assert "weave-tap has been removed" in host.log()
    host.weave("launch")
    assert "weave-tap" in host.ip("link")


@pytest.mark.alone
def test_an_idle_router_needs_next_to_nothing(lab: Lab) -> None:
    a, b = pair(lab)
    time.sleep(2)  # the establishment's tests and timers

    def processor_seconds(host: Host) -> float:
        fields = host.run("cat", f"/proc/{host.pid}/stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    seconds = 12.0
    before = [processor_seconds(host) for host in (a, b)]
    time.sleep(seconds)
    after = [processor_seconds(host) for host in (a, b)]
    for host, start, end in zip((a, b), before, after, strict=True):
        assert (end - start) / seconds < 0.01
        status = host.run("cat", f"/proc/{host.pid}/status")
        resident_kb = int(status.partition("VmRSS:")[2].split()[0])
        assert resident_kb < 120 * 1024
