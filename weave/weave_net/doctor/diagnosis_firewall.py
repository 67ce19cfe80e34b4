"""Does the packet filter let routers talk to each other, and containers through?"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem
from weave_net.doctor.packet_filter import Outcome, Packet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import DaemonFacts, FirewallFacts, NetworkFacts, Wanted
    from weave_net.doctor.findings import Finding
    from weave_net.doctor.packet_filter import Ruleset

INCOMING_HOOKS = ("ingress", "prerouting", "input")
ANY_PEER = IPv4Address("203.0.113.1")
"""Stands for a host of the Internet where no peer is known (RFC 5737)."""
ANY_CONTAINER = IPv4Address("10.32.0.2")
ELSEWHERE = "some other interface"
"""No interface has this name."""


def diagnose_firewall(
    firewall: FirewallFacts, network: NetworkFacts, wanted: Wanted, daemon: DaemonFacts
) -> Iterator[Finding]:
    """What routers send to this host, and what containers send through it."""
    yield from _incoming(firewall, network, wanted)
    yield from _through(firewall.ruleset, network, daemon)


def _incoming(firewall: FirewallFacts, network: NetworkFacts, wanted: Wanted) -> Iterator[Finding]:
    uses = (
        ("tcp", wanted.port, "control connections"),
        ("udp", wanted.port, "sleeve"),
        ("udp", wanted.port + 1, "the fast datapath, VXLAN"),
    )
    clear = True
    for protocol, port, purpose in uses:
        judged = [(peer, *_arriving(firewall, network, protocol, port, peer)) for peer in firewall.peers or (ANY_PEER,)]
        hit = [(peer, outcome, chain) for peer, outcome, chain in judged if outcome is not Outcome.ACCEPTED]
        if not hit:
            continue
        clear = False
        chains = ", the ".join(dict.fromkeys(chain for _, _, chain in hit))
        who = f" from {_some([str(peer) for peer, _, _ in hit])}" if firewall.peers else ""
        text = f"the {chains} of this host drops {protocol.upper()} port {port} ({purpose}){who}"
        advice = f"let {protocol.upper()} port {port} in from all peers, with a rule before those that drop"
        if any(outcome is Outcome.DROPPED for _, outcome, _ in hit):
            yield problem("firewall", text, advice)
        else:
            yield note("firewall", f"{text}, unless a rule lets it in that could not be judged from here", advice)
    if clear:
        known = f"the peers ({len(firewall.peers)})" if firewall.peers else "others"
        yield ok("firewall", f"this host lets in what {known} send to the ports {wanted.port} and {wanted.port + 1}")


def _arriving(
    firewall: FirewallFacts, network: NetworkFacts, protocol: str, port: int, peer: IPv4Address
) -> tuple[Outcome, str]:
    path = network.paths.get(str(peer) if firewall.peers else "")
    packet = Packet(protocol, port, source=peer, incoming=path.interface or None if path else None)
    return firewall.ruleset.judge(packet, INCOMING_HOOKS, ("ip", "inet", "netdev"))


def _through(rules: Ruleset, network: NetworkFacts, daemon: DaemonFacts) -> Iterator[Finding]:
    """Frames between containers of this host and others', and packets between containers and the outside."""
    bridge = network.bridge
    # Rules of the family bridge see the ports, the others the bridge.
    frame = Packet("tcp", 80, ANY_CONTAINER, ANY_CONTAINER)
    outcome, chain = rules.judge(frame, ("prerouting", "forward"), ("bridge",))
    why = ""
    if outcome is not Outcome.DROPPED and network.bridge_calls_iptables:
        packet = Packet("tcp", 80, ANY_CONTAINER, ANY_CONTAINER, incoming=bridge, outgoing=bridge)
        outcome, chain = rules.judge(packet, ("prerouting", "forward"), ("ip", "inet"))
        why = ", and bridged packets pass it (net.bridge.bridge-nf-call-iptables is 1)"
    if outcome is Outcome.DROPPED:
        yield problem(
            "forward",
            f"the {chain} drops what containers send each other{why}",
            f"accept what comes in and goes out at {bridge}; in iptables the daemon does so when it starts; by hand: "
            f"'iptables -I FORWARD -i {bridge} -o {bridge} -j ACCEPT'",
        )
    elif network.bridge_calls_iptables:
        yield ok(
            "forward", "containers' packets pass the packet filter (bridge-nf-call-iptables is 1) and are accepted"
        )
    else:
        yield ok("forward", "packets between containers are not subject to iptables (bridge-nf-call-iptables is 0)")
    if not daemon.exposed and not daemon.gateways:
        return
    outwards = Packet("tcp", 80, ANY_CONTAINER, ANY_PEER, incoming=bridge, outgoing=ELSEWHERE)
    answers = Packet("tcp", 40000, ANY_PEER, ANY_CONTAINER, incoming=ELSEWHERE, outgoing=bridge, state="established")
    for packet, what in ((outwards, "send to the outside"), (answers, "get as an answer from the outside")):
        outcome, chain = rules.judge(packet, ("prerouting", "forward"), ("ip", "inet"))
        if outcome is Outcome.DROPPED:
            yield problem(
                "forward",
                f"the {chain} drops what containers {what} by way of this host",
                f"accept what comes in at {bridge}, and what is established and goes out there; in iptables the daemon "
                "does so when an address is exposed ('weave expose' again), since Docker sets the policy to drop",
            )


def _some(words: list[str]) -> str:
    return ", ".join(words[:5]) + (f" and {len(words) - 5} others" if len(words) > 5 else "")
