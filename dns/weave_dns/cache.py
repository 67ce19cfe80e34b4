"""Answers of upstream servers, kept as long as their TTLs allow (RFC 1035 section 7.4, RFC 2181, RFC 2308).

Messages are kept parsed, and a look-up copies them: about 5 µs, where parsing them anew takes 100 µs and more. Records,
which never change, are shared by all copies. Time is handed in, in seconds of any clock that does not jump.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from typing import TYPE_CHECKING, NamedTuple, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.SOA
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ENTRIES = 4096
MOST_BYTES = 4 * 1024 * 1024
"""Of all answers together, on the wire."""
MOST_RECORDS = 16384
"""Of all answers together. A record of 12 bytes on the wire takes 750 in memory, so bytes alone are no bound."""
MOST_TTL_S = 3600
MOST_NEGATIVE_TTL_S = 300


class Question(NamedTuple):
    """What is asked, the name in the letter case of whoever asks, and absolute."""

    name: dns.name.Name
    rdtype: dns.rdatatype.RdataType
    rdclass: dns.rdataclass.RdataClass = dns.rdataclass.IN

    def __str__(self) -> str:
        kind = dns.rdatatype.to_text(self.rdtype)
        return f"{self.name} {kind}"


class QuestionKey(NamedTuple):
    """What two questions must have in common to share an answer; letter case is none of it (RFC 4343)."""

    labels: tuple[bytes, ...]
    rdtype: int
    rdclass: int
    dnssec_ok: bool
    checking_disabled: bool


def key_of(question: Question, *, dnssec_ok: bool, checking_disabled: bool) -> QuestionKey:
    """The key under which the answer is kept. DNSSEC's DO and CD ask for other answers (RFC 4035 section 4.7)."""
    labels = tuple([label.lower() for label in question.name.labels])
    return QuestionKey(labels, question.rdtype, question.rdclass, dnssec_ok, checking_disabled)


def copy_answer(message: dns.message.Message, question: Question, age: int = 0) -> dns.message.Message:
    """A copy for whoever asked that question: its letter case, TTLs lower by `age` seconds, ID 0, no OPT, no TSIG.

    Flags and the response code stay. Records themselves are shared, as they cannot be changed.
    """
    answer = dns.message.QueryMessage(id=0)
    answer.flags = message.flags
    answer.question.append(dns.rrset.RRset(question.name, question.rdclass, question.rdtype))
    for old, new in zip(message.sections[1:], answer.sections[1:], strict=True):
        for rrset in old:
            aged = copy(rrset)
            aged.ttl = max(0, aged.ttl - age)
            new.append(aged)
    return answer


def lifetime(message: dns.message.Message, question: Question) -> int:
    """For how many seconds an answer may be kept; 0: not at all."""
    if message.flags & dns.flags.TC or message.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return 0
    shortest = min((rrset.ttl for rrset in _rrsets(message)), default=0)
    if not _is_negative(message, question):
        return min(shortest, MOST_TTL_S)
    soa = _soa_of(message)
    return min(shortest, _minimum(soa), MOST_NEGATIVE_TTL_S) if soa is not None else 0


def _is_negative(message: dns.message.Message, question: Question) -> bool:
    """Whether it tells that there is nothing, be it at the end of a chain of CNAMEs (RFC 2308 section 2)."""
    if message.rcode() == dns.rcode.NXDOMAIN:
        return True
    asked = question.rdtype
    return not any(asked in (rrset.rdtype, dns.rdatatype.ANY) for rrset in message.answer)


def _soa_of(message: dns.message.Message) -> dns.rrset.RRset | None:
    return next((rrset for rrset in message.authority if rrset.rdtype == dns.rdatatype.SOA and len(rrset)), None)


def _minimum(soa: dns.rrset.RRset) -> int:
    return int(cast("dns.rdtypes.ANY.SOA.SOA", soa[0]).minimum)


def _rrsets(message: dns.message.Message) -> Iterator[dns.rrset.RRset]:
    for section in message.sections[1:]:
        yield from section


class _Entry(NamedTuple):
    message: dns.message.Message
    stored: float
    expires: float
    size: int
    records: int


class Cache:
    """Answers by question, bounded in number, bytes and records; what was used least recently goes first."""

    def __init__(self, *, entries: int = MOST_ENTRIES, size: int = MOST_BYTES, records: int = MOST_RECORDS) -> None:
        self._most_entries, self._most_bytes, self._most_records = entries, size, records
        self._entries: OrderedDict[QuestionKey, _Entry] = OrderedDict()
        self.size = 0
        """Bytes of all answers, on the wire."""
        self.records = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: QuestionKey, question: Question, now: float) -> dns.message.Message | None:
        """The answer as `copy_answer` makes it, aged; None where there is none that still holds."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return copy_answer(entry.message, question, int(now - entry.stored))

    def put(self, key: QuestionKey, message: dns.message.Message, question: Question, size: int, now: float) -> bool:
        """Keep a copy of an answer to that question, if that is allowed. `size`: its bytes on the wire.

        Returns whether it is kept. What was kept for the question goes in any case: it is older.
        """
        self._remove(key)
        seconds = lifetime(message, question)
        records = sum(max(1, len(rrset)) for rrset in _rrsets(message))
        if seconds <= 0 or size > self._most_bytes or records > self._most_records or not self._most_entries:
            return False
        kept = copy_answer(message, question)
        soa = _soa_of(kept)
        if soa is not None and _is_negative(kept, question):
            # So that whoever gets it from us late does not start over with the whole minimum (RFC 2308 section 5).
            soa.ttl = min(soa.ttl, _minimum(soa))
        self._entries[key] = _Entry(kept, now, now + seconds, size, records)
        self.size += size
        self.records += records
        while (
            len(self._entries) > self._most_entries or self.size > self._most_bytes or self.records > self._most_records
        ):
            self._remove(next(iter(self._entries)))
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.size = self.records = 0

    def _remove(self, key: QuestionKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
            self.records -= entry.records
