"""One CNI call, checked: what the runtime says (specification 1.1.0, sections 2 and 3)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weave_cni.errors import CniError, Code
from weave_cni.versions import (
    CHECK_SINCE,
    NEWEST,
    STATUS_AND_GC_SINCE,
    UNNAMED,
    at_least,
    require_supported,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
MAX_NAME = 200
"""Characters of a container id or a network's name; a container id has 64."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_INTERFACE = re.compile(r"[^\s/:\0]{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call."""

    plugin: str
    """`weave-net` or `weave-ipam`."""
    command: str
    version: str
    network: str
    container: str = ""
    netns: str = ""
    """Path as the runtime sees it; empty where none is given."""
    interface: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    """`CNI_ARGS`, taken apart."""
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def previous(self) -> Any:
        """The result of the plugins before, None if there is none."""
        return self.config.get("prevResult")


def version_of(standard_input: bytes) -> str:
    """The version in which to tell an error, whatever the rest of the configuration is worth."""
    try:
        version = json.loads(standard_input).get("cniVersion", UNNAMED)
    except (ValueError, AttributeError, RecursionError):
        return NEWEST
    return version if isinstance(version, str) and version.isascii() else NEWEST


def parse_request(environment: Mapping[str, str], standard_input: bytes) -> Request:
    """Check a call. Raises `CniError`."""
    command = environment.get("CNI_COMMAND", "")
    if command not in REQUIRED:
        raise CniError(Code.INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
    missing = [name for name in REQUIRED[command] if not environment.get(name)]
    if missing:
        raise CniError(Code.INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    for name, value in environment.items():
        if not _is_text(value):
            raise CniError(Code.INVALID_ENVIRONMENT, f"{name} is no UTF-8: {value!r}")
    container, interface = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    if "CNI_CONTAINERID" in REQUIRED[command]:
        _check_names(container, interface)
    config = _decode(standard_input)
    version = config.get("cniVersion", UNNAMED)
    if not isinstance(version, str):
        raise CniError(Code.UNDECODABLE, f"cniVersion must be a text, not {version!r}")
    if command != "VERSION":
        require_supported(version)
        _check_command(command, version, config)
    network = config.get("name", "")
    if command != "VERSION" and not (isinstance(network, str) and network):
        raise CniError(Code.INVALID_CONFIG, "missing network name")
    if command != "VERSION" and (not _NAME.fullmatch(network) or len(network) > MAX_NAME):
        raise CniError(Code.INVALID_CONFIG, f"invalid characters found in network name: {network!r}")
    return Request(
        plugin=environment.get("WEAVE_CNI_PLUGIN", "weave-net"),
        command=command,
        version=version,
        network=network if isinstance(network, str) else "",
        container=container,
        netns=environment.get("CNI_NETNS", ""),
        interface=interface,
        arguments=_arguments(environment.get("CNI_ARGS", "")),
        config=config,
        environment=environment,
    )


def _check_names(container: str, interface: str) -> None:
    if not _NAME.fullmatch(container) or len(container) > MAX_NAME:
        raise CniError(Code.INVALID_ENVIRONMENT, f"invalid characters in containerID (CNI_CONTAINERID): {container!r}")
    if interface in (".", "..") or not _INTERFACE.fullmatch(interface):
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"invalid interface name (CNI_IFNAME): {interface!r}: 1 to 15 characters, no '/', ':' or white space",
        )


def _decode(standard_input: bytes) -> dict[str, Any]:
    try:
        config = json.loads(standard_input)
    except (ValueError, RecursionError) as error:
        raise CniError(Code.UNDECODABLE, f"the configuration is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise CniError(Code.UNDECODABLE, "the configuration is no JSON object")
    if not _is_text(json.dumps(config, ensure_ascii=False)):
        raise CniError(Code.UNDECODABLE, "the configuration has half a character in it (a lone surrogate)")
    return config


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_command(command: str, version: str, config: Mapping[str, Any]) -> None:
    since = {"CHECK": CHECK_SINCE, "STATUS": STATUS_AND_GC_SINCE, "GC": STATUS_AND_GC_SINCE}.get(command)
    if since is not None and not at_least(version, since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION, f"config version does not allow {command}", f"it is {version}, and needs {since}"
        )
    if command == "CHECK" and not isinstance(config.get("prevResult"), dict):
        raise CniError(Code.INVALID_CONFIG, "missing prevResult, which CHECK needs")


def _arguments(text: str) -> dict[str, str]:
    pairs = {}
    for entry in text.split(";"):
        if entry:
            name, equals, value = entry.partition("=")
            if not equals:
                raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {entry!r}")
            pairs[name] = value
    return pairs
