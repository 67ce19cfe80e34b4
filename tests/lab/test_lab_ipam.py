"""Address allocation by real daemons: what was answered survives a crash, and no two containers share an address."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import statistics
import threading
import time
from ipaddress import IPv4Interface, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from lab.network import wait_until
from lab.reports import established

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from lab.namespace import Namespace
    from lab.network import Container, Host, Lab

KILLS = int(os.environ.get("WEAVE_KILLS", "20"))
PAIRS = int(os.environ.get("WEAVE_ALLOCATIONS", "3000"))
"""Allocations and releases in the test of memory; the full run has 10 000."""

MOST_HELD = 300
LONGEST_LIFE_S = 0.3
ANSWER_S = 30.0

ALONE = ("--http-addr", "", "--ipalloc-init", "consensus=1")


class DaemonRequests:
    """A connection to one daemon; a context manager. Every request may raise OSError or `http.client.HTTPException`."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "weave.sock"
        self._connection = http.client.HTTPConnection("localhost")
        self._connect()

    def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(str(self._path))
        except BaseException:
            sock.close()
            raise
        self._connection.sock = sock

    def __enter__(self) -> DaemonRequests:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        """Status and body of the answer."""
        if self._connection.sock is None:  # closed with the last answer, as happens after every thousandth
            self._connect()
        self._connection.request(method, path, body)
        response = self._connection.getresponse()
        return response.status, response.read().decode()

    def allocate(self, identifier: str, subnet: str = "") -> str:
        """An address for the identifier, as `address/len`."""
        status, body = self.ask("POST", f"/ip/{identifier}{subnet and '/'}{subnet}")
        assert status == 200, body
        return body

    def release(self, identifier: str) -> None:
        """Free all addresses of the identifier."""
        status, body = self.ask("DELETE", f"/ip/{identifier}")
        assert status == 204, body

    def owned(self) -> dict[str, list[str]]:
        """All that is recorded, by identifier."""
        status, body = self.ask("GET", "/ip")
        assert status == 200, body
        entries: list[dict[str, Any]] = json.loads(body)["owned"] or []
        return {entry["containerid"]: entry["addrs"] for entry in entries}


class Allocations(threading.Thread):
    """Allocates and releases over the socket without pause until the daemon is gone; keeps a ledger of the answers."""

    def __init__(self, host: Host, held: dict[str, str], chance: random.Random, number: int) -> None:
        super().__init__()
        self.host = host
        self.held = held
        """Answered: these identifiers have these addresses."""
        self.unknown: str = ""
        """The identifier whose request was under way."""
        self.releases = False
        """Whether that request was a release."""
        self.answers = 0
        self.failure: Exception | None = None
        self._chance = chance
        self._prefix = f"r{number}"

    def run(self) -> None:
        """Go on until the connection breaks."""
        try:
            with DaemonRequests(self.host.run_dir) as daemon:
                while True:
                    self._step(daemon)
                    self.answers += 1
        except (OSError, http.client.HTTPException):
            return
        except Exception as error:
            self.failure = error

    def _step(self, daemon: DaemonRequests) -> None:
        self.releases = len(self.held) > MOST_HELD or (len(self.held) > 50 and self._chance.random() < 0.4)
        if self.releases:
            self.unknown = self._chance.choice(list(self.held))
            daemon.release(self.unknown)
            del self.held[self.unknown]
        else:
            self.unknown = f"{self._prefix}-{self.answers}"
            subnet = "10.33.1.0/24" if self._chance.random() < 0.2 else ""
            self.held[self.unknown] = daemon.allocate(self.unknown, subnet)
        self.unknown = ""


def check_ledger(owned: dict[str, list[str]], client: Allocations) -> None:
    """Whether all that was answered holds. What was under way may have happened or not."""
    for identifier, address in client.held.items():
        if identifier != client.unknown:
            assert owned.get(identifier) == [address], identifier
    surplus = owned.keys() - client.held.keys() - {client.unknown}
    assert not surplus, f"released, or never asked for: {surplus}"
    addresses = [ip_interface(text).ip for entry in owned.values() for text in entry]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.timeout(60 + 3 * KILLS)
def test_what_was_answered_survives_kill_minus_nine(lab: Lab) -> None:
    host = lab.host("A")
    seed = int(os.environ.get("WEAVE_SEED") or random.randrange(1 << 32))
    chance = random.Random(seed)
    print(f"seed {seed} (WEAVE_SEED)")
    held: dict[str, str] = {}
    answers, longest, in_flight = 0, 0.0, 0
    host.weave("launch", *ALONE)
    for number in range(KILLS):
        begin = time.monotonic()
        client = Allocations(host, held, chance, number)
        client.start()
        time.sleep(chance.random() * LONGEST_LIFE_S)
        host.kill()
        client.join()
        assert client.failure is None, client.failure
        host.weave("launch", *ALONE)
        with DaemonRequests(host.run_dir) as daemon:
            owned = daemon.owned()
        check_ledger(owned, client)
        answers += client.answers
        in_flight += bool(client.unknown)
        if client.unknown:  # from here on what the daemon says about it counts
            if client.unknown in owned:
                held[client.unknown] = owned[client.unknown][0]
            else:
                held.pop(client.unknown, None)
        longest = max(longest, time.monotonic() - begin)
    print(f"{KILLS} kills, {in_flight} in the middle of a request, {answers} answers, longest round {longest:.2f} s")
    assert in_flight > KILLS / 2
    assert answers > KILLS


class Attaching(threading.Thread):
    """Attaches and detaches containers over the socket without pause until the daemon is gone."""

    def __init__(
        self, host: Host, containers: dict[str, Namespace], held: dict[str, str], chance: random.Random
    ) -> None:
        super().__init__()
        self.host = host
        self.held = held
        """Answered: these containers have these addresses."""
        self.unknown: str = ""
        """The container whose request was under way."""
        self.failure: Exception | None = None
        self._containers = containers
        self._chance = chance

    def run(self) -> None:
        """Go on until the connection breaks."""
        try:
            with DaemonRequests(self.host.run_dir) as daemon:
                while True:
                    self._step(daemon)
        except (OSError, http.client.HTTPException):
            return
        except Exception as error:
            self.failure = error

    def _step(self, daemon: DaemonRequests) -> None:
        self.unknown = name = self._chance.choice(list(self._containers))
        if name in self.held:
            status, text = daemon.ask("DELETE", f"/attachment/{name}/ethwe")
            assert (status, json.loads(text)["removed"]) == (200, [self.held[name]]), text
            del self.held[name]
        else:
            body = {"netns": str(self._containers[name].path), "addresses": ["net:default"]}
            status, text = daemon.ask("PUT", f"/attachment/{name}/ethwe", json.dumps(body))
            assert status == 200, text
            (self.held[name],) = json.loads(text)["addresses"]
        self.unknown = ""


@pytest.mark.timeout(120 + 3 * KILLS)
def test_attachments_and_their_addresses_survive_kill_minus_nine(lab: Lab) -> None:
    """Whenever the daemon dies, records, interfaces and leases agree afterwards, what was under way aside.

    An attachment that was cut short may leave its address with its id, which has it when it comes again.
    """
    host = lab.host("A")
    seed = int(os.environ.get("WEAVE_SEED") or random.randrange(1 << 32))
    chance = random.Random(seed)
    print(f"seed {seed} (WEAVE_SEED)")
    containers = {f"c{number}": lab.namespace(f"c{number}") for number in range(5)}
    held: dict[str, str] = {}
    orphans: dict[str, list[str]] = {}
    seen = 0
    host.weave("launch", *ALONE)
    for _ in range(max(KILLS // 2, 1)):
        client = Attaching(host, containers, held, chance)
        client.start()
        time.sleep(chance.random() * LONGEST_LIFE_S)
        host.kill()
        client.join()
        assert client.failure is None, client.failure
        host.weave("launch", *ALONE)
        with DaemonRequests(host.run_dir) as daemon:
            owned = daemon.owned()
            attached = {entry["id"]: entry["addresses"] for entry in json.loads(daemon.ask("GET", "/attachment")[1])}
            for name in containers:
                if name == client.unknown:  # from here on what the daemon says about it counts
                    held.pop(name, None)
                    orphans.pop(name, None)
                    if name in attached:
                        (held[name],) = attached[name]
                    elif name in owned:
                        orphans[name] = owned[name]
                        seen += 1
                wanted = [held[name]] if name in held else []
                assert attached.get(name, []) == wanted, name
                assert owned.get(name, []) in (wanted, orphans.get(name, wanted)), name
        for name, namespace in containers.items():
            if name in held:
                assert f" {held[name]} " in namespace.ip("-o", "-4", "addr", "show", "ethwe")
        assert len(set(held.values())) == len(held)
    print(f"{seen} times an address stayed with a container whose attaching was cut short")


def pair(lab: Lab) -> tuple[Host, Host]:
    """Two hosts that talk and agree with each other on the ring."""
    a, b = lab.host("A"), lab.host("B")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    a.weave("launch", "--name", "::1", "192.0.2.2")
    b.weave("launch", "--name", "::2", "192.0.2.1")
    wait_until(lambda: established(a) == established(b) == 1, 15, "the connection")
    return a, b


def shares(host: Host) -> dict[str, int]:
    """How many addresses each peer owns, as this host knows."""
    words = [line.split() for line in host.weave("status", "ipam").splitlines()]
    return {line[0]: int(line[1]) for line in words if line[2] == "IPs"}


def addresses_of(container: Container) -> list[IPv4Interface]:
    """What its interface has."""
    lines = container.ip("-o", "-4", "addr", "show", "ethwe").splitlines()
    return [IPv4Interface(line.split()[3]) for line in lines]


def mac_of(container: Container) -> str:
    """Its interface's."""
    words = container.ip("-o", "link", "show", "ethwe").split()
    return words[words.index("link/ether") + 1]


def test_containers_of_two_hosts(lab: Lab) -> None:
    a, b = pair(lab)
    begin = time.monotonic()
    a.weave("prime")
    b.weave("prime")
    assert time.monotonic() - begin < 5
    first, second = a.container("one"), b.container("two")
    third = a.container("three", "net:10.33.0.0/24", "10.2.1.3/24")
    (one,), (two,), three = (addresses_of(container) for container in (first, second, third))
    assert one != two
    assert {one.network, two.network} == {ip_network("10.32.0.0/12")}
    assert [str(address) for address in three] == ["10.33.0.1/24", "10.2.1.3/24"]
    for host, containers in ((a, (first, third)), (b, (second,))):
        listed = sorted(line.split()[1:] for line in host.weave("ps").splitlines())
        assert listed == sorted([mac_of(c), *map(str, addresses_of(c))] for c in containers)
    wait_until(lambda: first.reaches(str(two.ip)), 10, "a ping")
    assert second.reaches(str(one.ip))
    wait_until(lambda: shares(a) == shares(b), 5, "agreement on the ring")
    assert sum(shares(a).values()) == 1 << 20
    assert set(shares(a)) == {"00:00:00:00:00:01(A)", "00:00:00:00:00:02(B)"}


@pytest.mark.waits
def test_space_of_a_host_that_leaves_and_of_one_that_dies(lab: Lab) -> None:
    a, b = pair(lab)
    assert (a.weave("prime"), b.weave("prime")) == ("", "")
    refused = a.attempt(*a.weave_command("rmpeer", "B", "nobody"))
    assert (refused.returncode, refused.stdout) == (1, "0 IPs taken over from nobody\n")
    assert "B) can be reached" in refused.stderr
    with DaemonRequests(b.run_dir) as daemon:
        held = daemon.allocate("before")
    b.kill()
    wait_until(lambda: "unreachable" in a.weave("status", "ipam"), 30, "B to be missed")
    early = a.attempt(*a.weave_command("rmpeer", "B"))
    assert (early.returncode, "has been out of reach for" in early.stderr) == (1, True)
    answer = wait_until(lambda: a.weave("rmpeer", "B"), 90, "B to have been missed for a minute")
    assert answer == f"{1 << 19} IPs taken over from B\n"
    assert list(shares(a)) == ["00:00:00:00:00:01(A)"]

    # Back again, it finds out, and begins anew.
    b.weave("launch", "--name", "::2")
    with DaemonRequests(b.run_dir) as daemon:
        assert daemon.allocate("after") != held
        assert daemon.ask("GET", "/ip/before") == (200, "")
    wait_until(lambda: shares(a) == shares(b) and len(shares(b)) == 2, 40, "one view of the ring")


def test_reset_hands_the_addresses_over(lab: Lab) -> None:
    a, b = pair(lab)
    a.weave("prime")
    b.weave("prime")
    first = a.container("one")
    assert "handed this host's addresses over to 00:00:00:00:00:01(A)" in b.weave("reset")
    wait_until(lambda: list(shares(a)) == ["00:00:00:00:00:01(A)"], 10, "the inheritance")
    assert sum(shares(a).values()) == 1 << 20
    assert first.ip("-o", "-4", "addr", "show", "ethwe")


def test_whoever_has_left_gets_nothing_back(lab: Lab) -> None:
    a, b = pair(lab)
    a.weave("prime")
    b.weave("prime")
    with DaemonRequests(b.run_dir) as daemon:
        daemon.allocate("early")
        assert daemon.ask("DELETE", "/peer") == (204, "")
        status, text = daemon.ask("POST", "/ip/late?timeout=3")
    assert list(shares(a)) == ["00:00:00:00:00:01(A)"]
    assert (status, "has handed its addresses over" in text) == (503, True)


def percentile(values: list[float], percent: float) -> float:
    return sorted(values)[min(int(len(values) * percent / 100), len(values) - 1)]


def test_how_long_an_allocation_takes(lab: Lab) -> None:
    host = lab.host("A")
    host.weave("launch", *ALONE)
    times = []
    with DaemonRequests(host.run_dir) as daemon:
        daemon.allocate("first")
        for number in range(500):
            begin = time.perf_counter()
            daemon.allocate(f"c{number}")
            times.append((time.perf_counter() - begin) * 1000)
    median = statistics.median(times)
    print(f"allocation: p50 {median:.2f} ms, p99 {percentile(times, 99):.2f} ms, max {max(times):.2f} ms")
    assert median < 20


def resident_kb(host: Host) -> int:
    """The daemon's resident memory."""
    return int(host.run("cat", f"/proc/{host.pid}/status").partition("VmRSS:")[2].split()[0])


@pytest.mark.timeout(120 + PAIRS // 20)
def test_allocations_and_releases_leave_memory_flat(lab: Lab) -> None:
    host = lab.host("A")
    host.weave("launch", *ALONE)
    begin = time.monotonic()
    with DaemonRequests(host.run_dir) as daemon:
        sizes = []
        for part in range(10):
            for number in range(PAIRS // 10):
                identifier = f"c{part}-{number}"
                daemon.allocate(identifier)
                daemon.release(identifier)
            sizes.append(resident_kb(host))
        assert daemon.owned() == {}
    print(f"{PAIRS} pairs in {time.monotonic() - begin:.0f} s, resident kB after each tenth: {sizes}")
    assert sizes[-1] < sizes[4] * 1.05
