"""The results of a run as JSON, for comparing runs by program."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from bench.figures import Spread
from bench.probes import LOSS_PROBES, PROBES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.figures import Figures
    from bench.options import Options
    from bench.system import System
    from bench.targets import Judgement

_UNITS = {column.name: column.unit for probe in (*PROBES, *LOSS_PROBES) for column in probe.columns}


def as_json(
    options: Options,
    figures: Figures,
    judgements: Sequence[Judgement],
    left_out: Mapping[System, str],
    failed: Mapping[System, str],
) -> dict[str, Any]:
    """All there is to know about a run."""
    return {
        "machine": {"processors": os.cpu_count(), "architecture": platform.machine(), "kernel": platform.release()},
        "rounds": options.rounds,
        "loss_rounds": options.loss_rounds,
        "seconds": options.seconds,
        "systems": {
            system.name: {"title": system.title, "left_out": left_out.get(system), "failed": failed.get(system)}
            for system in options.systems
        },
        "figures": [
            {**key._asdict(), "unit": _UNITS[key.column], **_spread(Spread.of(values)), "rounds": values}
            for key in figures
            if (values := figures.values(key))
        ],
        "targets": [
            {
                "ratio": judgement.target.title,
                "at_least" if judgement.target.at_least else "at_most": judgement.target.limit,
                "verdict": judgement.verdict.value,
                **_spread(judgement.spread),
                "rounds": judgement.ratios,
            }
            for judgement in judgements
        ],
    }


def _spread(spread: Spread | None) -> dict[str, float | None]:
    if spread is None:
        return {"median": None, "min": None, "max": None}
    return {"median": spread.median, "min": spread.least, "max": spread.most}
