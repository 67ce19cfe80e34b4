"""`Table` against a list of entries that is searched from end to end."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from weave_dns import table as table_module
from weave_dns.entries import Entry
from weave_dns.names import fold
from weave_dns.table import Table
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    import pytest

    from weave_dns.entries import Address, Identity

HOSTNAMES = ("a.", "A.", "b.a.", "B.A.", "c.b.a.", "ab.a.", "a.a.", "x", "é.a.", "\udcff.a.")
ADDRESSES: tuple[Address, ...] = (IPv4Address(1), IPv4Address(2), IPv6Address("fd00::1"), IPv6Address("fd00::2"))
ORIGINS = (PeerName(1), PeerName(2))
QUESTIONS = (*HOSTNAMES, "C.b.A.", "b.", "no.a.", ".")

ENTRIES = st.builds(
    Entry,
    st.sampled_from(("", "c1", "c2")),
    st.sampled_from(ORIGINS),
    st.sampled_from(ADDRESSES),
    st.sampled_from(HOSTNAMES),
    st.integers(0, 3),
    st.sampled_from((0, 0, 5)),
)
PUT, REMOVE = "put", "remove"
STEPS = st.lists(st.tuples(st.sampled_from((PUT, PUT, PUT, REMOVE)), ENTRIES), max_size=40)


class NaiveTable:
    """The entries as a list, in no order."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def find(self, identity: Identity) -> Entry | None:
        found = [entry for entry in self.entries if entry.identity == identity]
        assert len(found) <= 1
        return found[0] if found else None

    def put(self, entry: Entry) -> None:
        self.entries = [other for other in self.entries if other.identity != entry.identity] + [entry]

    def remove(self, identity: Identity) -> None:
        self.entries = [other for other in self.entries if other.identity != identity]

    def alive(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.tombstone]


def check(table: Table, naive: NaiveTable) -> None:
    """Whether the two say the same, whatever is asked."""
    assert len(table) == len(naive.entries)
    assert table.entries() == sorted(naive.entries, key=lambda entry: entry.wire_order)
    for entry in naive.entries:
        assert table.get(entry.identity) == entry
    for question in QUESTIONS:
        of_name = [entry for entry in naive.alive() if fold(entry.hostname) == fold(question)]
        below = any(fold(entry.hostname).endswith(f".{fold(question)}") for entry in naive.alive())
        found = list(table.of_name(question))
        assert len(found) == len(of_name)
        assert set(found) == set(of_name)
        assert table.is_parent(question) == (below and question != "."), question
    for address in ADDRESSES:
        expected = [entry for entry in naive.alive() if entry.address == address]
        assert table.of_address(address) == sorted(expected, key=lambda entry: entry.memory_order)
    for origin in (*ORIGINS, PeerName(9)):
        assert set(table.of_origin(origin)) == {entry for entry in naive.entries if entry.origin == origin}
    assert set(table.origins()) == {entry.origin for entry in naive.entries}
    assert table.count_alive() == len(naive.alive())
    for version in (4, 6):
        assert table.has_family(version) == any(entry.address.version == version for entry in naive.entries)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_table_says_what_a_list_says(steps: list[tuple[str, Entry]]) -> None:
    table, naive = Table(), NaiveTable()
    for kind, entry in steps:
        generation = table.generation
        if kind == PUT:
            assert table.put(entry)
            naive.put(entry)
        elif naive.find(entry.identity) is None:
            assert table.get(entry.identity) is None
            continue
        else:
            table.remove(entry.identity)
            naive.remove(entry.identity)
        assert table.generation > generation
    check(table, naive)
    for entry in list(naive.entries):
        table.remove(entry.identity)
    check(table, NaiveTable())


@settings(max_examples=100, deadline=None)
@given(st.lists(ENTRIES, max_size=12), st.data())
def test_order_of_arrival_does_not_matter(entries: list[Entry], data: st.DataObject) -> None:
    """Of entries with different identities."""
    entries = list({entry.identity: entry for entry in entries}.values())
    tables = []
    for arrival in (entries, data.draw(st.permutations(entries))):
        table = Table()
        for entry in arrival:
            table.put(entry)
        tables.append(table)
    assert tables[0].entries() == tables[1].entries()


def test_entries_that_differ_in_letter_case_only_take_turns() -> None:
    table = Table()
    one = Entry("c", PeerName(1), IPv4Address(1), "Web.a.")
    for spelling in ("Web.a.", "web.a.", "WEB.a."):
        table.put(replace(one, hostname=spelling))
        assert [entry.hostname for entry in table.entries()] == [spelling]
        assert [entry.hostname for entry in table.of_name("wEb.A.")] == [spelling]


def test_addresses_of_both_families_with_the_same_number_are_told_apart() -> None:
    """`::a20:1` is the number that 10.32.0.1 is, and may come from anybody."""
    four = Entry("c", PeerName(1), IPv4Address("10.32.0.1"), "web.a.")
    six = replace(four, address=IPv6Address("::a20:1"))
    for first, second in ((four, six), (six, four)):
        for gone in (four, six):
            table, naive = Table(), NaiveTable()
            for entry in (first, second):
                table.put(entry)
                naive.put(entry)
            table.remove(gone.identity)
            naive.remove(gone.identity)
            assert table.entries() == naive.entries


def test_what_goes_beyond_the_bound_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_ENTRIES", 3)
    table, naive = Table(), NaiveTable()
    entries = [Entry("c", PeerName(1), IPv4Address(1), f"h{number}.a.") for number in range(5)]
    for entry in entries:
        assert table.put(entry) == (len(naive.entries) < 3)
        if len(naive.entries) < 3:
            naive.put(entry)
    check(table, naive)
    changed = replace(entries[0], version=1, tombstone=7)
    assert table.put(changed), "what is there can change"
    table.remove(entries[1].identity)
    assert table.put(entries[4])
    assert set(table.entries()) == {changed, entries[2], entries[4]}
