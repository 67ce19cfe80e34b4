"""Containers of Docker on three hosts, on networks of our plugin; those of other networks are attached.

dockerd of A and C finds a host that passes no packets on, lets it do so, and sets the policy of FORWARD to DROP; B's
finds one that does.
"""

from __future__ import annotations

import re
from functools import cache
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from lab.docker_engine import Docker, DockerContainer
from lab.engine_host import OUTSIDE_ADDRESS
from lab.engine_mesh import DOMAIN, OUTSIDE_NAME, EngineMesh, all_reach_all, engine_mesh
from lab.engine_remains import Remains, nothing_left, remains
from lab.network import wait_until
from lab.shell import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.engine_host import EngineHost

pytestmark = pytest.mark.root

SUBNET = ip_network("10.40.0.0/16")
NETWORK = "mesh"
PLUGIN_SOCKET = "/run/docker/plugins/weave.sock"
PORT = 8080
INTERFACE = "ethwe0"
ABANDONED_LIMIT_S = 150.0
"""The engine is looked at each minute, twice."""
NAMES_LIMIT_S = 40.0
"""Names of containers that end while dockerd is away are removed when the daemon has found it again."""


def with_docker(host: EngineHost, image: Path) -> Docker:
    host.run("sysctl", "-qw", f"net.ipv4.ip_forward={int(host.label == 'B')}")
    wait_until(lambda: host.path_of(PLUGIN_SOCKET).exists(), 10, "the plugin's socket")
    return Docker(host, image)


def create(engine: Docker, name: str, subnet: str | None, *options: str) -> None:
    chosen = () if subnet is None else ("--subnet", subnet)
    engine.run("network", "create", "-d", "weave", "--ipam-driver", "weave", *chosen, *options, name)


@cache
def dns_options(host: EngineHost) -> list[str]:
    return host.weave("dns-args").split()


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[tuple[EngineMesh, list[Docker]]]:
    with engine_mesh(request, with_docker) as (mesh, engines):
        for engine in engines:
            create(engine, NETWORK, str(SUBNET))
            # docker_gwbridge and its rules stay from the first container on.
            engine.start("warm", "--network", NETWORK, "-p", f"{PORT}:80").remove()
        yield mesh, engines


@pytest.fixture
def mesh(world: tuple[EngineMesh, list[Docker]]) -> EngineMesh:
    return world[0]


@pytest.fixture
def before(mesh: EngineMesh) -> list[Remains]:
    return [remains(host) for host in mesh.hosts]


@pytest.fixture
def engines(world: tuple[EngineMesh, list[Docker]], before: list[Remains]) -> Iterator[list[Docker]]:
    """The engines with the network on each; nothing else may be left after the test."""
    yield world[1]
    for engine in world[1]:
        engine.clear(NETWORK)
    nothing_left(world[0].hosts, before, NAMES_LIMIT_S)


def start_three(engines: list[Docker], *options: str) -> list[DockerContainer]:
    return [
        engine.start(f"c{number}", "--network", NETWORK, *options, *dns_options(engine.host))
        for number, engine in enumerate(engines, start=1)
    ]


def reaches_soon(container: DockerContainer, address: str) -> None:
    wait_until(lambda: container.reaches(address), 10, f"{container} to reach {address}")


def resolves_soon(container: DockerContainer, name: str, *addresses: str) -> None:
    wait_until(lambda: container.resolves(name) == set(addresses), 10, f"{container} to resolve {name}")


def test_networks_come_and_go(mesh: EngineMesh, engines: list[Docker], before: list[Remains]) -> None:
    for _ in range(2):
        create(engines[0], "brief", "10.45.0.0/16")
        engines[0].run("network", "rm", "brief")
    nothing_left(mesh.hosts, before)


def test_policy_of_forwarding_is_as_docker_makes_it(mesh: EngineMesh, engines: list[Docker]) -> None:
    assert [host.run("iptables", "-S", "FORWARD").splitlines()[0].split()[-1] for host in mesh.hosts] == [
        "DROP",
        "ACCEPT",
        "DROP",
    ]


def test_containers_of_three_hosts_reach_each_other_and_the_outside(engines: list[Docker]) -> None:
    containers = start_three(engines)
    addresses = all_reach_all([*containers], INTERFACE)
    for container, address in zip(containers, addresses, strict=True):
        assert ip_address(address) in SUBNET
        assert container.network_address(NETWORK) == address
        assert container.mtu(INTERFACE) == 1376
        assert container.reaches(OUTSIDE_ADDRESS)
        for other, there in zip(containers, addresses, strict=True):
            assert container.fetches(there) == other.name
    for container in containers:
        container.remove()


def test_names_and_aliases_resolve_everywhere(engines: list[Docker]) -> None:
    containers = [
        engine.start(f"c{number}", "--network", NETWORK, "--network-alias", f"alias{number}", *dns_options(engine.host))
        for number, engine in enumerate(engines, start=1)
    ]
    addresses = [container.address(INTERFACE) for container in containers]
    for container in containers:
        for number, address in enumerate(addresses, start=1):
            resolves_soon(container, f"alias{number}", address)
            resolves_soon(container, f"c{number}.{DOMAIN}", address)
            assert container.fetches(f"alias{number}") == f"c{number}"
        assert container.resolves(OUTSIDE_NAME) == {OUTSIDE_ADDRESS}
    containers[0].stop()
    resolves_soon(containers[1], f"alias1.{DOMAIN}")
    containers[0].start()
    resolves_soon(containers[1], f"alias1.{DOMAIN}", containers[0].address(INTERFACE))


def test_published_port_answers_other_hosts(mesh: EngineMesh, engines: list[Docker]) -> None:
    host = mesh.hosts[0]
    web = engines[0].start("web", "--network", NETWORK, "-p", f"{PORT}:80")
    mesh.publishes(host, PORT, "web")
    address = web.address(INTERFACE)
    other = engines[1].start("other", "--network", NETWORK)
    assert other.fetches(mesh.world.address(host), PORT) == "web"
    assert other.fetches(address) == "web"
    web.remove()
    assert mesh.publishes_nothing(host, PORT)


def test_running_container_is_connected_and_disconnected(engines: list[Docker]) -> None:
    late = engines[0].start("late")
    there = engines[1].start("there", "--network", NETWORK)
    engines[0].run("network", "connect", "--alias", "guest", NETWORK, "late")
    address = late.network_address(NETWORK)
    assert ip_address(address) in SUBNET
    reaches_soon(there, address)
    assert late.fetches(there.address(INTERFACE)) == "there"
    assert late.reaches(OUTSIDE_ADDRESS)
    wait_until(lambda: address in engines[1].host.weave("dns-lookup", f"guest.{DOMAIN}"), 10, "the alias")
    engines[0].run("network", "disconnect", NETWORK, "late")
    assert not there.reaches(address, timeout_s=1)
    assert late.reaches(OUTSIDE_ADDRESS)
    wait_until(lambda: "guest" not in engines[1].host.weave("status", "dns"), 10, "the alias to go")
    engines[0].run("network", "connect", "--ip", "10.40.7.7", NETWORK, "late")
    reaches_soon(there, "10.40.7.7")


def test_two_networks(engines: list[Docker]) -> None:
    for engine in engines[:2]:
        create(engine, "second", "10.41.0.0/16")
    both = engines[0].start("both", "--network", NETWORK)
    engines[0].run("network", "connect", "second", "both")
    there = engines[1].start("there", "--network", "second")
    address = both.network_address("second")
    assert ip_address(address) in ip_network("10.41.0.0/16")
    reaches_soon(there, address)
    assert both.reaches(there.network_address("second"))


def test_address_is_chosen(engines: list[Docker]) -> None:
    chosen = engines[0].start("chosen", "--network", NETWORK, "--ip", "10.40.9.9")
    assert chosen.addresses(INTERFACE) == ["10.40.9.9/16"]
    there = engines[1].start("there", "--network", NETWORK)
    reaches_soon(there, "10.40.9.9")
    with pytest.raises(CommandFailed, match=r"10\.40\.9\.9"):
        engines[0].start("thief", "--network", NETWORK, "--ip", "10.40.9.9")
    # Another host learns that the address has been given by asking the one whose space it is in.
    with pytest.raises(CommandFailed, match=r"10\.40\.9\.9"):
        engines[2].start("thief", "--network", NETWORK, "--ip", "10.40.9.9")
    chosen.remove()
    again = engines[0].start("again", "--network", NETWORK, "--ip", "10.40.9.9")
    reaches_soon(there, again.address(INTERFACE))


def test_internal_network_has_no_way_out(engines: list[Docker]) -> None:
    for engine in engines[:2]:
        create(engine, "inner", "10.42.0.0/16", "--internal")
    one, two = (engine.start(f"inner{engine.host.label.lower()}", "--network", "inner") for engine in engines[:2])
    assert one.interfaces() == [INTERFACE]
    assert not [route for route in one.routes() if route.startswith("default")]
    reaches_soon(one, two.address(INTERFACE))
    assert not one.reaches(OUTSIDE_ADDRESS, timeout_s=1)


def test_bridge_is_the_gateway(engines: list[Docker]) -> None:
    for engine in engines[:2]:
        create(engine, "gated", "10.43.0.0/16", "--opt", "weave.gateway=bridge", "--opt", "works.weave.multicast")
    one, two = (engine.start(f"gated{engine.host.label.lower()}", "--network", "gated") for engine in engines[:2])
    assert one.interfaces() == [INTERFACE]
    routes = one.routes()
    (default,) = (route for route in routes if route.startswith("default"))
    assert ip_address(default.split()[2]) in ip_network("10.43.0.0/16")
    assert any(route.startswith("224.0.0.0/4") for route in routes)
    reaches_soon(one, two.address(INTERFACE))
    assert one.reaches(OUTSIDE_ADDRESS), "through the weave bridge, masqueraded"
    for engine in engines[:2]:
        engine.clear(NETWORK)
        exposed = re.findall(r"10\.43\.[0-9.]+", engine.host.weave("ps", "weave:expose"))
        engine.host.weave("hide", *exposed)


def test_mistakes_are_told(engines: list[Docker]) -> None:
    with pytest.raises(CommandFailed, match=r"weave\.gatewy"):
        create(engines[0], "wrong", "10.44.0.0/16", "--opt", "weave.gatewy=bridge")
    # Docker takes no subnet by itself that the host has a route to, as one has that is exposed; it asks without end.
    with pytest.raises(CommandFailed, match=r"--subnet 10\.32\.0\.0/12"):
        create(engines[0], "own", None)


def test_container_is_stopped_and_started(engines: list[Docker]) -> None:
    one, there = (engine.start(f"re{engine.host.label.lower()}", "--network", NETWORK) for engine in engines[:2])
    for _ in range(2):
        one.stop()
        one.start()
        reaches_soon(there, one.address(INTERFACE))


def test_endpoints_outlive_a_crash_of_our_daemon(mesh: EngineMesh, engines: list[Docker]) -> None:
    containers = start_three(engines)
    addresses = all_reach_all([*containers], INTERFACE)
    host = mesh.hosts[0]
    host.kill()
    mesh.launch(host)
    assert all_reach_all([*containers], INTERFACE) == addresses
    new = engines[0].start("new", "--network", NETWORK)
    reaches_soon(new, addresses[1])
    host.weave("stop")
    assert not host.path_of(PLUGIN_SOCKET).exists()
    mesh.launch(host)
    wait_until(lambda: host.path_of(PLUGIN_SOCKET).exists(), 5, "the plugin's socket")
    containers[0].stop()
    containers[0].start()
    reaches_soon(containers[0], addresses[1])


def test_container_of_another_network_is_attached(engines: list[Docker]) -> None:
    containers = []
    given = []
    for engine in engines:
        name = f"plain{engine.host.label.lower()}"
        containers.append(engine.start(name))
        given.append(engine.host.weave("attach", name).strip())
    addresses = all_reach_all([*containers], "ethwe")
    assert addresses == given
    for container, address in zip(containers, addresses, strict=True):
        assert container.reaches(OUTSIDE_ADDRESS), "by Docker's own network"
        assert container.host.reaches(address)
        assert container.id[:12] in container.host.weave("ps").split()
        container.host.weave("detach", container.name)
        assert container.interfaces() == ["eth0"]


@pytest.mark.parametrize("crash", [False, True])
def test_dockerd_is_restarted(engines: list[Docker], crash: bool) -> None:
    engine = engines[0]
    one = engine.start("one", "--network", NETWORK, "--restart", "always")
    two = engine.start("two", "--network", NETWORK)
    there = engines[1].start("there", "--network", NETWORK)
    (engine.kill if crash else engine.down)()
    engine.up()
    wait_until(lambda: one.inspect()["State"]["Running"], 20, "the container to be started again")
    reaches_soon(there, one.address(INTERFACE))
    assert not two.inspect()["State"]["Running"]
    two.start()
    reaches_soon(there, two.address(INTERFACE))


@pytest.mark.waits
def test_what_docker_could_not_tell_goes_later(mesh: EngineMesh, engines: list[Docker], before: list[Remains]) -> None:
    """As where the router is a container of the engine: that stops it first and starts it last."""
    engine, host = engines[0], mesh.hosts[0]
    there = engines[1].start("there", "--network", NETWORK)
    one, two = (engine.start(name, "--network", NETWORK) for name in ("one", "two"))
    addresses = all_reach_all([one, two, there], INTERFACE)
    host.weave("stop")
    one.remove()
    engine.down()
    engine.up()
    assert not two.inspect()["State"]["Running"]
    mesh.launch(host)
    assert {address for address in addresses if address in host.weave("ps")} == set(addresses[:2])
    two.start()
    assert two.address(INTERFACE) != addresses[1]
    reaches_soon(there, two.address(INTERFACE))
    held = set(host.weave("ps").split()) & {f"{address}/{SUBNET.prefixlen}" for address in addresses}
    wait_until(lambda: not held & set(host.weave("ps").split()), ABANDONED_LIMIT_S, "the addresses to be released")
    reaches_soon(there, two.address(INTERFACE))
    two.remove()
    there.remove()
    nothing_left(mesh.hosts, before, NAMES_LIMIT_S)


def test_containers_outlive_dockerd(engines: list[Docker]) -> None:
    """With --live-restore the engine asks the plugin for nothing when it is back."""
    engine = engines[2]
    engine.down()
    engine.up("--live-restore")
    one, there = engine.start("one", "--network", NETWORK), engines[1].start("there", "--network", NETWORK)
    address = one.address(INTERFACE)
    reaches_soon(there, address)
    engine.kill()
    assert there.reaches(address)
    engine.up("--live-restore")
    assert one.inspect()["State"]["Running"]
    assert there.reaches(address)
    two = engine.start("two", "--network", NETWORK)
    assert two.address(INTERFACE) != address
    reaches_soon(two, address)
    # It stays with that option: this is the last test.
