"""A host that is on the network itself: its exposed addresses, the containers of all hosts and the outside beyond the
host reach each other, whatever others do to the host's firewall.
"""

from __future__ import annotations

import json
import re
import socket
import time
from typing import TYPE_CHECKING

import pytest

from lab.inside import call_inside
from lab.network import wait_until
from lab.reports import established
from lab.transfers import exchange
from lab.underlay import End, connect
from weave_net.client import DaemonClient
from weave_net.directories import Directories

if TYPE_CHECKING:
    from lab.network import Container, Host, Lab, Namespace

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


# The outside


GATEWAY, WORLD, NEAR = "10.2.1.9", "198.51.100.9", "198.51.100.1"
REPAIRED_S = 2.5


def with_outside(lab: Lab, *, fast_datapath: bool = False) -> tuple[Host, Host, Namespace]:
    """Two hosts; A is also on a network of which the containers know nothing, with somebody on it."""
    a, b = lab.host("A"), lab.host("B")
    for host in (a, b):
        host.fast_datapath = fast_datapath
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    outside = lab.namespace("outside")
    connect(End(a, a.next_interface(), f"{NEAR}/24"), End(outside, "eth0", f"{WORLD}/24"), 1500)
    outside.ip("route", "add", "10.2.1.0/24", "via", NEAR)
    outside.ip("-6", "addr", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
    a.ip("-6", "addr", "add", "2001:db8::1/64", "dev", "eth1", "nodad")
    a.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for name in ("iptables", "ip6tables"):
        # Bridged packets pass the firewall too, as Docker and Kubernetes want it.
        assert a.run("cat", f"/proc/sys/net/bridge/bridge-nf-call-{name}").strip() == "1"
    return a, b, outside


def launch(a: Host, b: Host) -> None:
    a.weave("launch", *QUORUM)
    b.weave("launch", *QUORUM, "192.0.2.1")
    wait_until(lambda: established(a) == established(b) == 1, 15, "the connection")


def containers(a: Host, b: Host) -> list[Container]:
    """Two here and one on the other host, with the exposed address of A as their gateway."""
    made = [
        a.container("here", "10.2.1.1/24", "fd00:2::1/64"),
        a.container("beside", "10.2.1.3/24"),
        b.container("there", "10.2.1.2/24", "fd00:2::2/64"),
    ]
    for container in made:
        container.ip("route", "add", "default", "via", GATEWAY)
    return made


def source_seen(client: Namespace, server: Namespace, address: str, timeout_s: float = 3) -> str:
    """From where a TCP connection seems to come; TimeoutError if there is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with call_inside(server.path, lambda: socket.create_server((address, 0), family=family)) as listener:
        listener.settimeout(timeout_s)
        with call_inside(client.path, lambda: socket.socket(family, socket.SOCK_STREAM)) as near:
            near.settimeout(timeout_s)
            near.connect(listener.getsockname())
            far, source = listener.accept()
            with far:
                return str(source[0])


def reach_each_other(here: Container, beside: Container, there: Container, outside: Namespace) -> bool:
    """Whether containers of one host and of two, and the outside, do."""
    pairs = [(here, "10.2.1.3"), (here, "10.2.1.2"), (here, WORLD), (there, WORLD), (outside, "10.2.1.1")]
    pairs += [(outside, "10.2.1.2"), (beside, "10.2.1.1")]
    return all(one.reaches(address) for one, address in pairs)


def test_addresses_are_translated_unless_told_otherwise(lab: Lab) -> None:
    a, b, outside = with_outside(lab)
    launch(a, b)
    here, _, there = containers(a, b)
    a.weave("expose", "10.2.1.9/24", "fd00:2::9/64")
    for container in (here, there):
        container.ip("-6", "route", "add", "default", "via", "fd00:2::9")
        wait_until(lambda container=container: container.reaches(WORLD), 5, "a ping to the outside")  # type: ignore[misc]
        assert source_seen(container, outside, WORLD) == NEAR
        assert source_seen(container, outside, "2001:db8::9") == "2001:db8::1"
    for container, address in ((here, "10.2.1.1"), (there, "10.2.1.2")):
        assert source_seen(outside, container, address) == GATEWAY
        assert source_seen(a, container, address) == GATEWAY
    assert source_seen(here, there, "10.2.1.2") == "10.2.1.1"
    assert source_seen(there, a, GATEWAY) == "10.2.1.2"
    exchange(there, outside, WORLD, 500_000)
    a.weave("expose", "--without-masquerade", "10.2.1.9/24")
    for container, address in ((here, "10.2.1.1"), (there, "10.2.1.2")):
        assert source_seen(container, outside, WORLD) == address
        assert source_seen(outside, container, address) == WORLD
        assert source_seen(container, outside, "2001:db8::9") == "2001:db8::1"
    a.weave("hide", "10.2.1.9", "fd00:2::9")
    assert a.run("nft", "list", "ruleset") == ""


def test_rules_outlive_the_daemon(lab: Lab) -> None:
    a, b, outside = with_outside(lab, fast_datapath=True)
    launch(a, b)
    here, _, _ = containers(a, b)
    a.weave("expose", "10.2.1.9/24")
    assert source_seen(here, outside, WORLD) == NEAR
    for end in (a.kill, lambda: a.weave("stop")):
        end()
        assert source_seen(here, outside, WORLD) == NEAR
        a.weave("launch", *QUORUM)
        assert source_seen(here, outside, WORLD) == NEAR
    a.weave("hide", "10.2.1.9")
    assert "masquerade" not in a.run("nft", "list", "ruleset")


def without_counts(listed: str) -> list[str]:
    """Lines of a ruleset, in an order that does not depend on who came first."""
    return sorted(re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]", "", listed).splitlines())


@pytest.mark.parametrize("before_launch", [True, False])
@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
def test_chain_that_drops_is_opened_and_kept_open(lab: Lab, program: str, before_launch: bool) -> None:
    """As Docker makes it, before us or after."""
    a, b, outside = with_outside(lab, fast_datapath=True)
    patience_s = REPAIRED_S if program == "iptables-nft" else 12.5

    def make_chain() -> None:
        a.run(program, "-P", "FORWARD", "DROP")
        a.run(program, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT")

    def rules() -> list[str]:
        saved = re.sub("^#.*\n", "", a.run(f"{program}-save"), flags=re.MULTILINE)
        return without_counts(saved)

    if before_launch:
        make_chain()
        foreign = rules()
    launch(a, b)
    here, beside, there = containers(a, b)
    a.weave("expose", "10.2.1.9/24")
    if not before_launch:
        # Just then the two hosts go over to the fast datapath.
        wait_until(lambda: reach_each_other(here, beside, there, outside), 10, "all to reach each other")
        make_chain()
        foreign = rules()

    def table() -> list[str]:
        return without_counts(a.attempt("nft", "list", "table", "inet", "weave").stdout)

    wait_until(lambda: sum("weave-net" in line for line in rules()) == 4, patience_s, "our rules")
    wait_until(lambda: reach_each_other(here, beside, there, outside), 10, "all to reach each other")
    wait_until(lambda: sum("elements" in line for line in table()) == 2, 10, "the fast datapath to be open")
    complete = rules(), table()
    for command in (["nft", "flush", "ruleset"], [program, "-F"]):
        a.run(*command)
        if rules() != complete[0]:
            make_chain()
        began = time.monotonic()
        # A ping that is dropped would take longer than what is waited for.
        wait_until(lambda: (rules(), table()) == complete, patience_s, "our rules")
        print(f"{' '.join(command)}: repaired after {time.monotonic() - began:.1f} s")
        assert reach_each_other(here, beside, there, outside)
    a.weave("reset")
    assert rules() == foreign
    assert "weave" not in a.run("nft", "list", "ruleset")


def test_rules_go_with_a_reset_of_a_host_without_daemon(lab: Lab) -> None:
    a, _, _ = with_outside(lab)
    a.run("iptables-nft", "-P", "FORWARD", "DROP")
    foreign = without_counts(a.run("nft", "list", "ruleset"))
    a.weave("launch", *QUORUM)
    a.weave("expose", "10.2.1.9/24")
    assert "weave" in a.run("nft", "list", "ruleset")
    a.kill()
    assert "firewall rules" in a.weave("reset", "--force")
    assert without_counts(a.run("nft", "list", "ruleset")) == foreign


def test_host_that_passes_nothing_on_says_so(lab: Lab) -> None:
    a, _, _ = with_outside(lab)
    a.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    a.weave("launch", *QUORUM)
    a.weave("expose", "10.2.1.9/24")
    a.weave("expose", "10.2.1.9/24")
    assert a.log(100).count("`sysctl -w net.ipv4.ip_forward=1`") == 1
