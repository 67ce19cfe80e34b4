"""Containers of containerd on three hosts, started by `ctr run --cni` with the CNI plugin of ours."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from lab.containerd_engine import Containerd, CtrContainer
from lab.engine_host import OUTSIDE_ADDRESS
from lab.engine_image import IMAGE
from lab.engine_mesh import DOMAIN, OUTSIDE_NAME, EngineMesh, all_reach_all, engine_mesh, resolver_of, set_up_cni
from lab.engine_remains import Remains, nothing_left, remains
from lab.network import wait_until
from lab.shell import LabError
from weave_net.client import DaemonClient
from weave_net.directories import Directories

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.engine_host import EngineHost

pytestmark = pytest.mark.root

RANGE = ip_network("10.32.0.0/12")
MTU = 1376
MANY = 8


def with_containerd(host: EngineHost, image: Path) -> Containerd:
    set_up_cni(host)
    return Containerd(host, image)


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[tuple[EngineMesh, list[Containerd]]]:
    with engine_mesh(request, with_containerd) as (mesh, engines):
        for engine in engines:  # what an engine keeps from its first container on is not ours to judge
            engine.start("warm").end()
        yield mesh, engines


@pytest.fixture
def mesh(world: tuple[EngineMesh, list[Containerd]]) -> EngineMesh:
    return world[0]


@pytest.fixture
def engines(world: tuple[EngineMesh, list[Containerd]]) -> list[Containerd]:
    return world[1]


@pytest.fixture
def before(mesh: EngineMesh) -> list[Remains]:
    return [remains(host) for host in mesh.hosts]


@pytest.fixture
def three(engines: list[Containerd]) -> Iterator[list[CtrContainer]]:
    """A running container on each host."""
    containers = [
        engine.start(f"c{number}", "/bin/serve", f"c{number}", resolver=resolver_of(engine.host))
        for number, engine in enumerate(engines, start=1)
    ]
    yield containers
    for container in containers:
        if container.is_running():
            container.end()


def test_containers_of_three_hosts_reach_each_other_and_the_outside(
    mesh: EngineMesh, before: list[Remains], three: list[CtrContainer]
) -> None:
    addresses = all_reach_all([*three])
    for container, address in zip(three, addresses, strict=True):
        assert ip_address(address) in RANGE
        assert container.interfaces() == ["eth0"]
        assert container.mtu() == MTU
        (default,) = (route for route in container.routes() if route.startswith("default"))
        gateway = default.split()[2]
        assert ip_address(gateway) in RANGE
        assert container.reaches(gateway)
        assert container.reaches(OUTSIDE_ADDRESS), "through the bridge, masqueraded"
        assert container.host.reaches(address)
    for container in three:
        for other, address in zip(three, addresses, strict=True):
            assert container.fetches(address) == other.name, "a container reaches itself by its address as well"
    for container in three:
        container.end()
    nothing_left(mesh.hosts, before)


def test_result_tells_interfaces_addresses_routes_and_name_server(three: list[CtrContainer]) -> None:
    container = three[0]
    result = container.result()
    assert result["cniVersion"] == "1.0.0"
    bridge, host_end, inside = result["interfaces"]
    assert (bridge["name"], bridge.get("sandbox", "")) == ("weave", "")
    assert host_end["name"].startswith("vethwe")
    assert (inside["name"], inside["mac"]) == ("eth0", container.mac())
    assert inside["sandbox"].startswith("/proc/")
    (address,) = result["ips"]
    assert address["address"] in container.addresses()
    assert result["interfaces"][address["interface"]] is inside
    assert {"dst": "0.0.0.0/0", "gw": address["gateway"]} in result["routes"]
    assert result["dns"]["nameservers"] == [address["gateway"]]
    assert result["dns"]["search"] == [f"{DOMAIN}."] or result["dns"]["search"] == [DOMAIN]


def test_names_resolve(three: list[CtrContainer]) -> None:
    addresses = [container.address() for container in three]
    for container, address in zip(three, addresses, strict=True):
        container.host.weave("dns-add", address, "-h", f"{container.name}.{DOMAIN}")
    for container in three:
        for other, address in zip(three, addresses, strict=True):
            wait_until(
                lambda c=container, n=other.name, a=address: c.resolves(n) == {a},  # type: ignore[misc]
                10,
                f"{container} to resolve {other.name}",
            )
            assert container.resolves(f"{other.name}.{DOMAIN}") == {address}
            assert container.fetches(other.name) == other.name
    for container in three:
        assert container.resolves(OUTSIDE_NAME) == {OUTSIDE_ADDRESS}
    for container, address in zip(three, addresses, strict=True):
        container.host.weave("dns-remove", address, "-h", f"{container.name}.{DOMAIN}")


def test_many_at_once(mesh: EngineMesh, engines: list[Containerd], before: list[Remains]) -> None:
    with ThreadPoolExecutor(MANY) as pool:
        containers = list(pool.map(lambda number: engines[number % 3].start(f"many{number}"), range(MANY)))
        addresses = [container.address() for container in containers]
        assert len(set(addresses)) == MANY
        assert containers[0].reaches(addresses[-1])
        list(pool.map(CtrContainer.end, containers))
    nothing_left(mesh.hosts, before)


def test_forgotten_container_is_collected(mesh: EngineMesh, engines: list[Containerd], before: list[Remains]) -> None:
    """`ctr run -d` never calls DEL; GC with the list of what is alive removes what is left."""
    host, alive = mesh.hosts[0], engines[0].start("alive")
    host.run("ctr", "run", "-d", "--cni", IMAGE, "forgotten")
    host.run("ctr", "task", "rm", "-f", "forgotten")
    host.run("ctr", "container", "rm", "forgotten")
    assert len(attachments(host)) == 2
    conflist = json.loads(host.path_of("/etc/cni/net.d/10-weave.conflist").read_text())
    valid = [{"containerID": "default-alive", "ifname": "eth0"}]
    config = {**conflist["plugins"][0], "cniVersion": "1.1.0", "name": conflist["name"]}
    command = ("env", "CNI_COMMAND=GC", "CNI_PATH=/opt/cni/bin", "/opt/cni/bin/weave-net")
    assert host.run(*command, stdin=json.dumps({**config, "cni.dev/valid-attachments": valid})) == ""
    assert attachments(host) == ["default-alive"]
    assert alive.reaches(OUTSIDE_ADDRESS)
    alive.end()
    host.path_of("/var/lib/cni/results/weave-default-forgotten-eth0").unlink()  # kept by the runtime's library
    nothing_left(mesh.hosts, before)


def attachments(host: EngineHost) -> list[str]:
    with DaemonClient(Directories(host.state_dir, host.run_dir)) as client:
        return sorted(str(known["id"]) for known in client.attachments())


def test_same_name_again(mesh: EngineMesh, engines: list[Containerd], before: list[Remains]) -> None:
    other = engines[1].start("other")
    for _ in range(2):
        container = engines[0].start("again")
        address = other.address()
        wait_until(lambda c=container, a=address: c.reaches(a), 5, "a ping")  # type: ignore[misc]
        container.end()
    other.end()
    nothing_left(mesh.hosts, before)


def test_container_outlives_a_crash_of_the_daemon(
    mesh: EngineMesh, before: list[Remains], three: list[CtrContainer]
) -> None:
    host = mesh.hosts[0]
    addresses = all_reach_all([*three])
    host.kill()
    assert host.reaches(addresses[0]), "the container is on the bridge, which stays"
    mesh.launch(host)
    assert [container.address() for container in three] == addresses
    for container in three:
        wait_until(lambda c=container: c.reaches(addresses[0]), 20, f"{container} to reach {addresses[0]}")  # type: ignore[misc]
    for container in three:
        container.end()
    nothing_left(mesh.hosts, before)


def test_without_the_daemon_containers_end_but_do_not_start(
    mesh: EngineMesh, engines: list[Containerd], before: list[Remains], three: list[CtrContainer]
) -> None:
    host = mesh.hosts[0]
    host.weave("stop")
    three[0].end()
    with pytest.raises(LabError, match="weave launch"):
        engines[0].start("early")
    engines[0].clear("early")
    mesh.launch(host)
    for container in three[1:]:
        container.end()
    nothing_left(mesh.hosts, before)
    late = engines[0].start("late")
    wait_until(lambda: late.reaches(OUTSIDE_ADDRESS), 5, "a ping")
    late.end()
    nothing_left(mesh.hosts, before)
