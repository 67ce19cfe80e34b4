"""What is measured of CNI plugins, the ratios that this project promises, and the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cni_systems import CONTAINERS, BridgeCni, WeaveCni
from bench.figures import Key
from bench.probes import Column
from bench.tables import cell, fill, plain_table
from bench.targets import Judgement, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.table import Table

    from bench.cni_load import Calls
    from bench.cni_systems import CniSystem
    from bench.figures import Figures

ONE, ALL = 1, CONTAINERS
"""How many calls run at a time."""
COMMANDS = {ONE: ("VERSION", "ADD", "DEL"), ALL: ("ADD", "DEL")}
TITLES = {ONE: "CNI plugins, one call at a time", ALL: f"CNI plugins, {ALL} calls at once"}


def latency(command: str, quantile: str, at_once: int) -> Column:
    """From the start of the executable to its end."""
    return Column(f"{command.lower()}-{quantile}-{at_once}", f"{command} {quantile}", "ms")


LATENCIES = {
    at_once: tuple(latency(command, quantile, at_once) for command in ("ADD", "DEL") for quantile in ("p50", "p99"))
    for at_once in (ONE, ALL)
}
ALONE = Column("version-p50-1", "VERSION p50", "ms")
PARTS = {
    command: (
        Column(f"{command.lower()}-rest", f"{command} beyond", "ms"),
        Column(f"{command.lower()}-processor", "processor", "ms"),
        Column(f"{command.lower()}-daemon", "+ daemon", "ms"),
    )
    for command in ("ADD", "DEL")
}
"""Where the time goes of one call at a time: what it takes longer than VERSION, and processor time of executable and
daemon."""


def key(system: CniSystem | type[CniSystem], column: Column) -> Key:
    """What a figure is noted under."""
    return Key("cni", system.name, column.name)


def _versus(command: str, limit: float) -> Target:
    column = latency(command, "p50", ONE)
    title = f"{command} p50, one at a time, {WeaveCni.title} : {BridgeCni.title}"
    return Target(title, (key(WeaveCni, column),), (key(BridgeCni, column),), limit, at_least=False)


TARGETS = (
    _versus("ADD", 3),
    Target(
        f"ADD p50 in ms, one at a time, {WeaveCni.title}",
        (key(WeaveCni, latency("ADD", "p50", ONE)),),
        (),
        50,
        at_least=False,
    ),
    _versus("DEL", 1.8),
)


def figures_of(found: Mapping[str, Calls], at_once: int) -> dict[Column, float]:
    """The figures of one measurement."""
    figures: dict[Column, float] = {}
    for command in ("ADD", "DEL"):
        calls = found[command]
        figures[latency(command, "p50", at_once)] = calls.p50_ms
        figures[latency(command, "p99", at_once)] = calls.p99_ms
    if at_once != ONE:
        return figures
    figures[ALONE] = found["VERSION"].p50_ms
    for command, (rest, processor, daemon) in PARTS.items():
        calls = found[command]
        figures[rest] = calls.p50_ms - figures[ALONE]
        figures[processor] = calls.processor_ms
        if calls.daemon_ms is not None:
            figures[daemon] = calls.daemon_ms
    return figures


def judge(figures: Figures) -> list[Judgement]:
    """Compare a run with the targets."""
    return [Judgement(target, tuple(figures.ratios(target.above, target.below))) for target in TARGETS]


def result_tables(figures: Figures, systems: Sequence[CniSystem]) -> Iterable[Table]:
    """Latencies, and where they come from."""
    for at_once, columns in LATENCIES.items():
        yield _table(TITLES[at_once], columns, figures, systems)
    yield _table(f"{TITLES[ONE]}: where the time goes", (ALONE, *PARTS["ADD"], *PARTS["DEL"]), figures, systems)


def _table(title: str, columns: Sequence[Column], figures: Figures, systems: Sequence[CniSystem]) -> Table:
    table = plain_table(title)
    fill(table, systems, columns, lambda system, column: cell(figures.values(key(system, column))))
    return table
