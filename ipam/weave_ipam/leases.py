"""Who holds which address here: the records of this host, and what of its own space is free (ipam.md 3 and 6).

An address that has been released rests for a while before it is given out again, so that nobody's stale connections
and ARP entries lead to its next holder.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from weave_ipam.ranges import AddressRange, largest_block, without

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

REST_SECONDS = 60.0
MAX_RESTING = 4096
"""Addresses that rest at the same time; beyond that the one released first is given out again."""


class Lease(NamedTuple):
    """An address with the prefix length of the subnet that it was asked for in."""

    address: int
    prefix: int


@dataclass
class Record:
    """What one identifier holds, in the order in which it came."""

    leases: list[Lease] = field(default_factory=list)
    container: bool = False
    """Whether the identifier is that of a container, whose end frees the addresses."""


class Leases:
    """All records of this host. `universe`: the allocation range; addresses outside it are only remembered."""

    def __init__(self, universe: AddressRange) -> None:
        self.universe = universe
        self.records: dict[str, Record] = {}
        self._holders: dict[int, str] = {}
        self._used: list[int] = []  # inside the range, ascending
        self._taken: list[int] = []  # used or resting, ascending
        self._resting: dict[int, float] = {}  # until when, in order of release
        self._rest_order: deque[int] = deque()

    # --- records ----------------------------------------------------------------------------------------------------

    def holder(self, address: int) -> str | None:
        """The identifier that holds an address."""
        return self._holders.get(address)

    def find(self, identifier: str, subnet: AddressRange) -> Lease | None:
        """The identifier's first address in a subnet."""
        record = self.records.get(identifier)
        return next((lease for lease in record.leases if subnet.contains(lease.address)), None) if record else None

    def add(self, identifier: str, lease: Lease, *, container: bool = False) -> None:
        """Record an address that nobody holds."""
        if lease.address in self._holders:
            raise ValueError(f"{self.universe.address(lease.address)} is held already")
        record = self.records.setdefault(identifier, Record())
        record.leases.append(lease)
        record.container = record.container or container
        self._holders[lease.address] = identifier
        if self.universe.contains(lease.address):
            insort(self._used, lease.address)
            if not self._wake(lease.address):
                insort(self._taken, lease.address)

    def remove(self, identifier: str, address: int | None, now: float) -> list[Lease]:
        """Forget one address of an identifier, or all; returns them."""
        record = self.records.get(identifier, Record())
        gone = [lease for lease in record.leases if address in (None, lease.address)]
        record.leases = [lease for lease in record.leases if lease not in gone]
        if not record.leases:
            self.records.pop(identifier, None)
        for lease in gone:
            del self._holders[lease.address]
            if self.universe.contains(lease.address):
                del self._used[bisect_left(self._used, lease.address)]
                self._rest(lease.address, now)
        return gone

    def used_in(self, stretch: AddressRange) -> Sequence[int]:
        """The addresses of a range that are held, ascending."""
        return self._used[bisect_left(self._used, stretch.start) : bisect_left(self._used, stretch.end)]

    def count_used(self, stretch: AddressRange) -> int:
        """How many addresses of a range are held."""
        return bisect_left(self._used, stretch.end) - bisect_left(self._used, stretch.start)

    # --- free space -------------------------------------------------------------------------------------------------

    def first_free(self, stretches: Iterable[AddressRange], now: float) -> int | None:
        """The lowest address that nobody holds; one that rests only where there is no other. Stretches ascend."""
        self._expire(now)
        stretches = list(stretches)
        for stretch in stretches:
            address = self._first_not_taken(stretch)
            if address is not None:
                return address
        return next((a for a in self._rest_order if any(stretch.contains(a) for stretch in stretches)), None)

    def _first_not_taken(self, stretch: AddressRange) -> int | None:
        taken = self._taken
        low = first = bisect_left(taken, stretch.start)
        high = len(taken)
        while low < high:  # as long as none is missing, the numbers go up by one
            middle = (low + high) // 2
            if taken[middle] - stretch.start > middle - first:
                high = middle
            else:
                low = middle + 1
        address = stretch.start + low - first
        return address if address < stretch.end else None

    def free_stretches(
        self, stretches: Iterable[AddressRange], now: float, *, resting: bool = False
    ) -> Iterator[AddressRange]:
        """What nobody holds of these ranges (ascending), without what rests unless wanted."""
        self._expire(now)
        stretches = list(stretches)
        if not stretches:
            return iter(())
        taken = self._used if resting else self._taken
        first, last = bisect_left(taken, stretches[0].start), bisect_left(taken, stretches[-1].end)
        return without(stretches, taken[first:last])

    def _rest(self, address: int, now: float) -> None:
        self._expire(now)
        if len(self._rest_order) >= MAX_RESTING:
            self._wake_first()
        self._resting[address] = now + REST_SECONDS
        self._rest_order.append(address)

    def _wake(self, address: int) -> bool:
        """An address no longer rests; whether it did."""
        if self._resting.pop(address, None) is None:
            return False
        self._rest_order.remove(address)
        return True

    def _wake_first(self) -> None:
        address = self._rest_order.popleft()
        del self._resting[address]
        del self._taken[bisect_left(self._taken, address)]

    def _expire(self, now: float) -> None:
        while self._rest_order and self._resting[self._rest_order[0]] <= now:
            self._wake_first()


def block_to_give(free: Iterable[AddressRange]) -> AddressRange | None:
    """What a peer gives away of its free stretches, cut to what was asked for (ipam.md section 8).

    The largest aligned block whose size is a power of two, of several the highest; only its upper half where it is more
    than half of all that is free.
    """
    total, best = 0, None
    for stretch in free:
        total += stretch.size
        block = largest_block(stretch)
        if best is None or block.size >= best.size:
            best = block
    if best is None:
        return None
    if best.size > total // 2:
        return AddressRange(best.start + best.size // 2, best.end, best.version)
    return best
