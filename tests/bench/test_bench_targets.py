"""Targets: judged by the median of the rounds' ratios."""

from __future__ import annotations

import pytest

from bench.catalogue import SYSTEMS
from bench.figures import Figures, Key
from bench.options import parse
from bench.plan import plan
from bench.targets import TARGETS, Judgement, Target, Verdict, judge

FASTER = Target("faster", (Key("veth", "ours", "tcp1"),), (Key("veth", "theirs", "tcp1"),), 2)
QUICKER = Target("quicker", FASTER.above, FASTER.below, 0.5, at_least=False)


@pytest.mark.parametrize(
    ("target", "ratios", "verdict"),
    [
        (FASTER, (1.0, 2.0, 9.0), Verdict.MET),
        (FASTER, (1.0, 1.9, 9.0), Verdict.MISSED),
        (QUICKER, (0.1, 0.5, 0.9), Verdict.MET),
        (QUICKER, (0.1, 0.6, 0.9), Verdict.MISSED),
        (FASTER, (), Verdict.NOT_MEASURED),
    ],
)
def test_the_median_is_judged(target: Target, ratios: tuple[float, ...], verdict: Verdict) -> None:
    assert Judgement(target, ratios).verdict is verdict


def test_nothing_measured() -> None:
    assert {judgement.verdict for judgement in judge(Figures())} == {Verdict.NOT_MEASURED}


def test_a_full_run_measures_every_target() -> None:
    """Names in targets are those that the plan measures; with all figures equal every ratio is 1."""
    figures = Figures()
    for step in plan(parse([]), SYSTEMS):
        for column in step.probe.columns:
            figures.add(Key(step.underlay.name, step.system.name, column.name), step.round, 7)
    assert [judgement.ratios for judgement in judge(figures)] == [(1.0,) * 5] * len(TARGETS)
