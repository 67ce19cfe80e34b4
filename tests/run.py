"""Runs all tests that this machine can run; `make test` calls it. Arguments are passed on to pytest.

Exit status: pytest's own when something failed; 3 when tests were left out for lack of root; 4 when tests
were skipped where all of them must run, which is in CI and as root. Interoperation tests are left out without
WEAVER, and that alone is no failure.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDS_ROOT = 3
SKIPPED = 4


class Accountant:
    """A pytest plugin that counts what did not run."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.skipped: list[str] = []

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Count tests that were left out, by what they need."""
        for item in items:
            self.left_out.update(marker for marker in ("root", "interop") if item.get_closest_marker(marker))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note each skipped test with its reason; expected failures are no skips, interoperation may be."""
        if report.skipped and not hasattr(report, "wasxfail") and "interop" not in report.keywords:
            self._note(report.nodeid, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note each module that skipped itself."""
        if report.skipped:
            self._note(report.nodeid, report.longrepr)

    def _note(self, where: str, reason: object) -> None:
        text = reason[2] if isinstance(reason, tuple) else reason
        self.skipped.append(f"{where}: {text}")


def main(arguments: list[str]) -> int:
    """Run pytest and judge what it left undone."""
    os.chdir(ROOT)
    cache = Path(".pytest_cache")
    if not os.access(cache if cache.exists() else ROOT, os.W_OK):
        # Left by an earlier `sudo make test`: pytest would warn, and warnings are errors here.
        arguments = ["-p", "no:cacheprovider", *arguments]
    accountant = Accountant()
    status = int(pytest.main(arguments, plugins=[accountant]))
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return status
    if accountant.skipped and (os.environ.get("CI") or os.geteuid() == 0):
        print("These tests were skipped, but here all have to run:", file=sys.stderr)
        for line in accountant.skipped:
            print(f"  {line}", file=sys.stderr)
        return SKIPPED
    if accountant.left_out["root"] and os.geteuid() != 0:
        print(f"{accountant.left_out['root']} tests need root: run `sudo make test`", file=sys.stderr)
        return NEEDS_ROOT
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
