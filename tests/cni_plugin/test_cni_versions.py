"""Versions of the specification: which are spoken, by which operations, and what the results look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_host import VERSIONS
from cni_plugin.cni_runtime import check_result, number

if TYPE_CHECKING:
    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Json

pytestmark = pytest.mark.root

OURS = ("weave-net", "weave-ipam")


@pytest.mark.parametrize("plugin", OURS)
def test_versions_are_told(weave: CniHost, plugin: str) -> None:
    assert weave.runtime.versions(plugin) == list(VERSIONS)
    answer = weave.runtime.run(plugin, weave.runtime.environment("VERSION"), {"cniVersion": "1.1.0"})
    assert answer.document()["cniVersion"] == "1.1.0"


@pytest.mark.parametrize("config", ['{"cniVersion": "0.4.0"}', '{"cniVersion": "9.9.9"}', "{}", ""])
def test_version_needs_neither_daemon_nor_configuration(cni: CniHost, weave: CniHost, config: str) -> None:
    # Podman asks in each command, with variables that mean nothing.
    dummy = {"CNI_CONTAINERID": "dummy", "CNI_NETNS": "dummy", "CNI_IFNAME": "dummy", "CNI_PATH": "dummy"}
    answer = weave.runtime.run("weave-net", {**weave.runtime.environment("VERSION"), **dummy}, config)
    assert answer.result()["supportedVersions"] == list(VERSIONS)


def test_about_text_without_a_command(weave: CniHost) -> None:
    answer = weave.runtime.run("weave-net", {"PATH": "/usr/bin:/bin"}, "")
    assert (answer.status, answer.output) == (0, "")
    assert all(version in answer.errors for version in VERSIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_life_of_a_container(weave: CniHost, version: str) -> None:
    network, pod = weave.network(version), weave.pod()
    result = weave.add(network, pod)
    assert [entry["name"] for entry in result["interfaces"]][-1] == "eth0"
    (address,) = (entry["address"] for entry in result["ips"])
    assert [f"{entry['local']}/{entry['prefixlen']}" for entry in weave.addresses(pod)] == [address]
    assert weave.owned_by(pod) == [address]
    if number(version) >= (0, 4, 0):
        weave.runtime.check(network, pod)
    weave.delete(network, pod)
    assert not weave.has_interface(pod, "eth0")
    assert weave.owned_by(pod) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_life_of_an_address_alone(weave: CniHost, version: str) -> None:
    config = {"cniVersion": version, "name": "other", "type": "bridge", "ipam": weave.weave_ipam()}
    pod, runtime = weave.pod(), weave.runtime
    result = runtime.run("weave-ipam", runtime.environment("ADD", pod), config).result()
    check_result(result, version)
    assert "interfaces" not in result or result["interfaces"] == []
    (entry,) = result["ips"]
    assert "interface" not in entry
    assert entry["address"].endswith("/12")
    assert weave.owned_by(pod) == [entry["address"]]
    if number(version) >= (0, 4, 0):
        runtime.run("weave-ipam", runtime.environment("CHECK", pod), {**config, "prevResult": result}).nothing()
    for _ in range(2):
        runtime.run("weave-ipam", runtime.environment("DEL", pod), config).nothing()
    assert weave.owned_by(pod) == []


@pytest.mark.parametrize("plugin", OURS)
def test_versions_that_are_not_spoken(weave: CniHost, plugin: str) -> None:
    pod = weave.pod()
    for version in (None, "0.1.0", "0.2.0", "0.3.2", "1.1.1", "1.2.0", "2.0.0"):
        config: Json = {"name": "weave", "type": plugin, **weave.way_to_daemon(), "ipam": weave.weave_ipam()}
        if version is not None:
            config["cniVersion"] = version
        failure = weave.runtime.run(plugin, weave.runtime.environment("ADD", pod), config).failure()
        assert failure.code == 1, version
        text = failure.message + failure.details
        assert (version or "0.1.0") in text, "the version that was asked for"
        assert all(known in text for known in VERSIONS), "the versions that are spoken"


def test_versions_that_are_nonsense(weave: CniHost) -> None:
    pod = weave.pod()
    nonsense: tuple[object, ...] = ("", "new", "1", "1.0", "1.0.0-rc1", " 1.0.0", 1, 1.0, None, ["1.0.0"], {})
    for version in nonsense:
        config = {**weave.config(), "cniVersion": version}
        failure = weave.runtime.run("weave-net", weave.runtime.environment("ADD", pod), config).failure()
        assert failure.code in {1, 6, 7}, version


@pytest.mark.parametrize(
    ("command", "versions"),
    [("CHECK", ("0.3.0", "0.3.1")), ("GC", VERSIONS[:-1]), ("STATUS", VERSIONS[:-1])],
)
def test_operations_that_a_version_does_not_have(weave: CniHost, command: str, versions: tuple[str, ...]) -> None:
    pod = weave.pod()
    for version in versions:
        for plugin in OURS:
            config = {**weave.config(version), "cni.dev/valid-attachments": [], "ipam": weave.weave_ipam()}
            answer = weave.runtime.run(plugin, weave.runtime.environment(command, pod), config)
            assert answer.failure().code == 1, (plugin, version)
