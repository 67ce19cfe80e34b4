"""Attachments are told apart by container and interface, whatever identifiers look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_runtime import Pod

if TYPE_CHECKING:
    from cni_plugin.cni_host import CniHost

pytestmark = pytest.mark.root


def test_several_interfaces_of_one_container(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    names = ("eth0", "net1", "net2")
    results = {name: weave.add(network, pod, name) for name in names}
    addresses = {name: result["ips"][0]["address"] for name, result in results.items()}
    assert len(set(addresses.values())) == 3
    assert len({result["interfaces"][1]["name"] for result in results.values()}) == 3
    assert weave.owned_by(pod) == sorted(addresses.values())
    weave.delete(network, pod, "net1")
    assert weave.owned_by(pod) == sorted(addresses[name] for name in ("eth0", "net2"))
    assert [weave.has_interface(pod, name) for name in names] == [True, False, True]
    for name in ("eth0", "net2"):
        weave.runtime.check(network, pod, name)


def test_several_networks_of_one_container(weave: CniHost) -> None:
    pod = weave.pod()
    subnets = {"eth0": "10.40.1.0/24", "net1": "10.40.2.0/24"}
    networks = {
        ifname: weave.network(name=f"n-{ifname}", ipam={"subnet": subnet}) for ifname, subnet in subnets.items()
    }
    for ifname, network in networks.items():
        weave.add(network, pod, ifname)
    for ifname, network in networks.items():
        assert [entry["local"].rsplit(".", 1)[0] for entry in weave.addresses(pod, ifname)] == [subnets[ifname][:-5]]
        weave.runtime.check(network, pod, ifname)
    weave.delete(networks["eth0"], pod, "eth0")
    weave.runtime.check(networks["net1"], pod, "net1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("abcdefg" + "1" * 57, "abcdefg" + "2" * 57),
        ("0123456789ab" + "1" * 52, "0123456789ab" + "2" * 52),
        ("f" * 64, "f" * 63 + "e"),
        ("web", "web-2"),
        ("web", "Web"),
        ("a.b", "a-b"),
        ("a" * 63, "a" * 64),
    ],
)
def test_ids_that_are_alike(weave: CniHost, one: str, other: str) -> None:
    network, first, second = weave.network(), weave.pod(one), weave.pod(other)
    results = [weave.add(network, pod) for pod in (first, second)]
    assert len({result["interfaces"][1]["name"] for result in results}) == 2
    assert len({result["ips"][0]["address"] for result in results}) == 2
    weave.delete(network, first)
    weave.runtime.check(network, second)
    assert weave.owned_by(second) == [results[1]["ips"][0]["address"]]


def test_unusual_ids(weave: CniHost) -> None:
    network, namespace = weave.network(), weave.pod().netns
    for container in ("a", "1", "ab", "abcd", "a" * 200, "a_b-c.d", "0", "weave", "expose", "a..b"):
        pod = Pod(container, namespace)
        result = weave.add(network, pod)
        assert len(result["interfaces"][1]["name"]) <= 15
        weave.runtime.check(network, pod)
        weave.delete(network, pod)
        assert weave.owned_by(pod) == []


def test_container_and_interface_are_no_one_word(weave: CniHost) -> None:
    """`a`/`b.c` and `a.b`/`c` and the like must not fall together."""
    network, one, two = weave.network(), weave.pod("a"), weave.pod("a.b")
    first, second = weave.add(network, one, "b.c"), weave.add(network, two, "c")
    assert first["ips"][0]["address"] != second["ips"][0]["address"]
    weave.delete(network, one, "b.c")
    weave.runtime.check(network, two, "c")


def test_same_container_in_two_networks_under_one_address_plugin(weave: CniHost) -> None:
    """Addresses of `weave-ipam` are told apart by network, container and interface."""
    pod, runtime = weave.pod(), weave.runtime
    configs = [
        {"cniVersion": "1.1.0", "name": name, "type": "bridge", "ipam": weave.weave_ipam()} for name in ("one", "two")
    ]
    given = []
    for config in configs:
        for ifname in ("eth0", "net1"):
            answer = runtime.run("weave-ipam", runtime.environment("ADD", pod, ifname), config)
            given.append(answer.result()["ips"][0]["address"])
    assert len(set(given)) == 4
    runtime.run("weave-ipam", runtime.environment("DEL", pod, "net1"), configs[0]).nothing()
    assert weave.owned_by(pod) == sorted([given[0], given[2], given[3]])
    for config in configs:
        for ifname in ("eth0", "net1"):
            runtime.run("weave-ipam", runtime.environment("DEL", pod, ifname), config).nothing()
    assert weave.owned() == {}
