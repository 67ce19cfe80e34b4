"""What is answered about containers' names, and which names are none of ours (dns.md sections 6 to 8).

Better than the reference: parents of names and the domain itself exist, negative answers carry the SOA record, IPv6.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weave_dns.names import address_of, fold, wire_labels, wire_name

if TYPE_CHECKING:
    from weave_dns.entries import Entry
    from weave_dns.table import Table

A, SOA, PTR, AAAA, DS, ANY = 1, 6, 12, 28, 43, 255
NOERROR, NXDOMAIN = 0, 3
_SOA_NUMBERS = struct.Struct(">IIIII")
_REFRESH_S, _RETRY_S, _EXPIRE_S = 3600, 600, 86400


@dataclass(frozen=True, slots=True)
class Answer:
    """What there is to say about a question."""

    rcode: int
    records: tuple[tuple[int, bytes], ...] = ()
    """Type and data of each, all of the name that was asked for."""
    in_zone: bool = False
    """Whether the name is in our domain, so that a negative answer carries its SOA record."""


class Zone:
    """The domain of containers' names. `domain`: with final dot."""

    def __init__(self, table: Table, domain: str, ttl: int) -> None:
        self.domain_labels = tuple(label.lower() for label in wire_labels(domain))
        self.domain_wire = wire_name(domain) or b"\0"
        self.ttl = ttl
        self._table = table
        self._domain = domain

    def look_up(self, labels: tuple[bytes, ...], rdtype: int) -> Answer | None:
        """The answer for a name, given by its folded labels; None where others are to be asked."""
        if labels[-len(self.domain_labels) :] == self.domain_labels:
            if rdtype == DS and labels == self.domain_labels:
                return None  # the parent's, whose servers know nothing of us
            return self._own(labels, rdtype)
        if len(labels) == 1:
            return self._single_label(labels, rdtype)
        if labels[-1:] == (b"arpa",):
            return self._reverse(labels, rdtype)
        return None

    def soa(self) -> bytes:
        """Data of the SOA record but for its two names."""
        return _SOA_NUMBERS.pack(1, _REFRESH_S, _RETRY_S, _EXPIRE_S, self.ttl)

    def _own(self, labels: tuple[bytes, ...], rdtype: int) -> Answer:
        name = _text(labels)
        if name is None:
            return Answer(NXDOMAIN, in_zone=True)
        entries = list(self._table.of_name(name))
        apex = labels == self.domain_labels
        if not entries and not apex and not self._table.is_parent(name):
            return Answer(NXDOMAIN, in_zone=True)
        records = _addresses(entries, rdtype)
        if apex and rdtype in (SOA, ANY):
            records = ((SOA, b""), *records)
        return Answer(NOERROR, records, in_zone=True)

    def _single_label(self, labels: tuple[bytes, ...], rdtype: int) -> Answer | None:
        name = _text((*labels, *self.domain_labels))
        if name is not None:
            entries = list(self._table.of_name(name))
            if entries or self._table.is_parent(name):
                return Answer(NOERROR, _addresses(entries, rdtype))
        # Names of containers are nobody's business; but top-level domains have records of other types.
        return Answer(NXDOMAIN) if rdtype in (A, AAAA) else None

    def _reverse(self, labels: tuple[bytes, ...], rdtype: int) -> Answer | None:
        address = address_of(labels)
        entries = self._table.of_address(address) if address is not None else []
        targets = [wire for entry in entries if (wire := wire_name(entry.hostname)) is not None]
        if not targets:
            return None
        return Answer(NOERROR, ((PTR, targets[0]),) if rdtype in (PTR, ANY) else ())


def _addresses(entries: list[Entry], rdtype: int) -> tuple[tuple[int, bytes], ...]:
    """Each address once, although several containers may have it."""
    found = dict.fromkeys((A if entry.address.version == 4 else AAAA, entry.address.packed) for entry in entries)
    return tuple(record for record in found if rdtype in (record[0], ANY))


def _text(labels: tuple[bytes, ...]) -> str | None:
    """The name as entries have it; None for one that no entry can have."""
    if any(b"." in label for label in labels):
        return None
    return fold(b".".join(labels).decode("utf-8", "surrogateescape") + ".")
