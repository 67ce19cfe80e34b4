"""The name server: queries by UDP and TCP, at the addresses of the bridge as they come and go, and at one of the
operator's choice.

    socket ─> responder ─┬─> answer
                         └─> not about containers ─> forwarder ─> answer

Only clients in weave's networks have outside names resolved (`Clients`): an open resolver is a weapon.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections import Counter
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import trio

from weave_dns.cache import Question
from weave_dns.errors import Unresolved
from weave_dns.queries import CD, RD, TC, Query
from weave_dns.rate_limit import RateLimit
from weave_dns.responder import MAX_DATAGRAM, MAX_MESSAGE, REFUSED, SERVFAIL, datagram_limit, refusal
from weave_dns.settings import PORT, ListenAddress
from weave_router.errors import HostError
from weave_router.log_limit import LogLimit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager
    from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

    from weave_dns.responder import Responder
    from weave_dns.settings import DnsSettings

    Interface = IPv4Interface | IPv6Interface
    Network = IPv4Network | IPv6Network
    Watch = Callable[[], AbstractAsyncContextManager[AsyncIterator[tuple[Interface, ...]]]]

BURST = 64
"""Datagrams that are answered before others get their turn."""
MOST_FORWARDED = 512
"""Questions of all clients together that others are being asked."""
MOST_FORWARDED_PER_CLIENT = 64
MOST_CONNECTIONS = 256
MOST_CONNECTIONS_PER_CLIENT = 32
IDLE_S = 10.0
"""A TCP connection without a query is closed after so long (RFC 7766 section 6.2.3)."""
RETRY_S = 5.0
_BUFFER_BYTES = 4096
_RECEIVE_BUFFER_BYTES = 1 << 20
_MOST_KNOWN_CLIENTS = 8192
_FEW_RECORDS = 64
_LENGTH = struct.Struct(">H")

Address = IPv4Address | IPv6Address

log = logging.getLogger(__name__)


class Clients:
    """For whom outside names are resolved: weave's networks, this host itself, and those that the operator named.

    `nearby`: whether an address is that of a container of this host, though not on weave's network. Docker's resolver,
    for one, asks from wherever the container's default route leads.
    """

    def __init__(self, networks: Iterable[Network], nearby: Callable[[Address], bool] = lambda _: False) -> None:
        self._always = (*networks,)
        self._nearby = nearby
        self._bridge: tuple[Network, ...] = ()
        self._own: frozenset[Address] = frozenset()
        self._known: dict[str, bool] = {}

    def update(self, bridge: Iterable[Interface], own: Iterable[Address]) -> None:
        """The bridge's addresses, and those where we listen, are other ones now."""
        self._bridge = tuple(interface.network for interface in bridge)
        self._own = frozenset(own)
        self._known.clear()

    def may_recurse(self, client: str) -> bool:
        """Whether outside names are resolved for this address."""
        known = self._known.get(client)
        if known is None:
            address = ip_address(client.partition("%")[0])
            mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
            address = mapped or address
            known = (
                address.is_loopback
                or address in self._own
                or any(address in network for network in (*self._always, *self._bridge))
            )
            if not known:
                return self._nearby(address)  # which may change: bridges come and go
            if len(self._known) >= _MOST_KNOWN_CLIENTS:
                self._known.clear()
            self._known[client] = known
        return known


class Server:
    """The name server of one host.

    `watch` tells the bridge's addresses, at first and after each change. `resolve` asks upstream servers; see
    `forwarder.Forwarder.resolve`. `networks`: weave's own, beside those of the bridge's addresses. `nearby`: see
    `Clients`.
    """

    def __init__(
        self,
        settings: DnsSettings,
        responder: Responder,
        *,
        watch: Watch,
        resolve: Callable[..., Awaitable[dns.message.Message]],
        networks: Iterable[Network] = (),
        nearby: Callable[[Address], bool] = lambda _: False,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.troubles: dict[ListenAddress, str] = {}
        """Why it does not listen at an address where it should."""
        self._settings = settings
        self._responder = responder
        self._watch = watch
        self._resolve = resolve
        self._clients = Clients((*networks, *settings.clients), nearby)
        self._rate = RateLimit(settings.rate)
        self._log_limit = LogLimit()
        self._listeners: dict[ListenAddress, trio.CancelScope] = {}
        self._bridge: tuple[Address, ...] = ()
        self._open: dict[ListenAddress, None] = {}
        self._forwarded: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()

    @property
    def listening(self) -> tuple[ListenAddress, ...]:
        """Where queries are taken now, the bridge's first address first."""
        return tuple(address for address in self._listeners if address in self._open)

    @property
    def client_address(self) -> ListenAddress | None:
        """Where containers send their queries, the bridge's addresses before others; None while there is no such."""
        everywhere = self._everywhere
        served = [ListenAddress(host) for host in self._bridge if host.version == everywhere] if self._open else []
        named = [address for address in self.listening if not address.host.is_unspecified]
        found = sorted((*served, *named), key=lambda address: address.host not in self._bridge)
        return found[0] if found else None

    @property
    def _everywhere(self) -> int:
        """The family (4 or 6) of which all addresses of this host are listened at; 0 for none."""
        listen = self._settings.listen
        return listen.host.version if listen is not None and listen.host.is_unspecified and listen.port == PORT else 0

    def own_addresses(self) -> Container[Address]:
        """Addresses where nobody but us would answer: not to be asked as upstream."""
        if self._everywhere:
            return _AllOfThisHost()
        return frozenset(address.host for address in self._listeners if address.port == PORT)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. What cannot be listened at, or watched, is tried again."""
        async with trio.open_nursery() as nursery:
            self._adjust(nursery, ())
            started = False
            while True:
                try:
                    async with self._watch() as changes:
                        async for addresses in changes:
                            self._adjust(nursery, addresses)
                            if not started:
                                started = True
                                task_status.started()
                except HostError as error:
                    log.warning("The name server cannot watch the bridge's addresses: %s; it goes on trying", error)
                if not started:
                    started = True
                    task_status.started()
                await trio.sleep(RETRY_S)

    def _adjust(self, nursery: trio.Nursery, bridge: tuple[Interface, ...]) -> None:
        everywhere = self._everywhere
        wanted = dict.fromkeys(ListenAddress(interface.ip) for interface in bridge if interface.version != everywhere)
        self._bridge = tuple(interface.ip for interface in bridge)
        if self._settings.listen is not None:
            wanted.setdefault(self._settings.listen)
        for address in [address for address in self._listeners if address not in wanted]:
            self._listeners.pop(address).cancel()
            self.troubles.pop(address, None)
        new = [address for address in wanted if address not in self._listeners]
        for address in new:
            self._listeners[address] = trio.CancelScope()
        self._listeners = {address: self._listeners[address] for address in wanted}
        self._clients.update(bridge, (address.host for address in wanted))
        for address in new:
            nursery.start_soon(self._listen, address, self._listeners[address])

    async def _listen(self, address: ListenAddress, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                try:
                    with _bind(address) as datagrams, _bind(address, stream=True) as streams:
                        self.troubles.pop(address, None)
                        self._open[address] = None
                        log.info("The name server listens at %s", address)
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._serve_datagrams, datagrams, nursery)
                            nursery.start_soon(self._serve_streams, streams, nursery)
                except OSError as error:
                    text = error.strerror or str(error)
                    if self.troubles.get(address) != text:
                        log.warning("The name server cannot listen at %s: %s; it goes on trying", address, text)
                    self.troubles[address] = text
                finally:
                    self._open.pop(address, None)
                await trio.sleep(RETRY_S)

    # --- UDP --------------------------------------------------------------------------------------------------------

    async def _serve_datagrams(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        respond, counters, rate = self._responder.respond, self.counters, self._rate
        wildcard = ip_address(sock.getsockname()[0]).is_unspecified
        receive = _receive_with_destination if wildcard else _receive
        while True:
            await trio.lowlevel.wait_readable(sock)
            now = trio.current_time()
            taken = 0
            for _ in range(BURST):
                try:
                    data, client, ancillary = receive(sock)
                except BlockingIOError:
                    break
                taken += 1
                if not rate.allows(client[0], now):
                    counters["rate_limited"] += 1
                    continue
                answer = respond(data)
                if isinstance(answer, bytes):
                    _send(sock, answer, client, ancillary)
                elif answer is not None:
                    send = partial(_send, sock, client=client, ancillary=ancillary)
                    self._start_forwarding(answer, client[0], datagram_limit(answer), send, nursery)
                else:
                    counters["dropped"] += 1
            counters["queries"] += taken

    # --- TCP --------------------------------------------------------------------------------------------------------

    async def _serve_streams(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        while True:
            try:
                stream = await accepting.accept()
            except OSError as error:  # too many open files, or a client that has gone
                if self._log_limit.allows("accept", trio.current_time()):
                    log.warning("The name server cannot accept a connection: %s", error.strerror)
                await trio.sleep(0.1)
                continue
            try:
                client = str(stream.socket.getpeername()[0])
            except OSError:
                await trio.aclose_forcefully(stream)
                continue
            if self._connections.total() >= MOST_CONNECTIONS or (
                self._connections[client] >= MOST_CONNECTIONS_PER_CLIENT
            ):
                self.counters["connections_refused"] += 1
                await trio.aclose_forcefully(stream)
                continue
            nursery.start_soon(self._serve_stream, stream, client)

    async def _serve_stream(self, stream: trio.SocketStream, client: str) -> None:
        self._connections[client] += 1
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async with stream:
                    await self._converse(stream, client)
        finally:
            self._connections[client] -= 1
            if not self._connections[client]:
                del self._connections[client]

    async def _converse(self, stream: trio.SocketStream, client: str) -> None:
        received = bytearray()
        while True:
            with trio.move_on_after(IDLE_S) as limit:
                while len(received) < 2 or len(received) < 2 + _LENGTH.unpack_from(received)[0]:
                    part = await stream.receive_some(_BUFFER_BYTES)
                    if not part:
                        return
                    received += part
            if limit.cancelled_caught:
                return
            end = 2 + _LENGTH.unpack_from(received)[0]
            data = bytes(received[2:end])
            del received[:end]
            self.counters["queries"] += 1
            if not self._rate.allows(client, trio.current_time()):
                self.counters["rate_limited"] += 1
                return
            answer = self._responder.respond(data, stream=True)
            if isinstance(answer, Query):
                answer = await self._forward(answer, client, MAX_MESSAGE)
            if answer is None:
                self.counters["dropped"] += 1
                return
            with trio.move_on_after(IDLE_S) as limit:
                await stream.send_all(_LENGTH.pack(len(answer)) + answer)
            if limit.cancelled_caught:
                return

    # --- outside names ----------------------------------------------------------------------------------------------

    def _start_forwarding(
        self, query: Query, client: str, limit: int, send: Callable[[bytes], None], nursery: trio.Nursery
    ) -> None:
        """Without waiting: what cannot be forwarded is answered at once."""
        objection = self._objection(client)
        if objection is not None:
            send(refusal(query, objection))
        else:
            nursery.start_soon(self._forward_and_send, query, client, limit, send)

    async def _forward_and_send(self, query: Query, client: str, limit: int, send: Callable[[bytes], None]) -> None:
        send(await self._forward(query, client, limit))

    def _objection(self, client: str) -> int | None:
        if not self._clients.may_recurse(client):
            self.counters["refused"] += 1
            if self._log_limit.allows("refused", trio.current_time()):
                log.warning(
                    "%s asks for outside names; they are resolved for weave's networks, and those of --dns-clients",
                    client,
                )
            return REFUSED
        if self._forwarded.total() >= MOST_FORWARDED or self._forwarded[client] >= MOST_FORWARDED_PER_CLIENT:
            self.counters["overload"] += 1
            return SERVFAIL
        return None

    async def _forward(self, query: Query, client: str, limit: int) -> bytes:
        objection = self._objection(client)
        if objection is not None:
            return refusal(query, objection)
        self._forwarded[client] += 1
        self.counters["forwarded"] += 1
        try:
            message = await self._resolve(
                _question(query), dnssec_ok=query.dnssec_ok, checking_disabled=bool(query.flags & CD)
            )
            if sum(map(len, message.answer)) > _FEW_RECORDS:  # so many would hold up everybody else
                return await trio.to_thread.run_sync(_encode, message, query, limit)
            return _encode(message, query, limit)
        except Unresolved as error:
            self.counters["unresolved"] += 1
            if self._log_limit.allows("unresolved", trio.current_time()):
                log.warning("An outside name could not be resolved: %s", error)
            return refusal(query, SERVFAIL)
        finally:
            self._forwarded[client] -= 1
            if not self._forwarded[client]:
                del self._forwarded[client]


class _AllOfThisHost:
    """The addresses of this host."""

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, IPv4Address | IPv6Address):
            return False
        if address.is_loopback:
            return True
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((str(address), PORT))  # the kernel answers itself from the same address
            except OSError:
                return False
            return bool(ip_address(probe.getsockname()[0].partition("%")[0]) == address)


def _bind(address: ListenAddress, *, stream: bool = False) -> socket.socket:
    family = socket.AF_INET if address.host.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            if address.host.is_unspecified:  # the answer must come from where the query went
                level, option = _DESTINATION[family]
                sock.setsockopt(level, option, 1)
        sock.bind((str(address.host), address.port))
        if stream:
            sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock


_IP_PKTINFO = 8
_DESTINATION = {
    socket.AF_INET: (socket.IPPROTO_IP, _IP_PKTINFO),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO),
}
_ANCILLARY_BYTES = socket.CMSG_SPACE(64)


def _receive(sock: socket.socket) -> tuple[bytes, Any, Any]:
    data, client = sock.recvfrom(_BUFFER_BYTES)
    return data, client, None


def _receive_with_destination(sock: socket.socket) -> tuple[bytes, Any, Any]:
    data, ancillary, _, client = sock.recvmsg(_BUFFER_BYTES, _ANCILLARY_BYTES)
    return data, client, ancillary  # where the query went is where the answer comes from, in the same structure


def _send(sock: socket.socket, answer: bytes, client: Any, ancillary: Any) -> None:
    """Send, or not: a client that gets no answer asks again."""
    try:  # for each answer: `suppress` would take longer than all else that is done here
        if ancillary is None:
            sock.sendto(answer, client)
        else:
            sock.sendmsg([answer], ancillary, 0, client)
    except OSError:
        pass


def _question(query: Query) -> Question:
    name, _ = dns.name.from_wire(query.question, 0)
    return Question(name, dns.rdatatype.RdataType.make(query.rdtype), dns.rdataclass.RdataClass.make(query.rdclass))


def _encode(message: dns.message.Message, query: Query, limit: int) -> bytes:
    """The answer of an upstream server as the client gets it, cut to its limit."""
    rcode = message.rcode()
    message.id = query.id
    message.flags &= ~(dns.flags.RD | dns.flags.CD)
    message.flags |= query.flags & (RD | CD)
    if query.payload is None:
        message.use_edns(False)
        if rcode > 15:
            rcode = dns.rcode.SERVFAIL
    else:
        message.use_edns(0, dns.flags.DO if query.dnssec_ok else 0, MAX_DATAGRAM)
    message.set_rcode(rcode)
    try:
        wire = message.to_wire(max_size=limit, prefer_truncation=True)
        if wire[2] & TC >> 8 and not message.flags & TC and message.answer:
            return _cut(message, limit)
        return wire
    except (dns.exception.DNSException, ValueError) as error:
        raise Unresolved(f"the answer about {message.question[0].name} cannot be passed on: {error}") from error


def _cut(message: dns.message.Message, limit: int) -> bytes:
    """As many records of the answer as fit: a client that asks again by TCP gets all, one that cannot has some."""
    sets = message.answer
    message.authority, message.additional = [], []
    message.flags |= TC
    fitting, too_many = 0, sum(map(len, sets)) + 1
    wire = b""
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        message.answer = list(_first(sets, middle))
        try:
            wire = message.to_wire(max_size=limit)
            fitting = middle
        except dns.exception.TooBig:
            too_many = middle
    if not fitting:
        message.answer = []
        wire = message.to_wire(max_size=limit)
    return wire


def _first(sets: Iterable[dns.rrset.RRset], count: int) -> Iterator[dns.rrset.RRset]:
    for records in sets:
        if count <= 0:
            return
        part = records
        if len(records) > count:
            part = dns.rrset.from_rdata_list(records.name, records.ttl, list(records)[:count])
        count -= len(part)
        yield part
