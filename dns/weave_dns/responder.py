"""From a query's bytes to the answer's, where the answer is ours to give.

A container asks the same again and again: the answer to a query is kept, under all its bytes but the ID, until a name
changes. What is left to do per query is a look-up, and putting addresses into random order.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from weave_dns.queries import AA, CD, HEADER, OPCODE_MASK, OPT, QR, RA, RD, TC, BadQuery, Query, parse_query
from weave_dns.zone import SOA

if TYPE_CHECKING:
    from random import Random

    from weave_dns.table import Table
    from weave_dns.zone import Answer, Zone

MAX_DATAGRAM = 1232
"""Bytes that we send at most: they fit into one packet wherever the answer goes (DNS flag day 2020)."""
MIN_DATAGRAM = 512
MAX_MESSAGE = 65535
MOST_KEPT = 4096
LONGEST_KEPT = 320
"""Queries of more bytes are not kept; a name with the longest labels and a cookie fit."""
MOST_RECORDS_KEPT = 32
"""Longer answers are not kept: there may be many of them, each cookie of a client makes another query."""
FORMERR, SERVFAIL, NOTIMP, REFUSED = 1, 2, 4, 5
_BADVERS = 16
_IN, _ANY_CLASS = 1, 255
_META_TYPES = range(128, 255)
"""Transfers of zones and the like (RFC 6895 section 3.1), all but ANY."""
_RECORD = struct.Struct(">HHIH")
_OWNER = b"\xc0\x0c"
"""Where the question's name begins."""
_OPT_RECORD = struct.Struct(">BHHIH")


class _Kept(NamedTuple):
    head: bytes
    """From the flags to the end of the question."""
    records: list[bytes]
    fitting: int
    """How many of them there is room for."""
    tail: bytes


class Responder:
    """Answers about containers, for one name server. `random`: for the order of addresses."""

    def __init__(self, zone: Zone, table: Table, *, random: Random) -> None:
        self._zone = zone
        self._table = table
        self._random = random
        self._generation = -1
        self._datagrams: dict[bytes, _Kept] = {}
        self._streams: dict[bytes, _Kept] = {}

    def respond(self, data: bytes, *, stream: bool = False) -> bytes | Query | None:
        """The answer; or the query, where others have to be asked; or None where there is nothing to say.

        `stream`: it came by TCP.
        """
        if self._generation != self._table.generation:
            self._generation = self._table.generation
            self._datagrams.clear()
            self._streams.clear()
        answers = self._streams if stream else self._datagrams
        kept = answers.get(data[2:])
        if kept is None:
            try:
                query = parse_query(data)
            except BadQuery as error:
                return None if error.rcode is None else error_answer(data, error.rcode)
            if query.edns_version:
                return refusal(query, _BADVERS)
            if query.rdclass not in (_IN, _ANY_CLASS):
                return refusal(query, REFUSED)
            if query.rdtype == OPT or query.rdtype in _META_TYPES:
                return refusal(query, NOTIMP)
            answer = self._zone.look_up(query.labels, query.rdtype)
            if answer is None:
                return query
            kept = self._make(query, answer, stream)
            # A name that is a pointer could point at the ID, which is no part of the key.
            plain = data.startswith(query.question, HEADER.size)
            if plain and len(data) <= LONGEST_KEPT and len(kept.records) <= MOST_RECORDS_KEPT:
                if len(answers) >= MOST_KEPT:
                    answers.clear()
                answers[data[2:]] = kept
        records = kept.records
        if len(records) > 1:
            records = self._random.sample(records, kept.fitting)
        return b"".join((data[:2], kept.head, *records, kept.tail))

    def _make(self, query: Query, answer: Answer, stream: bool) -> _Kept:
        zone = self._zone
        soa, authority = b"", b""
        if answer.in_zone:
            place = HEADER.size + len(query.question) - 4 - len(zone.domain_wire)  # the end of the question's name
            domain = (0xC000 | place).to_bytes(2)
            soa = domain + b"\x0ahostmaster" + domain + zone.soa()
            if not answer.records:
                authority = _record(domain, SOA, soa, zone.ttl)
        records = [_record(_OWNER, kind, soa if kind == SOA else data, zone.ttl) for kind, data in answer.records]
        tail = authority + _opt(query)
        room = (MAX_MESSAGE if stream else datagram_limit(query)) - HEADER.size - len(query.question) - len(tail)
        fitting = len(records)
        if sum(map(len, records)) > room:  # whichever of them it will be
            fitting = room // max(map(len, records))
        flags = _flags(query) | answer.rcode | (TC if fitting < len(records) else 0)
        if answer.in_zone or not answer.rcode:
            flags |= AA
        counts = (1, fitting, 1 if authority else 0, 0 if query.payload is None else 1)
        return _Kept(HEADER.pack(0, flags, *counts)[2:] + query.question, records, fitting, tail)


def datagram_limit(query: Query) -> int:
    """Bytes that an answer by UDP may have (RFC 6891 section 6.2.5)."""
    return MIN_DATAGRAM if query.payload is None else min(max(query.payload, MIN_DATAGRAM), MAX_DATAGRAM)


def refusal(query: Query, rcode: int) -> bytes:
    """An answer that says only why there is none."""
    flags = _flags(query) | rcode & 15
    counts = (1, 0, 0, 0 if query.payload is None else 1)
    return HEADER.pack(query.id, flags, *counts) + query.question + _opt(query, rcode >> 4)


def error_answer(data: bytes, rcode: int) -> bytes:
    """The answer to a message that could not be read beyond its header."""
    number, flags, *_ = HEADER.unpack_from(data)
    return HEADER.pack(number, QR | flags & (OPCODE_MASK | RD) | rcode, 0, 0, 0, 0)


def _flags(query: Query) -> int:
    return QR | RA | query.flags & (RD | CD)


def _record(owner: bytes, kind: int, data: bytes, ttl: int) -> bytes:
    return owner + _RECORD.pack(kind, _IN, ttl, len(data)) + data


def _opt(query: Query, extended_rcode: int = 0) -> bytes:
    if query.payload is None:
        return b""
    return _OPT_RECORD.pack(0, OPT, MAX_DATAGRAM, extended_rcode << 24 | (0x8000 if query.dnssec_ok else 0), 0)
