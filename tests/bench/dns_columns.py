"""What is measured of name servers, the ratios that this project promises, and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.dns_systems import WeaveDns, WeaveNet28Dns
from bench.figures import Key, Spread
from bench.probes import Column
from bench.tables import cell, fill, plain_table
from bench.targets import Judgement, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

    from bench.dns_load import Answers
    from bench.dns_systems import DnsSystem
    from bench.figures import Figures

CLIENTS = 8
WINDOW = 16
"""Queries that a busy client has out. All clients' together fit into a socket's buffer as Linux makes it (some 270
queries): a server that asks for no larger one would else lose them, which is not the question here."""
CLIENT_BOUND = 0.9
"""If the clients take more than this part of one processor, they are what limits."""


ONE = Column("one", "1 busy client", "queries/s")
ALL = Column("all", f"{CLIENTS} busy clients", "queries/s")
MEDIAN = Column("p50", "half of that: p50", "ms")
SLOWEST = Column("p99", "p99", "ms")
CPU = Column("cpu", "processor", "s/100 000")
LOST = Column("lost", "lost", "%")
LOST_AT_HALF = Column("lost-half", "lost at half", "%")
COLUMNS = (ONE, ALL, MEDIAN, SLOWEST, CPU, LOST, LOST_AT_HALF)
ONE_SHARE, ALL_SHARE = "one-clients-share", "all-clients-share"
"""Further figures: part of one processor that the clients took."""
_SHARES = {ONE: ONE_SHARE, ALL: ALL_SHARE}


def key(system: DnsSystem | type[DnsSystem], column: Column | str) -> Key:
    """What a figure is noted under."""
    return Key("dns", system.name, column if isinstance(column, str) else column.name)


TARGETS = (
    *(
        Target(
            f"queries/s, {column.title}, {WeaveDns.title} : {WeaveNet28Dns.title}",
            (key(WeaveDns, column),),
            (key(WeaveNet28Dns, column),),
            0.5,
        )
        for column in (ONE, ALL)
    ),
    Target(f"p99 at half of the maximum in ms, {WeaveDns.title}", (key(WeaveDns, SLOWEST),), (), 5, at_least=False),
)


def figures_of_one(answers: Answers) -> dict[str, float]:
    """The figures of one busy client."""
    return {ONE.name: answers.per_s, ONE_SHARE: answers.client_share}


def figures_of_all(answers: Answers) -> dict[str, float]:
    """The figures of all clients, busy."""
    return {
        ALL.name: answers.per_s,
        ALL_SHARE: answers.client_share,
        CPU.name: answers.server_cpu_s * 100_000,
        LOST.name: answers.lost * 100,
    }


def figures_at_half(answers: Answers) -> dict[str, float]:
    """The figures of all clients at half of the rate."""
    return {MEDIAN.name: answers.p50_ms, SLOWEST.name: answers.p99_ms, LOST_AT_HALF.name: answers.lost * 100}


def judge(figures: Figures) -> list[Judgement]:
    """Compare a run with the targets."""
    return [Judgement(target, tuple(figures.ratios(target.above, target.below))) for target in TARGETS]


def result_table(figures: Figures, systems: Iterable[DnsSystem]) -> Table:
    """Medians, and the spread beneath if there was more than one round."""
    table = plain_table(f"Name servers: A records of containers, {WINDOW} queries at a time per busy client")
    table.caption = "* bound by the clients"
    fill(table, systems, COLUMNS, lambda system, column: _cell(figures, system, column))
    return table


def _cell(figures: Figures, system: DnsSystem, column: Column) -> str:
    shares: Sequence[float] = figures.values(key(system, _SHARES[column])) if column in _SHARES else ()
    mark = "*" if shares and Spread.of(shares).median > CLIENT_BOUND else ""
    return cell(figures.values(key(system, column)), mark)
