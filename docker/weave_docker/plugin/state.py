"""What the plugin has to remember: the engine does not tell it again. Values only; `state_file` stores them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from ipaddress import ip_address
from typing import Any

from weave_docker.plugin.errors import Refused, StateError
from weave_docker.plugin.options import NetworkOptions

VERSION = 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's interface in a network."""

    network: str
    addresses: tuple[str, ...] = ()
    """`address/len`."""
    joined: bool = False
    """Whether the engine has come to fetch the interface."""


@dataclass(frozen=True, slots=True)
class Held:
    """An address that the engine was given by our IPAM driver."""

    pools: tuple[str, ...]
    """The pool that it was given of; for one that is reserved by several networks, that of each."""
    holder: str | None
    """The identifier in the daemon's allocator; None where that does not record it, or where it is another host's."""
    reserved: bool = False
    """A gateway or an auxiliary address: belongs to networks, not to an endpoint."""

    def with_pool(self, pool: str) -> Held:
        """Reserved by one network more."""
        return replace(self, pools=(*self.pools, pool))

    def without_pool(self, pool: str) -> Held:
        """Reserved by one network less."""
        index = self.pools.index(pool)
        return replace(self, pools=self.pools[:index] + self.pools[index + 1 :])


@dataclass(frozen=True, slots=True)
class State:
    """Immutable: each change makes a new one."""

    networks: dict[str, NetworkOptions] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=dict)
    """How many networks use a pool."""
    addresses: dict[str, Held] = field(default_factory=dict)
    """By address: all networks share one segment, so that an address exists once."""

    def with_network(self, network: str, options: NetworkOptions) -> State:
        """A network was made."""
        return replace(self, networks={**self.networks, network: options})

    def without_network(self, network: str) -> State:
        """A network was removed."""
        return replace(self, networks=_without(self.networks, network))

    def with_endpoint(self, endpoint_id: str, endpoint: Endpoint) -> State:
        """An endpoint was made or changed."""
        return replace(self, endpoints={**self.endpoints, endpoint_id: endpoint})

    def without_endpoint(self, endpoint_id: str) -> State:
        """An endpoint was removed."""
        return replace(self, endpoints=_without(self.endpoints, endpoint_id))

    def with_pool(self, pool: str) -> State:
        """A pool was asked for, once more perhaps."""
        return replace(self, pools={**self.pools, pool: self.pools.get(pool, 0) + 1})

    def without_pool(self, pool: str) -> State:
        """A pool is used by one network less."""
        uses = self.pools.get(pool, 0)
        pools = {**self.pools, pool: uses - 1} if uses > 1 else _without(self.pools, pool)
        return replace(self, pools=pools)

    def with_address(self, address: str, held: Held) -> State:
        """An address was given. Raises `Refused` if it was already."""
        if address in self.addresses:
            raise Refused(f"{address} is in use on this host already; choose another address")
        return replace(self, addresses={**self.addresses, address: held})

    def with_changed_address(self, address: str, held: Held) -> State:
        """Something about an address has changed."""
        return replace(self, addresses={**self.addresses, address: held})

    def without_address(self, address: str) -> State:
        """An address was released."""
        return replace(self, addresses=_without(self.addresses, address))

    def unused_addresses(self, pool: str) -> dict[str, Held]:
        """The addresses of a pool that no endpoint has."""
        used = self.used_addresses()
        return {ip: held for ip, held in self.addresses.items() if pool in held.pools and ip not in used}

    def used_addresses(self) -> set[str]:
        """The addresses of endpoints, without prefix length."""
        return {text.partition("/")[0] for endpoint in self.endpoints.values() for text in endpoint.addresses}

    def to_json(self) -> dict[str, Any]:
        """What is stored."""
        return {
            "version": VERSION,
            "networks": {key: options.to_json() for key, options in self.networks.items()},
            "endpoints": {key: asdict(endpoint) for key, endpoint in self.endpoints.items()},
            "pools": self.pools,
            "addresses": {key: asdict(held) for key, held in self.addresses.items()},
        }

    @classmethod
    def from_json(cls, document: Any) -> State:
        """Read what was stored. Raises `StateError`."""
        try:
            if document["version"] != VERSION:
                raise StateError(f"it has version {document['version']!r}, and this program knows {VERSION}")
            return cls(
                {str(key): NetworkOptions(**value) for key, value in document["networks"].items()},
                {
                    str(key): Endpoint(**{**value, "addresses": tuple(map(str, value["addresses"]))})
                    for key, value in document["endpoints"].items()
                },
                {str(key): int(uses) for key, uses in document["pools"].items()},
                {
                    str(ip_address(key)): Held(**{**value, "pools": tuple(map(str, value["pools"]))})
                    for key, value in document["addresses"].items()
                },
            )
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise StateError(f"it cannot be understood: {type(error).__name__}: {error}") from error


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {other: value for other, value in values.items() if other != key}
