"""What holds at every moment, for each copy of the ring and for all records together (ipam.md section 17)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.invariant import InvariantBroken
from weave_ipam.errors import RingRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simulation.ipam_host import IpamHost
    from weave_ipam.allocator import Allocator
    from weave_ipam.ring import Entry


class Invariants:
    """Looks at hosts again and again, and remembers what it saw of each."""

    def __init__(self) -> None:
        self._seen: dict[Allocator, tuple[Sequence[Entry], dict[str, tuple[int, ...]]]] = {}

    def check(self, hosts: Iterable[IpamHost]) -> None:
        """Raises `InvariantBroken`."""
        living = [host for host in hosts if host.up and not host.gone]
        changed = [host for host in living if self._check_host(host)]
        if changed:
            _check_records(living)
            present = {host.allocator for host in living}
            self._seen = {allocator: seen for allocator, seen in self._seen.items() if allocator in present}

    def _check_host(self, host: IpamHost) -> bool:
        allocator = host.allocator
        entries = allocator.ring.entries
        records = {
            identifier: tuple(lease.address for lease in record.leases)
            for identifier, record in allocator.leases.records.items()
        }
        before, held = self._seen.get(allocator, ((), {}))
        if entries == before and records == held:
            return False
        self._seen[allocator] = (list(entries), records)
        _check_ring(host)
        _check_versions(host, before, entries)
        for identifier, addresses in records.items():
            for address in addresses:
                if allocator.universe.contains(address) and allocator.ring.owner_of(address) != allocator.ourselves:
                    raise InvariantBroken(
                        f"host {host.number} has {allocator.universe.address(address)} recorded for {identifier}, "
                        f"and says that {allocator.nicknames.label(allocator.ring.owner_of(address))} owns it"
                    )
        return True


def _check_ring(host: IpamHost) -> None:
    try:
        host.allocator.ring.check()
    except RingRefused as error:
        raise InvariantBroken(f"the ring of host {host.number} is invalid: {error}") from error


def _check_versions(host: IpamHost, before: Sequence[Entry], after: Sequence[Entry]) -> None:
    versions = {entry.token: entry.version for entry in after}
    for entry in before:
        if entry.token not in versions:
            raise InvariantBroken(f"host {host.number} has lost the token {entry.token}")
        if versions[entry.token] < entry.version:
            raise InvariantBroken(f"host {host.number} went back to version {versions[entry.token]} of {entry}")


def _check_records(living: Sequence[IpamHost]) -> None:
    holders: dict[int, tuple[int, str]] = {}
    for host in living:
        for identifier, record in host.allocator.leases.records.items():
            for lease in record.leases:
                other = holders.setdefault(lease.address, (host.number, identifier))
                if other != (host.number, identifier):
                    address = host.allocator.universe.address(lease.address)
                    raise InvariantBroken(f"{address} is recorded for {other} and for {(host.number, identifier)}")
