"""The IPAM driver: pools, gateways, auxiliary addresses, --ip, IPv6 (docker.md section 4)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from docker_plugin.engine import GATEWAY, MAC_OPTION, EngineError, RunningPlugin, with_plugin
from docker_plugin.fake_weave_daemon import FakeWeaveDaemon
from weave_docker.plugin.daemon_api import ANSWER_LIMIT_S, Daemon
from weave_docker.plugin.errors import DaemonRefused

SUBNET = "10.40.0.0/16"
MAC = "02:42:ac:11:00:05"


def pool_request(subnet: str = "", part: str = "", *, v6: bool = False) -> dict[str, object]:
    return {"AddressSpace": "weave", "Pool": subnet, "SubPool": part, "Options": {}, "V6": v6}


@with_plugin
async def test_default_pool_is_the_default_subnet(plugin: RunningPlugin) -> None:
    network = await plugin.network_create()
    assert network.pool == "10.32.0.0/12"
    assert (await plugin.run(network)).address == "10.32.0.1/12"


@with_plugin
async def test_gateway_costs_no_address(plugin: RunningPlugin) -> None:
    got = await plugin.call("IpamDriver.RequestPool", pool_request(SUBNET))
    assert got["Data"] == {GATEWAY: "10.40.0.0/16"}
    for address in ("", "10.40.0.0"):
        wanted = {"PoolID": got["PoolID"], "Address": address, "Options": {"RequestAddressType": GATEWAY}}
        assert (await plugin.call("IpamDriver.RequestAddress", wanted))["Address"] == "10.40.0.0/16"
    await plugin.call("IpamDriver.ReleaseAddress", {"PoolID": got["PoolID"], "Address": "10.40.0.0"})
    assert plugin.daemon.held == {}


@with_plugin
async def test_same_pool_has_the_same_id_until_the_last_network_goes(plugin: RunningPlugin) -> None:
    first, second = [await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1") for _ in range(2)]
    other = await plugin.network_create(subnet=SUBNET, ip_range="10.40.3.0/24")
    assert first.pool_id == second.pool_id
    assert first.pool_id != other.pool_id
    await plugin.network_rm(first)
    assert plugin.daemon.docker_addresses() == ["10.40.0.1/16"]  # the second network's gateway too
    await plugin.network_rm(second)
    assert plugin.daemon.docker_addresses() == []


@with_plugin
async def test_gateway_of_two_pools_in_one_subnet_stays_for_the_second(plugin: RunningPlugin) -> None:
    first = await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1")
    second = await plugin.network_create(subnet=SUBNET, ip_range="10.40.3.0/24", gateway="10.40.0.1")
    await plugin.network_rm(first)
    assert plugin.daemon.docker_addresses() == ["10.40.0.1/16"]
    await plugin.network_rm(second)
    assert plugin.daemon.docker_addresses() == []


@with_plugin
async def test_part_of_the_subnet(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET, ip_range="10.40.3.0/24")
    assert (await plugin.run(network)).address == "10.40.3.1/16"
    assert (await plugin.run(network, ip="10.40.9.9")).address == "10.40.9.9/16"


@pytest.mark.parametrize(
    ("subnet", "part", "text"),
    [
        ("", "10.40.3.0/24", "needs a --subnet"),
        (SUBNET, "10.41.3.0/24", "not inside of"),
        ("10.40.3.0/24", SUBNET, "not inside of"),
        ("10.40.0.0/31", "", "too small"),
        (SUBNET, "10.40.0.4/32", "too small"),
        ("10.40.0.0/99", "", "no subnet"),
        ("nonsense", "", "no subnet"),
        (SUBNET, "fd00::/64", "family"),
        ("fd00::/64", "", "family"),
    ],
)
def test_pools_that_make_no_sense(tmp_path, subnet: str, part: str, text: str) -> None:  # type: ignore[no-untyped-def]
    @with_plugin
    async def check(plugin: RunningPlugin) -> None:
        with pytest.raises(EngineError, match=text):
            await plugin.call("IpamDriver.RequestPool", pool_request(subnet, part))

    check(tmp_path)


@with_plugin
async def test_wanted_address_is_given_to_one_only(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    container = await plugin.run(network, ip="10.40.0.5")
    assert container.address == "10.40.0.5/16"
    assert plugin.daemon.docker_addresses() == ["10.40.0.5/16"]
    with pytest.raises(EngineError, match="in use on this host"):
        await plugin.run(network, ip="10.40.0.5")
    plugin.daemon.elsewhere.add("10.40.0.6")
    with pytest.raises(EngineError, match="already in use"):
        await plugin.run(network, ip="10.40.0.6")
    await plugin.rm(container)
    assert (await plugin.run(network, ip="10.40.0.5")).address == "10.40.0.5/16"


@with_plugin
async def test_addresses_that_no_container_may_have(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    for address, text in (("10.41.0.1", "not in the subnet"), ("10.40.0.0", "itself"), ("10.40.255.255", "itself")):
        with pytest.raises(EngineError, match=text):
            await plugin.request_address(network, address)


@with_plugin
async def test_gateway_and_auxiliary_addresses_are_reserved(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1", aux=("10.40.0.2",))
    assert plugin.daemon.docker_addresses() == ["10.40.0.1/16", "10.40.0.2/16"]
    container = await plugin.run(network)
    assert container.address == "10.40.0.3/16"
    with pytest.raises(EngineError, match="in use on this host"):
        await plugin.run(network, ip="10.40.0.2")
    await plugin.rm(container)
    await plugin.network_rm(network)
    assert plugin.daemon.docker_addresses() == []


@with_plugin
async def test_same_network_on_another_host_may_have_the_same_gateway(plugin: RunningPlugin) -> None:
    plugin.daemon.elsewhere |= {"10.40.0.1", "10.40.0.2"}  # the other host reserved them
    network = await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1", aux=("10.40.0.2",))
    assert (await plugin.run(network)).address == "10.40.0.3/16"
    plugin.daemon.elsewhere.clear()  # the other host's network was removed: now they are reserved for this one
    assert (await plugin.run(network)).address == "10.40.0.4/16"
    assert plugin.daemon.docker_addresses() == [f"10.40.0.{number}/16" for number in (1, 2, 3, 4)]
    await plugin.network_rm(network)


@with_plugin
async def test_subnet_outside_of_the_range_takes_only_wanted_addresses(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet="192.168.7.0/24")
    with pytest.raises(EngineError, match=r"--ipalloc-range only: .*--ip$"):
        await plugin.run(network)
    container = await plugin.run(network, ip="192.168.7.5")
    assert plugin.daemon.attachments[container.endpoint]["claim"] is False
    await plugin.rm(container)
    assert plugin.daemon.docker_addresses() == []


@with_plugin
async def test_without_allocation_only_wanted_addresses(plugin: RunningPlugin) -> None:
    plugin.daemon.range = None
    with pytest.raises(EngineError, match="give a --subnet"):
        await plugin.network_create()
    network = await plugin.network_create(subnet=SUBNET)
    with pytest.raises(EngineError, match="address allocation is off"):
        await plugin.run(network)
    assert (await plugin.run(network, ip="10.40.0.5")).address == "10.40.0.5/16"
    with pytest.raises(EngineError, match="in use on this host"):
        await plugin.run(network, ip="10.40.0.5")


@with_plugin
async def test_engine_that_asks_for_ever_gets_an_advice(plugin: RunningPlugin) -> None:
    held: list[str] = []
    with pytest.raises(EngineError, match=r"docker network create --subnet 10\.32\.0\.0/12"):
        while len(held) < 20:
            held.append((await plugin.call("IpamDriver.RequestPool", pool_request()))["PoolID"])
    for pool_id in held:  # as the engine then does
        await plugin.call("IpamDriver.ReleasePool", {"PoolID": pool_id})
    assert plugin.state["pools"] == {}
    network = await plugin.network_create(subnet="10.32.0.0/12")  # the advice
    assert (await plugin.run(network)).address == "10.32.0.1/12"


@with_plugin
async def test_many_networks_in_the_default_subnet(plugin: RunningPlugin) -> None:
    networks = [await plugin.network_create() for _ in range(8)]
    assert {network.pool for network in networks} == {"10.32.0.0/12"}


@with_plugin
async def test_forgotten_addresses_go_with_the_last_network(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    await plugin.request_address(network)  # the engine dies and never asks to release it
    await plugin.network_rm(network)
    assert plugin.daemon.held == {}
    assert plugin.state["addresses"] == {}


@with_plugin
async def test_reason_of_the_allocator_is_shown(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    plugin.daemon.errors["POST /ip"] = (503, "no ring yet: waiting for 2 of 3 peers")
    with pytest.raises(EngineError, match="waiting for 2 of 3 peers"):
        await plugin.run(network)


@with_plugin
async def test_release_that_the_daemon_refuses_is_no_error(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    container = await plugin.run(network)
    plugin.daemon.errors["DELETE /ip"] = (500, "disk full")
    await plugin.rm(container)
    plugin.daemon.errors.clear()
    await plugin.restart()
    assert plugin.daemon.docker_addresses() == []


# IPv6


@with_plugin
async def test_ipv6_needs_a_subnet(plugin: RunningPlugin) -> None:
    with pytest.raises(EngineError, match=r"--subnet fd00:6::/64"):
        await plugin.call("IpamDriver.RequestPool", pool_request(v6=True))
    options = {"com.docker.network.enable_ipv6": True}
    wanted = {"NetworkID": "n1", "Options": options, "IPv4Data": [], "IPv6Data": []}
    with pytest.raises(EngineError, match=r"--subnet fd00:6::/64"):
        await plugin.call("NetworkDriver.CreateNetwork", wanted)


@with_plugin
async def test_ipv6_address_follows_from_the_mac_address(plugin: RunningPlugin) -> None:
    got = await plugin.call("IpamDriver.RequestPool", pool_request("fd00:6::/64", v6=True))
    wanted = {"PoolID": got["PoolID"], "Address": "", "Options": {MAC_OPTION: MAC}}
    given = await plugin.call("IpamDriver.RequestAddress", wanted)
    assert given["Address"] == "fd00:6::42:acff:fe11:5/64"
    with pytest.raises(EngineError, match="in use on this host"):
        await plugin.call("IpamDriver.RequestAddress", wanted)
    explicit = {**wanted, "Address": "fd00:6::5"}
    assert (await plugin.call("IpamDriver.RequestAddress", explicit))["Address"] == "fd00:6::5/64"
    ids = {"NetworkID": "n1", "EndpointID": "e1"}
    interface = {"Address": "", "AddressIPv6": "fd00:6::5/64", "MacAddress": MAC}
    await plugin.call("NetworkDriver.CreateEndpoint", {**ids, "Interface": interface})
    assert plugin.daemon.attachments["e1"]["addresses"] == ["fd00:6::5/64"]
    for address in ("fd00:6::42:acff:fe11:5", "fd00:6::5"):
        await plugin.call("IpamDriver.ReleaseAddress", {"PoolID": got["PoolID"], "Address": address})
    assert plugin.state["addresses"] == {}
    assert plugin.daemon.held == {}


@with_plugin
async def test_ipv6_subnet_without_room_for_a_mac_address(plugin: RunningPlugin) -> None:
    got = await plugin.call("IpamDriver.RequestPool", pool_request("fd00:6::/112", v6=True))
    with pytest.raises(EngineError, match="--ip6"):
        wanted = {"PoolID": got["PoolID"], "Address": "", "Options": {MAC_OPTION: MAC}}
        await plugin.call("IpamDriver.RequestAddress", wanted)


# A daemon that does not answer


def test_silent_daemon_does_not_block() -> None:
    async def main() -> None:
        async with FakeWeaveDaemon(hanging=("GET /ipinfo",)).client() as api:
            started = trio.current_time()
            with pytest.raises(DaemonRefused, match="did not answer within 3 s"):
                await Daemon(api).default_subnet()
            assert trio.current_time() - started == pytest.approx(ANSWER_LIMIT_S)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
