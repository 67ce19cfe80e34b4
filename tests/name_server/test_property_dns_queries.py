"""Queries of any bytes: what the quick parser and dnspython make of them, and what is answered (RFC 1035, RFC 6891)."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
from hypothesis import event, given, settings
from hypothesis import strategies as st

from vector_files import load
from weave_dns import queries
from weave_dns.entries import Entry
from weave_dns.names import MAX_NAME_BYTES
from weave_dns.queries import BadQuery, Query, parse_query
from weave_dns.responder import MAX_DATAGRAM, Responder
from weave_dns.table import Table
from weave_dns.zone import Zone
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from weave_dns.entries import Address

DOMAIN = "weave.local."
VECTORS = [bytes.fromhex(case["query_hex"]) for case in load("dns/resolver")["queries"]]
UNIMPORTANT_OPTION = 65001

LABELS = st.one_of(
    st.sampled_from(
        [b"web", b"Web", b"weave", b"WEAVE", b"local", b"sub", b"in-addr", b"arpa", b"10", b"1", b"a.b", b"\0"]
    ),
    st.binary(min_size=1, max_size=63),
)


@st.composite
def questions(draw: st.DrawFn) -> bytes:
    labels = draw(st.lists(LABELS, max_size=6))
    if draw(st.booleans()):
        labels += [b"weave", b"local"]
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    rdtype = draw(st.one_of(st.sampled_from([1, 6, 12, 28, 41, 43, 250, 252, 255]), st.integers(0, 65535)))
    rdclass = draw(st.sampled_from([1, 1, 1, 3, 254, 255, 0, 65535]))
    return name + rdtype.to_bytes(2) + rdclass.to_bytes(2)


@st.composite
def opt_records(draw: st.DrawFn) -> bytes:
    options = b"".join(
        draw(st.integers(0, 65535)).to_bytes(2) + len(content).to_bytes(2) + content
        for content in draw(st.lists(st.binary(max_size=20), max_size=3))
    )
    options += draw(st.sampled_from([b"", b"", b"", b"\0", b"\0\x0a\0\5a"]))
    payload, version = draw(st.integers(0, 65535)), draw(st.sampled_from([0, 0, 1, 255]))
    flags = draw(st.sampled_from([0, 0x8000, 0xFFFF, 1]))
    return (
        b"\0\0\x29"
        + payload.to_bytes(2)
        + b"\0"
        + bytes((version,))
        + flags.to_bytes(2)
        + len(options).to_bytes(2)
        + options
    )


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """Mostly queries of the usual forms, many of them a little damaged."""
    if draw(st.integers(0, 3)) == 0:
        data = bytearray(draw(st.sampled_from(VECTORS)))
    else:
        opt = draw(st.one_of(st.just(b""), opt_records()))
        flags = draw(st.integers(0, 0x07FF))
        data = bytearray(draw(st.binary(min_size=2, max_size=2)))
        data += flags.to_bytes(2) + b"\0\1\0\0\0\0\0" + bytes((bool(opt),)) + draw(questions()) + opt
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=2)):
        data[place % len(data)] = byte
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return bytes(data) + draw(st.sampled_from([b"", b"", b"", b"x"]))


def quickly(data: bytes) -> Query | None:
    """What the quick parser makes of it; None where it leaves it to others."""
    if len(data) < 12 or data[2] & 0xF8 or data[4:6] != b"\0\1" or data[6:10] != bytes(4) or data[10:12] > b"\0\1":
        return None
    return queries._parse_plain(data, int.from_bytes(data[:2]), int.from_bytes(data[2:4]), int.from_bytes(data[10:12]))


def without_meaning(data: bytes, found: Query) -> bytes:
    """The same query, but with EDNS options that mean nothing: dnspython looks at them, the quick parser does not."""
    changed = bytearray(data)
    place = 12 + len(found.question) + 11
    while place < len(changed):
        changed[place : place + 2] = UNIMPORTANT_OPTION.to_bytes(2)
        place += 4 + int.from_bytes(changed[place + 2 : place + 4])
    assert place == len(changed) or found.payload is None
    return bytes(changed)


@settings(max_examples=1500, deadline=None)
@given(wires())
def test_quick_parser_reads_as_dnspython_does(data: bytes) -> None:
    found = quickly(data)
    event("read" if found else "left to others")
    if found is None:
        return
    message = dns.message.from_wire(without_meaning(data, found))
    [asked] = message.question
    assert found.id == message.id
    assert found.flags == int(message.flags)
    assert dns.name.Name([*found.labels, b""]) == asked.name
    assert all(label == label.lower() for label in found.labels)
    assert found.question == asked.name.to_wire() + int(asked.rdtype).to_bytes(2) + int(asked.rdclass).to_bytes(2)  # type: ignore[operator]
    assert (found.rdtype, found.rdclass) == (asked.rdtype, asked.rdclass)
    assert found.payload == (message.payload if message.edns >= 0 else None)
    assert found.edns_version == max(message.edns, 0)
    assert found.dnssec_ok == bool(message.ednsflags & dns.flags.DO)
    assert parse_query(data) == found


@settings(max_examples=1000, deadline=None)
@given(st.one_of(wires(), st.binary(max_size=100)))
def test_whatever_the_bytes_they_are_a_query_or_a_bad_one(data: bytes) -> None:
    try:
        found = parse_query(data)
    except BadQuery as error:
        silent = len(data) < 12 or bool(data[2] & 0x80)
        assert (error.rcode is None) == silent
        if not silent:
            assert error.rcode in (dns.rcode.FORMERR, dns.rcode.NOTIMP)
            assert (error.rcode == dns.rcode.NOTIMP) == bool(data[2] & 0x78)
        return
    assert found.id == int.from_bytes(data[:2])
    assert all(0 < len(label) < 64 for label in found.labels)
    assert sum(len(label) + 1 for label in found.labels) <= MAX_NAME_BYTES
    assert found.question.lower()[:-4] == b"".join(bytes((len(label),)) + label for label in found.labels) + b"\0"


def compressed(name: bytes) -> bytes:
    """A query whose name stands in an additional record, to which its question points."""
    record = name + b"\0\1\0\1\0\0\0\0\0\0"
    return b"\x12\x34\1\0\0\1\0\0\0\0\0\1\xc0" + bytes((18,)) + b"\0\1\0\1" + record


def test_name_that_points_forward_is_none() -> None:
    try:
        parse_query(compressed(b"\3web\5weave\5local\0"))
    except BadQuery as error:
        assert error.rcode == dns.rcode.FORMERR
    else:
        raise AssertionError("names point back only (RFC 1035 section 4.1.4)")


def test_question_that_points_into_the_header_is_answered_by_itself() -> None:
    """Its name is part of the ID: whatever is kept of it is of no use to another one."""
    table = Table()
    responder = Responder(Zone(table, DOMAIN, 1), table, random=random.Random(1))
    rest = b"\0\0\0\1\0\0\0\0\0\0\xc0\0\0\1\0\1"
    for number in (b"\1a", b"\1b"):
        fresh = Responder(Zone(table, DOMAIN, 1), table, random=random.Random(1))
        assert responder.respond(number + rest) == fresh.respond(number + rest)


# Answers

ADDRESSES: list[Address] = [
    *(IPv4Address(0x0A200000 + n) for n in range(45)),
    *(IPv6Address((0xFD << 120) + n) for n in range(45)),
]
NAMES = ("web.weave.local.", "Sub.web.weave.local.", "weave.local.", "\udcff.weave.local.", "www.example.com.")


@st.composite
def responders(draw: st.DrawFn) -> tuple[Responder, Table]:
    table = Table()
    for name in NAMES:
        first = draw(st.sampled_from((0, 20, 45)))
        for address in ADDRESSES[first : first + draw(st.sampled_from((0, 0, 1, 2, 45)))]:
            table.put(Entry("c", PeerName(1), address, name))
    table.put(Entry("d", PeerName(1), ADDRESSES[0], NAMES[0], 1, draw(st.sampled_from((0, 5)))))
    domain = draw(st.sampled_from((DOMAIN, "local.", "containers.of.a.cluster.example.")))
    return Responder(Zone(table, domain, 1), table, random=random.Random(draw(st.integers(0, 9)))), table


def limit_of(data: bytes) -> int:
    """Bytes of a datagram that answers this: max(512, min(EDNS size, 1232))."""
    try:
        payload = parse_query(data).payload
    except BadQuery:
        return 512
    return 512 if payload is None else max(512, min(payload, MAX_DATAGRAM))


@settings(max_examples=500, deadline=None)
@given(responders(), wires(), st.booleans())
def test_every_answer_can_be_read_fits_and_is_whole_unless_it_says_so(
    made: tuple[Responder, Table], data: bytes, stream: bool
) -> None:
    responder, _ = made
    response = responder.respond(data, stream=stream)
    if len(data) < 12 or data[2] & 0x80:
        assert response is None
        return
    assert response is not None
    if isinstance(response, Query):
        assert response == parse_query(data)
        return
    assert 12 <= len(response) <= (65535 if stream else limit_of(data))
    assert response[:2] == data[:2]
    message = dns.message.from_wire(response)
    assert message.flags & dns.flags.QR
    counts = [int.from_bytes(response[place : place + 2]) for place in (4, 6, 8, 10)]
    records = sum(map(len, message.answer))
    assert counts[0] == len(message.question)
    assert counts[1] == records
    assert counts[2] == sum(map(len, message.authority))
    assert counts[3] == (message.edns >= 0)
    if message.flags & dns.flags.TC:
        whole = responder.respond(data, stream=True)
        assert isinstance(whole, bytes)
        assert sum(map(len, dns.message.from_wire(whole).answer)) > records
        assert not stream
        assert len(response) > limit_of(data) - 60, "as many records as fit"
    elif message.question and message.rcode() == dns.rcode.NOERROR:
        whole = responder.respond(data, stream=True)
        assert isinstance(whole, bytes)
        assert sum(map(len, dns.message.from_wire(whole).answer)) == records
    again = responder.respond(data, stream=stream)
    assert isinstance(again, bytes)
    assert sorted(dns.message.from_wire(again).to_text()) == sorted(message.to_text()) or message.flags & dns.flags.TC


@settings(max_examples=300, deadline=None)
@given(responders(), st.lists(wires(), min_size=1, max_size=8), st.data())
def test_kept_answers_are_those_of_a_responder_that_keeps_none(
    made: tuple[Responder, Table], asked: list[bytes], data: st.DataObject
) -> None:
    responder, table = made
    for _ in range(12):
        if data.draw(st.integers(0, 3)) == 0:
            name = data.draw(st.sampled_from(NAMES))
            version = data.draw(st.integers(2, 9))
            table.put(Entry("c", PeerName(1), ADDRESSES[0], name, version, data.draw(st.sampled_from((0, 5)))))
        message, stream = data.draw(st.sampled_from(asked)), data.draw(st.booleans())
        fresh = Responder(responder._zone, table, random=random.Random(1))
        one, other = responder.respond(message, stream=stream), fresh.respond(message, stream=stream)
        if isinstance(one, bytes) and isinstance(other, bytes):
            assert (one[:12], len(one)) == (other[:12], len(other)) or one[2] & 2
        else:
            assert one == other


def test_kept_answers_cost_bounded_memory() -> None:
    """Clients with cookies never ask the same twice, and a name can have many addresses."""
    table = Table()
    for number in range(1000):
        table.put(Entry("c", PeerName(1), IPv4Address(0x0A200000 + number), "web.weave.local."))
    responder = Responder(Zone(table, DOMAIN, 1), table, random=random.Random(1))
    query = dns.message.make_query("web.weave.local.", "A", use_edns=0).to_wire()[:-2]
    tracemalloc.start()
    try:
        for number in range(2000):
            responder.respond(query + b"\0\x0c\0\x0a\0\x08" + number.to_bytes(8))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 32 << 20


def test_damaged_queries_by_the_thousand() -> None:
    """`fuzz_queries.py` tries a million."""
    script = Path(__file__).with_name("fuzz_queries.py")
    run = subprocess.run(
        [sys.executable, str(script), "--count", "20000", "--seed", "1"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
