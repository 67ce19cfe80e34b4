"""Clusters with names in turmoil, a seed each; `simulate_names.py` runs more and larger ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulation.simulate_names import SIMULATION

if TYPE_CHECKING:
    from simulation.seeds import Run

PEERS = 6
SEEDS = (1, 2, 3, 4, 8, 10, 13, 21)
"""Without the two hours of rest that others end with."""


@pytest.fixture(scope="module")
def names_runs() -> dict[int, Run]:
    """All seeds, run on all processors."""
    return {run.outcome.plan.seed: run for run in SIMULATION.simulate(SEEDS, PEERS)}


@pytest.mark.parametrize("seed", SEEDS)
def test_everybody_knows_the_names_that_are_there_and_no_others(names_runs: dict[int, Run], seed: int) -> None:
    outcome = names_runs[seed].outcome
    assert not outcome.error, f"{outcome.error}\nAgain, with all that happened: {SIMULATION.command(seed, PEERS)}"


def test_a_seed_decides_all_that_happens_to_names(names_runs: dict[int, Run]) -> None:
    quickest = min(names_runs.values(), key=lambda run: run.seconds).outcome
    (again,) = SIMULATION.simulate([quickest.plan.seed], PEERS)
    assert again.outcome.trace == quickest.trace
    assert len(quickest.trace) > 30
