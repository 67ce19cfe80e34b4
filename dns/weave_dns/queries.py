"""Queries as they come from clients (RFC 1035 section 4, RFC 6891).

Nearly all have one of two forms, one question with or without a plain OPT record behind it; those are read here, at a
tenth of the time. dnspython reads the question of whatever else there is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import dns.exception
import dns.message
import dns.rcode

from weave_dns.errors import DnsError

HEADER = struct.Struct(">HHHHHH")
QR, OPCODE_MASK, AA, TC, RD, RA, AD, CD = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPT = 41
_DO = 0x8000
_OPT_RECORD = struct.Struct(">BHHBBHH")
_TYPE_AND_CLASS = struct.Struct(">HH")
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Query:
    """A query with one question."""

    id: int
    flags: int
    question: bytes
    """As in the message, the name not compressed: to be copied into the answer."""
    labels: tuple[bytes, ...]
    """Of the name, folded; none for the root."""
    rdtype: int
    rdclass: int
    payload: int | None = None
    """Bytes that the client takes by UDP, None where it does not speak EDNS."""
    edns_version: int = 0
    dnssec_ok: bool = False


class BadQuery(DnsError):  # noqa: N818 - named after what is the case
    """Nothing that can be answered properly. `rcode`: what to say instead; None: nothing, as to any noise."""

    def __init__(self, rcode: int | None) -> None:
        super().__init__("nothing" if rcode is None else dns.rcode.to_text(dns.rcode.Rcode(rcode)))
        self.rcode = rcode


def parse_query(data: bytes) -> Query:
    """Read a message. Raises `BadQuery`."""
    if len(data) < HEADER.size:
        raise BadQuery(None)
    number, flags, questions, answers, authorities, additional = HEADER.unpack_from(data)
    if flags & QR:
        raise BadQuery(None)  # two servers would else answer each other for ever
    if flags & OPCODE_MASK:
        raise BadQuery(dns.rcode.NOTIMP)
    if questions != 1:
        raise BadQuery(dns.rcode.FORMERR)  # RFC 9619
    if not answers and not authorities and additional <= 1:
        query = _parse_plain(data, number, flags, additional)
        if query is not None:
            return query
    return _parse_any(data, number, flags)


def _parse_plain(data: bytes, number: int, flags: int, additional: int) -> Query | None:
    """Read a query of the usual form; None for another one."""
    position, labels = HEADER.size, []
    while True:
        if position >= len(data):
            return None
        length = data[position]
        position += 1
        if not length:
            break
        if length > 63:
            return None
        labels.append(data[position : position + length].lower())
        position += length
    end = position + 4
    if position - HEADER.size > _MAX_NAME or end > len(data):
        return None
    rdtype, rdclass = _TYPE_AND_CLASS.unpack_from(data, position)
    question = data[HEADER.size : end]
    if not additional:
        return Query(number, flags, question, tuple(labels), rdtype, rdclass) if len(data) == end else None
    if len(data) < end + _OPT_RECORD.size:
        return None
    root, kind, payload, _, version, bits, length = _OPT_RECORD.unpack_from(data, end)
    if root or kind != OPT or len(data) != end + _OPT_RECORD.size + length:
        return None  # what is in the options does not matter to us, but they must be well formed to be ignored
    if length and not _are_options(data[-length:]):
        return None
    return Query(number, flags, question, tuple(labels), rdtype, rdclass, payload, version, bool(bits & _DO))


def _are_options(data: bytes) -> bool:
    while data:
        if len(data) < 4:
            return False
        length = int.from_bytes(data[2:4])
        if len(data) < 4 + length:
            return False
        data = data[4 + length :]
    return True


def _parse_any(data: bytes, number: int, flags: int) -> Query:
    try:
        # The rest does not matter to us, and reading records of unknown types makes dnspython remember each for ever.
        message = dns.message.from_wire(data, question_only=True)
    except (dns.exception.DNSException, ValueError) as error:
        raise BadQuery(dns.rcode.FORMERR) from error
    if len(message.question) != 1:
        raise BadQuery(dns.rcode.FORMERR)
    asked = message.question[0]
    wire = asked.name.to_wire()
    labels = tuple(label.lower() for label in asked.name.labels if label)
    return Query(
        number,
        flags,
        (wire or b"") + _TYPE_AND_CLASS.pack(asked.rdtype, asked.rdclass),
        labels,
        asked.rdtype,
        asked.rdclass,
    )
