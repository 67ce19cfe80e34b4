"""Reading a router's report and status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.network import Host


def router_report(host: Host) -> dict[str, Any]:
    """The `Router` part of `weave report`."""
    report: dict[str, Any] = json.loads(host.weave("report"))["Router"]
    return report


def connections(host: Host) -> list[dict[str, Any]]:
    """Connections and targets as `weave status connections --json` has them."""
    rows: list[dict[str, Any]] = router_report(host)["Connections"]
    return rows


def established(host: Host) -> int:
    """How many connections are established."""
    return sum(row["State"] == "established" for row in connections(host))


def peer_count(host: Host) -> int:
    """How many peers the topology has."""
    return len(router_report(host)["Peers"])


def routes(host: Host) -> dict[str, str]:
    """Unicast routes: destination to next hop."""
    return {route["Dest"]: route["Via"] for route in router_report(host)["UnicastRoutes"]}


def counter(host: Host, name: str) -> int:
    """One of the data plane's counts."""
    return int(router_report(host)["Counters"].get(name, 0))


def link_counts(host: Host) -> list[int]:
    """How many established connections each peer has, in ascending order, as this host knows."""
    peers = router_report(host)["Peers"]
    return sorted(sum(link["Established"] for link in peer["Connections"]) for peer in peers)


def whole(hosts: list[Host], links_each: int) -> bool:
    """Whether every host knows all, and that each has so many established connections."""
    return all(link_counts(host) == [links_each] * len(hosts) for host in hosts)
