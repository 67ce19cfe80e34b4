"""Answers against those of Weave Net 2.8 (dns.md sections 6 to 8, 10 and 11), and where we differ on purpose.

- Names in answers are compressed, and UDP answers are cut at max(512, min(EDNS size, 1232)).
- An EDNS query gets an OPT record, which says 1232. EDNS of a version above 0: BADVERS.
- Negative answers in the domain carry SOA and AA. Parents of names and the domain itself exist (NOERROR). The domain
  has an SOA record. ANY gets what there is.
- AAAA, and names below `ip6.arpa`, come from entries with IPv6 addresses.
- An address that two containers of a name have is given once.
- Class other than IN and ANY: REFUSED. Types that no record has (OPT, and 128 to 254 such as AXFR): NOTIMP. Opcode not
  QUERY: NOTIMP; no or several questions, or none that can be read: FORMERR; these two with nothing but the header.
- The root, and types other than A and AAAA of unknown single labels, are forwarded.
- Names below `in-addr.arpa` that are not of a known address are forwarded, whatever the type; of a known one, types
  other than PTR get NOERROR without records.
"""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import IPv4Address, ip_address
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from vector_files import cases, load
from weave_dns.entries import Entry
from weave_dns.queries import Query
from weave_dns.responder import MAX_DATAGRAM, Responder
from weave_dns.table import Table
from weave_dns.zone import Zone
from weave_router.wire.peer_name import PeerName

FORWARDED = "forwarded"
HEADER_ONLY = {"ra": False, "answers": 0, "authority": 0, "additional": 0, "aa": False, "question": 0}
SOA_TOO = {"authority": 1}
NEGATIVE = {"aa": True, "authority": 1}
EXISTS = {"rcode": 0, "aa": True, "authority": 1}
OPT_TOO = {"additional": 1}

DEVIATIONS: dict[str, dict[str, Any] | str] = {
    "A, unknown name": NEGATIVE,
    "A, name whose only entry is a tombstone": NEGATIVE,
    "AAAA of an unknown name": NEGATIVE,
    "AAAA of an existing name": SOA_TOO,
    "MX of an existing name": SOA_TOO,
    "TXT of an existing name": SOA_TOO,
    "SRV of an existing name": SOA_TOO,
    "A, parent of an existing name": EXISTS,
    "A, the domain itself": EXISTS,
    "SOA of the domain": {"rcode": 0, "aa": True, "answers": 1},
    "ANY of an existing name": {"answers": 1},
    "class CH is not looked at": {"rcode": 5, "aa": False, "answers": 0},
    "two questions": {"rcode": 1, **HEADER_ONLY},
    "no question": {"rcode": 1, **HEADER_ONLY},
    "opcode NOTIFY is answered like a query": {"rcode": 4, **HEADER_ONLY},
    "EDNS in the query, none in the response": OPT_TOO,
    "PTR with three octets": FORWARDED,
    "A below in-addr.arpa": {"rcode": 0, "aa": True},
    "NS of a foreign reverse name is not forwarded": FORWARDED,
    "40 addresses over UDP without EDNS": {"answers": (512 - 34) // 16},
    "40 addresses, EDNS 700": {"answers": 40, "tc": False, **OPT_TOO},
    "40 addresses, EDNS 4096": OPT_TOO,
    "40 addresses, EDNS size 0": {"answers": (512 - 34 - 11) // 16, **OPT_TOO},
    "40 addresses over TCP, EDNS 512": OPT_TOO,
    "40 addresses, single label name over UDP": {"answers": (512 - 22) // 16},
}
FILE = load("dns/resolver")
QUERIES = cases("dns/resolver", "queries")
OWN = PeerName(1)


def file_entries() -> list[Entry]:
    found = []
    for item in FILE["entries"]:
        if "addresses" in item:
            first, last = (int(IPv4Address(text)) for text in item["addresses"].split(" to "))
        else:
            first = last = int(IPv4Address(item["address"]))
        for number in range(first, last + 1):
            state = (1, 1_700_000_000) if item.get("deleted") else (0, 0)
            found.append(Entry(item["container"], OWN, IPv4Address(number), item["hostname"], *state))
    return found


def responder(*entries: Entry, domain: str = FILE["domain"], ttl: int = FILE["ttl"], seed: int = 1) -> Responder:
    table = Table()
    for entry in entries:
        table.put(entry)
    return Responder(Zone(table, domain, ttl), table, random=random.Random(seed))


def entry(name: str, address: str, container: str = "c", tombstone: int = 0) -> Entry:
    return Entry(container, OWN, ip_address(address), name, 1 if tombstone else 0, tombstone)


def query(name: str, rdtype: str, rdclass: str = "IN", **options: Any) -> bytes:
    return dns.message.make_query(name, rdtype, rdclass, id=0x1234, **options).to_wire()


def answer(asked: Responder, data: bytes, *, stream: bool = False) -> dns.message.Message:
    response = asked.respond(data, stream=stream)
    assert isinstance(response, bytes)
    message = dns.message.from_wire(response)
    assert message.id == int.from_bytes(data[:2])
    assert message.flags & dns.flags.QR
    return message


def forwarded(asked: Responder, data: bytes) -> bool:
    return isinstance(asked.respond(data), Query)


def records(section: list[Any]) -> list[tuple[str, str, str]]:
    """Owner, type and data of each record."""
    return [
        (rrset.name.to_text(), dns.rdatatype.to_text(rrset.rdtype), str(data)) for rrset in section for data in rrset
    ]


def texts(message: dns.message.Message) -> list[str]:
    """Data of the answer section, sorted."""
    return sorted(text for _, _, text in records(message.answer))


# What Weave Net answered


@pytest.mark.parametrize("case", QUERIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_query_is_answered_as_recorded_or_as_listed(case: Any, seed: int) -> None:
    asked = responder(*file_entries(), seed=seed)
    data = bytes.fromhex(case["query_hex"])
    response = asked.respond(data, stream=case["transport"] == "tcp")
    deviation = DEVIATIONS.get(case["name"], {})
    if case.get("no_answer"):
        assert response is None
        return
    if deviation == FORWARDED or "upstream" in case.get("answered_by", ""):
        assert isinstance(response, Query)
        [question] = case["question"]
        assert b".".join(response.labels).decode() == question["name"].lower().rstrip(".")
        assert response.rdtype == dns.rdatatype.from_text(question["type"])
        assert response.id == 0x1234
        return
    assert isinstance(deviation, dict)
    expected = {**case, "question": 1, **deviation}
    message = dns.message.from_wire(response if isinstance(response, bytes) else b"")
    assert isinstance(response, bytes)
    counts = [int.from_bytes(response[start : start + 2]) for start in (4, 6, 8, 10)]
    assert counts == [expected["question"], expected["answers"], expected["authority"], expected["additional"]]
    assert message.rcode() == expected["rcode"]
    for name, bit in (("aa", dns.flags.AA), ("tc", dns.flags.TC), ("rd", dns.flags.RD), ("ra", dns.flags.RA)):
        if (name, expected["rcode"]) != ("rd", 4):
            assert bool(message.flags & bit) == expected[name], name
    assert message.opcode() == dns.opcode.Opcode(data[2] >> 3 & 15)
    assert bool(message.flags & dns.flags.CD) == bool(data[3] & 0x10) and not message.flags & dns.flags.AD
    if expected["question"]:
        end = 12 + len(case_question(data))
        assert response[12:end] == data[12:end], "the question is copied, its letter case too"
    else:
        assert len(response) == 12
    if "response_hex" in case and not deviation:
        theirs = dns.message.from_wire(bytes.fromhex(case["response_hex"]))
        if not expected["tc"]:
            assert Counter(records(message.answer)) == Counter(records(theirs.answer))
        assert {rrset.ttl for rrset in message.answer} == {rrset.ttl for rrset in theirs.answer}
    own = {str(one.address) for one in file_entries() if not one.tombstone}
    assert {text for _, kind, text in records(message.answer) if kind == "A"} <= own


def case_question(data: bytes) -> bytes:
    """The question as it stands in a query."""
    end = 12
    while data[end]:
        end += 1 + data[end]
    return data[12 : end + 5]


def test_every_listed_deviation_is_of_a_case() -> None:
    names = [case["name"] for case in FILE["queries"]]
    assert {*DEVIATIONS} <= {*names}
    assert len(names) == len({*names})


# Own names


@pytest.mark.parametrize("name", ["web.weave.local.", "web."])
def test_addresses_of_both_families_are_told_by_type(name: str) -> None:
    asked = responder(entry("web.weave.local.", "10.32.0.1"), entry("web.weave.local.", "fd00::1"))
    assert texts(answer(asked, query(name, "A"))) == ["10.32.0.1"]
    assert texts(answer(asked, query(name, "AAAA"))) == ["fd00::1"]
    assert texts(answer(asked, query(name, "ANY"))) == ["10.32.0.1", "fd00::1"]
    for rdtype in ("A", "AAAA"):
        [rrset] = answer(asked, query(name, rdtype)).answer
        assert (rrset.name.to_text(), rrset.ttl, rrset.rdclass) == (name, 1, dns.rdataclass.IN)


def test_address_that_two_containers_of_a_name_have_is_given_once() -> None:
    asked = responder(*(entry("web.weave.local.", "10.32.0.1", container) for container in ("c1", "c2")))
    assert texts(answer(asked, query("web.weave.local.", "A"))) == ["10.32.0.1"]
    assert answer(asked, query("web.weave.local.", "A")).to_wire()[6:8] == b"\0\1"


def test_all_orders_of_addresses_are_equally_likely() -> None:
    asked = responder(*(entry("web.weave.local.", f"10.32.0.{number}") for number in (1, 2, 3)))
    orders = Counter(
        tuple(text for _, _, text in records(answer(asked, query("web.weave.local.", "A")).answer)) for _ in range(1200)
    )
    # 200 of each order expected, with a standard deviation of 13.
    assert len(orders) == 6
    assert all(130 < times < 270 for times in orders.values())


def test_which_addresses_are_left_out_is_chance() -> None:
    addresses = [f"10.32.1.{number}" for number in range(60)]
    asked = responder(*(entry("web.weave.local.", address) for address in addresses))
    given = Counter(text for _ in range(400) for text in texts(answer(asked, query("web.weave.local.", "A"))))
    assert set(given) == set(addresses)
    assert all(110 < times < 280 for times in given.values()), "29 of 60 each time: 193 times each"


@pytest.mark.parametrize("ttl", [0, 1, 30, 86_400])
def test_ttl_is_that_of_the_settings(ttl: int) -> None:
    asked = responder(entry("web.weave.local.", "10.32.0.1"), ttl=ttl)
    assert answer(asked, query("web.weave.local.", "A")).answer[0].ttl == ttl
    [soa] = answer(asked, query("no.weave.local.", "A")).authority
    assert (soa.ttl, soa[0].minimum) == (ttl, ttl)


@pytest.mark.parametrize("name", ["no.weave.local.", "web.weave.local.", "weave.local.", "sub.weave.local."])
@pytest.mark.parametrize("rdtype", ["AAAA", "MX", "SRV", "TXT", "NS", "CNAME"])
def test_negative_answers_in_the_domain_carry_its_soa(name: str, rdtype: str) -> None:
    asked = responder(entry("web.weave.local.", "10.32.0.1"), entry("a.b.sub.weave.local.", "10.32.0.2"))
    message = answer(asked, query(name, rdtype))
    assert message.rcode() == (dns.rcode.NXDOMAIN if name == "no.weave.local." else dns.rcode.NOERROR)
    assert message.flags & dns.flags.AA
    assert not message.answer
    [soa] = message.authority
    assert (soa.name.to_text(), soa.rdtype) == ("weave.local.", dns.rdatatype.SOA)


def test_a_name_is_there_as_long_as_something_below_it_is() -> None:
    table = Table()
    asked = Responder(Zone(table, "weave.local.", 1), table, random=random.Random(1))
    one = entry("a.b.sub.weave.local.", "10.32.0.2")
    for state, rcode in ((one, dns.rcode.NOERROR), (entry(one.hostname, "10.32.0.2", tombstone=5), dns.rcode.NXDOMAIN)):
        table.put(state)
        for name in ("a.b.sub.weave.local.", "b.sub.weave.local.", "SUB.weave.local."):
            assert answer(asked, query(name, "A")).rcode() == rcode
        assert answer(asked, query("weave.local.", "A")).rcode() == dns.rcode.NOERROR
        assert answer(asked, query("ub.weave.local.", "A")).rcode() == dns.rcode.NXDOMAIN


def test_there_are_no_wildcards() -> None:
    asked = responder(entry("web.weave.local.", "10.32.0.1"), entry("x.web.weave.local.", "10.32.0.2"))
    assert answer(asked, query("y.web.weave.local.", "A")).rcode() == dns.rcode.NXDOMAIN
    assert answer(asked, query("*.weave.local.", "A")).rcode() == dns.rcode.NXDOMAIN


def test_a_dot_within_a_label_separates_nothing() -> None:
    asked = responder(entry("x.web.weave.local.", "10.32.0.2"))
    assert answer(asked, query(r"x\.web.weave.local.", "A")).rcode() == dns.rcode.NXDOMAIN
    assert forwarded(asked, query(r"x.web\.weave.local.", "A"))


def test_soa_of_the_domain() -> None:
    asked = responder()
    message = answer(asked, query("Weave.Local.", "SOA"))
    [rrset] = message.answer
    assert (rrset.name.to_text(), rrset.rdtype, rrset.ttl) == ("Weave.Local.", dns.rdatatype.SOA, 1)
    assert not message.authority
    soa = rrset[0]
    assert soa.mname == dns.name.from_text("weave.local.")
    assert soa.rname.is_subdomain(soa.mname)
    assert answer(asked, query("no.weave.local.", "SOA")).rcode() == dns.rcode.NXDOMAIN


def test_the_domain_itself_can_have_addresses() -> None:
    asked = responder(entry("weave.local.", "10.32.0.3"))
    assert texts(answer(asked, query("weave.local.", "A"))) == ["10.32.0.3"]
    assert {kind for _, kind, _ in records(answer(asked, query("weave.local.", "ANY")).answer)} == {"A", "SOA"}


def test_a_domain_of_another_name() -> None:
    asked = responder(entry("a.Cluster.Example.", "10.32.0.3"), domain="cluster.example.")
    assert texts(answer(asked, query("a.cluster.EXAMPLE.", "A"))) == ["10.32.0.3"]
    assert forwarded(asked, query("a.weave.local.", "A"))
    assert forwarded(asked, query("a.notcluster.example.", "A"))


@pytest.mark.parametrize("domain", ["d.", "weave.local.", "cluster.example.", "a" * 63 + ".example."])
def test_queries_shorter_than_the_domain_are_answered(domain: str) -> None:
    asked = responder(entry(f"a.{domain}", "10.32.0.3"), domain=domain)
    assert texts(answer(asked, query("a.", "A"))) == ["10.32.0.3"]
    assert answer(asked, query("b.", "A")).rcode() == dns.rcode.NXDOMAIN
    assert answer(asked, query("a.", "TXT")).rcode() == dns.rcode.NOERROR
    assert texts(answer(asked, query(reverse("10.32.0.3"), "PTR"))) == [f"a.{domain}"]


@pytest.mark.parametrize("domain", ["d.", "weave.local.", "cluster.example.", ("a" * 49 + ".") * 4])
def test_negative_answer_of_any_domain_names_it_rightly(domain: str) -> None:
    asked = responder(entry(f"a.{domain}", "10.32.0.3"), domain=domain)
    for name in (domain, f"a.{domain}", f"no.{domain}", f"x.y.no.{domain}"):
        [soa] = answer(asked, query(name, "TXT")).authority
        assert (soa.name.to_text(), soa[0].mname.to_text()) == (domain, domain)


def test_names_outside_of_the_domain_are_forwarded_even_if_a_peer_has_told_them() -> None:
    asked = responder(entry("www.example.com.", "10.32.0.3"))
    assert forwarded(asked, query("www.example.com.", "A"))
    assert forwarded(asked, query("example.com.", "A"))


def test_ds_of_the_domain_is_the_parent_zones() -> None:
    asked = responder(entry("web.weave.local.", "10.32.0.3"))
    assert forwarded(asked, query("weave.local.", "DS"))
    assert forwarded(asked, query("example.com.", "DS"))


@pytest.mark.parametrize("label", [b"\xff\xfe", b"a\0b", b"a b", "münchen".encode(), b"a" * 63])
def test_labels_of_any_bytes_find_the_name_that_a_peer_told(label: bytes) -> None:
    name = label.decode("utf-8", "surrogateescape") + ".weave.local."
    asked = responder(entry(name, "10.32.0.3"))
    question = bytes((len(label),)) + label + b"\5weave\5local\0\0\1\0\1"
    assert texts(answer(asked, b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + question)) == ["10.32.0.3"]


# Single labels


@pytest.mark.parametrize("rdtype", ["A", "AAAA"])
def test_unknown_single_label_is_nobodys(rdtype: str) -> None:
    message = answer(responder(), query("nosuch.", rdtype))
    assert (message.rcode(), message.answer, message.authority) == (dns.rcode.NXDOMAIN, [], [])
    assert not message.flags & dns.flags.AA


@pytest.mark.parametrize("rdtype", ["NS", "SOA", "DS", "MX", "TXT", "DNSKEY", "ANY"])
def test_other_types_of_an_unknown_single_label_are_forwarded(rdtype: str) -> None:
    assert forwarded(responder(), query("com.", rdtype))


@pytest.mark.parametrize("rdtype", ["A", "AAAA", "NS", "DNSKEY", "DS", "ANY", "SOA"])
def test_root_is_forwarded(rdtype: str) -> None:
    assert forwarded(responder(entry("weave.local.", "10.32.0.3")), query(".", rdtype))


def test_single_label_that_is_a_parent_exists() -> None:
    message = answer(responder(entry("a.sub.weave.local.", "10.32.0.3")), query("sub.", "A"))
    assert (message.rcode(), message.answer, message.authority) == (dns.rcode.NOERROR, [], [])
    assert message.flags & dns.flags.AA


# Reverse


def reverse(address: str) -> str:
    return ip_address(address).reverse_pointer + "."


def test_first_name_in_memory_order_is_given_in_its_spelling() -> None:
    asked = responder(
        entry("b.weave.local.", "10.32.0.1"),
        Entry("c", PeerName(2), ip_address("10.32.0.1"), "A.Weave.local.", 0, 0),
        entry("0.weave.local.", "10.32.0.1", tombstone=5),
    )
    message = answer(asked, query(reverse("10.32.0.1"), "PTR"))
    assert texts(message) == ["A.Weave.local."]
    assert message.flags & dns.flags.AA


@pytest.mark.parametrize("name", [reverse("fd00::a1"), reverse("fd00::a1").upper()])
def test_reverse_names_of_ipv6(name: str) -> None:
    asked = responder(entry("six.weave.local.", "fd00::a1"))
    assert texts(answer(asked, query(name, "PTR"))) == ["six.weave.local."]
    assert forwarded(asked, query(reverse("fd00::a2"), "PTR"))


@pytest.mark.parametrize("address", ["10.32.0.1", "fd00::a1"])
@pytest.mark.parametrize("rdtype", ["A", "AAAA", "NS", "SOA", "TXT", "MX"])
def test_known_reverse_name_has_nothing_but_its_pointer(address: str, rdtype: str) -> None:
    asked = responder(entry("a.weave.local.", address))
    message = answer(asked, query(reverse(address), rdtype))
    assert (message.rcode(), message.answer, message.authority) == (dns.rcode.NOERROR, [], [])


@pytest.mark.parametrize(
    "name",
    [
        "in-addr.arpa.",
        "10.in-addr.arpa.",
        "0.32.10.in-addr.arpa.",
        "1.1.0.32.10.in-addr.arpa.",
        "x.0.32.10.in-addr.arpa.",
        "256.0.32.10.in-addr.arpa.",
        "-1.0.32.10.in-addr.arpa.",
        "+1.0.32.10.in-addr.arpa.",
        "0x1.0.32.10.in-addr.arpa.",
        "2.0.32.10.in-addr.arpa.",
        "99.0.32.10.in-addr.arpa.",
        "ip6.arpa.",
        "1.ip6.arpa.",
        "g" + reverse("fd00::a1")[1:],
        "1." + reverse("fd00::a1"),
        reverse("fd00::a1")[2:],
        "1.0.32.10.ip6.arpa.",
        "e164.arpa.",
    ],
)
@pytest.mark.parametrize("rdtype", ["PTR", "A", "NS", "SOA", "ANY"])
def test_reverse_names_of_no_known_address_are_forwarded(name: str, rdtype: str) -> None:
    asked = responder(
        entry("a.weave.local.", "10.32.0.1"),
        entry("dead.weave.local.", "10.32.0.99", tombstone=5),
        entry("six.weave.local.", "fd00::a1"),
    )
    assert forwarded(asked, query(name, rdtype))


def test_name_that_cannot_stand_in_a_message_is_passed_over() -> None:
    asked = responder(
        entry("a" * 64 + ".weave.local.", "10.32.0.1"),
        entry("a." * 127 + "b", "10.32.0.1"),
        entry("z.weave.local.", "10.32.0.1"),
    )
    assert texts(answer(asked, query(reverse("10.32.0.1"), "PTR"))) == ["z.weave.local."]
    asked = responder(entry("a" * 64 + ".weave.local.", "10.32.0.1"))
    assert forwarded(asked, query(reverse("10.32.0.1"), "PTR"))


# EDNS, sizes


def edns(size: int | None) -> dict[str, Any]:
    """Options of a query that announces this size, or none."""
    return {} if size is None else {"use_edns": 0, "payload": size}


MANY = [entry("many.weave.local.", f"10.32.5.{number}") for number in range(100)]


@pytest.mark.parametrize(
    ("size", "limit"),
    [(None, 512), (0, 512), (511, 512), (512, 512), (700, 700), (1232, 1232), (4096, 1232), (65535, 1232)],
)
def test_datagrams_hold_as_many_whole_records_as_fit(size: int | None, limit: int) -> None:
    data = query("many.weave.local.", "A", **edns(size))
    response = responder(*MANY).respond(data)
    assert isinstance(response, bytes)
    assert limit - 16 < len(response) <= limit
    message = dns.message.from_wire(response)
    assert message.flags & dns.flags.TC
    assert len(set(texts(message))) == len(texts(message)) == int.from_bytes(response[6:8])


@pytest.mark.parametrize("size", [None, 0, 512, 4096])
def test_streams_are_not_cut(size: int | None) -> None:
    data = query("many.weave.local.", "A", **edns(size))
    message = answer(responder(*MANY), data, stream=True)
    assert not message.flags & dns.flags.TC
    assert len(texts(message)) == 100


@pytest.mark.parametrize("families", ["first 4, then 6", "first 6, then 4"])
@pytest.mark.parametrize("size", [512, 1232])
def test_datagrams_with_records_of_different_sizes_fit_too(families: str, size: int) -> None:
    four = [entry("mixed.weave.local.", f"10.32.5.{number}") for number in range(40)]
    six = [entry("mixed.weave.local.", f"fd00::{number:x}") for number in range(40)]
    data = query("mixed.weave.local.", "ANY", use_edns=0, payload=size)
    for seed in range(10):
        response = responder(*(four + six if families.startswith("first 4") else six + four), seed=seed).respond(data)
        assert isinstance(response, bytes)
        assert len(response) <= size
        assert dns.message.from_wire(response).flags & dns.flags.TC


def test_streams_of_more_than_64_kib_are_cut() -> None:
    entries = [entry("huge.weave.local.", str(ip_address(0x0A000000 + number))) for number in range(5000)]
    response = responder(*entries).respond(query("huge.weave.local.", "A"), stream=True)
    assert isinstance(response, bytes)
    assert len(response) <= 65535
    assert dns.message.from_wire(response).flags & dns.flags.TC


@pytest.mark.parametrize("name", ["web.weave.local.", "no.weave.local.", reverse("10.32.0.1"), "nosuch."])
@pytest.mark.parametrize("dnssec", [False, True])
def test_edns_is_answered_with_edns(name: str, dnssec: bool) -> None:
    asked = responder(entry("web.weave.local.", "10.32.0.1"))
    cookie = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, bytes(8))
    for options in ([], [cookie]):
        message = answer(asked, query(name, "A", use_edns=0, payload=4096, want_dnssec=dnssec, options=options))
        assert (message.edns, message.payload, message.options) == (0, MAX_DATAGRAM, ())
        assert bool(message.ednsflags & dns.flags.DO) == dnssec
    assert answer(asked, query(name, "A")).edns == -1


@pytest.mark.parametrize("version", [1, 2, 255])
@pytest.mark.parametrize("name", ["web.weave.local.", "www.example.com."])
def test_edns_of_another_version_is_refused(version: int, name: str) -> None:
    data = bytearray(query(name, "A", use_edns=0))
    data[-5] = version
    message = answer(responder(entry("web.weave.local.", "10.32.0.1")), bytes(data))
    assert (message.rcode(), message.edns, message.answer) == (dns.rcode.BADVERS, 0, [])


# Odd queries


@pytest.mark.parametrize("name", ["web.weave.local.", "www.example.com.", "web.", reverse("10.32.0.1")])
@pytest.mark.parametrize("rdclass", ["CH", "HS", "NONE", "CLASS0", "CLASS65535"])
def test_other_classes_are_refused(name: str, rdclass: str) -> None:
    message = answer(responder(entry("web.weave.local.", "10.32.0.1")), query(name, "A", rdclass))
    assert (message.rcode(), message.answer, message.authority) == (dns.rcode.REFUSED, [], [])


def test_any_class_is_answered_with_records_of_the_internet() -> None:
    message = answer(responder(entry("web.weave.local.", "10.32.0.1")), query("web.weave.local.", "A", "ANY"))
    assert [(rrset.rdclass, str(rrset[0])) for rrset in message.answer] == [(dns.rdataclass.IN, "10.32.0.1")]


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    data = bytearray(query("web.weave.local.", "A"))
    data[2] |= opcode << 3
    response = responder(entry("web.weave.local.", "10.32.0.1")).respond(bytes(data))
    assert isinstance(response, bytes)
    assert len(response) == 12
    assert (response[:2], response[2] & 0x80, response[2] >> 3 & 15) == (b"\x12\x34", 0x80, opcode)
    assert (response[3] & 15, response[4:]) == (dns.rcode.NOTIMP, bytes(8))


@pytest.mark.parametrize("count", [0, 2, 3, 65535])
def test_other_than_one_question_is_a_format_error(count: int) -> None:
    for name in ("web.weave.local.", "www.example.com."):
        data = bytearray(query(name, "A"))
        data[4:6] = count.to_bytes(2)
        response = responder().respond(bytes(data) + bytes(data[12:]))
        assert isinstance(response, bytes)
        assert (len(response), response[3] & 15, response[4:]) == (12, dns.rcode.FORMERR, bytes(8))


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\3web",
        b"\3web\0",
        b"\3web\0\0\1\0",
        b"\xc0\x0c\0\1\0\1",
        b"\xc0\xff\0\1\0\1",
        b"\x40" + bytes(64) + b"\0\0\1\0\1",
        b"\x80\0\0\1\0\1",
        b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\x3f" + b"a" * 63 + b"\0\0\1\0\1",
    ],
)
def test_what_cannot_be_parsed_is_a_format_error(rest: bytes) -> None:
    response = responder().respond(b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + rest)
    assert isinstance(response, bytes)
    assert (len(response), response[:2], response[3] & 15) == (12, b"\x12\x34", dns.rcode.FORMERR)
    assert response[4:] == bytes(8)


@pytest.mark.parametrize("length", range(12))
def test_less_than_a_header_is_noise(length: int) -> None:
    assert responder().respond(query("web.weave.local.", "A")[:length]) is None


def test_responses_are_not_answered() -> None:
    data = bytearray(query("web.weave.local.", "A"))
    data[2] |= 0x80
    assert responder(entry("web.weave.local.", "10.32.0.1")).respond(bytes(data)) is None
    assert responder().respond(bytes(data[:12])) is None


@pytest.mark.parametrize("name", ["web.weave.local.", "no.weave.local.", "web.", reverse("10.32.0.1")])
@pytest.mark.parametrize("flags", range(0, 0x800, 0x10))
def test_flags_of_answers(name: str, flags: int) -> None:
    """RD and CD are copied, nothing else; RA and QR are always set."""
    data = bytearray(query(name, "A"))
    data[2:4] = flags.to_bytes(2)
    message = answer(responder(entry("web.weave.local.", "10.32.0.1")), bytes(data))
    copied = dns.flags.RD | dns.flags.CD
    assert message.flags & ~(dns.flags.AA | 15) == (flags & copied) | dns.flags.QR | dns.flags.RA


@pytest.mark.parametrize("rdtype", ["OPT", "TYPE128", "TKEY", "TSIG", "IXFR", "AXFR", "MAILB"])
@pytest.mark.parametrize("name", ["web.weave.local.", "weave.local.", "www.example.com.", "."])
def test_types_that_no_record_has_are_not_implemented(name: str, rdtype: str) -> None:
    question = query(name, "A")[12:-4] + dns.rdatatype.from_text(rdtype).to_bytes(2) + b"\0\1"
    response = responder(entry("web.weave.local.", "10.32.0.1")).respond(query(name, "A")[:12] + question)
    assert isinstance(response, bytes)
    assert (response[3] & 15, response[6:12], response[12:]) == (dns.rcode.NOTIMP, bytes(6), question)


# Answers that are kept


def test_an_answer_changes_with_the_names() -> None:
    table = Table()
    asked = Responder(Zone(table, "weave.local.", 1), table, random=random.Random(1))
    data = query("web.weave.local.", "A")
    assert answer(asked, data).rcode() == dns.rcode.NXDOMAIN
    one, two = entry("web.weave.local.", "10.32.0.1"), entry("web.weave.local.", "10.32.0.2")
    table.put(one)
    assert texts(answer(asked, data)) == ["10.32.0.1"]
    table.put(two)
    assert texts(answer(asked, data)) == ["10.32.0.1", "10.32.0.2"]
    table.put(Entry(one.container, one.origin, one.address, one.hostname, 1, 5))
    assert texts(answer(asked, data)) == ["10.32.0.2"]
    table.remove(two.identity)
    assert answer(asked, data).rcode() == dns.rcode.NXDOMAIN


def test_answers_to_the_same_question_differ_by_transport_id_and_flags() -> None:
    asked = responder(*MANY)
    data = query("many.weave.local.", "A")
    for _ in range(2):
        assert len(texts(answer(asked, data))) < len(texts(answer(asked, data, stream=True))) == 100
        other = b"\xab\xcd\x00\x10" + data[4:]
        message = answer(asked, other)
        assert (message.id, message.flags & (dns.flags.RD | dns.flags.CD)) == (0xABCD, dns.flags.CD)
