"""The connections to other hosts: which are missing, and why a pair is on sleeve.

The daemon's reasons are texts for people; the patterns here are held to what the router says by a test. A reason that
none fits is passed on as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import ConnectionFacts, RouterFacts
    from weave_net.doctor.findings import Finding

_OURSELVES = re.compile("leads to ourselves")
_BEING_TRIED = re.compile("being tried")

_FAILED: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile("no answer to the TCP|timed out"),
        "nothing comes back: is the address right, is the host up, and is TCP port {port} open there and on the way?",
    ),
    (
        re.compile("refused"),
        "the host is there, but no router listens at TCP port {port}: 'weave launch' on it, with the same --port",
    ),
    (
        re.compile("password"),
        "give both hosts the same password (--password-file, WEAVE_PASSWORD), or neither",
    ),
    (
        re.compile("unreachable|No route"),
        "this host has no way to it: see 'ip route get' with that address",
    ),
    (
        re.compile("cannot resolve|neither an IPv4 address"),
        "have the name resolved on this host, or 'weave forget' it and 'weave connect' an address",
    ),
    (
        re.compile("has our name"),
        "give one of the two another --name, or 'weave reset' the one that was copied from the other",
    ),
    (
        re.compile("limit of"),
        "raise --conn-limit",
    ),
    (
        re.compile("does not speak Weave|protocol versions"),
        "is it a router of Weave Net 2 or of this program that listens at TCP port {port} there?",
    ),
)
_IN_GENERAL = "'weave status connections' shows it; the log of both hosts may tell more"


def diagnose_connections(router: RouterFacts) -> Iterator[Finding]:
    """One finding for each connection that is not as good as it could be, and one for the others together."""
    live = [c for c in router.connections if c.state in ("established", "pending")]
    if not router.connections:
        yield note("connections", "this host knows no other", "'weave connect HOST', here or on another host")
        return
    for connection in router.connections:
        check = f"connection {connection.label}"
        match connection.state:
            case "established" if not connection.confirmed:
                yield problem(
                    check,
                    "established from here, but the peer still waits: what it sends by UDP does not arrive here",
                    f"let UDP port {router.port} pass from {connection.host} to this host (see 'firewall')",
                )
            case "established":
                pass
            case "pending":
                yield _pending(check, connection, router)
            case "failed" | "retrying":
                yield from _missing(check, connection, router)
            case _:
                yield note(check, "is being made at this moment")
    established = [c for c in live if c.state == "established"]
    if established:
        yield ok("connections", f"{len(established)} of {len(router.connections)} are established")
    yield from _overlays(established, router)


def _pending(check: str, connection: ConnectionFacts, router: RouterFacts) -> Finding:
    return problem(
        check,
        f"not established: {connection.reason or 'UDP packets have not passed both ways yet'}",
        f"let UDP port {router.port} pass between {connection.host} and this host in both directions "
        "(packet filters of both hosts, security groups of a cloud)",
    )


def _missing(check: str, connection: ConnectionFacts, router: RouterFacts) -> Iterator[Finding]:
    reason = connection.reason
    if _OURSELVES.search(reason):
        yield ok(check, "is this host itself")
        return
    advice = next((text for pattern, text in _FAILED if pattern.search(reason)), _IN_GENERAL)
    port = connection.address.rpartition(":")[2]
    yield problem(
        check,
        f"no connection: {reason or 'the attempt failed'}",
        advice.format(port=port if port.isdigit() else router.port),
    )


def _overlays(established: list[ConnectionFacts], router: RouterFacts) -> Iterator[Finding]:
    """Why pairs are on sleeve."""
    fast = [c for c in established if c.overlay == "vxlan"]
    sealed = [c for c in established if c.overlay != "vxlan" and c.encrypted]
    rest = [c for c in established if c.overlay != "vxlan" and not c.encrypted]
    if fast:
        yield ok("fast datapath", f"the kernel carries the packets to {_some(fast)}")
    if sealed:
        yield ok("fast datapath", f"{_some(sealed)}: on sleeve, since it encrypts, and the kernel's VXLAN does not")
    if not rest:
        return
    if router.vxlan_trouble:
        yield problem(
            "fast datapath",
            f"off on this host: {router.vxlan_trouble}",
            "put that right and launch again; until then sleeve carries everything, with more work for the processor",
        )
        return
    if not router.vxlan:
        yield note(
            "fast datapath",
            "off on this host (--no-fastdp, or WEAVE_NO_FASTDP): sleeve carries everything",
            "launch without that for more speed and less work for the processor",
        )
        return
    for connection in rest:
        yield _on_sleeve(connection, router)


def _on_sleeve(connection: ConnectionFacts, router: RouterFacts) -> Finding:
    check, reason, port = f"connection {connection.label}", connection.reason, router.port + 1
    if not reason:
        return note(
            check,
            "on sleeve: the peer offers no VXLAN (Weave Net 2.8, --no-fastdp, a kernel without VXLAN or no nft there), "
            "or shares its address with another peer",
            "'weave doctor' on that host tells which",
        )
    if _BEING_TRIED.search(reason):
        return note(check, f"on sleeve: {reason}", "ask again in some seconds")
    text = f"on sleeve: {reason}"
    if "MTUs differ" in reason:
        return problem(check, text, "launch both hosts with the same --mtu (WEAVE_MTU)")
    if "do not pass" in reason:
        return problem(
            check, text, "raise the MTU of the network beneath, or launch all hosts with a smaller --mtu: see 'mtu'"
        )
    if "nothing comes through" in reason:
        where = f"from {connection.host} to this host (see 'firewall' for this host's own rules)"
    elif "nothing arrives at the peer" in reason:
        where = f"from this host to {connection.host}, on the way and in the packet filter there"
    else:
        return problem(check, text, _IN_GENERAL)
    return problem(check, text, f"let UDP port {port} pass {where}; sleeve serves until then")


def _some(connections: list[ConnectionFacts]) -> str:
    labels = [connection.label for connection in connections]
    return ", ".join(labels[:5]) + (f" and {len(labels) - 5} others" if len(labels) > 5 else "")
