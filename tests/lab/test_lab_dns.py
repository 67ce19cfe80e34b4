"""Names of containers on real hosts: known everywhere at once, kept over restarts, forgotten with their host."""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from lab.inside import call_inside
from lab.network import Container, wait_until
from lab.reports import established, peer_count
from weave_dns.registry import ABSENCE_S
from weave_dns.service import TICK_S
from weave_net.client import DaemonClient
from weave_net.directories import Directories
from weave_net.errors import WeaveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

    from lab.network import Host, Lab
    from lab.underlay import Segment

SERVER = "127.0.0.1"
"""Where each host's name server listens, for the host alone."""
ANSWER_S = 1.0
SPREAD_S = 3.0
"""Within which a change is known everywhere; in practice milliseconds."""
POLL_S = 0.02
KILLS = int(os.environ.get("WEAVE_KILLS", "3"))
DETECTION_S = 90.0
"""Within which a host that died without a word is missed."""


class Resolver:
    """Asks one host's name server for names in weave.local, from inside the host; a context manager."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._sock = call_inside(host.path, partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM))
        self._sock.settimeout(ANSWER_S)
        self._sock.connect((SERVER, 53))

    def __enter__(self) -> Resolver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def __call__(self, name: str) -> set[str] | None:
        """All addresses of a name, of either family; None if there is no answer."""
        found: set[str] = set()
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            query = dns.message.make_query(f"{name}.weave.local", kind)
            try:
                self._sock.send(query.to_wire())
                while not query.is_response(answer := dns.message.from_wire(self._sock.recv(65535))):
                    pass  # it answers what was asked earlier
            except (ConnectionRefusedError, TimeoutError):
                return None
            assert answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
            found.update(record.address for rrset in answer.answer for record in rrset)
        return found


class Watch:
    """Asks hosts for names without pause, and keeps what differs from what is expected; a context manager."""

    def __init__(self, resolvers: Iterable[Resolver], expected: Mapping[str, set[str]]) -> None:
        self.asked = 0
        self.losses: list[str] = []
        self._over = threading.Event()
        self._expected = dict(expected)
        self._threads = [threading.Thread(target=self._watch, args=(resolver,)) for resolver in resolvers]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, resolve: Resolver) -> None:
        while not self._over.wait(POLL_S):
            for name, addresses in self._expected.items():
                found = resolve(name)
                self.asked += 1
                if found != addresses:
                    self.losses.append(f"{resolve.host.label} says {name}: {found}")


@contextmanager
def resolvers_of(hosts: Iterable[Host]) -> Iterator[list[Resolver]]:
    """One for each host."""
    with ExitStack() as stack:
        yield [stack.enter_context(Resolver(host)) for host in hosts]


def launch(host: Host, *words: str) -> None:
    """With a name server for the host alone, and addresses given by hand."""
    host.weave("launch", "--ipalloc-range", "", "--dns-listen-address", SERVER, *words)


def mesh(lab: Lab, labels: str) -> list[Host]:
    """Hosts on one switch, all connected with each other."""
    hosts = [lab.host(label) for label in labels]
    segment = lab.segment({host: f"192.0.2.{number}/24" for number, host in enumerate(hosts, 1)})
    launch_on_wire(hosts, segment)
    return hosts


def launch_on_wire(hosts: list[Host], segment: Segment) -> None:
    """All connected with each other."""
    launch(hosts[0])
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: launch(host, segment.address_of(hosts[0])), hosts[1:]))
    whole(hosts)


def whole(hosts: list[Host]) -> None:
    """Wait until all are connected with each other."""
    wait_until(lambda: all(established(host) == len(hosts) - 1 for host in hosts), 30, "the mesh")


def attach(lab: Lab, host: Host, label: str, number: int, *families: int) -> tuple[Container, set[str]]:
    """A container with its name, and its addresses."""
    container = lab.add(Container(lab.name(f"{host.label}-{label}{number}"), label))
    words = {4: f"10.2.1.{number}/24", 6: f"fd00:2::{number}/64"}
    wanted = [words[family] for family in families or (4, 6)]
    host.weave("attach", "--netns", str(container.path), "-h", f"{label}.weave.local", *wanted)
    return container, {word.partition("/")[0] for word in wanted}


def seconds_until(what: str, condition: Callable[[], bool], limit_s: float = SPREAD_S) -> float:
    """Wait, and tell how long it took."""
    begin = time.monotonic()
    wait_until(condition, limit_s, what)
    took = time.monotonic() - begin
    print(f"{what}: {took:.2f} s")
    return took


def agree(resolvers: list[Resolver], expected: Mapping[str, set[str]]) -> bool:
    """Whether all hosts answer as expected."""
    return all(resolve(name) == addresses for resolve in resolvers for name, addresses in expected.items())


def listed(host: Host) -> list[str]:
    """Its list of names, as `weave status dns` shows it."""
    with client_of(host) as client:
        return client.text("/status/dns").splitlines()


def client_of(host: Host) -> DaemonClient:
    """A client of its daemon."""
    return DaemonClient(Directories(host.state_dir, host.run_dir))


def test_names_of_all_hosts_resolve_on_all(lab: Lab) -> None:
    a, b, c = hosts = mesh(lab, "ABC")
    with resolvers_of(hosts) as resolvers:
        expected: dict[str, set[str]] = {}
        begin = time.monotonic()
        (_, expected["one"]), (two, expected["two"]) = attach(lab, a, "one", 1), attach(lab, b, "two", 2, 4)
        _, expected["three"] = attach(lab, c, "three", 3, 6)
        print(f"three attachments: {time.monotonic() - begin:.2f} s")
        seconds_until("all known everywhere", lambda: agree(resolvers, expected))
        c.weave("expose", "10.2.1.9/24", "-h", "host.weave.local")
        a.weave("dns-add", "192.0.2.99", "fd00:2::99", "-h", "db.prod.weave.local")
        expected |= {"host": {"10.2.1.9"}, "db.prod": {"192.0.2.99", "fd00:2::99"}}
        seconds_until("names by hand and of a host", lambda: agree(resolvers, expected))
        assert listed(a) == listed(b) == listed(c)
        assert len(listed(a)) == 7

        # One name on several hosts has the addresses of all.
        _, more = attach(lab, b, "one", 4)
        expected["one"] = expected["one"] | more
        seconds_until("a second host's addresses of a name", lambda: agree(resolvers, expected))

        times = []
        with client_of(a) as client:
            for number in range(1, 21):
                begin = time.monotonic()
                client.add_name("c", f"10.3.0.{number}", f"n{number}.weave.local")
                while not agree(resolvers[1:], {f"n{number}": {f"10.3.0.{number}"}}):
                    assert time.monotonic() < begin + SPREAD_S
                times.append((time.monotonic() - begin) * 1000)
        times.sort()
        print(f"from a request to the answers of two others: median {times[10]:.0f} ms, longest {times[-1]:.0f} ms")

        b.weave("detach", "--netns", str(two.path))
        c.weave("hide", "10.2.1.9")
        a.weave("dns-remove", "192.0.2.99", "-h", "DB.prod.weave.local")
        expected |= {"two": set(), "host": set(), "db.prod": {"fd00:2::99"}}
        seconds_until("removals", lambda: agree(resolvers, expected))
        assert listed(a) == listed(b) == listed(c)

        late = lab.host("D")
        lab.link(a, "198.51.100.1/30", late, "198.51.100.2/30")
        begin = time.monotonic()
        launch(late, "198.51.100.1")
        with Resolver(late) as resolve:
            wait_until(lambda: agree([resolve], expected), 15, "the newcomer to know all")
            print(f"a newcomer knows all names {time.monotonic() - begin:.2f} s after the beginning of its launch")


def test_container_that_moves_takes_its_name_along(lab: Lab) -> None:
    a, b, c = hosts = mesh(lab, "ABC")
    path = str(lab.namespace("web").path)
    with resolvers_of(hosts) as resolvers:
        a.weave("attach", "--netns", path, "-h", "web.weave.local", "10.2.1.1/24")
        wait_until(lambda: agree(resolvers, {"web": {"10.2.1.1"}}), SPREAD_S, "the name")
        # At last to an address that it had before: what was said of its end then does not count any more.
        for old, new, address in ((a, b, "10.2.1.2"), (b, c, "10.2.1.3"), (c, a, "10.2.1.4"), (a, b, "10.2.1.2")):
            old.weave("detach", "--netns", path)
            new.weave("attach", "--netns", path, "-h", "web.weave.local", f"{address}/24")
            moved = partial(agree, resolvers, {"web": {address}})
            seconds_until(f"the move from {old.label} to {new.label}", moved)
        assert listed(a) == listed(b) == listed(c)
        assert len(listed(a)) == 1


def test_restart_loses_no_name_anywhere(lab: Lab) -> None:
    a, b, c = hosts = mesh(lab, "ABC")
    with resolvers_of(hosts) as resolvers:
        expected = {host.label: attach(lab, host, host.label, number)[1] for number, host in enumerate(hosts, 1)}
        b.weave("dns-add", "192.0.2.99", "-h", "extern.weave.local")
        b.weave("expose", "10.2.1.9/24", "-h", "host.weave.local")
        expected |= {"extern": {"192.0.2.99"}, "host": {"10.2.1.9"}}
        wait_until(lambda: agree(resolvers, expected), SPREAD_S, "the names")
        own = {name: expected[name] for name in ("B", "extern", "host")}
        with Watch([resolvers[0], resolvers[2]], expected) as watch:
            for pause_s in (0.0, 3.0, None):
                begin = time.monotonic()
                if pause_s is None:
                    b.weave("stop")
                else:
                    b.kill()
                    time.sleep(pause_s)
                launch(b)
                assert agree([resolvers[1]], own), "its own names are there when it is ready"
                back = time.monotonic() - begin
                wait_until(lambda: agree([resolvers[1]], expected), 20, "it to know the others' names")
                how = "stop" if pause_s is None else f"kill and {pause_s:g} s"
                print(f"{how}: own names after {back:.2f} s, all after {time.monotonic() - begin:.2f} s")
                whole(hosts)
        print(f"{watch.asked} look-ups meanwhile")
        assert watch.losses == []
        assert watch.asked > 200
        assert listed(a) == listed(b) == listed(c)
        assert len(listed(a)) == 8


class Changes(threading.Thread):
    """Adds and removes names without pause until the daemon is gone; keeps a ledger of the answers."""

    def __init__(self, host: Host, alive: set[str], chance: random.Random) -> None:
        super().__init__()
        self.alive = alive
        """Answered: these are there."""
        self.unknown: set[str] = set()
        """The name whose request was under way."""
        self.answers = 0
        self._host = host
        self._chance = chance

    def run(self) -> None:
        """Go on until the connection breaks."""
        with suppress(WeaveError), client_of(self._host) as client:
            while True:
                self._step(client)
                self.unknown = set()
                self.answers += 1

    def _step(self, client: DaemonClient) -> None:
        if self.alive and self._chance.random() < 0.4:
            name = self._chance.choice(sorted(self.alive))
            self.unknown = {name}
            client.remove_names("c", None, f"{name}.weave.local")
            self.alive.discard(name)
        else:
            name = f"n{self._chance.randrange(10**6)}"
            self.unknown = {name}
            client.add_name("c", "10.2.1.1", f"{name}.weave.local")
            self.alive.add(name)


def test_what_was_answered_survives_kill_minus_nine(lab: Lab) -> None:
    """Additions and removals that were acknowledged are there after a crash, and the other host knows the same."""
    a, b = hosts = mesh(lab, "AB")
    seed = int(os.environ.get("WEAVE_SEED") or random.randrange(1 << 32))
    chance = random.Random(seed)
    print(f"seed {seed} (WEAVE_SEED)")
    alive: set[str] = set()
    in_flight = answers = 0
    for _ in range(KILLS):
        changes = Changes(a, alive, chance)
        changes.start()
        time.sleep(0.5 + chance.random() / 2)
        a.kill()
        changes.join()
        launch(a)
        present = {line.split()[0] for line in listed(a)}
        assert present ^ alive <= changes.unknown
        alive = present  # from here on what the daemon says counts
        in_flight += bool(changes.unknown)
        answers += changes.answers
    print(f"{answers} answers, {in_flight} of {KILLS} kills in the middle of a request")
    assert answers > 10 * KILLS
    whole(hosts)
    seconds_until("agreement", lambda: listed(a) == listed(b), 10)


def test_partition_heals_to_the_union(lab: Lab) -> None:
    hosts = a, b, c = [lab.host(label) for label in "ABC"]
    segment = lab.segment({host: f"192.0.2.{number}/24" for number, host in enumerate(hosts, 1)})
    launch_on_wire(hosts, segment)
    with resolvers_of(hosts) as resolvers:
        expected = {host.label: attach(lab, host, host.label, number)[1] for number, host in enumerate(hosts, 1)}
        kept = {"kept": {"10.9.0.1"}, "again": {"10.9.0.3"}}
        for host, name, address in ((a, "going", "10.9.0.2"), (c, "kept", "10.9.0.1"), (c, "again", "10.9.0.3")):
            host.weave("dns-add", address, "-h", f"{name}.weave.local")
        wait_until(lambda: agree(resolvers, {**expected, **kept, "going": {"10.9.0.2"}}), SPREAD_S, "the names")

        lab.cut(segment, c)
        # Nothing arrives at C any more; with its sockets closed it and the others notice at once.
        c.attempt("ss", "-K", "dport", "=", ":6783", "or", "sport", "=", ":6783")
        seconds_until("the partition to be noticed", lambda: peer_count(a) == 2 and peer_count(c) == 1, DETECTION_S)
        a.weave("dns-add", "10.9.1.1", "-h", "both.weave.local")
        c.weave("dns-add", "10.9.1.2", "-h", "both.weave.local")
        a.weave("dns-remove", "10.9.0.2")
        c.weave("dns-remove", "10.9.0.3", "-h", "again.weave.local")
        c.weave("dns-add", "10.9.0.3", "-h", "again.weave.local")
        assert agree(resolvers[:2], {"both": {"10.9.1.1"}, **expected}), "C's names stay for now"
        assert agree(resolvers[2:], {"both": {"10.9.1.2"}, **expected}), "and the others' at C"

        lab.heal(segment)
        union = {**expected, **kept, "both": {"10.9.1.1", "10.9.1.2"}, "going": set()}
        seconds_until("the union after the end of the partition", lambda: agree(resolvers, union), 45)
        wait_until(lambda: listed(a) == listed(b) == listed(c), 5, "one list")


def test_reset_takes_the_names_of_the_host_along(lab: Lab) -> None:
    """Its containers are off the network, and their addresses may belong to others at once."""
    hosts = a, b, c = mesh(lab, "ABC")
    with resolvers_of(hosts) as resolvers:
        expected = {host.label: attach(lab, host, host.label, number)[1] for number, host in enumerate(hosts, 1)}
        b.weave("dns-add", "192.0.2.99", "-h", "extern.weave.local")
        wait_until(lambda: agree(resolvers, {**expected, "extern": {"192.0.2.99"}}), SPREAD_S, "the names")
        b.weave("reset")
        gone = {**expected, "B": set(), "extern": set()}
        seconds_until("a reset host's names to go", lambda: agree([resolvers[0], resolvers[2]], gone))
        assert listed(a) == listed(c)


def test_host_that_comes_back_after_a_reset_has_no_old_names(lab: Lab) -> None:
    hosts = a, b = mesh(lab, "AB")
    with resolvers_of(hosts) as resolvers:
        expected = {host.label: attach(lab, host, host.label, number)[1] for number, host in enumerate(hosts, 1)}
        wait_until(lambda: agree(resolvers, expected), SPREAD_S, "the names")
        b.weave("reset")
        launch(b, "192.0.2.1")
        whole(hosts)
        seconds_until("the old name to go", lambda: agree(resolvers, {**expected, "B": set()}))
        _, anew = attach(lab, b, "B", 9)
        seconds_until("the name to come back", lambda: agree(resolvers, {**expected, "B": anew}))
        assert listed(a) == listed(b)


def peers_of(host: Host) -> set[str]:
    """Nicknames of the topology."""
    with client_of(host) as client:
        return {peer["NickName"] for peer in json.loads(client.document("/report"))["Router"]["Peers"]}


@pytest.mark.waits
@pytest.mark.timeout(300)
def test_names_of_hosts_that_are_gone_stay_for_half_a_minute(lab: Lab) -> None:
    """B vanishes with its link, C's daemon is killed and D's stopped: their names stay 30 s longer than they."""
    a, c, d, e = mesh(lab, "ACDE")
    b = lab.host("B")
    link = lab.link(a, "198.51.100.1/30", b, "198.51.100.2/30")
    launch(b, "198.51.100.1")
    wait_until(lambda: peer_count(e) == peer_count(b) == 5, 20, "B")
    doomed = {"B": b, "C": c, "D": d}
    with resolvers_of((a, e)) as observers:
        expected = {host.label: attach(lab, host, host.label, number)[1] for number, host in enumerate((b, c, d), 1)}
        wait_until(lambda: agree(observers, expected), SPREAD_S, "the names")
        begin = time.monotonic()
        lab.cut(link)
        b.kill()
        c.kill()
        d.weave("stop")
        missed: dict[tuple[str, str], float] = {}
        gone: dict[tuple[str, str], float] = {}
        everything = {(observer.host.label, label) for observer in observers for label in doomed}
        while gone.keys() != everything:
            now = time.monotonic() - begin
            assert now < DETECTION_S + ABSENCE_S + 2 * TICK_S, f"still there: {everything - gone.keys()}"
            for observer in observers:
                seen = observer.host.label
                present = peers_of(observer.host)
                for label in doomed:
                    if label not in present:
                        missed.setdefault((seen, label), now)
                    elif (seen, label) not in gone:
                        missed.pop((seen, label), None)  # it was out of sight for a moment only
                    found = observer(label)
                    if (seen, label) in gone:
                        assert found == set(), f"{label} came back"
                    elif found != expected[label]:
                        assert found == set()
                        gone[seen, label] = now
            time.sleep(0.1)
    for seen, label in sorted(everything):
        left, end = missed[seen, label], gone[seen, label]
        print(f"{label} at {seen}: missed after {left:.1f} s, its name gone after {end:.1f} s")
        assert ABSENCE_S - 1 <= end - left <= ABSENCE_S + 2 * TICK_S
