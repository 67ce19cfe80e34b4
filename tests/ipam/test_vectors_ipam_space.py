"""Which block a peer gives away, as Weave Net 2.8 chose it (ipam.md section 8)."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from vector_files import cases, load
from weave_ipam.leases import Lease, Leases, block_to_give
from weave_ipam.ranges import AddressRange, largest_block

if TYPE_CHECKING:
    from collections.abc import Iterable


def inclusive(first: str, last: str) -> AddressRange:
    return AddressRange(int(IPv4Address(first)), int(IPv4Address(last)) + 1)


def joined(ranges: Iterable[AddressRange]) -> list[AddressRange]:
    """Ascending, without seams."""
    found: list[AddressRange] = []
    for part in sorted(ranges):
        if found and found[-1].end == part.start:
            found[-1] = AddressRange(found[-1].start, part.end)
        else:
            found.append(part)
    return found


@pytest.mark.parametrize("case", cases("ipam/space_donate", "donate"))
def test_block_that_is_given_away(case: Any) -> None:
    free = [inclusive(*part) for part in case["free"]]
    used = [inclusive(*part) for part in case["used"]]
    own = joined([*free, *used])
    leases = Leases(AddressRange(own[0].start, own[-1].end))
    for part in used:
        for address in range(part.start, part.end):
            leases.add(str(address), Lease(address, 24))
    assert list(leases.free_stretches(own, 0.0)) == joined(free)

    asked = inclusive(*case["asked"].split("-"))
    parts = [cut for stretch in own if (cut := stretch.cut_to(asked)) is not None]
    block = block_to_give(leases.free_stretches(parts, 0.0))
    if case["given"] is None:
        assert block is None
        assert case["free_after"] == case["free"]
        return
    assert block == inclusive(*case["given"].split("-"))
    kept = [
        rest
        for stretch in own
        for rest in (
            AddressRange(stretch.start, min(stretch.end, block.start)),
            AddressRange(max(stretch.start, block.end), stretch.end),
        )
        if rest.size > 0
    ]
    assert joined(leases.free_stretches(kept, 0.0)) == joined(inclusive(*part) for part in case["free_after"])


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["range"]) for case in load("ipam/space_donate")["biggest_aligned_block"]]
)
def test_largest_aligned_block(case: Any) -> None:
    stretch = inclusive(*case["range"].split("-"))

    assert stretch.size == case["size"]
    assert largest_block(stretch) == inclusive(*case["biggest"].split("-"))
