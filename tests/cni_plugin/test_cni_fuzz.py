"""Whatever JSON comes, it is understood or refused in good order; what is written can be read by others, and by us."""

from __future__ import annotations

import json
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weave_cni.config import read_ipam_config, read_net_config
from weave_cni.errors import CniError
from weave_cni.request import parse_request
from weave_cni.result import attachment_result, read_result, write_result
from weave_cni.server import error_text, read_plugin
from weave_cni.versions import SUPPORTED
from weave_cni.wishes import read_wishes

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLES = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))

TEXTS = st.one_of(
    st.sampled_from(
        (
            *("", "weave", "weave-ipam", "host-local", "10.32.0.5", "10.32.0.5/12", "10.32.0.0/12", "fd00::1/64", "::"),
            *("/", "0.0.0.0/0", "fe80::1%x", "eth0", "..", "02:00:00:00:00:01", "\ud800", "\0", "4", "6"),
        )
    ),
    st.text(max_size=5),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 1 << 33), st.floats(), TEXTS)
KEYS = st.sampled_from(
    (
        *("cniVersion", "name", "type", "bridge", "mtu", "hairpinMode", "isGateway", "ipMasq", "ipam", "subnet"),
        *("gateway", "routes", "dst", "gw", "scope", "table", "priority", "advmss", "dns", "nameservers", "domain"),
        *("search", "options", "servers", "searches", "runtimeConfig", "args", "cni", "ips", "mac", "aliases"),
        *("prevResult", "interfaces", "interface", "address", "version", "sandbox", "ip4", "ip6", "ip"),
        *("IPAM", "Type", "Subnet"),
    )
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=5), max_leaves=15
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=6)


@st.composite
def results(draw: st.DrawFn) -> dict[str, Any]:
    """Nearly results: the right keys, often with the right kinds of values."""
    entry = st.dictionaries(KEYS, SCALARS, max_size=4)
    addresses = st.fixed_dictionaries(
        {"address": TEXTS}, optional={"gateway": SCALARS, "interface": SCALARS, "version": SCALARS}
    )
    routes = st.fixed_dictionaries(
        {"dst": TEXTS}, optional={"gw": SCALARS, "mtu": SCALARS, "priority": SCALARS, "scope": SCALARS}
    )
    interfaces = st.fixed_dictionaries({"name": TEXTS}, optional={"mac": SCALARS, "sandbox": SCALARS, "mtu": SCALARS})
    return draw(
        st.fixed_dictionaries(
            {},
            optional={
                "interfaces": st.lists(interfaces | entry, max_size=3) | JSON,
                "ips": st.lists(addresses | entry, max_size=3) | JSON,
                "routes": st.lists(routes | entry, max_size=3) | JSON,
                "dns": st.dictionaries(KEYS, JSON, max_size=3) | JSON,
                "ip4": entry | JSON,
                "ip6": st.fixed_dictionaries({"ip": TEXTS, "routes": st.lists(routes | SCALARS, max_size=2)}) | JSON,
            },
        )
    )


def environment(**changes: str) -> dict[str, str]:
    return {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "web",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/netns/web",
        "CNI_PATH": "/opt/cni/bin",
        **changes,
    }


def printable(value: Any) -> None:
    """What is told can be written, as JSON that others read."""
    json.loads(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


@EXAMPLES
@given(OBJECTS, st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"]), st.sampled_from(SUPPORTED), st.booleans())
def test_configurations(more: dict[str, Any], command: str, version: str, usual: bool) -> None:
    config = {**more, "cniVersion": version, "name": "weave"} if usual else more
    try:
        request = parse_request(environment(CNI_COMMAND=command), json.dumps(config).encode())
        read_net_config(request.config)
        read_ipam_config(request.config)
        wishes = read_wishes(request)
    except CniError as error:
        printable([error.code, error.message, error.details])
        json.loads(error_text(error, "1.1.0"))
    else:
        printable([wishes.addresses, wishes.mac, wishes.names, wishes.dns])


@EXAMPLES
@given(
    st.dictionaries(st.sampled_from([*environment(), "CNI_ARGS"]), TEXTS.filter(str.isprintable)),
    st.binary(max_size=40),
)
def test_environments_and_bytes(changes: dict[str, str], data: bytes) -> None:
    for standard_input in (data, b'{"cniVersion": "1.1.0", "name": "weave"}'):
        try:
            read_wishes(parse_request(environment(**changes), standard_input))
        except CniError as error:
            json.loads(error_text(error, "1.1.0"))


def test_depth() -> None:
    """Nested just so deep that it can be read, but perhaps not be written."""
    for depth in [*range(900, 1000), 2000, 100_000]:
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            inner = opening * depth + (b"1" if opening != b"[" else b"") + closing * depth
            for config in (inner, b'{"cniVersion": "1.1.0", "name": "weave", "dns": {"x": ' + inner + b"}}"):
                try:
                    read_wishes(parse_request(environment(), config))
                except CniError as error:
                    json.loads(error_text(error, "1.1.0"))
                for status in (0, 1):
                    try:
                        read_plugin("other", "ADD", status, config)
                    except CniError as error:
                        json.loads(error_text(error, "1.1.0"))


@EXAMPLES
@given(JSON | results(), st.integers(0, 255), st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS"]))
def test_answers_of_other_plugins(value: Any, status: int, command: str) -> None:
    try:
        read_plugin("other", command, status, json.dumps(value).encode())
    except CniError as error:
        json.loads(error_text(error, "1.1.0"))


@EXAMPLES
@given(results() | JSON, st.sampled_from(SUPPORTED), st.booleans())
def test_results_can_be_read_again(value: Any, version: str, added: bool) -> None:
    """What is left out in older versions is left out for good; the rest is the same after writing and reading."""
    try:
        result = read_result(value, "others")
    except CniError:
        return
    if added:
        result = attachment_result(ATTACHMENT, "/run/netns/web", {}, result)
    written = write_result(result, version)
    check_form(written, version)
    again = read_result(json.loads(json.dumps(written)), "ourselves")
    assert write_result(again, version) == written


def check_form(written: Mapping[str, Any], version: str) -> None:
    """What others rely on, and the Go library needs; further fields of others are passed on as they are."""
    assert written["cniVersion"] == version
    old, newest = version < "1.0.0", version == "1.1.0"
    for entry in written["ips"]:
        assert isinstance(entry["address"], str)
        ip_interface(entry["address"])
        assert isinstance(entry.get("gateway", ""), str)
        assert type(entry.get("interface", 0)) is int
        assert entry.get("version") == (("6" if ":" in entry["address"] else "4") if old else None)
    for entry in written.get("interfaces", []):
        assert newest or not {"mtu", "socketPath", "pciID"} & entry.keys()
    for entry in written.get("routes", []):
        assert isinstance(entry["dst"], str)
        assert isinstance(entry.get("gw", ""), str)
        assert newest or entry.keys() <= {"dst", "gw"}
    assert isinstance(written["dns"], dict)


ATTACHMENT = {
    "bridge": {"name": "weave", "mac": "02:00:00:00:00:01", "mtu": 1376},
    "interface": "eth0",
    "host_interface": "vethwe00000000",
    "host_mac": "02:00:00:00:00:02",
    "mac": "02:00:00:00:00:03",
    "mtu": 1376,
    "addresses": ["10.32.0.1/12", "fd00::1/64"],
    "gateway": "10.32.0.2",
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.32.0.2"}],
}
