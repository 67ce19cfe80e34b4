"""`Addresses`: an address belongs to whoever claimed it first, until that one takes it back."""

from __future__ import annotations

from weave_router.vxlan.addresses import Addresses
from weave_router.vxlan.messages import MOST_MACS, Macs, MacsOperation
from weave_router.wire.peer_name import PeerName

A, B, C = PeerName(1), PeerName(2), PeerName(3)
WEB, DB, MAIL = (bytes.fromhex(f"0200000000{number:02x}") for number in (1, 2, 3))


def added(*macs: bytes) -> Macs:
    return Macs(MacsOperation.ADDED, macs)


def removed(*macs: bytes) -> Macs:
    return Macs(MacsOperation.REMOVED, macs)


def all_of(*macs: bytes) -> Macs:
    return Macs(MacsOperation.ALL, macs)


def test_nobody_owns_what_nobody_claims() -> None:
    addresses = Addresses()
    assert addresses.owner(WEB) is None
    assert addresses.of(A) == []
    assert set(addresses.forget(A)) == set()


def test_a_claim_makes_an_owner_and_is_told_once() -> None:
    addresses = Addresses()
    assert set(addresses.tell(A, added(WEB, DB, WEB))) == {WEB, DB}
    assert set(addresses.tell(A, added(WEB))) == set()
    assert addresses.owner(WEB) == addresses.owner(DB) == A
    assert addresses.of(A) == [WEB, DB]


def test_the_first_claim_counts_until_it_is_taken_back() -> None:
    addresses = Addresses()
    addresses.tell(A, added(WEB))
    addresses.tell(B, added(WEB))
    addresses.tell(C, added(WEB))
    assert addresses.owner(WEB) == A
    assert addresses.of(B) == []

    assert set(addresses.tell(A, removed(WEB))) == {WEB}
    assert addresses.owner(WEB) == B
    assert addresses.of(B) == [WEB]

    addresses.tell(A, added(WEB))  # it has lost its place
    assert addresses.owner(WEB) == B
    addresses.tell(B, removed(WEB))
    assert addresses.owner(WEB) == C


def test_a_repeated_claim_does_not_give_up_its_place() -> None:
    addresses = Addresses()
    addresses.tell(A, added(WEB))
    addresses.tell(B, added(WEB))
    addresses.tell(A, all_of(WEB, DB))
    assert addresses.owner(WEB) == A


def test_only_ones_own_claims_can_be_taken_back() -> None:
    addresses = Addresses()
    addresses.tell(A, added(WEB))
    assert set(addresses.tell(B, removed(WEB, DB))) == set()
    assert set(addresses.tell(B, all_of())) == set()
    assert addresses.owner(WEB) == A


def test_all_replaces_what_was_claimed() -> None:
    addresses = Addresses()
    addresses.tell(A, added(WEB, DB))
    assert set(addresses.tell(A, all_of(DB, MAIL))) == {WEB, MAIL}
    assert addresses.of(A) == [DB, MAIL]
    assert addresses.owner(WEB) is None
    assert set(addresses.tell(A, all_of())) == {DB, MAIL}
    assert addresses.of(A) == []


def test_who_is_forgotten_leaves_its_addresses_to_the_next() -> None:
    addresses = Addresses()
    addresses.tell(A, added(WEB, DB))
    addresses.tell(B, added(WEB))
    assert set(addresses.forget(A)) == {WEB, DB}
    assert addresses.owner(WEB) == B
    assert addresses.owner(DB) is None
    assert addresses.of(A) == []
    assert set(addresses.forget(A)) == set()


def test_a_peer_has_a_limited_number_of_addresses() -> None:
    """A container can invent addresses; they cost a bounded amount of memory, and no others their place."""
    addresses = Addresses()
    invented = [b"\x06" + number.to_bytes(5) for number in range(MOST_MACS)]
    addresses.tell(A, added(*invented))
    assert set(addresses.tell(A, added(WEB, DB, invented[0]))) == set()
    assert addresses.refused == 2
    assert addresses.owner(WEB) is None

    addresses.tell(B, added(WEB))
    assert addresses.owner(WEB) == B
    addresses.tell(A, removed(invented[0]))
    assert set(addresses.tell(A, added(DB))) == {DB}


def test_all_makes_room_before_it_claims() -> None:
    addresses = Addresses()
    addresses.tell(A, added(*(b"\x06" + number.to_bytes(5) for number in range(MOST_MACS))))
    addresses.tell(A, all_of(WEB, DB))
    assert addresses.of(A) == [WEB, DB]
    assert addresses.refused == 0


def test_nothing_is_left_of_addresses_that_nobody_claims() -> None:
    """Whoever claims and takes back for years must not fill the memory."""
    addresses = Addresses()
    for number in range(1000):
        addresses.tell(A, added(b"\x06" + number.to_bytes(5)))
        addresses.tell(A, all_of())
    addresses.forget(A)
    assert not addresses._claims
    assert not addresses._claimants
