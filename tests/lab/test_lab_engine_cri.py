"""Pods on three hosts, made by containerd's CRI service as a kubelet would, with the CNI plugin of ours."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from lab.containerd_engine import CRI_NAMESPACE, Containerd
from lab.cri_client import CriClient, CriContainer, CriError, Pod
from lab.engine_host import OUTSIDE_ADDRESS
from lab.engine_mesh import DOMAIN, EngineMesh, all_reach_all, engine_mesh, set_up_cni
from lab.engine_remains import Remains, nothing_left, remains
from lab.network import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.engine_host import EngineHost

pytestmark = pytest.mark.root

RANGE = ip_network("10.32.0.0/12")
PORT = 8080
CONFLIST = "/etc/cni/net.d/10-weave.conflist"
MANY = 6


def with_cri(host: EngineHost, image: Path) -> Containerd:
    set_up_cni(host)
    return Containerd(host, image, namespaces=(CRI_NAMESPACE,))


def published(port: int) -> list[dict[str, int]]:
    return [{"protocol": 0, "container_port": 80, "host_port": port}]


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[tuple[EngineMesh, list[CriClient]]]:
    with ExitStack() as stack, engine_mesh(request, with_cri) as (mesh, _):
        kubelets = [stack.enter_context(CriClient(host)) for host in mesh.hosts]
        for kubelet in kubelets:
            wait_until(lambda k=kubelet: k.conditions()["NetworkReady"], 10, "the network to be ready")  # type: ignore[misc]
            # What portmap keeps from the first published port on is not ours to judge.
            kubelet.remove_pod(kubelet.run_pod("warm", port_mappings=published(PORT)))
        yield mesh, kubelets


@pytest.fixture
def mesh(world: tuple[EngineMesh, list[CriClient]]) -> EngineMesh:
    return world[0]


@pytest.fixture
def kubelets(world: tuple[EngineMesh, list[CriClient]]) -> list[CriClient]:
    return world[1]


@pytest.fixture
def before(mesh: EngineMesh) -> list[Remains]:
    return [remains(host) for host in mesh.hosts]


def end(kubelet: CriClient, pod: Pod) -> None:
    kubelet.stop_pod(pod)
    kubelet.remove_pod(pod)


def test_pods_of_three_hosts_reach_each_other(
    mesh: EngineMesh, kubelets: list[CriClient], before: list[Remains]
) -> None:
    pods = [kubelet.run_pod(f"pod{number}") for number, kubelet in enumerate(kubelets, start=1)]
    containers: list[CriContainer] = [
        kubelet.start_container(pod, "web") for kubelet, pod in zip(kubelets, pods, strict=True)
    ]
    addresses = all_reach_all([*containers])
    assert addresses == [kubelet.pod_address(pod) for kubelet, pod in zip(kubelets, pods, strict=True)]
    for container, address in zip(containers, addresses, strict=True):
        assert ip_address(address) in RANGE
        assert container.interfaces() == ["eth0"]
        assert container.reaches(OUTSIDE_ADDRESS)
        assert container.host.reaches(address), "the kubelet probes its pods"
        for pod, other in zip(pods, addresses, strict=True):
            assert container.fetches(other) == pod.name
    for pod, address in zip(pods, addresses, strict=True):
        for host in mesh.hosts:
            wait_until(
                lambda h=host, p=pod, a=address: h.weave("dns-lookup", f"{p.name}.{DOMAIN}").split() == [a],  # type: ignore[misc]
                10,
                f"{pod.name} to be found on {host.label}",
            )
    for kubelet, pod in zip(kubelets, pods, strict=True):
        end(kubelet, pod)
    nothing_left(mesh.hosts, before)


def test_containers_of_a_pod_share_its_network(
    mesh: EngineMesh, kubelets: list[CriClient], before: list[Remains]
) -> None:
    kubelet = kubelets[0]
    pod = kubelet.run_pod("shared")
    web, other = kubelet.start_container(pod, "web"), kubelet.start_container(pod, "other", "/bin/sleep", "1000")
    assert other.addresses() == web.addresses() != []
    assert other.fetches("127.0.0.1") == "shared"
    # A container that is restarted in its pod keeps the network.
    kubelet.call("StopContainer", {"container_id": web.name, "timeout": 2})
    kubelet.call("RemoveContainer", {"container_id": web.name})
    assert kubelet.start_container(pod, "web").addresses() == other.addresses()
    end(kubelet, pod)
    nothing_left(mesh.hosts, before)


def test_published_port_answers_other_hosts(mesh: EngineMesh, kubelets: list[CriClient], before: list[Remains]) -> None:
    host, kubelet = mesh.hosts[0], kubelets[0]
    pod = kubelet.run_pod("web", port_mappings=published(PORT))
    web = kubelet.start_container(pod, "web")
    mesh.publishes(host, PORT, "web")
    assert web.fetches(mesh.world.address(host), PORT) == "web", "to itself through the host: hairpin"
    end(kubelet, pod)
    assert mesh.publishes_nothing(host, PORT)
    nothing_left(mesh.hosts, before)


def test_dns_settings_of_the_pod_win(kubelets: list[CriClient]) -> None:
    pod = kubelets[0].run_pod("resolver", dns={"servers": ["192.0.2.53"], "searches": ["svc.cluster.local"]})
    container = kubelets[0].start_container(pod, "one")
    settings = container.run("cat", "/etc/resolv.conf")
    assert "nameserver 192.0.2.53" in settings
    assert "search svc.cluster.local" in settings
    end(kubelets[0], pod)


def test_pod_is_stopped_again_and_again(mesh: EngineMesh, kubelets: list[CriClient], before: list[Remains]) -> None:
    kubelet = kubelets[0]
    pod, other = kubelet.run_pod("often"), kubelet.run_pod("other")
    kept = kubelet.start_container(other, "web")
    for _ in range(3):  # from the second on DEL has neither namespace nor previous result
        kubelet.stop_pod(pod)
    assert kept.addresses() == [f"{kubelet.pod_address(other)}/12"]
    kubelet.remove_pod(pod)
    kubelet.remove_pod(pod)
    end(kubelet, other)
    nothing_left(mesh.hosts, before)


def test_pod_comes_and_goes_under_one_name(mesh: EngineMesh, kubelets: list[CriClient], before: list[Remains]) -> None:
    for _ in range(2):
        pod = kubelets[1].run_pod("again")
        web = kubelets[1].start_container(pod, "web")
        wait_until(lambda web=web: web.reaches(OUTSIDE_ADDRESS), 5, "a ping")  # type: ignore[misc]
        end(kubelets[1], pod)
    nothing_left(mesh.hosts, before)


def test_many_pods_at_once(mesh: EngineMesh, kubelets: list[CriClient], before: list[Remains]) -> None:
    def run(number: int) -> tuple[CriClient, Pod]:
        kubelet = kubelets[number % len(kubelets)]
        return kubelet, kubelet.run_pod(f"many{number}", port_mappings=published(9000 + number))

    with ThreadPoolExecutor(MANY) as pool:
        made = list(pool.map(run, range(MANY)))
        addresses = {kubelet.pod_address(pod) for kubelet, pod in made}
        assert len(addresses) == MANY
        list(pool.map(lambda one: end(*one), made))
    nothing_left(mesh.hosts, before)


def test_failed_pod_leaves_nothing(mesh: EngineMesh, kubelets: list[CriClient], before: list[Remains]) -> None:
    host, kubelet = mesh.hosts[2], kubelets[2]
    blocker = kubelet.run_pod("blocker", annotations={"note": "x"})
    with pytest.raises(CriError, match="portmap"):  # after weave-net has succeeded
        kubelet.run_pod("failing", port_mappings=[{"protocol": 0, "container_port": 80, "host_port": 70000}])
    host.weave("stop")
    with pytest.raises(CriError, match="weave launch"):
        kubelet.run_pod("early")
    kubelet.stop_pod(blocker)  # without the daemon
    kubelet.remove_pod(blocker)
    mesh.launch(host)
    late = kubelet.run_pod("late")
    assert kubelet.start_container(late, "web").reaches(OUTSIDE_ADDRESS)
    end(kubelet, late)
    nothing_left(mesh.hosts, before)


def test_network_is_ready_while_it_is_configured(mesh: EngineMesh, kubelets: list[CriClient]) -> None:
    host, kubelet = mesh.hosts[1], kubelets[1]
    assert kubelet.conditions() == {"RuntimeReady": True, "NetworkReady": True}
    host.path_of(CONFLIST).unlink()
    wait_until(lambda: not kubelet.conditions()["NetworkReady"], 5, "the network to be unready")
    host.weave("setup-cni")
    wait_until(lambda: kubelet.conditions()["NetworkReady"], 5, "the network to be ready")
    pod = kubelet.run_pod("after")
    end(kubelet, pod)
