"""The HTTP API's paths of names (dns.md section 12): the texts and status codes of Weave Net 2.8.

What differs: IPv6 addresses are taken; letter case of names means nothing; with `strict=true` a name that cannot be
added is an error with the reason, where 2.8 ignores it in silence; `GET /lookup/{name}` resolves a name as a container
would.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from weave_dns.entries import Bond
from weave_dns.errors import InvalidName, OutsideDomain, Unresolved
from weave_dns.weavedns import WAITING
from weave_net.api_access import Access
from weave_net.api_messages import JsonResponse, read_form, truth_value, wants_json
from weave_net.engines import never_dead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from weave_dns.names import Address
    from weave_dns.settings import ListenAddress
    from weave_dns.weavedns import WeaveDns
    from weave_net.engines import IsDead

    Path = tuple[str, list[str], Callable[[Request], Awaitable[Response]], Access]


class DnsApi:
    """The handlers. `weave_dns`: None where names are off; then all paths are unknown.

    `is_attached`: whether there is an attachment of this id, with which names go.
    `is_dead`: whether a container engine says that the container of this id does not run.
    """

    def __init__(
        self, weave_dns: WeaveDns | None, is_attached: Callable[[str], bool], is_dead: IsDead = never_dead
    ) -> None:
        self._maybe = weave_dns
        self._is_attached = is_attached
        self._is_dead = is_dead

    def paths(self) -> list[Path]:
        """Path, methods, handler and the right needed."""
        return [
            ("/domain", ["GET"], self.domain, Access.READ),
            ("/dns-address", ["GET"], self.address, Access.READ),
            ("/dns-address-port", ["GET"], self.address_and_port, Access.READ),
            ("/lookup/{name:path}", ["GET"], self.look_up, Access.READ),
            ("/name", ["GET"], self.list, Access.READ),
            ("/name", ["DELETE"], self.remove, Access.CONTROL),
            ("/name/{id}", ["DELETE"], self.remove, Access.CONTROL),
            ("/name/{id}/{address}", ["PUT"], self.add, Access.CONTROL),
            ("/name/{id}/{address}", ["DELETE"], self.remove, Access.CONTROL),
        ]

    @property
    def _dns(self) -> WeaveDns:
        if self._maybe is None:
            raise HTTPException(404, "names are off (--no-dns)")
        return self._maybe

    async def domain(self, _: Request) -> Response:
        """The domain, with its final dot."""
        return PlainTextResponse(self._dns.settings.domain)

    async def address(self, _: Request) -> Response:
        """Where clients send their queries."""
        return PlainTextResponse(str(self._listening().host))

    async def address_and_port(self, _: Request) -> Response:
        """The same with the port."""
        return PlainTextResponse(str(self._listening()))

    def _listening(self) -> ListenAddress:
        address = self._dns.client_address
        if address is None:
            raise HTTPException(503, "; ".join(self._dns.deafness()) or WAITING)
        return address

    async def look_up(self, request: Request) -> Response:
        """The addresses of a name, one per line."""
        try:
            addresses = await self._dns.look_up(request.path_params["name"])
        except InvalidName as error:
            raise HTTPException(400, str(error)) from error
        except Unresolved as error:
            raise HTTPException(503, str(error)) from error
        if not addresses:
            raise HTTPException(404, f"there is no address of {request.path_params['name']}")
        return PlainTextResponse("".join(f"{address}\n" for address in addresses))

    async def list(self, request: Request) -> Response:
        """All entries, dead ones too."""
        status = self._dns.status()
        if not wants_json(request):
            raise HTTPException(405, "ask for it with 'Accept: application/json'")
        entries = [
            {
                "ContainerID": entry.container,
                "Origin": entry.origin,
                "Addr": str(entry.address),
                "Hostname": entry.hostname,
                "Version": entry.version,
                "Tombstone": entry.tombstone,
            }
            for entry in status.in_memory_order()
        ]
        return JsonResponse(entries or None)

    async def add(self, request: Request) -> Response:
        """Give an address of a container a name; with `own=true` it stays when the container is detached."""
        dns, form = self._dns, await read_form(request)
        address = _address(request.path_params["address"])
        strict, check_alive = truth_value(form, "strict"), truth_value(form, "check-alive")
        name, container = form.get("fqdn", [""])[-1], request.path_params["id"]
        try:
            if name or strict:
                goes_along = self._is_attached(container) and not truth_value(form, "own")
                bond = Bond.CONTAINER if goes_along else Bond.NOTHING
                await dns.names.add(container, address, name, bond=bond)
                # Asked afterwards: a container that ends in between must not leave a name.
                if check_alive and await self._is_dead(container):
                    await dns.names.remove(container, address, name)
        except (InvalidName, OutsideDomain) as error:
            if strict:
                raise HTTPException(400, str(error)) from error
        return Response(status_code=204)

    async def remove(self, request: Request) -> Response:
        """Remove names of ours: of a container, of one of its addresses, one of them, all."""
        dns, form = self._dns, await read_form(request)
        text = request.path_params.get("address")
        name = form.get("fqdn", [""])[-1]
        gone = await dns.names.remove(
            request.path_params.get("id"), None if text is None else _address(text), name or None
        )
        return Response(status_code=204, headers={"Weave-Removed": str(len(gone))})


def _address(text: str) -> Address:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise HTTPException(400, f"invalid IP Address: {text}") from error
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise HTTPException(400, f"invalid IP Address: {text}: it is of one link only")
    return address
