"""A name server for tests, on a loopback address, that answers as its test says: by UDP and TCP, well or badly."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from weave_dns.resolv_conf import Address

SOA = "example.com. 600 IN SOA ns.example.com. hostmaster.example.com. 1 2 3 4 120"


def rrset(record: str) -> dns.rrset.RRset:
    """A record from its text in one line: name, TTL, class, type, data."""
    name, ttl, rdclass, rdtype, data = record.split(maxsplit=4)
    return dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data)


class Received:
    """A query, and the ways to react to it."""

    def __init__(
        self,
        wire: bytes,
        send: Callable[[bytes], Awaitable[object]],
        send_bare: Callable[[bytes], Awaitable[object]] | None = None,
    ) -> None:
        self.wire = wire
        self.query = dns.message.from_wire(wire)
        self.tcp = send_bare is not None
        self.send = send
        """Send bytes as an answer; by TCP with the length before them."""
        self.send_bare = send_bare or send
        """Send bytes as they are."""

    def response(self, *records: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> dns.message.Message:
        """A good response, its records those of the answer section."""
        response = dns.message.make_response(self.query, recursion_available=True)
        response.set_rcode(rcode)
        response.answer = [rrset(record) for record in records]
        return response

    async def answer(self, *records: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> None:
        await self.send(self.response(*records, rcode=rcode).to_wire(max_size=65535))


class StubServer:
    """Serves within `run`. `behave` is called for each query and may be replaced at any time; at first it is silent."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.address: Address = ip_address(address)
        self.queries: list[Received] = []
        self.ports: list[int] = []
        """From which the queries came."""
        self.behave: Callable[[Received], Awaitable[None]] = silent
        self._close = ExitStack()
        self._accepting = trio.CancelScope()
        family = socket.AF_INET if self.address.version == 4 else socket.AF_INET6
        for _ in range(20):
            with ExitStack() as stack:
                self._udp = stack.enter_context(trio.socket.socket(family, socket.SOCK_DGRAM))
                self._tcp = stack.enter_context(trio.socket.socket(family, socket.SOCK_STREAM))
                _bind(self._udp, address, port)
                self.port: int = self._udp.getsockname()[1]
                with suppress(OSError):  # the same number may be taken for TCP
                    _bind(self._tcp, address, self.port)
                    self._tcp.listen()
                    self._close = stack.pop_all()
                    return
        raise AssertionError("no port is free for both UDP and TCP")

    def close(self) -> None:
        """For one that does not run."""
        self._close.close()

    def refuse_connections(self) -> None:
        """Serve UDP only from now on."""
        self._accepting.cancel()
        self._tcp.close()

    async def send_from_here(self, receiver: tuple[str, int], wire: bytes) -> None:
        """Send bytes to somebody who may not have asked this server."""
        await self._udp.sendto(wire, receiver)

    async def run(self) -> None:
        with self._close:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_tcp, nursery)
                while True:
                    wire, sender = await self._udp.recvfrom(65535)
                    self.ports.append(sender[1])
                    nursery.start_soon(self._react, Received(wire, partial(self._send_to, sender)))

    async def _react(self, received: Received) -> None:
        self.queries.append(received)
        await self.behave(received)

    async def _send_to(self, receiver: tuple[str, int], wire: bytes) -> None:
        with suppress(ConnectionRefusedError):  # of an earlier asker that has gone
            await self._udp.sendto(wire, receiver)

    async def _serve_tcp(self, nursery: trio.Nursery) -> None:
        with self._accepting:
            while True:
                connection, _ = await self._tcp.accept()
                nursery.start_soon(self._serve_connection, trio.SocketStream(connection))

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        async def send_bare(wire: bytes) -> None:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(wire)

        async def send(wire: bytes) -> None:
            await send_bare(len(wire).to_bytes(2, "big") + wire)

        async with stream:
            received = b""
            while part := await stream.receive_some():
                received += part
                if len(received) >= 2 and len(received) == 2 + int.from_bytes(received[:2], "big"):
                    await self._react(Received(received[2:], send, send_bare))
                    return


def _bind(sock: trio.socket.SocketType, address: str, port: int) -> None:
    # trio's own bind is asynchronous for the sake of names; this is an address.
    trio_socket: socket.socket = sock._sock  # type: ignore[attr-defined]
    trio_socket.bind((address, port))


async def silent(_: Received) -> None:
    """Answer nothing."""


def answers(*records: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> Callable[[Received], Awaitable[None]]:
    """Answer with these records, be they those of the question or not."""

    async def behave(received: Received) -> None:
        await received.answer(*records, rcode=rcode)

    return behave


def sends(wire: Callable[[Received], bytes]) -> Callable[[Received], Awaitable[None]]:
    """Answer with the bytes that are made of a query."""

    async def behave(received: Received) -> None:
        await received.send(wire(received))

    return behave


async def nothing_there(received: Received) -> None:
    """Answer NXDOMAIN, with the SOA that lets it be cached."""
    response = received.response(rcode=dns.rcode.NXDOMAIN)
    response.authority = [rrset(SOA)]
    await received.send(response.to_wire())


def truncated(received: Received) -> bytes:
    """An answer that tells to ask by TCP."""
    response = received.response()
    response.flags |= dns.flags.TC
    return response.to_wire()
