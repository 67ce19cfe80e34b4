"""`Addresses` against a naive model: a list of all claims in the order in which they were made."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from weave_router.vxlan import addresses as module
from weave_router.vxlan.addresses import Addresses
from weave_router.vxlan.messages import Macs, MacsOperation
from weave_router.wire.peer_name import PeerName

PEERS = [PeerName(number) for number in (1, 2, 3)]
MACS = [b"\x02" + number.to_bytes(5) for number in range(6)]
LIMIT = 4
STEPS = st.lists(
    st.tuples(
        st.sampled_from(PEERS),
        st.sampled_from([*MacsOperation, None]),  # None: the peer is forgotten
        st.lists(st.sampled_from(MACS), max_size=6),
    ),
    max_size=30,
)


class Claims:
    """(peer, address) in order; the first claim of an address counts."""

    def __init__(self) -> None:
        self.made: list[tuple[PeerName, bytes]] = []
        self.refused = 0

    def of(self, peer: PeerName) -> list[bytes]:
        return [mac for claimant, mac in self.made if claimant == peer]

    def owner(self, mac: bytes) -> PeerName | None:
        return next((claimant for claimant, claimed in self.made if claimed == mac), None)

    def owners(self) -> dict[bytes, PeerName | None]:
        return {mac: self.owner(mac) for mac in MACS}

    def apply(self, peer: PeerName, operation: MacsOperation | None, macs: list[bytes]) -> None:
        if operation in (None, MacsOperation.ALL):
            gone = [mac for mac in self.of(peer) if operation is None or mac not in macs]
        else:
            gone = macs if operation is MacsOperation.REMOVED else []
        self.made = [claim for claim in self.made if claim[0] != peer or claim[1] not in gone]
        if operation in (MacsOperation.ADDED, MacsOperation.ALL):
            for mac in macs:
                if mac in self.of(peer):
                    continue
                if len(self.of(peer)) >= LIMIT:
                    self.refused += 1
                else:
                    self.made.append((peer, mac))


@given(STEPS)
def test_addresses_are_owned_as_the_list_of_claims_says(
    steps: list[tuple[PeerName, MacsOperation | None, list[bytes]]],
) -> None:
    addresses, claims = Addresses(), Claims()
    with patch.object(module, "MOST_MACS", LIMIT):
        for peer, operation, macs in steps:
            before = claims.owners()
            claims.apply(peer, operation, macs)
            if operation is None:
                changed = set(addresses.forget(peer))
            else:
                changed = set(addresses.tell(peer, Macs(operation, tuple(macs))))

            owners = claims.owners()
            assert {mac: addresses.owner(mac) for mac in MACS} == owners
            for each in PEERS:
                assert sorted(addresses.of(each)) == sorted(mac for mac in MACS if owners[mac] == each)
            assert changed >= {mac for mac in MACS if before[mac] != owners[mac]}
            assert addresses.refused == claims.refused
