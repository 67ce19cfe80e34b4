"""The runtime of these tests itself, proved on the reference plugins of the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_runtime import ManyFailed, Network, NotConforming, PluginFailed, Pod, Runtime, check_result
from cni_plugin.recording_plugin import RecordingPlugin

if TYPE_CHECKING:
    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Json

pytestmark = pytest.mark.root


@pytest.fixture
def runtime(cni: CniHost, tmp_path: Path) -> Runtime:
    """A runtime with the reference plugins and some of our own in a temporary directory."""
    (tmp_path / "bin").mkdir()
    return Runtime(cni.host, [tmp_path / "bin", Path("/usr/lib/cni")], tmp_path)


def bridge(tmp_path: Path, version: str = "1.0.0", **more: object) -> Network:
    """The reference bridge with host-local addresses."""
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "leases"), "subnet": "10.77.0.0/24"}
    plugin = {"type": "bridge", "bridge": "reference", "isGateway": True, "ipam": ipam, **more}
    return Network("reference", version, [plugin])


def leases(tmp_path: Path) -> list[str]:
    """The addresses that host-local has reserved."""
    return sorted(path.name for path in (tmp_path / "leases" / "reference").glob("10.*"))


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_life_with_the_reference_bridge(cni: CniHost, runtime: Runtime, tmp_path: Path, version: str) -> None:
    network, pod = bridge(tmp_path, version), cni.pod()
    result = runtime.add(network, pod)
    address = result["ips"][0]["address"]
    assert [f"{entry['local']}/{entry['prefixlen']}" for entry in cni.addresses(pod)] == [address]
    assert leases(tmp_path) == [address.split("/")[0]]
    if version >= "0.4.0":
        runtime.check(network, pod)
        cni.inside(pod, "addr", "flush", "dev", "eth0")
        with pytest.raises(PluginFailed):
            runtime.check(network, pod)
    else:
        with pytest.raises(NotConforming, match="no CHECK"):
            runtime.check(network, pod)
    runtime.delete(network, pod)
    runtime.delete(network, pod)
    assert leases(tmp_path) == []
    assert not cni.has_interface(pod, "eth0")


def test_error_objects(cni: CniHost, runtime: Runtime, tmp_path: Path) -> None:
    network, pod = bridge(tmp_path), cni.pod()
    cni.inside(pod, "link", "add", "eth0", "type", "bridge")
    with pytest.raises(PluginFailed) as caught:
        runtime.add(network, pod)
    assert caught.value.message
    runtime.delete(network, pod)
    assert leases(tmp_path) == []
    answer = runtime.run("bridge", runtime.environment("ADD", pod), "{")
    assert answer.failure().code == 6


def test_chain_order_and_previous_results(cni: CniHost, runtime: Runtime, tmp_path: Path) -> None:
    first, second = RecordingPlugin(tmp_path / "bin", "first"), RecordingPlugin(tmp_path / "bin", "second")
    one: Json = {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.1/24"}]}
    two: Json = {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]}
    first.answer("ADD", one)
    second.answer("ADD", two)
    capable = {"type": "second", "capabilities": {"mac": True, "ips": False}}
    network, pod = Network("chain", "1.1.0", [{"type": "first"}, capable]), cni.pod()
    assert runtime.add(network, pod, arguments="K=V", capabilities={"mac": "02::", "ips": ["10.0.0.1"]}) == two
    runtime.check(network, pod)
    runtime.status(network)
    runtime.gc(network, [(pod.id, "eth0")])
    runtime.delete(network, pod)
    everything = sorted((*first.calls(), *second.calls()), key=lambda call: call.moment)
    assert [(call.plugin, call.command) for call in everything] == [
        ("first", "ADD"),
        ("second", "ADD"),
        ("first", "CHECK"),
        ("second", "CHECK"),
        ("first", "STATUS"),
        ("second", "STATUS"),
        ("first", "GC"),
        ("second", "GC"),
        ("second", "DEL"),
        ("first", "DEL"),
    ]
    configs = {(call.plugin, call.command): call.config for call in everything}
    assert "prevResult" not in configs["first", "ADD"]
    assert "runtimeConfig" not in configs["first", "ADD"]
    assert configs["second", "ADD"]["prevResult"] == one
    assert configs["second", "ADD"]["runtimeConfig"] == {"mac": "02::"}
    assert configs["second", "DEL"]["runtimeConfig"] == {"mac": "02::"}
    assert configs["first", "CHECK"]["prevResult"] == configs["first", "DEL"]["prevResult"] == two
    attachments = [{"containerID": pod.id, "ifname": "eth0"}]
    assert configs["second", "GC"]["cni.dev/valid-attachments"] == attachments
    assert configs["second", "GC"]["cni.dev/attachments"] == attachments
    variables = next(call.variables for call in everything if call.command == "ADD")
    assert variables["CNI_ARGS"] == "K=V"
    assert variables["CNI_NETNS"] == pod.netns


def test_garbage_collection_deletes_what_is_cached_and_goes_on(cni: CniHost, runtime: Runtime, tmp_path: Path) -> None:
    plugin = RecordingPlugin(tmp_path / "bin", "first")
    plugin.answer("ADD", {"cniVersion": "1.1.0"})
    network = Network("chain", "1.1.0", [{"type": "first"}])
    for name in ("one", "two"):
        runtime.add(network, Pod(name, "/proc/self/ns/net"))
    runtime.gc(network, [("one", "eth0")])
    assert [call.variables["CNI_CONTAINERID"] for call in plugin.calls() if call.command == "DEL"] == ["two"]
    plugin.fail("DEL", 99, "no")
    plugin.fail("GC", 98, "no")
    with pytest.raises(ManyFailed) as caught:
        runtime.gc(network, None)
    assert [failure.code for failure in caught.value.failures] == [99, 98]
    assert "cni.dev/valid-attachments" not in plugin.calls()[-1].config


@pytest.mark.parametrize(
    ("output", "status"),
    [
        ("", 0),
        ("hello {}", 0),
        ("[]", 0),
        ("{}\n{}", 0),
        ("", 1),
        ('{"code": 0, "msg": "x", "cniVersion": "1.0.0"}', 1),
    ],
)
def test_noise_is_noticed(cni: CniHost, runtime: Runtime, tmp_path: Path, output: str, status: int) -> None:
    RecordingPlugin(tmp_path / "bin", "noisy").answer("ADD", output, status)
    with pytest.raises(NotConforming):
        runtime.add(Network("noise", "1.0.0", [{"type": "noisy"}]), Pod("one", "/proc/self/ns/net"))


def test_plugin_that_hangs(cni: CniHost, runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "bin" / "slow"
    path.write_text("#!/bin/sh\nsleep 60\n")
    path.chmod(0o755)
    with pytest.raises(NotConforming, match="takes more than"):
        runtime.run("slow", runtime.environment("VERSION"), {}, limit_s=0.3)


def test_version_is_the_highest_that_both_know(tmp_path: Path) -> None:
    path = tmp_path / "10-net.conflist"
    path.write_text(
        json.dumps({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0", "9.0.0"], "name": "n", "plugins": []})
    )
    assert Network.load(path).version == "1.1.0"
    assert Network.load(path, ["0.4.0", "1.0.0"]).version == "1.0.0"


@pytest.mark.parametrize(
    ("version", "result"),
    [
        ("1.0.0", {}),
        ("1.0.0", {"cniVersion": "0.4.0"}),
        ("1.0.0", {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24", "version": "4"}]}),
        ("0.4.0", {"cniVersion": "0.4.0", "ips": [{"address": "10.0.0.1/24"}]}),
        ("1.0.0", {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24", "interface": 0}]}),
        ("1.0.0", {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "mtu": 1500}]}),
        ("1.0.0", {"cniVersion": "1.0.0", "routes": [{"dst": "0.0.0.0/0", "mtu": 1500}]}),
    ],
)
def test_bad_results_are_noticed(version: str, result: Json) -> None:
    with pytest.raises(NotConforming):
        check_result(result, version)
