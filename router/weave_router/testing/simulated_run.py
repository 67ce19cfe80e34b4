"""Runs a simulation: mock clock, seeded scheduler, a network. No threads, no real time; a seed decides everything."""

from __future__ import annotations

import logging
import random
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from trio._core import _run as trio_run
from trio.testing import MockClock

from weave_router.testing.simulated_network import SimulatedNetwork

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from weave_router.testing.simulated_links import LinkConditions

T = TypeVar("T")

STANDSTILL_PASSES = 50_000
"""So many rounds of the scheduler without the clock moving mean that tasks wake each other or spin."""
_BLAMED_PASSES = 100
_WATCHED_LOGGERS = ("weave_router", "weave_ipam", "weave_dns")


class SimulationStuck(AssertionError):  # noqa: N818 - reads as what it is in a test's output
    """Time does not pass any more: some task never waits."""


@contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Let trio decide by a seed which of several tasks runs first.

    trio has no public way to do it; this is the one place that touches its internals. Two things stay outside of it:
    the order of strings in sets (PYTHONHASHSEED), and threads.
    """
    internals: Any = trio_run
    before, chance = internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r
    internals._ALLOW_DETERMINISTIC_SCHEDULING = True
    internals._r = random.Random(f"scheduler {seed}")  # noqa: S311 - chance must be repeatable here
    try:
        yield
    finally:
        internals._ALLOW_DETERMINISTIC_SCHEDULING, internals._r = before, chance


def run_simulation(
    main: Callable[[SimulatedNetwork], Awaitable[T]],
    *,
    seed: int = 0,
    link: LinkConditions | None = None,
    trace: bool = False,
) -> T:
    """Run `main(world)` to its end and return what it returns.

    A single failure is raised by itself, not in a group. Raises `SimulationStuck` where time stands still. An error in
    the log is a failure as well: routers survive their own defects, tests must not.
    """
    clock = MockClock(autojump_threshold=0)
    standstill = _Standstill(clock)
    with seeded_scheduler(seed), _no_errors_logged():
        try:
            return trio.run(partial(_run, main, seed, link, trace, standstill), clock=clock, instruments=[standstill])
        except BaseExceptionGroup as group:
            error = group
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            raise error from None


@contextmanager
def _no_errors_logged() -> Iterator[None]:
    errors: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(logging.Formatter().format(record))

    handler = Handler(logging.ERROR)
    loggers = [logging.getLogger(name) for name in _WATCHED_LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    if errors:
        raise AssertionError("errors in the log:\n" + "\n".join(errors))


async def _run(
    main: Callable[[SimulatedNetwork], Awaitable[T]],
    seed: int,
    link: LinkConditions | None,
    trace: bool,
    standstill: _Standstill,
) -> T:
    world = SimulatedNetwork(seed, link=link, trace=trace)
    with standstill.scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(world.run)
            result = await main(world)
            nursery.cancel_scope.cancel()
        return result
    raise SimulationStuck(f"stuck at {trio.current_time():.3f} s; steps by task: {standstill.steps.most_common(5)}")


class _Standstill(trio.abc.Instrument):
    """Ends a simulation in which time has stopped, and tells which tasks went on all the same."""

    def __init__(self, clock: MockClock) -> None:
        self.scope = trio.CancelScope()
        self.steps: Counter[str] = Counter()
        self._clock = clock
        self._time = -1.0
        self._passes = 0

    def before_io_wait(self, timeout: float) -> None:
        now = self._clock.current_time()
        if now != self._time:
            self._time, self._passes = now, 0
            return
        self._passes += 1
        if self._passes == STANDSTILL_PASSES:
            trio.lowlevel.add_instrument(_StepCounter(self.steps))
        elif self._passes == STANDSTILL_PASSES + _BLAMED_PASSES:
            self.scope.cancel()


class _StepCounter(trio.abc.Instrument):
    def __init__(self, steps: Counter[str]) -> None:
        self._steps = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps[task.name] += 1
