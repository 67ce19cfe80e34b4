"""Three routers at full load for a minute (WEAVE_LOAD_SECONDS for longer): memory, the API, connections, a newcomer.

Between the three containers TCP runs as fast as it can, both ways, and from one to another UDP in small packets. One
run is observed; each test judges one aspect of it.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from lab.network import Container, Host, Lab, wait_until
from lab.reports import connections, link_counts

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

LOAD_S = float(os.environ.get("WEAVE_LOAD_SECONDS", "60"))
SETTLED_S = 20.0
"""From then on a daemon's memory is that of its load."""
MEMORY_GROWTH = 1.05
ANSWER_S = 0.2
JOINED_S = 30.0
POLL_S = 0.1
FIRST_PORT = 5201

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(LOAD_S + 240)]


@dataclass
class Daemon:
    """What was seen of one daemon under load."""

    label: str
    answers_s: list[float] = field(default_factory=list, repr=False)
    """How long each `GET /status` took."""
    memory: list[tuple[float, int]] = field(default_factory=list, repr=False)
    """Seconds since the beginning, and VmRSS in KiB."""
    processor_share: float = 0.0
    """Of one processor."""
    before: set[tuple[str, str, str]] = field(default_factory=set)
    """Connections, each with its TCP address, which another connection between the same peers would not have."""
    after: set[tuple[str, str, str]] = field(default_factory=set)
    log: str = field(default="", repr=False)


@dataclass
class Load:
    """What was seen of the whole."""

    daemons: list[Daemon]
    carried_bytes: list[int] = field(default_factory=list)
    """By each TCP stream, in each direction."""
    arrived_packets: int = 0
    """Of the UDP stream."""
    joined_s: float = math.inf
    """From the command that launched the newcomer to the answers of all containers to its own."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        """Connect to the daemon."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Observer:
    """Asks a daemon for its status ten times a second and watches its memory; a context manager."""

    def __init__(self, host: Host, daemon: Daemon) -> None:
        self._host = host
        self._daemon = daemon
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Observer:
        self._begin = time.monotonic()
        self._processor = processor_s(self._host)
        self._daemon.before = links(self._host)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        elapsed = time.monotonic() - self._begin
        self._daemon.processor_share = (processor_s(self._host) - self._processor) / elapsed
        self._daemon.after = links(self._host)
        self._daemon.log = self._host.log(1000)

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._stopped.wait(max(0, begin + POLL_S - time.monotonic())):
            begin = time.monotonic()
            self._daemon.memory.append((begin - self._begin, resident_kib(self._host)))
            try:
                connection = UnixConnection(self._host.run_dir / "weave.sock")
                connection.request("GET", "/status")
                status = connection.getresponse().read()
                connection.close()
            except OSError:
                status = b""
            self._daemon.answers_s.append(time.monotonic() - begin if b"Service: router" in status else math.inf)


def processor_s(host: Host) -> float:
    """Processor time that the daemon has used."""
    fields = host.run("cat", f"/proc/{host.pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(host: Host) -> int:
    """VmRSS of the daemon; 0 if it does not run."""
    try:
        with open(f"/proc/{host.pid}/status") as status:  # noqa: PTH123
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    except OSError:
        return 0


def links(host: Host) -> set[tuple[str, str, str]]:
    """Connections as the daemon tells them."""
    return {(row["NickName"], row["Address"], row["State"]) for row in connections(host)}


def start_load(containers: list[Container]) -> list[subprocess.Popen[str]]:
    """Between each two containers TCP both ways, from the first to the last 15 000 packets of 64 bytes a second."""
    clients = []
    flows: list[tuple[int, int, tuple[str, ...]]]
    flows = [(*pair, ("--bidir",)) for pair in combinations(range(len(containers)), 2)]
    flows.append((0, len(containers) - 1, ("--udp", "--length", "64", "--bitrate", "8M")))
    for port, (_, server, _) in enumerate(flows, FIRST_PORT):
        containers[server].popen("iperf3", "--server", "--one-off", "--port", str(port))
    for port, (_, server, _) in enumerate(flows, FIRST_PORT):
        listening = ("ss", "-Hltn", f"sport = :{port}")
        wait_until(lambda c=containers[server], words=listening: c.run(*words), 5, "iperf3 to listen")  # type: ignore[misc]
    for port, (client, server, kind) in enumerate(flows, FIRST_PORT):
        words = ("--port", str(port), "--time", f"{LOAD_S:g}", "--json", *kind)
        clients.append(containers[client].popen("iperf3", "--client", f"10.2.1.{server + 1}", *words))
    return clients


def finish_load(clients: list[subprocess.Popen[str]], load: Load) -> None:
    """Wait for the streams' ends and note what they brought to the other side."""
    for client in clients:
        end = json.loads(client.communicate(timeout=LOAD_S + 60)[0])["end"]
        if "sum_received_bidir_reverse" in end:
            load.carried_bytes += [end["sum_received"]["bytes"], end["sum_received_bidir_reverse"]["bytes"]]
        else:
            load.arrived_packets = end["sum"]["packets"] - end["sum"]["lost_packets"]


def join(newcomer: Host, others: list[Host]) -> float:
    """Seconds that a host needs to become part of the network, with a container that reaches all."""
    begin = time.monotonic()
    newcomer.weave("launch", "192.0.2.1")
    container = newcomer.container("web", "10.2.1.4/24")
    wait_until(lambda: link_counts(newcomer) == [3, 3, 3, 3], JOINED_S, "the newcomer's connections")
    for number in range(1, len(others) + 1):
        wait_until(lambda n=number: container.reaches(f"10.2.1.{n}"), JOINED_S, "a ping from the newcomer")  # type: ignore[misc]
    return time.monotonic() - begin


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """Run the load once and tell what was seen."""
    with Lab() as lab:
        hosts = [lab.host(label) for label in "ABC"]
        newcomer = lab.host("D")
        lab.segment({host: f"192.0.2.{number}/24" for number, host in enumerate([*hosts, newcomer], 1)})
        for host in hosts:
            host.weave("launch", *(["192.0.2.1"] if host is not hosts[0] else []))
        wait_until(lambda: all(link_counts(host) == [2, 2, 2] for host in hosts), 30, "all connections")
        containers = [host.container("web", f"10.2.1.{number}/24") for number, host in enumerate(hosts, 1)]
        load = Load([Daemon(host.label) for host in hosts])
        with ExitStack() as stack:
            for host, daemon in zip(hosts, load.daemons, strict=True):
                stack.enter_context(Observer(host, daemon))
            clients = start_load(containers)
            time.sleep(SETTLED_S)
            load.joined_s = join(newcomer, hosts)
            finish_load(clients, load)
        yield load


def test_the_routers_were_busy(load: Load) -> None:
    assert len(load.carried_bytes) == 6
    assert min(load.carried_bytes) > 1_000_000 * LOAD_S
    assert load.arrived_packets > 1_000 * LOAD_S
    for daemon in load.daemons:
        assert daemon.processor_share > 0.2, daemon


def test_memory_does_not_grow(load: Load) -> None:
    for daemon in load.daemons:
        settled = next(size for at, size in daemon.memory if at >= SETTLED_S)
        last = max(size for at, size in daemon.memory if at >= SETTLED_S)
        assert settled > 0
        assert last <= MEMORY_GROWTH * settled, daemon


def test_the_api_answers(load: Load) -> None:
    for daemon in load.daemons:
        assert math.inf not in daemon.answers_s, daemon
        answers = sorted(daemon.answers_s)
        assert len(answers) > 0.8 * LOAD_S / POLL_S
        assert answers[int(0.99 * len(answers))] < ANSWER_S, daemon
        assert answers[-1] < 10 * ANSWER_S, daemon


def test_connections_last(load: Load) -> None:
    for daemon in load.daemons:
        assert {state for *_, state in daemon.before} == {"established"}
        assert daemon.before <= daemon.after, daemon.log
        assert " ended: " not in daemon.log, daemon.log


def test_a_host_joins_meanwhile(load: Load) -> None:
    assert load.joined_s < JOINED_S
    for daemon in load.daemons:
        assert {nickname for nickname, _, state in daemon.after if state == "established"} > {"D"}
