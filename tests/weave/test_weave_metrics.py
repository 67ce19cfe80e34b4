"""Metrics: the names that dashboards read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from weave_net.metrics import render_metrics
from weave_net.testing.statuses import H2, H3, SAMPLE_STATUS

if TYPE_CHECKING:
    from weave_router.status import RouterStatus

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(status: RouterStatus) -> Samples:
    text = render_metrics(status, "3.0.0").decode()
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
    assert not names & {"weave_ips", "weave_dns_entries", "weave_flows", "weave_ipam_unreachable_count"}


def test_odd_counter_names_break_nothing() -> None:
    status = replace(SAMPLE_STATUS, counters={"a-b c": 1, "connection_terminations": 9, 'drop_"\n': 2})
    samples = scrape(status)
    assert samples["weave_a_b_c_total", ()] == 1
    assert samples["weave_connection_terminations_total", ()] == 3
    assert samples["weave_drops_total", labels(reason='"\n')] == 2


def test_scraping_again_works() -> None:
    assert render_metrics(SAMPLE_STATUS, "3")
    assert render_metrics(SAMPLE_STATUS, "3")
