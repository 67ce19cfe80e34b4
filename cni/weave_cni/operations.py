"""What the plugins do at each CNI command: checked requests in, results out, the daemon's API in between.

`weave-net` makes interfaces; addresses come from the daemon, or from another plugin that the caller is asked to run
(`Delegate`). `weave-ipam` gives addresses to other plugins. Whatever fails, nothing is left of an ADD.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any, Literal

import trio

from weave_cni.config import IpamConfig, NetConfig, is_other_plugin, read_ipam_config, read_net_config
from weave_cni.daemon_api import OWNER
from weave_cni.errors import CniError, Code
from weave_cni.keys import get_key
from weave_cni.result import addresses_result, attachment_result, read_result, write_result
from weave_cni.versions import NEWEST, SUPPORTED
from weave_cni.wishes import Wishes, read_wishes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from weave_cni.daemon_api import DaemonApi
    from weave_cni.request import Request
    from weave_cni.result import Result

Delegate = Callable[[str, str], Awaitable[Any]]
"""Runs another plugin, by type and command, with the environment and configuration of the call; gives its result.

Raises `CniError` with what it answers.
"""

NAME_SERVER_WAIT_S = 0.5
"""The name server listens a moment after the host got its address on the network."""
NAME_SERVER_POLL_S = 0.01
_NAME_SERVER_FORGIVEN_S = 60.0

UNDO_LIMIT_S = 5.0
"""A delegated plugin, or whoever runs it, may be stuck."""

_UNKNOWN_COMMAND_CODES = (Code.INCOMPATIBLE_VERSION, Code.INVALID_ENVIRONMENT)
"""What plugins answer that do not know GC or STATUS."""

BRIDGE = "bridge"
MAX_NAMES = 64
"""Of one interface; further ones are left out."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """A request with what came beside it, and what was made of it."""

    request: Request
    delegate: Delegate
    descriptor: int | None = None
    """Of the container's namespace, where its path means nothing to the daemon."""
    host_mac: str | None = None
    """MAC address of the host's side of the interface that was made, which tells it from later ones."""
    allocated: bool = False
    """Whether addresses without an interface were taken."""


class Operations:
    """Serves calls. `api`: of the daemon."""

    def __init__(self, api: DaemonApi) -> None:
        self._api = api
        self._deaf_until = 0.0
        self._allocating: set[str] = set()
        """Identifiers for which an address is being taken."""

    async def serve(self, call: Call) -> Result | None:
        """Do what is asked; the object to print, if any. Raises `CniError`."""
        request = call.request
        if request.command == "VERSION":
            return {"cniVersion": NEWEST, "supportedVersions": list(SUPPORTED)}
        operations = self._of_ipam if request.plugin == "weave-ipam" else self._of_net
        result = await operations[request.command](call)
        return None if result is None else write_result(result, request.version)

    async def undo(self, call: Call) -> None:
        """Take back an ADD that its caller will not hear of; what was made under its name since then stays."""
        request = call.request
        if call.allocated:
            await self._api.release(_identifier(request))
        if call.host_mac is not None:
            await self._api.detach(request.container, request.interface, request.network, call.host_mac)

    @property
    def _of_net(self) -> Mapping[str, Callable[[Call], Awaitable[Result | None]]]:
        return {
            "ADD": self._add,
            "DEL": self._delete,
            "CHECK": self._check,
            "STATUS": self._status,
            "GC": self._collect,
        }

    @property
    def _of_ipam(self) -> Mapping[str, Callable[[Call], Awaitable[Result | None]]]:
        return {
            "ADD": self._allocate,
            "DEL": self._release,
            "CHECK": self._check_addresses,
            "STATUS": self._status,
            "GC": self._collect,
        }

    # --- weave-net --------------------------------------------------------------------------------------------------

    async def _add(self, call: Call) -> Result:
        request = call.request
        config, wishes = read_net_config(request.config), read_wishes(request)
        previous = None if request.previous is None else read_result(request.previous, "the plugins before")
        await self._check_bridge(config)
        body: dict[str, Any] = {
            "netns": request.netns,
            "owner": OWNER,
            "network": request.network,
            "create": True,
            "keep": True,
            "multicast_route": False,
            "hairpin": config.hairpin,
            "names": list(wishes.names[:MAX_NAMES]),
            "mtu": config.mtu,
            "mac": wishes.mac,
        }
        if call.descriptor is not None:
            body["descriptor"] = call.descriptor
        if config.ipam.delegated:
            return await self._add_delegated(call, config, wishes, body, previous)
        body["addresses"] = await self._addresses(config.ipam, wishes)
        body["routes"] = list(config.ipam.routes)
        without = not config.ipam.routes or any("gw" not in route for route in config.ipam.routes)
        body["gateway"] = config.ipam.gateway or (BRIDGE if without else None)
        attachment = await self._attach(call, body)
        dns = await self._dns(wishes) if previous is None or not previous["dns"] else wishes.dns
        return attachment_result(attachment, request.netns, dns, previous)

    async def _attach(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        attachment = await self._api.attach(call.request.container, call.request.interface, body)
        call.host_mac = attachment["host_mac"]
        return attachment

    async def _check_bridge(self, config: NetConfig) -> None:
        if config.bridge and config.bridge != (own := await self._api.bridge()):
            text = f"the bridge is {own}, not {config.bridge!r} (weave launch --weave-bridge)"
            raise CniError(Code.INVALID_CONFIG, text)

    async def _add_delegated(
        self, call: Call, config: NetConfig, wishes: Wishes, body: dict[str, Any], previous: Result | None
    ) -> Result:
        request = call.request
        # The interface first: where it exists already, the other plugin must not be asked, whose addresses of that
        # container would be taken away again.
        await self._attach(call, body)
        async with self._undone_by(call, config.ipam.type):
            given = read_result(await call.delegate(config.ipam.type, "ADD"), config.ipam.type)
            if not given["ips"]:
                raise CniError(Code.INVALID_CONFIG, f"{config.ipam.type} gave no address")
            gateways = {
                ip_address(entry["gateway"]).version: entry["gateway"] for entry in given["ips"] if entry.get("gateway")
            }
            body["addresses"] = [str(ip_interface(entry["address"])) for entry in given["ips"]]
            body["routes"] = [_with_gateway(_known_route(route), gateways) for route in given["routes"]]
            body["create"] = False
            attachment = await self._attach(call, body)
            dns = dict(wishes.dns) or dict(given["dns"])
            return attachment_result(attachment, request.netns, dns, previous, gateways.values())

    @asynccontextmanager
    async def _undone_by(self, call: Call, plugin: str) -> AsyncIterator[None]:
        """If the block fails, the interface goes, and the delegated plugin is told to delete what it added."""
        try:
            yield
        except BaseException:
            with trio.move_on_after(UNDO_LIMIT_S, shield=True):
                await self.undo(call)
                try:
                    await call.delegate(plugin, "DEL")
                except CniError as error:
                    _log.warning("%s could not take back what it added: %s", plugin, error.message)
            raise

    async def _addresses(self, config: IpamConfig, wishes: Wishes) -> list[str]:
        if not wishes.addresses:
            return ["net:default" if config.subnet is None else f"net:{config.subnet}"]
        subnet = config.subnet or await self._api.default_subnet()
        return [_with_length(text, subnet) for text in wishes.addresses]

    async def _dns(self, wishes: Wishes) -> dict[str, Any]:
        """Settings of the resolver: those given, else our name server where there is one."""
        if wishes.dns:
            return dict(wishes.dns)
        deadline = trio.current_time() + (NAME_SERVER_WAIT_S if trio.current_time() >= self._deaf_until else 0.0)
        while (server := await self._api.name_server()) is None:
            if trio.current_time() >= deadline:
                self._deaf_until = trio.current_time() + _NAME_SERVER_FORGIVEN_S
                return {}
            await trio.sleep(NAME_SERVER_POLL_S)
        address, domain = server
        if not address:
            return {}
        return {"nameservers": [address], "domain": domain, "search": [domain]}

    async def _delete(self, call: Call) -> None:
        request = call.request
        await self._api.detach(request.container, request.interface, request.network)
        plugin = _ipam_type(request)
        if plugin is not None:
            await call.delegate(plugin, "DEL")

    async def _check(self, call: Call) -> None:
        request = call.request
        known = await self._api.attachment(request.container, request.interface)
        if known is None or known["owner"] != OWNER or known["network"] != request.network:
            raise CniError(
                Code.CHECK_FAILED, f"{request.container} has no interface {request.interface} of {request.network}"
            )
        previous = read_result(request.previous, "prevResult")
        own = _own_interfaces(request, previous)
        mac = next((entry["mac"] for entry in own.values() if isinstance(entry.get("mac"), str)), None)
        problems = await self._api.problems(request.container, request.interface, call.descriptor, mac)
        told = {_plain(entry.get("address")) for entry in previous["ips"] if entry.get("interface") in own}
        lost = told - {_plain(text) for text in known["addresses"]}
        problems += [f"the address {text} of prevResult is not known" for text in sorted(filter(None, lost))]
        if problems:
            raise CniError(Code.CHECK_FAILED, "not as it was added: " + "; ".join(problems))
        plugin = _ipam_type(request)
        if plugin is not None:
            await call.delegate(plugin, "CHECK")

    async def _status(self, call: Call) -> None:
        request = call.request
        config = read_ipam_config(request.config)
        if request.plugin != "weave-ipam":
            await self._check_bridge(read_net_config(request.config))
        if config.delegated:
            try:
                await call.delegate(config.type, "STATUS")
            except CniError as error:
                if error.code in (Code.NOT_AVAILABLE, Code.LIMITED_CONNECTIVITY):
                    raise
                if error.code not in _UNKNOWN_COMMAND_CODES:
                    raise CniError(Code.NOT_AVAILABLE, error.message, error.details) from error
            return
        reason = await self._api.why_no_addresses(config.subnet)
        if reason is not None:
            raise CniError(Code.NOT_AVAILABLE, f"no address could be had: {reason}")

    async def _collect(self, call: Call) -> None:
        request = call.request
        valid = _valid_attachments(request)
        if valid is None:
            return
        errors = []
        stale: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        if request.plugin != "weave-ipam":
            for container, interface in await self._api.attachments(request.network):
                if (container, interface) not in valid:

                    async def detach(container: str = container, interface: str = interface) -> None:
                        await self._api.detach(container, interface, request.network)

                    stale.append((f"{interface} of {container}", detach))
        prefix = f"{OWNER}:{request.network}:"
        for identifier in await self._api.identifiers(prefix):
            container, _, interface = identifier.removeprefix(prefix).partition(":")
            if (container, interface) not in valid:

                async def release(identifier: str = identifier) -> None:
                    await self._api.release(identifier)

                stale.append((f"addresses of {container}", release))
        for what, remove in stale:
            _log.info("network %s: %s is no more and is removed", request.network, what)
            try:
                await remove()
            except CniError as error:
                errors.append(f"{what}: {error.message}")
        plugin = _ipam_type(request)
        if plugin is not None:
            try:
                await call.delegate(plugin, "GC")
            except CniError as error:
                if error.code not in _UNKNOWN_COMMAND_CODES:
                    errors.append(f"{plugin}: {error.message}")
        if errors:
            raise CniError(Code.INTERNAL, "not everything could be removed: " + "; ".join(errors))

    # --- weave-ipam -------------------------------------------------------------------------------------------------

    async def _allocate(self, call: Call) -> Result:
        request = call.request
        config, wishes = read_ipam_config(request.config), read_wishes(request)
        identifier = _identifier(request)
        taken = CniError(Code.TAKEN, f"{request.interface} of {request.container} has an address already")
        if identifier in self._allocating:
            raise taken
        self._allocating.add(identifier)
        try:
            if await self._api.recorded(identifier):
                raise taken
            return await self._allocate_for(call, identifier, config, wishes)
        finally:
            self._allocating.discard(identifier)

    async def _allocate_for(self, call: Call, identifier: str, config: IpamConfig, wishes: Wishes) -> Result:
        call.allocated = True
        given: list[str] = []
        for text in wishes.addresses:
            wanted = _with_length(text, config.subnet or await self._api.default_subnet())
            await self._api.claim(identifier, wanted)
            given.append(wanted)
        if not wishes.addresses:
            given.append(await self._api.allocate(identifier, config.subnet))
        # Without a gateway configured there is none: where packets go from the container is the main plugin's business.
        routes = config.routes or (({"dst": "0.0.0.0/0"},) if config.gateway is not None else ())
        return addresses_result(given, config.gateway, routes, wishes.dns)

    async def _release(self, call: Call) -> None:
        await self._api.release(_identifier(call.request))

    async def _check_addresses(self, call: Call) -> None:
        request = call.request
        recorded = {_plain(text) for text in await self._api.recorded(_identifier(request))}
        if not recorded:
            raise CniError(Code.CHECK_FAILED, f"{request.interface} of {request.container} has no address recorded")
        told = {_plain(entry.get("address")) for entry in read_result(request.previous, "prevResult")["ips"]}
        if not recorded & told:
            raise CniError(
                Code.CHECK_FAILED, f"{request.container} has {sorted(recorded)} recorded, not {sorted(told)}"
            )


def _identifier(request: Request) -> str:
    """Under which the allocator has the addresses that `weave-ipam` gave."""
    return f"{OWNER}:{request.network}:{request.container}:{request.interface}"


def _ipam_type(request: Request) -> str | None:
    """The delegated plugin; read without judging the rest, which must not keep anything from being removed."""
    if request.plugin == "weave-ipam":
        return None
    ipam = get_key(request.config, "ipam")
    plugin = get_key(ipam, "type") if isinstance(ipam, dict) else None
    delegated = isinstance(plugin, str) and IpamConfig(type=plugin).delegated and is_other_plugin(plugin)
    return plugin if delegated else None


def _valid_attachments(request: Request) -> set[tuple[str, str]] | None:
    """What GC must spare; None if the runtime does not know. Raises `CniError`."""
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        listed = request.config.get(key)
        if listed is None:
            continue
        if not isinstance(listed, list) or not all(
            isinstance(entry, dict) and {"containerID", "ifname"} <= entry.keys() for entry in listed
        ):
            raise CniError(Code.INVALID_CONFIG, f'{key} must be a list of {{"containerID", "ifname"}}')
        return {(str(entry["containerID"]), str(entry["ifname"])) for entry in listed}
    return None


def _own_interfaces(request: Request, previous: Result) -> dict[int, dict[str, Any]]:
    """The entries of our interface, by index; a later plugin may have changed what they tell, as `tuning` the MAC."""
    return {
        index: entry
        for index, entry in enumerate(previous["interfaces"])
        if entry.get("name") == request.interface and entry.get("sandbox")
    }


def _known_route(route: Mapping[str, Any]) -> dict[str, Any]:
    names = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")
    return {name: route[name] for name in names if route.get(name) not in (None, "")}


def _with_gateway(route: dict[str, Any], gateways: Mapping[Literal[4, 6], str]) -> dict[str, Any]:
    """A route without a gateway leads through that of its family, if there is one. Raises `CniError`."""
    try:
        version = ip_network(route["dst"], strict=False).version
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, f"a route cannot be read: {error}") from error
    return route if "gw" in route or version not in gateways else {**route, "gw": gateways[version]}


def _with_length(text: str, subnet: str | None) -> str:
    """`address/len`; without a length, that of the subnet if the address is in it, else a host's. Raises `CniError`."""
    try:
        address = ip_interface(text)
        if "/" in text:
            return str(address)
        if subnet is not None and address.ip in ip_interface(subnet).network:
            return f"{address.ip}/{ip_interface(subnet).network.prefixlen}"
        return f"{address.ip}/{ip_address(text).max_prefixlen}"
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, f"the address cannot be read: {error}") from error


def _plain(text: Any) -> str:
    return str(text or "").partition("/")[0]
