"""Names of containers on Docker's networks of our driver: container name, host name and network aliases.

Events only say where to look: what a container's names should be follows from what the engine says of it now, compared
with what was registered. So a lost event, a restart of the engine or of the daemon leads to the same names.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import httpx
import trio

from weave_docker.engine_client import EngineClient
from weave_docker.engine_documents import Container, Event, Network, is_container_id, read_json
from weave_docker.engine_errors import EngineError, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_docker.engine_sockets import Engine

DRIVER = "weave"
DNS_OPTION = "weave.dns"
"""`docker network create --opt weave.dns=false`: no names for containers of this network."""

RETRY_S = 10.0
"""What could not be registered is tried again after so long."""
WAITING_EVENTS = 64
SHORT_ID = 12
"""Characters of an id that Docker uses as host name and as alias of a container without a name of its own."""

_FALSE = frozenset({"false", "0", "f", "no"})
_NOT_FOUND = 404

_log = logging.getLogger(__name__)


async def run(engine: Engine, api: httpx.AsyncClient, *, driver: str = DRIVER) -> None:
    """Keep the names until cancelled; returns at once where the daemon has no names.

    `api` leads to the daemon's HTTP API with all rights. `driver`: under which name the engine knows our network
    plugin, which is that of its socket file. One engine of a host only: names of containers that it does not know and
    that are not attached are taken for left over.
    """
    try:
        domain = await _domain(api)
    except httpx.HTTPError as error:
        _log.warning("containers of %s get no names, since weave's own API cannot be asked: %s", engine, error)
        return
    if domain is None:
        return
    client = EngineClient(engine)
    names = NetworkNames(client, api, domain, driver)
    send, receive = trio.open_memory_channel[Event](WAITING_EVENTS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.watch, send)
        await names.follow(receive)


class NetworkNames:
    """The names of one engine's containers. `domain`: without final dot."""

    def __init__(self, client: EngineClient, api: httpx.AsyncClient, domain: str, driver: str = DRIVER) -> None:
        self._client = client
        self._api = api
        self._domain = domain
        self._driver = driver
        self._registered: dict[str, dict[str, set[str]]] = {}
        """By container the addresses that have names, and which of them are ours."""
        self._networks: dict[str, Network | None] = {}
        self._due: set[str] = set()
        """Containers to look at."""
        self._unsure = False
        """Whether all have to be looked at."""
        self._complained = False

    async def follow(self, events: trio.MemoryReceiveChannel[Event]) -> None:
        """Do what the events ask for, until cancelled."""
        while True:
            event = None
            with trio.move_on_after(RETRY_S if self._due or self._unsure else math.inf):
                event = await events.receive()
            if event is not None and event.kind == "connected":
                self._unsure = True
            elif event is not None:
                self._due.add(event.container)
            await self._settle()

    async def _settle(self) -> None:
        """Look at all who are due; whoever fails stays due."""
        failure: Exception | None = None
        if self._unsure:
            try:
                await self._begin()
                self._unsure = False
            except (EngineError, httpx.HTTPError) as error:
                failure = error
        for container in sorted(self._due):
            try:
                await self._settle_one(container)
                self._due.discard(container)
            except (EngineError, httpx.HTTPError) as error:
                failure = error
        if failure is not None and not self._complained:
            again = f"which is tried again every {RETRY_S:.0f} s"
            _log.warning("names of containers of %s are not up to date, %s: %s", self._client.engine, again, failure)
        self._complained = failure is not None

    async def _begin(self) -> None:
        """After a start, or when events may have been missed: what is registered, and who runs."""
        self._networks.clear()
        running = [container for container, runs in (await self._client.running()).items() if runs]
        attached = {str(entry.get("id")) for entry in await self._documents("/attachment")}
        own = await self._own_number()
        for entry in await self._documents("/name"):
            container = str(entry.get("ContainerID"))
            ours = entry.get("Origin") == own and not entry.get("Tombstone")
            # Names of what was attached by hand or by CNI go with the attachment.
            if ours and is_container_id(container) and container not in attached:
                self._registered.setdefault(container, {}).setdefault(str(entry.get("Addr")), set())
        self._due.update(running, self._registered)

    async def _own_number(self) -> int:
        """This peer's name as entries of names have it. Raises `EngineUnavailable`."""
        name = (await self._ask("GET", "/report", params={"format": ".Router.Name"})).text.strip()
        try:
            return int(name.replace(":", ""), 16)
        except ValueError as error:
            raise EngineUnavailable(f"weave's own API tells a peer name that is none: {name!r}") from error

    async def _settle_one(self, container: str) -> None:
        known = await self._client.container(container)
        wanted = {} if known is None or not known.running else await self._wanted(known)
        registered = self._registered.setdefault(container, {})
        for address in registered.keys() - wanted.keys():  # with names that were added to it by hand
            await self._ask("DELETE", f"/name/{container}/{address}")
            del registered[address]
        for address, names in wanted.items():
            present = registered.setdefault(address, set())
            for fqdn in present - names:
                await self._ask("DELETE", f"/name/{container}/{address}", params={"fqdn": fqdn})
                present.discard(fqdn)
            for fqdn in sorted(names - present):
                await self._ask("PUT", f"/name/{container}/{address}", data={"fqdn": fqdn, "own": "true"})
                present.add(fqdn)
        if not registered:
            del self._registered[container]

    async def _wanted(self, container: Container) -> dict[str, set[str]]:
        wanted: dict[str, set[str]] = {}
        for endpoint in container.endpoints:
            if endpoint.addresses and await self._has_names(endpoint.network):
                names = names_of(container, endpoint.aliases, self._domain)
                for address in endpoint.addresses:
                    wanted.setdefault(address, set()).update(names)
        return wanted

    async def _has_names(self, network: str) -> bool:
        if network not in self._networks:
            self._networks[network] = await self._client.network(network)
        known = self._networks[network]
        return (
            known is not None
            and known.driver.partition(":")[0] == self._driver
            and known.options.get(DNS_OPTION, "true").lower() not in _FALSE
        )

    async def _documents(self, path: str) -> list[dict[str, Any]]:
        answer = await self._ask("GET", path, headers={"Accept": "application/json"})
        entries = await trio.to_thread.run_sync(read_json, answer.content, "weave's own API")
        return [entry for entry in entries or () if isinstance(entry, dict)]

    async def _ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        answer = await self._api.request(method, path, **arguments)
        if answer.is_error:
            raise EngineUnavailable(f"{method} {path} of weave's own API: {answer.text.strip() or answer.status_code}")
        return answer


def names_of(container: Container, aliases: Iterable[str], domain: str) -> list[str]:
    """The names that lead to a container on one network, with the domain, sorted.

    A host name with a domain of its own counts if that is in ours. The beginning of the id, which Docker makes host
    name and alias of whoever has no better one, is no name.
    """
    host = ".".join(filter(None, (container.hostname, container.domainname)))
    texts = [container.name, *aliases]
    if "." not in host or _is_inside(host, domain):
        texts.append(host)
    plain = {text.rstrip(".").lower() for text in texts} - {"", container.id, container.id[:SHORT_ID]}
    return sorted(text if _is_inside(text, domain) else f"{text}.{domain}" for text in plain)


def _is_inside(name: str, domain: str) -> bool:
    return name.rstrip(".").lower().endswith(f".{domain}")


async def _domain(api: httpx.AsyncClient) -> str | None:
    """The network's domain without final dot, None where names are off. Raises `httpx.HTTPError`."""
    answer = await api.get("/domain")
    if answer.status_code == _NOT_FOUND:
        return None
    answer.raise_for_status()
    return answer.text.strip().rstrip(".").lower()
