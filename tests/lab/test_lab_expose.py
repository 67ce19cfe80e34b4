"""A host that is on the network itself: its exposed addresses and the containers of all hosts reach each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lab.network import wait_until
from lab.reports import established
from lab.transfers import exchange
from weave_net.client import DaemonClient
from weave_net.directories import Directories

if TYPE_CHECKING:
    from lab.network import Host, Lab

QUORUM = ("--ipalloc-init", "consensus=2")


def pair(lab: Lab) -> tuple[Host, Host]:
    """Two hosts, B connects to A."""
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    a.weave("launch", *QUORUM)
    b.weave("launch", *QUORUM, "192.0.2.1")
    wait_until(lambda: established(a) == established(b) == 1, 15, "the connection")
    return a, b


def on_bridge(host: Host) -> set[str]:
    """The addresses of the bridge as the kernel tells."""
    (link,) = json.loads(host.ip("-j", "addr", "show", "dev", "weave"))
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in link["addr_info"] if entry["scope"] != "link"}


def owned(host: Host) -> list[str]:
    """What the allocator of a host has recorded for the host itself."""
    with DaemonClient(Directories(host.state_dir, host.run_dir)) as client:
        entries = json.loads(client.document("/ip"))["owned"] or []
    return next((list(entry["addrs"]) for entry in entries if entry["containerid"] == "weave:expose"), [])


def test_host_and_containers_reach_each_other(lab: Lab) -> None:
    a, b = pair(lab)
    here, there = a.container("here", "10.2.1.1/24"), b.container("there", "10.2.1.2/24", "fd00:2::2/64")
    assert a.weave("expose", "10.2.1.9/24", "fd00:2::9/64") == "10.2.1.9 fd00:2::9\n"
    for container in (here, there):
        wait_until(lambda container=container: container.reaches("10.2.1.9"), 5, "a ping to the host")  # type: ignore[misc]
    assert there.reaches("fd00:2::9")
    assert a.reaches("10.2.1.1")
    assert a.reaches("10.2.1.2")
    assert a.reaches("fd00:2::2")
    exchange(a, there, "10.2.1.2", 2_000_000)
    exchange(there, a, "10.2.1.9", 2_000_000)
    exchange(a, there, "fd00:2::2", 500_000)
    line = a.weave("ps", "weave:expose").split()
    assert line[0] == "weave:expose"
    assert set(line[2:]) == {"10.2.1.9/24", "fd00:2::9/64"}
    assert a.weave("hide", "10.2.1.9", "fd00:2::9") == "10.2.1.9 fd00:2::9\n"
    assert on_bridge(a) == set()
    assert not there.reaches("10.2.1.9")
    assert not a.reaches("10.2.1.2")


def test_allocated_address_survives_the_daemon_and_the_bridge(lab: Lab) -> None:
    a, b = pair(lab)
    address = a.weave("expose").strip()
    there = b.container("there")
    wait_until(lambda: there.reaches(address), 5, "a ping to the host")
    a.kill()
    assert on_bridge(a) == {f"{address}/12"}
    for restarted in (False, True):
        if restarted:  # as a restart of the machine takes it away
            a.weave("stop")
            a.ip("link", "del", "weave")
        a.weave("launch", *QUORUM)
        assert on_bridge(a) == {f"{address}/12"}
        assert a.weave("expose").strip() == address
        assert owned(a) == [f"{address}/12"]
        wait_until(lambda: established(a) == established(b) == 1, 20, "the connection")
        wait_until(lambda: there.reaches(address), 10, "a ping to the host")
    assert a.weave("hide").strip() == address
    a.kill()
    a.weave("launch", *QUORUM)
    assert (on_bridge(a), owned(a)) == (set(), [])


def test_address_moves_to_another_host_at_once(lab: Lab) -> None:
    a, b = pair(lab)
    here = a.container("here", "10.2.1.1/24")
    b.weave("expose", "10.2.1.9/24")
    wait_until(lambda: here.reaches("10.2.1.9"), 5, "a ping to the other host")
    b.weave("hide", "10.2.1.9")
    a.weave("expose", "10.2.1.9/24")
    assert here.reaches("10.2.1.9")
    a.weave("hide", "10.2.1.9")
    b.weave("expose", "10.2.1.9/24")
    assert here.reaches("10.2.1.9"), "the announcement has to arrive through the network"


def test_addresses_by_hand_are_noticed(lab: Lab) -> None:
    host = lab.host("A")
    host.weave("launch", "--ipalloc-init", "consensus=1")
    host.ip("addr", "add", "10.32.0.1/12", "dev", "weave")
    wait_until(lambda: owned(host) == ["10.32.0.1/12"], 5, "the address to be recorded")
    container = host.container("one")
    assert container.reaches("10.32.0.1")
    assert "10.32.0.1/12" in host.weave("ps", "weave:expose")
    host.ip("addr", "del", "10.32.0.1/12", "dev", "weave")
    wait_until(lambda: owned(host) == [], 5, "the address to be freed")


def test_reset_leaves_no_address(lab: Lab) -> None:
    host = lab.host("A")
    host.weave("launch", "--ipalloc-init", "consensus=1")
    host.weave("expose")
    host.weave("reset")
    assert "weave" not in host.ip("-o", "link")
    host.weave("launch", "--ipalloc-init", "consensus=1")
    assert (on_bridge(host), owned(host)) == (set(), [])
