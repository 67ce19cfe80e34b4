"""Which connections to open, and when (mesh.md section 12).

    valid ──> waiting ──> attempting ──> connected
                 ^            │ failed       │ ended
                 └────────────┴──────────────┘   back-off; never again after a collision of names or with ourselves

Direct peers come from the operator, other targets from the topology when discovery is on. Our longest retry interval
is 30 s, not the reference's 6 minutes: a healed network should be whole again while the operator still looks.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from weave_router.control.random_source import RandomSource
    from weave_router.wire.peer_name import PeerName
    from weave_router.wire.topology import PeerRecord

FIRST_INTERVAL = 2.0
INTERVAL_FACTOR = 1.5
LONGEST_INTERVAL = 20.0
"""The wait is half to one and a half times the interval, hence 30 s at most."""
LASTING = 60.0
"""A connection that held this long (seconds) is dialled again at once."""
RECONNECT_DELAY = 0.2
"""... but not sooner: a 2.8 peer would not send its complete state (mesh.md section 5)."""

NO_ROOM_DELAY = 1.0
"""A target that is due waits so long when the limit of connections or of attempts is reached."""
MAX_TARGETS = 4096
MAX_ATTEMPTS = 64
"""At one time, of addresses that gossip named: it can name any number, and must not make us knock at all at once."""


class TargetState(enum.Enum):
    """Where an address stands."""

    WAITING = enum.auto()
    ATTEMPTING = enum.auto()
    CONNECTED = enum.auto()
    SUSPENDED = enum.auto()
    """A direct peer that is connected in another way; keeps its back-off."""
    REFUSED = enum.auto()
    """Never again by itself."""


@dataclass(slots=True)
class Target:
    """One address and its back-off."""

    address: str
    try_at: float
    state: TargetState = TargetState.WAITING
    interval: float = FIRST_INTERVAL
    attempts: int = 0
    error: str = ""
    peer: PeerName | None = None
    """Who answered there last: while we are connected to that peer in another way, the address is left alone."""


@dataclass(frozen=True, slots=True)
class DirectPeer:
    """A peer as the operator gave it."""

    text: str
    addresses: tuple[str, ...]
    """`ip:port`, resolved; empty while the name cannot be resolved."""
    with_port: bool = False
    """Whether the operator named a port."""
    error: str = ""
    """Why there is no address."""


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """What the connection maker needs to know of a connection that we have."""

    address: str
    outbound: bool
    peer: PeerName


@dataclass(slots=True)
class Targets:
    """The connection maker of one router."""

    ourselves: PeerName
    own_port: int
    random: RandomSource
    discovery: bool = True
    direct: dict[str, DirectPeer] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)

    def add_direct(self, peer: DirectPeer, now: float) -> None:
        """Add or renew a direct peer by the operator's command: its addresses are tried at once."""
        self.direct[peer.text] = peer
        for address in peer.addresses:
            target = self.targets.get(address)
            if target is not None and target.state not in (TargetState.ATTEMPTING, TargetState.CONNECTED):
                self.targets[address] = Target(address, now)

    def remove_direct(self, text: str) -> DirectPeer | None:
        """Forget a direct peer; returns it if there was one."""
        return self.direct.pop(text, None)

    def count_direct(self) -> int:
        """How many addresses of other peers the operator named; those that led to ourselves are left out."""
        addresses = {address for peer in self.direct.values() for address in peer.addresses}
        refused = {a for a in addresses if a in self.targets and self.targets[a].state is TargetState.REFUSED}
        return len(addresses - refused)

    def is_direct(self, address: str) -> bool:
        """Whether the address is one of a direct peer's."""
        return any(address in peer.addresses for peer in self.direct.values())

    def due(
        self,
        connections: Iterable[OpenConnection],
        records: Mapping[PeerName, PeerRecord],
        room: int | None,
        now: float,
    ) -> list[str]:
        """Recompute the valid targets and return the addresses to dial now; they count as attempting.

        `room`: how many connections the limit still allows, None for any number.
        """
        valid = self._valid(list(connections), records)
        for address in valid:
            target = self.targets.get(address)
            if target is None:
                if len(self.targets) < MAX_TARGETS or self.is_direct(address):
                    self.targets[address] = Target(address, now)
            elif target.state is TargetState.SUSPENDED:
                target.state = TargetState.WAITING
        for address, target in list(self.targets.items()):
            if address in valid or target.state in (TargetState.ATTEMPTING, TargetState.CONNECTED):
                continue
            if not self.is_direct(address) and target.state is not TargetState.REFUSED:
                del self.targets[address]
            elif target.state is TargetState.WAITING:
                target.state = TargetState.SUSPENDED
        due = self._chosen(room, now)
        for target in due:
            target.state = TargetState.ATTEMPTING
            target.attempts += 1
        return [target.address for target in due]

    def _chosen(self, room: int | None, now: float) -> list[Target]:
        """The targets that are due and for which there is room; the operator's peers come first."""
        waiting = [target for target in self.targets.values() if target.state is TargetState.WAITING]
        due = sorted((t for t in waiting if t.try_at <= now), key=lambda target: not self.is_direct(target.address))
        attempting = [t.address for t in self.targets.values() if t.state is TargetState.ATTEMPTING]
        free = None if room is None else max(room - len(attempting), 0)
        knocking = sum(not self.is_direct(address) for address in attempting)
        chosen: list[Target] = []
        for target in due:
            discovered = not self.is_direct(target.address)
            if len(chosen) == free or (discovered and knocking >= MAX_ATTEMPTS):
                target.try_at = now + NO_ROOM_DELAY
                continue
            knocking += discovered
            chosen.append(target)
        return chosen

    def next_try(self) -> float | None:
        """When the next waiting target is due."""
        return min((t.try_at for t in self.targets.values() if t.state is TargetState.WAITING), default=None)

    def connected(self, address: str, peer: PeerName) -> None:
        """The attempt led to a connection with this peer."""
        if target := self.targets.get(address):
            target.state = TargetState.CONNECTED
            target.error = ""
            target.peer = peer

    def leads_to(self, address: str, peer: PeerName) -> None:
        """The attempt reached a peer to which another connection exists."""
        if target := self.targets.get(address):
            target.peer = peer

    def ended(self, address: str, error: str, now: float) -> None:
        """The attempt failed, or the connection that it led to ended."""
        target = self.targets.get(address)
        if target is None or target.state not in (TargetState.ATTEMPTING, TargetState.CONNECTED):
            return
        lasted = target.state is TargetState.CONNECTED and now - target.try_at > LASTING
        target.state = TargetState.WAITING
        target.error = error
        if lasted:
            target.interval = FIRST_INTERVAL
            target.attempts = 0
            target.try_at = now + RECONNECT_DELAY
        else:
            target.try_at = now + target.interval * (0.5 + self.random.random())
            target.interval = min(target.interval * INTERVAL_FACTOR, LONGEST_INTERVAL)

    def refused(self, address: str, error: str) -> None:
        """Never try this address again by itself (collision of names, connection to ourselves)."""
        if target := self.targets.get(address):
            target.state = TargetState.REFUSED
            target.error = error

    def _valid(self, connections: list[OpenConnection], records: Mapping[PeerName, PeerRecord]) -> dict[str, None]:
        """The addresses that are worth a connection, in an order that does not depend on their hashes."""
        open_addresses = {connection.address for connection in connections}
        accepted_hosts = {_host(connection.address) for connection in connections if not connection.outbound}
        neighbours = {connection.peer for connection in connections}
        valid: dict[str, None] = {}
        for peer in self.direct.values():
            for address in peer.addresses:
                if address in open_addresses or (not peer.with_port and _host(address) in accepted_hosts):
                    continue
                target = self.targets.get(address)
                if target is None or target.peer not in neighbours:
                    valid[address] = None
        if not self.discovery:
            return valid
        for name, record in records.items():
            if name == self.ourselves:
                continue
            for link in record.links:
                if link.remote == self.ourselves or link.remote in neighbours:
                    continue
                address = link.address if link.outbound else f"{_host(link.address)}:{self.own_port}"
                if _plausible(address) and address not in open_addresses:
                    valid[address] = None
        return valid


def _host(address: str) -> str:
    return address.rpartition(":")[0]


@lru_cache(maxsize=4096)
def _plausible(address: str) -> bool:
    """Whether gossip gave something that can be dialled: `ip:port` of a host, never a name to look up."""
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        return False
    try:
        ip = IPv4Address(host)
    except AddressValueError:
        return False
    return not (ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_reserved)
