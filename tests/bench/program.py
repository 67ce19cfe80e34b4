"""What the programs of the benchmark share: a lab and a line of progress around them, and their exit status."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.console import Console

from bench.progress import Progress
from bench.targets import Verdict
from lab.network import Interrupted, Lab, LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.targets import Judgement

TOOLS = ("cc", "curl", "ethtool", "nft")
PIPE_WIDTH = 120
"""Columns of text where there is no terminal."""
FAILED = 1
NOTHING_MEASURED = 2


class Measuring(Protocol):
    """What a program makes for a run, with a lab, a console for complaints and a line of progress."""

    def run(self) -> None:
        """Measure. LabError if there is nothing to measure."""


M = TypeVar("M", bound=Measuring)


def run_program(make: Callable[[Lab, Console, Progress], M], report: Callable[[M, Console], int]) -> int:
    """Measure in an empty lab and report; the exit status."""
    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    complaints = Console(stderr=True, soft_wrap=True)
    try:
        with Lab() as lab:
            if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
                raise LabError(f"the bench needs {', '.join(missing)} (install with `.ci/packages bench`)")
            with Progress(complaints) as progress:
                bench = make(lab, complaints, progress)
                bench.run()
            return report(bench, console)
    except Interrupted as interrupt:
        complaints.print("Interrupted; everything is removed.")
        return 128 + interrupt.number
    except LabError as error:
        complaints.print(str(error), markup=False, highlight=False)
        return NOTHING_MEASURED


def exit_status(judgements: Iterable[Judgement], *, failed: bool) -> int:
    """`failed`: whether a system did."""
    missed = any(judgement.verdict is Verdict.MISSED for judgement in judgements)
    return FAILED if missed or failed else 0
