"""`make simulate`: the allocators of many simulated clusters in turmoil, a seed each, on all processors.

    .venv/bin/python tests/simulation/simulate_ipam.py --seeds 100 --peers 30     # seeds 1 to 100
    .venv/bin/python tests/simulation/simulate_ipam.py --first 17 --seeds 1 -v    # one of them, with all that happened

Exit status 1 if a seed failed; each one's line says how to run it again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

# `make simulate` runs this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.ipam_turmoil import Outcome, run_turmoil

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HASH_SEED = "0"
"""The order of sets of strings must not depend on chance."""


def command(seed: int, peers: int) -> str:
    """What runs one seed again."""
    return f".venv/bin/python {_PROGRAM} --first {seed} --seeds 1 --peers {peers} -v"


_PROGRAM = Path(__file__).resolve().relative_to(Path(__file__).resolve().parents[2])


class Run(NamedTuple):
    """One seed's run."""

    outcome: Outcome
    seconds: float
    """Of real time."""


def _run(seed: int, peers: int) -> Run:
    logging.disable(logging.WARNING)  # what hosts in trouble have to say
    began = time.perf_counter()
    outcome = run_turmoil(seed, peers)
    return Run(outcome, time.perf_counter() - began)


def simulate(seeds: Sequence[int], peers: int, jobs: int | None = None) -> Iterator[Run]:
    """Run seeds on all processors, or on so many, in processes with a fixed order of hashes; as they end."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = HASH_SEED
    try:
        pool = multiprocessing.get_context("spawn").Pool(min(jobs or os.cpu_count() or 1, len(seeds)))
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before
    with pool:
        yield from pool.imap_unordered(partial(_run, peers=peers), seeds)


def main(arguments: list[str]) -> int:
    """Run the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument(
        "--peers", type=int, default=30, help="peers of a cluster: at most, from 5 on; above 60 exactly"
    )
    parser.add_argument("--jobs", type=int, help="processes, as many as processors unless given")
    parser.add_argument("-v", "--verbose", action="store_true", help="print all that happened")
    options = parser.parse_args(arguments)
    began, failed = time.perf_counter(), []
    seeds = range(options.first, options.first + options.seeds)
    for done, (outcome, seconds) in enumerate(simulate(seeds, options.peers, options.jobs), 1):
        seed, mark = outcome.plan.seed, "FAILED" if outcome.error else "ok"
        if options.verbose:
            print("\n".join(outcome.trace))
        print(f"[{done}/{len(seeds)}] seed {seed} {mark} {outcome.digest} {seconds:.1f} s: {outcome.plan}", flush=True)
        if outcome.error:
            failed.append(seed)
            print(f"    {outcome.error}\n    {command(seed, options.peers)}", flush=True)
    print(f"{len(seeds)} seeds in {time.perf_counter() - began:.0f} s, failed: {sorted(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
