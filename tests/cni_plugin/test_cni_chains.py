"""Chains: the reference plugins after ours, and ours after another."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from cni_plugin.cni_runtime import Network, PluginFailed
from cni_plugin.recording_plugin import RecordingPlugin
from lab.inside import call_inside
from lab.network import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Json, Pod

pytestmark = pytest.mark.root

REFERENCE_VERSIONS = ("0.4.0", "1.0.0")
HOST_ADDRESS = "192.0.2.1"


@pytest.fixture
def address(weave: CniHost) -> Iterator[str]:
    """An address of the host outside of the network, as clients know it."""
    weave.host.ip("link", "add", "uplink0", "type", "bridge")
    weave.host.ip("addr", "add", f"{HOST_ADDRESS}/24", "dev", "uplink0")
    weave.host.ip("link", "set", "uplink0", "up")
    yield HOST_ADDRESS
    weave.clear()
    weave.host.ip("link", "del", "uplink0")


def rules(weave: CniHost) -> list[str]:
    """The iptables rules of the host, and the NAT rules."""
    return [line for table in ("filter", "nat") for line in weave.host.run("iptables-save", "-t", table).splitlines()]


def connects(weave: CniHost, pod: Pod, port: int, to: tuple[str, int]) -> bool:
    """Whether the host reaches what listens on a port of the container."""
    inside = weave.namespace(pod).path
    with call_inside(inside, lambda: socket.create_server(("", port))) as listener:
        listener.settimeout(3)
        near = call_inside(weave.host.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        with near:
            near.settimeout(3)
            try:
                near.connect(to)
                far, _ = listener.accept()
            except OSError:
                return False
            with far:
                near.sendall(b"hello")
                return far.recv(16) == b"hello"


@pytest.mark.parametrize("version", REFERENCE_VERSIONS)
def test_portmap(weave: CniHost, address: str, version: str) -> None:
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    network, pod = weave.network(version, chain=(portmap,)), weave.pod()
    before = rules(weave)
    mappings = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    result = weave.add(network, pod, capabilities={"portMappings": mappings})
    assert [entry["name"] for entry in result["interfaces"]][-1] == "eth0"
    assert connects(weave, pod, 80, (address, 8080))
    assert connects(weave, pod, 80, ("127.0.0.1", 8080))
    weave.check_ours(network, pod)
    weave.delete(network, pod)
    assert not [line for line in rules(weave) if "CNI-DN" in line]
    assert "CNI-DN" not in "".join(before)


def test_the_list_as_it_is_installed(weave: CniHost, address: str) -> None:
    network, pod = Network.load(weave.conflist, ["0.4.0", "1.0.0"]), weave.pod()
    assert network.version == "1.0.0"
    mappings = [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]
    weave.add(
        network, pod, capabilities={"portMappings": mappings, "ips": ["10.32.90.1/12"], "mac": "02:00:00:00:90:01"}
    )
    assert weave.link(pod, "eth0")["address"] == "02:00:00:00:90:01"
    assert connects(weave, pod, 80, (address, 8081))
    weave.check_ours(network, pod)
    weave.delete(network, pod)


@pytest.mark.parametrize("policy", ["open", "same-bridge"])
def test_firewall(weave: CniHost, policy: str) -> None:
    network = weave.network("1.0.0", chain=({"type": "firewall", "backend": "iptables", "ingressPolicy": policy},))
    one, two = weave.pod(), weave.pod()
    result = weave.add(network, one)
    weave.add(network, two)
    ip = result["ips"][0]["address"].split("/")[0]
    assert any(f"{ip}/32" in line for line in rules(weave))
    wait_until(lambda: weave.namespace(two).reaches(ip), 5, "a ping")
    weave.runtime.check(network, one)
    weave.delete(network, one)
    assert not any(f"{ip}/32" in line for line in rules(weave))
    weave.delete(network, two)


@pytest.mark.parametrize("version", REFERENCE_VERSIONS)
def test_tuning(weave: CniHost, version: str) -> None:
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}, "mtu": 1280, "promisc": True}
    network = weave.network(version, chain=({**tuning, "capabilities": {"mac": True}},), capabilities={})
    pod = weave.pod()
    result = weave.add(network, pod, capabilities={"mac": "02:00:00:00:91:01"})
    assert result["interfaces"][2]["mac"] == "02:00:00:00:91:01"
    assert weave.link(pod, "eth0")["mtu"] == 1280
    weave.runtime.check(network, pod)
    weave.inside(pod, "link", "set", "eth0", "address", "02:00:00:00:91:02")
    with pytest.raises(PluginFailed):
        weave.runtime.check(network, pod)
    weave.delete(network, pod)
    assert weave.owned_by(pod) == []


@pytest.mark.parametrize("version", REFERENCE_VERSIONS)
def test_bandwidth(weave: CniHost, version: str) -> None:
    rates = {"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 8_000_000, "egressBurst": 8_000_000}
    network = weave.network(version, chain=({"type": "bandwidth", "capabilities": {"bandwidth": True}},))
    pod = weave.pod()
    result = weave.add(network, pod, capabilities={"bandwidth": rates})
    assert len(result["interfaces"]) == 4, "its ifb device comes last"
    port = result["interfaces"][1]["name"]
    assert "tbf" in weave.host.run("tc", "qdisc", "show", "dev", port)
    weave.runtime.check(network, pod)
    weave.delete(network, pod)
    assert weave.host.ip("-o", "link", "show", "type", "ifb") == ""


def test_all_of_them(weave: CniHost, address: str) -> None:
    chain = (
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall", "backend": "iptables"},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    )
    network, pod = weave.network("1.0.0", chain=chain), weave.pod()
    mappings = [{"hostPort": 8082, "containerPort": 80, "protocol": "tcp"}]
    rates = {"ingressRate": 80_000_000, "ingressBurst": 80_000_000}
    weave.add(network, pod, capabilities={"portMappings": mappings, "bandwidth": rates})
    assert connects(weave, pod, 80, (address, 8082))
    weave.check_ours(network, pod)
    weave.delete(network, pod)
    weave.delete(network, pod)
    assert weave.owned_by(pod) == []


def test_later_plugin_that_fails(weave: CniHost) -> None:
    """The runtime runs DEL along the list then; nothing is left."""
    tuning = {"type": "tuning", "sysctl": {"net.ipv4.conf.nonsense.arp_filter": "1"}}
    network, pod = weave.network("1.0.0", chain=(tuning,)), weave.pod()
    with pytest.raises(PluginFailed):
        weave.add(network, pod)
    weave.delete(network, pod)
    assert weave.owned_by(pod) == []
    assert not weave.has_interface(pod, "eth0")


# -- after another ------------------------------------------------------------------------------------------------


def after(weave: CniHost, first: Json, version: str, **changes: Any) -> Network:
    """A list in which ours comes second."""
    return Network("weave", version, [first, {**weave.installed_plugin(), **changes}])


def test_after_loopback(weave: CniHost) -> None:
    network, pod = after(weave, {"type": "loopback"}, "1.0.0"), weave.pod()
    result = weave.add(network, pod)
    names = [entry["name"] for entry in result["interfaces"]]
    assert names[0] == "lo", "what came before stays where it was"
    assert sorted(names[1:]) == sorted(["weave", names[names.index("weave") + 1], "eth0"])
    ours = [entry for entry in result["ips"] if entry["address"].startswith("10.")]
    assert [names[entry["interface"]] for entry in ours] == ["eth0"]
    loopback = [entry for entry in result["ips"] if entry["address"].startswith("127.")]
    assert all(names[entry["interface"]] == "lo" for entry in loopback)
    weave.runtime.check(network, pod)
    weave.delete(network, pod)
    assert weave.owned_by(pod) == []


def test_previous_result_is_kept(weave: CniHost, tmp_path: Path) -> None:
    first = RecordingPlugin(tmp_path, "first")
    previous = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "uplink7", "mac": "02:00:00:00:00:07"}, {"name": "vlan7", "sandbox": "/else"}],
        "ips": [
            {"address": "198.51.100.7/24", "gateway": "198.51.100.1", "interface": 1},
            {"address": "203.0.113.7/24"},
        ],
        "routes": [{"dst": "198.51.100.0/22", "gw": "198.51.100.1", "mtu": 1400}],
        "dns": {"nameservers": ["198.51.100.53"], "search": ["example.org"]},
    }
    first.answer("ADD", previous)
    weave.runtime.plugin_dirs.append(tmp_path)
    try:
        network, pod = after(weave, {"type": "first"}, "1.1.0"), weave.pod()
        result = weave.add(network, pod)
        for entry in previous["interfaces"]:
            assert entry in result["interfaces"]
        names = [entry["name"] for entry in result["interfaces"]]
        by_address = {entry["address"]: entry for entry in result["ips"]}
        assert names[by_address["198.51.100.7/24"]["interface"]] == "vlan7"
        assert "interface" not in by_address["203.0.113.7/24"]
        assert previous["routes"][0] in result["routes"]  # type: ignore[index]
        assert "198.51.100.53" in result["dns"]["nameservers"]
        (ours,) = (entry for entry in result["ips"] if names[entry.get("interface", 0)] == "eth0")
        assert weave.owned_by(pod) == [ours["address"]], "addresses of others are theirs"
        weave.runtime.check(network, pod)
        weave.delete(network, pod)
        assert weave.owned_by(pod) == []
    finally:
        weave.runtime.plugin_dirs.remove(tmp_path)


def test_interface_that_an_earlier_plugin_made(weave: CniHost, tmp_path: Path) -> None:
    """A list that lets two plugins make the same interface is wrong: ADD must fail (specification, ADD)."""
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "subnet": "10.77.0.0/24"}
    bridge = {"type": "bridge", "bridge": "foreign1", "ipam": ipam}
    network, pod = after(weave, bridge, "1.0.0"), weave.pod()
    with pytest.raises(PluginFailed, match="weave-net"):
        weave.add(network, pod)
    assert weave.has_interface(pod, "eth0"), "it is the other plugin's"
    assert weave.owned_by(pod) == []
    weave.delete(network, pod)
    assert not weave.has_interface(pod, "eth0")
    weave.host.ip("link", "del", "foreign1")


@pytest.mark.parametrize(
    "previous",
    [
        {"cniVersion": "1.0.0", "ips": [{"address": "nonsense"}]},
        {"cniVersion": "1.0.0", "interfaces": "none"},
        {"cniVersion": "9.0.0"},
        "text",
        [],
    ],
    ids=json.dumps,
)
def test_previous_result_that_makes_no_sense(weave: CniHost, previous: object) -> None:
    pod = weave.pod()
    answer = weave.runtime.run("weave-net", weave.runtime.environment("ADD", pod), weave.config(prevResult=previous))
    if answer.status != 0:
        assert answer.failure().code in {1, 6, 7}
        assert weave.owned_by(pod) == []
    else:
        answer.document()


def test_result_of_an_older_list_entry_is_understood(weave: CniHost) -> None:
    """Runtimes convert results to the list's version, but a cache may hold one of an earlier version for DEL."""
    network, pod = weave.network("1.0.0"), weave.pod()
    result = weave.add(network, pod)
    old = {**result, "cniVersion": "0.4.0", "ips": [{**entry, "version": "4"} for entry in result["ips"]]}
    config = network.plugin_config(0, {}, old)
    weave.runtime.run("weave-net", weave.runtime.environment("CHECK", pod), config).nothing()
    weave.runtime.run("weave-net", weave.runtime.environment("DEL", pod), config).nothing()
    assert weave.owned_by(pod) == []
