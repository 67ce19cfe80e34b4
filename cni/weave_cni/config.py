"""The plugins' own part of a network's configuration: the keys of Weave Net 2.8, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from weave_cni.errors import CniError, Code
from weave_cni.keys import get_key
from weave_cni.wishes import read_dns

if TYPE_CHECKING:
    from collections.abc import Mapping

BUILT_IN = ("", "weave-ipam")
"""Types of `ipam` that mean the daemon's allocator, without a further plugin."""
_PLUGIN = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
MIN_MTU, MAX_MTU = 576, 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class IpamConfig:
    """The key `ipam`."""

    type: str = ""
    subnet: str | None = None
    gateway: str | None = None
    routes: tuple[dict[str, Any], ...] = ()

    @property
    def delegated(self) -> bool:
        """Whether another plugin gives the addresses."""
        return self.type not in BUILT_IN


@dataclass(frozen=True, slots=True, kw_only=True)
class NetConfig:
    """What `weave-net` reads."""

    bridge: str
    mtu: int | None
    hairpin: bool
    ipam: IpamConfig
    dns: dict[str, Any]


def read_net_config(config: Mapping[str, Any]) -> NetConfig:
    """Raises `CniError`."""
    for key in ("isGateway", "ipMasq"):
        if value := get_key(config, key):
            raise CniError(
                Code.UNSUPPORTED_FIELD,
                f"unsupported field {key}={value!r}: the daemon makes the bridge a gateway, and masquerades, "
                "when no routes are configured",
            )
    mtu = get_key(config, "mtu") or None
    if mtu is not None and (type(mtu) is not int or not MIN_MTU <= mtu <= MAX_MTU):
        raise CniError(Code.INVALID_CONFIG, f"mtu must be a number of bytes from {MIN_MTU} to {MAX_MTU}, not {mtu!r}")
    hairpin = get_key(config, "hairpinMode")
    hairpin = True if hairpin is None else hairpin
    if not isinstance(hairpin, bool):
        raise CniError(Code.INVALID_CONFIG, f"hairpinMode must be true or false, not {hairpin!r}")
    return NetConfig(
        bridge=_text(config, "bridge") or "",
        mtu=mtu,
        hairpin=hairpin,
        ipam=read_ipam_config(config),
        dns=read_dns(get_key(config, "dns")),
    )


def read_ipam_config(config: Mapping[str, Any]) -> IpamConfig:
    """Raises `CniError`."""
    ipam = get_key(config, "ipam") or {}
    if not isinstance(ipam, dict):
        raise CniError(Code.INVALID_CONFIG, f"ipam must be an object, not {ipam!r}")
    plugin = _text(ipam, "type") or ""
    if plugin not in BUILT_IN:
        if not is_other_plugin(plugin):
            raise CniError(Code.INVALID_CONFIG, f"ipam.type {plugin!r} cannot be a plugin that gives addresses")
        return IpamConfig(type=plugin)  # its further keys are that plugin's
    subnet, gateway = _text(ipam, "subnet"), _text(ipam, "gateway")
    try:
        if subnet:
            subnet = str(ip_network(subnet))
        if gateway:
            gateway = str(ip_address(gateway))
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, f"ipam: {error}") from error
    return IpamConfig(type=plugin, subnet=subnet or None, gateway=gateway or None, routes=read_routes(ipam))


def is_other_plugin(name: str) -> bool:
    """Whether it may name a plugin to run: ourselves we would call without end."""
    return _PLUGIN.fullmatch(name) is not None and name not in (".", "..", "weave-net")


def read_routes(holder: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The key `routes`: each with `dst`, perhaps `gw` and what version 1.1.0 adds. Raises `CniError`."""
    routes = get_key(holder, "routes") or []
    if not isinstance(routes, list) or not all(
        isinstance(route, dict) and isinstance(route.get("dst"), str) for route in routes
    ):
        raise CniError(Code.INVALID_CONFIG, 'routes must be a list such as [{"dst": "10.0.0.0/8"}]')
    for route in routes:
        try:
            ip_network(route["dst"], strict=False)
            if route.get("gw"):
                ip_address(route["gw"])
        except ValueError as error:
            raise CniError(Code.INVALID_CONFIG, f"routes: {error}") from error
    return tuple({name: value for name, value in route.items() if value not in (None, "")} for route in routes)


def _text(mapping: Mapping[str, Any], key: str) -> str | None:
    value = get_key(mapping, key)
    if value is not None and not isinstance(value, str):
        raise CniError(Code.INVALID_CONFIG, f"{key} must be a text, not {value!r}")
    return value
