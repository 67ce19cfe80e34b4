"""Tables: what a reader of a pipe sees."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from bench.figures import Figures, Key
from bench.probes import SENT, TCP_1, UDP_64
from bench.program import PIPE_WIDTH
from bench.system_kernel import KernelVxlan, NoOverlay
from bench.tables import number, result_tables, target_table
from bench.targets import judge
from bench.underlays import LOSS, VETH

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

SYSTEMS = (NoOverlay(), KernelVxlan())


def text_of(tables: Iterable[Table]) -> str:
    """What is printed where there is no terminal."""
    console = Console(file=StringIO(), width=PIPE_WIDTH)
    for table in tables:
        console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def row(text: str, start: str) -> str:
    """The line that begins like this, with single spaces."""
    (line,) = (line for line in text.splitlines() if line.startswith(start))
    return " ".join(line.split())


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12 346"), (100, "100"), (99.44, "99.4"), (9.876, "9.88"), (0.2, "0.20"), (0, "0.00")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_rounds_give_a_median_and_a_spread() -> None:
    figures = Figures()
    for round_number, value in enumerate([3000, 1000, 2000]):
        figures.add(Key("veth", "vxlan", "tcp1"), round_number, value)
    lines = text_of(result_tables(figures, VETH, SYSTEMS)).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("kernel VXLAN"))
    assert lines[at].split() == ["kernel", "VXLAN", "2", "000"]
    assert lines[at + 1].strip() == "1 000..3 000"


def test_one_round_gives_a_bare_figure_and_what_is_missing_a_dash() -> None:
    figures = Figures()
    figures.add(Key("veth", "vxlan", TCP_1.name), 0, 2000)
    text = text_of(result_tables(figures, VETH, SYSTEMS))
    assert row(text, "kernel VXLAN") == "kernel VXLAN 2 000"
    assert row(text, "underlay") == "underlay, no overlay –"
    assert "round trip" not in text  # nothing of that was measured


def test_a_figure_bound_by_its_sender_is_marked() -> None:
    figures = Figures()
    for system, received in (("underlay", 99.0), ("vxlan", 50.0)):
        figures.add(Key("veth", system, UDP_64.name), 0, received)
        figures.add(Key("veth", system, SENT[UDP_64].name), 0, 100)
    text = text_of(result_tables(figures, VETH, SYSTEMS))
    assert row(text, "underlay").endswith("99.0*")
    assert row(text, "kernel VXLAN").endswith("50.0")
    assert "* bound by the sender" in text


def test_loss_shows_what_is_kept() -> None:
    figures = Figures()
    figures.add(Key("loss", "vxlan", "tcp1-lossless"), 0, 4000)
    figures.add(Key("loss", "vxlan", "tcp1-lossy"), 0, 1000)
    assert row(text_of(result_tables(figures, LOSS, SYSTEMS)), "kernel VXLAN").endswith("4 000 1 000 0.25")


def test_targets_fit_a_line_each() -> None:
    figures = Figures()
    for system, value in (("sleeve", 3000), ("vxlan", 10_000), ("weave28", 400)):
        figures.add(Key("veth", system, "tcp1"), 0, value)
    text = text_of([target_table(judge(figures))])
    assert row(text, "TCP, weave sleeve : kernel VXLAN") == "TCP, weave sleeve : kernel VXLAN ≥ 0.28 0.30 met"
    assert row(text, "TCP, weave sleeve : Weave Net 2.8") == "TCP, weave sleeve : Weave Net 2.8 ≥ 9 7.50 missed"
    assert row(text, "round trip").endswith("≤ 0.5 – not measured")
