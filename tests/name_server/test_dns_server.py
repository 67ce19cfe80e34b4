"""The name server on loopback with real sockets: who is answered, how long, and what it bears.

Addresses of the bridge are loopback addresses here, and their port is a free one instead of 53. The time limits of TCP
are shortened, since no mock clock moves the kernel.
"""

from __future__ import annotations

import logging
import random
import socket
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager, suppress
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio
import trio.testing

from weave_dns import server as module
from weave_dns.cache import Question, copy_answer
from weave_dns.entries import Entry
from weave_dns.errors import Unresolved
from weave_dns.responder import Responder
from weave_dns.server import Clients, Server
from weave_dns.settings import DnsSettings, ListenAddress
from weave_dns.table import Table
from weave_dns.zone import Zone
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from weave_dns.server import Interface

WEB = "web.weave.local."
WWW = "www.example.com."
FIRST, SECOND, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"
LIMIT_S = 10.0
"""For whatever must happen at once; the machine may be busy."""


def free_port() -> int:
    """A port that is free for UDP and TCP on all addresses, and none of those that the kernel gives to clients."""
    chance = random.Random()
    while True:
        port = chance.randrange(10_000, 30_000)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, suppress(OSError):
            tcp.bind(("", port))
            udp.bind(("", port))
            return port


class Resolver:
    """Stands for the forwarder: remembers what was asked, and answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.flags: list[tuple[bool, bool]] = []
        """Of each question: DNSSEC wanted, checking disabled."""
        self.records = ["300 IN A 192.0.2.1"]
        """Of the name that is asked for: TTL, class, type, data."""
        self.rcode = dns.rcode.NOERROR
        self.failure: Unresolved | None = None
        self.open = trio.Event()
        """Answers go out once it is set."""
        self.open.set()

    async def resolve(self, question: Question, *, dnssec_ok: bool, checking_disabled: bool) -> dns.message.Message:
        self.asked.append(str(question))
        self.flags.append((dnssec_ok, checking_disabled))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        made = dns.message.make_response(dns.message.make_query(question.name, question.rdtype), our_payload=0)
        made.flags |= dns.flags.RA
        for record in self.records:
            ttl, rdclass, rdtype, data = record.split(maxsplit=3)
            added = dns.rrset.from_text(question.name, int(ttl), rdclass, rdtype, data)
            rrset = made.find_rrset(made.answer, added.name, added.rdclass, added.rdtype, create=True)
            for rdata in added:
                rrset.add(rdata, added.ttl)
        made.set_rcode(self.rcode)
        return copy_answer(made, question)

    def close(self) -> None:
        """Let nobody have an answer until `open` is set."""
        self.open = trio.Event()


class World:
    """A name server that knows `web.weave.local` and listens at 127.0.0.1, its clients, and its bridge's addresses.

    `listen`: the operator's choice, none if empty. `bridge`: addresses as `address/len`.
    """

    def __init__(
        self, *, listen: str = FIRST, bridge: tuple[str, ...] = (), rate: int = 0, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self.table = Table()
        self.resolver = Resolver()
        self.add("10.32.1.1")
        self._tell, self._changes = trio.open_memory_channel[tuple["Interface", ...]](10)
        self.server = Server(
            DnsSettings(listen=self.address(listen) if listen else None, rate=rate),
            Responder(Zone(self.table, "weave.local.", 1), self.table, random=random.Random(1)),
            watch=self._watch,
            resolve=self.resolver.resolve,
        )
        self.bridge(*bridge)

    @asynccontextmanager
    async def _watch(self) -> AsyncIterator[AsyncIterator[tuple[Interface, ...]]]:
        yield self._changes

    def bridge(self, *addresses: str) -> None:
        """Give the bridge these addresses and no others."""
        self._tell.send_nowait(tuple(map(ip_interface, addresses)))

    def add(self, address: str, name: str = WEB) -> None:
        """Let a name lead to an address."""
        self.table.put(Entry("c1", PeerName(1), ip_address(address), name))

    def address(self, host: str) -> ListenAddress:
        return ListenAddress(ip_address(host), self.port)

    @property
    def hosts(self) -> list[str]:
        """The addresses where queries are taken."""
        return [str(address.host) for address in self.server.listening]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def udp(self, source: str = FIRST, to: str = FIRST) -> AsyncIterator[UdpClient]:
        """A client with a socket of its own, which hears nobody but the server at that address."""
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
            await sock.bind((to if ":" in to else source, 0))
            await sock.connect((to, self.port))
            yield UdpClient(sock)

    @asynccontextmanager
    async def tcp(self, source: str = FIRST, to: str = FIRST) -> AsyncIterator[TcpClient]:
        """A connection."""
        stream = await trio.open_tcp_stream(to, self.port, local_address=None if ":" in to else source)
        try:
            yield TcpClient(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def ask(self, message: dns.message.Message, source: str = FIRST, to: str = FIRST) -> dns.message.Message:
        """The answer by UDP."""
        async with self.udp(source, to) as client:
            return await client.ask(message)

    async def ask_by_tcp(
        self, message: dns.message.Message, source: str = FIRST, to: str = FIRST
    ) -> dns.message.Message:
        """The answer by TCP."""
        async with self.tcp(source, to) as client:
            return await client.ask(message)


class Client(ABC):
    """Sends queries and receives answers."""

    @abstractmethod
    async def send(self, *messages: dns.message.Message | bytes) -> None:
        """Send all of them without waiting."""

    @abstractmethod
    async def receive_bytes(self) -> bytes:
        """The next answer."""

    async def receive(self) -> dns.message.Message:
        return dns.message.from_wire(await self.receive_bytes())

    async def ask(self, message: dns.message.Message) -> dns.message.Message:
        await self.send(message)
        answer = await self.receive()
        assert message.is_response(answer)
        return answer


class UdpClient(Client):
    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock

    async def send(self, *messages: dns.message.Message | bytes) -> None:
        for message in messages:
            await self._sock.send(message if isinstance(message, bytes) else message.to_wire())

    async def receive_bytes(self) -> bytes:
        with trio.fail_after(LIMIT_S):
            return await self._sock.recv(65535)


class TcpClient(Client):
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, *messages: dns.message.Message | bytes) -> None:
        await self.stream.send_all(b"".join(map(framed, messages)))

    async def receive_bytes(self) -> bytes:
        with trio.fail_after(LIMIT_S):
            while len(self._received) < 2 or len(self._received) < 2 + int.from_bytes(self._received[:2], "big"):
                part = await self.stream.receive_some()
                assert part, "the server closed the connection"
                self._received += part
        end = 2 + int.from_bytes(self._received[:2], "big")
        wire, self._received = self._received[2:end], self._received[end:]
        return wire

    async def until_closed(self) -> bytes:
        """All that still comes; fails if the server keeps the connection open."""
        with trio.fail_after(LIMIT_S), suppress(trio.BrokenResourceError):  # reset: it was sent more than it read
            while part := await self.stream.receive_some():
                self._received += part
        return self._received


def framed(message: dns.message.Message | bytes) -> bytes:
    """A message with its length before it."""
    wire = message if isinstance(message, bytes) else message.to_wire()
    return len(wire).to_bytes(2, "big") + wire


def query(name: str = WEB, rdtype: str = "A", *, payload: int | None = None) -> dns.message.Message:
    """A query; with EDNS where it tells how many bytes the client takes."""
    message = dns.message.make_query(name, rdtype)
    if payload is not None:
        message.use_edns(0, payload=payload)
    return message


def data(message: dns.message.Message) -> list[str]:
    """The data of the answer's records."""
    return [rdata.to_text() for rrset in message.answer for rdata in rrset]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the kernel
            await trio.sleep(0.002)


def world_with(
    *, strangers: tuple[str, ...] = (), limits: dict[str, float] | None = None, **options: object
) -> Callable[[Callable[[World], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a coroutine: a server runs.

    `strangers`: loopback addresses that are taken for none. `limits`: other numbers for the module's.
    """

    def decorate(check: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
        async def main() -> None:
            world = World(**options)  # type: ignore[arg-type]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, "ListenAddress", partial(ListenAddress, port=world.port))
                patch.setattr(module, "PORT", world.port)
                if strangers:
                    patch.setattr(Clients, "may_recurse", lambda _, client: client not in strangers)
                for name, value in (limits or {}).items():
                    patch.setattr(module, name, value)
                async with world.running():
                    await check(world)

        return lambda: trio.run(main)

    return decorate


in_a_world = world_with()


# Who may ask for outside names


def test_clients_are_weaves_networks_this_host_and_those_whom_the_operator_named() -> None:
    clients = Clients([ip_network("10.32.0.0/12"), ip_network("fd00::/8")])
    clients.update([ip_interface("192.168.7.1/24")], [ip_address("203.0.113.5")])
    for text in ("10.32.0.1", "10.47.255.254", "fd00::9", "192.168.7.200", "127.0.0.1", "127.9.9.9", "::1"):
        assert clients.may_recurse(text), text
    assert clients.may_recurse("203.0.113.5"), "this host, which asks at one of its own addresses"
    for text in ("10.48.0.1", "192.168.8.1", "203.0.113.6", "8.8.8.8", "2001:db8::1", "fe80::1", "0.0.0.0"):
        assert not clients.may_recurse(text), text


def test_clients_form_of_the_address_does_not_matter() -> None:
    clients = Clients([ip_network("10.32.0.0/12"), ip_network("fe80::/10")])
    assert clients.may_recurse("::ffff:10.32.0.1")
    assert not clients.may_recurse("::ffff:8.8.8.8")
    assert clients.may_recurse("fe80::1%eth0")


def test_clients_of_a_network_that_the_bridge_has_left() -> None:
    clients = Clients([])
    assert not clients.may_recurse("192.168.7.9")
    clients.update([ip_interface("192.168.7.1/24")], [])
    assert clients.may_recurse("192.168.7.9")
    clients.update([], [])
    assert not clients.may_recurse("192.168.7.9")


def test_clients_that_are_containers_nearby_come_and_go() -> None:
    nearby = {ip_address("172.18.0.2")}
    clients = Clients([], nearby.__contains__)
    assert clients.may_recurse("172.18.0.2")
    assert not clients.may_recurse("172.18.0.3")
    nearby.add(ip_address("172.18.0.3"))
    assert clients.may_recurse("172.18.0.3")
    nearby.clear()
    assert not clients.may_recurse("172.18.0.2")


def test_clients_that_are_remembered_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KNOWN_CLIENTS", 10)
    clients = Clients([ip_network("10.0.0.0/8")])
    for number in range(100):
        assert clients.may_recurse(f"10.0.0.{number}")
        assert not clients.may_recurse(f"11.0.0.{number}")
        assert len(clients._known) <= 10


def test_clients_that_the_settings_name() -> None:
    network = ip_network("198.51.100.0/24")
    table = Table()
    server = Server(
        DnsSettings(clients=(network,)),
        Responder(Zone(table, "weave.local.", 1), table, random=random.Random(1)),
        watch=lambda: pytest.fail("nothing runs"),
        resolve=lambda: pytest.fail("nothing is asked"),
        networks=[ip_network("10.32.0.0/12")],
    )
    assert [server._clients.may_recurse(text) for text in ("198.51.100.9", "10.32.0.9", "192.0.2.9")] == [
        True,
        True,
        False,
    ]


@world_with(strangers=(SECOND,))
async def test_strangers_get_own_names_only(world: World) -> None:
    for ask in (world.ask, world.ask_by_tcp):
        answer = await ask(query(WWW, payload=4096), SECOND)
        assert (answer.rcode(), answer.answer, answer.edns) == (dns.rcode.REFUSED, [], 0)
        assert data(await ask(query(), SECOND)) == ["10.32.1.1"]
        assert data(await ask(query(WWW))) == ["192.0.2.1"]
    assert len(world.resolver.asked) == 2
    assert world.server.counters["refused"] == 2


def test_strangers_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    @world_with(strangers=(SECOND,))
    async def check(world: World) -> None:
        for _ in range(20):
            await world.ask(query(WWW), SECOND)

    check()
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "127.0.0.2 asks for outside names; they are resolved for weave's networks, and those of --dns-clients"
    ]


# Own names


@in_a_world
async def test_own_name(world: World) -> None:
    for ask in (world.ask, world.ask_by_tcp):
        answer = await ask(query("WEB.weave.local."))
        assert (answer.rcode(), data(answer), answer.answer[0].ttl) == (dns.rcode.NOERROR, ["10.32.1.1"], 1)
        assert answer.flags & dns.flags.AA
        assert data(await ask(query("1.1.32.10.in-addr.arpa.", "PTR"))) == [WEB]
        assert (await ask(query("nobody.weave.local."))).rcode() == dns.rcode.NXDOMAIN
    assert world.resolver.asked == []
    assert world.server.counters["queries"] == 6


@in_a_world
async def test_name_is_there_as_soon_as_it_is_added(world: World) -> None:
    assert (await world.ask(query("db.weave.local."))).rcode() == dns.rcode.NXDOMAIN
    world.add("10.32.1.2", "db.weave.local.")
    assert data(await world.ask(query("db.weave.local."))) == ["10.32.1.2"]
    world.add("fd00::2", "db.weave.local.")
    assert data(await world.ask_by_tcp(query("db.weave.local.", "AAAA"))) == ["fd00::2"]


@in_a_world
async def test_many_addresses_are_cut_by_udp_and_not_by_tcp(world: World) -> None:
    for number in range(200):
        world.add(f"10.33.0.{number}", "many.weave.local.")
    answer = await world.ask(query("many.weave.local."))
    assert answer.flags & dns.flags.TC
    assert 20 < len(data(answer)) < 40
    answer = await world.ask_by_tcp(query("many.weave.local."))
    assert not answer.flags & dns.flags.TC
    assert len(data(answer)) == 200


@in_a_world
async def test_burst_of_many_clients(world: World) -> None:
    """More than are answered in one go; all of them have been sent before any is read."""
    async with world.udp() as one, world.udp(SECOND) as other:
        wanted = [dns.message.make_query(WEB, "A", id=number) for number in range(150)]
        for message in wanted:
            await one.send(message)
            await other.send(message)
        for client in (one, other):
            assert [(await client.receive()).id for _ in wanted] == [message.id for message in wanted]


# Outside names


@in_a_world
async def test_outside_name(world: World) -> None:
    for ask in (world.ask, world.ask_by_tcp):
        message = query("WWW.Example.com.")
        answer = await ask(message)
        assert (answer.id, answer.question, data(answer)) == (message.id, message.question, ["192.0.2.1"])
        assert answer.question[0].name.to_text() == "WWW.Example.com.", "letter case is a secret of the client"
        assert answer.answer[0].ttl == 300
        assert answer.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
        assert answer.edns == -1
    assert world.resolver.asked == ["WWW.Example.com. A"] * 2
    assert world.server.counters["forwarded"] == 2


@in_a_world
async def test_clients_flags_are_passed_on_and_come_back(world: World) -> None:
    message = query(WWW, payload=1232)
    message.flags = dns.flags.CD
    message.want_dnssec()
    for ask in (world.ask, world.ask_by_tcp):
        answer = await ask(message)
        assert answer.flags == dns.flags.QR | dns.flags.CD | dns.flags.RA
        assert (answer.edns, answer.ednsflags, answer.payload) == (0, dns.flags.DO, 1232)
    await world.ask(query(WWW))
    assert world.resolver.flags == [(True, True), (True, True), (False, False)]


@in_a_world
async def test_questions_that_are_passed_on_as_they_are(world: World) -> None:
    for name, rdtype in ((".", "NS"), ("com.", "DS"), ("4.3.2.1.in-addr.arpa.", "PTR"), (WWW, "TYPE65280")):
        await world.ask(query(name, rdtype))
    assert world.resolver.asked == [". NS", "com. DS", "4.3.2.1.in-addr.arpa. PTR", "www.example.com. TYPE65280"]


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_rcode_of_others_is_passed_on(rcode: dns.rcode.Rcode) -> None:
    @in_a_world
    async def check(world: World) -> None:
        world.resolver.records, world.resolver.rcode = [], rcode
        for payload in (None, 1232):
            assert (await world.ask(query(WWW, payload=payload))).rcode() == rcode
        assert (await world.ask_by_tcp(query(WWW))).rcode() == rcode

    check()


@in_a_world
async def test_extended_rcode_is_servfail_to_a_client_without_edns(world: World) -> None:
    real = world.resolver.resolve

    async def resolve(question: Question, **options: bool) -> dns.message.Message:
        message = await real(question, **options)
        message.use_edns(0)
        message.set_rcode(dns.rcode.BADCOOKIE)
        return message

    world.server._resolve = resolve
    answer = await world.ask(query(WWW))
    assert (answer.rcode(), answer.edns) == (dns.rcode.SERVFAIL, -1)
    assert (await world.ask(query(WWW, payload=1232))).rcode() == dns.rcode.BADCOOKIE


@pytest.mark.parametrize(
    ("payload", "limit"), [(None, 512), (0, 512), (100, 512), (512, 512), (900, 900), (1232, 1232), (65535, 1232)]
)
def test_long_answer_of_others_is_cut_to_what_the_client_takes(payload: int | None, limit: int) -> None:
    @in_a_world
    async def check(world: World) -> None:
        world.resolver.records = [f"60 IN A 192.0.2.{number}" for number in range(200)]
        async with world.udp() as client:
            await client.send(query(WWW, payload=payload))
            wire = await client.receive_bytes()
        answer = dns.message.from_wire(wire)
        assert len(wire) <= limit
        assert answer.flags & dns.flags.TC
        assert (answer.question, answer.edns) == (query(WWW).question, -1 if payload is None else 0)
        whole = await world.ask_by_tcp(query(WWW, payload=payload))
        assert not whole.flags & dns.flags.TC
        assert len(data(whole)) == 200

    check()


@in_a_world
async def test_answer_of_others_that_just_fits_is_not_cut(world: World) -> None:
    texts = [f'60 IN TXT "{chr(97 + number) * 50}"' for number in range(7)]
    world.resolver.records = [*texts, f'60 IN TXT "{"z" * (512 - 33 - 7 * 63 - 13)}"']
    async with world.udp() as client:
        await client.send(query(WWW, "TXT"))
        wire = await client.receive_bytes()
        assert (len(wire), dns.message.from_wire(wire).flags & dns.flags.TC) == (512, 0)
        await client.send(query(WWW, "TXT", payload=512))  # the OPT record takes 11 bytes
        wire = await client.receive_bytes()
        assert len(wire) <= 512
        assert dns.message.from_wire(wire).flags & dns.flags.TC


@in_a_world
async def test_very_long_answer_by_tcp(world: World) -> None:
    world.resolver.records = [f'60 IN TXT "{"x" * 200}{number}"' for number in range(290)]
    assert len(data(await world.ask_by_tcp(query(WWW, "TXT")))) == 290
    world.resolver.records = [f'60 IN TXT "{"x" * 200}{number}"' for number in range(400)]  # more than fits anywhere
    async with world.tcp() as client:
        answer = await client.ask(query(WWW, "TXT"))
        assert answer.flags & dns.flags.TC or answer.rcode() == dns.rcode.SERVFAIL
        assert data(await client.ask(query())) == ["10.32.1.1"]


def test_unresolved_is_servfail_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    @in_a_world
    async def check(world: World) -> None:
        world.resolver.failure = Unresolved("no upstream name server answered")
        for ask in (world.ask, world.ask_by_tcp):
            for payload, edns in ((None, -1), (1232, 0)):
                answer = await ask(query(WWW, payload=payload))
                assert (answer.rcode(), answer.question) == (dns.rcode.SERVFAIL, query(WWW).question)
                assert answer.edns == edns
        assert world.server.counters["unresolved"] == 4
        world.resolver.failure = None
        assert data(await world.ask(query(WWW))) == ["192.0.2.1"]

    check()
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert record.message == "An outside name could not be resolved: no upstream name server answered"


@in_a_world
async def test_who_waits_for_others_holds_up_nobody(world: World) -> None:
    world.resolver.close()
    async with world.udp() as one, world.udp() as two, world.tcp() as three:
        for client in (one, two, three):
            await client.send(query(WWW))
        await until(lambda: len(world.resolver.asked) == 3)
        assert data(await world.ask(query())) == ["10.32.1.1"]
        assert data(await world.ask_by_tcp(query())) == ["10.32.1.1"]
        world.resolver.open.set()
        for client in (one, two, three):
            assert data(await client.receive()) == ["192.0.2.1"]


@in_a_world
async def test_client_that_goes_away_while_it_waits(world: World) -> None:
    world.resolver.close()
    async with world.udp() as client, world.tcp() as other:
        await client.send(query(WWW))
        await other.send(query(WWW))
        await until(lambda: len(world.resolver.asked) == 2)
    world.resolver.open.set()
    await until(lambda: not world.server._forwarded and not world.server._connections)
    assert data(await world.ask(query(WWW))) == ["192.0.2.1"]


@world_with(limits={"MOST_FORWARDED_PER_CLIENT": 2, "MOST_FORWARDED": 3})
async def test_questions_that_are_forwarded_at_a_time_are_few(world: World) -> None:
    world.resolver.close()
    async with world.udp() as one, world.udp(SECOND) as two, world.udp(THIRD) as three:
        await one.send(*(query(f"{number}.example.com.") for number in range(10)))
        assert [(await one.receive()).rcode() for _ in range(8)] == [dns.rcode.SERVFAIL] * 8
        assert len(world.resolver.asked) == 2
        assert data(await one.ask(query())) == ["10.32.1.1"], "own names go on being answered"
        assert (await world.ask_by_tcp(query(WWW))).rcode() == dns.rcode.SERVFAIL, "TCP counts with UDP"
        await two.send(query("two.example.com."))
        await until(lambda: len(world.resolver.asked) == 3)
        assert (await three.ask(query(WWW))).rcode() == dns.rcode.SERVFAIL, "all clients together"
        assert world.server.counters["overload"] == 10
        world.resolver.open.set()
        for client, number in ((one, 2), (two, 1)):
            for _ in range(number):
                assert data(await client.receive()) == ["192.0.2.1"]
        for client in (one, one, one, two, three):
            assert data(await client.ask(query(WWW))) == ["192.0.2.1"]


# TCP connections


@in_a_world
async def test_several_queries_by_one_connection(world: World) -> None:
    async with world.tcp() as client:
        for _ in range(3):
            assert data(await client.ask(query())) == ["10.32.1.1"]
            assert data(await client.ask(query(WWW))) == ["192.0.2.1"]


@in_a_world
async def test_pipelined_queries(world: World) -> None:
    messages = [query(name) for name in (WWW, WEB, WWW, WEB, "nobody.weave.local.") * 20]
    for number, message in enumerate(messages):
        message.id = number
    async with world.tcp() as client:
        await client.send(*messages)
        answers = [await client.receive() for _ in messages]
    assert sorted(answer.id for answer in answers) == sorted(message.id for message in messages)
    by_id = {answer.id: answer for answer in answers}
    assert all(message.question == by_id[message.id].question for message in messages)


@in_a_world
async def test_query_in_pieces(world: World) -> None:
    async with world.tcp() as client:
        for byte in framed(query()):
            await client.stream.send_all(bytes((byte,)))
            await trio.sleep(0.001)
        assert data(await client.receive()) == ["10.32.1.1"]


@in_a_world
async def test_client_that_has_said_all_it_wants_still_gets_its_answers(world: World) -> None:
    async with world.tcp() as client:
        await client.send(query(), query(WWW))
        await client.stream.send_eof()
        assert data(await client.receive()) == ["10.32.1.1"]
        assert data(await client.receive()) == ["192.0.2.1"]
        assert await client.until_closed() == b""


@world_with(limits={"IDLE_S": 0.2})
async def test_idle_connection_is_closed(world: World) -> None:
    async with world.tcp() as silent, world.tcp() as busy, world.tcp() as half:
        await half.stream.send_all(framed(query())[:10])
        assert data(await busy.ask(query())) == ["10.32.1.1"]
        for client in (silent, half, busy):
            assert await client.until_closed() == b""
    await until(lambda: not world.server._connections)


@world_with(limits={"IDLE_S": 0.3})
async def test_connection_in_use_stays(world: World) -> None:
    async with world.tcp() as client:
        for _ in range(5):
            await trio.sleep(0.1)
            assert data(await client.ask(query())) == ["10.32.1.1"]


@world_with(limits={"IDLE_S": 0.3})
async def test_connection_that_waits_for_others_is_not_idle(world: World) -> None:
    world.resolver.close()
    async with world.tcp() as client:
        await client.send(query(WWW))
        await trio.sleep(0.6)
        world.resolver.open.set()
        assert data(await client.receive()) == ["192.0.2.1"]


@world_with(limits={"IDLE_S": 0.3})
async def test_trickle_does_not_keep_a_connection_open(world: World) -> None:
    async with world.tcp() as client:
        begin = trio.current_time()
        with suppress(trio.BrokenResourceError):
            for byte in framed(query("x." * 20 + WWW)):
                await client.stream.send_all(bytes((byte,)))
                await trio.sleep(0.1)
        assert trio.current_time() - begin < 2
        assert await client.until_closed() == b""


@world_with(limits={"IDLE_S": 0.3})
async def test_client_that_does_not_read_is_given_up(world: World) -> None:
    for number in range(3000):
        world.add(str(ip_address("10.34.0.0") + number), "many.weave.local.")
    async with world.tcp() as client:
        await client.send(*(query("many.weave.local.") for _ in range(300)))
        await until(lambda: bool(world.server._connections))
        await until(lambda: not world.server._connections)
    assert world.server.counters["queries"] < 300
    assert data(await world.ask_by_tcp(query())) == ["10.32.1.1"]


@world_with(limits={"MOST_CONNECTIONS_PER_CLIENT": 2, "MOST_CONNECTIONS": 3})
async def test_connections_are_few(world: World) -> None:
    async with world.tcp() as one, world.tcp() as two:
        for client in (one, two):
            await client.ask(query())
        async with world.tcp() as three:
            assert await three.until_closed() == b""
        assert world.server.counters["connections_refused"] == 1
        assert data(await world.ask(query())) == ["10.32.1.1"], "UDP is another matter"
        async with world.tcp(SECOND) as other, world.tcp(THIRD) as late:
            assert data(await other.ask(query())) == ["10.32.1.1"]
            assert await late.until_closed() == b""
        assert data(await one.ask(query())) == ["10.32.1.1"]
    await until(lambda: not world.server._connections)
    assert data(await world.ask_by_tcp(query())) == ["10.32.1.1"], "those that have ended do not count"


# What is none


@in_a_world
async def test_datagrams_that_are_no_queries(world: World) -> None:
    response = query()
    response.flags |= dns.flags.QR
    async with world.udp() as client:
        await client.send(b"", b"\0", bytes(11), query().to_wire()[:11], response)
        assert data(await client.ask(query())) == ["10.32.1.1"], "the first answer, so these had none"
        assert world.server.counters["dropped"] == 5


@in_a_world
async def test_datagrams_that_are_broken(world: World) -> None:
    whole = query().to_wire()
    async with world.udp() as client:
        for broken in (whole[:-1], whole[:13], whole[:12], whole[:12] + b"\xff" * 40, whole[:12] + b"\x3f" * 8000):
            await client.send(broken)
            answer = await client.receive_bytes()
            assert (answer[:2], answer[3] & 15) == (whole[:2], dns.rcode.FORMERR)
        assert data(await client.ask(query())) == ["10.32.1.1"]


@in_a_world
async def test_noise_of_all_kinds(world: World) -> None:
    chance = random.Random(7)
    whole = query(WWW, payload=4096).to_wire()
    async with world.udp() as client:
        for _ in range(500):
            noise = bytearray(whole[: chance.randrange(len(whole) + 1)] + chance.randbytes(chance.randrange(20)))
            for _ in range(chance.randrange(5)):
                if noise:
                    noise[chance.randrange(len(noise))] = chance.randrange(256)
            await client.send(bytes(noise))
        await until(lambda: world.server.counters["queries"] == 500)
    assert data(await world.ask(query())) == ["10.32.1.1"]


@pytest.mark.parametrize("message", [b"", b"\0", bytes(11), b"\0\0\x80\0" + bytes(8)])
def test_connection_that_brings_no_query_is_closed(message: bytes) -> None:
    @in_a_world
    async def check(world: World) -> None:
        async with world.tcp() as client:
            await client.send(message)
            assert await client.until_closed() == b""
        assert data(await world.ask_by_tcp(query())) == ["10.32.1.1"]

    check()


@in_a_world
async def test_longest_message_of_garbage(world: World) -> None:
    async with world.tcp() as client:
        await client.send(query().to_wire()[:12] + b"\xff" * (65535 - 12), query())
        assert (await client.receive_bytes())[3] & 15 == dns.rcode.FORMERR
        assert data(await client.receive()) == ["10.32.1.1"]


@in_a_world
async def test_connections_that_are_broken_off(world: World) -> None:
    for part in (b"", framed(query())[:1], framed(query())[:2], framed(query())[:-1], framed(query())):
        async with world.tcp() as client:
            await client.stream.send_all(part)
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, no farewell
    await until(lambda: not world.server._connections)
    assert data(await world.ask_by_tcp(query())) == ["10.32.1.1"]


# Rate


async def next_second() -> None:
    """Rates are counted by the second of the clock."""
    await trio.sleep(1.01 - trio.current_time() % 1)


@world_with(rate=3)
async def test_rate_of_one_client_is_limited(world: World) -> None:
    await next_second()
    async with world.udp() as one, world.udp(SECOND) as other:
        wanted = [query() for _ in range(6)]
        await one.send(*wanted)
        assert [(await one.receive()).id for _ in range(3)] == [message.id for message in wanted[:3]]
        assert data(await other.ask(query())) == ["10.32.1.1"]
        async with world.tcp() as client:
            await client.send(query())
            assert await client.until_closed() == b""
        assert world.server.counters["rate_limited"] == 4
        await next_second()
        message = query()
        await one.send(message)
        assert (await one.receive()).id == message.id


# Addresses that come and go


@world_with(listen="")
async def test_without_an_address_nothing_is_listened_at(world: World) -> None:
    assert (world.server.listening, world.server.troubles, world.server.own_addresses()) == ((), {}, frozenset())
    with pytest.raises(OSError, match="refused"):
        await world.ask(query())


@world_with(listen="")
async def test_address_comes_and_goes(world: World) -> None:
    world.bridge(f"{SECOND}/24", f"{THIRD}/24")
    await until(lambda: world.hosts == [SECOND, THIRD])
    for ask in (world.ask, world.ask_by_tcp):
        for to in (SECOND, THIRD):
            assert data(await ask(query(), FIRST, to)) == ["10.32.1.1"]
    async with world.tcp(to=SECOND) as going, world.tcp(to=THIRD) as staying:
        for client in (going, staying):
            await client.ask(query())
        world.bridge(f"{THIRD}/24")
        await until(lambda: world.hosts == [THIRD])
        assert await going.until_closed() == b""
        assert data(await staying.ask(query())) == ["10.32.1.1"]
    with pytest.raises(OSError, match="refused"):
        await world.ask(query(), FIRST, SECOND)
    world.bridge()
    await until(lambda: world.hosts == [])
    world.bridge(f"{SECOND}/24")
    await until(lambda: world.hosts == [SECOND])
    assert data(await world.ask(query(), FIRST, SECOND)) == ["10.32.1.1"]


@world_with(bridge=(f"{THIRD}/24", f"{SECOND}/24"))
async def test_bridges_first_address_is_told_first(world: World) -> None:
    await until(lambda: world.hosts == [THIRD, SECOND, FIRST])
    world.bridge(f"{SECOND}/24")
    await until(lambda: world.hosts == [SECOND, FIRST])
    world.bridge(f"{FIRST}/24", f"{SECOND}/24")
    await until(lambda: world.hosts == [FIRST, SECOND])


@world_with(listen="", bridge=(f"{SECOND}/24",))
async def test_other_length_of_the_prefix_disturbs_nobody(world: World) -> None:
    await until(lambda: world.hosts == [SECOND])
    async with world.tcp(to=SECOND) as client:
        await client.ask(query())
        world.bridge(f"{SECOND}/8")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert world.hosts == [SECOND]
        assert data(await client.ask(query())) == ["10.32.1.1"]


@world_with(listen="", bridge=(f"{SECOND}/24",))
async def test_question_that_waits_goes_with_the_address(world: World) -> None:
    await until(lambda: world.hosts == [SECOND])
    world.resolver.close()
    async with world.udp(to=SECOND) as one, world.tcp(to=SECOND) as two:
        await one.send(query(WWW))
        await two.send(query(WWW))
        await until(lambda: len(world.resolver.asked) == 2)
        world.bridge()
        await until(lambda: world.hosts == [])
        await until(lambda: not world.server._forwarded and not world.server._connections)
        assert await two.until_closed() == b""


@world_with(listen="", bridge=("::1/128", f"{SECOND}/24"))
async def test_both_families(world: World) -> None:
    await until(lambda: world.hosts == ["::1", SECOND])
    for ask in (world.ask, world.ask_by_tcp):
        assert data(await ask(query(), to="::1")) == ["10.32.1.1"]
        assert data(await ask(query(WWW), to="::1")) == ["192.0.2.1"]
        assert data(await ask(query(), to=SECOND)) == ["10.32.1.1"]


@in_a_world
async def test_upstream_must_not_be_one_of_ours(world: World) -> None:
    assert ip_address(FIRST) in world.server.own_addresses()
    assert ip_address(SECOND) not in world.server.own_addresses()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PORT", world.port + 1)
        assert ip_address(FIRST) not in world.server.own_addresses(), "at the usual port somebody else may answer"


@world_with(listen="0.0.0.0")
async def test_upstream_must_not_be_one_of_ours_with_the_wildcard_either(world: World) -> None:
    """A resolv.conf with 127.0.0.1 would let every outside question wait for itself."""
    for text in (FIRST, SECOND):
        assert ip_address(text) in world.server.own_addresses()
    assert ip_address("192.0.2.53") not in world.server.own_addresses()


# Ports that others have


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_busy_port_is_told_and_tried_again(kind: socket.SocketKind, caplog: pytest.LogCaptureFixture) -> None:
    @world_with(listen="", limits={"RETRY_S": 0.02})
    async def check(world: World) -> None:
        with socket.socket(socket.AF_INET, kind) as other:
            other.bind((SECOND, world.port))
            if kind == socket.SOCK_STREAM:
                other.listen()
            world.bridge(f"{SECOND}/24", f"{THIRD}/24")
            await until(lambda: world.hosts == [THIRD])
            await until(lambda: bool(world.server.troubles))
            assert world.server.troubles == {world.address(SECOND): "Address already in use"}
            assert data(await world.ask(query(), to=THIRD)) == ["10.32.1.1"], "the other one works"
            await trio.sleep(0.2)
            assert world.hosts == [THIRD]
        await until(lambda: world.hosts == [SECOND, THIRD])
        assert world.server.troubles == {}
        for ask in (world.ask, world.ask_by_tcp):
            assert data(await ask(query(), to=SECOND)) == ["10.32.1.1"]

    caplog.set_level(logging.INFO, module.__name__)
    check()
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("The name server cannot listen at 127.0.0.2:")
    assert warnings[0].endswith(": Address already in use; it goes on trying")


@world_with(listen="", limits={"RETRY_S": 0.02})
async def test_trouble_goes_with_its_address(world: World) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind((SECOND, world.port))
        world.bridge(f"{SECOND}/24")
        await until(lambda: bool(world.server.troubles))
        world.bridge()
        await until(lambda: not world.server.troubles)
        await trio.sleep(0.1)
        assert world.server.troubles == {}


@world_with(listen="192.0.2.77", limits={"RETRY_S": 0.02})
async def test_address_that_this_host_does_not_have(world: World) -> None:
    await until(lambda: world.server.troubles == {world.address("192.0.2.77"): "Cannot assign requested address"})
    world.bridge(f"{SECOND}/24")
    await until(lambda: world.hosts == [SECOND])
    assert data(await world.ask(query(), to=SECOND)) == ["10.32.1.1"]


# The wildcard address


@world_with(listen="0.0.0.0")
async def test_wildcard_answers_from_the_address_that_was_asked(world: World) -> None:
    for to in (FIRST, "127.0.0.77", "127.1.2.3"):
        for ask in (world.ask, world.ask_by_tcp):
            assert data(await ask(query(), to=to)) == ["10.32.1.1"]
            assert data(await ask(query(WWW), to=to)) == ["192.0.2.1"]


@world_with(listen="::")
async def test_wildcard_of_ipv6(world: World) -> None:
    for ask in (world.ask, world.ask_by_tcp):
        assert data(await ask(query(), to="::1")) == ["10.32.1.1"]
        assert data(await ask(query(WWW), to="::1")) == ["192.0.2.1"]


@world_with(listen="0.0.0.0", bridge=(f"{SECOND}/24",), limits={"RETRY_S": 0.02})
async def test_wildcard_serves_the_bridges_addresses_too(world: World) -> None:
    """`--dns-listen-address :53` and then `weave expose`, which gives the bridge an address."""
    await trio.sleep(0.1)
    assert world.server.troubles == {}
    for ask in (world.ask, world.ask_by_tcp):
        for to in (SECOND, THIRD):
            assert data(await ask(query(), to=to)) == ["10.32.1.1"]
    world.bridge()
    await trio.sleep(0.1)
    assert world.server.troubles == {}
    assert data(await world.ask(query(), to=SECOND)) == ["10.32.1.1"]


# The end


def test_end_leaves_nothing_behind() -> None:
    async def main() -> None:
        world = World()
        world.resolver.close()
        async with trio.open_nursery() as nursery:
            await nursery.start(world.server.run)
            async with world.udp() as one, world.tcp() as two, world.tcp() as idle:
                await one.send(query(WWW))
                await two.send(query(WWW))
                assert data(await idle.ask(query())) == ["10.32.1.1"]
                await until(lambda: len(world.resolver.asked) == 2)
                begin = trio.current_time()
                nursery.cancel_scope.cancel()
        assert trio.current_time() - begin < 1
        assert (world.server.listening, world.server._forwarded, world.server._connections) == ((), {}, {})
        successor = World(port=world.port)  # has the address at once, though connections have just ended
        async with successor.running():
            await until(lambda: successor.hosts == [FIRST])
            assert successor.server.troubles == {}

    trio.run(main)


@in_a_world
async def test_end_of_the_watch_is_the_end_of_no_address(world: World) -> None:
    world._tell.close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert data(await world.ask(query())) == ["10.32.1.1"]
