"""DEL: success in every case, and what was made is gone; what is somebody else's stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cni_plugin.cni_host import BY_HAND
from cni_plugin.cni_runtime import Pod
from lab.shell import run

if TYPE_CHECKING:
    from cni_plugin.cni_host import CniHost

pytestmark = pytest.mark.root


def delete(weave: CniHost, pod: Pod, version: str = "1.1.0", **changes: Any) -> None:
    """DEL without the cache: no previous result unless it is among the changes."""
    weave.runtime.run("weave-net", weave.runtime.environment("DEL", pod), weave.config(version, **changes)).nothing()


def gone(weave: CniHost, pod: Pod) -> bool:
    """Whether nothing of a container is left on the host."""
    return weave.owned_by(pod) == [] and weave.host_links() == set() and weave.attachments() == []


def test_repeated(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    for _ in range(3):
        weave.delete(network, pod)
        assert gone(weave, pod)
        assert not weave.has_interface(pod, "eth0")


@pytest.mark.parametrize("version", ["0.3.0", "0.4.0", "1.1.0"])
def test_of_what_was_never_added(weave: CniHost, version: str) -> None:
    delete(weave, weave.pod(), version)
    delete(weave, Pod("nobody", ""), version)
    delete(weave, Pod("nobody", "/run/netns/nowhere"), version)


def test_without_previous_result(weave: CniHost) -> None:
    pod = weave.pod()
    weave.add(weave.network(), pod)
    delete(weave, pod)
    assert gone(weave, pod)


@pytest.mark.parametrize("netns", ["", None])
def test_without_namespace(weave: CniHost, netns: str | None) -> None:
    pod = weave.pod()
    result = weave.add(weave.network(), pod)
    environment = weave.runtime.environment("DEL", Pod(pod.id, ""))
    if netns is None:
        del environment["CNI_NETNS"]
    weave.runtime.run("weave-net", environment, weave.config(prevResult=result)).nothing()
    assert gone(weave, pod)
    assert not weave.has_interface(pod, "eth0"), "the container loses its end with the host's"


def test_of_a_namespace_that_vanished(weave: CniHost) -> None:
    pod = weave.pod()
    weave.add(weave.network(), pod)
    weave.vanish(pod)
    delete(weave, pod)
    assert gone(weave, pod)


def test_of_a_path_that_is_no_namespace_any_more(weave: CniHost) -> None:
    # What another mount namespace leaves of a namespace that was mounted there.
    pod = weave.pod()
    weave.add(weave.network(), pod)
    namespace = weave.namespace(pod)
    namespace.remove()
    namespace.path.touch()
    try:
        delete(weave, pod)
        assert gone(weave, pod)
    finally:
        namespace.path.unlink()


@pytest.mark.parametrize("end", ["container", "host"])
def test_of_an_interface_that_vanished(weave: CniHost, end: str) -> None:
    pod = weave.pod()
    result = weave.add(weave.network(), pod)
    if end == "container":
        weave.inside(pod, "link", "del", "eth0")
    else:
        weave.host.ip("link", "del", result["interfaces"][1]["name"])
    delete(weave, pod)
    assert gone(weave, pod)


def test_of_an_address_that_was_freed_by_hand(weave: CniHost) -> None:
    pod = weave.pod()
    weave.add(weave.network(), pod)
    for identifier in weave.owned():
        weave.release(identifier)
    delete(weave, pod)
    assert gone(weave, pod)


def test_after_an_add_that_failed(weave: CniHost) -> None:
    pod = weave.pod()
    weave.refusal(weave.network(mtu=-1), pod)
    delete(weave, pod)


def test_with_a_configuration_that_makes_no_sense_any_more(weave: CniHost) -> None:
    """An administrator's mistake in the file must not keep containers from ending."""
    pod = weave.pod()
    weave.add(weave.network(), pod)
    delete(weave, pod, mtu=-1, ipam={"subnet": "192.0.2.0/24"})
    assert gone(weave, pod)


def test_of_a_new_container_at_the_old_path(weave: CniHost) -> None:
    network, old = weave.network(), weave.pod()
    weave.add(network, old)
    namespace = weave.namespace(old)
    namespace.remove()
    run("ip", "netns", "add", namespace.name)
    new = Pod(f"new{old.id}", old.netns)
    weave.add(network, new)
    delete(weave, old)
    assert weave.owned_by(old) == []
    assert weave.has_interface(new, "eth0"), "the interface of the container that is there now"
    weave.runtime.check(network, new)
    delete(weave, new)


def test_leaves_an_interface_of_somebody_else(weave: CniHost) -> None:
    pod = weave.pod()
    weave.inside(pod, "link", "add", "eth0", "type", "bridge")
    delete(weave, pod)
    assert weave.has_interface(pod, "eth0")


def test_leaves_other_networks_alone(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    weave.runtime.run("weave-net", weave.runtime.environment("DEL", pod), weave.config(name="other")).nothing()
    weave.runtime.check(network, pod)


def test_leaves_what_was_attached_by_hand_alone(weave: CniHost) -> None:
    pod = weave.pod()
    weave.attach_by_hand(pod, "10.46.0.1/24")
    before = weave.known()
    environment = weave.runtime.environment("DEL", pod, BY_HAND)
    weave.runtime.run("weave-net", environment, weave.config()).nothing()
    assert weave.known() == before
    assert weave.has_interface(pod, BY_HAND)
    weave.detach_by_hand(pod, "10.46.0.1/24")


def test_address_is_free_only_after_it(weave: CniHost) -> None:
    ipam = {"subnet": "10.47.0.0/30", "gateway": "10.47.0.2", "routes": []}
    weave.claim("gate", "10.47.0.2/30")
    network, pod = weave.network(ipam=ipam), weave.pod()
    first = weave.add(network, pod)
    weave.vanish(pod)
    assert weave.owned_by(pod) == [first["ips"][0]["address"]], "a container that merely vanished keeps its address"
    other = weave.pod()
    weave.delete(network, pod)
    assert weave.add(network, other)["ips"][0]["address"] == first["ips"][0]["address"]
    weave.release("gate")
