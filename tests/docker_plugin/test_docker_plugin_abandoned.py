"""What Docker gave up while it could not say so is released; whatever is in doubt is kept."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pytest
import trio

from docker_plugin.engine import Container, DockerNetwork, RunningPlugin, running_plugin
from docker_plugin.fake_engine import FakeEngine, fake_engine, until
from weave_docker.engine_documents import Network, read_network, read_networks
from weave_docker.engine_errors import EngineUnavailable
from weave_docker.engine_sockets import Engine
from weave_docker.plugin import abandoned as module
from weave_docker.plugin.abandoned import Abandoned, Tidying, abandoned
from weave_docker.plugin.daemon_api import Daemon
from weave_docker.plugin.ipam_driver import IpamDriver
from weave_docker.plugin.messages import Message
from weave_docker.plugin.network_driver import NetworkDriver
from weave_docker.plugin.pool_requests import PoolRequests
from weave_docker.plugin.state import Endpoint, Held, State
from weave_docker.plugin.state_file import StateFile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import httpx

    from weave_docker.engine_client import EngineClient

SUBNET = "10.40.0.0/16"
POOL = "weave-10.40.0.0-16"
LOOK_S = 0.05
REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
NOTHING = Abandoned()


# Which they are


def network(**changes: Any) -> Network:
    values: dict[str, Any] = {
        "id": "net",
        "driver": "weave",
        "options": {},
        "ipam_driver": "weave",
        "subnets": ((SUBNET, ""),),
        "endpoints": frozenset(),
    }
    return Network(**{**values, **changes})


def held(holder: str | None = "docker:x", *pools: str, reserved: bool = False) -> Held:
    return Held(pools or (POOL,), holder, reserved)


STATE = State(
    endpoints={"e1": Endpoint("net", ("10.40.0.2/16",), joined=True)},
    pools={POOL: 1},
    addresses={"10.40.0.1": held("docker:gateway", reserved=True), "10.40.0.2": held(), "10.40.0.3": held("docker:y")},
)
ALL = Abandoned(frozenset({"e1"}), frozenset({("10.40.0.2", held()), ("10.40.0.3", held("docker:y"))}))
LONE = Abandoned(frozenset(), frozenset({("10.40.0.3", held("docker:y"))}))
"""An address that no endpoint of the state has."""


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        ([network()], ALL),
        ([network(driver="weave:latest", ipam_driver="weave:latest")], ALL),
        ([network(), network(id="other")], ALL),
        ([network(endpoints=frozenset({"e1"}))], LONE),
        ([network(endpoints=frozenset({"e1"}), addresses=frozenset({"10.40.0.3"}))], NOTHING),
        ([network(endpoints=frozenset({"e1"}), addresses=frozenset({"10.40.0.2"}))], LONE),
        # The addresses of an endpoint that is kept are kept.
        ([network(id="of-another-engine")], LONE),
        ([network(driver="bridge")], LONE),
        # A network whose endpoints are not told.
        ([network(endpoints=None)], LONE),
        # Addresses that are not ours, and pools that the engine does not know.
        ([network(ipam_driver="default")], Abandoned(frozenset({"e1"}))),
        ([network(subnets=(("10.41.0.0/16", ""),))], Abandoned(frozenset({"e1"}))),
        ([network(subnets=((SUBNET, "10.40.1.0/24"),))], Abandoned(frozenset({"e1"}))),
        ([network(subnets=())], Abandoned(frozenset({"e1"}))),
        ([network(subnets=(("nonsense", ""), ("10.40.0.0/31", ""), (SUBNET, "10.9.0.0/24"), (SUBNET, "::/64")))],
         Abandoned(frozenset({"e1"}))),
        ([], NOTHING),
    ],
)  # fmt: skip
def test_what_is_abandoned(networks: list[Network], expected: Abandoned) -> None:
    assert abandoned(STATE, networks, "weave") == expected


def test_pool_that_somebody_else_uses_as_well() -> None:
    state = State(pools={POOL: 2}, addresses={"10.40.0.3": held()})
    assert abandoned(state, [network()], "weave") == NOTHING
    assert abandoned(state, [network(), network(id="second")], "weave").addresses


def test_pool_that_nobody_asked_for() -> None:
    assert abandoned(State(addresses={"10.40.0.3": held()}), [network()], "weave") == NOTHING


def test_addresses_of_ipv6() -> None:
    pool = "weave-fd00:6::-64"
    state = State(pools={pool: 1}, addresses={"fd00:6::5": held(None, pool), "fd00:6::6": held(None, pool)})
    known = network(subnets=(("fd00:6::/64", ""),), addresses=frozenset({"fd00:6::5"}))
    assert abandoned(state, [known], "weave").addresses == {("fd00:6::6", held(None, pool))}


def test_address_that_was_given_again_is_another_one() -> None:
    before = Abandoned(frozenset({"e1"}), frozenset({("10.40.0.3", held("docker:old"))}))
    after = Abandoned(frozenset({"e1", "e2"}), frozenset({("10.40.0.3", held("docker:new"))}))
    assert before & after == Abandoned(frozenset({"e1"}))


# What the engine says of networks

INSPECTED = {
    "Id": "0a1b",
    "Driver": "weave",
    "Options": {"weave.dns": "false"},
    "IPAM": {"Driver": "weave", "Options": {}, "Config": [{"Subnet": SUBNET, "IPRange": "10.40.1.0/24"}]},
    "Containers": {
        "c1": {"EndpointID": "e1", "IPv4Address": "10.40.1.1/16", "IPv6Address": ""},
        "ep-e2": {"EndpointID": "e2", "IPv4Address": "", "IPv6Address": "FD00:6::0:5/64"},
    },
}


def test_network_is_read() -> None:
    assert read_network(INSPECTED) == Network(
        id="0a1b",
        driver="weave",
        options={"weave.dns": "false"},
        ipam_driver="weave",
        subnets=((SUBNET, "10.40.1.0/24"),),
        endpoints=frozenset({"e1", "e2"}),
        addresses=frozenset({"10.40.1.1", "fd00:6::5"}),
    )


@pytest.mark.parametrize("containers", [None, [], "none", 5])
def test_endpoints_that_are_not_told(containers: object) -> None:
    assert read_network({**INSPECTED, "Containers": containers}).endpoints is None


@pytest.mark.parametrize("value", [None, 5, "x", [5, None, "x"], {"a": 5, "b": {"EndpointID": 5, "IPv4Address": []}}])
def test_nonsense_inside_of_a_network_is_nothing(value: object) -> None:
    read_network(value)
    known = read_network({**INSPECTED, "IPAM": value, "Containers": value})
    assert known.addresses == frozenset()
    assert known.ipam_driver == ""
    assert read_network({**INSPECTED, "IPAM": {"Config": value}}).ipam_driver == ""


def test_list_of_networks_tells_no_endpoints() -> None:
    """Docker has an empty map of containers there, whatever is on the network."""
    (known,) = read_networks([INSPECTED, {"Id": "../.."}, 5], "Docker")
    assert (known.id, known.endpoints, known.addresses) == ("0a1b", None, frozenset())
    with pytest.raises(EngineUnavailable, match="list of networks"):
        read_networks({"message": "no"}, "Docker")


# One look after the other


class ToldNetworks:
    """An engine that tells of its networks what a test wants; None: it does not answer."""

    def __init__(self) -> None:
        self.now: Network | None = None

    async def networks(self) -> list[Network]:
        if self.now is None:
            raise EngineUnavailable("out of order")
        return [self.now]

    async def network(self, _: str) -> Network | None:
        return self.now


async def second_plugin(
    plugin: RunningPlugin, api: httpx.AsyncClient
) -> tuple[StateFile, Daemon, IpamDriver, NetworkDriver]:
    """The parts of a plugin with the state of this one, to be called directly."""
    states, daemon, requests = StateFile(plugin.state_file), Daemon(api), PoolRequests(trio.current_time)
    await states.load()
    ipam = IpamDriver(states, daemon, requests, new_token=str)
    return states, daemon, ipam, NetworkDriver(states, daemon, requests)


@pytest.mark.parametrize(
    ("looks", "gone"),
    [
        ("-", False),  # the engine knows an endpoint only once it has our answer
        ("-+-+-", False),
        ("--", True),
        ("-+--", True),
        ("-?-", True),  # a look that was none proves nothing
        ("???", False),
    ],
)
def test_two_looks(tmp_path: Path, looks: str, gone: bool) -> None:
    async def main() -> None:
        async with running_plugin(tmp_path) as plugin, plugin.daemon.client() as api:
            made = await plugin.network_create(subnet=SUBNET)
            container = await plugin.run(made)
            states, daemon, ipam, _ = await second_plugin(plugin, api)
            engine = ToldNetworks()
            tidying = Tidying(cast("list[EngineClient]", [engine]), "weave", states, daemon, ipam)
            for look in looks:
                known = frozenset({container.endpoint} if look == "+" else ())
                engine.now = None if look == "?" else network(id=made.id, endpoints=known)
                await tidying.look()
            assert (container.endpoint not in states.state.endpoints) is gone
            assert (plugin.daemon.docker_addresses() == []) is gone

    trio.run(main)


@pytest.mark.parametrize("released_first", [True, False])
def test_container_that_starts_very_slowly(tmp_path: Path, released_first: bool) -> None:
    """Between its address and its endpoint lie two looks. Either the address is kept, or the endpoint claims it."""

    async def main() -> None:
        async with running_plugin(tmp_path) as plugin, plugin.daemon.client() as api:
            made = await plugin.network_create(subnet=SUBNET)
            address = await plugin.request_address(made)
            states, _, ipam, driver = await second_plugin(plugin, api)
            ip = address.partition("/")[0]
            given = states.state.addresses[ip]
            interface = {"Address": address, "AddressIPv6": "", "MacAddress": "02:42:ac:11:00:05"}
            wanted = Message({"NetworkID": made.id, "EndpointID": "e" * 64, "Interface": interface})
            if released_first:
                assert await ipam.forget_unused(ip, given)
                assert plugin.daemon.docker_addresses() == []
                await driver.create_endpoint(wanted)
            else:
                await driver.create_endpoint(wanted)
                assert not await ipam.forget_unused(ip, given)
                assert plugin.daemon.docker_addresses() == [address]
            assert plugin.daemon.attachments["e" * 64]["claim"] is released_first

    trio.run(main)


# The plugin at work


class World(NamedTuple):
    plugin: RunningPlugin
    engine: FakeEngine

    async def create(self, **options: Any) -> DockerNetwork:
        """A network that the engine knows."""
        made = await self.plugin.network_create(subnet=SUBNET, **options)
        ipam = {"Driver": "weave", "Config": [{"Subnet": SUBNET}]}
        self.engine.networks[made.id] = {"Id": made.id, "Driver": "weave", "IPAM": ipam, "Containers": {}}
        return made

    async def run(self, network: DockerNetwork) -> Container:
        """A container that it knows as well."""
        self.engine.answers["/networks"] = REFUSAL  # or two looks might come before it knows
        made = await self.plugin.run(network)
        document = {"EndpointID": made.endpoint, "IPv4Address": made.address, "IPv6Address": ""}
        self.engine.networks[network.id]["Containers"][made.endpoint] = document
        del self.engine.answers["/networks"]
        return made

    def forget(self, container: Container) -> None:
        """The container ends, and the engine cannot say so."""
        del self.engine.networks[container.network.id]["Containers"][container.endpoint]

    def knows(self, container: Container) -> bool:
        """Whether anything of it is left with us."""
        daemon, state = self.plugin.daemon, self.plugin.state
        parts = (
            container.endpoint in daemon.attachments,
            container.address in daemon.docker_addresses(),
            container.endpoint in state["endpoints"],
            container.ip in state["addresses"],
        )
        return any(parts)

    async def looks(self, number: int) -> None:
        """Wait until the engine was asked so many times more."""
        before = self.engine.asked.count("/networks")
        await until(lambda: self.engine.asked.count("/networks") >= before + number)


@asynccontextmanager
async def a_world(tmp_path: Path) -> AsyncIterator[World]:
    socket = tmp_path / "docker.sock"
    with fake_engine(socket) as engine:
        async with running_plugin(tmp_path, None, Engine(socket)) as plugin:
            yield World(plugin, engine)


def with_engine(check: Callable[[World], Awaitable[None]]) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Make a test of a coroutine: the plugin may ask an engine."""

    def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def main() -> None:
            with trio.fail_after(30):
                async with a_world(tmp_path) as world:
                    await check(world)

        monkeypatch.setattr(module, "LOOK_S", LOOK_S)
        trio.run(main)

    return run


@with_engine
async def test_what_the_engine_does_not_know_goes(world: World) -> None:
    network = await world.create(gateway="10.40.0.1")
    kept, lost = await world.run(network), await world.run(network)
    await world.looks(3)
    assert world.knows(lost)
    world.forget(lost)
    await until(lambda: not world.knows(lost))
    await world.looks(3)
    assert world.knows(kept)
    assert world.plugin.daemon.docker_addresses() == ["10.40.0.1/16", kept.address]
    await world.plugin.rm(lost)  # should the engine still come
    assert world.knows(kept)


@with_engine
async def test_address_whose_release_was_lost_goes(world: World) -> None:
    network = await world.create()
    kept, lost = await world.run(network), await world.run(network)
    ids = {"NetworkID": network.id, "EndpointID": lost.endpoint}
    await world.plugin.call("NetworkDriver.DeleteEndpoint", ids)
    await world.looks(3)
    assert world.knows(lost)
    world.forget(lost)
    await until(lambda: not world.knows(lost))
    assert world.knows(kept)


@with_engine
async def test_after_a_restart_of_the_daemon(world: World) -> None:
    lost = await world.run(await world.create())
    await world.plugin.kill()
    world.forget(lost)
    assert world.knows(lost)
    await world.plugin.restart()
    await until(lambda: not world.knows(lost))


@with_engine
async def test_engine_that_does_not_answer_is_no_reason(world: World) -> None:
    container = await world.run(await world.create())
    for path in ("/networks", f"/networks/{container.network.id}"):
        world.engine.answers[path] = REFUSAL
        world.forget(container)
        asked = len(world.engine.asked)
        await until(lambda: len(world.engine.asked) > asked + 4)  # noqa: B023 - awaited here
        document = {"EndpointID": container.endpoint, "IPv4Address": container.address}
        world.engine.networks[container.network.id]["Containers"] = {container.endpoint: document}
        del world.engine.answers[path]
        await world.looks(3)
        assert world.knows(container)


@with_engine
async def test_networks_that_the_engine_does_not_know_are_left(world: World) -> None:
    """Another engine may serve itself from this plugin."""
    other = await world.plugin.network_create(subnet="10.41.0.0/16")
    container = await world.plugin.run(other)
    await world.run(await world.create())
    await world.looks(4)
    assert world.knows(container)


@with_engine
async def test_release_that_fails_is_tried_again(world: World) -> None:
    lost = await world.run(await world.create())
    world.plugin.daemon.errors["DELETE /attachment"] = (500, "no")
    world.forget(lost)
    await world.looks(4)
    assert world.knows(lost)
    world.plugin.daemon.errors.clear()
    await until(lambda: not world.knows(lost))


@with_engine
async def test_engine_is_not_asked_for_nothing(world: World) -> None:
    await trio.sleep(5 * LOOK_S)
    assert world.engine.asked == []
