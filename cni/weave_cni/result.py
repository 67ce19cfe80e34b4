"""Results of CNI calls: made from what the daemon did, and written in the version that the runtime speaks.

Inside, a result is an object in the form of version 1.1.0.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

from weave_cni.errors import CniError, Code
from weave_cni.versions import at_least

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Result = dict[str, Any]

_NONE = (None, "")
"""How runtimes and plugins write that there is no gateway."""
_ROUTE_FIELDS_OF_OLD = ("dst", "gw")
_SANDBOX_ONLY = ("mtu", "socketPath", "pciID")
"""Of an interface; new in 1.1.0."""


def empty_result() -> Result:
    """Nothing yet."""
    return {"interfaces": [], "ips": [], "routes": [], "dns": {}}


def read_result(value: Any, origin: str) -> Result:
    """A result of another plugin, in any version. Raises `CniError` that names its `origin`."""
    if not isinstance(value, dict):
        raise CniError(Code.UNDECODABLE, f"the result of {origin} is no object")
    result = empty_result()
    for name in ("interfaces", "ips", "routes"):
        entries = [] if value.get(name) is None else value[name]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise CniError(Code.UNDECODABLE, f"the result of {origin} has no list of objects in {name!r}")
        result[name] = [dict(entry) for entry in entries]
    for old in ("ip4", "ip6"):  # before 0.3.0
        if isinstance(value.get(old), dict) and value[old].get("ip"):
            result["ips"].append({"address": value[old]["ip"], "gateway": value[old].get("gateway")})
            routes = value[old].get("routes") or []
            if not isinstance(routes, list) or not all(isinstance(entry, dict) for entry in routes):
                raise CniError(Code.UNDECODABLE, f"the result of {origin} has no list of routes in {old!r}")
            result["routes"] += [dict(entry) for entry in routes]
    for entry in result["ips"]:
        _check_ip(entry, origin)
    for entry in result["routes"]:
        _check_route(entry, origin)
    dns = {} if value.get("dns") is None else value["dns"]
    if not isinstance(dns, dict):
        raise CniError(Code.UNDECODABLE, f"the result of {origin} has no object in 'dns'")
    result["dns"] = dict(dns)
    return result


def _check_ip(entry: Result, origin: str) -> None:
    try:
        ip_interface(_as_text(entry.get("address")))
        if entry.get("gateway") not in _NONE:
            ip_address(_as_text(entry["gateway"]))
    except ValueError as error:
        raise CniError(Code.UNDECODABLE, f"the result of {origin} has an address that is none: {error}") from error
    index = entry.get("interface")
    if index is not None and type(index) is not int:
        raise CniError(Code.UNDECODABLE, f"the result of {origin} names an interface by {index!r}, which is no index")


def _check_route(entry: Result, origin: str) -> None:
    try:
        ip_network(_as_text(entry.get("dst")), strict=False)
        if entry.get("gw") not in _NONE:
            ip_address(_as_text(entry["gw"]))
    except ValueError as error:
        raise CniError(Code.UNDECODABLE, f"the result of {origin} has a route that is none: {error}") from error


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def attachment_result(
    attachment: Mapping[str, Any],
    sandbox: str,
    dns: Mapping[str, Any],
    previous: Result | None,
    gateways: Iterable[str] = (),
) -> Result:
    """What ADD of `weave-net` answers, added to what plugins before it answered.

    `gateways`: those that another plugin gave, one of each family; else the attachment's own.

    The bridge comes first: `firewall` takes it for that of `ingressPolicy`. The host's side of the veth is what
    `bandwidth` looks for.
    """
    before = previous or empty_result()
    bridge, mtu = attachment["bridge"], attachment["mtu"]
    interfaces = [
        {"name": bridge["name"], "mac": bridge["mac"], "mtu": bridge["mtu"]},
        {"name": attachment["host_interface"], "mac": attachment["host_mac"], "mtu": mtu},
        {"name": attachment["interface"], "mac": attachment["mac"], "mtu": mtu, "sandbox": sandbox},
    ]
    index = len(before["interfaces"]) + len(interfaces) - 1
    ways = list(gateways) or ([attachment["gateway"]] if attachment.get("gateway") else [])
    ips = [{"address": text, "interface": index, **_gateway(text, ways)} for text in attachment["addresses"]]
    return {
        "interfaces": [*before["interfaces"], *interfaces],
        "ips": [*before["ips"], *ips],
        "routes": [*before["routes"], *attachment["routes"]],
        "dns": dict(dns) or before["dns"],
    }


def addresses_result(
    addresses: Sequence[str], gateway: str | None, routes: Sequence[Mapping[str, Any]], dns: Mapping[str, Any]
) -> Result:
    """What ADD of `weave-ipam` answers: no interfaces."""
    ways = [] if gateway is None else [gateway]
    ips = [{"address": text, **_gateway(text, ways)} for text in addresses]
    return {"ips": ips, "routes": [dict(route) for route in routes], "dns": dict(dns)}


def write_result(result: Result, version: str) -> Result:
    """The result as that version of the specification has it (`cniVersion` is always there)."""
    newest, old = at_least(version, "1.1.0"), not at_least(version, "1.0.0")
    written: Result = {"cniVersion": version}
    if "interfaces" in result:
        written["interfaces"] = [
            {
                name: value
                for name, value in entry.items()
                if value not in (None, "") and (newest or name not in _SANDBOX_ONLY)
            }
            for entry in result["interfaces"]
        ]
    written["ips"] = [
        {**({"version": "6" if ":" in entry["address"] else "4"} if old else {}), **_without(entry, "version")}
        for entry in result["ips"]
    ]
    routes = [
        {
            name: value
            for name, value in route.items()
            if value not in (None, "") and (newest or name in _ROUTE_FIELDS_OF_OLD)
        }
        for route in result["routes"]
    ]
    if routes:
        written["routes"] = routes
    written["dns"] = result["dns"]
    return written


def _without(entry: Mapping[str, Any], name: str) -> Result:
    return {key: value for key, value in entry.items() if key != name and value not in (None, "")}


def _gateway(address: str, gateways: Iterable[str]) -> Result:
    """The entry for the gateway of an address's family, if there is one."""
    return next(({"gateway": way} for way in gateways if (":" in address) == (":" in way)), {})
