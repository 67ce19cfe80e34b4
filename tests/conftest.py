"""What holds for all tests: how hard hypothesis tries, and which tests this machine cannot run.

Tests marked `root` need root, tests marked `interop` a Weave Net 2.8 binary named by WEAVER. Where that is
missing they are left out, not skipped, and the summary says how many and what to do about it. `tests/run.py`
turns that into an exit status.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

pytest_plugins = ["lab.fixtures"]

# No deadlines: on a busy machine they measure the others' work. Slow generation has the same cause.
_fast = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
_storage = Path(".hypothesis") if Path(".hypothesis").exists() else Path()
if not os.access(_storage, os.W_OK):
    # Left by an earlier `sudo make test`: hypothesis would warn, and warnings are errors here.
    _fast = hypothesis.settings(_fast, database=None)
hypothesis.settings.register_profile("fast", _fast)
hypothesis.settings.register_profile("deep", _fast, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

left_out_key = pytest.StashKey[dict[str, int]]()
"""Numbers of tests left out, by marker; of `pytest.Config`."""


def _unmet_needs() -> dict[str, str]:
    """Markers whose tests cannot run here, and what would change that."""
    needs = {}
    if os.geteuid() != 0:
        needs["root"] = "need root: run `sudo make test`"
    if not os.environ.get("WEAVER"):
        needs["interop"] = "need a Weave Net 2.8 daemon: name its binary in WEAVER"
    return needs


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run here."""
    left_out: dict[str, int] = {}
    kept, dropped = [], []
    for item in items:
        unmet = next((marker for marker in _unmet_needs() if item.get_closest_marker(marker)), None)
        if unmet is None:
            kept.append(item)
        else:
            left_out[unmet] = left_out.get(unmet, 0) + 1
            dropped.append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
    config.stash[left_out_key] = left_out


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out."""
    for marker, count in config.stash.get(left_out_key, {}).items():
        terminalreporter.write_line(f"Left out: {count} tests {_unmet_needs()[marker]}", yellow=True)
