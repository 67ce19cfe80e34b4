"""What size of packets the ways to the peers carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from weave_net.doctor.facts import ConnectionFacts, DaemonFacts, InterfaceFacts, NetworkFacts, Wanted
    from weave_net.doctor.findings import Finding

SLEEVE_OVERHEAD = 62
"""Bytes between a packet of containers and one of the underlay; 86 if it is encrypted (sleeve.md section 8)."""
ENCRYPTED_OVERHEAD = 86


def diagnose_mtu(network: NetworkFacts, wanted: Wanted, daemon: DaemonFacts) -> Iterator[Finding]:
    """The network's MTU against that of the ways, and the largest that all pairs of this host carry."""
    bridge = network.interfaces.get(network.bridge)
    mtu = bridge.mtu if bridge is not None and daemon.router is not None else wanted.mtu
    connections = () if daemon.router is None else daemon.router.connections
    measured = [c for c in connections if c.state == "established" and c.mtu is not None]
    if measured:
        yield from _measured(measured, mtu, network.paths)
    else:
        yield from _interface(network, mtu)


def _measured(connections: list[ConnectionFacts], mtu: int, paths: Mapping[str, object]) -> Iterator[Finding]:
    sizes = {connection.label: connection.mtu or 0 for connection in connections}
    largest = min(sizes.values())
    if largest >= mtu:
        yield ok("mtu", f"all {len(sizes)} connections carry the network's {mtu} bytes")
        return
    small = [f"{label} ({size})" for label, size in sizes.items() if size < mtu]
    yield problem(
        "mtu",
        f"packets of the network's {mtu} bytes do not pass whole to {', '.join(small)}: they are cut, which is slow, "
        f"and the fast datapath is not used there; {largest} bytes are the most that all its connections carry",
        f"raise the MTU of the network beneath, or launch all hosts with --mtu {largest} (less, if 'weave doctor' "
        "names less on another host) and attach containers anew",
    )


def _interface(network: NetworkFacts, mtu: int) -> Iterator[Finding]:
    """Without a connection to measure: the interface that leads to the outside."""
    path = network.paths.get("")
    if path is None or not path.mtu:
        return
    need = mtu + SLEEVE_OVERHEAD
    interface: InterfaceFacts | None = network.interfaces.get(path.interface)
    name = interface.name if interface is not None else "the interface of the default route"
    if path.mtu < need:
        yield note(
            "mtu",
            f"{name} has an MTU of {path.mtu} bytes; a network of {mtu} bytes needs {need} "
            f"({mtu + ENCRYPTED_OVERHEAD} if it is encrypted)",
            f"launch all hosts with --mtu {path.mtu - ENCRYPTED_OVERHEAD}, or raise the MTU of the network beneath",
        )
    elif path.mtu < mtu + ENCRYPTED_OVERHEAD:
        yield note(
            "mtu",
            f"{name} has an MTU of {path.mtu} bytes: enough for a network of {mtu} bytes, unless it is encrypted",
            f"with a password, launch all hosts with --mtu {path.mtu - ENCRYPTED_OVERHEAD}",
        )
    else:
        yield ok("mtu", f"{name} has an MTU of {path.mtu} bytes, enough for a network of {mtu}; ways were not measured")
