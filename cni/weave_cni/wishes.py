"""What the runtime wants for one container beside the network's configuration: addresses, MAC, names, resolver.

Three generations of the same: `runtimeConfig` (capabilities), `args.cni`, and `CNI_ARGS`; the newest wins.
Runtimes differ in letter case (CRI's pod annotations come as `Servers`), so it means nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weave_cni.errors import CniError, Code
from weave_cni.keys import get_key

if TYPE_CHECKING:
    from weave_cni.request import Request

DNS_FIELDS = ("nameservers", "domain", "search", "options")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Of one call."""

    addresses: tuple[str, ...] = ()
    """With or without prefix length."""
    mac: str | None = None
    names: tuple[str, ...] = ()
    dns: dict[str, Any] = field(default_factory=dict)
    """In the form of a result."""


def read_wishes(request: Request) -> Wishes:
    """Raises `CniError` for what cannot be read."""
    runtime = _object(get_key(request.config, "runtimeConfig"), "runtimeConfig")
    older = _object(get_key(_object(get_key(request.config, "args"), "args"), "cni"), "args.cni")
    addresses = get_key(runtime, "ips") or get_key(older, "ips") or _separated(request.arguments.get("IP", ""))
    mac = get_key(runtime, "mac") or get_key(older, "mac") or request.arguments.get("MAC") or None
    if mac is not None and not isinstance(mac, str):
        raise CniError(Code.INVALID_CONFIG, f"the MAC address must be a text, not {mac!r}")
    pod = request.arguments.get("K8S_POD_NAME", "")
    return Wishes(
        addresses=_texts(addresses, "ips"),
        mac=mac,
        names=tuple(dict.fromkeys([*([pod] if pod else []), *_aliases(get_key(runtime, "aliases"), request.network)])),
        dns=read_dns(get_key(runtime, "dns")) or read_dns(request.config.get("dns")),
    )


def read_dns(value: Any) -> dict[str, Any]:
    """Settings of the resolver as a result has them; `servers` and `searches` are CRI's words. Raises `CniError`."""
    given = _object(value, "dns")
    found: dict[str, Any] = {}
    for name, others in (("nameservers", ("servers",)), ("search", ("searches",)), ("options", ())):
        texts: Any = next((entry for key in (name, *others) if (entry := get_key(given, key))), [])
        if texts:
            found[name] = list(_texts(texts, f"dns.{name}"))
    domain = get_key(given, "domain")
    if domain:
        if not isinstance(domain, str):
            raise CniError(Code.INVALID_CONFIG, f"dns.domain must be a text, not {domain!r}")
        found["domain"] = domain
    return {name: found[name] for name in DNS_FIELDS if name in found}


def _aliases(value: Any, network: str) -> tuple[str, ...]:
    if isinstance(value, dict):  # by network, as Podman has them
        value = value.get(network, [])
    return _texts(value or [], "aliases")


def _separated(text: str) -> list[str]:
    return [entry for entry in text.split(",") if entry]


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        raise CniError(Code.INVALID_CONFIG, f"{name} must be a list of texts, not {value!r}")
    return tuple(value)


def _object(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CniError(Code.INVALID_CONFIG, f"{name} must be an object, not {value!r}")
    return value
