"""Ranges of addresses: half-open, as on the wire, with their family (ipam.md section 1)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

from weave_ipam.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SMALLEST_SUBNET = 4
"""Addresses; the first and the last are never given out."""


class AddressRange(NamedTuple):
    """The addresses from `start` up to but not including `end`, as numbers."""

    start: int
    end: int
    version: int = 4
    """Address family: 4 or 6."""

    @property
    def size(self) -> int:
        """How many addresses."""
        return self.end - self.start

    def contains(self, address: int) -> bool:
        """Whether the address lies inside."""
        return self.start <= address < self.end

    def overlaps(self, other: AddressRange) -> bool:
        """Whether an address lies in both."""
        return self.start < other.end and other.start < self.end

    def cut_to(self, other: AddressRange) -> AddressRange | None:
        """What lies in both, if anything."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return AddressRange(start, end, self.version) if start < end else None

    def address(self, number: int) -> Address:
        """A number as an address of this family."""
        return IPv4Address(number) if self.version == 4 else IPv6Address(number)

    def __str__(self) -> str:
        return f"{self.address(self.start)}-{self.address(self.end - 1)}"


def range_of(network: Network) -> AddressRange:
    """All addresses of a network."""
    start = int(network.network_address)
    return AddressRange(start, start + network.num_addresses, network.version)


def hosts_of(network: Network) -> AddressRange:
    """The addresses of a subnet that may be given out: all but the first and the last."""
    whole = range_of(network)
    return AddressRange(whole.start + 1, whole.end - 1, whole.version)


def check_subnet(network: Network) -> Network:
    """Whether addresses can be given out of it. Raises `SettingsError`."""
    if network.num_addresses < SMALLEST_SUBNET:
        raise SettingsError(f"{network} has fewer than {SMALLEST_SUBNET} addresses, of which two are never given out")
    return network


def largest_block(stretch: AddressRange) -> AddressRange:
    """The largest block inside that is a power of two in size and aligned to it; the lowest of equal ones."""
    size = 1 << (stretch.size.bit_length() - 1)
    while True:
        start = -(-stretch.start // size) * size
        if start + size <= stretch.end:
            return AddressRange(start, start + size, stretch.version)
        size >>= 1


def without(stretches: Iterable[AddressRange], taken: Iterable[int]) -> Iterator[AddressRange]:
    """The stretches without single addresses; both ascending."""
    numbers = iter(taken)
    number = next(numbers, None)
    for stretch in stretches:
        start = stretch.start
        while number is not None and number < stretch.end:
            if number >= start:
                if number > start:
                    yield AddressRange(start, number, stretch.version)
                start = number + 1
            number = next(numbers, None)
        if start < stretch.end:
            yield AddressRange(start, stretch.end, stretch.version)
