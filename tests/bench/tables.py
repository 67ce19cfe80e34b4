"""The results of a run as tables, on a terminal or in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.table import Table

from bench.figures import Key, Spread
from bench.probes import (
    CPU,
    LOSSLESS,
    LOSSY,
    ROUND_TRIP,
    ROUND_TRIP_99,
    SENT,
    TCP_1,
    TCP_1_BACK,
    TCP_4,
    TCP_4_BACK,
    UDP_64,
    UDP_1200,
    Column,
)
from bench.targets import Judgement, Verdict
from bench.underlays import LOSS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.figures import Figures
    from bench.system import System
    from bench.underlays import Underlay

SENDER_BOUND = 0.9
"""If more than this part of the datagrams sent arrives, the sender is what limits."""
GROUPS = ((TCP_1, TCP_1_BACK, TCP_4, TCP_4_BACK, CPU), (UDP_64, UDP_1200, ROUND_TRIP, ROUND_TRIP_99))
"""Columns that share a table; all of them in one would be too wide."""


class Titled(Protocol):
    """Something that has a row."""

    @property
    def title(self) -> str:
        """What tables call it."""


T = TypeVar("T", bound=Titled)
_STYLES = {Verdict.MET: "green", Verdict.MISSED: "bold red", Verdict.NOT_MEASURED: "dim"}


def result_tables(figures: Figures, underlay: Underlay, systems: Sequence[System]) -> Iterable[Table]:
    """The tables of an underlay: medians, and the spread beneath if there was more than one round."""
    if underlay is LOSS:
        yield _loss_table(figures, systems)
        return
    for columns in GROUPS:
        measured = [c for c in columns if any(figures.values(Key(underlay.name, s.name, c.name)) for s in systems)]
        if measured:
            yield _group_table(figures, underlay, systems, measured)


def target_table(judgements: Iterable[Judgement]) -> Table:
    """Ratios beside their targets."""
    table = plain_table("Targets")
    table.add_column("ratio")
    for heading in ("target", "measured", "verdict"):
        table.add_column(heading, justify="right")
    for judgement in judgements:
        target, verdict = judgement.target, judgement.verdict
        limit = f"{'≥' if target.at_least else '≤'} {target.limit:g}"
        style = _STYLES[verdict]
        table.add_row(target.title, limit, cell(judgement.ratios), f"[{style}]{verdict.value}[/]")
    return table


def number(value: float) -> str:
    """A number with three significant digits at least; thousands are set apart."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _group_table(figures: Figures, underlay: Underlay, systems: Sequence[System], columns: Sequence[Column]) -> Table:
    table = plain_table(underlay.title)
    fill(
        table,
        systems,
        columns,
        lambda system, column: _figure_cell(figures, Key(underlay.name, system.name, column.name), column),
    )
    if set(columns) & set(SENT):
        table.caption = "* bound by the sender"
    return table


def _loss_table(figures: Figures, systems: Sequence[System]) -> Table:
    table = plain_table(LOSS.title)
    table.add_column("system")
    for column in (LOSSLESS, LOSSY):
        table.add_column(f"{column.title}\n{column.unit}", justify="right")
    table.add_column("kept\nratio", justify="right")
    for system in systems:
        if system.in_loss:
            without, with_loss = (Key(LOSS.name, system.name, column.name) for column in (LOSSLESS, LOSSY))
            ratios = figures.ratios([with_loss], [without])
            cells = (cell(figures.values(without)), cell(figures.values(with_loss)), cell(ratios))
            table.add_row(system.title, *cells)
    return table


def plain_table(title: str) -> Table:
    """An empty table."""
    return Table(
        title=title, title_justify="left", caption_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )


def fill(table: Table, systems: Iterable[T], columns: Sequence[Column], text_of: Callable[[T, Column], str]) -> None:
    """Add a column for each kind of figure and a row for each system."""
    table.add_column("system")
    for column in columns:
        table.add_column(f"{column.title}\n{column.unit}", justify="right")
    for system in systems:
        table.add_row(system.title, *(text_of(system, column) for column in columns))


def _figure_cell(figures: Figures, key: Key, column: Column) -> str:
    mark = ""
    if column in SENT:
        shares = figures.ratios([key], [key._replace(column=SENT[column].name)])
        mark = "*" if shares and Spread.of(shares).median > SENDER_BOUND else ""
    return cell(figures.values(key), mark)


def cell(values: Sequence[float], mark: str = "") -> str:
    """The median, and the spread beneath if there was more than one round."""
    if not values:
        return "–"
    spread = Spread.of(values)
    median = number(spread.median) + mark
    return median if len(values) == 1 else f"{median}\n[dim]{number(spread.least)}..{number(spread.most)}[/]"
