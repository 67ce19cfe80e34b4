"""A TCP connection between containers that is kept busy, and how long nothing arrived over it."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

from lab.inside import call_inside

if TYPE_CHECKING:
    from lab.namespace import Namespace

_CHUNK = 1 << 18
_POLL_S = 0.05
_NOTED_S = 0.03
"""Shorter pauses are not noted."""


class Flow:
    """Sends as much as goes, or as much as it is told to; a context manager. Times are monotonic seconds."""

    def __init__(
        self, sender: Namespace, receiver: Namespace, address: str, *, bytes_per_s: float | None = None
    ) -> None:
        self.received = 0
        """Bytes that have arrived."""
        self.error: OSError | None = None
        """What ended the connection early."""
        self._bytes_per_s = bytes_per_s
        self._stopped = threading.Event()
        self._pauses: list[tuple[float, float]] = []
        listener = call_inside(receiver.path, lambda: socket.create_server((address, 0)))
        with listener:
            listener.settimeout(10)
            self._near = call_inside(sender.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            self._near.settimeout(10)
            self._near.connect(listener.getsockname())
            self._far = listener.accept()[0]
        for end in (self._near, self._far):
            end.settimeout(_POLL_S)
        self._last = time.monotonic()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self) -> Flow:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._near.close()
        self._far.close()

    def longest_pause(self, since: float = 0.0) -> float:
        """The longest time in which nothing arrived, of pauses that ended after `since` or last still."""
        ended = [end - begin for begin, end in list(self._pauses) if end >= since]
        return max([time.monotonic() - self._last, *ended])

    def moves(self) -> bool:
        """Whether something arrives within the next tenth of a second."""
        before = self.received
        time.sleep(0.1)
        return self.received > before

    def _send(self) -> None:
        data = bytes(_CHUNK if self._bytes_per_s is None else 1 + int(self._bytes_per_s / 100))
        while not self._stopped.is_set():
            if self._bytes_per_s is not None:
                time.sleep(0.01)
            try:
                self._near.send(data)
            except TimeoutError:
                continue
            except OSError as error:
                self.error = error
                return

    def _receive(self) -> None:
        while not self._stopped.is_set():
            try:
                arrived = len(self._far.recv(_CHUNK))
            except TimeoutError:
                continue
            except OSError as error:
                self.error = error
                return
            now = time.monotonic()
            if now - self._last >= _NOTED_S:
                self._pauses.append((self._last, now))
            self._last = now
            self.received += arrived
