"""Numbered Ethernet frames between containers: who received which number, how often, and when."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from lab.inside import call_inside

if TYPE_CHECKING:
    from lab.namespace import Namespace

ETHERTYPE = 0x88B6
"""IEEE 802 "local experimental 2": no protocol stack answers it."""
SO_RCVBUFFORCE = 33
BROADCAST = b"\xff" * 6


def packet_socket(namespace: Namespace, interface: str) -> socket.socket:
    """A raw socket on an interface of another namespace; usable from this process."""

    def open_socket() -> socket.socket:
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)  # the test must not be what loses frames
        raw.bind((interface, ETHERTYPE))
        return raw

    return call_inside(namespace.path, open_socket)


class Station:
    """A container's end: sends numbered frames and records those that arrive. A context manager."""

    def __init__(self, namespace: Namespace, interface: str = "ethwe") -> None:
        self._socket = packet_socket(namespace, interface)
        self._socket.settimeout(0.1)
        self.mac: bytes = self._socket.getsockname()[4]
        self.arrivals: list[tuple[bytes, int, float]] = []
        """Source address, number and time (monotonic seconds) of each frame received."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._receive)

    def __enter__(self) -> Station:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def send(self, destination: bytes, number: int) -> None:
        """Send a frame to a MAC address."""
        header = destination + self.mac + ETHERTYPE.to_bytes(2)
        with suppress(OSError):  # a full queue loses it, as a wire would
            self._socket.send(header + struct.pack(">Q", number) + bytes(40))

    def counts(self, source: bytes) -> Counter[int]:
        """How often each number of a sender arrived."""
        return Counter(number for sender, number, _ in list(self.arrivals) if sender == source)

    def _receive(self) -> None:
        while not self._stopped.is_set():
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(2048)
            except TimeoutError:
                continue
            if kind != socket.PACKET_OUTGOING:
                number = int.from_bytes(frame[14:22])
                self.arrivals.append((frame[6:12], number, time.monotonic()))
