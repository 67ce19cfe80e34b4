"""CHECK: silent while all is as it was made, an error when it is not; what later plugins changed is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_runtime import PluginFailed, Pod

if TYPE_CHECKING:
    from collections.abc import Callable

    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Json

pytestmark = pytest.mark.root


def port(result: Json) -> str:
    """The host's end of the pair."""
    name: str = result["interfaces"][1]["name"]
    return name


def address(result: Json) -> str:
    """The container's address with its length."""
    text: str = result["ips"][0]["address"]
    return text


TAMPERINGS: dict[str, Callable[[CniHost, Pod, Json], object]] = {
    "interface gone": lambda weave, pod, result: weave.inside(pod, "link", "del", "eth0"),
    "interface renamed": lambda weave, pod, result: (
        weave.inside(pod, "link", "set", "eth0", "down"),
        weave.inside(pod, "link", "set", "eth0", "name", "eth7"),
        weave.inside(pod, "link", "set", "eth7", "up"),
    ),
    "another interface of that name": lambda weave, pod, result: (
        weave.inside(pod, "link", "del", "eth0"),
        weave.inside(pod, "link", "add", "eth0", "type", "bridge"),
        weave.inside(pod, "link", "set", "eth0", "up"),
        weave.inside(pod, "addr", "add", address(result), "dev", "eth0"),
        weave.inside(pod, "route", "add", "default", "via", result["ips"][0]["gateway"]),
    ),
    "interface down": lambda weave, pod, result: weave.inside(pod, "link", "set", "eth0", "down"),
    "address gone": lambda weave, pod, result: weave.inside(pod, "addr", "del", address(result), "dev", "eth0"),
    "another address": lambda weave, pod, result: (
        weave.inside(pod, "addr", "flush", "dev", "eth0"),
        weave.inside(pod, "addr", "add", "10.32.255.1/12", "dev", "eth0"),
        weave.inside(pod, "route", "add", "default", "via", result["ips"][0]["gateway"]),
    ),
    "host's end gone": lambda weave, pod, result: weave.host.ip("link", "del", port(result)),
    "host's end off the bridge": lambda weave, pod, result: weave.host.ip("link", "set", port(result), "nomaster"),
    "host's end down": lambda weave, pod, result: weave.host.ip("link", "set", port(result), "down"),
    "MAC address changed": lambda weave, pod, result: weave.inside(
        pod, "link", "set", "eth0", "address", "02:00:00:00:00:77"
    ),
    "default route gone": lambda weave, pod, result: weave.inside(pod, "route", "del", "default"),
    "default route elsewhere": lambda weave, pod, result: weave.inside(
        pod, "route", "replace", "default", "via", "10.32.255.254"
    ),
    "address not recorded": lambda weave, pod, result: weave.release(
        next(identifier for identifier in weave.owned() if pod.id in identifier)
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_tampering_is_noticed(weave: CniHost, what: str) -> None:
    network, pod = weave.network("1.0.0"), weave.pod()
    result = weave.add(network, pod)
    weave.runtime.check(network, pod)
    TAMPERINGS[what](weave, pod, result)
    with pytest.raises(PluginFailed) as caught:
        weave.runtime.check(network, pod)
    assert caught.value.code >= 100 or caught.value.code in {7, 11}, "no code that means something else"


def test_namespace_gone(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    weave.vanish(pod)
    with pytest.raises(PluginFailed):
        weave.runtime.check(network, pod)


def test_additions_of_others_are_tolerated(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    weave.inside(pod, "addr", "add", "198.51.100.1/24", "dev", "eth0")
    weave.inside(pod, "addr", "add", "2001:db8::1/64", "dev", "eth0")
    weave.inside(pod, "route", "add", "203.0.113.0/24", "via", "198.51.100.9")
    weave.inside(pod, "link", "set", "eth0", "mtu", "1280", "txqueuelen", "7", "promisc", "on")
    weave.inside(pod, "link", "add", "other", "type", "bridge")
    weave.namespace(pod).run("sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1")
    weave.runtime.check(network, pod)


def test_changes_that_the_result_tells_of_are_tolerated(weave: CniHost) -> None:
    """As when `tuning` changed the MAC address, and `bandwidth` added an interface."""
    network, pod = weave.network(), weave.pod()
    result = weave.add(network, pod)
    weave.inside(pod, "link", "set", "eth0", "address", "02:00:00:00:00:77")
    result["interfaces"][2]["mac"] = "02:00:00:00:00:77"
    result["interfaces"].append({"name": "ifb7", "mac": "02:00:00:00:00:78"})
    environment = weave.runtime.environment("CHECK", pod)
    weave.runtime.run("weave-net", environment, network.plugin_config(0, {}, result)).nothing()
    result["interfaces"][2]["mac"] = "02:00:00:00:00:79"
    weave.runtime.run("weave-net", environment, network.plugin_config(0, {}, result)).failure()


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_previous_result_is_required(weave: CniHost, version: str) -> None:
    network, pod = weave.network(version), weave.pod()
    weave.add(network, pod)
    environment = weave.runtime.environment("CHECK", pod)
    failure = weave.runtime.run("weave-net", environment, network.plugin_config(0, {}, None)).failure()
    assert "prevResult" in failure.message + failure.details
    assert failure.code == 7


def test_previous_result_of_another_container(weave: CniHost) -> None:
    network, one, two = weave.network(), weave.pod(), weave.pod()
    first, second = weave.add(network, one), weave.add(network, two)
    for pod, result in ((one, second), (two, first)):
        environment = weave.runtime.environment("CHECK", pod)
        weave.runtime.run("weave-net", environment, network.plugin_config(0, {}, result)).failure()


def test_container_that_is_unknown(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    result = weave.add(network, pod)
    stranger = Pod("stranger", pod.netns)
    environment = weave.runtime.environment("CHECK", stranger)
    weave.runtime.run("weave-net", environment, network.plugin_config(0, {}, result)).failure()


@pytest.mark.parametrize("previous", [1, "text", {"ips": [1]}, {"interfaces": {}}, {"ips": [{"address": "x"}]}])
def test_previous_result_that_makes_no_sense(weave: CniHost, previous: object) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    if isinstance(previous, dict):
        previous = {"cniVersion": "1.1.0", **previous}
    config = weave.config(prevResult=previous)
    failure = weave.runtime.run("weave-net", weave.runtime.environment("CHECK", pod), config).failure()
    assert failure.code in {6, 7} or failure.code >= 100
