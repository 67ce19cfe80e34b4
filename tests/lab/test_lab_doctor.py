"""`weave doctor` on real hosts: what is wrong is found, with something to do about it, and nothing is changed."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import pytest

from lab.network import wait_until
from lab.overlays import blocked, close_ways, trouble, unblock, wait_for_overlay
from lab.reports import connections, established

if TYPE_CHECKING:
    from lab.network import Host, Lab, Segment

Findings = dict[str, list[tuple[str, str]]]
"""Text and advice of what is not well, by verdict and check, such as `problem firewall`."""

LIMIT_S = 10.0


@pytest.fixture
def hosts(lab: Lab) -> tuple[Host, Host]:
    return lab.host("A"), lab.host("B")


def plug(lab: Lab, hosts: tuple[Host, Host], *, mtu: int = 1500) -> Segment:
    a, b = hosts
    return lab.segment({a: "192.0.2.1/24", b: "192.0.2.2/24"}, mtu=mtu)


def launch(hosts: tuple[Host, Host], *flags: str, fast: bool = True) -> None:
    for host, other in zip(hosts, ("192.0.2.2", "192.0.2.1"), strict=True):
        host.fast_datapath = fast
        host.weave("launch", *flags, other)


def examine(host: Host, *arguments: str) -> tuple[int, Findings]:
    """Exit status as far as this host is to blame, and findings of `weave doctor`, which must be quick."""
    begin = time.monotonic()
    done = host.attempt(*host.weave_command("doctor", "--json", *arguments))
    assert time.monotonic() - begin < LIMIT_S
    assert not done.stderr
    found: Findings = {}
    for finding in json.loads(done.stdout):
        if finding["verdict"] != "ok":
            found.setdefault(f"{finding['verdict']} {finding['check']}", []).append(
                (finding["text"], finding["advice"])
            )
    ours = {"clock", "docker", "cni"}  # of the machine that the lab runs on, not of its hosts
    bad = {key: each for key, each in found.items() if key.partition(" ")[2] not in ours and key[:3] != "ok "}
    assert done.returncode == any(key.startswith("problem ") for key in found)
    return int(any(key.startswith("problem ") for key in bad)), bad


def devices(host: Host) -> set[str]:
    return {link["ifname"] for link in json.loads(host.ip("-j", "link", "show"))}


def test_a_pair_that_is_well(lab: Lab, hosts: tuple[Host, Host]) -> None:
    plug(lab, hosts)
    launch(hosts)
    wait_for_overlay("vxlan", hosts)
    before = [(devices(host), host.run("nft", "list", "ruleset")) for host in hosts]
    for host in hosts:
        status, found = examine(host)
        assert not {check for check in found if check.startswith("problem")}, found
        assert status == 0
    assert [(devices(host), host.run("nft", "list", "ruleset")) for host in hosts] == before
    shown = hosts[0].attempt(*hosts[0].weave_command("doctor")).stdout
    assert "the kernel carries the packets to B" in shown
    assert " found\n" in shown


def test_no_daemon(lab: Lab, hosts: tuple[Host, Host]) -> None:
    plug(lab, hosts)
    status, found = examine(hosts[0])
    assert status == 0, found
    assert "only this host was looked at" in found["note daemon"][0][0]
    assert not hosts[0].run_dir.exists()
    assert not hosts[0].state_dir.exists()


LISTENER = "import socket, time; s = socket.socket(); s.bind(('', 6783)); s.listen(); print(flush=True); time.sleep(60)"


def test_a_port_that_another_program_has(hosts: tuple[Host, Host]) -> None:
    a, _ = hosts
    hog = a.popen(sys.executable, "-c", LISTENER)
    assert hog.stdout is not None
    hog.stdout.readline()
    status, found = examine(a)
    assert status == 1, found
    ((text, advice),) = found["problem ports"]
    assert "TCP port 6783 at 0.0.0.0 is taken" in text
    assert f"(pid {hog.pid})" in text
    assert "--port" in advice
    assert examine(a, "--port", "6800")[0] == 0


def test_the_fast_datapath_is_blocked(lab: Lab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    plug(lab, hosts)
    with blocked(b, "192.0.2.1"):
        launch(hosts)
        wait_until(lambda: "nothing comes through" in trouble(b, a), 20, "B's complaint")
        wait_until(lambda: "nothing arrives at the peer" in trouble(a, b), 20, "A's complaint")
        status, found = examine(b)
        assert status == 1
        ((text, advice),) = found["problem connection A"]
        assert "on sleeve" in text
        assert "UDP port 6784 pass from 192.0.2.1 to this host" in advice
        ((text, advice),) = found["problem firewall"]
        assert "chain input of the nftables table ip wvblock of this host drops UDP port 6784" in text
        status, found = examine(a)
        assert status == 1
        ((text, advice),) = found["problem connection B"]
        assert "UDP port 6784 pass from this host to 192.0.2.2" in advice
        assert "problem firewall" not in found
    wait_for_overlay("vxlan", hosts)
    assert examine(b)[0] == 0


def test_sleeve_is_blocked(lab: Lab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    plug(lab, hosts)
    close_ways(b, [("192.0.2.1", 6783)])
    launch(hosts, fast=False)
    wait_until(lambda: [row["State"] for row in connections(a)] == ["pending"], 20, "a connection without UDP")
    wait_until(lambda: established(b) == 1, 20, "a connection that B takes for established")
    status, found = examine(a)
    assert status == 1
    ((text, advice),) = found["problem connection B"]
    assert "not established" in text
    assert "UDP port 6783 pass between 192.0.2.2 and this host" in advice
    status, found = examine(b)
    assert status == 1
    assert "does not arrive here" in found["problem connection A"][0][0]
    assert "UDP port 6783 (sleeve) from 192.0.2.1" in found["problem firewall"][0][0]
    unblock(b)


def test_the_network_beneath_carries_too_little(lab: Lab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    plug(lab, hosts, mtu=1300)
    assert "an MTU of 1300 bytes" in examine(a)[1].get("note mtu", [("an MTU of 1300 bytes", "")])[0][0]
    launch(hosts)
    wait_until(lambda: "do not pass" in trouble(a, b), 20, "the complaint")
    wait_until(lambda: connections(a)[0]["MTU"] == 1300 - 62, 20, "the measured MTU")
    status, found = examine(a)
    assert status == 1
    ((text, advice),) = found["problem mtu"]
    assert "B (1238)" in text
    assert "--mtu 1238" in advice
    ((text, advice),) = found["problem connection B"]
    assert "1376 bytes do not pass" in text
    for host in hosts:
        host.weave("stop")
    # The advice is good.
    launch(hosts, "--mtu", "1238")
    wait_for_overlay("vxlan", hosts)
    status, found = examine(a)
    assert (status, "problem mtu" in found) == (0, False), found


def test_forward_drops_bridged_packets(lab: Lab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    plug(lab, hosts)
    launch(hosts)
    wait_until(lambda: established(a) == 1, 15, "the connection")
    a.run("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    table = "table inet strict { chain forward { type filter hook forward priority 5; policy drop; }; }"
    a.run("nft", "-f", "-", stdin=table)
    status, found = examine(a)
    assert status == 1
    ((text, advice),) = found["problem forward"]
    assert "chain forward of the nftables table inet strict drops what containers send each other" in text
    assert "weave" in advice
    one, two = a.container("one", "10.2.1.1/24"), a.container("two", "10.2.1.2/24")
    assert not one.reaches("10.2.1.2"), "it is so"
    a.run("nft", "add", "rule", "inet", "strict", "forward", "iifname", "weave", "oifname", "weave", "accept")
    assert examine(a)[0] == 0
    wait_until(lambda: one.reaches("10.2.1.2"), 5, "the advice to be good")
    assert two.path.exists()
    assert b.pid


def test_nobody_listens_at_a_target(lab: Lab, hosts: tuple[Host, Host]) -> None:
    a, _ = hosts
    plug(lab, hosts)
    a.weave("launch", "192.0.2.2")
    wait_until(lambda: connections(a)[0]["State"] == "failed", 15, "the first attempt to fail")
    status, found = examine(a)
    assert status == 1
    ((text, advice),) = found["problem connection 192.0.2.2:6783"]
    assert "refused" in text
    assert "weave launch" in advice
