"""Runs many seeds of a simulation, each in a process with a fixed order of hashes, and tells what became of them."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from simulation.turmoil import Outcome

HASH_SEED = "0"
"""The order of sets of strings must not depend on chance."""
_ROOT = Path(__file__).resolve().parents[2]


class Run(NamedTuple):
    """One seed's run."""

    outcome: Outcome
    seconds: float
    """Of real time."""


@dataclass(frozen=True)
class Simulation:
    """A kind of simulation, and the program that runs it."""

    program: str
    """Its path."""
    description: str
    turmoil: Callable[[int, int], Outcome]
    """A function of a module; called with a seed and the largest number of peers."""

    def command(self, seed: int, peers: int) -> str:
        """What runs one seed again."""
        program = Path(self.program).resolve().relative_to(_ROOT)
        return f".venv/bin/python {program} --first {seed} --seeds 1 --peers {peers} -v"

    def simulate(self, seeds: Sequence[int], peers: int, jobs: int | None = None) -> Iterator[Run]:
        """Run seeds on all processors, or on so many; as they end."""
        with _fixed_hashes():
            pool = multiprocessing.get_context("spawn").Pool(min(jobs or os.cpu_count() or 1, len(seeds)))
        with pool:
            yield from pool.imap_unordered(partial(_run, self.turmoil, peers), seeds)

    def main(self, arguments: Sequence[str]) -> int:
        """Run the seeds that the command line names; the exit status is 1 if one failed."""
        options = self._options(arguments)
        began, failed = time.perf_counter(), []
        seeds = range(options.first, options.first + options.seeds)
        for done, (outcome, seconds) in enumerate(self.simulate(seeds, options.peers, options.jobs), 1):
            seed, mark = outcome.plan.seed, "FAILED" if outcome.error else "ok"
            if options.verbose:
                print("\n".join(outcome.trace))
            print(
                f"[{done}/{len(seeds)}] seed {seed} {mark} {outcome.digest} {seconds:.1f} s: {outcome.plan}", flush=True
            )
            if outcome.error:
                failed.append(seed)
                print(f"    {outcome.error}\n    {self.command(seed, options.peers)}", flush=True)
        print(f"{len(seeds)} seeds in {time.perf_counter() - began:.0f} s, failed: {sorted(failed) or 'none'}")
        return 1 if failed else 0

    def _options(self, arguments: Sequence[str]) -> argparse.Namespace:
        formatter = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(description=self.description, formatter_class=formatter)
        peers = "peers of a cluster: at most, from 5 on; above 60 exactly"
        parser.add_argument("--seeds", type=int, default=20, help="how many")
        parser.add_argument("--first", type=int, default=1, help="the first of them")
        parser.add_argument("--peers", type=int, default=30, help=peers)
        parser.add_argument("--jobs", type=int, help="processes, as many as processors unless given")
        parser.add_argument("-v", "--verbose", action="store_true", help="print all that happened")
        return parser.parse_args(arguments)


@contextmanager
def _fixed_hashes() -> Iterator[None]:
    """For processes started here."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = HASH_SEED
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before


def _run(turmoil: Callable[[int, int], Outcome], peers: int, seed: int) -> Run:
    logging.disable(logging.WARNING)  # what hosts in trouble have to say
    began = time.perf_counter()
    outcome = turmoil(seed, peers)
    return Run(outcome, time.perf_counter() - began)
