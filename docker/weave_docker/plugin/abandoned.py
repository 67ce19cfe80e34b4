"""Endpoints and addresses that the engine has given up while it could not tell us.

An engine does not repeat what failed: a container that ends while the daemon is down, or an engine that starts before
it, would leave its endpoint and its address for ever. So where the engine can be asked, it is: what it does not know in
two looks, a minute apart, is released. Everything in doubt is kept: networks that the engine does not know (it may not
be the one that made them), pools that somebody else uses as well, an engine that does not answer.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from weave_docker.engine_errors import EngineAbsent, EngineError
from weave_docker.plugin.errors import BadRequest, DaemonRefused, Refused, StateError
from weave_docker.plugin.pools import read_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weave_docker.engine_client import EngineClient
    from weave_docker.engine_documents import Network
    from weave_docker.plugin.daemon_api import Daemon
    from weave_docker.plugin.ipam_driver import IpamDriver
    from weave_docker.plugin.state import Held, State
    from weave_docker.plugin.state_file import StateFile

LOOK_S = 60.0
"""Between two looks. An engine knows an endpoint once it has our answer, for which it waits about 30 s."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """What an engine does not know."""

    endpoints: frozenset[str] = frozenset()
    addresses: frozenset[tuple[str, Held]] = frozenset()
    """With what was held then: an address that was released and given again in between is another one."""

    def __and__(self, other: Abandoned) -> Abandoned:
        return Abandoned(self.endpoints & other.endpoints, self.addresses & other.addresses)


def abandoned(state: State, networks: Sequence[Network], driver: str) -> Abandoned:
    """What of the state belongs to these networks, and is not known there. `driver`: our name among the engine's."""
    known = {network.id: network.endpoints for network in networks if _is(network.driver, driver)}
    endpoints = set()
    used = {address for network in networks for address in network.addresses}
    for endpoint_id, endpoint in state.endpoints.items():
        alive = known.get(endpoint.network)
        if alive is not None and endpoint_id not in alive:
            endpoints.add(endpoint_id)
        else:
            used.update(text.partition("/")[0] for text in endpoint.addresses)
    pools = Counter(pool for network in networks if _is(network.ipam_driver, driver) for pool in _pools(network))
    return Abandoned(
        frozenset(endpoints),
        frozenset(
            (address, held)
            for address, held in state.addresses.items()
            if not held.reserved
            and address not in used
            and all(0 < state.pools.get(pool, 0) <= pools[pool] for pool in held.pools)
        ),
    )


@dataclass(slots=True)
class Tidying:
    """Looks every minute; `driver`: as in `abandoned`."""

    engines: Sequence[EngineClient]
    driver: str
    states: StateFile
    daemon: Daemon
    ipam: IpamDriver
    _suspects: Abandoned = field(default_factory=Abandoned)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            state = self.states.state
            if state.endpoints or state.addresses:
                await self.look()

    async def look(self) -> None:
        """Release what neither this look nor the last one found with the engine."""
        try:
            networks = await self._networks()
        except EngineError as error:
            _log.debug("what Docker has given up is not looked for: %s", error)
            return
        found = abandoned(self.states.state, networks, self.driver)
        sure, self._suspects = found & self._suspects, found
        try:
            await self._release(sure)
        except (DaemonRefused, StateError) as error:
            _log.warning("What Docker has given up could not be released, which is tried again: %s", error)

    async def _networks(self) -> list[Network]:
        """Those that have to do with us, completely. Raises `EngineError`."""
        networks = []
        for engine in self.engines:
            try:
                listed = await engine.networks()
            except EngineAbsent:  # an engine that is not used on this host
                continue
            for network in listed:
                if self.driver in (_plain(network.driver), _plain(network.ipam_driver)):
                    complete = await engine.network(network.id)
                    if complete is not None and complete.endpoints is not None:
                        networks.append(complete)
        return networks

    async def _release(self, sure: Abandoned) -> None:
        """The state may have changed since the engine was asked: what is gone is no error."""
        for endpoint_id in sorted(sure.endpoints & self.states.state.endpoints.keys()):
            _log.info("Endpoint %s is removed: Docker does not know it any more", endpoint_id[:12])
            await self.daemon.detach(endpoint_id)
            await self.states.change(lambda state: state.without_endpoint(endpoint_id))  # noqa: B023 - awaited here
        for address, held in sorted(sure.addresses, key=lambda pair: pair[0]):
            if await self.ipam.forget_unused(address, held):
                _log.info("%s is released: no container of Docker's has it any more", address)


def _pools(network: Network) -> list[str]:
    """Ids of the network's pools."""
    pools = []
    for subnet, part in network.subnets:
        try:
            pools.append(read_pool(subnet, part, v6=":" in subnet).id)
        except (BadRequest, Refused):  # what Docker says is not taken on trust
            continue
    return pools


def _is(name: str, driver: str) -> bool:
    return _plain(name) == driver


def _plain(name: str) -> str:
    """Docker writes the drivers of its managed plugins with a tag."""
    return name.partition(":")[0]
