"""Which way containers' packets take, as routers tell it and as the kernel has it, and rules that close a way."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lab.shell import LabError, wait_until
from weave_net.client import DaemonClient
from weave_net.directories import Directories
from weave_net.errors import WeaveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lab.network import Host

DEVICE = "weave-vxlan"
VXLAN_PORT = 6784
FLOOD = "00:00:00:00:00:00"
USED_S = 60.0
"""A pair whose path has failed several times waits up to 30 s, after it is well again, until it uses VXLAN."""
_TABLE = "wvblock"


def report(host: Host) -> dict[str, Any]:
    """The `Router` part of the report, asked for without the cost of a `weave` process. LabError if none answers."""
    try:
        with DaemonClient(Directories(host.state_dir, host.run_dir)) as client:
            router: dict[str, Any] = json.loads(client.document("/report"))["Router"]
    except WeaveError as error:
        raise LabError(f"{host.label} does not answer: {error}") from error
    return router


def counters(host: Host) -> dict[str, int]:
    """The router's counts."""
    counts: dict[str, int] = report(host)["Counters"]
    return counts


def overlays(host: Host) -> dict[str, str]:
    """The overlay of each established connection, by the peer's nickname."""
    rows = report(host)["Connections"]
    return {row["NickName"]: row["Overlay"] for row in rows if row["State"] == "established"}


def trouble(host: Host, peer: Host) -> str:
    """What the router says of the connection to a peer, beside its state."""
    return next((row["Reason"] for row in report(host)["Connections"] if row["NickName"] == peer.label), "")


def uses(overlay: str, *pair: Host) -> bool:
    """Whether both of a pair say that this overlay is between them."""
    first, second = pair
    return overlays(first).get(second.label) == overlay == overlays(second).get(first.label)


def wait_for_overlay(overlay: str, hosts: Iterable[Host], timeout_s: float = USED_S) -> None:
    """Wait until it is the overlay between all these hosts."""
    hosts = list(hosts)

    def everywhere() -> bool:
        labels = {host.label for host in hosts}
        for host in hosts:
            found = overlays(host)
            if any(found.get(label) != overlay for label in labels - {host.label}):
                return False
        return True

    wait_until(everywhere, timeout_s, f"{overlay} between {', '.join(host.label for host in hosts)}")


def device_entries(host: Host) -> set[tuple[str, str]]:
    """MAC address and remote host of each entry of the VXLAN device; empty where there is no device."""
    done = host.attempt("bridge", "-j", "fdb", "show", "dev", DEVICE)
    rows = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else []
    return {(row["mac"], row["dst"]) for row in rows if "dst" in row}


def bridge_port(host: Host, mac: str) -> str | None:
    """The port at which the bridge of a host would look for an address; None if it would flood."""
    rows = json.loads(host.run("bridge", "-j", "fdb", "show", "br", "weave"))
    ports = [row["ifname"] for row in rows if row["mac"] == mac and row.get("master") == "weave"]
    return str(ports[0]) if ports else None


def has_table(host: Host) -> bool:
    """Whether the host has our nftables table."""
    return "table inet weave" in host.run("nft", "list", "tables").splitlines()


def dropped(host: Host) -> int:
    """VXLAN packets that our table has dropped."""
    listing = json.loads(host.run("nft", "-j", "list", "chain", "inet", "weave", "vxlan"))["nftables"]
    rules = (entry["rule"] for entry in listing if "rule" in entry)
    return sum(int(part["counter"]["packets"]) for rule in rules for part in rule["expr"] if "counter" in part)


def mac_of(container: Any, interface: str = "ethwe") -> str:
    """The MAC address of a container's interface."""
    return str(json.loads(container.ip("-j", "link", "show", interface))[0]["address"])


Way = tuple[str, int | None]
"""An address, and a UDP port; None for all that comes from the address."""


def close_ways(host: Host, ways: Iterable[Way]) -> None:
    """Drop what arrives at a host in these ways, and nothing else any more; nobody is told."""
    rules = [f"add table ip {_TABLE}", f"delete table ip {_TABLE}"]
    for source, port in ways:
        chain = f"add chain ip {_TABLE} input {{ type filter hook input priority -300; }}"
        what = f"udp dport {port} " if port else ""
        rules += [f"add table ip {_TABLE}", chain, f"add rule ip {_TABLE} input ip saddr {source} {what}drop"]
    host.run("nft", "-f", "-", stdin="\n".join(rules) + "\n")


def block(host: Host, source: str) -> None:
    """Drop VXLAN packets that come to a host from an address."""
    close_ways(host, [(source, VXLAN_PORT)])


def unblock(host: Host) -> None:
    """Open all ways to a host."""
    close_ways(host, [])


@contextmanager
def blocked(host: Host, source: str) -> Iterator[None]:
    """`block` for a while."""
    block(host, source)
    try:
        yield
    finally:
        unblock(host)
