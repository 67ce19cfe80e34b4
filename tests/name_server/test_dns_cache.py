"""Answers that are kept: for how long, for whom, how many."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from name_server.stub_server import rrset
from weave_dns.cache import MOST_NEGATIVE_TTL_S, MOST_TTL_S, Cache, Question, QuestionKey, key_of, lifetime

A = "www.example.com. 300 IN A 192.0.2.1"
SOA = "example.com. {} IN SOA ns.example.com. hostmaster.example.com. 1 2 3 4 {}"
SIZE = 100


def question(name: str = "www.example.com.", rdtype: dns.rdatatype.RdataType = dns.rdatatype.A) -> Question:
    return Question(dns.name.from_text(name), rdtype)


def key(asked: Question, *, dnssec_ok: bool = False, checking_disabled: bool = False) -> QuestionKey:
    return key_of(asked, dnssec_ok=dnssec_ok, checking_disabled=checking_disabled)


def message(
    *answer: str,
    authority: tuple[str, ...] = (),
    additional: tuple[str, ...] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    flags: dns.flags.Flag = dns.flags.QR,
) -> dns.message.Message:
    made = dns.message.QueryMessage(id=7)
    made.flags = flags
    made.set_rcode(rcode)
    made.answer = [rrset(record) for record in answer]
    made.authority = [rrset(record) for record in authority]
    made.additional = [rrset(record) for record in additional]
    return made


def kept(made: dns.message.Message, asked: Question | None = None) -> int:
    return lifetime(made, asked or question())


def put(cache: Cache, name: str, *, now: float = 0, size: int = SIZE, records: int = 1) -> bool:
    asked = question(name)
    answer = [f"{name} 300 IN A 192.0.2.{number}" for number in range(records)]
    return cache.put(key(asked), message(*answer), asked, size, now)


def has(cache: Cache, name: str, *, now: float = 0) -> bool:
    return cache.get(key(question(name)), question(name), now) is not None


# For how long


def test_smallest_ttl_of_all_sections_counts() -> None:
    assert kept(message(A)) == 300
    assert kept(message(A, authority=("example.com. 200 IN NS ns.example.com.",))) == 200
    assert kept(message(A, additional=("ns.example.com. 100 IN A 192.0.2.2",))) == 100


def test_no_answer_is_kept_too_long() -> None:
    assert kept(message("www.example.com. 86400 IN A 192.0.2.1")) == MOST_TTL_S


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.NOERROR])
@pytest.mark.parametrize(("ttl", "minimum", "expected"), [(60, 120, 60), (120, 60, 60), (9999, 9999, 300), (0, 60, 0)])
def test_that_there_is_nothing_is_kept_as_its_soa_says(
    rcode: dns.rcode.Rcode, ttl: int, minimum: int, expected: int
) -> None:
    assert kept(message(authority=(SOA.format(ttl, minimum),), rcode=rcode)) == expected
    assert expected <= MOST_NEGATIVE_TTL_S


def test_chain_that_ends_in_nothing_is_negative() -> None:
    chain = "www.example.com. 300 IN CNAME web.example.com."
    assert kept(message(chain)) == 0
    assert kept(message(chain, authority=(SOA.format(300, 30),))) == 30
    assert kept(message(chain, "web.example.com. 60 IN A 192.0.2.1")) == 60
    assert kept(message(chain), question(rdtype=dns.rdatatype.CNAME)) == 300
    assert kept(message(chain), question(rdtype=dns.rdatatype.ANY)) == 300


@pytest.mark.parametrize(
    "made",
    [
        message(rcode=dns.rcode.NXDOMAIN),
        message(),
        message(rcode=dns.rcode.NXDOMAIN, authority=("example.com. 60 IN NS ns.example.com.",)),
        message(A, rcode=dns.rcode.SERVFAIL),
        message(A, rcode=dns.rcode.REFUSED),
        message(rcode=dns.rcode.SERVFAIL, authority=(SOA.format(60, 60),)),
        message(A, flags=dns.flags.QR | dns.flags.TC),
        message("www.example.com. 0 IN A 192.0.2.1"),
        message(A, additional=("ns.example.com. 0 IN A 192.0.2.2",)),
    ],
)
def test_what_is_not_kept(made: dns.message.Message) -> None:
    cache = Cache()
    assert not cache.put(key(question()), made, question(), SIZE, 0)
    assert (len(cache), cache.size, cache.records) == (0, 0, 0)


def test_ttls_go_down_with_age_until_the_answer_is_gone() -> None:
    cache = Cache()
    asked = question()
    cache.put(key(asked), message(A, additional=("ns.example.com. 500 IN A 192.0.2.2",)), asked, SIZE, 1000.5)
    for now, ttls in ((1000.5, [300, 500]), (1001.4, [300, 500]), (1001.5, [299, 499]), (1300.4, [1, 201])):
        answer = cache.get(key(asked), asked, now)
        assert answer
        assert [answer.answer[0].ttl, answer.additional[0].ttl] == ttls
    assert cache.get(key(asked), asked, 1300.5) is None
    assert (len(cache), cache.size, cache.records) == (0, 0, 0)


def test_soa_given_out_late_does_not_begin_anew() -> None:
    """Whoever keeps it takes the smaller of its TTL and its minimum."""
    cache = Cache()
    asked = question()
    cache.put(key(asked), message(rcode=dns.rcode.NXDOMAIN, authority=(SOA.format(3600, 60),)), asked, SIZE, 0)
    answer = cache.get(key(asked), asked, 50)
    assert answer
    assert (answer.rcode(), answer.authority[0].ttl) == (dns.rcode.NXDOMAIN, 10)
    assert cache.get(key(asked), asked, 60) is None


# For whom


def test_letter_case_is_that_of_whoever_asks() -> None:
    cache = Cache()
    put(cache, "www.example.com.")
    asked = question("WWW.Example.COM.")
    answer = cache.get(key(asked), asked, 0)
    assert answer
    assert answer.question[0].name.to_text() == "WWW.Example.COM."
    assert b"\x03WWW\x07Example\x03COM\x00" in answer.to_wire()


def test_other_questions_are_other_entries() -> None:
    cache = Cache()
    put(cache, "www.example.com.")
    asked = question()
    others = [
        key(question("example.com.")),
        key(question(rdtype=dns.rdatatype.AAAA)),
        key(Question(asked.name, asked.rdtype, dns.rdataclass.CH)),
        key(asked, dnssec_ok=True),
        key(asked, checking_disabled=True),
        key(Question(dns.name.Name((b"www.example", b"com", b"")), asked.rdtype)),
    ]
    assert all(cache.get(other, asked, 0) is None for other in others)


def test_each_gets_a_copy_of_its_own() -> None:
    cache = Cache()
    asked = question()
    given_in = message(A)
    cache.put(key(asked), given_in, asked, SIZE, 0)
    given_in.answer.clear()
    for _ in range(2):
        answer = cache.get(key(asked), asked, 0)
        assert answer
        assert [len(answer.answer), len(answer.answer[0]), answer.answer[0].ttl, answer.id] == [1, 1, 300, 0]
        answer.answer[0].ttl = 5
        answer.answer[0].items.clear()
        answer.answer.clear()
        answer.flags = dns.flags.TC


# How many


def test_number_is_bounded_and_the_least_recently_used_goes() -> None:
    cache = Cache(entries=3)
    for name in ("a.", "b.", "c."):
        put(cache, name)
    assert has(cache, "a.")
    put(cache, "d.")
    assert [has(cache, name) for name in ("a.", "b.", "c.", "d.")] == [True, False, True, True]


def test_bytes_are_bounded() -> None:
    cache = Cache(size=1000)
    for name in ("a.", "b.", "c."):
        put(cache, name, size=400)
    assert ([has(cache, name) for name in ("a.", "b.", "c.")], cache.size) == ([False, True, True], 800)
    assert not put(cache, "d.", size=1001)
    assert len(cache) == 2


def test_records_are_bounded() -> None:
    cache = Cache(records=10)
    for name in ("a.", "b.", "c."):
        put(cache, name, records=4)
    assert ([has(cache, name) for name in ("a.", "b.", "c.")], cache.records) == ([False, True, True], 8)
    assert not put(cache, "d.", records=11)


def test_newer_answer_takes_the_place_of_the_older() -> None:
    cache = Cache()
    put(cache, "a.", size=100)
    put(cache, "a.", size=70)
    assert (len(cache), cache.size, cache.records) == (1, 70, 1)
    assert cache.put(key(question("a.")), message(), question("a."), SIZE, 0) is False
    assert (len(cache), cache.size, cache.records) == (0, 0, 0)


def test_clearing_forgets_everything() -> None:
    cache = Cache()
    put(cache, "a.")
    cache.clear()
    assert (has(cache, "a."), len(cache), cache.size, cache.records) == (False, 0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 500), st.integers(1, 5), st.integers(0, 400))))
def test_bounds_hold_whatever_is_put_in(steps: list[tuple[int, int, int, int]]) -> None:
    cache = Cache(entries=4, size=1000, records=9)
    now = 0
    for number, size, records, wait in steps:
        now += wait
        name = f"n{number}."
        fits = put(cache, name, now=now, size=size, records=records)
        assert has(cache, name, now=now) == fits
        has(cache, f"n{(number + 1) % 9}.", now=now)
        assert len(cache) <= 4
        assert cache.size <= 1000
        assert cache.records <= 9
        assert cache.size == sum(entry.size for entry in cache._entries.values())
        assert cache.records == sum(entry.records for entry in cache._entries.values())
