"""What a peer knows of names: own changes, what it hears, when entries go (dns.md sections 2, 4, 5, 14 and 15).

Deliberately not as Weave Net 2.8: identities fold letter case; entries of unknown peers wait 60 s; absent peers keep
their names for 30 s; a tombstone's age is counted from when it came here, by our own clock; what it buried is
remembered for an hour more; invalid names and names outside the domain are refused.
"""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest

from weave_dns import registry as registry_module
from weave_dns import table as table_module
from weave_dns.entries import Bond, Entry
from weave_dns.errors import InvalidName, OutsideDomain, TooMany
from weave_dns.messages import IPV4, decode_message, encode_message
from weave_dns.registry import ABSENCE_S, BURIED_S, MAX_PARKED, PARKING_S, TOMBSTONE_S, Registry
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import Iterable

OURSELVES, PEER, OTHER, STRANGER = PeerName(1), PeerName(2), PeerName(3), PeerName(99)
UNIX = 1_700_000_000
ONE = IPv4Address("10.32.0.1")
TWO = IPv4Address("10.32.0.2")


class World:
    """A registry, and which peers are known."""

    def __init__(self, *peers: PeerName, domain: str = "weave.local.") -> None:
        self.peers = set(peers or (OURSELVES, PEER, OTHER))
        self.registry = Registry(OURSELVES, domain, known=lambda name: name in self.peers)
        self.table = self.registry.table

    def hear(self, *entries: Entry, now: float = 0.0) -> tuple[list[Entry], list[Entry]]:
        """What was news, and what may be passed on."""
        news, valid = self.registry.receive(entries, now, UNIX + int(now))
        return self.states(news), self.states(valid)

    def states(self, identities: Iterable[object]) -> list[Entry]:
        return [entry for entry in map(self.table.get, identities) if entry is not None]  # type: ignore[arg-type]

    def told(self) -> list[Entry]:
        """What is to be broadcast, each state once."""
        identities = self.registry.take_untold()
        assert len(set(identities)) == len(identities)
        return self.states(identities)

    def saved(self) -> list[Entry]:
        return self.states(self.registry.take_unsaved())

    def addresses(self, name: str) -> list[str]:
        return sorted(str(entry.address) for entry in self.table.of_name(name))

    def changed(self, now: float, *peers: PeerName) -> list[Entry]:
        """The topology has these peers now."""
        self.peers = {OURSELVES, *peers}
        return self.states(self.registry.peers_changed(now))


def theirs(name: str = "a.weave.local.", origin: PeerName = PEER, *, version: int = 0, tombstone: int = 0) -> Entry:
    return Entry("c", origin, ONE, name, version, tombstone)


def dead(entry: Entry, version: int = 1) -> Entry:
    return replace(entry, version=version, tombstone=UNIX)


# Adding


def test_new_name_begins_alive_with_version_0_and_is_told_and_stored() -> None:
    world = World()
    entry = world.registry.add("c", ONE, "Web.weave.local", now=0.0)
    assert entry == Entry("c", OURSELVES, ONE, "Web.weave.local.", 0, 0)
    assert world.told() == world.saved() == [entry]
    assert (world.told(), world.saved()) == ([], []), "once"
    assert world.addresses("WEB.weave.local.") == ["10.32.0.1"]


def test_name_that_is_there_is_only_told_again() -> None:
    world = World()
    entry = world.registry.add("c", ONE, "web.weave.local", now=0.0)
    world.told(), world.saved()
    assert world.registry.add("c", ONE, "web.weave.local.", now=1.0) == entry
    assert (world.told(), world.saved()) == ([entry], [])


@pytest.mark.parametrize("again", ["web.weave.local", "WEB.Weave.Local."])
def test_dead_name_comes_back_with_the_next_version_in_its_first_spelling(again: str) -> None:
    world = World()
    world.registry.add("c", ONE, "Web.weave.local", now=0.0)
    [gone] = world.registry.delete("c", now=1.0, unix=UNIX)
    assert (gone.version, gone.tombstone) == (0, 0)
    assert world.told() == [Entry("c", OURSELVES, ONE, "Web.weave.local.", 1, UNIX)]
    world.saved()
    back = world.registry.add("c", ONE, again, now=2.0)
    assert back == Entry("c", OURSELVES, ONE, "Web.weave.local.", 2, 0)
    assert world.told() == world.saved() == [back]


def test_another_spelling_of_a_living_name_changes_nothing() -> None:
    world = World()
    first = world.registry.add("c", ONE, "Web.weave.local", now=0.0)
    assert world.registry.add("c", ONE, "wEB.weave.local", now=0.0) == first
    assert world.told() == [first]


def test_each_container_and_each_address_of_a_name_is_an_entry() -> None:
    world = World()
    for container, address in (("c", ONE), ("c", TWO), ("d", ONE), ("c", IPv6Address("fd00::1"))):
        world.registry.add(container, address, "web.weave.local", now=0.0)
    assert len(world.table) == len(world.told()) == 4
    assert world.addresses("web.weave.local.") == ["10.32.0.1", "10.32.0.1", "10.32.0.2", "fd00::1"]


@pytest.mark.parametrize(
    "name", ["weave.local", "Weave.Local.", "a.weave.local", "a.b.c.weave.local", "_x-1.weave.local"]
)
def test_names_in_the_domain_and_the_domain_itself_are_taken(name: str) -> None:
    world = World()
    assert world.registry.add("c", ONE, name, now=0.0).hostname == name.rstrip(".") + "."


@pytest.mark.parametrize("name", ["notweave.local", "a.example.com", "local", "web", "weave.local.example.com"])
def test_names_outside_of_the_domain_are_refused(name: str) -> None:
    world = World()
    with pytest.raises(OutsideDomain, match=r"weave\.local"):
        world.registry.add("c", ONE, name, now=0.0)
    assert (len(world.table), world.told(), world.saved()) == (0, [], [])


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..weave.local",
        "a..weave.local",
        "*.weave.local",
        "a b.weave.local",
        "a/b.weave.local",
        "ä.weave.local",
        "\udcff.weave.local",
        "a\0.weave.local",
        "a" * 64 + ".weave.local",
        "a." * 125 + "weave.local",
        "a.weave.local\n",
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    world = World()
    with pytest.raises(InvalidName):
        world.registry.add("c", ONE, name, now=0.0)
    assert (len(world.table), world.told(), world.saved()) == (0, [], [])


def test_longest_names_are_taken() -> None:
    world = World()
    label = "a" * 63
    name = f"{label}.{label}.{label}.{'b' * 49}.weave.local"
    assert len(name) == 253
    world.registry.add("c", ONE, name, now=0.0)
    with pytest.raises(InvalidName):
        world.registry.add("c", ONE, f"b{name}", now=0.0)


@pytest.mark.parametrize("container", ["c" * 1025, "é" * 600, "\ud800"])
def test_what_is_added_here_is_taken_by_others(container: str) -> None:
    """A name whose container no other peer accepts would be known nowhere else."""
    world = World()
    try:
        entry = world.registry.add(container, ONE, "web.weave.local", now=0.0)
    except InvalidName:
        return
    assert read_by_others(entry) == [entry]


def read_by_others(*entries: Entry) -> list[Entry]:
    message = encode_message(IPV4, entries, UNIX)
    return [entry for part in decode_message(IPV4, message) if isinstance(part, list) for entry in part]


def test_no_more_names_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(table_module, "MAX_ENTRIES", 2)
    for number in (1, 2):
        world.registry.add("c", ONE, f"h{number}.weave.local", now=0.0)
    world.told(), world.saved()
    with pytest.raises(TooMany):
        world.registry.add("c", ONE, "h3.weave.local", now=0.0)
    assert (world.told(), world.saved()) == ([], [])
    assert world.hear(theirs()) == ([], [])
    assert world.registry.refused == 2
    world.registry.add("c", ONE, "h1.weave.local", now=0.0)


# Deleting


def three(world: World) -> dict[str, Entry]:
    add = world.registry.add
    entries = {
        "one": add("c", ONE, "one.weave.local", now=0.0),
        "two": add("c", TWO, "Two.weave.local", now=0.0),
        "other": add("d", ONE, "one.weave.local", now=0.0),
    }
    world.told(), world.saved()
    return entries


@pytest.mark.parametrize(
    ("container", "address", "hostname", "gone"),
    [
        (None, None, None, {"one", "two", "other"}),
        ("c", None, None, {"one", "two"}),
        (None, ONE, None, {"one", "other"}),
        (None, None, "one.weave.local.", {"one", "other"}),
        (None, None, "two.WEAVE.local", {"two"}),
        ("c", ONE, "one.weave.local", {"one"}),
        ("c", ONE, "two.weave.local", set()),
        ("x", None, None, set()),
        ("", None, None, set()),
        (None, None, "weave.local", set()),
        (None, None, "", set()),
        (None, IPv6Address("::a20:1"), None, set()),
    ],
)
def test_deletion_by_any_combination(
    container: str | None, address: IPv4Address | IPv6Address | None, hostname: str | None, gone: set[str]
) -> None:
    world = World()
    entries = three(world)
    deleted = world.registry.delete(container, address, hostname, now=5.0, unix=UNIX + 5)
    assert set(deleted) == {entries[key] for key in gone}
    expected = {replace(entries[key], version=1, tombstone=UNIX + 5) for key in gone}
    assert set(world.told()) == set(world.saved()) == expected
    assert {entry for entry in world.table.entries() if entry.tombstone} == expected
    assert world.registry.delete(container, address, hostname, now=6.0, unix=UNIX + 6) == []
    assert (world.told(), world.saved()) == ([], [])


def test_names_of_other_peers_cannot_be_deleted() -> None:
    world = World()
    world.hear(theirs())
    assert world.registry.delete(now=0.0, unix=UNIX) == []
    assert world.registry.delete("c", ONE, "a.weave.local", now=0.0, unix=UNIX) == []
    assert world.table.entries() == [theirs()]


def test_clock_at_zero_still_makes_a_tombstone() -> None:
    world = World()
    three(world)
    world.registry.delete(now=0.0, unix=0)
    assert all(entry.tombstone > 0 for entry in world.table.entries())


# Names that go with attachments


def test_attached_names() -> None:
    world = World()
    entry = world.registry.add("c", ONE, "web.weave.local", bond=Bond.ADDRESS, now=0.0)
    plain = world.registry.add("d", ONE, "web.weave.local", now=0.0)
    assert world.registry.bound() == [entry]
    assert [world.registry.bond(e.identity) for e in (entry, plain)] == [Bond.ADDRESS, Bond.NOTHING]
    world.told(), world.saved()
    world.registry.add("d", ONE, "web.weave.local", bond=Bond.ADDRESS, now=0.0)
    assert world.saved() == [plain], "that it is attached is stored"
    world.registry.delete("c", now=0.0, unix=UNIX)
    assert [e.container for e in world.registry.bound()] == ["d"]
    world.registry.add("c", ONE, "web.weave.local", now=0.0)
    assert [e.container for e in world.registry.bound()] == ["d"], "it has come back as a plain one"


def test_correction_of_an_attached_name_leaves_it_attached() -> None:
    world = World()
    entry = world.registry.add("c", ONE, "web.weave.local", bond=Bond.ADDRESS, now=0.0)
    world.hear(replace(entry, version=4, tombstone=UNIX))
    assert [e.version for e in world.registry.bound()] == [5]


# Hearing of others' entries


OVERRULED_BY = [(0, UNIX), (0, UNIX + 9), (1, 0), (1, UNIX), (7, 0)]


@pytest.mark.parametrize(("version", "tombstone"), OVERRULED_BY)
def test_newer_state_is_taken_and_is_news(version: int, tombstone: int) -> None:
    world = World()
    world.hear(theirs())
    newer = theirs(version=version, tombstone=tombstone)
    assert world.hear(newer) == ([newer], [newer])
    assert world.table.entries() == [newer]
    assert (world.told(), world.saved()) == ([], []), "others' entries are neither corrected nor stored"


@pytest.mark.parametrize(
    ("version", "tombstone"), [(3, 0), (3, UNIX), (3, UNIX - 1), (2, 0), (2, UNIX + 100), (0, UNIX + 100)]
)
def test_older_or_equal_state_changes_nothing_and_is_no_news(version: int, tombstone: int) -> None:
    world = World()
    present = theirs(version=3, tombstone=UNIX)
    world.hear(present)
    assert world.hear(theirs(version=version, tombstone=tombstone)) == ([], [present])
    assert world.table.entries() == [present]


def test_same_identity_twice_in_a_message_counts_once() -> None:
    world = World()
    old, new = theirs(), theirs("A.weave.local.", version=2)
    for message in ((old, new), (new, old), (new, new)):
        world = World()
        world.hear(*message)
        assert world.table.entries() == [replace(new, hostname=message[0].hostname)], "in the spelling heard first"


def test_spellings_never_make_two_of_one() -> None:
    """Section 14: what crashes the reference."""
    world = World()
    for spelling in ("a", "A", "a", "A"):
        world.hear(theirs(f"{spelling}.weave.local."))
        world.registry.add("c", ONE, f"{spelling}b.weave.local", now=0.0)
    assert [entry.hostname for entry in world.table.entries()] == ["a.weave.local.", "ab.weave.local."]


@pytest.mark.parametrize("name", ["a.example.com.", "nodot", "a..b.", "*.weave.local.", "\udcff.weave.local.", "."])
def test_neither_domain_nor_form_of_others_names_matters(name: str) -> None:
    world = World()
    entry = theirs(name)
    assert world.hear(entry) == ([entry], [entry])


def test_age_of_a_tombstone_does_not_matter() -> None:
    world = World()
    entry = theirs(version=1, tombstone=1)
    assert world.hear(entry) == ([entry], [entry])
    world.registry.tick(TOMBSTONE_S - 1)
    assert world.table.entries() == [entry]


# Hearing of own entries


OWN = theirs("m.weave.local.", OURSELVES, version=2)


def with_own(*, alive: bool = True) -> World:
    world = World()
    world.registry.restore(OWN if alive else replace(OWN, tombstone=UNIX - 50), Bond.NOTHING, now=0.0)
    return world


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize(("version", "tombstone"), [(2, UNIX - 99), (3, 0), (3, UNIX), (9, 0), (9, 7)])
def test_our_state_wins_with_the_next_version(alive: bool, version: int, tombstone: int) -> None:
    world = with_own(alive=alive)
    world.hear(replace(OWN, version=version, tombstone=tombstone))
    expected = replace(OWN, version=version + 1, tombstone=0 if alive else UNIX - 50)
    assert world.table.entries() == world.told() == world.saved() == [expected]


@pytest.mark.parametrize(("version", "tombstone"), [(2, 0), (1, 0), (1, UNIX), (0, UNIX + 900)])
def test_what_is_older_than_our_state_changes_nothing(version: int, tombstone: int) -> None:
    world = with_own()
    news, _ = world.hear(replace(OWN, version=version, tombstone=tombstone))
    assert (news, world.told(), world.saved()) == ([], [], [])
    assert world.table.entries() == [OWN]


def test_correction_takes_the_spelling_that_others_have() -> None:
    world = with_own()
    world.hear(replace(OWN, hostname="M.Weave.local.", version=5, tombstone=UNIX))
    assert world.told() == [replace(OWN, hostname="M.Weave.local.", version=6)]
    world.hear(replace(OWN, hostname="m.weave.LOCAL.", version=3))
    assert world.told() == []


def test_living_name_of_an_earlier_life_becomes_dead() -> None:
    world = World()
    world.hear(OWN, now=7.0)
    expected = replace(OWN, version=3, tombstone=UNIX + 7)
    assert world.table.entries() == world.told() == world.saved() == [expected]


def test_dead_name_of_an_earlier_life_is_kept_and_stored() -> None:
    world = World()
    entry = replace(OWN, tombstone=UNIX - 500)
    world.hear(entry)
    assert world.table.entries() == world.saved() == [entry]
    assert world.told() == []
    back = world.registry.add(OWN.container, ONE, OWN.hostname, now=1.0)
    assert back.version == 3, "the next life goes on counting"


def test_correction_of_the_highest_version_is_taken_by_others() -> None:
    highest = replace(OWN, version=(1 << 62) - 1)
    assert read_by_others(highest) == [highest]
    world = World()
    world.hear(highest)
    assert read_by_others(*world.table.entries()) == world.table.entries()


# Unknown origins


def test_entries_of_an_unknown_origin_wait_for_it() -> None:
    world = World(OURSELVES, PEER)
    entry = theirs(origin=STRANGER)
    assert world.hear(entry) == ([], [])
    assert world.table.entries() == []
    assert world.changed(10.0, PEER, STRANGER) == [entry]
    assert world.table.entries() == [entry]
    assert world.changed(11.0, PEER, STRANGER) == []


def test_of_waiting_states_the_newest_counts() -> None:
    world = World(OURSELVES, PEER)
    old, new, older = (theirs(origin=STRANGER, version=version) for version in (1, 2, 0))
    world.hear(old)
    world.hear(new, older)
    assert world.changed(10.0, PEER, STRANGER) == [new]


def test_what_waited_is_merged_and_only_news_is_news() -> None:
    world = World(OURSELVES, PEER)
    old, new = theirs(origin=STRANGER, version=1), theirs(origin=STRANGER, version=2)
    world.hear(old)
    world.peers.add(STRANGER)
    world.hear(new)
    assert world.changed(10.0, PEER, STRANGER) == []
    assert world.table.entries() == [new]


def test_nobody_waits_for_longer_than_a_minute() -> None:
    world = World(OURSELVES, PEER)
    world.hear(theirs(origin=STRANGER))
    world.registry.tick(PARKING_S)
    assert world.changed(PARKING_S, PEER, STRANGER) == []
    assert PARKING_S == 60


def test_each_entry_waits_for_a_minute_whatever_came_before_it() -> None:
    world = World(OURSELVES, PEER)
    first, second = theirs(origin=STRANGER), theirs("b.weave.local.", origin=STRANGER)
    world.hear(first, now=0.0)
    world.hear(second, now=PARKING_S - 5)
    world.registry.tick(PARKING_S + 5)
    assert second in world.changed(PARKING_S + 5, PEER, STRANGER)


def test_waiting_is_bounded() -> None:
    world = World(OURSELVES, PEER)
    entries = [replace(theirs(origin=STRANGER), container=str(number)) for number in range(MAX_PARKED + 10)]
    world.hear(*entries)
    assert world.registry.refused == 10
    assert len(world.changed(1.0, PEER, STRANGER)) == MAX_PARKED
    world.hear(*(replace(entry, origin=PeerName(100)) for entry in entries[:5]))
    assert len(world.changed(2.0, PEER, STRANGER, PeerName(100))) == 5, "there is room again"


def test_entries_of_very_many_unknown_origins_cost_no_more_than_those_of_one() -> None:
    """A message can hold a hundred thousand of them, and each is looked at between two steps of the event loop."""

    def seconds(origins: int) -> float:
        world = World(OURSELVES, PEER)
        entries = [
            replace(theirs(origin=PeerName(100 + number % origins)), container=str(number)) for number in range(4000)
        ]
        began = time.process_time()
        world.hear(*entries)
        return time.process_time() - began

    assert min(seconds(4000) for _ in range(2)) < 8 * min(seconds(1) for _ in range(2)) + 0.02


# Peers that come and go


def test_absent_peer_keeps_its_names_for_half_a_minute() -> None:
    world = World()
    alive, gone = theirs(), dead(theirs("d.weave.local."))
    world.hear(alive, gone, theirs("o.weave.local.", OTHER))
    world.changed(100.0, OTHER)
    world.registry.tick(100.0 + ABSENCE_S - 0.1)
    assert {alive, gone} <= set(world.table.entries())
    world.registry.tick(100.0 + ABSENCE_S)
    assert [entry.origin for entry in world.table.entries()] == [OTHER]
    assert ABSENCE_S == 30
    assert (world.told(), world.saved()) == ([], [])


def test_peer_that_is_back_in_time_keeps_its_names() -> None:
    world = World()
    world.hear(theirs())
    world.changed(100.0, OTHER)
    world.changed(120.0, PEER, OTHER)
    world.registry.tick(200.0)
    assert world.table.entries() == [theirs()]
    world.changed(300.0, OTHER)
    world.registry.tick(300.0 + ABSENCE_S - 1)
    assert world.table.entries() == [theirs()], "each absence is counted by itself"


def test_further_changes_of_the_topology_do_not_prolong_an_absence() -> None:
    world = World()
    world.hear(theirs())
    world.changed(100.0, OTHER)
    world.changed(120.0)
    world.registry.tick(100.0 + ABSENCE_S)
    assert world.table.entries() == []


def test_names_of_a_peer_that_returns_later_are_news_again() -> None:
    world = World()
    world.hear(theirs(version=3))
    world.changed(100.0, OTHER)
    world.registry.tick(200.0)
    world.changed(300.0, PEER, OTHER)
    assert world.hear(theirs(version=3), now=300.0) == ([theirs(version=3)], [theirs(version=3)])


def test_what_is_heard_of_an_absent_peer_counts() -> None:
    world = World()
    world.hear(theirs())
    world.changed(100.0, OTHER)
    newer = theirs(version=1)
    assert world.hear(newer, now=110.0) == ([newer], [newer])


def test_peer_that_is_back_is_absent_no_more_even_if_it_had_nothing_left() -> None:
    """Its last entry, a tombstone, has run out while it was away."""
    world = World()
    world.hear(dead(theirs()), now=0.0)
    world.changed(TOMBSTONE_S - 5, OTHER)
    world.registry.tick(TOMBSTONE_S)
    assert world.table.entries() == []
    world.changed(TOMBSTONE_S + 5, PEER, OTHER)
    new = theirs("new.weave.local.")
    assert world.hear(new, now=TOMBSTONE_S + 6)[0] == [new]
    world.registry.tick(TOMBSTONE_S + ABSENCE_S)
    assert world.table.entries() == [new]


def test_own_names_stay_whatever_the_topology_says() -> None:
    world = World()
    entry = world.registry.add("c", ONE, "web.weave.local", now=0.0)
    world.peers.clear()
    world.registry.peers_changed(1.0)
    world.registry.tick(1000.0)
    assert world.table.entries() == [entry]


# Tombstones


def test_tombstone_is_told_for_half_an_hour_since_it_came_here() -> None:
    assert (TOMBSTONE_S, BURIED_S) == (1800, 3600)
    world = World()
    world.hear(theirs(), now=0.0)
    world.hear(dead(theirs()), now=5000.0)
    world.hear(dead(theirs()), now=6000.0)  # hearing it again does not renew it
    world.registry.tick(5000.0 + TOMBSTONE_S - 0.1)
    assert world.table.entries() == [dead(theirs())]
    world.registry.tick(5000.0 + TOMBSTONE_S)
    assert world.table.entries() == []


def test_later_death_begins_anew() -> None:
    world = World()
    world.hear(dead(theirs()), now=0.0)
    world.hear(theirs(version=2), now=100.0)
    world.registry.tick(TOMBSTONE_S + 50)
    assert world.table.entries() == [theirs(version=2)]
    world.hear(dead(theirs(), 3), now=2000.0)
    world.registry.tick(2000.0 + TOMBSTONE_S - 1)
    assert world.table.entries() == [dead(theirs(), 3)]


def test_old_copies_of_a_buried_tombstone_are_not_stored_again() -> None:
    world = World()
    world.hear(dead(theirs(), 3), now=0.0)
    world.registry.tick(TOMBSTONE_S)
    for version in (3, 1):
        assert world.hear(dead(theirs(), version), now=TOMBSTONE_S + 1) == ([], [])
    assert world.table.entries() == []


def test_living_entry_older_than_what_is_buried_is_answered_with_the_tombstone() -> None:
    world = World()
    world.hear(dead(theirs(), 3), now=0.0)
    world.registry.tick(TOMBSTONE_S)
    assert world.hear(theirs(version=2), now=TOMBSTONE_S + 1) == ([dead(theirs(), 3)], [dead(theirs(), 3)])
    world.registry.tick(2 * TOMBSTONE_S)
    assert world.table.entries() == [dead(theirs(), 3)]
    world.registry.tick(2 * TOMBSTONE_S + 1)
    assert world.table.entries() == []


@pytest.mark.parametrize("newer", [theirs(version=4), dead(theirs(), 4), theirs(version=3, tombstone=UNIX + 1)])
def test_newer_state_than_what_is_buried_counts(newer: Entry) -> None:
    world = World()
    world.hear(dead(theirs(), 3), now=0.0)
    world.registry.tick(TOMBSTONE_S)
    assert world.hear(newer, now=TOMBSTONE_S + 1) == ([newer], [newer])


def test_buried_tombstone_is_forgotten_an_hour_after_its_last_mention() -> None:
    world = World()
    world.hear(dead(theirs(), 3), now=0.0)
    world.registry.tick(TOMBSTONE_S)
    world.hear(dead(theirs(), 3), now=TOMBSTONE_S + 3000)
    world.registry.tick(TOMBSTONE_S + 3000 + BURIED_S - 1)
    assert world.hear(dead(theirs(), 1), now=9000.0) == ([], [])
    world.registry.tick(9000.0 + BURIED_S)
    assert world.hear(theirs(version=2), now=20000.0)[0] == [theirs(version=2)]


def test_own_name_that_was_buried_goes_on_counting() -> None:
    world = World()
    for now in (0.0, 1.0, 2.0):
        world.registry.add("c", ONE, "web.weave.local", now=now)
        world.registry.delete("c", now=now, unix=UNIX)
    world.registry.tick(TOMBSTONE_S + 2)
    assert len(world.table) == 0
    world.told(), world.saved()
    assert world.registry.add("c", ONE, "web.weave.local", now=2000.0).version == 6


def test_old_living_copy_of_an_own_buried_name_is_answered_with_the_tombstone() -> None:
    """The versions of an own entry never go back: peers that remember a higher one would not believe it."""
    world = World()
    for now in (0.0, 1.0, 2.0):
        first = world.registry.add("c", ONE, "web.weave.local", now=now)
        world.registry.delete("c", now=now, unix=UNIX)
    world.registry.tick(TOMBSTONE_S + 2)
    world.told(), world.saved()
    world.hear(replace(first, version=0), now=2000.0)
    [told] = world.told()
    assert told.tombstone
    assert told.version >= 5


def test_own_dead_name_that_runs_out_leaves_the_store() -> None:
    world = World()
    entry = world.registry.add("c", ONE, "web.weave.local", now=0.0)
    world.registry.delete("c", now=0.0, unix=UNIX)
    world.registry.take_unsaved()
    world.registry.tick(TOMBSTONE_S)
    assert world.registry.take_unsaved() == [entry.identity]
    assert world.table.get(entry.identity) is None


def test_clocks_of_hosts_do_not_matter_to_age() -> None:
    world = World()
    for tombstone, name in ((1, "a"), (UNIX, "b"), (1 << 62, "c")):
        world.hear(theirs(f"{name}.weave.local.", version=1, tombstone=tombstone), now=0.0)
    world.registry.tick(TOMBSTONE_S - 1)
    assert len(world.table) == 3
    world.registry.tick(TOMBSTONE_S)
    assert len(world.table) == 0


def test_what_is_buried_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "MAX_ENTRIES", 10)
    world = World()
    for number in range(30):
        world.hear(dead(theirs(f"h{number}.weave.local.")), now=float(number))
    world.registry.tick(10_000.0)
    assert len(world.table) == 0
    assert len(world.registry._buried) == 10
    assert world.hear(dead(theirs("h29.weave.local.")), now=10_001.0) == ([], [])


# After a restart


@pytest.mark.parametrize("bond", list(Bond))
def test_restored_names_keep_version_and_bond_and_are_not_stored_again(bond: Bond) -> None:
    world = World()
    world.registry.restore(OWN, bond, now=0.0)
    assert world.table.entries() == [OWN]
    assert (world.told(), world.saved()) == ([], [])
    assert world.registry.bond(OWN.identity) == bond
    assert world.registry.add(OWN.container, ONE, OWN.hostname, now=1.0) == OWN


def test_restored_tombstone_runs_out() -> None:
    world = World()
    world.registry.restore(dead(OWN, 3), Bond.NOTHING, now=500.0)
    world.registry.tick(500.0 + TOMBSTONE_S)
    assert world.table.entries() == []
