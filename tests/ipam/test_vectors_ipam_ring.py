"""The ring against what Weave Net 2.8 computed (ipam.md sections 2, 8, 9 and 10.2), and where we differ on purpose.

The deviations are those of naive_ring.py.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from typing import Any

import pytest

from ipam.naive_ring import IN_USE, LAST_ENTRY, OURS, TIE, WEAVE_NET, NaiveMerge, Outcome, addresses, content, usage
from vector_files import cases, load, peer
from weave_ipam.errors import RingRefused
from weave_ipam.ranges import AddressRange
from weave_ipam.ring import Entry, Ring
from weave_router.wire.peer_name import PeerName

DEVIATIONS = {
    "split of my last range: always refused, even without allocations": LAST_ENTRY,
    "newer own entry followed by a split of my range, with an allocation in it: accepted without a check": IN_USE,
    "newer own last entry followed by a split of it, with an allocation: accepted without a check": IN_USE,
    "my range wraps past the end; a token before my first one is not checked": IN_USE,
}
"""Of the cases made by hand those whose outcome differs from the recorded one. Ties are none of them, since in each
the lower name is on our side; `TIES` are the same seen from the other side."""

TIES = (
    "third peer's entry, same version, other owner, equal free: mine stays (no convergence)",
    "my entry, same version, other owner, no allocation, equal free: mine stays",
    "two takeovers of the same dead peer at the same version, equal free",
)


# Reading the files


def number(text: str) -> int:
    return int(IPv4Address(text))


def inclusive(text: str) -> AddressRange:
    """A range written `first-last`."""
    first, last = text.split("-")
    return AddressRange(number(first), number(last) + 1)


def read_ring(recorded: Any) -> Ring:
    entries = [
        Entry(number(entry["token"]), peer(entry["peer"]), entry["version"], entry["free"])
        for entry in recorded["entries"] or ()
    ]
    universe = AddressRange(number(recorded["start"]), number(recorded["end"]))
    return Ring(universe, peer(recorded["peer"]), entries, [peer(name) for name in recorded["seeds"] or ()])


# The merge


def naive_merge(case: Any, rules: frozenset[str]) -> Outcome:
    used = {number(address) for address in case["allocated"]}
    return NaiveMerge(read_ring(case["mine"]), read_ring(case["theirs"]), used, rules).outcome()


def recorded_outcome(case: Any, text: str) -> Outcome:
    """What the file says; `text` stands for texts, which differ for a reason (see below)."""
    if case["error"] is not None:
        return Outcome(case["error"], text)
    result = read_ring(case["result"])
    return Outcome(None, "", case["updated"], tuple(result.entries), result.seeds)


def merge(case: Any) -> tuple[Ring, bool | None, str]:
    """Our merge of a case: our ring afterwards, whether it changed (None: refused), the text of the refusal."""
    ring = read_ring(case["mine"])
    theirs = read_ring(case["theirs"])
    try:
        changed = ring.merge(theirs, usage(ring, {number(address) for address in case["allocated"]}))
    except RingRefused as refused:
        return ring, None, str(refused)
    finally:
        assert content(theirs) == content(read_ring(case["theirs"]))
    return ring, changed, ""


def is_tie_lost(case: Any) -> bool:
    """Whether Weave Net kept an entry against one of equal version and free count, but of a lower name."""
    if case["error"] is not None:
        return False
    theirs = {entry.token: entry for entry in read_ring(case["theirs"]).entries}
    return any(
        t is not None and (m.version, m.free) == (t.version, t.free) and t.peer < m.peer
        for m in read_ring(case["mine"]).entries
        for t in [theirs.get(m.token)]
    )


def is_used_address_lost(case: Any) -> bool:
    """Whether Weave Net gave away an address in use."""
    if case["error"] is not None:
        return False
    mine, result = read_ring(case["mine"]), read_ring(case["result"])
    return any(result.owner_of(number(address)) != mine.owner for address in case["allocated"])


def is_free_last_entry_defended(case: Any) -> bool:
    """Whether Weave Net refused a token above all of ours behind which nothing is in use."""
    if case["error"] != "entry_in_my_range":
        return False
    mine = read_ring(case["mine"])
    token = number(re.findall(r"range from ([\d.]+),", case["error_text"])[0])
    used = usage(mine, {number(address) for address in case["allocated"]})
    return token > mine.entries[-1].token and not used(token, mine.entries[0].token)


RULES = {TIE: is_tie_lost, IN_USE: is_used_address_lost, LAST_ENTRY: is_free_last_entry_defended}


def deviation(case: Any) -> str | None:
    return next((name for name, applies in RULES.items() if applies(case)), None)


@pytest.mark.parametrize("case", cases("ipam/ring_merge", "vectors"))
def test_rules_as_written_here_are_those_of_weave_net(case: Any) -> None:
    outcome = naive_merge(case, WEAVE_NET)

    assert outcome == recorded_outcome(case, outcome.text)


@pytest.mark.parametrize("case", cases("ipam/ring_merge", "vectors"))
def test_merge_comes_to_what_our_rules_say(case: Any) -> None:
    expected = naive_merge(case, OURS)
    ring, changed, text = merge(case)

    if expected.refusal is not None:
        assert changed is None, f"must be refused: {expected.text}"
        assert content(ring) == content(read_ring(case["mine"]))
    else:
        assert changed is not None, text
        assert (changed, tuple(ring.entries), ring.seeds) == (expected.changed, expected.entries, expected.seeds)
        assert ring.owner == peer(case["mine"]["peer"])


@pytest.mark.parametrize("case", cases("ipam/ring_merge", "vectors"))
def test_merge_comes_to_what_weave_net_did_but_for_the_deviations(case: Any) -> None:
    ring, changed, text = merge(case)
    outcome = naive_merge(case, OURS)
    same = recorded_outcome(case, outcome.text) == outcome
    assert same == (deviation(case) is None)
    match deviation(case):
        case None:
            assert (changed is None) == (case["error"] is not None)
            if changed is not None:
                assert (changed, content(ring)) == (case["updated"], content(read_ring(case["result"])))
        case "in use":
            assert text == outcome.text
            assert content(ring) == content(read_ring(case["mine"]))
        case "last entry" if outcome.refusal == "result_invalid":  # what was let through turned out to be invalid
            assert text.startswith("Merge of incoming data causes: ")
            assert content(ring) == content(read_ring(case["mine"]))
        case "last entry":
            assert changed
            token = number(re.findall(r"range from ([\d.]+),", case["error_text"])[0])
            assert ring.owner_of(token) == read_ring(case["theirs"]).owner_of(token) != ring.owner
            assert all(ring.owner_of(number(address)) == ring.owner for address in case["allocated"])
            ring.check()
        case other:
            raise AssertionError(f"no case is known to deviate by {other}")


def test_deviations_among_the_cases_made_by_hand_are_those_listed() -> None:
    found = {case["name"]: deviation(case) for case in load("ipam/ring_merge")["vectors"] if deviation(case)}

    assert {name: why for name, why in found.items() if not name.startswith("random")} == DEVIATIONS
    assert LAST_ENTRY in {why for name, why in found.items() if name.startswith("random")}


@pytest.mark.parametrize("name", TIES)
def test_ties_are_won_by_the_lower_name_on_both_sides(name: str) -> None:
    (case,) = (case for case in load("ipam/ring_merge")["vectors"] if case["name"] == name)
    mine, theirs = read_ring(case["mine"]), read_ring(case["theirs"])
    pairs = list(zip(mine.entries, theirs.entries, strict=True))
    assert all((m.token, m.version, m.free) == (t.token, t.version, t.free) for m, t in pairs)
    assert any(m.peer < t.peer for m, t in pairs)
    assert not any(m.peer > t.peer for m, t in pairs)  # so it is always our side of the case that wins

    ring, other = mine.copy(), theirs.copy()
    assert not ring.merge(theirs, usage(mine, set()))
    assert other.merge(mine, usage(theirs, set()))
    assert ring.entries == other.entries == mine.entries


# Texts of refusals


def recorded_text(case: Any) -> str:
    """The text of a refusal. The file has the inner wording where section 9 says "me" for our own name."""
    text: str = case["error_text"]
    return text.replace(f"owned by {case['mine']['peer']} but", "owned by me but")


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in cases("ipam/ring_merge", "vectors")
        if case.values[0]["error"] not in (None, "different_seeds", "different_range")  # type: ignore[index]
        and deviation(case.values[0]) is None
    ],
)
def test_refusal_says_why(case: Any) -> None:
    assert naive_merge(case, WEAVE_NET).text == recorded_text(case)
    assert merge(case)[2] == recorded_text(case)


@pytest.mark.parametrize("name", ["seeds differ in order", "seeds differ in number"])
def test_refusal_of_other_seeds_names_both_lists(name: str) -> None:
    (case,) = (case for case in load("ipam/ring_merge")["vectors"] if case["name"] == name)
    text = merge(case)[2]

    found = re.fullmatch(r"IP allocation was seeded by different peers \(received: (.*), ours: (.*)\)", text)
    assert found, text
    for list_of_names, side in zip(found.groups(), ("theirs", "mine"), strict=True):
        assert re.findall(r"[0-9a-f:]{17}", list_of_names) == case[side]["seeds"]


@pytest.mark.parametrize("name", ["range differs (end)", "range differs (start)"])
def test_refusal_of_another_range_names_both(name: str) -> None:
    (case,) = (case for case in load("ipam/ring_merge")["vectors"] if case["name"] == name)
    text = merge(case)[2]

    found = re.fullmatch(r"Incompatible IP allocation ranges \(received: (.*), ours: (.*)\)", text)
    assert found, text
    assert [inclusive(part) for part in found.groups()] == [
        read_ring(case[side]).universe for side in ("theirs", "mine")
    ]


# Changes of our own, and questions


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case['start']}-{case['end']}-{len(case['peers'])}")
        for case in load("ipam/ring_ops")["seed_division"]
    ],
)
def test_range_is_divided_among_the_seeds(case: Any) -> None:
    expected = read_ring(case["result"])
    names = [peer(name) for name in case["peers"]]
    for order in (names, names[::-1], names * 2):
        ring = Ring(expected.universe, expected.owner)
        ring.divide(order)
        assert content(ring) == content(expected)
        ring.check()


@pytest.mark.parametrize("case", cases("ipam/ring_ops", "grant"))
def test_grant(case: Any) -> None:
    ring = read_ring(case["ring"])
    ring.grant(AddressRange(number(case["from"]), number(case["to_exclusive"])), peer(case["new_owner"]))

    assert content(ring) == content(read_ring(case["result"]))
    assert content(Ring(ring.universe, ring.owner, ring.entries, ring.seeds)) == content(ring)
    for entry in ring.entries:  # the index of tokens went along
        assert ring.entries[ring.index_of(entry.token)] is entry


@pytest.mark.parametrize("case", cases("ipam/ring_ops", "transfer"))
def test_transfer(case: Any) -> None:
    ring = read_ring(case["ring"])
    moved = ring.transfer(peer(case["from_peer"]), peer(case["to_peer"]))

    assert content(ring) == content(read_ring(case["result"]))
    assert addresses(moved) == addresses(inclusive(part) for part in case["ranges"])


@pytest.mark.parametrize("case", cases("ipam/ring_ops", "report_free"))
def test_report_of_free_counts(case: Any) -> None:
    """The file counts per range; a wrapping entry has two, which the caller adds up."""
    ring = read_ring(case["ring"])
    counts = {number(start): free for start, free in case["free_by_range_start"].items()}
    changed = [
        ring.report_free(index, sum(counts.pop(part.start, 0) for part in ring.stretches(index)))
        for index, entry in enumerate(ring.entries)
        if entry.peer == ring.owner
    ]

    assert not counts
    assert any(changed) == case["changed"]
    assert content(ring) == content(read_ring(case["result"]))


DONORS = {
    "whole range": {2: 64, 3: 32, 4: 1},
    "only a range that is full": {},
    "touching two": {2: 64, 3: 32},
    "my own": {},
    "last": {4: 1},
    "the wrapped part is not looked at": {},
    "free count is of the whole entry, not of the asked part": {2: 1},
}
"""The sums of free counts by owner; the file has only the owners."""


@pytest.mark.parametrize("case", cases("ipam/ring_ops", "donor_candidates"))
def test_donors(case: Any) -> None:
    donors = read_ring(case["ring"]).donors(AddressRange(number(case["from"]), number(case["to_exclusive"])))

    assert sorted(donors) == sorted(peer(name) for name in case["candidates"])
    assert donors == DONORS[case["name"]]


def test_owner_of_addresses() -> None:
    case = load("ipam/ring_ops")["owner"]
    ring = read_ring(case["ring"])

    for lookup in case["lookups"]:
        assert ring.owner_of(number(lookup["address"])) == peer(lookup["owner"]), lookup
    for name, ranges in case["owned_ranges"].items():
        assert addresses(ring.owned(peer(name))) == addresses(inclusive(part) for part in ranges)
    assert ring.owned(PeerName(4)) == []
