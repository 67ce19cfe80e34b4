"""Who was told that it has which address: what the allocators of all hosts together must never contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from simulation.invariant import InvariantBroken

if TYPE_CHECKING:
    from weave_ipam.ranges import Address


class Holder(NamedTuple):
    """A container: the host that it runs on, and its identifier there."""

    host: int
    identifier: str

    def __str__(self) -> str:
        return f"{self.identifier} on {self.host}"


class Ledger:
    """Every address that was answered to a container and has not been released since."""

    def __init__(self) -> None:
        self.holders: dict[Address, Holder] = {}

    def answered(self, holder: Holder, address: Address) -> None:
        """A container was told that the address is its own. Raises `InvariantBroken` where another one has it."""
        other = self.holders.setdefault(address, holder)
        if other != holder:
            raise InvariantBroken(f"{address} was given to {holder}, but {other} holds it")

    def released(self, holder: Holder) -> None:
        """A container has ended."""
        for address in self.of(holder):
            del self.holders[address]

    def host_gone(self, host: int) -> None:
        """All containers of a host have ended."""
        for address, holder in list(self.holders.items()):
            if holder.host == host:
                del self.holders[address]

    def of(self, holder: Holder) -> list[Address]:
        """What a container holds."""
        return [address for address, other in self.holders.items() if other == holder]

    def on(self, host: int) -> dict[str, set[Address]]:
        """What the containers of a host hold, by identifier."""
        held: dict[str, set[Address]] = {}
        for address, holder in self.holders.items():
            if holder.host == host:
                held.setdefault(holder.identifier, set()).add(address)
        return held
