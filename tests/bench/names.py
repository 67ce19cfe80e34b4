"""`make bench`: name servers side by side, on this one machine; see README.md.

Exit status: 0 if all is well, 1 if a target is missed or a system failed, 2 if nothing could be measured.
"""

from __future__ import annotations

import shutil
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

# `make bench` runs this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
from bench.progress import Progress
from bench.tables import target_table
from bench.targets import Verdict
from lab.network import Interrupted, Lab, LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.dns_columns import Column
    from bench.dns_load import NameServer
    from bench.dns_systems import DnsSystem

TOOLS = ("cc", "curl", "ethtool", "nft")
FIRST_ADDRESS = IPv4Address("10.2.8.0")
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
        self._names = {f"host{number}.{DOMAIN}": str(FIRST_ADDRESS + number) for number in range(options.names)}
        self._load = DnsLoad(lab, self._names, options.seconds)
        self._servers: dict[DnsSystem, NameServer] = {}
        self.figures = Figures()
        self.left_out: set[DnsSystem] = set()
        self.failed: set[DnsSystem] = set()

    def run(self) -> None:
        """Bring all servers up, then measure them in turn. LabError if none comes up."""
        self._build()
        if not self._servers:
            raise LabError("none of these name servers could be brought up")
        columns, rounds = (ONE, ALL, SLOWEST), self._options.rounds
        steps = [(r, column, system) for r in range(rounds) for column in columns for system in self._servers]
        for done, (round_number, column, system) in enumerate(steps):
            if system in self._servers:
                headline = f"Name servers, round {round_number + 1}"
                self._progress.show(headline, f"{column.title}, {system.title}", done, len(steps))
                self._measure(round_number, column, system)

    def _build(self) -> None:
        for number, system in enumerate(self._options.systems):
            if reason := system.absent():
                self.left_out.add(system)
                self._complaints.print(f"{system.title} is left out: {reason}", highlight=False)
                continue
            self._progress.show("Bringing the name servers up", system.title, number, len(self._options.systems))
            try:
                self._servers[system] = server = system.build(self._lab, self._names)
                self._load.wait_for_answer(server)
            except LabError as error:
                self._drop(system, error)

    def _measure(self, round_number: int, column: Column, system: DnsSystem) -> None:
        server = self._servers[system]
        try:
            if column is ONE:
                found = figures_of_one(self._load.busy(server, 1, WINDOW))
            elif column is ALL:
                found = figures_of_all(self._load.busy(server, CLIENTS, WINDOW))
            else:
                maximum = self.figures.values(key(system, ALL))[-1]  # of this round
                found = figures_at_half(self._load.paced(server, CLIENTS, maximum / 2))
        except LabError as error:
            self._drop(system, error)
            return
        for name, value in found.items():
            self.figures.add(key(system, name), round_number, value)

    def _drop(self, system: DnsSystem, error: LabError) -> None:
        self._servers.pop(system, None)
        self.failed.add(system)
        self._complaints.print(f"{system.title} failed and is not measured any more: {error}", markup=False)


def report(bench: Bench, options: Options, console: Console) -> int:
    """Print the results; the exit status."""
    console.print(
        result_table(bench.figures, [system for system in options.systems if system not in bench.left_out]), ""
    )
    judgements = judge(bench.figures)
    console.print(target_table(judgements))
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
