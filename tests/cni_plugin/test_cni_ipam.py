"""Addresses from other address plugins under our network, and ours under other networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cni_plugin.cni_runtime import Network, PluginFailed
from cni_plugin.recording_plugin import RecordingPlugin
from lab.network import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Json

pytestmark = pytest.mark.root

REFERENCE_VERSION = "1.0.0"
"""The highest that the reference plugins of Debian 12 speak."""


@pytest.fixture
def recording(weave: CniHost, tmp_path: Path) -> Iterator[RecordingPlugin]:
    """An address plugin that can be found under the name `recording-ipam`."""
    weave.runtime.plugin_dirs.append(tmp_path)
    yield RecordingPlugin(tmp_path, "recording-ipam")
    weave.clear()
    weave.runtime.plugin_dirs.remove(tmp_path)


def host_local(tmp_path: Path, **more: Any) -> Json:
    """The reference plugin that keeps addresses in files."""
    return {"type": "host-local", "dataDir": str(tmp_path / "leases"), **more}


def leases(tmp_path: Path, network: str = "weave") -> list[str]:
    """The addresses that host-local has reserved."""
    return sorted(path.name for path in (tmp_path / "leases" / network).glob("[0-9f]*"))


# -- others' addresses under our network --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_host_local(weave: CniHost, tmp_path: Path, version: str) -> None:
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.99.0.7"}]
    network = weave.network(version, ipam=host_local(tmp_path, subnet="10.99.0.0/24", routes=routes))
    one, two = weave.pod(), weave.pod()
    result, other = weave.add(network, one), weave.add(network, two)
    assert [entry["address"] for entry in result["ips"]] == ["10.99.0.2/24"]
    assert result["ips"][0]["gateway"] == "10.99.0.1"
    assert result["ips"][0]["interface"] == 2
    assert leases(tmp_path) == ["10.99.0.2", "10.99.0.3"]
    found = {(route["dst"], route["gateway"]) for route in weave.routes(one) if "gateway" in route}
    assert found == {("default", "10.99.0.1"), ("192.0.2.0/24", "10.99.0.7")}
    assert {(route["dst"], route.get("gw", "10.99.0.1")) for route in result["routes"]} == {
        ("0.0.0.0/0", "10.99.0.1"),
        ("192.0.2.0/24", "10.99.0.7"),
    }
    wait_until(lambda: weave.namespace(one).reaches(other["ips"][0]["address"].split("/")[0]), 5, "a ping")
    if version >= "0.4.0":
        weave.runtime.check(network, one)
        (tmp_path / "leases" / "weave" / "10.99.0.2").unlink()
        with pytest.raises(PluginFailed):
            weave.runtime.check(network, one)
    weave.delete(network, one)
    assert leases(tmp_path) == ["10.99.0.3"]
    weave.delete(network, two)
    assert leases(tmp_path) == []


def test_both_families(weave: CniHost, tmp_path: Path) -> None:
    ranges = [[{"subnet": "10.99.0.0/24"}], [{"subnet": "fd00:99::/64"}]]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    network = weave.network(REFERENCE_VERSION, ipam=host_local(tmp_path, ranges=ranges, routes=routes))
    one, two = weave.pod(), weave.pod()
    result = weave.add(network, one)
    weave.add(network, two)
    assert [entry["address"] for entry in result["ips"]] == ["10.99.0.2/24", "fd00:99::2/64"]
    assert [entry["interface"] for entry in result["ips"]] == [2, 2]
    assert weave.namespace(two).reaches("fd00:99::2"), "usable at once, without waiting for duplicates"
    weave.runtime.check(network, one)
    weave.inside(one, "addr", "del", "fd00:99::2/64", "dev", "eth0")
    with pytest.raises(PluginFailed):
        weave.runtime.check(network, one)
    for pod in (one, two):
        weave.delete(network, pod)
    assert leases(tmp_path) == []


def test_static(weave: CniHost) -> None:
    addresses = [{"address": "10.98.0.5/24", "gateway": "10.98.0.1"}]
    ipam = {
        "type": "static",
        "addresses": addresses,
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["9.9.9.9"]},
    }
    network, pod = weave.network(REFERENCE_VERSION, ipam=ipam), weave.pod()
    result = weave.add(network, pod)
    assert [entry["address"] for entry in result["ips"]] == ["10.98.0.5/24"]
    assert result["dns"]["nameservers"] == ["9.9.9.9"]
    weave.runtime.check(network, pod)
    weave.delete(network, pod)
    assert not weave.has_interface(pod, "eth0")


def test_static_with_requested_addresses(weave: CniHost) -> None:
    network, pod = weave.network(REFERENCE_VERSION, ipam={"type": "static"}, capabilities={"ips": True}), weave.pod()
    result = weave.add(network, pod, capabilities={"ips": ["10.98.0.6/24"]})
    assert [entry["address"] for entry in result["ips"]] == ["10.98.0.6/24"]


def test_our_own_by_name(weave: CniHost) -> None:
    network, pod = weave.network(ipam=weave.weave_ipam(subnet="10.40.0.0/24")), weave.pod()
    result = weave.add(network, pod)
    assert result["ips"][0]["address"].startswith("10.40.0.")
    assert result["ips"][0]["address"].endswith("/24")
    assert weave.owned_by(pod) == [result["ips"][0]["address"]]
    weave.runtime.check(network, pod)
    weave.delete(network, pod)
    weave.delete(network, pod)
    assert weave.owned_by(pod) == []


def test_what_the_address_plugin_is_told(weave: CniHost, recording: RecordingPlugin) -> None:
    recording.answer("ADD", {"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.5/24"}]})
    network = weave.network(ipam={"type": "recording-ipam", "more": [1]}, capabilities={"ips": True})
    pod = weave.pod()
    weave.add(network, pod, arguments="IgnoreUnknown=1;K8S_POD_NAME=web", capabilities={"ips": ["10.99.0.5/24"]})
    weave.runtime.check(network, pod)
    weave.delete(network, pod)
    calls = recording.calls()
    assert [call.command for call in calls] == ["ADD", "CHECK", "DEL"]
    for call in calls:
        assert call.variables["CNI_CONTAINERID"] == pod.id
        assert call.variables["CNI_IFNAME"] == "eth0"
        assert call.variables["CNI_NETNS"] == pod.netns
        assert call.variables["CNI_ARGS"] == "IgnoreUnknown=1;K8S_POD_NAME=web"
        assert call.variables["CNI_PATH"] == ":".join(map(str, weave.runtime.plugin_dirs))
        assert call.config["ipam"] == {"type": "recording-ipam", "more": [1]}
        assert (call.config["name"], call.config["cniVersion"]) == ("weave", "1.1.0")
        assert call.config["runtimeConfig"] == {"ips": ["10.99.0.5/24"]}


def test_address_plugin_that_fails_is_told_to_delete(weave: CniHost, recording: RecordingPlugin) -> None:
    recording.fail("ADD", 77, "no address today")
    failure = weave.refusal(weave.network(ipam={"type": "recording-ipam"}), weave.pod())
    assert "no address today" in failure.message + failure.details
    assert failure.code == 77
    assert [call.command for call in recording.calls()] == ["ADD", "DEL"]


@pytest.mark.parametrize(
    "answer",
    [
        {"cniVersion": "1.1.0", "ips": [{"address": "nonsense"}]},
        {"cniVersion": "1.1.0", "ips": [{}]},
        {"cniVersion": "1.1.0", "ips": {}},
        {"cniVersion": "1.1.0", "ips": []},
        {"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.5/24"}], "routes": [{"dst": "nonsense"}]},
        {"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.5/24"}], "routes": [{"dst": "::/0", "gw": "10.99.0.1"}]},
        [],
        "nonsense",
        "",
    ],
)
def test_failure_after_the_address_gives_it_back(weave: CniHost, recording: RecordingPlugin, answer: Any) -> None:
    recording.answer("ADD", answer)
    failure = weave.refusal(weave.network(ipam={"type": "recording-ipam"}), weave.pod())
    assert "recording-ipam" in failure.message + failure.details or failure.code != 11
    assert [call.command for call in recording.calls()] == ["ADD", "DEL"]


def test_interface_that_exists_leaves_no_address_of_others(weave: CniHost, tmp_path: Path) -> None:
    network, pod = weave.network(REFERENCE_VERSION, ipam=host_local(tmp_path, subnet="10.99.0.0/24")), weave.pod()
    weave.inside(pod, "link", "add", "eth0", "type", "bridge")
    weave.refusal(network, pod)
    assert leases(tmp_path) == []
    weave.inside(pod, "link", "del", "eth0")
    weave.add(network, pod)
    weave.refusal(network, pod)
    assert leases(tmp_path) == ["10.99.0.2"], "the first one's"


def test_address_plugin_that_cannot_be_found(weave: CniHost) -> None:
    network, pod = weave.network(ipam={"type": "nowhere-ipam"}), weave.pod()
    failure = weave.refusal(network, pod)
    assert "nowhere-ipam" in failure.message + failure.details
    for kind in ("../bin/sh", "a/b", "", "."):
        weave.refusal(weave.network(ipam={"type": kind or "."}), pod)


def test_address_plugin_that_leaves_noise_and_a_status(weave: CniHost, tmp_path: Path) -> None:
    path = tmp_path / "crashing-ipam"
    path.write_text("#!/bin/sh\necho something went wrong >&2\nkill -SEGV $$\n")
    path.chmod(0o755)
    weave.runtime.plugin_dirs.append(tmp_path)
    try:
        failure = weave.refusal(weave.network(ipam={"type": "crashing-ipam"}), weave.pod())
        assert "crashing-ipam" in failure.message + failure.details
    finally:
        weave.runtime.plugin_dirs.remove(tmp_path)


def test_delete_asks_the_address_plugin_even_if_nothing_is_known(weave: CniHost, recording: RecordingPlugin) -> None:
    network, pod = weave.network(ipam={"type": "recording-ipam"}), weave.pod()
    weave.delete(network, pod)
    assert [call.command for call in recording.calls()] == ["DEL"]
    recording.fail("DEL", 11, "not now")
    with pytest.raises(PluginFailed, match="not now"):
        weave.delete(network, pod)


def test_delete_that_the_address_plugin_refuses_can_be_repeated(weave: CniHost, recording: RecordingPlugin) -> None:
    recording.answer("ADD", {"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.5/24"}]})
    network, pod = weave.network(ipam={"type": "recording-ipam"}), weave.pod()
    weave.add(network, pod)
    recording.fail("DEL", 11, "not now")
    with pytest.raises(PluginFailed):
        weave.delete(network, pod)
    recording.answer("DEL", "")
    weave.delete(network, pod)
    assert not weave.has_interface(pod, "eth0")
    assert weave.attachments() == []


# -- our addresses under other networks ---------------------------------------------------------------------------


MAIN_PLUGINS: dict[str, Json] = {
    "bridge": {"bridge": "foreign0", "isGateway": False},
    "macvlan": {"master": "uplink0", "mode": "bridge"},
}


def foreign(weave: CniHost, kind: str, version: str, **ipam: Any) -> Network:
    """Another network plugin with our addresses."""
    return Network("foreign", version, [{**MAIN_PLUGINS[kind], "type": kind, "ipam": weave.weave_ipam(**ipam)}])


@pytest.fixture
def uplink(weave: CniHost) -> Iterator[None]:
    """A device for macvlan to build on."""
    weave.host.ip("link", "add", "uplink0", "type", "bridge")
    weave.host.ip("link", "set", "uplink0", "up")
    yield
    weave.clear()
    for name in ("uplink0", "foreign0"):
        if f" {name}:" in weave.host.ip("-o", "link"):
            weave.host.ip("link", "del", name)


@pytest.mark.parametrize(("kind", "version"), [("bridge", "0.3.1"), ("bridge", "1.0.0"), ("macvlan", "0.4.0")])
def test_our_addresses_under_the_reference_plugins(weave: CniHost, uplink: None, kind: str, version: str) -> None:
    network, pod = foreign(weave, kind, version), weave.pod()
    result = weave.add(network, pod)
    (entry,) = result["ips"]
    assert weave.owned_by(pod) == [entry["address"]]
    assert [address["local"] for address in weave.addresses(pod)] == [entry["address"].split("/")[0]]
    assert entry["address"].endswith("/12")
    if version >= "0.4.0":
        weave.runtime.check(network, pod)
        weave.release(next(identifier for identifier in weave.owned() if pod.id in identifier))
        with pytest.raises(PluginFailed):
            weave.runtime.check(network, pod)
    weave.delete(network, pod)
    weave.delete(network, pod)
    assert weave.owned_by(pod) == []


def test_subnet_gateway_and_routes_of_our_addresses(weave: CniHost, uplink: None) -> None:
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.40.3.9"}]
    pod = weave.pod()
    network = foreign(weave, "bridge", "1.0.0", subnet="10.40.3.0/24", gateway="10.40.3.1", routes=routes)
    result = weave.add(network, pod)
    assert result["ips"][0]["address"].startswith("10.40.3.")
    assert result["ips"][0]["address"].endswith("/24")
    assert result["ips"][0]["gateway"] == "10.40.3.1"
    assert [(route["dst"], route.get("gw", "10.40.3.1")) for route in result["routes"]] == [
        ("0.0.0.0/0", "10.40.3.1"),
        ("192.0.2.0/24", "10.40.3.9"),
    ]
    assert {route["dst"] for route in weave.routes(pod)} == {"default", "192.0.2.0/24", "10.40.3.0/24"}


def test_our_address_for_a_container_that_has_one(weave: CniHost) -> None:
    """The library asks once; whoever asks twice gets no second address that nobody would ever free."""
    config = {"cniVersion": "1.1.0", "name": "foreign", "type": "bridge", "ipam": weave.weave_ipam()}
    pod, runtime = weave.pod(), weave.runtime
    first = runtime.run("weave-ipam", runtime.environment("ADD", pod), config).result()
    again = runtime.run("weave-ipam", runtime.environment("ADD", pod), config)
    if again.status == 0:
        assert again.result()["ips"] == first["ips"]
    assert len(weave.owned_by(pod)) == 1
    runtime.run("weave-ipam", runtime.environment("DEL", pod), config).nothing()
    assert weave.owned_by(pod) == []


def test_requested_addresses_from_our_plugin(weave: CniHost) -> None:
    config = {"cniVersion": "1.1.0", "name": "foreign", "type": "bridge", "ipam": weave.weave_ipam()}
    pod, runtime = weave.pod(), weave.runtime
    wish = {**config, "runtimeConfig": {"ips": ["10.32.77.7/12"]}}
    result = runtime.run("weave-ipam", runtime.environment("ADD", pod), wish).result()
    assert [entry["address"] for entry in result["ips"]] == ["10.32.77.7/12"]
    other = runtime.run("weave-ipam", runtime.environment("ADD", weave.pod()), wish).failure()
    assert "10.32.77.7" in other.message + other.details
    runtime.run("weave-ipam", runtime.environment("DEL", pod), config).nothing()


def test_our_plugin_works_without_a_look_at_the_namespace(weave: CniHost) -> None:
    config = {"cniVersion": "1.1.0", "name": "foreign", "type": "bridge", "ipam": weave.weave_ipam()}
    pod, runtime = weave.pod(), weave.runtime
    runtime.run("weave-ipam", runtime.environment("ADD", pod), config).result()
    weave.vanish(pod)
    assert weave.owned_by(pod), "an address is kept until DEL"
    runtime.run("weave-ipam", runtime.environment("DEL", pod), config).nothing()
    assert weave.owned() == {}
