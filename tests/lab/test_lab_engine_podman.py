"""Containers of Podman on three hosts, with the CNI plugin of ours; those without are attached."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from lab.engine_host import OUTSIDE_ADDRESS
from lab.engine_mesh import DOMAIN, OUTSIDE_NAME, EngineMesh, add_cni_network, all_reach_all, engine_mesh, set_up_cni
from lab.engine_remains import Remains, nothing_left, remains
from lab.network import wait_until
from lab.podman_engine import Podman, PodmanContainer
from lab.shell import CommandFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.engine_host import EngineHost

pytestmark = pytest.mark.root

RANGE = ip_network("10.32.0.0/12")
SECOND, SECOND_SUBNET = "second", "10.33.0.0/16"
PORT = 8080


def with_podman(host: EngineHost, image: Path) -> Podman:
    set_up_cni(host)
    add_cni_network(host, SECOND, SECOND_SUBNET)
    return Podman(host, image)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[tuple[EngineMesh, list[Podman]]]:
    with engine_mesh(request, with_podman) as (mesh, engines):
        for engine in engines:  # what an engine and portmap keep from the first container on is not ours to judge
            engine.start("warm", "-p", f"{PORT}:80").remove()
        yield mesh, engines


@pytest.fixture
def mesh(world: tuple[EngineMesh, list[Podman]]) -> EngineMesh:
    return world[0]


@pytest.fixture
def engines(world: tuple[EngineMesh, list[Podman]]) -> Iterator[list[Podman]]:
    yield world[1]
    for engine in world[1]:  # after a failure
        engine.clear()


@pytest.fixture
def before(mesh: EngineMesh) -> list[Remains]:
    return [remains(host) for host in mesh.hosts]


def test_containers_of_three_hosts_find_each_other_by_name(
    mesh: EngineMesh, engines: list[Podman], before: list[Remains]
) -> None:
    containers = [
        engine.start(f"c{number}", "--network-alias", f"alias{number}")
        for number, engine in enumerate(engines, start=1)
    ]
    addresses = all_reach_all([*containers])
    assert {ip_address(address) in RANGE for address in addresses} == {True}
    for container in containers:
        assert container.reaches(OUTSIDE_ADDRESS)
        assert container.resolves(OUTSIDE_NAME) == {OUTSIDE_ADDRESS}
        for number, (other, address) in enumerate(zip(containers, addresses, strict=True), start=1):
            for name in (other.name, f"{other.name}.{DOMAIN}", f"alias{number}"):
                if container is other and name == other.name:
                    continue  # in its own /etc/hosts
                wait_until(
                    lambda c=container, n=name, a=address: c.resolves(n) == {a},  # type: ignore[misc]
                    10,
                    f"{container} to resolve {name}",
                )
            assert container.fetches(f"alias{number}") == other.name
    for container in containers:
        container.remove()
    nothing_left(mesh.hosts, before)


def test_published_port_answers_other_hosts(mesh: EngineMesh, engines: list[Podman], before: list[Remains]) -> None:
    a, b, _ = mesh.hosts
    web = engines[0].start("web", "-p", f"{PORT}:80")
    client = engines[1].start("client")
    mesh.publishes(a, PORT, "web")
    there = mesh.world.address(a)
    mesh.publishes(a, PORT, "web", mesh.world.outside, a)
    assert client.fetches(there, PORT) == "web"
    assert web.fetches(there, PORT) == "web", "to itself through the host: hairpin"
    web.stop()
    assert mesh.publishes_nothing(a, PORT)
    web.start()
    mesh.publishes(a, PORT, "web")
    web.remove()
    client.remove()
    assert mesh.publishes_nothing(a, PORT)
    nothing_left(mesh.hosts, before)
    assert b.reaches(there)


def test_container_is_stopped_and_started(mesh: EngineMesh, engines: list[Podman], before: list[Remains]) -> None:
    one, other = engines[0].start("one"), engines[1].start("other")
    for _ in range(2):
        one.stop()
        wait_until(lambda: other.resolves("one") == set(), 10, "the name to go")
        one.start()
        wait_until(lambda: other.resolves("one") == {one.address()}, 10, "the name to come back")
        assert other.fetches("one") == "one"
    one.remove()
    other.remove()
    nothing_left(mesh.hosts, before)


def test_address_and_mac_are_chosen(mesh: EngineMesh, engines: list[Podman], before: list[Remains]) -> None:
    chosen = engines[0].start("chosen", "--ip", "10.34.5.6", "--mac-address", "02:00:0a:22:05:06")
    assert chosen.addresses() == ["10.34.5.6/12"]
    assert chosen.mac() == "02:00:0a:22:05:06"
    other = engines[2].start("other")
    wait_until(lambda: other.reaches("10.34.5.6"), 5, "a ping")
    with pytest.raises(CommandFailed, match=r"10\.34\.5\.6"):
        engines[1].start("thief", "--ip", "10.34.5.6")
    engines[1].host.run("podman", "rm", "-f", "thief")
    chosen.remove()
    other.remove()
    nothing_left(mesh.hosts, before)


def test_what_ends_by_itself_is_cleared_away(mesh: EngineMesh, engines: list[Podman], before: list[Remains]) -> None:
    text = engines[0].run_command("short", "--rm", command=("ip", "addr", "show", "dev", "eth0"))
    assert "inet 10." in text
    engines[1].run_command("later", "-d", "--rm", command=("sleep", "0.2"))
    nothing_left(mesh.hosts, before)


def test_second_network(mesh: EngineMesh, engines: list[Podman], before: list[Remains]) -> None:
    # Named, since Podman numbers the interfaces of several networks in any order.
    second_interface = ("--network", f"{SECOND}:interface_name=eth1")
    first = engines[0].start("first", *second_interface, network=f"{engines[0].network}:interface_name=eth0")
    second = engines[1].start("second")
    assert first.interfaces() == ["eth0", "eth1"]
    address = first.address("eth1")
    assert ip_address(address) in ip_network(SECOND_SUBNET)
    engines[1].host.run("podman", "network", "connect", SECOND, "second")
    assert second.interfaces() == ["eth0", "eth1"]
    wait_until(lambda: second.reaches(address), 5, "a ping in the second network")
    wait_until(lambda: second.reaches(first.address("eth0")), 5, "a ping in the first network")
    engines[1].host.run("podman", "network", "disconnect", SECOND, "second")
    assert second.interfaces() == ["eth0"]
    assert second.reaches(first.address("eth0"))
    first.remove()
    second.remove()
    nothing_left(mesh.hosts, before)


def test_running_container_is_attached_and_detached(mesh: EngineMesh, engines: list[Podman]) -> None:
    hosts = mesh.hosts[:2]
    for host in hosts:  # as Docker makes it
        host.run("iptables", "-P", "FORWARD", "DROP")
    for host in hosts:
        wait_until(lambda host=host: "weave-net" in host.run("iptables", "-S", "FORWARD"), 10, "our rules")  # type: ignore[misc]
    before = [remains(host) for host in hosts]
    containers: list[PodmanContainer] = []
    given = []
    for engine in engines[:2]:
        container = engine.start(f"plain{engine.host.label.lower()}", network="none")
        assert container.interfaces() == []
        given.append(engine.host.weave("attach", container.name).strip())
        containers.append(container)
    addresses = all_reach_all([*containers], "ethwe")
    assert addresses == given
    for container, address in zip(containers, addresses, strict=True):
        assert container.host.reaches(address)
        assert container.id[:12] in container.host.weave("ps").split()
    hosts[0].weave("detach", containers[0].name)
    assert containers[0].interfaces() == []
    assert not containers[1].reaches(addresses[0], timeout_s=1)
    hosts[0].weave("attach", containers[0].name)
    wait_until(lambda: containers[1].reaches(containers[0].address("ethwe")), 5, "a ping")
    for container in containers:  # without this, an address is kept for half a minute, since a container may come back
        container.host.weave("detach", container.name)
        container.remove()
    nothing_left(hosts, before)
