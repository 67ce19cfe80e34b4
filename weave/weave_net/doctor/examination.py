"""All diagnoses, one after the other, over facts of which some may be unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from weave_net.doctor.diagnosis_clock import diagnose_clock
from weave_net.doctor.diagnosis_connections import diagnose_connections
from weave_net.doctor.diagnosis_daemon import diagnose_daemon
from weave_net.doctor.diagnosis_engines import diagnose_cni, diagnose_docker
from weave_net.doctor.diagnosis_files import diagnose_files
from weave_net.doctor.diagnosis_firewall import diagnose_firewall
from weave_net.doctor.diagnosis_kernel import diagnose_kernel
from weave_net.doctor.diagnosis_mtu import diagnose_mtu
from weave_net.doctor.diagnosis_network import diagnose_network
from weave_net.doctor.diagnosis_packages import diagnose_packages
from weave_net.doctor.diagnosis_ports import diagnose_name_port, diagnose_ports
from weave_net.doctor.diagnosis_services import diagnose_allocation, diagnose_names
from weave_net.doctor.facts import DaemonFacts, Unknown
from weave_net.doctor.findings import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from weave_net.doctor.facts import Facts, NetworkFacts
    from weave_net.doctor.findings import Finding

T = TypeVar("T")


def examine(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they are shown. A diagnosis that fails itself becomes a note."""
    daemon = facts.daemon if isinstance(facts.daemon, DaemonFacts) else DaemonFacts()
    found: list[Finding] = []
    for name, diagnosis in _diagnoses(facts, daemon):
        try:
            found += diagnosis()
        except Exception as error:  # such as a report of another release that has something else in a known place
            found.append(note(name, f"not checked: {type(error).__name__}: {error}", "please report this"))
    return found


def _diagnoses(facts: Facts, daemon: DaemonFacts) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    yield "daemon", lambda: _known("daemon", facts.daemon, diagnose_daemon)
    yield "directories", lambda: _known("directories", facts.files, diagnose_files)
    yield "python packages", lambda: _known("python packages", facts.packages, diagnose_packages)
    yield "kernel", lambda: _known("kernel", facts.kernel, diagnose_kernel)
    yield "clock", lambda: _known("clock", facts.clock, diagnose_clock)
    yield "ports", lambda: _ports(facts, daemon)
    yield (
        "network",
        lambda: _known("network", facts.network, lambda network: diagnose_network(network, facts.wanted, daemon)),
    )
    yield "mtu", lambda: _known("mtu", facts.network, lambda network: diagnose_mtu(network, facts.wanted, daemon))
    yield "firewall", lambda: _firewall(facts, daemon)
    if daemon.router is not None:
        router = daemon.router
        yield "connections", lambda: diagnose_connections(router)
        yield "addresses", lambda: diagnose_allocation(daemon.allocation)
        yield "names", lambda: diagnose_names(daemon.names, exposed=bool(daemon.exposed))
    yield "cni", lambda: _known("cni", facts.cni, diagnose_cni)
    yield "docker", lambda: _known("docker", facts.docker, diagnose_docker)


def _known(name: str, part: T | Unknown, diagnose: Callable[[T], Iterable[Finding]]) -> Iterable[Finding]:
    if isinstance(part, Unknown):
        return (note(name, f"not checked: {part.reason}"),)
    return diagnose(part)


def _ports(facts: Facts, daemon: DaemonFacts) -> Iterable[Finding]:
    if isinstance(facts.sockets, Unknown):
        return (note("ports", f"not checked: {facts.sockets.reason}"),)
    runs = daemon.pid is not None
    found = diagnose_ports(facts.wanted, facts.sockets, daemon_runs=runs, own_vxlan=_own_vxlan(facts))
    return [*found, *(() if runs else diagnose_name_port(facts.sockets, _bridge_addresses(facts)))]


def _firewall(facts: Facts, daemon: DaemonFacts) -> Iterable[Finding]:
    firewall, network = facts.firewall, facts.network
    if isinstance(firewall, Unknown):
        return (note("firewall", f"not checked: {firewall.reason}"),)
    if isinstance(network, Unknown):
        return (note("firewall", f"not checked: {network.reason}"),)
    return diagnose_firewall(firewall, network, facts.wanted, daemon)


def _own_vxlan(facts: Facts) -> bool:
    network: NetworkFacts | Unknown = facts.network
    if isinstance(network, Unknown):
        return False
    return any(
        interface.vxlan_port == facts.wanted.port + 1 and interface.master == network.bridge
        for interface in network.interfaces.values()
    )


def _bridge_addresses(facts: Facts) -> tuple[str, ...]:
    if isinstance(facts.network, Unknown):
        return ()
    bridge = facts.network.interfaces.get(facts.network.bridge)
    return () if bridge is None else tuple(address.partition("/")[0] for address in bridge.addresses)
