"""`IpamDriver.*`: addresses for Docker from the daemon's allocator, so that all hosts together give each one once.

Every address has a holder of its own in the allocator, `docker:<pool>:<kind>-<token>`, so that the allocator alone
tells which addresses are ours. The allocator comes first when one is given, the state when it is released: whatever a
crash leaves between the two is a holder that the state does not know, which `reconciliation` releases.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from weave_docker.plugin.daemon_api import HOLDER_PREFIX, NOT_FOUND
from weave_docker.plugin.errors import DaemonRefused, PluginError, Refused, StateError
from weave_docker.plugin.pools import pool_of, pool_of_id, read_address, read_pool
from weave_docker.plugin.state import Held

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_docker.plugin.daemon_api import Daemon
    from weave_docker.plugin.messages import Message
    from weave_docker.plugin.pool_requests import PoolRequests
    from weave_docker.plugin.pools import Address, Pool
    from weave_docker.plugin.state import State
    from weave_docker.plugin.state_file import StateFile

ADDRESS_SPACE = "weave"
"""Both for local and for global networks: there is one network, and all hosts share it.

Recent engines compare a pool with the host's routes only where the two differ.
"""
GATEWAY = "com.docker.network.gateway"
REQUEST_TYPE = "RequestAddressType"
ENDPOINT_MAC = "com.docker.network.endpoint.macaddress"

_ATTEMPTS = 4
_BAD_REQUEST = 400

_log = logging.getLogger(__name__)


class IpamDriver:
    """The methods take the request's fields and return those of the answer; they raise `PluginError`."""

    def __init__(
        self, states: StateFile, daemon: Daemon, requests: PoolRequests, *, new_token: Callable[[], str]
    ) -> None:
        self._states = states
        self._daemon = daemon
        self._requests = requests
        self._new_token = new_token

    def methods(self) -> dict[str, Any]:
        """Handlers by name."""
        return {
            "GetCapabilities": self.get_capabilities,
            "GetDefaultAddressSpaces": self.get_default_address_spaces,
            "RequestPool": self.request_pool,
            "ReleasePool": self.release_pool,
            "RequestAddress": self.request_address,
            "ReleaseAddress": self.release_address,
        }

    async def get_capabilities(self, _: Message) -> dict[str, Any]:
        """The MAC address tells requests for containers from those for gateways and auxiliary addresses."""
        return {"RequiresMACAddress": True, "RequiresRequestReplay": False}

    async def get_default_address_spaces(self, _: Message) -> dict[str, Any]:
        """Names without meaning to us."""
        return {"LocalDefaultAddressSpace": ADDRESS_SPACE, "GlobalDefaultAddressSpace": ADDRESS_SPACE}

    async def request_pool(self, message: Message) -> dict[str, Any]:
        """The subnet of a network: the user's, or the default subnet."""
        subnet, part, v6 = message.text("Pool"), message.text("SubPool"), message.flag("V6")
        if subnet:
            pool = read_pool(subnet, part, v6=v6)
        elif part:
            raise Refused(f"--ip-range {part} needs a --subnet that it is a part of")
        elif v6:
            raise Refused(
                "--ipv6 needs a subnet of yours, the same on all hosts, for instance --subnet fd00:6::/64: the network "
                "has no default one for IPv6"
            )
        else:
            pool = await self._default_pool()
            self._requests.ask_for_default(pool)
        await self._states.change(lambda state: state.with_pool(pool.id))
        return {"PoolID": pool.id, "Pool": str(pool.subnet), "Data": {GATEWAY: str(pool.no_gateway)}}

    async def _default_pool(self) -> Pool:
        try:
            return pool_of(await self._daemon.default_subnet())
        except DaemonRefused as error:
            if error.status == NOT_FOUND:
                raise Refused("address allocation is off (--ipalloc-range is empty): give a --subnet") from error
            raise

    async def release_pool(self, message: Message) -> dict[str, Any]:
        """A network less; with the last one go the addresses that were forgotten."""
        pool_id = message.text("PoolID")
        self._requests.settle()
        state = await self._states.change(lambda state: state.without_pool(pool_id))
        if pool_id not in state.pools:
            for address, held in state.unused_addresses(pool_id).items():
                await self._forget(address, held, pool_id)
        return {}

    async def request_address(self, message: Message) -> dict[str, Any]:
        """An address for a container, a gateway or an auxiliary one."""
        pool, text = pool_of_id(message.text("PoolID")), message.text("Address")
        options = message.object("Options")
        mac = options.text(ENDPOINT_MAC)
        is_gateway = options.text(REQUEST_TYPE) == GATEWAY
        if is_gateway and (not text or read_address(text) == pool.subnet.network_address):
            return {"Address": str(pool.no_gateway), "Data": {}}
        if text:
            address = pool.read_address(text)
            await self._claim(pool, address, reserved=is_gateway or not mac)
        elif pool.subnet.version == 6:
            address = pool.address_of_mac(mac)
            await self._claim(pool, address, reserved=False)
        else:
            address = await self._allocate(pool)
        return {"Address": str(pool.interface(address)), "Data": {}}

    async def _allocate(self, pool: Pool) -> Address:
        for _ in range(_ATTEMPTS):
            holder = self._new_holder(pool, reserved=False)
            try:
                address = (await self._daemon.allocate(holder, pool.part)).ip
            except DaemonRefused as error:
                if error.status in (_BAD_REQUEST, NOT_FOUND):
                    raise Refused(
                        f"no address of {pool.part} can be handed out: {error}. Addresses are allocated inside of "
                        "the daemon's --ipalloc-range only: choose a --subnet or an --ip-range in it, or give each "
                        "container its address with --ip"
                    ) from error
                raise
            before = self._states.state.addresses.get(str(address))
            if before is not None and before.reserved and before.holder is None:
                # Another host reserved it as well, and has released it: now the reservation is ours.
                kept = replace(before, holder=holder)
                await self._states.change(lambda state: state.with_changed_address(str(address), kept))  # noqa: B023
                continue
            await self._record(address, Held((pool.id,), holder))
            return address
        raise Refused(f"no free address of {pool.part} was found; try again")

    async def _claim(self, pool: Pool, address: Address, *, reserved: bool) -> None:
        before = self._states.state.addresses.get(str(address))
        if before is not None:
            if not (reserved and before.reserved):
                raise Refused(f"{address} is in use on this host already; choose another address")
            await self._states.change(lambda state: state.with_changed_address(str(address), before.with_pool(pool.id)))
            return
        holder: str | None = None
        if address.version == 4:
            holder = await self._claim_of_daemon(pool, address, reserved=reserved)
        await self._record(address, Held((pool.id,), holder, reserved))

    async def _claim_of_daemon(self, pool: Pool, address: Address, *, reserved: bool) -> str | None:
        """The new holder; None where the address need not be recorded there."""
        holder = self._new_holder(pool, reserved=reserved)
        try:
            await self._daemon.claim(holder, pool.interface(address))
        except DaemonRefused as error:
            if error.status == NOT_FOUND:  # allocation is off: nobody gives this address to others
                return None
            if error.status == _BAD_REQUEST and reserved:
                # The same network is made on each host, with the same gateway: it is enough if one has the address.
                _log.info("%s is not reserved here, since it is taken: %s", address, error)
                return None
            raise
        return holder

    async def _record(self, address: Address, held: Held) -> None:
        """Raises `Refused` where another request was faster, and `StateError`; then the allocator has it back."""
        try:
            await self._states.change(lambda state: state.with_address(str(address), held))
        except (Refused, StateError):
            await self._release(held.holder)
            raise

    async def release_address(self, message: Message) -> dict[str, Any]:
        """Free an address; what is free already is no error."""
        pool_id, address = message.text("PoolID"), str(read_address(message.text("Address")))
        held = self._states.state.addresses.get(address)
        if held is not None and pool_id in held.pools:
            await self._forget(address, held, pool_id)
        return {}

    async def _forget(self, address: str, held: Held, pool_id: str) -> None:
        left = held.without_pool(pool_id)
        if left.pools:
            await self._states.change(lambda state: state.with_changed_address(address, left))
        else:
            await self._states.change(lambda state: state.without_address(address))
            await self._release(held.holder)

    async def forget_unused(self, address: str, held: Held) -> bool:
        """Free an address unless an endpoint has it by now, or it was given anew; whether. Raises `StateError`."""
        freed = False

        def without(state: State) -> State:
            nonlocal freed
            freed = state.addresses.get(address) == held and address not in state.used_addresses()
            return state.without_address(address) if freed else state

        await self._states.change(without)
        if freed:
            await self._release(held.holder)
        return freed

    async def _release(self, holder: str | None) -> None:
        if holder is not None:
            try:
                await self._daemon.release(holder)
            except PluginError as error:
                _log.warning("The address of %s is released at the next start only: %s", holder, error)

    def _new_holder(self, pool: Pool, *, reserved: bool) -> str:
        return f"{HOLDER_PREFIX}{pool.id}:{'reserved' if reserved else 'endpoint'}-{self._new_token()}"
