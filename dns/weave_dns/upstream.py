"""Asking one upstream server one question: by UDP, by TCP where the answer is too long, without EDNS where it must be.

Each attempt by UDP has a socket of its own, so the kernel gives it a random port (RFC 5452 section 9.2), and it is
connected, so the kernel drops what others send and reports a closed port at once.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import dns.rcode
import trio

from weave_dns.upstream_query import Query, UnusableAnswer, is_truncated, read_answer

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from weave_dns.cache import Question
    from weave_dns.resolv_conf import Address
    from weave_dns.upstream_query import Answer
    from weave_router.control.random_source import RandomSource

MOST_IGNORED = 16
"""Responses that do not belong to the query; after so many somebody is guessing, and TCP cannot be guessed."""
MOST_INLINE = 512
"""Bytes of an answer that are read in the event loop, where nothing should take longer than 1 ms."""
MOST_READERS = 2
"""Long answers that are read at the same time, in threads."""
_MOST_UDP = 65535
_NO_EDNS = frozenset((dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS))
"""What servers say that do not know EDNS, or another version (RFC 6891 sections 6.1.3 and 7)."""


class Upstream:
    """Asks servers. `counters`: `ignored` and `tcp` are counted there. `complain`: told who does what."""

    def __init__(
        self, *, random: RandomSource, port: int, counters: Counter[str], complain: Callable[[Address, str], None]
    ) -> None:
        self._random = random
        self._port = port
        self._counters = counters
        self._complain = complain
        # 64 kB made to hurt take 0.6 s of a processor; few at a time, so that the data plane gets its share.
        self._readers = trio.CapacityLimiter(MOST_READERS)

    async def ask(self, server: Address, question: Question, *, dnssec_ok: bool, checking_disabled: bool) -> Answer:
        """The server's answer, whatever its response code. Waits without limit: the caller sets one.

        Raises `UnusableAnswer` for one that makes no sense, `OSError` where the server cannot be reached.
        """
        answer = await self._ask_once(server, Query(question, self._identifier(), dnssec_ok, checking_disabled))
        if answer.rcode in _NO_EDNS:
            plain = Query(question, self._identifier(), dnssec_ok, checking_disabled, edns=False)
            answer = await self._ask_once(server, plain)
        return answer

    def _identifier(self) -> int:
        return self._random.randrange(65536)

    async def _ask_once(self, server: Address, query: Query) -> Answer:
        wire = await self._exchange_datagrams(server, query)
        if wire is None or is_truncated(wire):
            query = query._replace(identifier=self._identifier())
            wire = await self._exchange_by_tcp(server, query)
            if is_truncated(wire):
                raise UnusableAnswer("truncated even by TCP")
        if len(wire) <= MOST_INLINE:
            return read_answer(wire, query)
        return await trio.to_thread.run_sync(read_answer, wire, query, abandon_on_cancel=True, limiter=self._readers)

    async def _exchange_datagrams(self, server: Address, query: Query) -> bytes | None:
        """The first datagram that belongs to the query; None where too many did not."""
        with trio.socket.socket(_family(server), socket.SOCK_DGRAM) as datagrams:
            await datagrams.connect(_socket_address(server, self._port))
            await datagrams.send(query.to_wire())
            for _ in range(MOST_IGNORED):
                wire = await datagrams.recv(_MOST_UDP)
                if query.belongs(wire):
                    return wire
                self._counters["ignored"] += 1
                self._complain(server, "sends what answers no question of ours, or somebody forges its answers")
        return None

    async def _exchange_by_tcp(self, server: Address, query: Query) -> bytes:
        self._counters["tcp"] += 1
        with trio.socket.socket(_family(server), socket.SOCK_STREAM) as connection:
            await connection.connect(_socket_address(server, self._port))
            wire = query.to_wire()
            # 2-byte length and message together, or some servers take them for two (RFC 7766 section 8).
            rest = memoryview(len(wire).to_bytes(2, "big") + wire)
            while rest:
                rest = rest[await connection.send(rest) :]
            length = int.from_bytes(await _receive_exactly(connection, 2), "big")
            wire = await _receive_exactly(connection, length)
        if not query.belongs(wire):
            raise UnusableAnswer("by TCP it answered something else")
        return wire


async def _receive_exactly(connection: trio.socket.SocketType, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        part = await connection.recv(length - len(received))
        if not part:
            raise UnusableAnswer("it closed the connection before the answer was complete")
        received += part
    return bytes(received)


def _family(server: Address) -> socket.AddressFamily:
    return socket.AF_INET if server.version == 4 else socket.AF_INET6


def _socket_address(server: Address, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Raises `OSError` where the interface of a link-local address is gone."""
    if server.version == 4:
        return str(server), port
    host, _, scope = str(server).partition("%")
    if not scope:
        return host, port, 0, 0
    return host, port, 0, int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
