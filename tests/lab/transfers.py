"""Traffic between containers that can be judged to the byte: what arrived, was it whole, how often, in which order."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.inside import call_inside
from lab.raw_frames import SO_RCVBUFFORCE
from lab.shell import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.namespace import Namespace

STALL_S = 20.0
"""A TCP connection on which nothing moves for so long has failed."""
_CHUNK = 1 << 16

UDP_SEGMENT = 103
IP_MTU_DISCOVER, IP_PMTUDISC_WANT, IP_PMTUDISC_DO, IP_PMTUDISC_OMIT = 10, 1, 2, 5
_DISCOVERY = {None: IP_PMTUDISC_WANT, True: IP_PMTUDISC_DO, False: IP_PMTUDISC_OMIT}
_HEAD = struct.Struct(">IH8s")
"""Of each datagram: number, size modulo 2^16, digest of these two and the rest."""
SMALLEST_DATAGRAM = _HEAD.size

Flight = tuple[int, ...]
"""Sizes of datagrams that are sent by one call; more than one make a superframe of equal ones, the last not larger."""


def exchange(client: Namespace, server: Namespace, address: str, size: int) -> None:
    """Send `size` bytes both ways at once over one TCP connection; LabError unless all arrive as they were sent."""
    family = _family(address)
    with ExitStack() as stack:
        listener = stack.enter_context(
            call_inside(server.path, lambda: socket.create_server((address, 0), family=family))
        )
        listener.settimeout(STALL_S)
        near = stack.enter_context(call_inside(client.path, lambda: socket.socket(family, socket.SOCK_STREAM)))
        near.settimeout(STALL_S)
        near.connect(listener.getsockname())
        far = stack.enter_context(listener.accept()[0])
        far.settimeout(STALL_S)
        pool = stack.enter_context(ThreadPoolExecutor(4))
        sent = [pool.submit(_send_stream, end, size) for end in (near, far)]
        received = [pool.submit(_receive_stream, end) for end in (far, near)]
        for way, one, other in zip(("to the server", "to the client"), sent, received, strict=True):
            if (count := other.result()[0]) != size:
                raise LabError(f"of {size} bytes {way} {count} arrived")
            if one.result() != other.result()[1]:
                raise LabError(f"{size} bytes {way} arrived, but not those that were sent")


def _send_stream(connection: socket.socket, size: int) -> bytes:
    digest = hashlib.sha256()
    while size:
        chunk = os.urandom(min(_CHUNK, size))
        digest.update(chunk)
        connection.sendall(chunk)
        size -= len(chunk)
    connection.shutdown(socket.SHUT_WR)
    return digest.digest()


def _receive_stream(connection: socket.socket) -> tuple[int, bytes]:
    digest, count = hashlib.sha256(), 0
    while chunk := connection.recv(_CHUNK):
        digest.update(chunk)
        count += len(chunk)
    return count, digest.digest()


@dataclass
class Delivery:
    """What became of numbered datagrams."""

    sent: int
    arrived: list[int] = field(default_factory=list, repr=False)
    """Numbers of those that were whole, as they came in."""
    damaged: int = 0
    """How many came in that nobody had sent like that."""

    @property
    def lost(self) -> int:
        """How many never came."""
        return self.sent - len(set(self.arrived))

    @property
    def twice(self) -> int:
        """How many copies came in beyond the first."""
        return len(self.arrived) - len(set(self.arrived))

    @property
    def overtaken(self) -> int:
        """How many came in after one that was sent later."""
        newest, count = -1, 0
        for number in self.arrived:
            count += number < newest
            newest = max(newest, number)
        return count


def deliver(
    sender: Namespace,
    receiver: Namespace,
    address: str,
    flights: Sequence[Flight],
    *,
    flights_per_s: float,
    df: bool | None = None,
    patience_s: float = 2.0,
) -> Delivery:
    """Send numbered UDP datagrams, evenly over time, and record what comes in until nothing has for `patience_s`.

    IPv4 packets go with DF, or without it and as large as the container's device allows whatever is known of the
    path. With None the kernel decides: it leaves DF out of what it fragments and of superframes.
    """
    family = _family(address)
    delivery = Delivery(sum(len(flight) for flight in flights))
    with ExitStack() as stack:
        far = stack.enter_context(call_inside(receiver.path, lambda: socket.socket(family, socket.SOCK_DGRAM)))
        far.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)  # the test must not be what loses datagrams
        far.bind((address, 0))
        near = stack.enter_context(call_inside(sender.path, lambda: socket.socket(family, socket.SOCK_DGRAM)))
        near.settimeout(STALL_S)
        if family == socket.AF_INET:
            near.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, _DISCOVERY[df])
        near.connect(far.getsockname())
        material = random.randbytes(1 << 17)
        done = threading.Event()
        thread = threading.Thread(target=_receive_datagrams, args=(far, delivery, material, done, patience_s))
        thread.start()
        try:
            _send_flights(near, flights, material, flights_per_s)
        finally:
            done.set()
            thread.join()
    return delivery


def _datagram(number: int, size: int, material: bytes) -> bytes:
    start = number * 61 % (1 << 16)
    body = material[start : start + size - _HEAD.size]
    digest = hashlib.blake2b(struct.pack(">IH", number, size) + body, digest_size=8).digest()
    return _HEAD.pack(number, size, digest) + body


def _send_flights(connection: socket.socket, flights: Sequence[Flight], material: bytes, flights_per_s: float) -> None:
    begin, number = time.monotonic(), 0
    for index, flight in enumerate(flights):
        if (ahead := begin + index / flights_per_s - time.monotonic()) > 0:
            time.sleep(ahead)
        datagrams = [_datagram(number + offset, size, material) for offset, size in enumerate(flight)]
        number += len(flight)
        ancillary = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", flight[0]))] if len(flight) > 1 else []
        connection.sendmsg([b"".join(datagrams)], ancillary)


def _receive_datagrams(
    connection: socket.socket, delivery: Delivery, material: bytes, done: threading.Event, patience_s: float
) -> None:
    connection.settimeout(0.05)
    last = time.monotonic()
    seen: set[int] = set()
    while True:
        try:
            datagram = connection.recv(_CHUNK)
        except TimeoutError:
            # A second copy would come at once, what is late takes longer.
            waited = time.monotonic() - last
            if done.is_set() and waited > (patience_s if len(seen) < delivery.sent else 0.2):
                return
            continue
        last = time.monotonic()
        number = int.from_bytes(datagram[:4])
        if number < delivery.sent and datagram == _datagram(number, len(datagram), material):
            delivery.arrived.append(number)
            seen.add(number)
        else:
            delivery.damaged += 1


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
