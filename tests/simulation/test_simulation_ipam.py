"""Clusters in turmoil, a seed each; `make simulate` runs more and larger ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simulation.simulate_ipam import SIMULATION

if TYPE_CHECKING:
    from simulation.seeds import Run

PEERS = 9
SEEDS = range(1, 13)


@pytest.fixture(scope="module")
def runs() -> dict[int, Run]:
    """All seeds, run on all processors."""
    return {run.outcome.plan.seed: run for run in SIMULATION.simulate(SEEDS, PEERS)}


@pytest.mark.parametrize("seed", SEEDS)
def test_turmoil_breaks_no_invariant_and_ends_in_agreement(runs: dict[int, Run], seed: int) -> None:
    outcome = runs[seed].outcome
    assert not outcome.error, f"{outcome.error}\nAgain, with all that happened: {SIMULATION.command(seed, PEERS)}"


def test_a_seed_decides_everything(runs: dict[int, Run]) -> None:
    seed = min(runs, key=lambda seed: runs[seed].seconds)
    (again,) = SIMULATION.simulate([seed], PEERS)
    assert again.outcome.trace == runs[seed].outcome.trace
    assert len(again.outcome.trace) > 50
