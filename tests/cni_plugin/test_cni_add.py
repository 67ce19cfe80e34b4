"""ADD: what the container gets, what the result tells of it, and that nothing is left when it fails."""

from __future__ import annotations

import json
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import pytest

from lab.network import wait_until

if TYPE_CHECKING:
    from cni_plugin.cni_host import CniHost
    from cni_plugin.cni_runtime import Json

pytestmark = pytest.mark.root


def host_end(weave: CniHost, result: Json) -> Json:
    """The host's end of the container's veth pair, as the kernel describes it."""
    return weave.link(None, result["interfaces"][1]["name"])


@pytest.mark.parametrize("version", ["0.3.1", "1.1.0"])
def test_interfaces_of_the_result(weave: CniHost, version: str) -> None:
    pod = weave.pod()
    result = weave.add(weave.network(version), pod)
    bridge, port, inner = result["interfaces"]
    assert bridge["name"] == "weave"
    assert inner["name"] == "eth0"
    assert (bridge.get("sandbox", ""), port.get("sandbox", ""), inner["sandbox"]) == ("", "", pod.netns)
    inside, outside, switch = weave.link(pod, "eth0"), host_end(weave, result), weave.link(None, "weave")
    assert [bridge["mac"], port["mac"], inner["mac"]] == [switch["address"], outside["address"], inside["address"]]
    if version == "1.1.0":
        assert [bridge["mtu"], port["mtu"], inner["mtu"]] == [switch["mtu"], outside["mtu"], inside["mtu"]]
    assert outside["master"] == "weave"
    assert outside["link_index"] == inside["ifindex"], "they are one pair"
    assert {"UP", "LOWER_UP"} <= set(inside["flags"]) & set(outside["flags"])


@pytest.mark.parametrize("version", ["0.3.1", "1.1.0"])
def test_addresses_and_routes_of_the_result(weave: CniHost, version: str) -> None:
    pod = weave.pod()
    result = weave.add(weave.network(version), pod)
    (entry,) = result["ips"]
    assert entry["interface"] == 2
    (address,) = weave.addresses(pod)
    assert entry["address"] == f"{address['local']}/{address['prefixlen']}"
    assert ip_interface(entry["address"]).ip in ip_network("10.32.0.0/12")
    assert entry["gateway"] in {exposed.split("/")[0] for exposed in weave.exposed()}
    default = {"dst": "0.0.0.0/0", "gw": entry["gateway"]}
    assert [{"dst": route["dst"], "gw": route.get("gw")} for route in result["routes"]] == [default]
    gateways = [route["gateway"] for route in weave.routes(pod) if route["dst"] == "default"]
    assert gateways == [entry["gateway"]]


def test_mac_address_is_one_of_its_own(weave: CniHost) -> None:
    macs = [weave.add(weave.network(), weave.pod())["interfaces"][2]["mac"] for _ in range(3)]
    assert len(set(macs)) == 3
    assert all(int(mac[:2], 16) & 3 == 2 for mac in macs), "unicast, locally administered"


def test_containers_and_host_reach_each_other(weave: CniHost) -> None:
    one, two = weave.pod(), weave.pod()
    first, second = (weave.add(weave.network(), pod) for pod in (one, two))
    addresses = [str(ip_interface(result["ips"][0]["address"]).ip) for result in (first, second)]
    wait_until(lambda: weave.namespace(one).reaches(addresses[1]), 5, "a ping between containers")
    assert weave.namespace(two).reaches(first["ips"][0]["gateway"])
    assert weave.host.reaches(addresses[0])


def test_container_does_not_hear_of_what_is_not_for_it(weave: CniHost) -> None:
    pod = weave.pod()
    weave.add(weave.network(), pod)
    assert not [route for route in weave.routes(pod) if route["dst"].startswith("224.")], "no multicast route"
    assert weave.namespace(pod).run("sysctl", "-n", "net.ipv6.conf.eth0.accept_ra").strip() == "0"


def test_dns_of_the_configuration_is_in_the_result(weave: CniHost) -> None:
    dns = {"nameservers": ["10.32.0.1"], "domain": "weave.local", "search": ["weave.local"], "options": ["ndots:2"]}
    assert weave.add(weave.network(dns=dns), weave.pod())["dns"] == dns
    # Without one it is empty, or names our own name server.
    own = weave.add(weave.network(), weave.pod()).get("dns", {}).get("nameservers", [])
    assert set(own) <= {address.split("/")[0] for address in weave.exposed()}


def test_mtu(weave: CniHost) -> None:
    pod, other = weave.pod(), weave.pod()
    result = weave.add(weave.network(mtu=1300), pod)
    assert weave.link(pod, "eth0")["mtu"] == host_end(weave, result)["mtu"] == 1300
    assert result["interfaces"][2]["mtu"] == 1300
    assert weave.link(None, "weave")["mtu"] == 1376, "a container's MTU changes nobody else's"
    result = weave.add(weave.network(mtu=0), other)
    assert weave.link(other, "eth0")["mtu"] == result["interfaces"][2]["mtu"] == 1376


@pytest.mark.parametrize(
    ("changes", "hairpin"), [({}, True), ({"hairpinMode": True}, True), ({"hairpinMode": False}, False)]
)
def test_hairpin(weave: CniHost, changes: dict[str, Any], hairpin: bool) -> None:
    result = weave.add(weave.network(**changes), weave.pod())
    assert host_end(weave, result)["linkinfo"]["info_slave_data"]["hairpin"] is hairpin


def test_subnet(weave: CniHost) -> None:
    pod = weave.pod()
    result = weave.add(weave.network(ipam={"subnet": "10.40.7.0/24"}), pod)
    (entry,) = result["ips"]
    assert ip_interface(entry["address"]).network == ip_network("10.40.7.0/24")
    assert [address["prefixlen"] for address in weave.addresses(pod)] == [24]


def test_gateway_and_routes_of_the_configuration(weave: CniHost) -> None:
    routes = [{"dst": "192.0.2.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.41.0.9"}]
    ipam = {"subnet": "10.41.0.0/24", "gateway": "10.41.0.5", "routes": routes}
    pod = weave.pod()
    result = weave.add(weave.network(ipam=ipam), pod)
    assert result["ips"][0]["gateway"] == "10.41.0.5"
    told = {(route["dst"], route.get("gw", "10.41.0.5")) for route in result["routes"]}
    assert told == {("192.0.2.0/24", "10.41.0.5"), ("198.51.100.0/24", "10.41.0.9")}
    real = {(route["dst"], route["gateway"]) for route in weave.routes(pod) if "gateway" in route}
    assert real == told, "exactly those that are configured"


def test_gateway_alone_makes_a_default_route(weave: CniHost) -> None:
    pod = weave.pod()
    result = weave.add(weave.network(ipam={"subnet": "10.41.0.0/24", "gateway": "10.41.0.5"}), pod)
    assert [(route["dst"], route["gw"]) for route in result["routes"]] == [("0.0.0.0/0", "10.41.0.5")]
    assert [route["gateway"] for route in weave.routes(pod) if route["dst"] == "default"] == ["10.41.0.5"]


def test_gateway_outside_of_the_subnet(weave: CniHost) -> None:
    pod = weave.pod()
    result = weave.add(weave.network(ipam={"subnet": "10.41.0.0/24", "gateway": "10.42.0.1"}), pod)
    assert result["ips"][0]["gateway"] == "10.42.0.1"
    routes = {route["dst"]: route for route in weave.routes(pod)}
    assert routes["10.42.0.1"]["scope"] == "link"
    assert routes["default"]["gateway"] == "10.42.0.1"


def test_details_of_routes(weave: CniHost) -> None:
    route = {"dst": "192.0.2.0/24", "gw": "10.41.0.5", "mtu": 1200, "advmss": 1100, "priority": 77, "table": 100}
    pod = weave.pod()
    result = weave.add(weave.network(ipam={"subnet": "10.41.0.0/24", "routes": [route]}), pod)
    assert {key: result["routes"][0].get(key) for key in route} == route
    (entry,) = json.loads(weave.inside(pod, "-d", "-j", "route", "show", "table", "100"))
    assert (entry["dst"], entry["gateway"], entry["metric"]) == ("192.0.2.0/24", "10.41.0.5", 77)
    assert {"mtu": 1200, "advmss": 1100}.items() <= entry["metrics"][0].items()


# -- an interface that is there already ---------------------------------------------------------------------------


def test_second_time_fails_and_leaves_the_first(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    first = weave.add(network, pod)
    weave.refusal(network, pod)
    assert weave.owned_by(pod) == [first["ips"][0]["address"]]
    weave.runtime.run(
        "weave-net",
        weave.runtime.environment("CHECK", pod),
        network.plugin_config(0, {}, first),
    ).nothing()


def test_second_container_with_the_id_of_the_first_fails(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    weave.refusal(network, weave.pod(pod.id))
    assert weave.has_interface(pod, "eth0")


def test_interface_of_somebody_else_stays(weave: CniHost) -> None:
    pod = weave.pod()
    weave.inside(pod, "link", "add", "eth0", "type", "bridge")
    weave.inside(pod, "addr", "add", "192.0.2.1/24", "dev", "eth0")
    failure = weave.refusal(weave.network(), pod)
    assert "eth0" in failure.message + failure.details


# -- failure leaves nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"ipam": {"routes": [{"dst": "2001:db8::/32", "gw": "10.32.0.1"}]}},
        {"ipam": {"routes": [{"dst": "192.0.2.0/24", "mtu": -1}]}},
        {"ipam": {"routes": [{"dst": "192.0.2.0/24", "table": 2**40}]}},
        {"ipam": {"routes": [{"dst": "192.0.2.0/24", "scope": 300}]}},
        {"ipam": {"routes": [{"dst": "192.0.2.0/24", "gw": "255.255.255.255"}]}},
        {"runtimeConfig": {"mac": "01:00:5e:00:00:01"}},
        {"runtimeConfig": {"mac": "00:00:00:00:00:00"}},
        {"runtimeConfig": {"mac": "nonsense"}},
        {"runtimeConfig": {"ips": ["nonsense"]}},
        {"runtimeConfig": {"ips": ["10.32.100.1/12", "nonsense"]}},
        {"runtimeConfig": {"ips": ["10.32.100.1/12", "127.0.0.1/8"]}},
        {"runtimeConfig": {"ips": ["10.32.100.1/12", "224.0.0.1/4"]}},
    ],
    ids=json.dumps,
)
def test_failure_half_way_leaves_nothing(weave: CniHost, changes: dict[str, Any]) -> None:
    # Some of these cannot be told before the kernel is asked; what counts is what is left.
    pod = weave.pod()
    weave.refusal(weave.network(**changes), pod)
    weave.add(weave.network(), pod)


def test_address_that_is_taken(weave: CniHost) -> None:
    first = weave.add(weave.network(), weave.pod())
    address = first["ips"][0]["address"]
    failure = weave.refusal(weave.network(runtimeConfig={"ips": [address]}), weave.pod())
    assert address.split("/")[0] in failure.message + failure.details


def test_namespace_that_vanishes_meanwhile_leaves_nothing(weave: CniHost) -> None:
    pod = weave.pod()
    call = weave.runtime.start("weave-net", weave.runtime.environment("ADD", pod), weave.config())
    weave.vanish(pod)
    answer = call.answer()
    if answer.status == 0:
        weave.delete(weave.network(), pod)


def test_gratuitous_announcement_of_a_moved_address(weave: CniHost) -> None:
    """A neighbour that knows the old holder of an address hears of the new one at once."""
    watcher, old, new = weave.pod(), weave.pod(), weave.pod()
    wish: dict[str, Any] = {"runtimeConfig": {"ips": ["10.32.200.1/12"]}}
    weave.add(weave.network(), watcher)
    first = weave.add(weave.network(**wish), old)
    wait_until(lambda: weave.namespace(watcher).reaches("10.32.200.1"), 5, "the first answer")
    weave.delete(weave.network(**wish), old)
    second = weave.add(weave.network(**wish), new)
    assert first["interfaces"][2]["mac"] != second["interfaces"][2]["mac"]
    assert weave.namespace(watcher).reaches("10.32.200.1")
