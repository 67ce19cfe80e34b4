"""Gathers the facts: first the daemon's, since they tell where to look, then all others at the same time."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDoneError
from dataclasses import replace
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Generic, TypeVar

from weave_net.doctor.facts import DaemonFacts, Facts, Unknown
from weave_net.doctor.probe_daemon import probe_daemon
from weave_net.doctor.probe_files import probe_cni, probe_docker, probe_files, stored_bridge
from weave_net.doctor.probe_firewall import probe_firewall
from weave_net.doctor.probe_kernel import probe_kernel
from weave_net.doctor.probe_network import probe_network
from weave_net.doctor.probe_program import probe_clock, probe_packages
from weave_net.doctor.probe_sockets import probe_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_net.directories import Directories
    from weave_net.doctor.facts import Wanted

T = TypeVar("T")

DAEMON_LIMIT_S = 3.0
HOST_LIMIT_S = 5.5
"""Both together are the longest that it can take, the start of the interpreter aside."""
SETTLING_S = 3.0
"""A connection takes so long to be established and told to all."""
_DNS_PORT = 53


class Probe(Generic[T]):
    """A call in a thread of its own, which is left behind if it takes too long."""

    def __init__(self, call: Callable[[], T | Unknown], limit_s: float) -> None:
        self._call = call
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._outcome: Future[T | Unknown] = Future()
        threading.Thread(target=self._work, name="probe", daemon=True).start()

    def _work(self) -> None:
        try:
            self._outcome.set_result(self._call())
        except Exception as error:  # whatever is wrong with this host is no reason to say nothing of the rest
            self._outcome.set_result(Unknown(f"{type(error).__name__}: {error}"))

    def result(self) -> T | Unknown:
        """What it returned, or that it did not."""
        try:
            return self._outcome.result(max(0.0, self._deadline - time.monotonic()))
        except NotDoneError:
            return Unknown(f"it took longer than {self._limit_s:g} s")


def gather(directories: Directories, wanted: Wanted) -> Facts:
    """Everything; `wanted` counts where no daemon tells what it works with."""
    began = time.monotonic()
    daemon = Probe(lambda: probe_daemon(directories), DAEMON_LIMIT_S).result()
    known = daemon if isinstance(daemon, DaemonFacts) else DaemonFacts()
    wanted = _wanted(known, wanted)
    peers = _peers(known)
    tap = known.router.tap if known.router is not None else ""
    bridge = known.bridge or stored_bridge(directories.database)
    runs = known.pid is not None or isinstance(daemon, Unknown)
    ports = frozenset({wanted.port, wanted.port + 1, wanted.http_port, _DNS_PORT})
    kernel = Probe(probe_kernel, HOST_LIMIT_S)
    network = Probe(lambda: probe_network(bridge, tap, peers), HOST_LIMIT_S)
    firewall = Probe(lambda: probe_firewall(peers), HOST_LIMIT_S)
    sockets = Probe(lambda: () if runs else probe_sockets(ports), HOST_LIMIT_S)
    files = Probe(lambda: probe_files(directories, daemon_runs=runs), HOST_LIMIT_S)
    cni = Probe(lambda: probe_cni(os.environ), HOST_LIMIT_S)
    docker = Probe(probe_docker, HOST_LIMIT_S)
    clock = Probe(probe_clock, HOST_LIMIT_S)
    packages = Probe(probe_packages, HOST_LIMIT_S)
    if not _is_settled(known):
        time.sleep(max(0.0, began + SETTLING_S - time.monotonic()))
        daemon = Probe(lambda: probe_daemon(directories), DAEMON_LIMIT_S).result()
    return Facts(
        wanted=wanted,
        daemon=daemon,
        kernel=kernel.result(),
        network=network.result(),
        firewall=firewall.result(),
        sockets=sockets.result(),
        files=files.result(),
        cni=cni.result(),
        docker=docker.result(),
        clock=clock.result(),
        packages=packages.result(),
    )


def _is_settled(daemon: DaemonFacts) -> bool:
    """Whether no connection is on its way: a young one, or one that the peer has not told of yet."""
    connections = () if daemon.router is None else daemon.router.connections
    return all(c.state == "established" and c.confirmed for c in connections if c.state in ("established", "pending"))


def _wanted(daemon: DaemonFacts, wanted: Wanted) -> Wanted:
    """With what a daemon that answers works with."""
    if daemon.router is None:
        return wanted
    network = None if daemon.allocation is None else IPv4Network(daemon.allocation.range)
    return replace(wanted, port=daemon.router.port, http_port=daemon.router.port + 1, range=network)


def _peers(daemon: DaemonFacts) -> tuple[str, ...]:
    """Addresses of other hosts."""
    if daemon.router is None:
        return ()
    return tuple(dict.fromkeys(connection.host for connection in daemon.router.connections if connection.host))
