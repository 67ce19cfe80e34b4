"""Queries that were damaged in every way, by the million: the name server survives them, at a steady price.

    .venv/bin/python tests/name_server/fuzz_queries.py --count 1000000 --seed 1

Checked of each: no exception but `BadQuery` of the parser, an answer of the right kind and size with the query's ID, no
answer to responses and noise. Of some: that dnspython reads the answer. In the end: that memory did not grow since the
first tenth. Exit status 1 if something was wrong, with the query in hex.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

# The file is run by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dns.edns
import dns.message
import dns.name
import dns.tsigkeyring

from vector_files import load
from weave_dns.entries import Entry
from weave_dns.queries import BadQuery, Query, parse_query
from weave_dns.responder import MAX_DATAGRAM, MAX_MESSAGE, Responder, datagram_limit
from weave_dns.table import Table
from weave_dns.zone import Zone
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAINS = ("weave.local.", "containers.cluster.example.")
GROWTH_MIB = 48
"""What memory may grow after the first tenth: answers that are kept, and the allocator's air."""
READ_BY_DNSPYTHON = 20
"""Of so many answers one."""
CHANGE_OF_NAMES = 997
"""After so many queries a name changes."""
_KEYRING = dns.tsigkeyring.from_text({"key.": "c2VjcmV0"})
_COUNTS = (0, 1, 2, 255, 256, 0x7FFF, 0xFFFF)
_POINTER = struct.Struct(">H")


class Wrong(AssertionError):
    """What must not be."""


def names(domain: str) -> list[Entry]:
    """Entries of all kinds."""
    made = [
        Entry("c1", PeerName(1), ip_address("10.32.0.1"), f"web.{domain}"),
        Entry("c2", PeerName(1), ip_address("10.32.0.1"), f"Web.{domain}"),
        Entry("c3", PeerName(2), ip_address("fd00::1"), f"six.sub.{domain}"),
        Entry("c4", PeerName(2), ip_address("10.32.0.9"), f"dead.{domain}", 1, 1_700_000_000),
        Entry("c5", PeerName(2), ip_address("10.32.0.5"), domain),
        Entry("c6", PeerName(3), ip_address("10.32.0.6"), "www.example.com."),
        Entry("c7", PeerName(3), ip_address("10.32.0.7"), f"\udcff\udc80.{domain}"),
        Entry("c8", PeerName(3), ip_address("10.32.0.8"), "a" * 70 + "."),
    ]
    made += [Entry("many", PeerName(1), ip_address(f"10.32.5.{n}"), f"many.{domain}") for n in range(60)]
    for n in range(40):
        made += [
            Entry("m", PeerName(1), ip_address(text), f"mixed.{domain}") for text in (f"10.32.6.{n}", f"fd00::6:{n}")
        ]
    return made


def corpus() -> list[bytes]:
    """What is damaged: the vectors, and valid and wicked queries of all kinds."""
    found = [bytes.fromhex(case["query_hex"]) for case in load("dns/resolver")["queries"]]
    found += [bytes.fromhex(case["response_hex"]) for case in load("dns/resolver")["queries"] if "response_hex" in case]
    for domain in DOMAINS:
        hosts = ("web", "WEB", "many", "mixed", "six.sub", "sub", "no", "dead")
        asked = [f"{host}.{domain}" for host in hosts] + [domain, "web.", "no.", "a.", "many.", ".", "www.example.com."]
        asked += [ip_address(text).reverse_pointer + "." for text in ("10.32.0.1", "fd00::1", "10.9.9.9", "10.32.0.8")]
        for name in asked:
            for rdtype in ("A", "AAAA", "ANY", "PTR", "SOA", "DS", "MX", "AXFR", "TYPE65280"):
                message = dns.message.make_query(name, rdtype)
                found.append(message.to_wire())
                message.use_edns(0, payload=1232)
                found.append(message.to_wire())
    message = dns.message.make_query(f"many.{DOMAINS[0]}", "A")
    options_of_queries: tuple[list[dns.edns.Option], ...] = (
        [],
        [dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")],
        [dns.edns.ECSOption("192.0.2.0", 24), dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")],
        [dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(300))],
    )
    for payload in (0, 512, 700, 4096, 65535):
        for options in options_of_queries:
            message.use_edns(0, payload=payload, options=options)
            found.append(message.to_wire())
    message.use_edns(1)
    found.append(message.to_wire())
    message.use_edns(0)
    message.use_tsig(_KEYRING, dns.name.from_text("key."))
    found.append(message.to_wire())
    header = b"\x12\x34\1\0\0\1\0\0\0\0\0\0"
    tail = b"\0\1\0\1"
    found += [
        header + b"\xc0\x0c" + tail,  # a name that is itself
        header + b"\1a\xc0\x0c" + tail,
        header + b"\1a\xc0\x11" + tail + b"\xc0\x0c",
        header + b"\xff\xff" + tail,
        header + b"\xc0\x00" + tail,
        header + b"".join(b"\x3f" + bytes([n]) * 63 for n in range(3)) + b"\x3d" + b"x" * 61 + b"\0" + tail,
        header + b"\1." * 127 + b"\0" + tail,
        header + b"\1a" * 127 + b"\0" + tail,
        header + b"\1a" * 128 + b"\0" + tail,
        header + b"\5a.b\0c" + found[0][12 + 7 :],
        header[:4] + b"\xff" * 8 + found[0][12:],
        header[:4] + b"\0\1\xff\xff\xff\xff\xff\xff" + found[0][12:] + bytes(600),
        header[:4] + b"\0\1\0\0\0\0\xff\xff" + found[0][12:] + b"\0\0\x29\x10\0\0\0\0\0\0\0" * 40,
        header[:4] + b"\0\1\0\0\0\0\0\1" + found[0][12:] + b"\0\0\x29\x10\0\0\0\0\0\0\4\0\x0a\0\5",
        header[:10] + b"\0\1" + found[0][12:] + b"\xc0\x0c\0\x29\x10\0\0\0\0\0\0\0",
        b"",
        bytes(11),
        bytes(12),
        bytes(512),
        b"\xff" * 512,
    ]
    return list(dict.fromkeys(found))


class Damage:
    """Changes messages at random."""

    def __init__(self, messages: list[bytes], chance: random.Random) -> None:
        self._messages = messages
        self._chance = chance
        self._ways: tuple[Callable[[bytearray], None], ...] = (
            self._flip,
            self._flip,
            self._set,
            self._set,
            self._insert,
            self._remove,
            self._cut,
            self._repeat,
            self._splice,
            self._count,
            self._point,
            self._letter_case,
            self._append,
        )

    def message(self) -> bytes:
        """The next one: sometimes as it was, mostly changed in one to four ways."""
        chance = self._chance
        if chance.random() < 0.01:
            return chance.randbytes(chance.randrange(600))
        data = bytearray(chance.choice(self._messages))
        if len(data) > 2:
            data[:2] = chance.randbytes(2)
        for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 4))):
            if data:
                chance.choice(self._ways)(data)
        return bytes(data[:MAX_MESSAGE])

    def _place(self, data: bytearray) -> int:
        return self._chance.randrange(len(data))

    def _flip(self, data: bytearray) -> None:
        data[self._place(data)] ^= 1 << self._chance.randrange(8)

    def _set(self, data: bytearray) -> None:
        data[self._place(data)] = self._chance.choice((0, 1, 0x3F, 0x40, 0x80, 0xC0, 0xFF, self._chance.randrange(256)))

    def _insert(self, data: bytearray) -> None:
        place = self._place(data)
        data[place:place] = self._chance.randbytes(self._chance.randrange(1, 9))

    def _remove(self, data: bytearray) -> None:
        place = self._place(data)
        del data[place : place + self._chance.randrange(1, 9)]

    def _cut(self, data: bytearray) -> None:
        del data[self._place(data) :]

    def _repeat(self, data: bytearray) -> None:
        place = self._place(data)
        data += data[place : place + self._chance.randrange(1, 40)] * self._chance.randrange(1, 9)

    def _splice(self, data: bytearray) -> None:
        other = self._chance.choice(self._messages)
        data[self._place(data) :] = other[self._chance.randrange(len(other) + 1) :]

    def _count(self, data: bytearray) -> None:
        if len(data) >= 12:
            place = self._chance.choice((4, 6, 8, 10))
            data[place : place + 2] = self._chance.choice(_COUNTS).to_bytes(2)

    def _point(self, data: bytearray) -> None:
        place = self._place(data)
        data[place : place + 2] = _POINTER.pack(0xC000 | self._chance.randrange(min(len(data) + 4, 0x3FFF)))

    def _letter_case(self, data: bytearray) -> None:
        for place in range(12, len(data)):
            if chr(data[place]).isalpha() and self._chance.random() < 0.5:
                data[place] ^= 0x20

    def _append(self, data: bytearray) -> None:
        data += self._chance.randbytes(self._chance.randrange(1, 30))


def check(data: bytes, answer: bytes | Query | None, query: Query | None, *, stream: bool, read: bool) -> None:
    """Raises `Wrong`. `query`: what the parser made of it; `read`: whether dnspython reads the answer."""
    silent = len(data) < 12 or bool(data[2] & 0x80)
    if (answer is None) != silent:
        raise Wrong(f"answer {answer!r} to {'noise' if silent else 'a query'}")
    if isinstance(answer, Query):
        if query != answer:
            raise Wrong(f"forwarded {answer}, but it was {query}")
        if sum(map(len, answer.labels)) + len(answer.labels) > 254 or any(not 0 < len(x) < 64 for x in answer.labels):
            raise Wrong(f"labels {answer.labels}")
    elif answer is not None:
        limit = MAX_MESSAGE if stream else MAX_DATAGRAM if query is None else datagram_limit(query)
        if not 12 <= len(answer) <= limit:
            raise Wrong(f"an answer of {len(answer)} bytes, {limit} are allowed")
        if answer[:2] != data[:2] or not answer[2] & 0x80:
            raise Wrong(f"header {answer[:12].hex()}")
        if query is None and (len(answer) != 12 or not answer[3] & 15):
            raise Wrong(f"no error for what cannot be read: {answer.hex()}")
        if query is not None and answer[12 : 12 + len(query.question)] != query.question:
            raise Wrong(f"another question in {answer.hex()}")
        if read and len(answer) > 12:
            message = dns.message.from_wire(answer)
            if message.answer and message.rcode():
                raise Wrong(f"records and an error: {message}")


def resident_mib() -> float:
    """Memory of this process, in use now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / (1 << 20)


def fuzz(count: int, seed: int) -> str:
    """Try so many queries; returns what there is to tell. Raises `Wrong` with the query that it is about."""
    chance = random.Random(seed)
    damage = Damage(corpus(), chance)
    servers = []
    for domain in DOMAINS:
        table = Table()
        for entry in names(domain):
            table.put(entry)
        servers.append((Responder(Zone(table, domain, 1), table, random=chance), table))
    changing = Entry("new", PeerName(4), ip_address("10.32.0.77"), f"new.{DOMAINS[0]}")
    kinds = {"answered": 0, "forwarded": 0, "silent": 0, "errors": 0}
    began, busy, early = time.perf_counter(), 0.0, 0.0
    for number in range(count):
        data, stream = damage.message(), chance.random() < 0.3
        responder, table = chance.choice(servers)
        if number % CHANGE_OF_NAMES == 0:
            table.put(changing)
        query: Query | None = None
        try:
            asked = time.perf_counter()
            answer = responder.respond(data, stream=stream)
            busy += time.perf_counter() - asked
            with suppress(BadQuery):
                query = parse_query(data)
            check(data, answer, query, stream=stream, read=number % READ_BY_DNSPYTHON == 0)
        except Exception as error:
            raise Wrong(f"query {number} of seed {seed}: {data.hex()} (stream: {stream}): {error!r}") from error
        kinds[
            "silent"
            if answer is None
            else "forwarded"
            if isinstance(answer, Query)
            else "errors"
            if query is None
            else "answered"
        ] += 1
        if number == count // 10:
            early = resident_mib()
    late = resident_mib()
    seconds = time.perf_counter() - began
    told = ", ".join(f"{value} {kind}" for kind, value in kinds.items())
    report = (
        f"{count} queries in {seconds:.0f} s: {told}; {count / max(busy, 1e-9):.0f}/s in the responder; "
        f"memory {early:.0f} MiB after a tenth, {late:.0f} MiB at the end"
    )
    if late - early > GROWTH_MIB:
        raise Wrong(f"memory grows: {report}")
    if min(kinds.values()) < count // 200:
        raise Wrong(f"hardly any of one kind: {report}")
    return report


def main(arguments: list[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="how many queries")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    options = parser.parse_args(arguments)
    try:
        print(fuzz(options.count, options.seed))
    except Wrong as error:
        print(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
