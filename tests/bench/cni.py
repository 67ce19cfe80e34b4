"""`make bench`: CNI plugins side by side, on this one machine; see README.md.

Exit status: 0 if all is well, 1 if a target is missed or a system failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# `make bench` runs this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.cni_columns import ALL, COMMANDS, ONE, TITLES, figures_of, judge, key, result_tables
from bench.cni_load import call
from bench.cni_options import Options, parse
from bench.contestants import Contestants
from bench.figures import Figures
from bench.program import exit_status, run_program
from bench.tables import target_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bench.cni_load import Plugin
    from bench.cni_systems import CniSystem
    from bench.progress import Progress
    from lab.network import Lab


class Bench:
    """A run in an empty lab."""

    def __init__(self, options: Options, lab: Lab, complaints: Console, progress: Progress) -> None:
        self._lab = lab
        self._options = options
        self._progress = progress
        self.systems: Contestants[CniSystem, Plugin] = Contestants("CNI plugins", options.systems, complaints)
        self.figures = Figures()

    def run(self) -> None:
        """Make all plugins ready, then measure them in turn. LabError if none gets ready."""
        self.systems.bring_up(self._build, self._progress)
        rounds = range(self._options.rounds)
        steps = [(r, at_once, system) for r in rounds for at_once in (ONE, ALL) for system in self.systems.up]
        for done, (round_number, at_once, system) in enumerate(steps):
            if system in self.systems.up:
                headline = f"CNI plugins, round {round_number + 1}"
                self._progress.show(headline, f"{TITLES[at_once]}, {system.title}", done, len(steps))
                with self.systems.dropped_on_failure(system):
                    self._measure(round_number, at_once, system)

    def _build(self, system: CniSystem) -> Plugin:
        plugin = system.build(self._lab)
        call(plugin, COMMANDS[ALL], batches=1, at_once=ALL)  # what is done once, like making the bridge
        return plugin

    def _measure(self, round_number: int, at_once: int, system: CniSystem) -> None:
        plugin = self.systems.up[system]
        found = call(plugin, COMMANDS[at_once], batches=self._options.batches, at_once=at_once)
        for column, value in figures_of(found, at_once).items():
            self.figures.add(key(system, column), round_number, value)


def report(bench: Bench, console: Console) -> int:
    """Print the results; the exit status."""
    for table in result_tables(bench.figures, bench.systems.present):
        console.print(table, "")
    judgements = judge(bench.figures)
    console.print(target_table(judgements))
    return exit_status(judgements, failed=bool(bench.systems.failed))


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status."""
    return run_program(partial(Bench, parse(arguments)), report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
