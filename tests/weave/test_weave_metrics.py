"""Metrics: the names that dashboards read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from weave_dns.entries import Entry
from weave_dns.status import DnsStatus
from weave_ipam.status import IpamStatus, OwnerStatus
from weave_net.metrics import render_metrics
from weave_net.status_views import Snapshot
from weave_net.testing.statuses import H1, H2, H3, SAMPLE_STATUS
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from weave_router.status import RouterStatus

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

SEEDS = IpamStatus(
    text="waiting for IP(s) to become available",
    waiting_for=("no free address of 10.44.0.0/24 here",),
    range="10.32.0.0/12",
    default_subnet="10.32.0.0/12",
    size=1 << 20,
    active=7,
    owners=(
        OwnerStatus(H1, "h1", 3 << 18, known=True),
        OwnerStatus(H2, "h2", 3 << 16, known=False),
        OwnerStatus(H3, "", 1 << 16, known=False),
    ),
    entries=(),
    election=None,
    pending_claims=(("c6", "10.44.0.1", 12),),
    pending_allocations=(("c4", "10.44.0.0/24"), ("c5", "10.44.0.0/24")),
    conflicts=((f"{H2}(h2)", "other seeds"),),
)
NAMES_OF_IPAM = {
    "weave_ips",
    "weave_max_ips",
    "weave_ipam_unreachable_count",
    "weave_ipam_unreachable_percentage",
    "weave_ipam_pending_allocates",
    "weave_ipam_pending_claims",
    "weave_ipam_conflicts",
}


def snapshot(status: RouterStatus, ipam: IpamStatus | None = None, dns: DnsStatus | None = None) -> Snapshot:
    return Snapshot(router=status, ipam=ipam, dns=dns, now=datetime(2026, 1, 31, tzinfo=UTC), version="3.0.0")


def scrape(status: RouterStatus, ipam: IpamStatus | None = None, dns: DnsStatus | None = None) -> Samples:
    text = render_metrics(snapshot(status, ipam, dns)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(values.items()))


def connections(samples: Samples) -> dict[tuple[str, str, str], float]:
    return {
        (found["state"], found["type"], found["encryption"]): value
        for (name, pairs), value in samples.items()
        if name == "weave_connections" and (found := dict(pairs))
    }


def test_connections() -> None:
    assert connections(scrape(SAMPLE_STATUS)) == {
        ("established", "sleeve", "yes"): 2,
        ("established", "sleeve", ""): 0,
        ("pending", "unknown", "yes"): 0,
        ("pending", "unknown", ""): 1,
        ("connecting", "unknown", "yes"): 0,
        ("connecting", "unknown", ""): 1,
        ("retrying", "unknown", "yes"): 0,
        ("retrying", "unknown", ""): 1,
        ("failed", "unknown", "yes"): 0,
        ("failed", "unknown", ""): 1,
    }


def test_counters() -> None:
    samples = scrape(SAMPLE_STATUS)
    assert samples["weave_connection_terminations_total", ()] == 3
    assert samples["weave_frames_captured_total", ()] == 12
    assert samples["weave_bytes_sent_total", ()] == 99
    assert samples["weave_drops_total", labels(reason="no_route")] == 3
    assert samples["weave_drops_total", labels(reason="replay")] == 1


def test_gauges() -> None:
    samples = scrape(SAMPLE_STATUS)
    assert samples["weave_peers", ()] == 2
    assert samples["weave_targets", ()] == 3
    assert samples["weave_macs", ()] == 1
    assert samples["weave_path_mtu_bytes", labels(peer=H2)] == 1414
    assert samples["weave_path_mtu_bytes", labels(peer=H3)] == 1410
    assert samples["weave_build_info", labels(version="3.0.0")] == 1


def test_process_metrics_are_there() -> None:
    names = {name for name, _ in scrape(SAMPLE_STATUS)}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_gc_collections_total"} <= names


def test_metrics_of_absent_services_are_absent() -> None:
    names = {name for name, _ in scrape(SAMPLE_STATUS)}
    assert not names & {"weave_flows", *NAMES_OF_IPAM}
    assert not {name for name in names if name.startswith("weave_dns")}


def test_ipam() -> None:
    samples = scrape(SAMPLE_STATUS, SEEDS)
    assert samples["weave_ips", labels(state="local-used")] == 7
    assert samples["weave_max_ips", ()] == 1 << 20
    assert samples["weave_ipam_unreachable_count", ()] == 2
    assert samples["weave_ipam_unreachable_percentage", ()] == 25.0
    assert samples["weave_ipam_pending_allocates", ()] == 2
    assert samples["weave_ipam_pending_claims", ()] == 1
    assert samples["weave_ipam_conflicts", ()] == 1


def test_ipam_without_a_ring() -> None:
    samples = scrape(SAMPLE_STATUS, replace(SEEDS, owners=(), active=0))
    assert samples["weave_ipam_unreachable_count", ()] == 0
    assert samples["weave_ipam_unreachable_percentage", ()] == 0


def test_ipam_metrics_are_gauges_as_in_2_8() -> None:
    families = text_string_to_metric_families(render_metrics(snapshot(SAMPLE_STATUS, SEEDS)).decode())
    assert {family.name for family in families if family.type == "gauge"} >= NAMES_OF_IPAM


def test_odd_counter_names_break_nothing() -> None:
    status = replace(SAMPLE_STATUS, counters={"a-b c": 1, "connection_terminations": 9, 'drop_"\n': 2})
    samples = scrape(status)
    assert samples["weave_a_b_c_total", ()] == 1
    assert samples["weave_connection_terminations_total", ()] == 3
    assert samples["weave_drops_total", labels(reason='"\n')] == 2


def test_scraping_again_works() -> None:
    told = snapshot(SAMPLE_STATUS, SEEDS)
    assert render_metrics(told)
    assert render_metrics(told)


# Names

NAMES = DnsStatus(
    ourselves=PeerName(1),
    domain="weave.local.",
    upstream=(),
    ttl=1,
    listening=(),
    troubles=(),
    entries=tuple(
        Entry("c1", PeerName(origin), ip_address("10.32.1.1"), f"{number}.weave.local.", 0, tombstone)
        for number, (origin, tombstone) in enumerate(((1, 0), (1, 0), (1, 7), (2, 0), (2, 9)))
    ),
    counters={"queries": 7, "rate_limited": 0, "upstream_asked": 2},
)


def test_names() -> None:
    samples = scrape(SAMPLE_STATUS, dns=NAMES)
    assert samples["weave_dns_entries", ()] == 2, "own living ones, as in 2.8"
    assert samples["weave_dns_known_entries", ()] == 3
    assert samples["weave_dns_queries_total", ()] == 7
    assert samples["weave_dns_rate_limited_total", ()] == 0
    assert samples["weave_dns_upstream_asked_total", ()] == 2


def test_names_of_nobody() -> None:
    samples = scrape(SAMPLE_STATUS, dns=replace(NAMES, entries=(), counters={}))
    assert (samples["weave_dns_entries", ()], samples["weave_dns_known_entries", ()]) == (0, 0)


def test_kinds_of_the_metrics_of_names() -> None:
    text = render_metrics(snapshot(SAMPLE_STATUS, dns=NAMES)).decode()
    kinds = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert (kinds["weave_dns_entries"], kinds["weave_dns_queries"]) == ("gauge", "counter")
