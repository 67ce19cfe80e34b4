"""Which measurements a run consists of, in their order.

Systems take turns at every single measurement, so that a noisy moment of the machine hits all of them alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.probes import LOSS_PROBES, PROBES
from bench.underlays import LOSS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from bench.options import Options
    from bench.probes import Probe
    from bench.system import System
    from bench.underlays import Underlay


@dataclass(frozen=True)
class Step:
    """One measurement of one system."""

    underlay: Underlay
    round: int
    """From 0."""
    probe: Probe
    system: System


def plan(options: Options, systems: Sequence[System]) -> list[Step]:
    """All measurements of these systems."""
    steps: list[Step] = []
    for underlay in options.underlays:
        steps += _with_loss(options, systems) if underlay is LOSS else _without_loss(options, systems, underlay)
    return steps


def _without_loss(options: Options, systems: Sequence[System], underlay: Underlay) -> Iterator[Step]:
    probes = [probe for probe in PROBES if _fills(probe, options.columns)]
    for number in range(options.rounds):
        for probe in probes:
            for system in systems:
                yield Step(underlay, number, probe, system)


def _with_loss(options: Options, systems: Sequence[System]) -> Iterator[Step]:
    for number in range(options.loss_rounds):
        for system in systems:
            if system.in_loss:
                for probe in LOSS_PROBES:
                    yield Step(LOSS, number, probe, system)


def _fills(probe: Probe, columns: Collection[str]) -> bool:
    return any(column.name in columns for column in probe.columns)
