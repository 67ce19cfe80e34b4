"""A plugin over its real socket, and dockerd's side of it: the sequences of calls that an engine makes.

@with_plugin
async def test_…(plugin: RunningPlugin) -> None:
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
import trio

from docker_plugin.fake_weave_daemon import FakeWeaveDaemon
from weave_docker.plugin import PluginSettings, serve
from weave_net.http_server import serve_http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from weave_docker.engine_sockets import Engine

GATEWAY = "com.docker.network.gateway"
MAC_OPTION = "com.docker.network.endpoint.macaddress"
GENERIC = "com.docker.network.generic"
_numbers = count(1)


def new_id() -> str:
    """An id as the engine makes them."""
    return f"{next(_numbers):08x}{0:056x}"


class EngineError(Exception):
    """What the engine would show its user."""


@dataclass
class Container:
    """One endpoint."""

    network: DockerNetwork
    endpoint: str
    address: str
    created: dict[str, Any]
    joined: dict[str, Any]

    @property
    def ip(self) -> str:
        """Without the prefix length."""
        return self.address.partition("/")[0]


@dataclass
class DockerNetwork:
    """What the engine keeps of a network."""

    id: str
    pool_id: str
    pool: str
    reserved: list[str]


@dataclass
class RunningPlugin:
    """A plugin that serves, until `stop`."""

    socket: Path
    state_file: Path
    daemon: FakeWeaveDaemon
    scope: trio.CancelScope
    restart: Callable[[], Awaitable[None]]
    kill: Callable[[], Awaitable[None]]
    """End it as a crash would."""
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def state(self) -> dict[str, Any]:
        """What is stored."""
        state: dict[str, Any] = json.loads(self.state_file.read_text())
        return state

    async def post(self, method: str, body: bytes | None) -> httpx.Response:
        """One request with any body."""
        return await self.request("POST", f"/{method}", content=body)

    async def request(self, verb: str, path: str, **options: Any) -> httpx.Response:
        """One HTTP request."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://plugin", timeout=20) as client:
            return await client.request(verb, path, **options)

    async def call(self, method: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the engine gets. Raises `EngineError`."""
        answer = await self.post(method, None if values is None else json.dumps(values).encode())
        content: dict[str, Any] = answer.json()
        if content.get("Err"):
            raise EngineError(content["Err"])
        assert answer.status_code == 200
        return content

    async def network_create(
        self,
        *,
        subnet: str = "",
        ip_range: str = "",
        gateway: str = "",
        aux: tuple[str, ...] = (),
        options: dict[str, Any] | None = None,
        internal: bool = False,
    ) -> DockerNetwork:
        """`docker network create -d weave --ipam-driver weave`."""
        got = await self.call(
            "IpamDriver.RequestPool",
            {"AddressSpace": "weave", "Pool": subnet, "SubPool": ip_range, "Options": None, "V6": False},
        )
        network = DockerNetwork(new_id(), got["PoolID"], got["Pool"], [])
        told = got["Data"][GATEWAY]
        try:
            if gateway:
                wanted = {"PoolID": network.pool_id, "Address": gateway, "Options": {"RequestAddressType": GATEWAY}}
                told = (await self.call("IpamDriver.RequestAddress", wanted))["Address"]
            network.reserved.append(told.partition("/")[0])
            for address in aux:
                extra = {"PoolID": network.pool_id, "Address": address, "Options": None}
                await self.call("IpamDriver.RequestAddress", extra)
                network.reserved.append(address)
            data = {"AddressSpace": "weave", "Pool": network.pool, "Gateway": told, "AuxAddresses": {}}
            top: dict[str, Any] = {"com.docker.network.enable_ipv6": False, GENERIC: options or {}}
            if internal:
                top["com.docker.network.internal"] = True
            await self.call(
                "NetworkDriver.CreateNetwork",
                {"NetworkID": network.id, "Options": top, "IPv4Data": [data], "IPv6Data": []},
            )
        except EngineError:
            await self._release(network)
            raise
        return network

    async def network_rm(self, network: DockerNetwork) -> None:
        """`docker network rm`."""
        await self._release(network)
        await self.call("NetworkDriver.DeleteNetwork", {"NetworkID": network.id})

    async def _release(self, network: DockerNetwork) -> None:
        for address in network.reserved:
            await self.call("IpamDriver.ReleaseAddress", {"PoolID": network.pool_id, "Address": address})
        await self.call("IpamDriver.ReleasePool", {"PoolID": network.pool_id})

    async def request_address(self, network: DockerNetwork, ip: str = "") -> str:
        """An address for a container."""
        options = {MAC_OPTION: "02:42:ac:11:00:05"}
        wanted = {"PoolID": network.pool_id, "Address": ip, "Options": options}
        return str((await self.call("IpamDriver.RequestAddress", wanted))["Address"])

    async def create_endpoint(
        self, network: DockerNetwork, endpoint: str, address: str, mac: str = "02:42:ac:11:00:05"
    ) -> dict[str, Any]:
        """The endpoint of a container."""
        return await self.call(
            "NetworkDriver.CreateEndpoint",
            {
                "NetworkID": network.id,
                "EndpointID": endpoint,
                "Options": {"com.docker.network.endpoint.exposedports": []},
                "Interface": {"Address": address, "AddressIPv6": "", "MacAddress": mac},
            },
        )

    async def join(self, network: DockerNetwork, endpoint: str) -> dict[str, Any]:
        """The engine fetches the interface."""
        sandbox = "/var/run/docker/netns/0123456789ab"
        return await self.call(
            "NetworkDriver.Join",
            {"NetworkID": network.id, "EndpointID": endpoint, "SandboxKey": sandbox, "Options": None},
        )

    async def run(self, network: DockerNetwork, *, ip: str = "") -> Container:
        """`docker run --network`."""
        address = await self.request_address(network, ip)
        endpoint = new_id()
        try:
            created = await self.create_endpoint(network, endpoint, address)
            joined = await self.join(network, endpoint)
        except EngineError:
            released = {"PoolID": network.pool_id, "Address": address.partition("/")[0]}
            await self.call("IpamDriver.ReleaseAddress", released)
            raise
        ids = {"NetworkID": network.id, "EndpointID": endpoint}
        assert await self.call("NetworkDriver.EndpointOperInfo", ids) == {"Value": {}}
        return Container(network, endpoint, address, created, joined)

    async def rm(self, container: Container) -> None:
        """`docker rm -f`."""
        ids = {"NetworkID": container.network.id, "EndpointID": container.endpoint}
        await self.call("NetworkDriver.Leave", ids)
        await self.call("NetworkDriver.DeleteEndpoint", ids)
        await self.call("IpamDriver.ReleaseAddress", {"PoolID": container.network.pool_id, "Address": container.ip})


@asynccontextmanager
async def running_plugin(
    tmp_path: Path, daemon: FakeWeaveDaemon | None = None, *engines: Engine
) -> AsyncIterator[RunningPlugin]:
    """A plugin and the daemon it serves; `engines`: those that it may ask."""
    daemon = daemon or FakeWeaveDaemon()
    settings = PluginSettings(
        state_file=tmp_path / "state" / "docker.json", socket=tmp_path / "plugins" / "weave.sock", engines=engines
    )
    async with daemon.client() as api, trio.open_nursery() as nursery:
        ended = trio.Event()

        async def live(scope: trio.CancelScope, done: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await serve(settings, api, partial(serve_http, stop=trio.sleep_forever), task_status=task_status)
            done.set()

        async def start() -> None:
            nonlocal ended
            ended = trio.Event()
            plugin.scope = trio.CancelScope()
            await nursery.start(live, plugin.scope, ended)

        async def kill() -> None:
            plugin.scope.cancel()
            await ended.wait()

        async def restart() -> None:
            await kill()
            await start()

        plugin = RunningPlugin(settings.socket, settings.state_file, daemon, trio.CancelScope(), restart, kill)
        await start()
        plugin.restart = restart
        yield plugin
        plugin.scope.cancel()


def with_plugin(check: Callable[[RunningPlugin], Awaitable[None]]) -> Callable[[Path], None]:
    """Make a test of a coroutine: a plugin runs, whose daemon allocates from 10.32.0.0/12."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                async with running_plugin(tmp_path) as plugin:
                    await check(plugin)

        trio.run(main)

    return run
