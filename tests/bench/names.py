"""`make bench`: name servers side by side, on this one machine; see README.md.

Exit status: 0 if all is well, 1 if a target is missed or a system failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import sys
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

# `make bench` runs this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.contestants import Contestants
from bench.dns_columns import (
    ALL,
    CLIENTS,
    ONE,
    SLOWEST,
    WINDOW,
    figures_at_half,
    figures_of_all,
    figures_of_one,
    judge,
    key,
    result_table,
)
from bench.dns_load import DnsLoad
from bench.dns_options import Options, parse
from bench.dns_systems import DOMAIN
from bench.figures import Figures
from bench.program import exit_status, run_program
from bench.tables import target_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bench.dns_load import NameServer
    from bench.dns_systems import DnsSystem
    from bench.probes import Column
    from bench.progress import Progress
    from lab.network import Lab

FIRST_ADDRESS = IPv4Address("10.2.8.0")


class Bench:
    """A run in an empty lab."""

    def __init__(self, options: Options, lab: Lab, complaints: Console, progress: Progress) -> None:
        self._lab = lab
        self._options = options
        self._progress = progress
        self._names = {f"host{number}.{DOMAIN}": str(FIRST_ADDRESS + number) for number in range(options.names)}
        self._load = DnsLoad(lab, self._names, options.seconds)
        self.systems: Contestants[DnsSystem, NameServer] = Contestants("name servers", options.systems, complaints)
        self.figures = Figures()

    def run(self) -> None:
        """Bring all servers up, then measure them in turn. LabError if none comes up."""
        self.systems.bring_up(self._build, self._progress)
        columns, rounds = (ONE, ALL, SLOWEST), self._options.rounds
        steps = [(r, column, system) for r in range(rounds) for column in columns for system in self.systems.up]
        for done, (round_number, column, system) in enumerate(steps):
            if system in self.systems.up:
                headline = f"Name servers, round {round_number + 1}"
                self._progress.show(headline, f"{column.title}, {system.title}", done, len(steps))
                with self.systems.dropped_on_failure(system):
                    self._measure(round_number, column, system)

    def _build(self, system: DnsSystem) -> NameServer:
        server = system.build(self._lab, self._names)
        self._load.wait_for_answer(server)
        return server

    def _measure(self, round_number: int, column: Column, system: DnsSystem) -> None:
        server = self.systems.up[system]
        if column is ONE:
            found = figures_of_one(self._load.busy(server, 1, WINDOW))
        elif column is ALL:
            found = figures_of_all(self._load.busy(server, CLIENTS, WINDOW))
        else:
            maximum = self.figures.values(key(system, ALL))[-1]  # of this round
            found = figures_at_half(self._load.paced(server, CLIENTS, maximum / 2))
        for name, value in found.items():
            self.figures.add(key(system, name), round_number, value)


def report(bench: Bench, console: Console) -> int:
    """Print the results; the exit status."""
    console.print(result_table(bench.figures, bench.systems.present), "")
    judgements = judge(bench.figures)
    console.print(target_table(judgements))
    return exit_status(judgements, failed=bool(bench.systems.failed))


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status."""
    return run_program(partial(Bench, parse(arguments)), report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
