"""Options of the bench of overlays."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from bench.catalogue import SYSTEMS
from bench.probes import PROBES
from bench.underlays import UNDERLAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.system import System
    from bench.underlays import Underlay

DEFAULT_ROUNDS = 5
DEFAULT_SECONDS = 1.5
QUICK_ROUNDS = 1
QUICK_SECONDS = 0.7
SECONDS_LIMITS = (0.1, 10.0)
"""Below, /proc/stat is too coarse and warming up outweighs measuring; above, the generator's time limits strike."""
MAX_ROUNDS = 100


@dataclass(frozen=True)
class Options:
    """What to measure and how often."""

    systems: tuple[System, ...]
    underlays: tuple[Underlay, ...]
    columns: frozenset[str]
    """Names; without effect on the underlay with loss, which has two columns of its own."""
    rounds: int
    loss_rounds: int
    seconds: float
    """Of each measurement."""
    json: Path | None


class Named(Protocol):
    """Something with a name to choose it by."""

    @property
    def name(self) -> str:
        """What options call it."""


T = TypeVar("T", bound=Named)


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; exits with status 2 and one line if it is wrong."""
    parser = Parser(prog="bench", description=__doc__, allow_abbrev=False)
    columns = [column for probe in PROBES for column in probe.columns]
    parser.add_argument("--rounds", type=up_to(MAX_ROUNDS), metavar="N", help=f"rounds (default: {DEFAULT_ROUNDS})")
    parser.add_argument(
        "--loss-rounds", type=up_to(MAX_ROUNDS), metavar="N", help=f"rounds with loss (default: {DEFAULT_ROUNDS})"
    )
    parser.add_argument(
        "--seconds", type=seconds, metavar="S", help=f"length of each measurement (default: {DEFAULT_SECONDS:g})"
    )
    add_choice(parser, "--systems", SYSTEMS)
    add_choice(parser, "--underlays", UNDERLAYS)
    add_choice(parser, "--columns", columns)
    parser.add_argument("--json", type=_writable, metavar="FILE", help="write all figures to a file, too")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} round of {QUICK_SECONDS:g} s unless told otherwise"
    )
    found = parser.parse_args(arguments)
    usual, length = (QUICK_ROUNDS, QUICK_SECONDS) if found.quick else (DEFAULT_ROUNDS, DEFAULT_SECONDS)
    return Options(
        systems=found.systems,
        underlays=found.underlays,
        columns=frozenset(column.name for column in found.columns),
        rounds=found.rounds or usual,
        loss_rounds=found.loss_rounds or usual,
        seconds=found.seconds or length,
        json=found.json,
    )


class Parser(argparse.ArgumentParser):
    """Complains in one line."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Exit with status 2."""
        self.exit(2, f"bench: {message}\n")


def add_choice(parser: argparse.ArgumentParser, option: str, all_of: Sequence[T]) -> None:
    """Add an option that names some of these things; all of them if it is not given."""
    names = ", ".join(thing.name for thing in all_of)
    parser.add_argument(
        option, type=_choice(all_of), default=tuple(all_of), metavar="NAME,...", help=f"only these of: {names}"
    )


def _choice(all_of: Sequence[T]) -> Callable[[str], tuple[T, ...]]:
    """Reads a list of names; things come in their usual order."""

    def read(text: str) -> tuple[T, ...]:
        names = {name.strip() for name in text.split(",")}
        if unknown := names - {thing.name for thing in all_of}:
            choices = ", ".join(thing.name for thing in all_of)
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))!r} (choose from {choices})")
        return tuple(thing for thing in all_of if thing.name in names)

    return read


def up_to(most: int) -> Callable[[str], int]:
    """Reads a number from 1 on."""

    def read(text: str) -> int:
        number = int(text) if text.isdecimal() else 0
        if not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
        return number

    return read


def seconds(text: str) -> float:
    """Reads the length of a measurement."""
    least, most = SECONDS_LIMITS
    try:
        length = float(text)
    except ValueError:
        length = 0
    if not least <= length <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
    return length


def _writable(text: str) -> Path:
    """Told before the run, not after it."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}")
    return path
