"""Options of the bench of name servers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.dns_systems import SYSTEMS
from bench.options import (
    DEFAULT_ROUNDS,
    DEFAULT_SECONDS,
    MAX_ROUNDS,
    QUICK_ROUNDS,
    QUICK_SECONDS,
    Parser,
    add_choice,
    seconds,
    up_to,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.dns_systems import DnsSystem


DEFAULT_NAMES = 1000
MAX_NAMES = 10_000


@dataclass(frozen=True)
class Options:
    """What to measure and how often."""

    systems: tuple[DnsSystem, ...]
    rounds: int
    seconds: float
    """Of each measurement."""
    names: int
    """How many the servers know, and are asked for."""


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; exits with status 2 and one line if it is wrong."""
    parser = Parser(prog="names", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=up_to(MAX_ROUNDS), metavar="N", help=f"rounds (default: {DEFAULT_ROUNDS})")
    parser.add_argument(
        "--seconds", type=seconds, metavar="S", help=f"length of each measurement (default: {DEFAULT_SECONDS:g})"
    )
    add_choice(parser, "--systems", SYSTEMS)
    parser.add_argument(
        "--names",
        type=up_to(MAX_NAMES),
        default=DEFAULT_NAMES,
        metavar="N",
        help=f"how many names (default: {DEFAULT_NAMES})",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} round of {QUICK_SECONDS:g} s unless told otherwise"
    )
    found = parser.parse_args(arguments)
    usual, length = (QUICK_ROUNDS, QUICK_SECONDS) if found.quick else (DEFAULT_ROUNDS, DEFAULT_SECONDS)
    return Options(found.systems, found.rounds or usual, found.seconds or length, found.names)
