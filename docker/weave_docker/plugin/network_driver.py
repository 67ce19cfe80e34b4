"""`NetworkDriver.*`: Docker's networks and endpoints as attachments of the daemon.

All Docker networks of this driver are one network: they differ in subnets and in what their containers are told.

    CreateEndpoint ─> the state ─> attachment: a veth between the weave bridge and the host's own namespace
    Join           ─> the engine takes the veth's free end into the container
    DeleteEndpoint ─> no attachment ─> the state
"""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any

from weave_docker.plugin.daemon_api import INTERFACE, OWNER
from weave_docker.plugin.errors import BadRequest, DaemonRefused, Refused, StateError
from weave_docker.plugin.ipam_driver import ADDRESS_SPACE
from weave_docker.plugin.options import ENABLE_IPV6, GATEWAY, NetworkOptions, read_options
from weave_docker.plugin.state import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_docker.plugin.daemon_api import Daemon
    from weave_docker.plugin.messages import Message
    from weave_docker.plugin.pool_requests import PoolRequests
    from weave_docker.plugin.pools import Interface, Network
    from weave_docker.plugin.state import State
    from weave_docker.plugin.state_file import StateFile

PORT_MAP = "com.docker.network.portmap"
MULTICAST_ROUTE = {"Destination": "224.0.0.0/4", "RouteType": 1}
"""Connected: over the interface, not by a gateway."""

_log = logging.getLogger(__name__)


def peer_name(endpoint_id: str) -> str:
    """Name of the veth's end that the engine takes: 15 characters, as many as the kernel allows."""
    return f"vethwg{endpoint_id[:9]}"


class NetworkDriver:
    """The methods take the request's fields and return those of the answer; they raise `PluginError`."""

    def __init__(self, states: StateFile, daemon: Daemon, requests: PoolRequests) -> None:
        self._states = states
        self._daemon = daemon
        self._requests = requests

    def methods(self) -> dict[str, Any]:
        """Handlers by name."""
        return {
            "GetCapabilities": self.get_capabilities,
            "AllocateNetwork": self.allocate_network,
            "FreeNetwork": self.ignore,
            "GwAllocCheck": self.check_gateway,
            "CreateNetwork": self.create_network,
            "DeleteNetwork": self.delete_network,
            "CreateEndpoint": self.create_endpoint,
            "EndpointOperInfo": self.endpoint_info,
            "DeleteEndpoint": self.delete_endpoint,
            "Join": self.join,
            "Leave": self.leave,
            "DiscoverNew": self.ignore,
            "DiscoverDelete": self.ignore,
            "ProgramExternalConnectivity": self.program_connectivity,
            "RevokeExternalConnectivity": self.ignore,
        }

    async def get_capabilities(self, _: Message) -> dict[str, Any]:
        """Networks are made on each host, and reach other hosts."""
        return {"Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": True}

    async def ignore(self, _: Message) -> dict[str, Any]:
        """Nothing to do."""
        return {}

    async def allocate_network(self, message: Message) -> dict[str, Any]:
        """For swarm managers, which ask drivers of global scope only."""
        return {"Options": message.object("Options").values}

    async def check_gateway(self, _: Message) -> dict[str, Any]:
        """No network needs an address of its own for a gateway."""
        return {"SkipIPv4": True, "SkipIPv6": True}

    async def create_network(self, message: Message) -> dict[str, Any]:
        """Remember what was asked for."""
        self._requests.settle()
        network, options = message.identifier("NetworkID"), message.object("Options")
        wanted = read_options(options)
        if options.flag(ENABLE_IPV6) and not message.objects("IPv6Data"):
            raise Refused("--ipv6 needs a subnet of yours, for instance --subnet fd00:6::/64")
        for data in message.objects("IPv4Data"):
            if data.text("AddressSpace") != ADDRESS_SPACE:
                _log.warning(
                    "The addresses of the Docker network %s (%s) do not come from weave: other hosts may give the same "
                    "ones to their containers. 'docker network create --ipam-driver weave' prevents that",
                    network[:12],
                    data.text("Pool"),
                )
        await self._states.change(lambda state: state.with_network(network, wanted))
        return {}

    async def delete_network(self, message: Message) -> dict[str, Any]:
        """Forget it; what is not known is no error."""
        network = message.identifier("NetworkID")
        await self._states.change(lambda state: state.without_network(network))
        return {}

    async def create_endpoint(self, message: Message) -> dict[str, Any]:
        """Make the veth. Answered is what the engine did not decide."""
        network, endpoint_id = message.identifier("NetworkID"), message.identifier("EndpointID")
        interface = message.object("Interface")
        mac = interface.text("MacAddress")
        texts = (interface.text("Address"), interface.text("AddressIPv6"))
        addresses = tuple(str(_read_interface(text)) for text in texts if text)
        options = self._options(network)
        # In the state first: an interface that it does not know would stay for ever after a crash. And from then on
        # nobody takes the addresses for unused.
        known = self._states.state.endpoints.get(endpoint_id)
        state = await self._states.change(
            lambda state: state.with_endpoint(endpoint_id, known or Endpoint(network, addresses))
        )  # fmt: skip
        try:
            made = await self._daemon.attach(
                endpoint_id,
                {
                    "peer": peer_name(endpoint_id),
                    "addresses": list(addresses),
                    "claim": any(_is_foreign(text, state) for text in addresses),
                    "owner": OWNER,
                    "network": network,
                    "mac": mac or None,
                    "mtu": options.mtu,
                    "keep": True,
                    "multicast_route": False,
                },
            )
        except DaemonRefused:
            if known is None:
                await self._take_back(endpoint_id)
            raise
        return {"Interface": {} if mac else {"MacAddress": made.get("mac", "")}}

    async def _take_back(self, endpoint_id: str) -> None:
        """Of what failed nothing may stay, also where the daemon goes on with it after we stopped waiting."""
        try:
            await self._daemon.detach(endpoint_id)
            await self._states.change(lambda state: state.without_endpoint(endpoint_id))
        except (DaemonRefused, StateError) as error:
            _log.warning("What was begun of endpoint %s is removed at the next start: %s", endpoint_id, error)

    def _options(self, network: str) -> NetworkOptions:
        options = self._states.state.networks.get(network)
        if options is None:
            _log.warning(
                "The Docker network %s is not known (the plugin's state was lost): its options count as not given; "
                "remove and create it to set them again",
                network,
            )
        return options or NetworkOptions()

    async def endpoint_info(self, message: Message) -> dict[str, Any]:
        """Nothing that the engine does not know."""
        message.identifier("EndpointID")
        return {"Value": {}}

    async def delete_endpoint(self, message: Message) -> dict[str, Any]:
        """Remove the veth; what is gone is no error."""
        endpoint_id = message.identifier("EndpointID")
        await self._daemon.detach(endpoint_id)
        await self._states.change(lambda state: state.without_endpoint(endpoint_id))
        return {}

    async def join(self, message: Message) -> dict[str, Any]:
        """Tell the engine which interface to take, and which routes to set."""
        network, endpoint_id = message.identifier("NetworkID"), message.identifier("EndpointID")
        options = self._options(network)
        endpoint = self._states.state.endpoints.get(endpoint_id) or await self._find(network, endpoint_id)
        answer: dict[str, Any] = {
            "InterfaceName": {"SrcName": peer_name(endpoint_id), "DstPrefix": INTERFACE},
            "StaticRoutes": [MULTICAST_ROUTE] if options.multicast else [],
            "DisableGatewayService": options.internal,
        }
        if options.gateway_bridge:
            answer["Gateway"] = str((await self._gateway(map(ip_interface, endpoint.addresses))).ip)
        joined = replace(endpoint, joined=True)
        await self._states.change(lambda state: state.with_endpoint(endpoint_id, joined))
        return answer

    async def _find(self, network: str, endpoint_id: str) -> Endpoint:
        attachment = await self._daemon.attachment(endpoint_id)
        if attachment is None:
            raise Refused(f"there is no endpoint {endpoint_id}; start the container again")
        return Endpoint(network, tuple(attachment.get("addresses", ())))

    async def _gateway(self, addresses: Iterable[Interface]) -> Interface:
        """The bridge's address in the container's subnet, which it is given if it has none."""
        subnet: Network | None = next((address.network for address in addresses if address.version == 4), None)
        if subnet is None:
            raise Refused(f"{GATEWAY}=bridge needs containers with an IPv4 address")
        for address in await self._daemon.bridge_addresses():
            if address.network == subnet:
                return address
        try:
            return await self._daemon.expose(subnet)
        except DaemonRefused as error:
            raise Refused(
                f"the host has no address in {subnet} to be the gateway ({GATEWAY}=bridge), and was given none: "
                f"{error}. Give it one on every host: weave expose ADDRESS/{subnet.prefixlen}"
            ) from error

    async def leave(self, message: Message) -> dict[str, Any]:
        """The engine has put the interface back."""
        endpoint_id = message.identifier("EndpointID")
        endpoint = self._states.state.endpoints.get(endpoint_id)
        if endpoint is not None and endpoint.joined:
            left = replace(endpoint, joined=False)
            await self._states.change(lambda state: state.with_endpoint(endpoint_id, left))
        return {}

    async def program_connectivity(self, message: Message) -> dict[str, Any]:
        """Asked where the container's way out is our gateway; without one Docker's own bridge publishes ports."""
        message.identifier("EndpointID")
        if message.object("Options").values.get(PORT_MAP):
            raise Refused(
                f"ports cannot be published on a network with {GATEWAY}=bridge: leave that option out, connect the "
                "container to a bridge network as well, or have clients use its own address"
            )
        return {}


def _is_foreign(text: str, state: State) -> bool:
    """Whether the allocator is still to be told of an address: another IPAM driver gave it. It knows IPv4 only."""
    address = ip_interface(text).ip
    return address.version == 4 and str(address) not in state.addresses


def _read_interface(text: str) -> Interface:
    try:
        return ip_interface(text)
    except ValueError as error:
        raise BadRequest(f"{text!r} is no address of the form 10.40.0.5/16") from error
