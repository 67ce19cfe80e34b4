"""TCP connections of the simulated network.

A stream behaves as `trio.SocketStream` does on Linux: writes block when the receiver does not read, a closed peer gives
end of file and then a reset, unread data at closing give a reset. While a link is down data are neither lost nor
refused, they wait; only who watches the clock notices, and a writer whose buffer has been full for a minute.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_router.testing.simulated_links import SimulatedLinks

BUFFER_BYTES = 256 * 1024
"""What one direction holds between the writer and the reader: both sockets' buffers."""
USER_TIMEOUT = 60.0
"""Seconds after which a writer that makes no progress gets an error, as `TrioNetwork` asks of the kernel."""
_FIN, _RST = "FIN", "RST"


class SimulatedStream(trio.abc.Stream):
    """One end of a connection. `local` and `remote`: (IP, port)."""

    def __init__(
        self,
        links: SimulatedLinks,
        local: tuple[str, int],
        remote: tuple[str, int],
        buffer_bytes: int,
        forget: Callable[[SimulatedStream], None],
    ) -> None:
        self.local = local
        self.remote = remote
        self._links = links
        self._way = (local[0], remote[0])
        self._buffer_bytes = buffer_bytes
        self._forget = forget
        self._peer: SimulatedStream | None = None
        self._outgoing: deque[tuple[float, bytes | str]] = deque()
        self._last_arrival = 0.0
        self._unread_by_peer = 0
        self._received: deque[bytes] = deque()
        self._eof = False
        self._error: OSError | None = None
        self._closed = False
        self._dead = False
        """Neither end will ever hear of this one again: it was reset, or its host lost power."""
        self._powered: Callable[[], bool] = lambda: True
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        self._sending = False
        self._receiving = False

    @classmethod
    def pair(
        cls,
        links: SimulatedLinks,
        dialler: tuple[str, int],
        acceptor: tuple[str, int],
        *,
        buffer_bytes: int,
        forget: Callable[[SimulatedStream], None],
    ) -> tuple[SimulatedStream, SimulatedStream]:
        """Both ends of a new connection. `forget` is called with each end that is over."""
        near = cls(links, dialler, acceptor, buffer_bytes, forget)
        far = cls(links, acceptor, dialler, buffer_bytes, forget)
        near._peer, far._peer = far, near
        return near, far

    # --- the stream -------------------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; blocks while the receiver has no room."""
        if self._sending:
            raise trio.BusyResourceError("another task is using this stream to send")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check()
            view = memoryview(data)
            while view:
                room = self._buffer_bytes - self._unread_by_peer
                if room > 0:
                    self._unread_by_peer += len(view[:room])
                    self._transmit(bytes(view[:room]))
                    view = view[room:]
                    continue
                with trio.move_on_after(USER_TIMEOUT) as timeout:
                    await self._writable.park()
                if timeout.cancelled_caught:
                    self._break(errno.ETIMEDOUT)
                    self._reset()
                self._check()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Return when there is some room."""
        await trio.lowlevel.checkpoint()
        self._check()
        while self._unread_by_peer >= self._buffer_bytes:
            await self._writable.park()
            self._check()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Some bytes; none at the end."""
        if self._receiving:
            raise trio.BusyResourceError("another task is using this stream to receive")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                self._check()
                if self._received:
                    return self._take(max_bytes or 65536)
                if self._eof:
                    return b""
                await self._readable.park()
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        """Close: end of file for the peer, or a reset where it had sent what nobody read."""
        if not self._closed:
            self._closed = True
            self._wake()
            if not self._dead:
                if self._received:
                    self._reset()
                else:
                    self._transmit(_FIN)
                    self._over_if_both_closed()
        await trio.lowlevel.checkpoint()

    # --- what happens to it from outside ----------------------------------------------------------------------------

    def abort(self) -> None:
        """Reset the connection, as a dying process's kernel may: both ends break."""
        if not self._dead:
            self._break(errno.ECONNRESET)
            self._reset()

    def lose_power(self, powered: Callable[[], bool]) -> None:
        """Vanish without a word. Whoever writes to this end gets a reset, once `powered()` holds again."""
        self._outgoing.clear()
        self._dead = True
        self._powered = powered
        self._break(errno.EIO)
        self._links.delivered(self._deliver)
        self._forget(self)

    # --- segments ---------------------------------------------------------------------------------------------------

    def _transmit(self, segment: bytes | str) -> None:
        """Put data, FIN or RST on the way, behind what is on the way already."""
        arrival = max(trio.current_time() + self._links.latency(*self._way), self._last_arrival)
        self._last_arrival = arrival
        self._outgoing.append((arrival, segment))
        self._links.timeline.at(arrival, self._deliver)

    def _deliver(self) -> None:
        """Hand over what has arrived; while the link is down, keep it for the healing."""
        peer = self._peer
        now = trio.current_time()
        while self._outgoing and self._outgoing[0][0] <= now and peer is not None:
            if not self._links.up(*self._way) or not peer._powered():
                self._links.when_healed(self._deliver)
                return
            segment = self._outgoing.popleft()[1]
            self._note(segment)
            if peer._dead:
                if segment is not _RST:
                    self._answer_with_reset()
            elif segment is _RST:
                peer._die(errno.ECONNRESET)
            elif segment is _FIN:
                peer._eof = True
                peer._readable.unpark_all()
                peer._over_if_both_closed()
            elif peer._closed:
                peer._reset()
            elif isinstance(segment, bytes):
                peer._received.append(segment)
                peer._readable.unpark_all()
        if not self._outgoing:
            self._links.delivered(self._deliver)

    def _note(self, segment: bytes | str) -> None:
        what = segment if isinstance(segment, str) else f"{len(segment)} {zlib.crc32(segment):08x}"
        self._links.note("tcp", f"{self.local[0]}:{self.local[1]}", f"{self.remote[0]}:{self.remote[1]}", what)

    def _reset(self) -> None:
        """Send a reset in place of all that has not left, and be gone."""
        self._outgoing.clear()
        self._dead = True
        self._transmit(_RST)
        self._forget(self)

    def _answer_with_reset(self) -> None:
        """The other end does not exist any more; its host says so after one more journey."""
        self._outgoing.clear()
        back = self._links.latency(self._way[1], self._way[0])
        self._links.timeline.after(back, lambda: self._die(errno.ECONNRESET))

    def _die(self, number: int) -> None:
        if not self._dead:
            self._dead = True
            self._outgoing.clear()
            self._links.delivered(self._deliver)
            self._break(number)
            self._forget(self)

    def _break(self, number: int) -> None:
        self._received.clear()
        self._error = OSError(number, os.strerror(number))
        self._wake()

    def _over_if_both_closed(self) -> None:
        if self._closed and self._eof:
            self._forget(self)

    # --- small parts ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was already closed")
        if self._error is not None:
            raise trio.BrokenResourceError(f"socket connection broken: {self._error}") from self._error

    def _take(self, max_bytes: int) -> bytes:
        data = self._received.popleft()
        if len(data) > max_bytes:
            self._received.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        if self._peer is not None:
            self._peer._unread_by_peer -= len(data)
            self._peer._writable.unpark_all()
        return data

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()
