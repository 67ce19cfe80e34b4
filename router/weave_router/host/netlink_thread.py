"""The thread in which all netlink requests of this process are made.

pyroute2 leaks a descriptor for each thread that touches one of its sockets, and its asynchronous interface
does not run under trio. One thread that lives as long as the host object avoids both, and makes each
operation on the host atomic toward the others: they run one after the other.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, TypeVar

import trio

from weave_router.errors import HostError
from weave_router.host.netlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


class _Job(Generic[R]):
    """A call on its way through the thread, and what became of it."""

    def __init__(self, function: Callable[[Netlink], R]) -> None:
        self._function = function
        self._token = trio.lowlevel.current_trio_token()
        self._done = trio.Event()
        self._result: list[R] = []
        self._error: BaseException | None = None

    def work(self, netlink: Netlink) -> None:
        """Make the call; in the thread."""
        try:
            self._result.append(self._function(netlink))
        except BaseException as error:
            self._error = error
        self._report()

    def fail(self, error: BaseException) -> None:
        """Say that the call cannot be made; in the thread."""
        self._error = error
        self._report()

    def _report(self) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._done.set)

    async def wait(self) -> R:
        """The outcome; in trio.

        It waits also when cancelled, for the host is changed in any case and the caller has to know how.
        """
        with trio.CancelScope(shield=True):
            await self._done.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # the traceback leads back here: do not keep the cycle
        return self._result[0]


class NetlinkThread:
    """Makes calls with a netlink socket in a thread of their own, in order."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._ended = trio.Event()

    async def start(self) -> None:
        """Start the thread in the network namespace of the caller; HostError if it gets no socket."""
        await trio.lowlevel.checkpoint_if_cancelled()
        # A daemon thread, so that a process that ends by an exception elsewhere does not hang here.
        token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._serve, args=(token,), name="netlink", daemon=True)
        self._thread.start()
        await self.run(_nothing)

    async def run(self, function: Callable[Concatenate[Netlink, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function(netlink, *args, **kwargs)` in the thread; it is not interrupted by cancellation."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._thread is None or self._closed:
            raise HostError("the host's network devices are out of reach: the router is not running (any more)")
        job = _Job(lambda netlink: function(netlink, *args, **kwargs))
        self._jobs.put(job)  # type: ignore[arg-type]
        return await job.wait()

    async def aclose(self) -> None:
        """Finish the calls that are waiting, then close the socket and end the thread."""
        if self._thread is None or self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._jobs.put(None)
        with trio.CancelScope(shield=True):
            # No thread of trio's waits for this one: it would keep the namespace in which it was born for whoever is
            # given it next.
            await self._ended.wait()
        self._thread.join()

    def _serve(self, token: trio.lowlevel.TrioToken) -> None:
        try:
            self._work()
        finally:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._ended.set)

    def _work(self) -> None:
        try:
            netlink = Netlink()
        except BaseException as error:
            self._refuse(error)
            return
        with netlink:
            while (job := self._jobs.get()) is not None:
                job.work(netlink)
                del job  # not to keep its result until the next one comes

    def _refuse(self, error: BaseException) -> None:
        while (job := self._jobs.get()) is not None:
            job.fail(error)


def _nothing(netlink: Netlink) -> None:
    """The call by which `start` learns whether there is a socket."""
