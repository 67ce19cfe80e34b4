"""The bench as a whole, in its smallest form: what it prints and writes, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).with_name("overlays.py")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as `make bench` does."""
    command = (sys.executable, str(BENCH), "--quick", "--seconds", "0.2", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.root
def test_smallest_run(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    done = bench("--systems", "underlay,sleeve", "--underlays", "veth,loss", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "veth: superframes cross it uncut" in done.stdout
    results = json.loads(file.read_text())
    assert {name: (of["left_out"], of["failed"]) for name, of in results["systems"].items()} == {
        "underlay": (None, None),
        "sleeve": (None, None),
    }
    measured = {(figure["underlay"], figure["column"]) for figure in results["figures"] if figure["median"] > 0}
    columns = "tcp1 tcp1-back tcp4 tcp4-back cpu udp64 udp64-sent udp1200 udp1200-sent rtt-p50 rtt-p99"
    assert measured == {("veth", column) for column in columns.split()} | {
        ("loss", "tcp1-lossless"),
        ("loss", "tcp1-lossy"),
    }
    assert len(results["figures"]) == 2 * len(measured)
    assert {target["verdict"] for target in results["targets"]} == {"not measured"}


@pytest.mark.root
def test_absent_systems_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEAVER", raising=False)
    done = bench("--systems", "weave28")
    assert done.returncode == 2
    assert "Weave Net 2.8 is left out: WEAVER does not name its binary" in done.stderr
    assert "Traceback" not in done.stderr
