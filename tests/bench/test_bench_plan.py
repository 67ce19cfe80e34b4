"""The plan: systems take turns, and the figures with and without loss are taken right after each other."""

from __future__ import annotations

from bench.catalogue import SYSTEMS
from bench.options import parse
from bench.plan import plan

FEW = "--systems=underlay,sleeve,sleeve-relayed"


def names(*arguments: str) -> list[tuple[str, int, str, str]]:
    """Underlay, round, first column and system of all steps."""
    options = parse(arguments)
    return [
        (step.underlay.name, step.round, step.probe.columns[0].name, step.system.name)
        for step in plan(options, options.systems)
    ]


def test_systems_take_turns_within_a_round() -> None:
    assert names(FEW, "--underlays=veth", "--columns=tcp4,rtt-p99", "--rounds=2") == [
        ("veth", number, column, system)
        for number in (0, 1)
        for column in ("tcp4", "rtt-p50")
        for system in ("underlay", "sleeve", "sleeve-relayed")
    ]


def test_loss_has_its_own_rounds_and_columns_and_no_relay() -> None:
    assert names(FEW, "--underlays=loss", "--columns=tcp4", "--rounds=2", "--loss-rounds=1") == [
        ("loss", 0, "tcp1-lossless", "underlay"),
        ("loss", 0, "tcp1-lossy", "underlay"),
        ("loss", 0, "tcp1-lossless", "sleeve"),
        ("loss", 0, "tcp1-lossy", "sleeve"),
    ]


def test_a_probe_that_fills_two_columns_runs_once() -> None:
    assert len(names(FEW, "--underlays=card", "--columns=tcp1,cpu", "--rounds=1")) == 3


def test_names_of_systems_are_unique() -> None:
    assert len({system.name for system in SYSTEMS}) == len({system.title for system in SYSTEMS}) == len(SYSTEMS)
