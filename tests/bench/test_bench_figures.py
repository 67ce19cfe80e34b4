"""Figures: medians and spreads, and ratios taken round by round."""

from __future__ import annotations

import pytest

from bench.figures import Figures, Key, Spread
from bench.progress import remaining

A, B, C, D = (Key("veth", system, "tcp1") for system in "ABCD")


def figures(**rounds: dict[int, float]) -> Figures:
    """Figures of the systems named by letters."""
    found = Figures()
    for system, values in rounds.items():
        for number, value in values.items():
            found.add(Key("veth", system, "tcp1"), number, value)
    return found


def test_spread_of_odd_and_even_numbers_of_rounds() -> None:
    assert Spread.of([3, 1, 20]) == Spread(median=3, least=1, most=20)
    assert Spread.of([4, 2]) == Spread(median=3, least=2, most=4)
    with pytest.raises(ValueError):
        Spread.of([])


def test_ratios_are_taken_within_a_round() -> None:
    # The machine is three times as fast in round 1: the ratio stays.
    found = figures(A={0: 10, 1: 30}, B={0: 5, 1: 15})
    assert found.ratios([A], [B]) == [2, 2]


def test_rounds_that_lack_a_figure_give_no_ratio() -> None:
    found = figures(A={0: 10, 2: 30}, B={0: 5, 1: 15})
    assert found.ratios([A], [B]) == [2]
    assert found.ratios([A], [C]) == []


def test_a_figure_of_zero_is_not_divided_by() -> None:
    assert figures(A={0: 10, 1: 1}, B={0: 0, 1: 4}).ratios([A], [B]) == [0.25]


def test_ratios_of_ratios() -> None:
    found = figures(A={0: 8}, B={0: 10}, C={0: 9}, D={0: 10})
    assert found.ratios([A, D], [B, C]) == [pytest.approx(0.8 / 0.9)]


def test_asking_for_figures_leaves_no_trace() -> None:
    found = figures(A={0: 10})
    assert (found.values(A), found.values(B), list(found)) == ([10], [], [A])


def test_time_left_follows_what_is_done() -> None:
    assert remaining(0, 0, 10) == ""
    assert remaining(20, 2, 10) == " – 80 s left"
    assert remaining(60, 1, 21) == " – 20 min left"
