"""Routes inside a container: as clients of the API write them, and as they come out once the gateway is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

from weave_net.errors import AttachmentError
from weave_router.doors import ContainerRoute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv6Address

MAX_ROUTES = 256
"""Of one interface."""
_MAX_VALUE = (1 << 32) - 1
_BROADCAST = IPv4Address("255.255.255.255")
_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route, in the names of CNI's results (specification 1.1.0, Success)."""

    dst: str
    gw: str | None = None
    """None: by the attachment's gateway; if it has none, on the link."""
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None

    @classmethod
    def from_json(cls, value: Any) -> Route:
        """Check one entry of a list of routes. Raises `AttachmentError`."""
        if not isinstance(value, dict) or not isinstance(value.get("dst"), str):
            raise AttachmentError('a route must be an object such as {"dst": "10.0.0.0/8", "gw": "10.32.0.1"}')
        unknown = value.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            raise AttachmentError(f"unknown field {min(map(str, unknown))!r} of a route")
        for name in _NUMBERS:
            number = value.get(name)
            if number is not None and (type(number) is not int or not 0 <= number <= _MAX_VALUE):
                raise AttachmentError(f"{name!r} of the route to {value['dst']} must be a number, not {number!r}")
        try:
            network = ip_network(value["dst"], strict=False)
            gateway = None if value.get("gw") is None else parse_gateway(value["gw"])
        except ValueError as error:
            raise AttachmentError(f"a route cannot be read: {error}") from error
        if gateway is not None and gateway.version != network.version:
            raise AttachmentError(f"the route to {network} has a gateway of the other family, {gateway}")
        numbers = {name: value.get(name) for name in _NUMBERS}
        return cls(dst=str(network), gw=None if gateway is None else str(gateway), **numbers)

    def to_json(self) -> dict[str, Any]:
        """Only what is there."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def for_host(self) -> ContainerRoute:
        """The same for the kernel's door."""
        return ContainerRoute(
            destination=ip_network(self.dst),
            gateway=None if self.gw is None else ip_address(self.gw),
            mtu=self.mtu,
            advmss=self.advmss,
            priority=self.priority,
            table=self.table,
            scope=self.scope,
        )


def parse_gateway(text: Any) -> IPv4Address | IPv6Address:
    """The address of a host. Raises ValueError for other texts."""
    address = ip_address(text if isinstance(text, str) else repr(text))
    if address.is_multicast or address.is_unspecified or address.is_loopback or address == _BROADCAST:
        raise ValueError(f"{address} cannot be the address of a gateway")
    return address


def parse_routes(value: Any) -> tuple[Route, ...]:
    """The field `routes` of a request. Raises `AttachmentError`."""
    if not isinstance(value, list) or len(value) > MAX_ROUTES:
        raise AttachmentError(f"'routes' must be a list of at most {MAX_ROUTES} routes")
    return tuple(dict.fromkeys(Route.from_json(entry) for entry in value))


def complete_routes(
    wanted: Sequence[Route], gateway: IPv4Address | IPv6Address | None, addresses: Iterable[str]
) -> tuple[Route, ...]:
    """The routes to make: none wanted and a gateway give a default route; each gateway is reachable.

    A gateway outside all subnets of the interface gets a route to the link, as Weave Net does it.
    """
    routes = list(wanted)
    if not routes and gateway is not None:
        routes = [Route(dst="0.0.0.0/0" if gateway.version == 4 else "::/0")]
    complete = []
    for route in routes:
        through = route.gw
        if through is None and gateway is not None and ip_network(route.dst).version == gateway.version:
            through = str(gateway)
        complete.append(Route(**{**asdict(route), "gw": through}))
    subnets = [ip_interface(text).network for text in addresses]
    gateways = dict.fromkeys(ip_address(route.gw) for route in complete if route.gw is not None)
    outside = [Route(dst=str(ip_network(via))) for via in gateways if not any(via in subnet for subnet in subnets)]
    return tuple(dict.fromkeys([*outside, *complete]))
