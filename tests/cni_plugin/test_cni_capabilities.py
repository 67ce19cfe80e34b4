"""What a runtime asks for beside the configuration: addresses, MAC, names and name servers, in three forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Json, Pod

pytestmark = pytest.mark.root

MAC = "02:00:00:00:80:01"


def given(result: Json) -> list[str]:
    """The addresses of a result, without lengths."""
    return [entry["address"].split("/")[0] for entry in result["ips"]]


def add(weave: CniHost, pod: Pod, arguments: str = "", **changes: Any) -> Json:
    """ADD with keys of the configuration as a runtime would fill them in."""
    return weave.add(weave.network(**changes), pod, arguments=arguments)


# -- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        {"runtimeConfig": {"ips": ["10.32.80.1/12"]}},
        {"runtimeConfig": {"ips": ["10.32.80.1"]}},
        {"args": {"cni": {"ips": ["10.32.80.1/12"]}}},
        {"args": {"cni": {"ips": ["10.32.80.1"]}}},
        {"arguments": "IgnoreUnknown=1;IP=10.32.80.1"},
        {"arguments": "IP=10.32.80.1/12"},
    ],
    ids=str,
)
def test_requested_address(weave: CniHost, form: dict[str, Any]) -> None:
    pod = weave.pod()
    result = add(weave, pod, **form)
    assert [entry["address"] for entry in result["ips"]] == ["10.32.80.1/12"]
    assert weave.owned_by(pod) == ["10.32.80.1/12"]
    weave.refusal(weave.network(runtimeConfig={"ips": ["10.32.80.1/12"]}), weave.pod())


def test_newer_form_wins(weave: CniHost) -> None:
    capability = {"runtimeConfig": {"ips": ["10.32.81.1/12"], "mac": "02:00:00:00:81:01"}}
    convention = {"args": {"cni": {"ips": ["10.32.81.2/12"], "mac": "02:00:00:00:81:02"}}}
    arguments = "IP=10.32.81.3;MAC=02:00:00:00:81:03"
    cases: list[tuple[dict[str, Any], int]] = [
        ({**capability, **convention, "arguments": arguments}, 1),
        ({**capability, "arguments": arguments}, 1),
        ({**convention, "arguments": arguments}, 2),
        ({"arguments": arguments}, 3),
    ]
    for number, (form, winner) in enumerate(cases):
        pod = weave.pod()
        result = add(weave, pod, **form)
        assert given(result) == [f"10.32.81.{winner}"], number
        assert result["interfaces"][2]["mac"] == f"02:00:00:00:81:0{winner}", number
        weave.delete(weave.network(), pod)


def test_several_addresses(weave: CniHost) -> None:
    pod = weave.pod()
    result = add(weave, pod, runtimeConfig={"ips": ["10.32.82.1/12", "10.44.0.5/24"]})
    assert given(result) == ["10.32.82.1", "10.44.0.5"]
    assert [entry["interface"] for entry in result["ips"]] == [2, 2]
    assert {entry["local"] for entry in weave.addresses(pod)} == set(given(result))
    assert weave.owned_by(pod) == ["10.32.82.1/12", "10.44.0.5/24"]


def test_address_outside_of_the_range(weave: CniHost) -> None:
    pod = weave.pod()
    result = add(weave, pod, runtimeConfig={"ips": ["192.0.2.5/24"]})
    assert [entry["address"] for entry in result["ips"]] == ["192.0.2.5/24"]
    weave.refusal(weave.network(runtimeConfig={"ips": ["192.0.2.5/24"]}), weave.pod())


def test_address_in_the_subnet_of_the_configuration(weave: CniHost) -> None:
    pod = weave.pod()
    result = add(weave, pod, ipam={"subnet": "10.44.1.0/24"}, runtimeConfig={"ips": ["10.44.1.7"]})
    assert [entry["address"] for entry in result["ips"]] == ["10.44.1.7/24"]


def test_address_of_ipv6(weave: CniHost) -> None:
    one, two = weave.pod(), weave.pod()
    result = add(weave, one, runtimeConfig={"ips": ["10.32.83.1/12", "fd00:83::1/64"]})
    add(weave, two, runtimeConfig={"ips": ["10.32.83.2/12", "fd00:83::2/64"]})
    assert [entry["address"] for entry in result["ips"]] == ["10.32.83.1/12", "fd00:83::1/64"]
    assert weave.namespace(two).reaches("fd00:83::1")


def test_no_wish_is_no_wish(weave: CniHost) -> None:
    assert given(add(weave, weave.pod(), runtimeConfig={"ips": [], "mac": ""}, args={"cni": {"ips": []}}))


# -- MAC address --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        {"runtimeConfig": {"mac": MAC}},
        {"args": {"cni": {"mac": MAC}}},
        {"arguments": f"IgnoreUnknown=1;MAC={MAC}"},
        {"runtimeConfig": {"mac": MAC.upper().replace("00:00", "0A:00")}},
    ],
    ids=str,
)
def test_requested_mac(weave: CniHost, form: dict[str, Any]) -> None:
    pod = weave.pod()
    result = add(weave, pod, **form)
    wanted = form.get("runtimeConfig", {}).get("mac", MAC).lower()
    assert result["interfaces"][2]["mac"] == weave.link(pod, "eth0")["address"] == wanted


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aliases", [["alias-a", "alias-b"], {"weave": ["alias-a", "alias-b"]}])
def test_aliases_are_names(weave: CniHost, aliases: object) -> None:
    """The convention's form, and Podman's, which tells them by network."""
    network, pod = weave.network(runtimeConfig={"aliases": aliases}), weave.pod()
    (address,) = given(weave.add(network, pod))
    for name in ("alias-a", "alias-b", "alias-a.weave.local"):
        assert weave.look_up(name) == [address]
    weave.delete(network, pod)
    assert weave.look_up("alias-a") == []


def test_aliases_of_another_network_are_not_ours(weave: CniHost) -> None:
    add(weave, weave.pod(), runtimeConfig={"aliases": {"other": ["alias-c"]}})
    assert weave.look_up("alias-c") == []


def test_alias_that_is_no_name_does_no_harm(weave: CniHost) -> None:
    result = add(weave, weave.pod(), runtimeConfig={"aliases": ["not a name", "-", "x" * 300, "alias-d"]})
    assert weave.look_up("alias-d") == given(result)


def test_name_of_a_pod(weave: CniHost) -> None:
    result = add(weave, weave.pod(), arguments="IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-name")
    assert weave.look_up("pod-name") == given(result)


# -- name servers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.parametrize("keys", [("servers", "searches", "options"), ("Servers", "Searches", "Options")])
def test_name_servers(weave: CniHost, version: str, keys: tuple[str, str, str]) -> None:
    servers, searches, options = keys
    wish = {servers: ["10.32.0.53"], searches: ["svc.cluster.local"], options: ["ndots:5"]}
    configured = {"nameservers": ["9.9.9.9"], "domain": "example.org", "search": ["example.org"]}
    result = weave.add(weave.network(version, dns=configured, runtimeConfig={"dns": wish}), weave.pod())
    assert result["dns"]["nameservers"] == ["10.32.0.53"], "the wish wins over the configuration"
    assert result["dns"]["search"] == ["svc.cluster.local"]
    assert result["dns"]["options"] == ["ndots:5"]


# -- spelling -----------------------------------------------------------------------------------------------------


def test_capitalised_keys(weave: CniHost) -> None:
    """Go, in which most runtimes are written, ignores the case of keys, and containerd sends capitals."""
    pod = weave.pod()
    wishes = {"Ips": ["10.32.84.1/12"], "MAC": "02:00:00:00:84:01", "Aliases": ["alias-e"]}
    result = add(weave, pod, RuntimeConfig=wishes)
    assert given(result) == ["10.32.84.1"]
    assert result["interfaces"][2]["mac"] == "02:00:00:00:84:01"
    assert weave.look_up("alias-e") == ["10.32.84.1"]


def test_capitalised_keys_of_the_configuration(weave: CniHost) -> None:
    pod = weave.pod()
    plugin = weave.installed_plugin()
    # The library itself writes the keys name, cniVersion, prevResult and runtimeConfig; others are as in the file.
    config = {**plugin, "name": "weave", "cniVersion": "1.0.0", "MTU": 1300, "IPAM": {"Subnet": "10.44.2.0/24"}}
    result = weave.runtime.run("weave-net", weave.runtime.environment("ADD", pod), config).result()
    assert given(result)[0].startswith("10.44.2.")
    assert weave.link(pod, "eth0")["mtu"] == 1300
    weave.runtime.run("weave-net", weave.runtime.environment("DEL", pod), config).nothing()
    assert weave.owned_by(pod) == []
