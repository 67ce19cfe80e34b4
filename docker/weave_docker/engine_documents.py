"""What engines tell, read from their JSON: containers, networks, events. Nothing in it is taken on trust."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Literal

from weave_docker.engine_errors import EngineUnavailable

EventKind = Literal["connected", "start", "die", "destroy", "connect", "disconnect"]
"""`connected`: the stream begins (again), and what happened before it is unknown."""

_CONTAINER_EVENTS: dict[str, EventKind] = {
    "start": "start",
    "die": "die",
    "died": "die",  # Podman
    "destroy": "destroy",
    "remove": "destroy",  # Podman
}
_NETWORK_EVENTS: dict[str, EventKind] = {"connect": "connect", "disconnect": "disconnect"}

MAX_NAME = 255
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A container on one of its engine's networks."""

    network: str
    """Id of the network."""
    addresses: tuple[str, ...]
    """Without prefix length, IPv4 before IPv6."""
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container as its engine describes it."""

    id: str
    name: str
    engine: str
    """What its engine is called."""
    running: bool
    pid: int
    """Of its first process, in the host's numbering; 0 while it does not run."""
    hostname: str = ""
    domainname: str = ""
    network_mode: str = ""
    """`host` for one that has no network namespace of its own."""
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network as its engine describes it."""

    id: str
    driver: str
    options: dict[str, str]
    ipam_driver: str = ""
    subnets: tuple[tuple[str, str], ...] = ()
    """Of each the subnet, and the part that addresses are taken from; empty where that is all of it."""
    endpoints: frozenset[str] | None = None
    """Ids of all, those of containers that are just being started among them; None if it is not told."""
    addresses: frozenset[str] = frozenset()
    """Of the endpoints, without prefix length."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to a container; `container` is its full id, empty for `connected`."""

    kind: EventKind
    container: str = ""


def is_container_name(text: str) -> bool:
    """Whether a container may have such a name or id; anything else would only confuse whom we ask."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def is_container_id(text: str) -> bool:
    """Whether it is a complete id as Docker and Podman give them."""
    return _ID.fullmatch(text) is not None


def read_json(body: bytes | str, engine: object) -> Any:
    """Decode an answer. Raises `EngineUnavailable`."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _nonsense(engine, "its answer is no JSON") from error


def refusal(status: int, body: bytes) -> str:
    """What an engine says in an answer that is an error, in one line."""
    try:
        message = json.loads(body)["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        message = None
    return " ".join(message.split())[:300] if isinstance(message, str) and message else f"HTTP status {status}"


def read_container(document: Any, engine: object, engine_name: str) -> Container:
    """Read what `inspect` says. Raises `EngineUnavailable`."""
    values = _map(document)
    identifier = _text(values, "Id")
    if not is_container_name(identifier):
        raise _nonsense(engine, "it describes a container without an id")
    state, config = _map(values.get("State")), _map(values.get("Config"))
    pid = state.get("Pid")
    running = state.get("Running") is True and state.get("Restarting") is not True
    process = pid if running and isinstance(pid, int) and pid > 0 else 0
    return Container(
        id=identifier,
        name=_text(values, "Name").removeprefix("/"),
        engine=engine_name,
        running=process > 0,
        pid=process,
        hostname=_text(config, "Hostname"),
        domainname=_text(config, "Domainname"),
        network_mode=_text(_map(values.get("HostConfig")), "NetworkMode"),
        endpoints=_endpoints(_map(values.get("NetworkSettings")).get("Networks")),
    )


def read_endpoints(document: Any, engine: object) -> dict[str, str]:
    """The containers of a list, by the ids of their endpoints. Raises `EngineUnavailable`."""
    if not isinstance(document, list):
        raise _nonsense(engine, "its list of containers is none")
    found = {}
    for entry in map(_map, document):
        for network in _map(_map(entry.get("NetworkSettings")).get("Networks")).values():
            endpoint, container = _text(_map(network), "EndpointID"), _text(entry, "Id")
            if endpoint and is_container_name(container):
                found[endpoint] = container
    return found


def read_running(document: Any, engine: object) -> dict[str, bool]:
    """All containers of a list, by id, and whether they run. Raises `EngineUnavailable`."""
    if not isinstance(document, list):
        raise _nonsense(engine, "its list of containers is none")
    entries = [_map(entry) for entry in document]
    return {
        _text(entry, "Id"): _text(entry, "State").lower() in {"running", "paused"}
        for entry in entries
        if is_container_name(_text(entry, "Id"))
    }


def read_network(document: Any) -> Network:
    """Read what `network inspect` says."""
    values = _map(document)
    options = {key: value for key, value in _map(values.get("Options")).items() if isinstance(value, str)}
    ipam = _map(values.get("IPAM"))
    containers = values.get("Containers")
    endpoints = [_map(endpoint) for endpoint in _map(containers).values()]
    identifiers = frozenset(filter(None, (_text(endpoint, "EndpointID") for endpoint in endpoints)))
    interfaces = [_text(endpoint, field) for endpoint in endpoints for field in ("IPv4Address", "IPv6Address")]
    return Network(
        id=_text(values, "Id"),
        driver=_text(values, "Driver"),
        options=options,
        ipam_driver=_text(ipam, "Driver"),
        subnets=tuple((_text(part, "Subnet"), _text(part, "IPRange")) for part in _maps(ipam.get("Config"))),
        endpoints=identifiers if isinstance(containers, dict) else None,
        addresses=frozenset(filter(None, (_address(text.partition("/")[0]) for text in interfaces))),
    )


def read_networks(document: Any, engine: object) -> list[Network]:
    """All networks of a list, which tells nothing of their endpoints. Raises `EngineUnavailable`."""
    if not isinstance(document, list):
        raise _nonsense(engine, "its list of networks is none")
    return [
        replace(network, endpoints=None, addresses=frozenset())  # Docker has an empty list there
        for network in map(read_network, document)
        if is_container_name(network.id)
    ]


def read_event(line: bytes) -> Event | None:
    """One line of the stream of events; None for what does not matter here. Raises `ValueError` for no JSON."""
    try:
        values = _map(json.loads(line))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    action, actor = _text(values, "Action"), _map(values.get("Actor"))
    match _text(values, "Type"):
        case "container":
            kind, container = _CONTAINER_EVENTS.get(action), _text(actor, "ID")
        case "network":
            kind, container = _NETWORK_EVENTS.get(action), _text(_map(actor.get("Attributes")), "container")
        case _:
            return None
    return Event(kind, container) if kind is not None and is_container_id(container) else None


def _endpoints(value: Any) -> tuple[Endpoint, ...]:
    endpoints = []
    for entry in map(_map, _map(value).values()):
        aliases = entry.get("Aliases")
        addresses = [_address(_text(entry, field)) for field in ("IPAddress", "GlobalIPv6Address")]
        endpoints.append(
            Endpoint(
                network=_text(entry, "NetworkID"),
                addresses=tuple(filter(None, addresses)),
                aliases=tuple(a for a in aliases if isinstance(a, str)) if isinstance(aliases, list) else (),
            )
        )
    return tuple(endpoints)


def _address(text: str) -> str:
    """The address in its usual spelling; empty if it is none."""
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _maps(value: Any) -> list[dict[str, Any]]:
    return [_map(entry) for entry in value] if isinstance(value, list) else []


def _text(values: dict[str, Any], field: str) -> str:
    value = values.get(field)
    return value if isinstance(value, str) else ""


def _nonsense(engine: object, what: str) -> EngineUnavailable:
    return EngineUnavailable(f"{engine} cannot be understood: {what}")
