"""Questions to upstream servers, which are real sockets on loopback addresses that behave as badly as they can.

Time is a mock clock's, which jumps when nothing has happened for a while. Where long answers are read, it is real: that
is done in threads, and the mock clock takes their work for nothing happening.
"""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdatatype
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from name_server.stub_server import (
    Received,
    StubServer,
    answers,
    nothing_there,
    rrset,
    sends,
    silent,
    truncated,
)
from weave_dns.errors import Unresolved
from weave_dns.forwarder import TIMEOUT_S, Forwarder, Question
from weave_dns.server_order import SILENT_S
from weave_dns.upstream import MOST_IGNORED
from weave_dns.upstream_query import MOST_RRSETS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from weave_dns.resolv_conf import Address

IDLE_S = 0.05
"""Real seconds without an event after which the clock jumps: more than a packet takes on loopback."""
WWW = "www.example.com."
A = f"{WWW} 300 IN A 192.0.2.1"
B = f"{WWW} 300 IN A 192.0.2.2"
LONG = tuple(f"{WWW} 300 IN TXT {'x' * 200}{number}" for number in range(250))


class World:
    """A forwarder and its upstream servers, in the order in which they are configured."""

    def __init__(self, *addresses: str, timeout: float = TIMEOUT_S, most: int = 512) -> None:
        self.servers: list[StubServer] = []
        for address in addresses:
            self.servers.append(StubServer(address, self.servers[0].port if self.servers else 0))
        self.configured: list[Address] = [server.address for server in self.servers]
        port = self.servers[0].port if self.servers else 53
        self.forwarder = Forwarder(self.list_servers, timeout=timeout, random=random.Random(1), port=port, most=most)

    async def list_servers(self) -> list[Address]:
        await trio.lowlevel.checkpoint()
        return self.configured

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for server in self.servers:
                nursery.start_soon(server.run)
            await nursery.start(self.forwarder.run)
            yield
            nursery.cancel_scope.cancel()

    async def ask(
        self, name: str = WWW, kind: str = "A", *, dnssec_ok: bool = False, checking_disabled: bool = False
    ) -> dns.message.Message:
        question = Question(dns.name.from_text(name), dns.rdatatype.from_text(kind))
        return await self.forwarder.resolve(question, dnssec_ok=dnssec_ok, checking_disabled=checking_disabled)

    async def address(self, name: str = WWW) -> str:
        """The one address that the name has."""
        (found,) = (await self.ask(name)).answer
        return str(found[0])

    def asked(self) -> list[int]:
        """How many queries each server got."""
        return [len(server.queries) for server in self.servers]

    def counted(self, *names: str) -> list[int]:
        return [self.forwarder.counters[name] for name in names]


def in_a_world(
    *addresses: str, timeout: float = TIMEOUT_S, most: int = 512, mock_clock: bool = True
) -> Callable[[Callable[[World], Awaitable[None]]], Callable[[], None]]:
    def decorate(check: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
        def run() -> None:
            async def main() -> None:
                world = World(*addresses, timeout=timeout, most=most)
                async with world.running():
                    await check(world)

            trio.run(main, clock=MockClock(autojump_threshold=IDLE_S) if mock_clock else None)

        run.__name__ = run.__qualname__ = getattr(check, "__name__", "check")
        return run

    return decorate


ONE = ("127.0.0.1",)
TWO = ("127.0.0.1", "127.0.0.2")
THREE = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
CLOSED = ip_address("127.0.0.99")
"""Nobody listens here."""


# What is sent and what comes back


@in_a_world(*ONE)
async def test_answer_is_passed_on_as_a_resolver_does(world: World) -> None:
    async def authoritative(received: Received) -> None:
        response = received.response(A)
        response.flags |= dns.flags.AA | dns.flags.AD
        response.additional = [rrset("ns.example.com. 60 IN A 192.0.2.53")]
        await received.send(response.to_wire())

    world.servers[0].behave = authoritative
    answer = await world.ask("wWw.Example.com.")
    assert answer.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
    assert (answer.rcode(), answer.id, answer.edns) == (dns.rcode.NOERROR, 0, -1)
    assert answer.question[0].name.to_text() == "wWw.Example.com."
    assert [str(found[0]) for found in (*answer.answer, *answer.additional)] == ["192.0.2.1", "192.0.2.53"]
    assert world.counted("asked", "answered", "cached", "tcp", "ignored") == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("dnssec_ok", [False, True])
@pytest.mark.parametrize("checking_disabled", [False, True])
def test_query_asks_for_what_the_client_wants(dnssec_ok: bool, checking_disabled: bool) -> None:
    @in_a_world(*ONE)
    async def check(world: World) -> None:
        world.servers[0].behave = answers(A)
        answer = await world.ask(dnssec_ok=dnssec_ok, checking_disabled=checking_disabled)
        assert bool(answer.flags & dns.flags.CD) == checking_disabled
        (received,) = world.servers[0].queries
        query = received.query
        assert (query.edns, query.payload, query.options) == (0, 1232, ())
        assert bool(query.ednsflags & dns.flags.DO) == dnssec_ok
        assert query.flags == dns.flags.RD | (dns.flags.CD if checking_disabled else 0)
        assert [str(rrset) for rrset in query.question] == [f"{WWW} IN A"]

    check()


@in_a_world("::1")
async def test_server_with_an_ipv6_address(world: World) -> None:
    world.servers[0].behave = answers(A)
    assert await world.address() == "192.0.2.1"


@in_a_world(*ONE)
async def test_each_query_has_its_own_port_and_id(world: World) -> None:
    world.servers[0].behave = answers(A)
    for number in range(20):
        await world.ask(f"n{number}.example.com.")
    assert len(set(world.servers[0].ports)) > 15
    assert len({received.query.id for received in world.servers[0].queries}) > 15


@in_a_world(*ONE)
async def test_name_that_does_not_exist_is_a_final_answer(world: World) -> None:
    world.configured.append(CLOSED)
    world.servers[0].behave = nothing_there
    for _ in range(2):
        answer = await world.ask()
        assert (answer.rcode(), len(answer.authority)) == (dns.rcode.NXDOMAIN, 1)
    assert world.counted("answered", "cached", "servfail") == [1, 1, 0]


@in_a_world(*ONE)
async def test_response_code_beyond_15_is_a_failure_of_the_server(world: World) -> None:
    world.servers[0].behave = answers(A, rcode=dns.rcode.BADCOOKIE)
    answer = await world.ask()
    assert (answer.rcode(), answer.edns) == (dns.rcode.SERVFAIL, -1)


# One server after the other


@in_a_world(*TWO)
async def test_first_server_is_asked_alone_while_it_answers(world: World) -> None:
    world.servers[0].behave, world.servers[1].behave = answers(A), answers(B)
    assert [await world.address(f"n{number}.") for number in range(3)] == ["192.0.2.1"] * 3
    assert world.asked() == [3, 0]


@in_a_world(*TWO)
async def test_dead_first_server_costs_a_second_once(world: World) -> None:
    world.servers[1].behave = answers(B)
    begin = trio.current_time()
    assert await world.address() == "192.0.2.2"
    assert trio.current_time() - begin == pytest.approx(1, abs=0.01)
    for number in range(5):
        begin = trio.current_time()
        await world.address(f"n{number}.")
        assert trio.current_time() - begin < 0.01
    assert world.asked() == [1, 6]
    await trio.sleep(SILENT_S + 1)
    world.servers[0].behave = answers(A)
    assert await world.address("later.") == "192.0.2.1"
    assert await world.address("and.again.") == "192.0.2.1"


@in_a_world(*TWO)
async def test_one_question_at_a_time_tries_a_server_that_was_silent(world: World) -> None:
    world.servers[1].behave = answers(B)
    await world.address()
    await trio.sleep(SILENT_S + 1)
    took: list[float] = []

    async def ask(name: str) -> None:
        begin = trio.current_time()
        await world.address(name)
        took.append(round(trio.current_time() - begin, 1))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, f"n{number}.")
    assert sorted(took) == [0, 0, 0, 0, 1]


@in_a_world(*TWO)
async def test_server_that_is_slow_with_one_question_keeps_its_place(world: World) -> None:
    async def slow_with_www(received: Received) -> None:
        if str(received.query.question[0].name) == WWW:
            await trio.sleep(3)
        await received.answer(A)

    world.servers[0].behave = slow_with_www
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.ask)
        await trio.sleep(0.5)
        await world.ask("other.")
        await trio.sleep(1)
        assert world.asked() == [2, 1], "www is asked of the second server too"
        await world.ask("next.")
        assert world.asked() == [3, 1]


@in_a_world(*TWO)
async def test_late_answer_is_still_taken(world: World) -> None:
    async def late(received: Received) -> None:
        await trio.sleep(1.5)
        await received.answer(A)

    world.servers[0].behave = late
    begin = trio.current_time()
    assert await world.address() == "192.0.2.1"
    assert trio.current_time() - begin == pytest.approx(1.5, abs=0.01)
    assert world.asked() == [1, 1]


@in_a_world(*ONE)
async def test_closed_port_passes_the_question_on_at_once(world: World) -> None:
    world.configured.insert(0, CLOSED)
    world.servers[0].behave = answers(A)
    begin = trio.current_time()
    assert await world.address() == "192.0.2.1"
    assert trio.current_time() - begin < 0.01


@pytest.mark.parametrize(
    "rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR, dns.rcode.NOTAUTH]
)
def test_failing_server_passes_the_question_on_at_once(rcode: dns.rcode.Rcode) -> None:
    @in_a_world(*TWO)
    async def check(world: World) -> None:
        world.servers[0].behave, world.servers[1].behave = answers(rcode=rcode), answers(B)
        begin = trio.current_time()
        assert await world.address() == "192.0.2.2"
        assert trio.current_time() - begin < 0.01
        assert world.counted("answered", "servfail") == [1, 0]

    check()


@in_a_world(*THREE)
async def test_best_failure_is_passed_on_if_no_server_does_better(world: World) -> None:
    for server, rcode in zip(world.servers, (dns.rcode.REFUSED, dns.rcode.SERVFAIL, dns.rcode.NOTIMP), strict=True):
        server.behave = answers(rcode=rcode)
    begin = trio.current_time()
    assert (await world.ask()).rcode() == dns.rcode.SERVFAIL
    assert trio.current_time() - begin < 0.01
    assert world.counted("answered", "servfail") == [0, 1]
    await world.ask()
    assert world.counted("cached") == [0]


@in_a_world(*TWO)
async def test_failure_is_better_than_silence(world: World) -> None:
    world.servers[0].behave = answers(rcode=dns.rcode.REFUSED)
    begin = trio.current_time()
    assert (await world.ask()).rcode() == dns.rcode.REFUSED
    assert trio.current_time() - begin == pytest.approx(TIMEOUT_S, abs=0.01)


@in_a_world(*TWO)
async def test_server_that_only_refers_to_others_does_not_count(world: World) -> None:
    async def refer(received: Received) -> None:
        response = received.response()
        response.flags &= ~dns.flags.RA
        response.authority = [rrset("com. 300 IN NS a.gtld-servers.net.")]
        await received.send(response.to_wire())

    world.servers[0].behave, world.servers[1].behave = refer, answers(B)
    assert await world.address() == "192.0.2.2"
    world.configured.pop()
    with pytest.raises(Unresolved, match=r"127\.0\.0\.1 only refers to other servers"):
        await world.ask("other.")


@in_a_world(*TWO)
async def test_silent_servers_are_asked_again_until_the_time_is_over(world: World) -> None:
    begin = trio.current_time()
    with pytest.raises(Unresolved, match=r"within 5 s: 127\.0\.0\.1 kept silent, 127\.0\.0\.2 kept silent"):
        await world.ask()
    assert trio.current_time() - begin == pytest.approx(TIMEOUT_S, abs=0.01)
    assert world.asked() == [2, 2]
    assert world.counted("timeouts", "unserved") == [1, 0]


@in_a_world(*ONE)
async def test_query_that_got_lost_is_repeated(world: World) -> None:
    async def second_time(received: Received) -> None:
        if len(world.servers[0].queries) > 1:
            await received.answer(A)

    world.servers[0].behave = second_time
    begin = trio.current_time()
    assert await world.address() == "192.0.2.1"
    assert trio.current_time() - begin == pytest.approx(1, abs=0.01)


@in_a_world(*THREE, timeout=1.2)
async def test_all_servers_are_asked_in_a_short_time_too(world: World) -> None:
    world.servers[2].behave = answers(B)
    begin = trio.current_time()
    assert await world.address() == "192.0.2.2"
    assert trio.current_time() - begin == pytest.approx(0.4, abs=0.01)


@in_a_world()
async def test_no_server(world: World) -> None:
    with pytest.raises(Unresolved, match="no upstream name server: add one"):
        await world.ask()
    assert world.counted("unserved", "timeouts") == [1, 0]


@in_a_world(*ONE)
async def test_nobody_there_is_told_at_once(world: World) -> None:
    world.configured[:] = [CLOSED, ip_address("fe80::1%99999")]
    begin = trio.current_time()
    with pytest.raises(Unresolved, match=r"127\.0\.0\.99 cannot be asked \(Connection refused\), fe80"):
        await world.ask()
    assert trio.current_time() - begin < 0.01


def test_list_of_servers_that_cannot_be_had_in_time() -> None:
    async def main() -> None:
        forwarder = Forwarder(hang, random=random.Random(1))
        async with trio.open_nursery() as nursery:
            await nursery.start(forwarder.run)
            with pytest.raises(Unresolved, match="could not be read in time"):
                await forwarder.resolve(
                    Question(dns.name.root, dns.rdatatype.NS), dnssec_ok=False, checking_disabled=False
                )
            nursery.cancel_scope.cancel()

    async def hang() -> list[Address]:
        await trio.sleep_forever()
        raise AssertionError

    trio.run(main, clock=MockClock(autojump_threshold=IDLE_S))


# Lies


def lying(lie: Callable[[Received], bytes], *, ignored: bool = True) -> None:
    """A lie comes before the truth; the truth wins."""

    @in_a_world(*ONE)
    async def check(world: World) -> None:
        async def behave(received: Received) -> None:
            await received.send(lie(received))
            await trio.sleep(0.1)
            await received.answer(A)

        world.servers[0].behave = behave
        assert await world.address() == "192.0.2.1"
        assert world.asked() == [1]
        assert world.counted("ignored") == [int(ignored)]

    check()


def changed(received: Received, change: Callable[[dns.message.Message], object]) -> bytes:
    response = received.response(B)
    change(response)
    return response.to_wire()


def with_question(text: str) -> Callable[[Received], bytes]:
    def lie(received: Received) -> bytes:
        response = received.response(B)
        name, kind, rdclass = text.split()
        asked = dns.message.make_query(name, kind, rdclass)
        response.question = asked.question
        return response.to_wire()

    return lie


def header_only(rcode: dns.rcode.Rcode) -> Callable[[Received], bytes]:
    return lambda received: received.wire[:2] + bytes((0x81, 0x80 | rcode)) + bytes(8)


def test_wrong_id_is_ignored() -> None:
    lying(lambda received: changed(received, lambda response: setattr(response, "id", response.id ^ 1)))


def test_query_sent_back_is_ignored() -> None:
    lying(lambda received: received.wire)


def test_other_opcode_is_ignored() -> None:
    lying(lambda received: changed(received, lambda response: response.set_opcode(dns.opcode.NOTIFY)))


@pytest.mark.parametrize("text", ["other.example.com. A IN", f"{WWW} TYPE97 IN", f"{WWW} A CH", ". A IN"])
def test_wrong_question_is_ignored(text: str) -> None:
    lying(with_question(text))


def test_two_questions_are_ignored() -> None:
    lying(lambda received: changed(received, lambda response: response.question.append(rrset("x. 0 IN A 192.0.2.1"))))


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
def test_missing_question_is_ignored(rcode: dns.rcode.Rcode) -> None:
    lying(header_only(rcode))


@pytest.mark.parametrize("length", [0, 1, 11, 12, 20])
def test_too_few_bytes_are_ignored(length: int) -> None:
    lying(lambda received: received.response(B).to_wire()[:length])


def test_letter_case_of_a_type_is_none() -> None:
    """65 and 97 differ by a letter's case only: HTTPS is no answer to TYPE97."""

    @in_a_world(*ONE)
    async def check(world: World) -> None:
        async def behave(received: Received) -> None:
            await received.send(with_question(f"{WWW} TYPE65 IN")(received))
            await received.answer()

        world.servers[0].behave = behave
        await world.ask(kind="TYPE97")
        assert world.counted("ignored") == [1]

    check()


@in_a_world(*ONE)
async def test_answer_from_another_port_never_arrives(world: World) -> None:
    strangers = (StubServer("127.0.0.1"), StubServer("127.0.0.77", world.servers[0].port))

    async def behave(received: Received) -> None:
        for stranger in strangers:
            await stranger.send_from_here(("127.0.0.1", world.servers[0].ports[-1]), received.response(B).to_wire())
        await trio.sleep(0.5)
        await received.answer(A)

    world.servers[0].behave = behave
    assert await world.address() == "192.0.2.1"
    assert world.counted("ignored") == [0]
    for stranger in strangers:
        stranger.close()


@in_a_world(*ONE)
async def test_whoever_guesses_too_long_is_evaded_by_tcp(world: World) -> None:
    async def behave(received: Received) -> None:
        if received.tcp:
            await received.answer(A)
        else:
            for number in range(MOST_IGNORED):
                await received.send(bytes((number,)) * 40)

    world.servers[0].behave = behave
    begin = trio.current_time()
    assert await world.address() == "192.0.2.1"
    assert trio.current_time() - begin < 0.01
    assert world.counted("ignored", "tcp") == [MOST_IGNORED, 1]


@in_a_world(*ONE)
async def test_server_that_lowers_the_question_is_believed(world: World) -> None:
    world.servers[0].behave = sends(lambda received: received.response(A).to_wire().lower())
    answer = await world.ask("WWW.example.COM.")
    assert answer.question[0].name.to_text() == "WWW.example.COM."


def test_trouble_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    @in_a_world(*TWO)
    async def check(world: World) -> None:
        async def lie(received: Received) -> None:
            for _ in range(3):
                await received.send(b"lie")

        world.servers[0].behave = lie
        world.servers[1].behave = answers(B)
        for number in range(3):
            await world.ask(f"n{number}.")
        lines = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(lines) == 1
        assert "127.0.0.1 sends what answers no question of ours" in lines[0]

    check()


# Answers that are of no use


def after_header(tail: bytes, *, answers: int = 1) -> Callable[[Received], bytes]:
    """A response with the right question and then something else."""

    def make(received: Received) -> bytes:
        wire = received.response().to_wire()[: 12 + len(WWW) + 1 + 4]
        return wire[:6] + answers.to_bytes(2, "big") + bytes(4) + wire[12:] + tail

    return make


RECORD = b"\x00\x01\x00\x01\x00\x00\x01\x2c"
USELESS = {
    "cut off": after_header(b"\xc0"),
    "no record": after_header(b""),
    "loop": after_header(b"\xc0\x21" + RECORD + b"\x00\x04\x01\x02\x03\x04"),
    "forward": after_header(b"\xc0\xff" + RECORD + b"\x00\x04\x01\x02\x03\x04"),
    "label type": after_header(b"\x80" + RECORD + b"\x00\x04\x01\x02\x03\x04"),
    "short data": after_header(b"\xc0\x0c" + RECORD + b"\x00\x03\x01\x02\x03"),
    "long data": after_header(b"\xc0\x0c" + RECORD + b"\xff\xff\x01\x02\x03"),
    "trailing junk": after_header(b"\xc0\x0c" + RECORD + b"\x00\x04\x01\x02\x03\x04junk"),
    "too many": after_header(b"\xc0\x0c" + RECORD + b"\x00\x04\x01\x02\x03\x04", answers=65535),
    "class": after_header(b"\xc0\x0c\x00\x01\x12\x34\x00\x00\x01\x2c\x00\x04\x01\x02\x03\x04"),
    "signature": after_header(b"\x00\x00\xfa\x00\xff\x00\x00\x00\x00\x00\x00"),
}


@pytest.mark.parametrize("what", USELESS)
def test_useless_answer_passes_the_question_on_at_once(what: str) -> None:
    @in_a_world(*TWO)
    async def check(world: World) -> None:
        world.servers[0].behave, world.servers[1].behave = sends(USELESS[what]), answers(B)
        begin = trio.current_time()
        assert await world.address() == "192.0.2.2"
        assert trio.current_time() - begin < 0.01
        world.configured.pop()
        with pytest.raises(Unresolved, match="sent an answer that is of no use"):
            await world.ask("www.EXAMPLE.com.", dnssec_ok=True)

    check()


@in_a_world(*ONE, mock_clock=False)
async def test_answer_that_would_exceed_64_kb_is_of_no_use(world: World) -> None:
    """Few bytes that compression makes many: pointers where we may not use them."""
    name = b"\x3f" + b"x" * 63 + b"\x3f" + b"y" * 63 + b"\x3f" + b"z" * 63 + b"\x00"

    def bomb(received: Received) -> bytes:
        head = after_header(b"", answers=2001)(received)
        target = b"\x00\x00\x21\x00\x01\x00\x00\x01\x2c"
        first = b"\x00\x00\x05\x00\x01\x00\x00\x01\x2c" + len(name).to_bytes(2, "big") + name
        here = 0xC000 | (len(head) + 11)
        each = target + b"\x00\x08\x00\x00\x00\x00"
        return (
            head
            + first
            + b"".join(each + number.to_bytes(2, "big") + here.to_bytes(2, "big") for number in range(2000))
        )

    world.servers[0].behave = sends(bomb)
    with pytest.raises(Unresolved, match=r"of no use \(malformed \(TooBig\)\)"):
        await world.ask()


def test_answer_of_very_many_sets_of_records_is_of_no_use() -> None:
    @in_a_world(*ONE, mock_clock=False)
    async def check(world: World) -> None:
        async def behave(received: Received) -> None:
            count = MOST_RRSETS if str(received.query.question[0].name) == WWW else MOST_RRSETS + 1
            await received.answer(*(f"n{number}. 60 IN A 192.0.2.1" for number in range(count)))

        world.servers[0].behave = behave
        assert len((await world.ask()).answer) == MOST_RRSETS
        with pytest.raises(Unresolved, match=f"more than {MOST_RRSETS} sets of records"):
            await world.ask("too.many.")

    check()


def around(tail: st.SearchStrategy[bytes]) -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """What is sent in place of an answer: bytes, or bytes after a good header or question, or a damaged answer."""

    def build(kind: int, part: bytes, counts: bytes, position: int) -> Callable[[bytes], bytes]:
        def make(good: bytes) -> bytes:
            end = 12 + len(WWW) + 1 + 4
            if kind == 0:
                return part
            if kind == 1:
                return good[:4] + counts + part
            if kind == 2:
                few = bytes(byte & 3 if at % 2 else 0 for at, byte in enumerate(counts[2:]))
                return good[:6] + few + good[12:end] + part
            at = 2 + position % (len(good) - 2)
            return good[:at] + part + good[at + len(part) :]

        return make

    return st.builds(build, st.integers(0, 3), tail, st.binary(min_size=8, max_size=8), st.integers(0, 500))


@settings(max_examples=40)
@given(st.lists(around(st.binary(max_size=80)), min_size=1, max_size=4), st.booleans())
def test_no_bytes_do_anything_but_harm_themselves(makers: list[Callable[[bytes], bytes]], tcp: bool) -> None:
    @in_a_world(*ONE, timeout=0.3)
    async def check(world: World) -> None:
        async def behave(received: Received) -> None:
            if tcp and not received.tcp:
                await received.send(truncated(received))
                return
            response = received.response(A, f"{WWW} 60 IN MX 10 mail.example.com.", f"{WWW} 60 IN TXT x")
            for make in makers:
                await received.send(make(response.to_wire()))

        world.servers[0].behave = behave
        begin = trio.current_time()
        try:
            answer = await world.ask()
        except Unresolved:
            pass
        else:
            assert answer.question[0].name.to_text() == WWW
            answer.to_wire()
        assert trio.current_time() - begin < 0.31

    check()


# Long answers


@in_a_world(*ONE, mock_clock=False)
async def test_truncated_answer_is_fetched_by_tcp(world: World) -> None:
    async def behave(received: Received) -> None:
        if received.tcp:
            await received.answer(*LONG)
        else:
            await received.send(truncated(received))

    world.servers[0].behave = behave
    answer = await world.ask(kind="TXT")
    assert len(answer.answer[0]) == 250
    assert not answer.flags & dns.flags.TC
    assert len(answer.to_wire()) > 50_000
    assert world.counted("tcp", "answered") == [1, 1]
    assert [received.tcp for received in world.servers[0].queries] == [False, True]
    udp, tcp = world.servers[0].queries
    assert udp.query.id != tcp.query.id
    await world.ask(kind="TXT")
    assert world.counted("cached") == [1]


@pytest.mark.parametrize("how", ["closes", "half", "lies", "truncates", "refuses"])
def test_tcp_that_fails_passes_the_question_on_at_once(how: str) -> None:
    @in_a_world(*TWO)
    async def check(world: World) -> None:
        async def behave(received: Received) -> None:
            if not received.tcp:
                if how == "refuses":
                    world.servers[0].refuse_connections()
                await received.send(truncated(received))
            elif how == "half":
                await received.send_bare(b"\x00\xff half")
            elif how == "lies":
                await received.send(with_question("other. A IN")(received))
            elif how == "truncates":
                await received.send(truncated(received))

        world.servers[0].behave, world.servers[1].behave = behave, answers(A)
        begin = trio.current_time()
        assert await world.address() == "192.0.2.1"
        assert trio.current_time() - begin < 0.01

    check()


@in_a_world(*ONE)
async def test_tcp_that_hangs_ends_with_the_time(world: World) -> None:
    async def behave(received: Received) -> None:
        if received.tcp:
            await trio.sleep_forever()
        await received.send(truncated(received))

    world.servers[0].behave = behave
    begin = trio.current_time()
    with pytest.raises(Unresolved):
        await world.ask()
    assert trio.current_time() - begin == pytest.approx(TIMEOUT_S, abs=0.01)


# Servers without EDNS


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS])
@pytest.mark.parametrize("bare", [False, True])
def test_server_without_edns_is_asked_without(rcode: dns.rcode.Rcode, bare: bool) -> None:
    @in_a_world(*ONE)
    async def check(world: World) -> None:
        async def behave(received: Received) -> None:
            if received.query.edns < 0:
                await received.answer(A)
            elif bare and rcode <= 15:
                await received.send(header_only(rcode)(received))
            else:
                await received.answer(rcode=rcode)

        world.servers[0].behave = behave
        assert await world.address() == "192.0.2.1"
        assert [received.query.edns for received in world.servers[0].queries] == [0, -1]

    check()


# Equal questions


@in_a_world(*ONE)
async def test_equal_questions_share_an_exchange(world: World) -> None:
    async def slow(received: Received) -> None:
        await trio.sleep(0.5)
        await received.answer(A)

    world.servers[0].behave = slow
    got: dict[str, dns.message.Message] = {}

    async def ask(name: str) -> None:
        got[name] = await world.ask(name)

    async with trio.open_nursery() as nursery:
        for name in ("www.example.com.", "WWW.example.com.", "www.EXAMPLE.com."):
            nursery.start_soon(ask, name)
    assert world.asked() == [1]
    assert [answer.question[0].name.to_text() for answer in got.values()] == list(got)
    first, second, third = got.values()
    first.answer.clear()
    second.answer[0].items.clear()
    assert len(third.answer[0]) == 1
    await ask("www.example.com.")
    assert len(got["www.example.com."].answer[0]) == 1
    assert world.counted("asked", "answered", "cached") == [4, 3, 1]


@in_a_world(*ONE)
async def test_other_wishes_are_other_exchanges(world: World) -> None:
    world.servers[0].behave = answers(A)
    for dnssec_ok in (False, True):
        for checking_disabled in (False, True):
            await world.ask(dnssec_ok=dnssec_ok, checking_disabled=checking_disabled)
    await world.ask(kind="AAAA")
    assert world.asked() == [5]


@pytest.mark.parametrize("who", ["first", "second", "both"])
def test_client_that_goes_away_takes_nothing_from_others(who: str) -> None:
    @in_a_world(*ONE)
    async def check(world: World) -> None:
        async def slow(received: Received) -> None:
            await trio.sleep(0.5)
            await received.answer(A)

        world.servers[0].behave = slow
        answered: list[str] = []

        async def ask(name: str, patience: float) -> None:
            with trio.move_on_after(patience):
                await world.ask()
                answered.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "first", 0.2 if who in ("first", "both") else 9)
            await trio.sleep(0.1)
            nursery.start_soon(ask, "second", 0.2 if who in ("second", "both") else 9)
        assert answered == {"first": ["second"], "second": ["first"], "both": []}[who]
        await trio.sleep(1)
        await world.ask()
        assert world.asked() == [1]
        assert world.counted("cached") == [1]

    check()


# Limits


@in_a_world(*ONE, most=3)
async def test_number_of_exchanges_is_limited(world: World) -> None:
    async with trio.open_nursery() as nursery:

        async def ask(name: str) -> None:
            with pytest.raises(Unresolved, match="kept silent"):
                await world.ask(name)

        for number in range(3):
            nursery.start_soon(ask, f"n{number}.")
        await trio.sleep(0.1)
        nursery.start_soon(ask, "N1.")  # joins
        begin = trio.current_time()
        with pytest.raises(Unresolved, match="3 questions are waiting already"):
            await world.ask("one.too.many.")
        assert trio.current_time() == begin
    assert world.counted("asked", "timeouts", "unserved") == [5, 4, 1]
    world.servers[0].behave = answers(A)
    assert await world.address("afterwards.") == "192.0.2.1"


@in_a_world(*TWO, most=2)
async def test_number_of_sockets_is_limited(world: World) -> None:
    """What waits for a socket is served in the end, and no server is blamed for it."""
    most = 0

    async def behave(_: Received) -> None:
        nonlocal most
        most = max(most, 2 - world.forwarder._sockets.value)

    for server in world.servers:
        server.behave = behave

    async def ask(name: str) -> None:
        with pytest.raises(Unresolved):
            await world.ask(name)

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(ask, f"n{number}.")
    assert most == 2
    assert world.forwarder._sockets.value == 2
    world.servers[1].behave = answers(B)
    assert await world.address() == "192.0.2.2"


@in_a_world(*ONE)
async def test_nothing_is_left_behind(world: World) -> None:
    world.servers[0].behave = answers(A)
    await world.ask()
    world.servers[0].behave = silent
    with pytest.raises(Unresolved):
        await world.ask("other.")
    assert not world.forwarder._exchanges
    assert world.forwarder._sockets.value == 512


# Cache, change and end


@in_a_world(*ONE)
async def test_answers_are_kept_and_grow_old(world: World) -> None:
    world.servers[0].behave = answers(A)
    assert (await world.ask()).answer[0].ttl == 300
    await trio.sleep(100)
    aged = await world.ask("WWW.example.com.")
    assert (aged.answer[0].ttl, aged.question[0].name.to_text()) == (200, "WWW.example.com.")
    await trio.sleep(200)
    world.servers[0].behave = answers(B)
    assert await world.address() == "192.0.2.2"
    assert world.counted("asked", "cached", "answered") == [3, 1, 2]


@in_a_world(*TWO)
async def test_other_servers_end_what_the_former_said(world: World) -> None:
    world.servers[0].behave, world.servers[1].behave = answers(A), answers(B)
    del world.configured[1]
    assert await world.address() == "192.0.2.1"
    world.configured[:] = [world.servers[1].address]
    await world.ask("other.")
    assert await world.address() == "192.0.2.2"


def test_without_its_task_nothing_is_resolved() -> None:
    async def main() -> None:
        world = World()
        with pytest.raises(Unresolved, match="is not running"):
            await world.ask()

    trio.run(main, clock=MockClock())


def test_who_waits_when_it_ends_is_told() -> None:
    async def main() -> None:
        world = World(*ONE)

        async def ask() -> None:
            with pytest.raises(Unresolved, match="is stopping"):
                await world.ask()

        async with trio.open_nursery() as nursery:
            async with world.running():
                nursery.start_soon(ask)
                await trio.sleep(0.1)

    trio.run(main, clock=MockClock(autojump_threshold=IDLE_S))
