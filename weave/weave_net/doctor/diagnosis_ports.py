"""Ports that another program has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from weave_net.doctor.facts import SocketFacts, Wanted
    from weave_net.doctor.findings import Finding


def diagnose_ports(
    wanted: Wanted, sockets: Iterable[SocketFacts], *, daemon_runs: bool, own_vxlan: bool
) -> Iterator[Finding]:
    """Who has the ports of a daemon that does not run.

    `own_vxlan`: a VXLAN device of ours is there, which keeps its port. Those of a daemon that runs are its own.
    """
    if daemon_runs:
        yield ok("ports", f"the daemon has port {wanted.port}")
        return
    taken = False
    for socket in sockets:
        if (socket.protocol, socket.port) not in _ours(wanted):
            continue
        if socket.kernel and own_vxlan and socket.port == wanted.port + 1:
            continue
        taken = True
        who = (
            "the kernel, for a VXLAN device or another tunnel," if socket.kernel else socket.owner or "another program"
        )
        place = f"{socket.protocol} port {socket.port} at {socket.address}"
        if socket.protocol == "TCP" and socket.port == wanted.http_port and socket.port != wanted.port:
            yield problem(
                "ports",
                f"{place}, for status and metrics, is taken: {who} has it",
                "end that program, or launch with another --http-addr ('' for none)",
            )
        elif socket.port == wanted.port + 1:
            yield problem(
                "ports",
                f"{place}, for the fast datapath, is taken: {who} has it",
                "see 'ip -d link show type vxlan' and 'ss -lnup'; an earlier Weave Net is removed with its own "
                "'weave reset'; or use another --port on all hosts, or --no-fastdp",
            )
        else:
            yield problem(
                "ports",
                f"{place} is taken: {who} has it",
                "end that program (an earlier Weave Net: its own 'weave stop'), or use another --port on all hosts",
            )
    if not taken:
        yield ok("ports", f"port {wanted.port} (TCP, UDP) and {wanted.port + 1} (UDP) are free")


def _ours(wanted: Wanted) -> set[tuple[str, int]]:
    return {("TCP", wanted.port), ("UDP", wanted.port), ("UDP", wanted.port + 1), ("TCP", wanted.http_port)}


def diagnose_name_port(sockets: Iterable[SocketFacts], addresses: Iterable[str]) -> Iterator[Finding]:
    """Whoever has port 53 of an address of the bridge, or of all addresses, while the daemon does not run."""
    for socket in sockets:
        if socket.port == 53 and not socket.kernel and socket.address in {"0.0.0.0", "::", *addresses}:  # noqa: S104
            yield note(
                "ports",
                f"{socket.protocol} port 53 at {socket.address} is taken by {socket.owner or 'another program'}: "
                "containers could not ask for names at the bridge's address",
                "have that program listen at its own addresses only (dnsmasq: bind-interfaces), or launch with "
                "--dns-listen-address",
            )
            return
