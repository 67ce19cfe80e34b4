"""`make bench`: overlays between containers side by side, on this one machine; see README.md.

Exit status: 0 if all is well, 1 if a target is missed or a system failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# `make bench` runs this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.contestants import Contestants
from bench.figures import Figures, Key
from bench.options import Options, parse
from bench.plan import Step, plan
from bench.program import exit_status, run_program
from bench.results import as_json
from bench.tables import result_tables, target_table
from bench.targets import judge
from bench.traffic import Traffic
from lab.network import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bench.progress import Progress
    from bench.system import Bed, System
    from bench.underlays import Underlay
    from lab.network import Lab

FIRST_PING_TIMEOUT_S = 20


class Bench:
    """A run in an empty lab."""

    def __init__(self, options: Options, lab: Lab, complaints: Console, progress: Progress) -> None:
        self._lab = lab
        self._options = options
        self._progress = progress
        self._traffic = Traffic(lab.directory, options.seconds)
        self.systems: Contestants[System, Bed] = Contestants("systems", options.systems, complaints)
        self.figures = Figures()

    def run(self) -> None:
        """Bring all systems up, then measure them in turn. LabError if none comes up."""
        self.systems.bring_up(self._build, self._progress)
        steps = plan(self._options, list(self.systems.up))
        underlay: Underlay | None = None
        for done, step in enumerate(steps):
            if step.system not in self.systems.up:
                continue
            headline = f"{step.underlay.name}, round {step.round + 1}"
            detail = f"{step.probe.columns[0].title}, {step.system.title}"
            self._progress.show(headline, detail, done, len(steps))
            if step.underlay is not underlay:
                underlay = step.underlay
                for bed in self.systems.up.values():
                    bed.behave_like(underlay)
            with self.systems.dropped_on_failure(step.system):
                self._measure(step)

    def _build(self, system: System) -> Bed:
        bed = system.build(self._lab)
        wait_until(
            lambda: bed.left.container.reaches(bed.right.address),
            FIRST_PING_TIMEOUT_S,
            "the containers to reach each other",
        )
        return bed

    def _measure(self, step: Step) -> None:
        bed = self.systems.up[step.system]
        if step.probe.loses_packets:
            with bed.losing(step.system.tunnel_packets):
                found = step.probe.measure(self._traffic, bed)
        else:
            found = step.probe.measure(self._traffic, bed)
        for column in step.probe.columns:
            key = Key(step.underlay.name, step.system.name, column.name)
            self.figures.add(key, step.round, found[column.name])


def report(options: Options, bench: Bench, console: Console) -> int:
    """Print the results and write the JSON; the exit status."""
    systems = bench.systems
    for underlay in options.underlays:
        for table in result_tables(bench.figures, underlay, systems.present):
            console.print(table, "")
    judgements = judge(bench.figures)
    console.print(target_table(judgements))
    if options.json is not None:
        results = as_json(options, bench.figures, judgements, systems.left_out, systems.failed)
        options.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return exit_status(judgements, failed=bool(systems.failed))


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status."""
    options = parse(arguments)
    return run_program(partial(Bench, options), partial(report, options))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
