"""GC: what is not in the list goes, of this network alone, and nothing that others made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cni_plugin.cni_runtime import ManyFailed, Network, Pod, valid_attachments
from cni_plugin.recording_plugin import RecordingPlugin

if TYPE_CHECKING:
    from pathlib import Path

    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Answer, Json

pytestmark = pytest.mark.root


def collect(weave: CniHost, keys: Json, plugin: str = "weave-net", **changes: Any) -> Answer:
    """GC by the plugin alone: a runtime would run DEL for what it remembers before."""
    return weave.runtime.run(plugin, weave.runtime.environment("GC"), {**weave.config(**changes), **keys})


def is_whole(weave: CniHost, network: Network, pod: Pod, ifname: str = "eth0") -> bool:
    """Whether an attachment passes CHECK, and its address is recorded."""
    weave.runtime.check(network, pod, ifname)
    return weave.owned_by(pod) != []


def is_gone(weave: CniHost, pod: Pod, ifname: str = "eth0") -> bool:
    """Whether nothing of an attachment is left."""
    return not weave.owned_by(pod) and not weave.has_interface(pod, ifname)


def test_what_is_not_listed_goes(weave: CniHost) -> None:
    network, kept, stale = weave.network(), weave.pod(), weave.pod()
    result = {pod: weave.add(network, pod) for pod in (kept, stale)}
    collect(weave, valid_attachments([(kept.id, "eth0"), ("unknown", "eth0")])).nothing()
    assert is_whole(weave, network, kept)
    assert is_gone(weave, stale)
    assert result[stale]["interfaces"][1]["name"] not in weave.host_links()
    assert [attachment["id"] for attachment in weave.attachments()] == [kept.id]


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_either_key(weave: CniHost, key: str) -> None:
    network, kept, stale = weave.network(), weave.pod(), weave.pod()
    for pod in (kept, stale):
        weave.add(network, pod)
    collect(weave, {key: [{"containerID": kept.id, "ifname": "eth0"}]}).nothing()
    assert is_whole(weave, network, kept)
    assert is_gone(weave, stale)


def test_the_new_key_is_the_one_that_counts(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    entries = [{"containerID": pod.id, "ifname": "eth0"}]
    collect(weave, {"cni.dev/valid-attachments": entries, "cni.dev/attachments": []}).nothing()
    assert is_whole(weave, network, pod)


def test_without_a_list_nothing_goes(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    collect(weave, {}).nothing()
    assert is_whole(weave, network, pod)


def test_an_empty_list_means_all(weave: CniHost) -> None:
    network, pods = weave.network(), [weave.pod(), weave.pod()]
    for pod in pods:
        weave.add(network, pod)
    weave.vanish(pods[0])
    collect(weave, valid_attachments([])).nothing()
    assert weave.owned() == {}
    assert weave.host_links() == set()
    assert weave.attachments() == []
    collect(weave, valid_attachments([])).nothing()


@pytest.mark.parametrize(
    "value", [None, {}, "text", 1, [None], ["text"], [{}], [{"containerID": "a"}], [{"ifname": "b"}]]
)
def test_a_list_that_makes_no_sense_removes_nothing(weave: CniHost, value: object) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    answer = collect(weave, {"cni.dev/valid-attachments": value})
    if answer.status != 0:
        assert answer.failure().code in {6, 7}
    assert is_whole(weave, network, pod)


def test_interfaces_of_one_container_are_told_apart(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    for ifname in ("eth0", "net1"):
        weave.add(network, pod, ifname)
    collect(weave, valid_attachments([(pod.id, "net1")])).nothing()
    assert not weave.has_interface(pod, "eth0")
    weave.runtime.check(network, pod, "net1")
    assert len(weave.owned_by(pod)) == 1


def test_other_networks_stay(weave: CniHost) -> None:
    one, other, pod, stranger = weave.network(), weave.network(name="other"), weave.pod(), weave.pod()
    weave.add(one, pod)
    weave.add(other, stranger)
    weave.add(other, pod, "net1")
    collect(weave, valid_attachments([])).nothing()
    assert not weave.has_interface(pod, "eth0")
    weave.runtime.check(other, stranger)
    weave.runtime.check(other, pod, "net1")
    collect(weave, valid_attachments([]), name="other").nothing()
    assert weave.attachments() == []


def test_what_others_made_stays(weave: CniHost) -> None:
    by_hand = weave.pod()
    weave.attach_by_hand(by_hand, "10.46.0.1/24")
    identifiers = ("docker:pool:one", "weave:extern", "cni:other:container:eth0", "somebody")
    for number, identifier in enumerate(identifiers, 10):
        weave.claim(identifier, f"10.46.0.{number}/24")
    with weave.client() as client:
        client.expose({"addresses": ["10.46.0.254/24"]})
    before = weave.known(), weave.exposed()
    for plugin in ("weave-net", "weave-ipam"):
        collect(weave, valid_attachments([]), plugin, ipam=weave.weave_ipam()).nothing()
    assert (weave.known(), weave.exposed()) == before
    for identifier in identifiers:
        weave.release(identifier)
    with weave.client() as client:
        client.hide(["10.46.0.254"])
    weave.detach_by_hand(by_hand, "10.46.0.1/24")


def test_addresses_under_other_plugins(weave: CniHost) -> None:
    config = {"cniVersion": "1.1.0", "name": "foreign", "type": "bridge", "ipam": weave.weave_ipam()}
    runtime, kept, stale = weave.runtime, weave.pod(), weave.pod()
    for pod in (kept, stale):
        runtime.run("weave-ipam", runtime.environment("ADD", pod), config).result()
    keys = valid_attachments([(kept.id, "eth0")])
    runtime.run("weave-ipam", runtime.environment("GC"), {**config, "name": "another", **keys}).nothing()
    runtime.run("weave-ipam", runtime.environment("GC"), config).nothing()
    assert weave.owned_by(kept)
    assert weave.owned_by(stale)
    runtime.run("weave-ipam", runtime.environment("GC"), {**config, **keys}).nothing()
    assert weave.owned_by(kept)
    assert not weave.owned_by(stale)
    runtime.run("weave-ipam", runtime.environment("GC"), {**config, **valid_attachments([])}).nothing()
    assert weave.owned() == {}


def test_names_go_with_the_container(weave: CniHost) -> None:
    network, pod = weave.network(capabilities={"aliases": True}), weave.pod()
    weave.add(network, pod, capabilities={"aliases": ["collected"]})
    assert weave.look_up("collected")
    collect(weave, valid_attachments([])).nothing()
    assert weave.look_up("collected") == []


def test_address_plugin_is_asked_and_its_errors_are_told_in_the_end(weave: CniHost, tmp_path: Path) -> None:
    ipam = RecordingPlugin(tmp_path, "recording-ipam")
    ipam.answer("ADD", {"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.5/24"}]})
    ipam.fail("GC", 77, "the disk is full")
    weave.runtime.plugin_dirs.append(tmp_path)
    try:
        network, pod = weave.network(ipam={"type": "recording-ipam"}), weave.pod()
        weave.add(network, pod)
        failure = collect(weave, valid_attachments([]), ipam={"type": "recording-ipam"}).failure()
        assert "the disk is full" in failure.message + failure.details
        assert not weave.has_interface(pod, "eth0"), "it goes on after the error"
        assert ipam.calls("GC")[0].config["cni.dev/valid-attachments"] == []
        ipam.answer("GC", "")
        collect(weave, valid_attachments([("a", "b")]), ipam={"type": "recording-ipam"}).nothing()
        assert ipam.calls("GC")[-1].config["cni.dev/valid-attachments"] == [{"containerID": "a", "ifname": "b"}]
    finally:
        weave.runtime.plugin_dirs.remove(tmp_path)


def test_by_the_runtime(weave: CniHost) -> None:
    network, kept, stale, forgotten = weave.network(), weave.pod(), weave.pod(), weave.pod()
    for pod in (kept, stale, forgotten):
        weave.add(network, pod)
    weave.runtime.forget(network, forgotten)
    try:
        weave.runtime.gc(network, [(kept.id, "eth0")])
    except ManyFailed as failures:
        pytest.fail(str(failures))
    assert is_whole(weave, network, kept)
    assert is_gone(weave, stale)
    assert is_gone(weave, forgotten)
