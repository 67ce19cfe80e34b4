"""What a plugin is told by variables and standard input: what must be there, and which code tells what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cni_plugin.cni_runtime import PluginFailed, Pod

if TYPE_CHECKING:
    from pathlib import Path

    from cni_plugin.cni_host import CniHost

pytestmark = pytest.mark.root

REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
}


def refused(
    weave: CniHost, pod: Pod, config: dict[str, Any] | str, command: str = "ADD", **variables: str
) -> PluginFailed:
    """The error of a call of `weave-net`; the fixture sees to it that nothing is left."""
    environment = {**weave.runtime.environment(command, pod), **variables}
    return weave.runtime.run("weave-net", environment, config).failure()


# -- variables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", ["weave-net", "weave-ipam"])
@pytest.mark.parametrize("command", REQUIRED)
def test_required_variables(weave: CniHost, plugin: str, command: str) -> None:
    environment = weave.runtime.environment(command, weave.pod())
    config = weave.config(ipam=weave.weave_ipam())
    for variable in REQUIRED[command]:
        without = {key: value for key, value in environment.items() if key != variable}
        failure = weave.runtime.run(plugin, without, config).failure()
        assert (failure.code, variable in failure.message + failure.details) == (4, True), (variable, failure)
    bare = {key: value for key, value in environment.items() if key not in REQUIRED[command]}
    failure = weave.runtime.run(plugin, bare, config).failure()
    assert all(variable in failure.message + failure.details for variable in REQUIRED[command]), "all are named at once"
    empty = dict.fromkeys(REQUIRED[command], "")
    assert weave.runtime.run(plugin, {**environment, **empty}, config).failure().code == 4


def test_variables_that_are_not_required(weave: CniHost) -> None:
    runtime = weave.runtime
    for command, key in (("GC", "cni.dev/valid-attachments"), ("STATUS", "nothing")):
        runtime.run("weave-net", runtime.environment(command), {**weave.config(), key: []}).nothing()
    without_namespace = runtime.environment("DEL", weave.pod())
    del without_namespace["CNI_NETNS"]
    runtime.run("weave-net", without_namespace, weave.config()).nothing()
    runtime.run("weave-net", {"PATH": "/usr/bin:/bin", "CNI_COMMAND": "VERSION"}, "{}").result()


def test_unknown_commands(weave: CniHost) -> None:
    pod = weave.pod()
    for command in ("add", "UPDATE", "ADD ", "\n"):
        failure = refused(weave, pod, weave.config(), command)
        assert (failure.code, "CNI_COMMAND" in failure.message + failure.details) == (4, True), command


def test_bad_container_ids(weave: CniHost) -> None:
    pod = weave.pod()
    for container in ("-a", ".a", "_a", "a/b", "a b", "a:b", "a@b", "ä", "../a", "a\nb", "a\n", "a?b=c", "%2E"):
        assert refused(weave, pod, weave.config(), CNI_CONTAINERID=container).code == 4, container
    for command in ("DEL", "CHECK"):
        for container in ("-a", "a/b", "a\n"):
            assert refused(weave, pod, weave.config(), command, CNI_CONTAINERID=container).code == 4, container


def test_bad_interface_names(weave: CniHost) -> None:
    pod = weave.pod()
    for name in ("a" * 16, ".", "..", "a/b", "a:b", "a b", "a\tb", "\n"):
        assert refused(weave, pod, weave.config(), CNI_IFNAME=name).code == 4, name
    for command in ("DEL", "CHECK"):
        for name in ("a" * 16, "a/b"):
            assert refused(weave, pod, weave.config(), command, CNI_IFNAME=name).code == 4, name


def test_good_interface_names(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    for name in ("a" * 15, "eth0.100", "net-1", "x", "eth_0"):
        result = weave.add(network, pod, name)
        assert [entry["name"] for entry in result["interfaces"] if entry.get("sandbox")] == [name]
        assert weave.has_interface(pod, name)
        weave.delete(network, pod, name)
        assert not weave.has_interface(pod, name)


def test_kubernetes_arguments(weave: CniHost) -> None:
    arguments = (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=1"
    )
    weave.add(weave.network(), weave.pod(), arguments=arguments + ";SOMETHING=else")


def test_odd_arguments_are_refused_in_good_order_or_tolerated(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    for number, arguments in enumerate(("K", ";;;", "=", "K=V=W", "K=V;", "IP=;MAC=")):
        try:
            weave.add(network, pod, f"eth{number}", arguments=arguments)
        except PluginFailed as failure:
            assert failure.code == 4, arguments


# -- the namespace ------------------------------------------------------------------------------------------------


def test_namespace_of_the_host(weave: CniHost) -> None:
    pod = weave.pod()
    for path in (f"/run/netns/{weave.host.name}", "/proc/self/ns/net"):
        for command in ("ADD", "CHECK"):
            config = {**weave.config(), "prevResult": {"cniVersion": "1.1.0", "interfaces": [], "ips": []}}
            assert refused(weave, pod, config, command, CNI_NETNS=path).code == 8, path


def test_path_that_is_no_namespace(weave: CniHost, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pod = weave.pod()
    for path in (str(tmp_path / "file"), str(tmp_path), "/nowhere/netns", "relative", "/proc/self/ns/mnt"):
        failure = refused(weave, pod, weave.config(), CNI_NETNS=path)
        assert failure.code in {4, 8}, path
        assert path in failure.message + failure.details


def test_namespace_of_a_process(weave: CniHost) -> None:
    pod = weave.pod()
    by_process = Pod(pod.id, f"/proc/{weave.process(pod)}/ns/net")
    result = weave.add(weave.network(), by_process)
    assert result["interfaces"][-1]["sandbox"] == by_process.netns
    assert weave.has_interface(pod, "eth0")
    weave.runtime.check(weave.network(), by_process)
    weave.delete(weave.network(), by_process)
    assert not weave.has_interface(pod, "eth0")


# -- standard input -----------------------------------------------------------------------------------------------


def test_input_that_is_no_object(weave: CniHost) -> None:
    pod = weave.pod()
    deep = ("[" * 100_000, '{"a":' * 50_000)
    for text in ("", " ", "{", "[]", "null", "1", '"text"', "{}{}", '{"name": }', *deep, "\x00", "NaN"):
        assert refused(weave, pod, text).code == 6, text[:20]


def test_input_that_is_no_utf8(weave: CniHost) -> None:
    pod = weave.pod()
    before = ("sh", "-c", r'printf "{\"name\": \"\377\"}" | exec "$@"', "sh")
    assert weave.runtime.run("weave-net", weave.runtime.environment("ADD", pod), "", before=before).failure().code == 6


@pytest.mark.parametrize("redirection", ["0>/dev/null", "<&-"])
def test_input_that_cannot_be_read(weave: CniHost, redirection: str) -> None:
    before = ("sh", "-c", f'exec "$@" {redirection}', "sh")
    answer = weave.runtime.run("weave-net", weave.runtime.environment("ADD", weave.pod()), "", before=before)
    assert answer.failure().code == 5


def test_bad_network_names(weave: CniHost) -> None:
    pod = weave.pod()
    for name in (None, "", "-a", "a/b", "a b", ".a", "ä", "a\n", 1):
        config = {**weave.config(), "name": name}
        if name is None:
            del config["name"]
        codes = {7} if isinstance(name, str | None) else {6, 7}
        assert refused(weave, pod, config).code in codes, name
    for command in ("DEL", "CHECK", "GC", "STATUS"):
        assert refused(weave, pod, {**weave.config(), "name": "a/b"}, command).code == 7, command


@pytest.mark.parametrize(("key", "value"), [("isGateway", True), ("ipMasq", True)])
def test_keys_that_are_not_supported(weave: CniHost, key: str, value: Any) -> None:
    failure = refused(weave, weave.pod(), weave.config(**{key: value}))
    assert failure.code == 2
    text = failure.message + failure.details
    assert key in text
    assert "true" in text.lower(), "the message has key and value (specification, error code 2)"
    allowed: dict[str, Any] = {key: False}
    weave.add(weave.network(**allowed), weave.pod())


def test_values_that_make_no_sense(weave: CniHost) -> None:
    pod = weave.pod()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"bridge": "other"}, "other"),
        ({"mtu": -1}, "-1"),
        ({"mtu": 67}, "67"),
        ({"mtu": 70_000}, "70000"),
        ({"mtu": 2**40}, str(2**40)),
        ({"ipam": {"subnet": "nonsense"}}, "nonsense"),
        ({"ipam": {"subnet": "10.32.0.1/16"}}, "10.32.0.1/16"),
        ({"ipam": {"subnet": "10.32.0.0/33"}}, "10.32.0.0/33"),
        ({"ipam": {"subnet": "10.32.0.0"}}, "10.32.0.0"),
        ({"ipam": {"subnet": "10.32.0.0/31"}}, "10.32.0.0/31"),
        ({"ipam": {"subnet": "192.0.2.0/24"}}, "192.0.2.0/24"),
        ({"ipam": {"gateway": "nonsense"}}, "nonsense"),
        ({"ipam": {"routes": [{"dst": "nonsense"}]}}, "nonsense"),
        ({"ipam": {"routes": [{"dst": "10.0.0.0/8", "gw": "nonsense"}]}}, "nonsense"),
        ({"ipam": {"routes": [{"gw": "10.32.0.1"}]}}, "dst"),
    ]
    for change, part in changes:
        failure = refused(weave, pod, weave.config(**change))
        text = failure.message + failure.details
        assert (failure.code, part in text) == (7, True), (change, failure)


def test_values_of_the_wrong_kind(weave: CniHost) -> None:
    pod = weave.pod()
    changes: list[dict[str, Any]] = [
        {"mtu": "big"},
        {"mtu": 1.5},
        {"mtu": True},
        {"bridge": 1},
        {"hairpinMode": "yes"},
        {"isGateway": "yes"},
        {"ipam": "weave-ipam"},
        {"ipam": {"type": 1}},
        {"ipam": {"subnet": 10}},
        {"ipam": {"routes": {"dst": "10.0.0.0/8"}}},
        {"ipam": {"routes": ["10.0.0.0/8"]}},
        {"dns": []},
        {"dns": {"nameservers": "10.0.0.1"}},
        {"runtimeConfig": []},
        {"args": []},
        {"prevResult": []},
    ]
    for change in changes:
        assert refused(weave, pod, weave.config(**change)).code in {2, 6, 7}, change


def test_unknown_keys_are_tolerated(weave: CniHost) -> None:
    more: dict[str, Any] = {
        "something": {"else": [1, 2]},
        "capabilities": {"portMappings": True},
        "cni.dev/future": 1,
        "args": {"x": 1},
    }
    result = weave.add(weave.network(**more), weave.pod())
    assert "something" not in result


def test_keys_without_a_value_are_tolerated(weave: CniHost) -> None:
    nothing: dict[str, Any] = {"ipam": None, "dns": {}, "args": None, "runtimeConfig": {}, "prevResult": None}
    weave.add(weave.network(**nothing), weave.pod())
    weave.add(weave.network(mtu=0, ipam={}, bridge="weave"), weave.pod())


def test_errors_name_the_version_of_the_request(weave: CniHost) -> None:
    pod = weave.pod()
    for version in ("0.3.1", "1.0.0", "1.1.0"):
        assert refused(weave, pod, weave.config(version, mtu=-1)).document["cniVersion"] == version
