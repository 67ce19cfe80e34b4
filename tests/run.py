"""Runs all tests that this machine can run; `make test` calls it. Arguments are passed on to pytest.

Without arguments, as root, those that mostly wait (marked `waits`) run beside the others, those that measure (`alone`)
when all others have ended; with arguments, all that they mean run one after the other.

Exit status: pytest's own when something failed; 3 when tests were left out for lack of root; 4 when tests
were skipped where all of them must run, which is in CI and as root. Interoperation tests are left out without
WEAVER, and that alone is no failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
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


def side_by_side() -> int:
    """Run everything in the least time; the first exit status that is not 0."""
    command = [sys.executable, __file__, "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile() as output:
        waiting = subprocess.Popen([*command, "-m", "waits"], stdout=output, stderr=subprocess.STDOUT)
        try:
            statuses = [subprocess.call([*command, "-m", "not waits and not alone"])]
            statuses.append(waiting.wait())
        finally:
            if waiting.poll() is None:
                waiting.terminate()
                waiting.wait()
        output.seek(0)
        print("Beside them ran those that mostly wait:", flush=True)
        shutil.copyfileobj(output, sys.stdout.buffer)
        sys.stdout.flush()
    print("Now those that measure:", flush=True)
    statuses.append(subprocess.call([*command, "-m", "alone"]))
    return next((status for status in statuses if status), 0)


def main(arguments: list[str]) -> int:
    """Run pytest and judge what it left undone."""
    if not arguments and os.geteuid() == 0:
        return side_by_side()
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
