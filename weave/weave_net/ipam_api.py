"""The HTTP API's paths of address allocation (ipam.md section 15): the texts and status codes of Weave Net 2.8.

What differs: a request that waits ends after `timeout` seconds (10 by default) with 503 and the reason; `DELETE
/peer/{id}` answers 409 unless all other owners agree, those named by `also` aside, or `force=true` insists.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import trio
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from weave_ipam.errors import AddressInUse, NotFound, SettingsError
from weave_ipam.ranges import SMALLEST_SUBNET
from weave_ipam.service import WAIT_S
from weave_net.api_access import Access
from weave_net.api_messages import JsonResponse, read_form, truth_value
from weave_net.engines import never_dead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.requests import Request

    from weave_ipam.ranges import Address, Network
    from weave_ipam.service import Interface, Ipam
    from weave_net.engines import IsDead

    Path = tuple[str, list[str], Callable[[Request], Awaitable[Response]], Access]

T = TypeVar("T")

MAX_WAIT_S = 3600.0


class IpamApi:
    """The handlers. `ipam`: None where allocation is off; then all paths but `/peer` are unknown.

    `is_dead`: whether a container engine says that the container of this id does not run.
    """

    def __init__(self, ipam: Ipam | None, is_dead: IsDead = never_dead) -> None:
        self._maybe = ipam
        self._is_dead = is_dead

    def paths(self) -> list[Path]:
        """Path, methods, handler and the right needed."""
        return [
            ("/ip", ["GET"], self.owned, Access.READ),
            ("/ip/{id}", ["GET", "POST", "DELETE"], self.identifier, Access.READ),
            ("/ip/{id}/{address}", ["DELETE"], self.release, Access.CONTROL),
            ("/ip/{id}/{address}/{length}", ["GET", "POST", "PUT"], self.subnet, Access.READ),
            ("/ring", ["GET"], self.ring, Access.CONTROL),
            ("/ipinfo/defaultsubnet", ["GET"], self.default_subnet, Access.READ),
            ("/ipinfo/available", ["GET"], self.available, Access.READ),
            ("/ipinfo/tracker", ["GET"], self.tracker, Access.READ),
            ("/peer", ["DELETE"], self.leave, Access.LOCAL),
            ("/peer/{id:path}", ["DELETE"], self.remove_peer, Access.CONTROL),
        ]

    @property
    def _ipam(self) -> Ipam:
        if self._maybe is None:
            raise HTTPException(404, "address allocation is off (--ipalloc-range is empty)")
        return self._maybe

    def _check(self) -> None:
        """Whether allocation is on, where nothing else is asked of it."""
        _ = self._ipam

    async def owned(self, _: Request) -> Response:
        """All addresses recorded here, by identifier."""
        owned = [
            {"containerid": identifier, "addrs": [str(address) for address in addresses]}
            for identifier, addresses in sorted(self._ipam.owned().items())
        ]
        return JsonResponse({"owned": owned or None})

    async def identifier(self, request: Request) -> Response:
        """Look up, allocate in the default subnet, or release all."""
        if request.method == "POST":
            return await self._allocate(request, None)
        if request.method == "DELETE":
            try:
                await self._ipam.release(request.path_params["id"])
            except NotFound as error:
                raise HTTPException(400, f"Delete: {error}") from error
            return Response(status_code=204)
        return PlainTextResponse(_joined(self._ipam.lookup(request.path_params["id"])))

    async def release(self, request: Request) -> Response:
        """Release one address."""
        address = _address(request.path_params["address"])
        try:
            await self._ipam.release(request.path_params["id"], address)
        except NotFound as error:
            raise HTTPException(400, f"Unable to free: Free: {error}") from error
        return Response(status_code=204)

    async def subnet(self, request: Request) -> Response:
        """Look up or allocate in a subnet, or claim an address."""
        self._check()
        address, length = request.path_params["address"], request.path_params["length"]
        if not length.isdecimal():
            raise HTTPException(400, f"invalid CIDR address: {address}/{length}")
        if request.method == "PUT":
            return await self._claim(request, f"{address}/{length}")
        subnet = _subnet(f"{address}/{length}")
        if request.method == "POST":
            return await self._allocate(request, subnet)
        return PlainTextResponse(_joined(self._ipam.lookup(request.path_params["id"], subnet)))

    async def _allocate(self, request: Request, subnet: Network | None) -> Response:
        ipam, form = self._ipam, await read_form(request)
        check_alive, identifier, wait = truth_value(form, "check-alive"), request.path_params["id"], _wait(form)
        before = ipam.owned_by(identifier) if check_alive else ()
        try:
            address = await _while_connected(request, lambda: ipam.allocate(identifier, subnet, wait=wait))
        except SettingsError as error:
            raise HTTPException(400, str(error)) from error
        # Asked afterwards: whoever asks may have waited for long.
        if check_alive and await self._released_of_dead(identifier, address, before):
            return PlainTextResponse("cancelled")
        return PlainTextResponse(str(address))

    async def _released_of_dead(self, identifier: str, address: Interface, before: Iterable[Interface]) -> bool:
        """Whether the container is dead; then the address is free again, unless it was the container's before."""
        if not await self._is_dead(identifier):
            return False
        if address.ip not in {earlier.ip for earlier in before}:
            with suppress(NotFound):
                await self._ipam.release(identifier, address.ip)
        return True

    async def _claim(self, request: Request, text: str) -> Response:
        ipam, form = self._ipam, await read_form(request)
        check_alive, identifier = truth_value(form, "check-alive"), request.path_params["id"]
        patient, wait = truth_value(form, "noErrorOnUnknown"), _wait(form)
        try:
            address = ip_interface(text)
        except ValueError as error:
            raise HTTPException(400, f"invalid CIDR address: {text}") from error
        if address.version != 4:
            raise HTTPException(400, "invalid Non-IPv4 address not supported: addresses of IPv6 are given by hand")
        before = ipam.owned_by(identifier) if check_alive else ()
        try:
            await _while_connected(request, lambda: ipam.claim(identifier, address, wait=wait, patient=patient))
        except AddressInUse as error:
            raise HTTPException(400, f"Unable to claim: {error}") from error
        if check_alive:
            await self._released_of_dead(identifier, address, before)
        return Response(status_code=204)

    async def ring(self, request: Request) -> Response:
        """Wait until there is a ring."""
        ipam, form = self._ipam, await read_form(request)
        wait = _wait(form, MAX_WAIT_S)
        await _while_connected(request, lambda: ipam.prime(wait=wait))
        return Response(status_code=200)

    async def default_subnet(self, _: Request) -> Response:
        """The subnet of requests that name none."""
        return PlainTextResponse(str(self._ipam.settings.default_subnet))

    async def available(self, request: Request) -> Response:
        """Whether an address of the default subnet, or of `subnet`, could be had now; 503 says why not."""
        text = request.query_params.get("subnet")
        reason = self._ipam.unavailable(None if text is None else _subnet(text))
        return PlainTextResponse("ok\n" if reason is None else f"{reason}\n", 200 if reason is None else 503)

    async def tracker(self, _: Request) -> Response:
        """Whoever is told of address changes: nobody."""
        self._check()
        return PlainTextResponse("\n")

    async def leave(self, _: Request) -> Response:
        """Hand all space over to another peer."""
        heir = await self._maybe.leave() if self._maybe is not None else None
        headers = {"Weave-Heir": quote(heir, safe="():")} if heir else {}
        return Response(status_code=204, headers=headers)

    async def remove_peer(self, request: Request) -> Response:
        """Take over what a peer owned that is gone."""
        if self._maybe is None:
            return PlainTextResponse("")
        text = request.path_params["id"]
        if not text:
            raise HTTPException(404, "which peer?")
        form = await read_form(request)
        force = truth_value(form, "force")
        gained = await self._maybe.remove_peer(text, also=form.get("also", []), force=force)
        return PlainTextResponse(f"{gained} IPs taken over from {text}\n")


def _joined(addresses: Iterable[Interface]) -> str:
    return " ".join(map(str, addresses))


def _subnet(text: str) -> IPv4Network:
    try:
        interface = ip_interface(text)
    except ValueError as error:
        raise HTTPException(400, f"invalid CIDR address: {text}") from error
    if interface.version != 4:
        raise HTTPException(400, f"invalid Non-IPv4 address not supported: {text}")
    try:
        network = ip_network(text)
    except ValueError as error:
        raise HTTPException(400, f"invalid subnet - bits after network prefix are not all zero: {text}") from error
    if network.num_addresses < SMALLEST_SUBNET:
        raise HTTPException(400, f"invalid subnet - smaller than minimum size {SMALLEST_SUBNET}: {text}")
    assert isinstance(network, IPv4Network)  # noqa: S101 - checked above
    return network


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise HTTPException(400, f"invalid IP Address: {text}") from error


def _wait(form: dict[str, list[str]], default: float = WAIT_S) -> float:
    """The parameter `timeout`, in seconds, with or without an `s` behind it. Raises HTTPException 400."""
    text = form.get("timeout", [""])[-1]
    if not text:
        return default
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_S:
        raise HTTPException(400, f"timeout={text!r} is no number of seconds from 0 to {MAX_WAIT_S:.0f}")
    return seconds


async def _while_connected(request: Request, call: Callable[[], Awaitable[T]]) -> T:
    """Call, and give it up when the client goes away."""
    outcome: list[T] = []
    errors: list[Exception] = []
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            try:
                outcome.append(await call())
            except Exception as error:  # not in a group: whoever called knows it by its type
                errors.append(error)
            nursery.cancel_scope.cancel()

        nursery.start_soon(answer)
        while (await request.receive())["type"] != "http.disconnect":
            pass
        nursery.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not outcome:
        raise HTTPException(499, "the client went away")
    return outcome[0]
