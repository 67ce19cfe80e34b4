"""One control connection as an actor: it owns its stream, reads, writes, and keeps it alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from weave_router.control.mesh import HEARTBEAT
from weave_router.errors import ProtocolError
from weave_router.wire.session import MessageReceived

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weave_router.control.mesh import MeshConnection
    from weave_router.wire.session import Session

HEARTBEAT_INTERVAL = 30.0
READ_TIMEOUT = 60.0
_READ_BYTES = 65536
_PAUSE_AFTER = 32
"""Steps of a long message between two checkpoints."""


class Connection:
    """The I/O of a connection that is about to be added to the mesh. `end_reason` tells why it ended."""

    def __init__(self, stream: trio.abc.Stream, session: Session) -> None:
        self._stream = stream
        self._session = session
        self._wake = trio.Event()
        self._all_sent = trio.Event()
        self._scope = trio.CancelScope()
        self.end_reason = ""

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()
        if self._all_sent.is_set():
            self._all_sent = trio.Event()

    async def all_sent(self) -> None:
        """Wait until nothing is left to send; for ever if the connection ends before."""
        await self._all_sent.wait()

    def close(self, reason: str) -> None:
        """End the connection; the first reason counts."""
        self.end_reason = self.end_reason or reason
        self._scope.cancel()

    async def run(self, mesh: MeshConnection, early: list[bytes], receive: Callable[[bytes], Iterator[None]]) -> None:
        """Move messages until the connection ends. `receive` handles one, yielding where it may pause."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, mesh)
                nursery.start_soon(self._keep_alive, mesh)
                await self._read(early, receive)
        self.end_reason = self.end_reason or "cancelled"

    async def _read(self, early: list[bytes], receive: Callable[[bytes], Iterator[None]]) -> None:
        try:
            for message in early:
                await self._handle(message, receive)
            deadline = trio.current_time() + READ_TIMEOUT
            while True:
                with trio.move_on_at(deadline) as timeout:
                    data = await self._stream.receive_some(_READ_BYTES)
                if timeout.cancelled_caught:
                    return self.close(f"nothing from the peer for {READ_TIMEOUT:.0f} s")
                if not data:
                    return self.close("the peer closed the connection")
                for event in self._session.receive(bytes(data)):
                    if isinstance(event, MessageReceived):
                        # Only complete messages count as life: a peer that sends byte by byte is not well.
                        deadline = trio.current_time() + READ_TIMEOUT
                        await self._handle(event.message, receive)
        except trio.BrokenResourceError as error:
            self.close(_broken(error))
        except ProtocolError as error:
            self.close(f"protocol error: {error}")

    @staticmethod
    async def _handle(message: bytes, receive: Callable[[bytes], Iterator[None]]) -> None:
        for step, _ in enumerate(receive(message)):
            if step % _PAUSE_AFTER == _PAUSE_AFTER - 1:
                await trio.lowlevel.checkpoint()

    async def _write(self, mesh: MeshConnection) -> None:
        while True:
            self._wake = trio.Event()
            while (message := mesh.outbox.pop()) is not None:
                try:
                    await self._stream.send_all(self._session.send(message))
                except trio.BrokenResourceError as error:
                    return self.close(_broken(error))
                except ProtocolError:
                    mesh.outbox.dropped += 1  # too large for any peer; the connection is fine
            self._all_sent.set()
            await self._wake.wait()

    @staticmethod
    async def _keep_alive(mesh: MeshConnection) -> None:
        while True:
            await trio.sleep(HEARTBEAT_INTERVAL)
            mesh.outbox.put(HEARTBEAT)


def _broken(error: trio.BrokenResourceError) -> str:
    cause = error.__cause__
    return f"connection lost: {cause.strerror or cause}" if isinstance(cause, OSError) else "connection lost"
