"""The plugin as an engine drives it, over its socket: the life of networks and containers (docker.md section 5)."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
import trio

from docker_plugin.engine import EngineError, RunningPlugin, new_id, running_plugin, with_plugin
from docker_plugin.fake_weave_daemon import MAC, FakeWeaveDaemon

if TYPE_CHECKING:
    from pathlib import Path

SUBNET = "10.40.0.0/16"


@with_plugin
async def test_first_use(plugin: RunningPlugin) -> None:
    assert await plugin.call("Plugin.Activate") == {"Implements": ["NetworkDriver", "IpamDriver"]}
    assert await plugin.call("NetworkDriver.GetCapabilities") == {
        "Scope": "local",
        "ConnectivityScope": "global",
        "GwAllocChecker": True,
    }
    assert await plugin.call("IpamDriver.GetCapabilities") == {
        "RequiresMACAddress": True,
        "RequiresRequestReplay": False,
    }
    assert await plugin.call("IpamDriver.GetDefaultAddressSpaces") == {
        "LocalDefaultAddressSpace": "weave",
        "GlobalDefaultAddressSpace": "weave",
    }
    assert await plugin.call("NetworkDriver.GwAllocCheck", {"Options": {}}) == {"SkipIPv4": True, "SkipIPv6": True}


@with_plugin
async def test_life_of_a_container_leaves_nothing(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    assert plugin.daemon.docker_addresses() == []  # no gateway costs an address
    container = await plugin.run(network)
    assert container.address == "10.40.0.1/16"
    assert container.created == {"Interface": {}}  # the engine gave the MAC address
    assert container.joined == {
        "InterfaceName": {"SrcName": f"vethwg{container.endpoint[:9]}", "DstPrefix": "ethwe"},
        "StaticRoutes": [],
        "DisableGatewayService": False,
    }
    made = plugin.daemon.attachments[container.endpoint]
    wanted = {
        "peer": f"vethwg{container.endpoint[:9]}",
        "addresses": ["10.40.0.1/16"],
        "claim": False,  # its address is recorded already
        "owner": "docker",
        "network": network.id,
        "mac": "02:42:ac:11:00:05",
        "mtu": None,
        "keep": True,
        "multicast_route": False,
    }
    assert {key: made[key] for key in wanted} == wanted
    assert plugin.daemon.docker_addresses() == ["10.40.0.1/16"]
    await plugin.rm(container)
    await plugin.network_rm(network)
    assert plugin.daemon.attachments == {}
    assert plugin.daemon.held == {}
    assert plugin.state == {"version": 1, "networks": {}, "endpoints": {}, "pools": {}, "addresses": {}}


@with_plugin
async def test_mac_address_is_answered_where_it_was_not_given(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    made = await plugin.create_endpoint(network, new_id(), await plugin.request_address(network), mac="")
    assert made == {"Interface": {"MacAddress": MAC}}


@with_plugin
async def test_addresses_of_another_ipam_driver_are_claimed(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    endpoint = new_id()
    await plugin.create_endpoint(network, endpoint, "172.18.0.2/16")
    assert plugin.daemon.attachments[endpoint]["claim"] is True


@with_plugin
async def test_endpoint_without_address_is_possible(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    endpoint = new_id()
    await plugin.create_endpoint(network, endpoint, "")
    assert plugin.daemon.attachments[endpoint]["addresses"] == []
    assert plugin.daemon.attachments[endpoint]["claim"] is False


@with_plugin
async def test_options_reach_the_container(plugin: RunningPlugin) -> None:
    options = {"works.weave.multicast": "", "com.docker.network.driver.mtu": "1300", "com.example.x": "ignored"}
    network = await plugin.network_create(subnet=SUBNET, options=options)
    container = await plugin.run(network)
    assert container.joined["StaticRoutes"] == [{"Destination": "224.0.0.0/4", "RouteType": 1}]
    assert "Gateway" not in container.joined
    assert plugin.daemon.attachments[container.endpoint]["mtu"] == 1300


@with_plugin
async def test_internal_network_has_no_way_out(plugin: RunningPlugin) -> None:
    container = await plugin.run(await plugin.network_create(subnet=SUBNET, internal=True))
    assert container.joined["DisableGatewayService"] is True
    assert "Gateway" not in container.joined


@with_plugin
async def test_bridge_as_gateway_is_exposed_once(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET, options={"weave.gateway": "bridge"})
    assert plugin.daemon.exposed == []
    for _ in range(2):
        assert (await plugin.run(network)).joined["Gateway"] == "10.40.255.254"
    assert plugin.daemon.exposed == ["10.40.255.254/16"]


@with_plugin
async def test_bridge_as_gateway_takes_an_address_of_just_the_subnet(plugin: RunningPlugin) -> None:
    plugin.daemon.exposed = ["10.40.7.7/24", "10.40.0.9/16"]
    network = await plugin.network_create(subnet=SUBNET, options={"weave.gateway": "bridge"})
    assert (await plugin.run(network)).joined["Gateway"] == "10.40.0.9"


@with_plugin
async def test_bridge_as_gateway_outside_of_the_range_must_be_exposed_by_hand(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet="192.168.7.0/24", options={"weave.gateway": "bridge"})
    with pytest.raises(EngineError, match="weave expose ADDRESS/24"):
        await plugin.run(network, ip="192.168.7.5")
    plugin.daemon.exposed = ["192.168.7.1/24"]
    assert (await plugin.run(network, ip="192.168.7.5")).joined["Gateway"] == "192.168.7.1"


@with_plugin
async def test_ports_are_not_silently_unpublished(plugin: RunningPlugin) -> None:
    ids = {"NetworkID": new_id(), "EndpointID": new_id()}
    await plugin.call("NetworkDriver.ProgramExternalConnectivity", {**ids, "Options": {}})
    published = {"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 8080}]}
    with pytest.raises(EngineError, match="leave that option out"):
        await plugin.call("NetworkDriver.ProgramExternalConnectivity", {**ids, "Options": published})
    assert await plugin.call("NetworkDriver.RevokeExternalConnectivity", ids) == {}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"weave.multicast": "true"}, r"no option weave.multicast; there are works.weave.multicast"),
        ({"works.weave.gateway": "bridge"}, r"no option works.weave.gateway; there are .*weave.gateway=bridge"),
        ({"works.weave.multicast": "maybe"}, "neither true nor false"),
        ({"weave.dns": "off"}, "neither true nor false"),
        ({"weave.gateway": "10.40.0.1"}, "neither 'bridge' nor 'none'"),
        ({"com.docker.network.driver.mtu": "9x"}, "no number of bytes from 576 to 65535"),
        ({"com.docker.network.driver.mtu": "100"}, "no number of bytes from 576 to 65535"),
        ({"weave.dns": 1}, "no text"),
    ],
)
def test_wrong_options_are_refused_and_nothing_stays(tmp_path: Path, options: dict[str, str], text: str) -> None:
    @with_plugin
    async def check(plugin: RunningPlugin) -> None:
        with pytest.raises(EngineError, match=text):
            await plugin.network_create(subnet=SUBNET, options=options)
        assert plugin.state["networks"] == {}
        assert plugin.state["pools"] == {}

    check(tmp_path)


@with_plugin
async def test_internal_and_gateway_contradict(plugin: RunningPlugin) -> None:
    with pytest.raises(EngineError, match="--internal"):
        await plugin.network_create(subnet=SUBNET, options={"weave.gateway": "bridge"}, internal=True)


@with_plugin
async def test_every_ending_may_be_repeated(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET, aux=("10.40.0.9",))
    container = await plugin.run(network)
    for _ in range(2):
        await plugin.rm(container)
    for _ in range(2):
        await plugin.network_rm(network)
    assert plugin.daemon.held == {}


@with_plugin
async def test_create_and_join_may_be_repeated(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    container = await plugin.run(network)
    before = plugin.daemon.attachments[container.endpoint]
    assert await plugin.create_endpoint(network, container.endpoint, container.address) == container.created
    assert await plugin.join(network, container.endpoint) == container.joined
    assert plugin.daemon.attachments[container.endpoint] == before
    assert plugin.state["endpoints"][container.endpoint]["joined"] is True


@with_plugin
async def test_failed_endpoint_leaves_nothing_and_shows_the_daemons_text(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    plugin.daemon.errors["PUT /attachment"] = (500, "cannot create the interface: File exists")
    with pytest.raises(EngineError, match="File exists"):
        await plugin.run(network)
    assert plugin.state["endpoints"] == {}
    assert plugin.daemon.held == {}


@with_plugin
async def test_failed_repetition_leaves_the_endpoint(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    container = await plugin.run(network)
    plugin.daemon.errors["PUT /attachment"] = (503, "busy")
    with pytest.raises(EngineError, match="busy"):
        await plugin.create_endpoint(network, container.endpoint, container.address)
    assert container.endpoint in plugin.daemon.attachments
    assert container.endpoint in plugin.state["endpoints"]


@with_plugin
async def test_join_of_nothing_says_so(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    with pytest.raises(EngineError, match="there is no endpoint"):
        await plugin.join(network, new_id())


@with_plugin
async def test_many_containers_at_once_have_different_addresses(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    addresses: list[str] = []

    async def run() -> None:
        addresses.append((await plugin.run(network)).address)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(run)
    assert len(set(addresses)) == 20
    assert sorted(plugin.daemon.docker_addresses()) == sorted(addresses)


@with_plugin
async def test_same_ip_at_once_is_given_to_one(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            outcomes.append(await plugin.request_address(network, "10.40.0.5"))
        except EngineError as error:
            outcomes.append(f"no: {error}")

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert sum(not text.startswith("no") for text in outcomes) == 1


# The socket


@with_plugin
async def test_socket_is_for_root_only_and_goes_with_the_plugin(plugin: RunningPlugin) -> None:
    assert stat.S_IMODE(plugin.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(plugin.state_file.stat().st_mode) == 0o600
    await plugin.kill()
    assert not plugin.socket.exists()


def test_stale_socket_is_replaced_before_the_daemon_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "plugins" / "weave.sock"
    there: list[bool] = []

    async def look(_: str) -> None:
        there.append(path.exists())

    async def main() -> None:
        path.parent.mkdir()
        with trio.socket.socket(trio.socket.AF_UNIX) as sock:
            await sock.bind(str(path))
        assert path.exists()
        async with running_plugin(tmp_path, FakeWeaveDaemon(before=look)) as plugin:
            assert there
            assert not any(there)
            await plugin.call("Plugin.Activate")

    trio.run(main)


def test_living_socket_of_another_plugin_is_left(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "plugins" / "weave.sock"
        path.parent.mkdir()
        with trio.socket.socket(trio.socket.AF_UNIX) as sock:
            await sock.bind(str(path))
            sock.listen()
            with pytest.raises(ExceptionGroup) as caught:
                async with running_plugin(tmp_path):
                    pass
        assert caught.group_contains(Exception, match="another program serves")
        assert path.exists()

    trio.run(main)


def test_what_is_no_socket_is_left(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "plugins" / "weave.sock"
        path.parent.mkdir()
        path.write_text("precious")
        with pytest.raises(ExceptionGroup) as caught:
            async with running_plugin(tmp_path):
                pass
        assert caught.group_contains(Exception, match="weave.sock")
        assert path.read_text() == "precious"

    trio.run(main)
