"""`make bench`: overlays between containers side by side, on this one machine; see README.md.

Exit status: 0 if all is well, 1 if a target is missed or a system failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

# `make bench` runs this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import Figures, Key
from bench.options import Options, parse
from bench.plan import Step, plan
from bench.progress import Progress
from bench.results import as_json
from bench.tables import result_tables, target_table
from bench.targets import Verdict, judge
from bench.traffic import Traffic
from lab.network import Interrupted, Lab, LabError, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.system import Bed, System
    from bench.underlays import Underlay

TOOLS = ("cc", "curl", "ethtool", "nft")
FIRST_PING_TIMEOUT_S = 20
PIPE_WIDTH = 120
"""Columns of text where there is no terminal."""
FAILED = 1
NOTHING_MEASURED = 2


class Bench:
    """A run in an empty lab."""

    def __init__(self, lab: Lab, options: Options, complaints: Console, progress: Progress) -> None:
        self._lab = lab
        self._options = options
        self._complaints = complaints
        self._progress = progress
        self._traffic = Traffic(lab.directory, options.seconds)
        self._beds: dict[System, Bed] = {}
        self.figures = Figures()
        self.left_out: dict[System, str] = {}
        self.failed: dict[System, str] = {}

    def run(self) -> None:
        """Bring all systems up, then measure them in turn. LabError if none comes up."""
        self._build()
        if not self._beds:
            raise LabError("none of these systems could be brought up")
        steps = plan(self._options, list(self._beds))
        underlay: Underlay | None = None
        for done, step in enumerate(steps):
            if step.system not in self._beds:
                continue
            headline = f"{step.underlay.name}, round {step.round + 1}"
            detail = f"{step.probe.columns[0].title}, {step.system.title}"
            self._progress.show(headline, detail, done, len(steps))
            if step.underlay is not underlay:
                underlay = step.underlay
                for bed in self._beds.values():
                    bed.behave_like(underlay)
            self._measure(step)

    def _build(self) -> None:
        for number, system in enumerate(self._options.systems):
            if reason := system.absent():
                self.left_out[system] = reason
                self._complaints.print(f"{system.title} is left out: {reason}", highlight=False)
                continue
            self._progress.show("Bringing the systems up", system.title, number, len(self._options.systems))
            try:
                self._beds[system] = bed = system.build(self._lab)
                wait_until(
                    lambda b=bed: b.left.container.reaches(b.right.address),  # type: ignore[misc]
                    FIRST_PING_TIMEOUT_S,
                    "the containers to reach each other",
                )
            except LabError as error:
                self._drop(system, error)

    def _measure(self, step: Step) -> None:
        bed = self._beds[step.system]
        try:
            if step.probe.loses_packets:
                with bed.losing(step.system.tunnel_packets):
                    found = step.probe.measure(self._traffic, bed)
            else:
                found = step.probe.measure(self._traffic, bed)
        except LabError as error:
            self._drop(step.system, error)
            return
        for column in step.probe.columns:
            key = Key(step.underlay.name, step.system.name, column.name)
            self.figures.add(key, step.round, found[column.name])

    def _drop(self, system: System, error: LabError) -> None:
        self._beds.pop(system, None)
        self.failed[system] = str(error)
        self._complaints.print(f"{system.title} failed and is not measured any more: {error}", markup=False)


def report(bench: Bench, options: Options, console: Console) -> int:
    """Print the results and write the JSON; the exit status."""
    systems = [system for system in options.systems if system not in bench.left_out]
    for underlay in options.underlays:
        for table in result_tables(bench.figures, underlay, systems):
            console.print(table, "")
    judgements = judge(bench.figures)
    console.print(target_table(judgements))
    if options.json is not None:
        results = as_json(options, bench.figures, judgements, bench.left_out, bench.failed)
        options.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    missed = any(judgement.verdict is Verdict.MISSED for judgement in judgements)
    return FAILED if missed or bench.failed else 0


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status."""
    options = parse(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    complaints = Console(stderr=True, soft_wrap=True)
    try:
        with Lab() as lab:
            if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
                raise LabError(f"the bench needs {', '.join(missing)} (install with `.ci/packages bench`)")
            with Progress(complaints) as progress:
                bench = Bench(lab, options, complaints, progress)
                bench.run()
            return report(bench, options, console)
    except Interrupted as interrupt:
        complaints.print("Interrupted; everything is removed.")
        return 128 + interrupt.number
    except LabError as error:
        complaints.print(str(error), markup=False, highlight=False)
        return NOTHING_MEASURED


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
