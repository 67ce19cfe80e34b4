"""Names together with a real Weave Net 2.8 daemon: one set of names, on either side, and nothing that crashes it."""

from __future__ import annotations

import time
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from interop.weave_net_28 import WeaveNet28
from lab.network import Host, wait_until
from lab.reports import established, peer_count
from lab.shell import CommandFailed
from weave_net.client import DaemonClient
from weave_net.directories import Directories

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lab.network import Lab

pytestmark = [pytest.mark.interop, pytest.mark.root]

NAMES = {"A": "00:00:00:00:00:01", "B": "00:00:00:00:00:02", "C": "00:00:00:00:00:03", "D": "00:00:00:00:00:04"}
SERVER = "127.0.0.1"
"""Where every name server, theirs and ours, listens inside its host."""
SPREAD_S = 5.0
"""Within which a change is known everywhere; in practice milliseconds."""
GOSSIP_S = 30.0
"""After so long everybody has told a few neighbours all that he knows."""
MANY = 600
"""Names of one host: more than we send in one message."""


class NameServer28(WeaveNet28):
    """A daemon with names and a name server, and no upstream servers."""

    def launch(self, *peers: str, password: str = "", ipalloc_range: str = "", ipalloc_init: str = "") -> None:
        """Start the daemon and wait until it answers."""
        # What stands before the peers may be options, and of those given twice the last one counts.
        words = ("--no-dns=false", "--dns-listen-address", "0.0.0.0:53", *peers)
        super().launch(*words, password=password, ipalloc_range=ipalloc_range, ipalloc_init=ipalloc_init)

    def add(self, name: str, address: str, container: str = "theirs") -> None:
        """Add a name as its tools do."""
        assert self.request("PUT", f"name/{container}/{address}?fqdn={name}.weave.local") == ""

    def remove(self, name: str, address: str, container: str = "theirs") -> None:
        """Remove it."""
        assert self.request("DELETE", f"name/{container}/{address}?fqdn={name}.weave.local") == ""

    @property
    def lives(self) -> bool:
        """Whether the process that was launched is there still and answers."""
        return self._process is not None and self._process.poll() is None and "Service: dns" in self.status()


@pytest.fixture
def daemons() -> Iterator[list[NameServer28]]:
    """Weave Net 2.8 daemons of a test, ended with it."""
    started: list[NameServer28] = []
    yield started
    for daemon in started:
        daemon.stop()


def weave_net(lab: Lab, daemons: list[NameServer28], host: Host) -> NameServer28:
    daemon = NameServer28(lab, host, NAMES[host.label])
    daemons.append(daemon)
    return daemon


def launch(host: Host, *peers: str) -> None:
    host.weave("launch", "--name", NAMES[host.label], "--ipalloc-range", "", "--dns-listen-address", SERVER, *peers)


def pair(lab: Lab, daemons: list[NameServer28]) -> tuple[Host, NameServer28]:
    """A is ours, B is a Weave Net daemon; A connects to B."""
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    old = weave_net(lab, daemons, b)
    old.launch()
    launch(a, "192.0.2.2")
    wait_until(lambda: established(a) == 1 and len(old.established()) == 1, 20, "the connection")
    return a, old


def line(lab: Lab) -> tuple[Host, Host, Host]:
    """Hosts A–B–C in a line."""
    a, b, c = lab.host("A"), lab.host("B"), lab.host("C")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    lab.link(b, "192.0.2.5/30", c, "192.0.2.6/30")
    return a, b, c


def old_in_the_middle(lab: Lab, daemons: list[NameServer28]) -> tuple[Host, NameServer28, Host]:
    """A and C are ours; B between them is a Weave Net daemon."""
    a, b, c = line(lab)
    old = weave_net(lab, daemons, b)
    old.launch()
    launch(a, "192.0.2.2")
    launch(c, "192.0.2.5")
    wait_until(lambda: peer_count(a) == peer_count(c) == 3 and len(old.established()) == 2, 20, "the mesh")
    return a, old, c


def client_of(host: Host) -> DaemonClient:
    """A client of our daemon."""
    return DaemonClient(Directories(host.state_dir, host.run_dir))


def ask(host: Host, *words: str) -> list[str]:
    """What the name server of a host, be it theirs or ours, says: the records' data, sorted."""
    return sorted(host.run("dig", "+short", "+tries=1", f"@{SERVER}", *words).split())


def resolve(host: Host, name: str, kind: str = "A") -> list[str]:
    """A name in weave.local."""
    return ask(host, f"{name}.weave.local", kind)


def seconds_until(what: str, condition: Callable[[], bool], limit_s: float = SPREAD_S) -> float:
    """Wait, and tell how long it took."""
    begin = time.monotonic()
    wait_until(condition, limit_s, what)
    took = time.monotonic() - begin
    print(f"{what}: {took:.2f} s")
    return took


def agree(hosts: list[Host], expected: Mapping[str, list[str]]) -> bool:
    """Whether all name servers say the same."""
    return all(resolve(host, name) == addresses for host in hosts for name, addresses in expected.items())


def our_list(host: Host) -> list[str]:
    """`weave status dns` without what 2.8 cannot know."""
    return [text for text in host.weave("status", "dns").splitlines() if ":" not in text.split()[1]]


def same_list(host: Host, old: NameServer28) -> bool:
    """Whether both status views are equal, line by line."""
    ours, theirs = our_list(host), old.status("dns").splitlines()
    return ours == theirs and len(ours) > 0


def test_names_of_either_side_resolve_on_both(lab: Lab, daemons: list[NameServer28]) -> None:
    a, old = pair(lab, daemons)
    both = [a, old.host]
    a.weave("dns-add", "10.2.1.1", "ours", "-h", "web.weave.local")
    old.add("db", "10.2.1.2")
    expected = {"web": ["10.2.1.1"], "db": ["10.2.1.2"]}
    seconds_until("both names on both sides", lambda: agree(both, expected))
    assert a.weave("dns-lookup", "db") == a.weave("dns-lookup", "db.weave.local") == "10.2.1.2\n"
    for host in both:
        assert ask(host, "-x", "10.2.1.1") == ["web.weave.local."]
        assert ask(host, "-x", "10.2.1.2") == ["db.weave.local."]
        assert ask(host, "WEB.Weave.Local") == ["10.2.1.1"]

    # One name with addresses on both sides; names below names; the host's own.
    a.weave("dns-add", "10.2.1.3", "ours", "-h", "db.weave.local")
    old.add("x.db", "10.2.1.4")
    a.weave("expose", "10.2.1.9/24", "-h", "host.weave.local")
    expected |= {"db": ["10.2.1.2", "10.2.1.3"], "x.db": ["10.2.1.4"], "host": ["10.2.1.9"]}
    seconds_until("more names", lambda: agree(both, expected))
    assert same_list(a, old)
    print(old.status("dns"))

    a.weave("dns-remove", "10.2.1.1", "ours")
    old.remove("db", "10.2.1.2")
    a.weave("hide", "10.2.1.9")
    expected |= {"web": [], "db": ["10.2.1.3"], "host": []}
    seconds_until("removals", lambda: agree(both, expected))
    a.weave("dns-add", "10.2.1.1", "ours", "-h", "web.weave.local")
    old.add("db", "10.2.1.2")
    expected |= {"web": ["10.2.1.1"], "db": ["10.2.1.2", "10.2.1.3"]}
    seconds_until("names that come back", lambda: agree(both, expected))
    assert same_list(a, old)


def test_container_takes_its_name_to_the_other_side(lab: Lab, daemons: list[NameServer28]) -> None:
    a, old = pair(lab, daemons)
    both = [a, old.host]
    old.add("web", "10.2.1.1", "web")
    wait_until(lambda: agree(both, {"web": ["10.2.1.1"]}), SPREAD_S, "the name")
    old.remove("web", "10.2.1.1", "web")
    container = lab.namespace("A-web")
    a.weave("attach", "--netns", str(container.path), "--id", "web", "-h", "web.weave.local", "10.2.1.2/24")
    seconds_until("the move from 2.8 to us", lambda: agree(both, {"web": ["10.2.1.2"]}))
    a.weave("detach", "--netns", str(container.path), "--id", "web")
    old.add("web", "10.2.1.1", "web")
    seconds_until("the move back", lambda: agree(both, {"web": ["10.2.1.1"]}))
    assert same_list(a, old)


def test_many_names_arrive(lab: Lab, daemons: list[NameServer28]) -> None:
    a, old = pair(lab, daemons)
    first = IPv4Address("10.3.0.0")
    begin = time.monotonic()
    with client_of(a) as client:
        for number in range(MANY):
            client.add_name(f"c{number}", str(first + number), f"n{number}.weave.local")
    print(f"{MANY} names added in {time.monotonic() - begin:.1f} s")
    seconds_until("all there", lambda: f"Entries: {MANY}" in old.status())
    assert same_list(a, old)
    number = MANY - 1
    assert resolve(old.host, f"n{number}") == [str(first + number)]

    # At a new connection they come all at once.
    old.stop()
    old.launch()
    begin = time.monotonic()
    wait_until(lambda: f"Entries: {MANY}" in old.status(), 60, "all names again")
    print(f"after its restart 2.8 has them again within {time.monotonic() - begin:.1f} s")
    assert same_list(a, old)


def test_names_of_weave_net_end_with_its_daemon(lab: Lab, daemons: list[NameServer28]) -> None:
    """It keeps them in memory only; what we tell of its earlier life it takes back."""
    a, old = pair(lab, daemons)
    both = [a, old.host]
    old.add("before", "10.2.1.2")
    a.weave("dns-add", "10.2.1.1", "ours", "-h", "web.weave.local")
    wait_until(lambda: agree(both, {"before": ["10.2.1.2"], "web": ["10.2.1.1"]}), SPREAD_S, "the names")
    old.stop()
    assert resolve(a, "before") == ["10.2.1.2"], "its containers may go on running"
    old.launch()
    old.add("after", "10.2.1.3")
    expected = {"before": [], "after": ["10.2.1.3"], "web": ["10.2.1.1"]}
    seconds_until("its old name to die", lambda: agree(both, expected), 2 * GOSSIP_S)
    assert same_list(a, old)


def test_names_of_ours_outlive_our_daemon(lab: Lab, daemons: list[NameServer28]) -> None:
    """Weave Net forgets the names of a peer that is out of sight, and has them again as soon as it is back."""
    a, old = pair(lab, daemons)
    a.weave("dns-add", "10.2.1.1", "ours", "-h", "web.weave.local")
    old.add("db", "10.2.1.2")
    expected = {"web": ["10.2.1.1"], "db": ["10.2.1.2"]}
    wait_until(lambda: agree([a, old.host], expected), SPREAD_S, "the names")
    for how in ("kill", "stop"):
        begin = time.monotonic()
        if how == "kill":
            a.kill()
        else:
            a.weave("stop")
        launch(a, "192.0.2.2")
        assert resolve(a, "web") == ["10.2.1.1"]
        wait_until(lambda: agree([a, old.host], expected), 2 * GOSSIP_S, "the names")
        print(f"{time.monotonic() - begin:.2f} s after the {how} both have all names")
        wait_until(lambda: established(a) == 1, 20, "the connection")
        time.sleep(2)  # whatever is still on its way must not kill the names again
        assert agree([a, old.host], expected)
    assert same_list(a, old)


def test_spellings_on_our_side_do_not_crash_weave_net(lab: Lab, daemons: list[NameServer28]) -> None:
    """Three spellings of one name added at one of its own peers end 2.8's neighbours (dns.md section 14)."""
    a, old = pair(lab, daemons)
    for name in ("WEB", "web", "WEB", "Web"):
        a.weave("dns-add", "10.2.1.1", "ours", "-h", f"{name}.weave.local")
    wait_until(lambda: agree([a, old.host], {"web": ["10.2.1.1"]}), SPREAD_S, "the name")
    assert same_list(a, old)
    for _ in range(2):  # with each new connection it gets everything again
        a.weave("forget", "192.0.2.2")
        wait_until(lambda: established(a) == 0, 10, "the end of the connection")
        a.weave("connect", "192.0.2.2")
        wait_until(lambda: established(a) == 1 and len(old.established()) == 1, 20, "the connection")
        wait_until(lambda: agree([a, old.host], {"web": ["10.2.1.1"], "Web": ["10.2.1.1"]}), SPREAD_S, "the name")
    a.weave("dns-remove", "10.2.1.1", "ours", "-h", "wEB.weave.local")
    wait_until(lambda: agree([a, old.host], {"web": []}), SPREAD_S, "the name to go")
    a.weave("dns-add", "10.2.1.1", "ours", "-h", "web.weave.local")
    wait_until(lambda: agree([a, old.host], {"web": ["10.2.1.1"]}), SPREAD_S, "the name to come back")
    a.kill()
    launch(a, "192.0.2.2")
    wait_until(lambda: agree([a, old.host], {"web": ["10.2.1.1"]}), 2 * GOSSIP_S, "the name after a crash")
    assert same_list(a, old)
    assert old.lives


def ours_in_the_middle(lab: Lab, daemons: list[NameServer28]) -> tuple[NameServer28, Host, NameServer28]:
    """A and C are Weave Net daemons; B between them is ours. A has got one name in three spellings."""
    a, b, c = line(lab)
    first, second = weave_net(lab, daemons, a), weave_net(lab, daemons, c)
    first.launch()
    second.launch()
    launch(b, "192.0.2.1", "192.0.2.6")
    wait_until(lambda: established(b) == 2, 20, "the mesh")
    # Weave Net drops names of peers that it does not know yet.
    wait_until(lambda: len(first.report()["Peers"]) == len(second.report()["Peers"]) == 3, 20, "all to know all")
    for name in ("WEB", "web", "WEB"):
        first.add(name, "10.2.1.1")
    second.add("db", "10.2.1.2")
    wait_until(lambda: agree([b, c], {"web": ["10.2.1.1"], "db": ["10.2.1.2"]}), SPREAD_S, "the names")
    return first, b, second


def test_spellings_of_weave_net_are_one_name(lab: Lab, daemons: list[NameServer28]) -> None:
    """What would crash a Weave Net neighbour of the daemon where they were added does not crash one behind us."""
    first, b, second = ours_in_the_middle(lab, daemons)
    for _ in range(2):  # with each new connection everybody gets everything again
        b.weave("forget", "192.0.2.1", "192.0.2.6")
        wait_until(lambda: established(b) == 0, 10, "the end of the connections")
        b.weave("connect", "192.0.2.1", "192.0.2.6")
        wait_until(lambda: established(b) == 2, 20, "the connections")
        # What Weave Net drops, since it does not know its peer yet, comes again with the periodic gossip.
        for host, limit_s in ((b, SPREAD_S), (second.host, 3 * GOSSIP_S)):
            both = partial(agree, [host], {"web": ["10.2.1.1"], "db": ["10.2.1.2"]})
            seconds_until(f"the names at {host.label} after a reconnection", both, limit_s)
        db = partial(agree, [first.host], {"db": ["10.2.1.2"]})
        seconds_until("those of C at A after a reconnection", db, 3 * GOSSIP_S)
    assert first.lives
    assert second.lives


def test_removal_of_spellings_is_one_removal(lab: Lab, daemons: list[NameServer28]) -> None:
    first, b, second = ours_in_the_middle(lab, daemons)
    for name in ("web", "WEB"):
        first.remove(name, "10.2.1.1")
        time.sleep(0.5)  # one message each
    everywhere = [first.host, b, second.host]
    wait_until(lambda: agree(everywhere, {"web": [], "db": ["10.2.1.2"]}), SPREAD_S, "the name to go")
    assert first.lives
    assert second.lives


def test_spellings_that_change_crash_no_weave_net_further_on(lab: Lab, daemons: list[NameServer28]) -> None:
    """What C holds of the name by way of us, C hands to D in one message: it must not have an identity twice."""
    first, _, second = ours_in_the_middle(lab, daemons)
    for name in ("web", "WEB"):
        first.remove(name, "10.2.1.1")
        time.sleep(0.5)  # one message each
    d = lab.host("D")
    lab.link(second.host, "192.0.2.9/30", d, "192.0.2.10/30")
    third = weave_net(lab, daemons, d)
    third.launch()
    third.request("POST", "connect?peer=192.0.2.9")
    wait_until(lambda: resolve(d, "db") == ["10.2.1.2"], 20, "D to have what C knows")
    assert third.lives


def test_names_pass_weave_net_in_the_middle(lab: Lab, daemons: list[NameServer28]) -> None:
    """Those with IPv6 addresses, too, although it knows nothing of them."""
    a, old, c = old_in_the_middle(lab, daemons)
    a.weave("dns-add", "10.2.1.1", "fd00:2::1", "ours", "-h", "web.weave.local")
    old.add("db", "10.2.1.2")
    c.weave("dns-add", "10.2.1.3", "fd00:2::3", "ours", "-h", "far.weave.local")
    expected = {"web": ["10.2.1.1"], "db": ["10.2.1.2"], "far": ["10.2.1.3"]}
    seconds_until("IPv4 on all three", lambda: agree([a, old.host, c], expected))

    def six(host: Host) -> list[str]:
        return resolve(host, "web", "AAAA") + resolve(host, "far", "AAAA")

    seconds_until("IPv6 on the far side", lambda: six(a) == six(c) == ["fd00:2::1", "fd00:2::3"])
    assert resolve(old.host, "web", "AAAA") == []
    assert same_list(a, old)
    assert a.weave("status", "dns") == c.weave("status", "dns")
    a.weave("dns-remove", "fd00:2::1", "ours")
    seconds_until("IPv6 removed", lambda: six(a) == six(c) == ["fd00:2::3"])

    a.weave("dns-add", "fd00:2::1", "ours", "-h", "web.weave.local")
    wait_until(lambda: six(c) == ["fd00:2::1", "fd00:2::3"], SPREAD_S, "the name at C")

    # Weave Net greets newcomers with what it knows itself; the rest comes with the periodic gossip.
    c.kill()
    launch(c, "192.0.2.5")
    begin = time.monotonic()
    wait_until(lambda: agree([a, old.host, c], expected), 2 * GOSSIP_S, "IPv4 after a restart")
    print(f"IPv4 {time.monotonic() - begin:.1f} s after a restart")
    wait_until(lambda: six(a) == six(c) == ["fd00:2::1", "fd00:2::3"], 3 * GOSSIP_S, "IPv6 after a restart")
    print(f"IPv6 {time.monotonic() - begin:.1f} s after a restart")
    assert old.lives


def test_names_outside_of_the_domain_and_bad_ones(lab: Lab, daemons: list[NameServer28]) -> None:
    """What Weave Net takes or ignores, we do not spread; what it spreads, we survive."""
    a, old = pair(lab, daemons)
    with pytest.raises(CommandFailed) as outside:
        a.weave("dns-add", "10.2.1.1", "ours", "-h", "web.example.com")
    assert "outside of the domain" in str(outside.value)
    assert old.request("PUT", "name/theirs/10.2.1.2?fqdn=web.example.com") == ""
    assert old.request("PUT", "name/theirs/fd00:2::2?fqdn=six.weave.local") == ""  # becomes 0.0.0.0
    assert old.request("PUT", "name/theirs/10.2.1.3?fqdn=under_score.weave.local") == ""
    assert old.request("PUT", f"name/theirs/10.2.1.4?fqdn={'x' * 70}.weave.local") == ""
    old.add("last", "10.2.1.5")
    wait_until(lambda: agree([a, old.host], {"last": ["10.2.1.5"], "under_score": ["10.2.1.3"]}), SPREAD_S, "the names")
    assert same_list(a, old)
    assert old.lives
