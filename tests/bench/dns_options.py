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
    SECONDS_LIMITS,
    Parser,
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
    names = [system.name for system in SYSTEMS]
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds (default: {DEFAULT_ROUNDS})")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help=f"length of each measurement (default: {DEFAULT_SECONDS:g})"
    )
    parser.add_argument(
        "--systems", default=",".join(names), metavar="NAME,...", help=f"only these of: {', '.join(names)}"
    )
    parser.add_argument(
        "--names", type=int, default=DEFAULT_NAMES, metavar="N", help=f"how many names (default: {DEFAULT_NAMES})"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} round of {QUICK_SECONDS:g} s unless told otherwise"
    )
    found = parser.parse_args(arguments)
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if found.quick else (DEFAULT_ROUNDS, DEFAULT_SECONDS)
    rounds = rounds if found.rounds is None else found.rounds
    seconds = seconds if found.seconds is None else found.seconds
    least, most = SECONDS_LIMITS
    if not 1 <= rounds <= MAX_ROUNDS:
        parser.error(f"--rounds: {rounds} is not a number from 1 to {MAX_ROUNDS}")
    if not least <= seconds <= most:
        parser.error(f"--seconds: {seconds:g} is not a number from {least:g} to {most:g}")
    if not 1 <= found.names <= MAX_NAMES:
        parser.error(f"--names: {found.names} is not a number from 1 to {MAX_NAMES}")
    chosen = {name.strip() for name in found.systems.split(",")}
    if unknown := chosen - {*names}:
        parser.error(f"--systems: unknown: {', '.join(sorted(unknown))!r} (choose from {', '.join(names)})")
    return Options(tuple(system for system in SYSTEMS if system.name in chosen), rounds, seconds, found.names)
