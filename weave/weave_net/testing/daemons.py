"""A daemon of fakes that runs inside a test: `async with running_daemon(directory) as daemon`."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from weave_net.client import DaemonClient
from weave_net.daemon import run_daemon
from weave_net.directories import Directories
from weave_net.settings import DaemonSettings
from weave_net.testing.wirings import FakeWiring

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from weave_net.testing.routers import FakeRouter

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class RunningDaemon:
    """A daemon in the test's own process and event loop."""

    settings: DaemonSettings
    fakes: FakeWiring
    ended: trio.Event
    """Set once `run_daemon` has returned."""

    @property
    def router(self) -> FakeRouter:
        """The router that runs."""
        return self.fakes.routers[-1]

    async def call(self, question: Callable[[DaemonClient], T]) -> T:
        """Ask over the Unix socket, with a client in a thread."""

        def ask() -> T:
            with DaemonClient(self.settings.directories) as client:
                return question(client)

        return await trio.to_thread.run_sync(ask)


def settings_in(directory: Path, **changes: Any) -> DaemonSettings:
    """Settings of a daemon that keeps everything below `directory` and opens no TCP address."""
    directories = Directories(directory / "state", directory / "run")
    return dataclasses.replace(DaemonSettings(directories=directories, nickname="h1", name=1), **changes)


@asynccontextmanager
async def running_daemon(
    directory: Path, fakes: FakeWiring | None = None, **changes: Any
) -> AsyncIterator[RunningDaemon]:
    """Run a daemon from the moment when it is ready to the end of the block; `changes` are settings."""
    settings = settings_in(directory, **changes)
    settings.directories.prepare()
    ready = trio.Event()
    daemon = RunningDaemon(settings, fakes or FakeWiring(), trio.Event())

    async def run() -> None:
        await run_daemon(settings, ready=ready.set, wiring=daemon.fakes.wiring())
        daemon.ended.set()
        ready.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await ready.wait()
        yield daemon
        nursery.cancel_scope.cancel()
