"""The plugin inside a daemon, whose host is a fake: both sides mean the same by what they say to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from docker_plugin.engine import EngineError, RunningPlugin
from docker_plugin.fake_weave_daemon import FakeWeaveDaemon
from weave_net.testing.daemons import RunningDaemon, running_daemon
from weave_net.testing.wirings import FakeWiring

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Any

    from weave_net.client import DaemonClient

SUBNET = "10.40.0.0/16"


async def engine_of(daemon: RunningDaemon) -> RunningPlugin:
    """An engine that found the daemon's plugin."""
    path = daemon.settings.plugin_socket
    assert path is not None

    async def nothing() -> None:
        raise AssertionError("the daemon is restarted as a whole")

    with trio.fail_after(20):
        while not path.exists():  # noqa: ASYNC110 - the daemon does not wait for the plugin
            await trio.sleep(0.01)
    state = daemon.settings.directories.docker_state
    return RunningPlugin(path, state, FakeWeaveDaemon(), trio.CancelScope(), nothing, nothing)


def with_daemon(check: Callable[[RunningPlugin, RunningDaemon], Awaitable[None]]) -> Callable[[Path], None]:
    """Make a test of a coroutine: a whole daemon of fakes runs, with a plugin."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                async with running_daemon(tmp_path, plugin_socket=tmp_path / "weave.sock") as daemon:
                    await check(await engine_of(daemon), daemon)

        trio.run(main)

    return run


def attachments(client: DaemonClient) -> list[dict[str, Any]]:
    return client.attachments()


def owned(client: DaemonClient) -> str:
    return client.document("/ip")


@with_daemon
async def test_container_lives_and_leaves_nothing(plugin: RunningPlugin, daemon: RunningDaemon) -> None:
    options = {"com.docker.network.driver.mtu": "1300"}
    network = await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1", options=options)
    container = await plugin.run(network)
    wanted = await plugin.run(network, ip="10.40.0.9")
    assert container.address == "10.40.0.2/16"
    made = {entry["id"]: entry for entry in await daemon.call(attachments)}
    assert made.keys() == {container.endpoint, wanted.endpoint}
    entry = made[container.endpoint]
    assert entry["addresses"] == ["10.40.0.2/16"]
    assert (entry["owner"], entry["network"], entry["mtu"]) == ("docker", network.id, 1300)
    assert entry["mac"] == "02:42:ac:11:00:05"
    assert "docker:weave-10.40.0.0-16:reserved-" in await daemon.call(owned)
    for one in (container, wanted):
        for _ in range(2):
            await plugin.rm(one)
    await plugin.network_rm(network)
    assert await daemon.call(attachments) == []
    assert "docker" not in await daemon.call(owned)


@with_daemon
async def test_bridge_as_gateway(plugin: RunningPlugin, daemon: RunningDaemon) -> None:
    network = await plugin.network_create(subnet=SUBNET, options={"weave.gateway": "bridge"})
    first = await plugin.run(network)
    assert first.address == "10.40.0.1/16"
    assert first.joined["Gateway"] == "10.40.0.2"
    assert (await plugin.run(network)).joined["Gateway"] == "10.40.0.2"
    assert '"10.40.0.2/16"' in await daemon.call(lambda client: client.document("/expose"))


@with_daemon
async def test_addresses_of_dockers_own_ipam_driver_are_claimed(plugin: RunningPlugin, daemon: RunningDaemon) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    await plugin.create_endpoint(network, "first", "10.40.0.7/16")
    assert "10.40.0.7/16" in await daemon.call(owned)
    with pytest.raises(EngineError, match=r"10\.40\.0\.7"):
        await plugin.create_endpoint(network, "second", "10.40.0.7/16")
    assert [entry["id"] for entry in await daemon.call(attachments)] == ["first"]


@with_daemon
async def test_ipv6_and_subnets_outside_of_the_range(plugin: RunningPlugin, daemon: RunningDaemon) -> None:
    network = await plugin.network_create(subnet="192.168.7.0/24")
    with pytest.raises(EngineError, match="--ipalloc-range only"):
        await plugin.run(network)
    await plugin.run(network, ip="192.168.7.5")
    ids = {"NetworkID": network.id, "EndpointID": "six"}
    interface = {"Address": "", "AddressIPv6": "fd00:6::5/64", "MacAddress": ""}
    made = await plugin.call("NetworkDriver.CreateEndpoint", {**ids, "Interface": interface})
    assert made["Interface"]["MacAddress"]
    assert {tuple(entry["addresses"]) for entry in await daemon.call(attachments)} == {
        ("192.168.7.5/24",),
        ("fd00:6::5/64",),
    }


def test_restarted_daemon_knows_docker_containers(tmp_path: Path) -> None:
    async def main() -> None:
        fakes = FakeWiring()
        path = tmp_path / "weave.sock"
        with trio.fail_after(60):
            async with running_daemon(tmp_path, fakes, plugin_socket=path) as daemon:
                plugin = await engine_of(daemon)
                network = await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1")
                container = await plugin.run(network)
                state, held = plugin.state, await daemon.call(owned)
            assert not path.exists()
            async with running_daemon(tmp_path, fakes, plugin_socket=path) as daemon:
                plugin = await engine_of(daemon)
                assert plugin.state == state
                assert await daemon.call(owned) == held
                assert await plugin.join(network, container.endpoint) == container.joined
                await plugin.rm(container)
                await plugin.network_rm(network)
                assert "docker" not in await daemon.call(owned)

    trio.run(main)
