"""How a peer takes part in address allocation (ipam.md sections 1 and 10.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, ip_network
from typing import TYPE_CHECKING

from weave_ipam.errors import SettingsError
from weave_ipam.ranges import AddressRange, check_subnet, range_of
from weave_router.wire.peer_name import InvalidPeerName, parse_peer_name

if TYPE_CHECKING:
    from weave_ipam.ranges import Network
    from weave_router.wire.peer_name import PeerName

DEFAULT_RANGE = "10.32.0.0/12"
_END_OF_ADDRESSES = 1 << 32


class Mode(Enum):
    """How a ring comes about."""

    CONSENSUS = "consensus"
    SEED = "seed"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Beginning:
    """`--ipalloc-init`: what to do as long as there is no ring."""

    mode: Mode = Mode.CONSENSUS
    voters: int = 0
    """How many peers take part in the first election; 0 guesses it from the targets."""
    seeds: tuple[PeerName, ...] = ()


@dataclass(frozen=True, slots=True)
class IpamSettings:
    """The same on every peer but for `beginning`."""

    network: Network
    """The allocation range."""
    default_subnet: Network
    beginning: Beginning = field(default_factory=Beginning)

    @property
    def universe(self) -> AddressRange:
        """The allocation range."""
        return range_of(self.network)


def parse_beginning(text: str) -> Beginning:
    """Read `consensus[=n]`, `seed=<peer>,…` or `observer`. Raises `SettingsError`."""
    name, equals, value = text.partition("=")
    if name == "consensus":
        if not value:
            return Beginning()
        if not value.isdecimal() or len(value) > 5:
            raise SettingsError(f"--ipalloc-init {text!r}: the number of voters must stand behind 'consensus='")
        return Beginning(voters=int(value))
    if name == "seed" and equals:
        try:
            seeds = tuple(sorted({parse_peer_name(part.strip()) for part in value.split(",") if part.strip()}))
        except InvalidPeerName as error:
            raise SettingsError(f"--ipalloc-init {text!r}: {error}") from error
        return Beginning(Mode.SEED, seeds=seeds) if seeds else Beginning()
    if name == "observer" and not equals:
        return Beginning(Mode.OBSERVER)
    raise SettingsError(
        f"--ipalloc-init {text!r} is none of 'consensus', 'consensus=<number of peers>', 'seed=<peer name>,…' "
        "and 'observer'"
    )


def parse_settings(network: str, default_subnet: str | None, beginning: str | None) -> IpamSettings | None:
    """Read the flags; None where the range is empty, which turns IPAM off. Raises `SettingsError`."""
    if not network:
        if default_subnet or beginning:
            flag = "--ipalloc-default-subnet" if default_subnet else "--ipalloc-init"
            raise SettingsError(f"{flag} makes no sense without --ipalloc-range")
        return None
    universe = _network("--ipalloc-range", network)
    subnet = _network("--ipalloc-default-subnet", default_subnet) if default_subnet else universe
    if not range_of(subnet).overlaps(range_of(universe)):
        raise SettingsError(f"--ipalloc-default-subnet {subnet} has no address of --ipalloc-range {universe}")
    return IpamSettings(universe, subnet, parse_beginning(beginning) if beginning else Beginning())


def _network(flag: str, text: str) -> IPv4Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise SettingsError(f"{flag} {text!r} is no subnet such as {DEFAULT_RANGE}: {error}") from error
    if not isinstance(network, IPv4Network):
        raise SettingsError(f"{flag} {text}: allocation is for IPv4 only so far; give IPv6 addresses by hand")
    if int(network.broadcast_address) + 1 == _END_OF_ADDRESSES:
        raise SettingsError(f"{flag} {text}: a range up to 255.255.255.255 cannot be told to Weave Net peers")
    try:
        check_subnet(network)
    except SettingsError as error:
        raise SettingsError(f"{flag}: {error}") from error
    return network
