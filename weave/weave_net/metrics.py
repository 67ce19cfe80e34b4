"""Prometheus metrics: the names of Weave Net 2.8 (cli.md section 9), and every counter of the router.

`drop_<reason>` becomes `weave_drops_total{reason="<reason>"}`, any other counter `<name>` becomes
`weave_<name>_total`. Each scrape tells one snapshot; nothing is counted twice or kept here.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from weave_net.status_views import LIVE_STATES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import Metric

    from weave_dns.status import DnsStatus
    from weave_ipam.status import IpamStatus
    from weave_net.status_views import Snapshot
    from weave_router.status import RouterStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_DROP_PREFIX = "drop_"
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")


class SnapshotCollector(Collector):
    """Turns one snapshot into metrics."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; those of a service that is off are left out."""
        status = self._snapshot.router
        yield _connections(status)
        yield CounterMetricFamily(
            "weave_connection_terminations", "Connections that ended", value=status.termination_count
        )
        yield GaugeMetricFamily("weave_peers", "Peers in the topology, this one included", value=len(status.peers))
        yield GaugeMetricFamily("weave_targets", "Direct peers that the operator named", value=len(status.targets))
        yield GaugeMetricFamily("weave_macs", "MAC addresses learned from other peers", value=len(status.macs))
        yield _path_mtus(status)
        info = GaugeMetricFamily("weave_build_info", "The release that runs; always 1", labels=["version"])
        info.add_metric([self._snapshot.version], 1)
        yield info
        yield from _counters(status.counters)
        if self._snapshot.ipam is not None:
            yield from _ipam(self._snapshot.ipam)
        if self._snapshot.dns is not None:
            yield from _dns(self._snapshot.dns)


def render_metrics(snapshot: Snapshot) -> bytes:
    """The body of `GET /metrics`, the process's own metrics included."""
    # A registry of our own: the library's global one belongs to whoever shares the process.
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(snapshot))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return generate_latest(registry)


def _connections(status: RouterStatus) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(
        "weave_connections", "Connections by state, overlay and encryption", labels=["state", "type", "encryption"]
    )
    counts: Counter[tuple[str, str, bool]] = Counter()
    for connection in status.connections:
        overlay = connection.overlay if connection.state in LIVE_STATES else "unknown"
        counts[connection.state, "unknown" if overlay == "none" else overlay, connection.encrypted] += 1
    # As in 2.8: a state and type that occur are told for both values of encryption.
    for state, kind in sorted({(state, kind) for state, kind, _ in counts}):
        gauge.add_metric([state, kind, "yes"], counts[state, kind, True])
        gauge.add_metric([state, kind, ""], counts[state, kind, False])
    return gauge


def _path_mtus(status: RouterStatus) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(
        "weave_path_mtu_bytes", "Largest packet of a container that the connection to a peer carries", labels=["peer"]
    )
    mtus = {c.peer: c.mtu for c in status.connections if c.peer is not None and c.mtu is not None}
    for peer, mtu in sorted(mtus.items()):
        gauge.add_metric([peer], mtu)
    return gauge


def _ipam(status: IpamStatus) -> Iterator[Metric]:
    used = GaugeMetricFamily("weave_ips", "Addresses of the range in use on this peer", labels=["state"])
    used.add_metric(["local-used"], status.active)
    yield used
    unreachable = [owner.size for owner in status.owners if not owner.known]
    gauges: dict[str, tuple[float, str]] = {
        "weave_max_ips": (status.size, "Size of the allocation range"),
        "weave_ipam_unreachable_count": (len(unreachable), "Owners of addresses that cannot be reached"),
        "weave_ipam_unreachable_percentage": (
            100 * sum(unreachable) / status.size,
            "Share of the range that is theirs",
        ),
        "weave_ipam_pending_allocates": (len(status.pending_allocations), "Requests that wait for any address"),
        "weave_ipam_pending_claims": (len(status.pending_claims), "Requests that wait for a certain address"),
        "weave_ipam_conflicts": (len(status.conflicts), "Peers whose division of the range contradicts ours"),
    }
    for name, (value, text) in gauges.items():
        yield GaugeMetricFamily(name, text, value=value)


def _dns(status: DnsStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily("weave_dns_entries", "Names of containers of this peer", value=status.own)
    yield GaugeMetricFamily("weave_dns_known_entries", "Names of containers of all peers", value=status.alive)
    for name, value in sorted(status.counters.items()):
        yield CounterMetricFamily(f"weave_dns_{name}", f"The name server's counter {name}", value=value)


def _counters(counters: Mapping[str, int]) -> Iterator[Metric]:
    drops = CounterMetricFamily("weave_drops", "Frames and packets not carried on, by reason", labels=["reason"])
    for name, value in sorted(counters.items()):
        if name.startswith(_DROP_PREFIX):
            drops.add_metric([name.removeprefix(_DROP_PREFIX)], value)
        elif name != "connection_terminations":  # told above
            clean = _NOT_IN_NAMES.sub("_", name).removesuffix("_total")
            yield CounterMetricFamily(f"weave_{clean}", f"The router's counter {name}", value=value)
    yield drops
