"""Address allocation together with a real Weave Net 2.8 daemon: one ring, agreed on, shared and handed over."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import TYPE_CHECKING

import pytest

from interop.weave_net_28 import WeaveNet28, shares
from lab.network import wait_until
from lab.reports import established
from lab.shell import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.network import Host, Lab

pytestmark = [pytest.mark.interop, pytest.mark.root]

RANGE = "10.40.0.0/24"
NAMES = {"A": "00:00:00:00:00:01", "B": "00:00:00:00:00:02", "C": "00:00:00:00:00:03", "D": "00:00:00:00:00:04"}
ADDRESSES = {"A": "192.0.2.1", "B": "192.0.2.2", "C": "192.0.2.3", "D": "192.0.2.4"}


@pytest.fixture
def daemons() -> Iterator[list[WeaveNet28]]:
    """Weave Net 2.8 daemons of a test, ended with it."""
    started: list[WeaveNet28] = []
    yield started
    for daemon in started:
        daemon.stop()


def hosts_on_one_wire(lab: Lab, labels: str) -> list[Host]:
    hosts = [lab.host(label) for label in labels]
    lab.segment({host: f"{ADDRESSES[host.label]}/24" for host in hosts})
    return hosts


def launch(host: Host, *peers: str, mode: str = "consensus=3", network: str = RANGE) -> None:
    name = NAMES[host.label]
    host.weave("launch", "--name", name, "--ipalloc-range", network, "--ipalloc-init", mode, *peers)


def weave_net(lab: Lab, daemons: list[WeaveNet28], host: Host) -> WeaveNet28:
    daemon = WeaveNet28(lab, host, NAMES[host.label])
    daemons.append(daemon)
    return daemon


def our_request(host: Host, method: str, path: str) -> str:
    """Over our Unix socket."""
    socket = host.environment()["WEAVE_RUN_DIR"] + "/weave.sock"
    return host.run("curl", "-s", "-m", "30", "-X", method, "--unix-socket", socket, f"http://localhost/{path}")


def our_shares(host: Host) -> dict[str, int]:
    return shares(host.weave("status", "ipam"))


def three_agree(lab: Lab, daemons: list[WeaveNet28]) -> tuple[Host, Host, WeaveNet28]:
    """A and B are ours, C is a Weave Net daemon; the ring has begun and all know it."""
    a, b, c = hosts_on_one_wire(lab, "ABC")
    old = weave_net(lab, daemons, c)
    old.launch(ipalloc_range=RANGE, ipalloc_init="consensus=3")
    launch(a, ADDRESSES["C"])
    launch(b, ADDRESSES["C"], ADDRESSES["A"])
    wait_until(lambda: established(a) == established(b) == 2 == len(old.established()), 20, "the mesh")
    a.weave("prime")
    for answer in (our_request(a, "POST", "ip/first"), our_request(b, "POST", "ip/first"), old.allocate("first")):
        assert ip_interface(answer).network == ip_interface(RANGE).network
    wait_until(lambda: our_shares(a) == our_shares(b) == old.shares(), 35, "one view of the ring")
    assert len(old.shares()) == 3
    return a, b, old


def test_consensus_allocations_and_donations(lab: Lab, daemons: list[WeaveNet28]) -> None:
    a, b, old = three_agree(lab, daemons)
    given: dict[str, str] = {}
    for number in range(60):  # more than anybody's share without donations
        for host in (a, b):
            given[f"{host.label}{number}"] = our_request(host, "POST", f"ip/{host.label}{number}")
        given[f"C{number}"] = old.allocate(f"C{number}")
    addresses = [ip_interface(text) for text in given.values()]
    assert len(set(addresses)) == 180, "an address was given twice"
    assert all(address.network == ip_interface(RANGE).network for address in addresses)
    wait_until(lambda: our_shares(a) == our_shares(b) == old.shares(), 35, "one view of the ring")
    assert sum(old.shares().values()) == 256
    assert our_request(a, "POST", "ip/A0") == given["A0"]
    assert old.allocate("C0") == given["C0"]

    # Who has used its share gets from the others: one asks 2.8 for nearly all that is left, then 2.8 asks us.
    left = 254 - 183
    first = [our_request(a, "POST", f"ip/more{number}") for number in range(left - 4)]
    last = [old.allocate(f"last{number}") for number in range(2)]
    assert len({*addresses, *map(ip_interface, first + last)}) == 180 + left - 2


def test_a_claim_of_an_address_that_weave_net_owns(lab: Lab, daemons: list[WeaveNet28]) -> None:
    a, _, old = three_agree(lab, daemons)
    theirs = old.allocate("theirs")
    free = str(ip_interface(theirs).ip + 3)
    assert our_request(a, "PUT", f"ip/mine/{free}/24") == ""
    assert our_request(a, "GET", "ip/mine") == f"{free}/24"
    assert "is owned by other peer" in our_request(a, "PUT", f"ip/other/{theirs}")
    mine = our_request(a, "POST", "ip/more").partition("/")[0]
    assert "is owned by other peer" in old.request("PUT", f"ip/there/{mine}/24", within_s=30)


def test_rmpeer_both_ways(lab: Lab, daemons: list[WeaveNet28]) -> None:
    a, b, old = three_agree(lab, daemons)
    with pytest.raises(CommandFailed) as refused:
        a.weave("rmpeer", "C")
    assert "can be reached" in str(refused.value)
    share = our_shares(a)[NAMES["B"]]
    b.kill()
    wait_until(lambda: "unreachable" in old.status("ipam"), 30, "B to be missed")
    assert old.request("DELETE", f"peer/{NAMES['B']}") == f"{share} IPs taken over from {NAMES['B']}\n"
    wait_until(lambda: NAMES["B"] not in our_shares(a), 15, "us to learn of it")

    rest = old.shares()[NAMES["C"]]
    old.stop()
    with pytest.raises(CommandFailed) as early:
        wait_until(lambda: "unreachable" in a.weave("status", "ipam"), 30, "C to be missed")
        a.weave("rmpeer", "C")
    assert "has been out of reach for" in str(early.value)
    answer = wait_until(lambda: a.weave("rmpeer", "C"), 90, "C to have been missed for a minute")
    assert answer == f"{rest} IPs taken over from C\n"
    assert our_shares(a) == {NAMES["A"]: 256}


def test_reset_hands_over_to_weave_net(lab: Lab, daemons: list[WeaveNet28]) -> None:
    a, b, old = three_agree(lab, daemons)
    share = our_shares(a)[NAMES["A"]]
    before = old.shares()
    assert "handed this host's addresses over to" in a.weave("reset")
    wait_until(lambda: NAMES["A"] not in old.shares(), 10, "the heir")
    after = old.shares()
    assert sum(after.values()) == 256
    assert [gain for name in after if (gain := after[name] - before.get(name, 0))] == [share]
    assert our_shares(b) == after


def test_late_joiner_with_a_wrong_range_is_refused_clearly(lab: Lab, daemons: list[WeaveNet28]) -> None:
    a, b = hosts_on_one_wire(lab, "AB")
    old = weave_net(lab, daemons, b)
    old.launch(ipalloc_range=RANGE, ipalloc_init="consensus=1")
    assert old.allocate("theirs") == "10.40.0.1/24"
    launch(a, ADDRESSES["B"], mode="consensus=1", network="10.50.0.0/24")
    wait_until(lambda: "conflict" in a.weave("status", "ipam"), 15, "the conflict to show")
    text = a.weave("status", "ipam")
    assert "Incompatible IP allocation ranges (received: 10.40.0.0-10.40.0.255, ours: 10.50.0.0-10.50.0.255)" in text
    answer = our_request(a, "POST", "ip/mine?timeout=1")
    assert "no ring: that of 00:00:00:00:00:02(B) is refused: Incompatible IP allocation ranges" in answer
    # The conflict is about addresses alone: frames still flow.
    wait_until(lambda: established(a) == 1 and len(old.established()) == 1, 40, "the connection to stay")
    one, two = a.container("one", "10.2.1.1/24"), old.container("two", "10.2.1.2/24")
    wait_until(lambda: one.reaches("10.2.1.2"), 8, "a ping")
    assert two.reaches("10.2.1.1")


def test_an_observer_of_ours_makes_weave_net_begin(lab: Lab, daemons: list[WeaveNet28]) -> None:
    a, b = hosts_on_one_wire(lab, "AB")
    old = weave_net(lab, daemons, b)
    old.launch(ipalloc_range=RANGE, ipalloc_init="consensus=1")
    launch(a, ADDRESSES["B"], mode="observer")
    wait_until(lambda: established(a) == 1 and len(old.established()) == 1, 20, "the connection")
    address = ip_interface(our_request(a, "POST", "ip/mine?timeout=20"))
    assert address.network == ip_interface(RANGE).network
    wait_until(lambda: our_shares(a) == old.shares() and len(old.shares()) == 2, 35, "one view of the ring")
