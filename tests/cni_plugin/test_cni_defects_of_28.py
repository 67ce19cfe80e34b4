"""Defects of Weave Net 2.8's plugins (reference, cni.md, marked OBS): each has a test that fails if it comes back.

The DEL that failed without a daemon, and the ADD that hung without an address, are in `test_cni_daemon_away.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_runtime import Pod

if TYPE_CHECKING:
    from cni_plugin.cni_host import CniHost

pytestmark = pytest.mark.root


def test_version_is_in_the_result(weave: CniHost) -> None:
    """Section 4: it was left out, which broke chains."""
    for version in ("0.3.1", "1.0.0"):
        assert weave.add(weave.network(version), weave.pod())["cniVersion"] == version


def test_interfaces_are_in_the_result(weave: CniHost) -> None:
    """Section 4: there were none, so that portmap and bandwidth found nothing."""
    result = weave.add(weave.network(), weave.pod())
    assert [entry.get("sandbox", "") == "" for entry in result["interfaces"]] == [True, True, False]


def test_default_route_is_in_the_result(weave: CniHost) -> None:
    """Section 4: it was made and not told."""
    pod = weave.pod()
    result = weave.add(weave.network(), pod)
    assert [route["dst"] for route in result["routes"]] == ["0.0.0.0/0"]
    assert sum(route["dst"] == "default" for route in weave.routes(pod)) == 1


def test_second_add_fails(weave: CniHost) -> None:
    """Section 2: it succeeded."""
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    weave.refusal(network, pod)


def test_address_is_given_back_when_a_later_step_fails(weave: CniHost) -> None:
    """Section 2: it was leaked."""
    pod = weave.pod()
    weave.inside(pod, "link", "add", "eth0", "type", "bridge")
    weave.refusal(weave.network(), pod)
    assert weave.owned_by(pod) == []


def test_second_interface_of_a_container(weave: CniHost) -> None:
    """Section 6: "file exists", since the host's name was made of seven characters of the container's ID."""
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod, "eth0")
    weave.add(network, pod, "net1")


def test_containers_whose_ids_begin_alike(weave: CniHost) -> None:
    """Section 6: for the same reason."""
    network = weave.network()
    for tail in ("1", "2"):
        weave.add(network, weave.pod("0123456" + tail * 57))


def test_delete_of_one_interface_leaves_the_others_address(weave: CniHost) -> None:
    """Section 7.1: addresses were kept by container alone, and all were freed."""
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod, "eth0")
    kept = weave.add(network, pod, "net1")["ips"][0]["address"]
    weave.delete(network, pod, "eth0")
    assert weave.owned_by(pod) == [kept]


def test_short_container_id(weave: CniHost) -> None:
    """Section 7.1: the host's name was made at random then, and could not be found again."""
    network, pod = weave.network(), weave.pod("ab")
    first = weave.add(network, pod)["interfaces"][1]["name"]
    weave.delete(network, pod)
    assert first not in weave.host_links()
    assert weave.add(network, pod)["interfaces"][1]["name"] == first


def test_errors_have_codes_of_their_own(weave: CniHost) -> None:
    """Section 3: all were 100."""
    pod, runtime = weave.pod(), weave.runtime
    environment = runtime.environment("ADD", pod)
    codes = [
        runtime.run("weave-net", environment, weave.config("0.2.0")).failure().code,
        runtime.run("weave-net", environment, weave.config(ipMasq=True)).failure().code,
        runtime.run("weave-net", {**environment, "CNI_IFNAME": ""}, weave.config()).failure().code,
        runtime.run("weave-net", environment, "{").failure().code,
        runtime.run("weave-net", environment, weave.config(mtu=-1)).failure().code,
        runtime.run("weave-net", {**environment, "CNI_NETNS": "/proc/self/ns/net"}, weave.config()).failure().code,
    ]
    assert codes == [1, 2, 4, 6, 7, 8]


def test_delete_of_what_has_no_address_succeeds(weave: CniHost) -> None:
    """Section 7.1: the allocator answered 400, whose text the plugin had to know."""
    weave.delete(weave.network(), Pod("nobody", ""))
