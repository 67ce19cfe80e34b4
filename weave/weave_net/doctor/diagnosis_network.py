"""Forwarding, routes, bridge and source checks of this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import DaemonFacts, InterfaceFacts, NetworkFacts, Wanted
    from weave_net.doctor.findings import Finding

TUNNEL_OFFLOADS = ("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
DRIVERS_WITH_BAD_TUNNEL_OFFLOAD = frozenset({"vmxnet3"})
"""They claim to cut VXLAN packets, but know some UDP ports only and damage those of others."""


def diagnose_network(network: NetworkFacts, wanted: Wanted, daemon: DaemonFacts) -> Iterator[Finding]:
    """Everything about this host's network but its packet filter."""
    yield from _bridge(network, daemon)
    yield from _overlap(network, wanted)
    yield from _forwarding(network, daemon)
    yield from _source_check(network, daemon)
    yield from _offloads(network)


def _bridge(network: NetworkFacts, daemon: DaemonFacts) -> Iterator[Finding]:
    bridge = network.interfaces.get(network.bridge)
    if bridge is None:
        if daemon.router is not None and daemon.same_network:
            yield problem(
                "bridge",
                f"there is no bridge {network.bridge}, although the daemon runs: somebody has removed it",
                "'weave stop' and 'weave launch'; containers have to be attached again",
            )
        return
    if bridge.kind != "bridge":
        yield problem(
            "bridge",
            f"{bridge.name} is no bridge but {f'of kind {bridge.kind}' if bridge.kind else 'another device'}",
            "remove what an earlier Weave Net left behind with its own 'weave reset', or launch with --weave-bridge",
        )
    elif not bridge.up and daemon.router is not None:
        yield problem("bridge", f"{bridge.name} is down", f"'ip link set {bridge.name} up'")
    else:
        small = [
            port.name
            for port in network.interfaces.values()
            if port.master == bridge.name and port.kind == "veth" and port.mtu != bridge.mtu
        ]
        if small:
            yield note(
                "bridge",
                f"{bridge.name} has an MTU of {bridge.mtu} bytes, these of its ports another one: {', '.join(small)}",
                "attach these containers anew, or leave it at that if it was asked for (--mtu)",
            )
        else:
            yield ok("bridge", f"{bridge.name} is there, with an MTU of {bridge.mtu} bytes")


def _overlap(network: NetworkFacts, wanted: Wanted) -> Iterator[Finding]:
    if wanted.range is None:
        return
    clashes = [route for route in network.routes if route.overlaps(wanted.range)]
    if clashes:
        yield problem(
            "routes",
            f"the range of addresses {wanted.range} overlaps the route {', '.join(map(str, clashes))} of this host: "
            "containers cannot reach what is behind it, or the other way round",
            "give all hosts another --ipalloc-range, or change that route",
        )
    else:
        yield ok("routes", f"none overlaps the range of addresses {wanted.range}")


def _forwarding(network: NetworkFacts, daemon: DaemonFacts) -> Iterator[Finding]:
    turn_on = "'sysctl -w net.ipv4.ip_forward=1', and a file in /etc/sysctl.d that says so"
    if network.forwarding:
        yield ok("ip_forward", "on: this host can lead containers to the outside")
    elif daemon.gateways:
        yield problem(
            "ip_forward",
            f"off, but {daemon.gateways} containers leave the network by way of this host: they reach nothing outside",
            turn_on,
        )
    elif daemon.exposed:
        yield note(
            "ip_forward",
            "off: this host reaches containers (it is exposed), but leads nobody to them, nor them to the outside",
            f"if it is to: {turn_on}",
        )
    else:
        yield ok("ip_forward", "off; nothing here needs it")


def _source_check(network: NetworkFacts, daemon: DaemonFacts) -> Iterator[Finding]:
    if not network.strict_source_check:
        yield ok("rp_filter", "no interface drops packets by their source address alone")
        return
    names = ", ".join(network.strict_source_check)
    waiting = [] if daemon.router is None else [c for c in daemon.router.connections if c.state == "pending"]
    outside = {path.interface for path in network.paths.values() if path.interface}
    # Strict checks hurt where packets of a peer come in at another interface than answers go out.
    if waiting and len(_underlay(network)) > 1 and outside & set(network.strict_source_check):
        yield problem(
            "rp_filter",
            f"strict on {names}, this host has several ways out, and nothing arrives from "
            f"{', '.join(connection.label for connection in waiting)}: packets that come in at another interface than "
            "answers leave by are dropped",
            "'sysctl -w net.ipv4.conf.all.rp_filter=2' and the same for these interfaces (2: loose)",
        )
    else:
        yield ok("rp_filter", f"strict on {names}, which is no obstacle with one way to each peer")


def _underlay(network: NetworkFacts) -> list[InterfaceFacts]:
    return [
        interface
        for interface in network.interfaces.values()
        if interface.up and interface.addresses and interface.name not in ("lo", network.bridge)
    ]


def _offloads(network: NetworkFacts) -> Iterator[Finding]:
    bad = [
        interface
        for interface in network.interfaces.values()
        if interface.driver in DRIVERS_WITH_BAD_TUNNEL_OFFLOAD
        and any(interface.offloads.get(name) for name in TUNNEL_OFFLOADS)
    ]
    for interface in bad:
        yield problem(
            "checksum offload",
            f"{interface.name} ({interface.driver}) offers to cut and checksum VXLAN packets, and is known to damage "
            "those of other ports than the usual ones: containers' TCP connections stall",
            f"'ethtool -K {interface.name} {' off '.join(TUNNEL_OFFLOADS)} off', at each start of the host",
        )
    if not bad:
        yield ok("checksum offload", "no network card is known to damage VXLAN packets")
