"""Options of the bench of CNI plugins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.cni_systems import CONTAINERS, SYSTEMS
from bench.options import DEFAULT_ROUNDS, MAX_ROUNDS, QUICK_ROUNDS, Parser, add_choice, up_to

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.cni_systems import CniSystem

DEFAULT_BATCHES = 7
QUICK_BATCHES = 2
MAX_BATCHES = 100


@dataclass(frozen=True)
class Options:
    """What to measure and how often."""

    systems: tuple[CniSystem, ...]
    rounds: int
    batches: int
    """How often each measurement attaches and detaches all containers."""


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; exits with status 2 and one line if it is wrong."""
    parser = Parser(prog="cni", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=up_to(MAX_ROUNDS), metavar="N", help=f"rounds (default: {DEFAULT_ROUNDS})")
    parser.add_argument(
        "--batches",
        type=up_to(MAX_BATCHES),
        metavar="N",
        help=f"how often each measurement adds and deletes {CONTAINERS} containers (default: {DEFAULT_BATCHES})",
    )
    add_choice(parser, "--systems", SYSTEMS)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} round of {QUICK_BATCHES} batches unless told otherwise"
    )
    found = parser.parse_args(arguments)
    rounds, batches = (QUICK_ROUNDS, QUICK_BATCHES) if found.quick else (DEFAULT_ROUNDS, DEFAULT_BATCHES)
    return Options(found.systems, found.rounds or rounds, found.batches or batches)
