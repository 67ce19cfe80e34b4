"""The HTTP API's paths of the host's own addresses.

`POST /expose/{ip}/{len}` is Weave Net 2.8's, for its tools; unlike there a `skipNAT` that is neither true nor false
changes nothing. `/expose` in JSON serves the command line.
"""

from __future__ import annotations

from ipaddress import IPv6Network, ip_interface
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.responses import Response

from weave_net.api_access import Access
from weave_net.api_messages import JsonResponse, read_form, read_json, truth_value
from weave_net.attachment_request import (
    MAX_ADDRESSES,
    MAX_TEXT,
    SUBNET_PREFIX,
    parse_detached_address,
    parse_interface_address,
)
from weave_net.errors import AttachmentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from weave_net.exposures import Exposures

    Path = tuple[str, list[str], Callable[[Request], Awaitable[Response]], Access]

_LINK_LOCAL = IPv6Network("fe80::/10")


class ExposeRequest(NamedTuple):
    """The body of `PUT /expose`."""

    addresses: tuple[str, ...] = ()
    """`address/len`, `net:<subnet>` or `net:default`; none means the last."""
    fqdn: str | None = None
    masquerade: bool = True

    @classmethod
    def from_json(cls, body: Any) -> ExposeRequest:
        """Check a decoded JSON body. Raises `AttachmentError` that names the field."""
        if not isinstance(body, dict):
            raise AttachmentError('the body is no JSON object such as {"addresses": ["net:default"]}')
        unknown = body.keys() - set(cls._fields)
        if unknown:
            raise AttachmentError(f"unknown field {min(map(str, unknown))!r}")
        addresses, fqdn, masquerade = body.get("addresses", []), body.get("fqdn"), body.get("masquerade", True)
        if not isinstance(addresses, list) or not all(isinstance(entry, str) for entry in addresses):
            raise AttachmentError("'addresses' must be a list of texts such as 10.2.1.5/24")
        if len(addresses) > MAX_ADDRESSES:
            raise AttachmentError(f"more than {MAX_ADDRESSES} addresses at once")
        if fqdn is not None and (not isinstance(fqdn, str) or not 0 < len(fqdn) <= MAX_TEXT):
            raise AttachmentError(f"'fqdn' must be a name of 1 to {MAX_TEXT} characters")
        if not isinstance(masquerade, bool):
            raise AttachmentError("'masquerade' must be true or false")
        return cls(tuple(dict.fromkeys(map(_parse_address, addresses))), fqdn, masquerade)


class ExposeApi:
    """The handlers."""

    def __init__(self, exposures: Exposures) -> None:
        self._exposures = exposures

    def paths(self) -> list[Path]:
        """Path, methods, handler and the right needed."""
        return [
            ("/expose", ["GET", "PUT", "DELETE"], self.expose, Access.LOCAL),
            ("/expose/{ip}/{length}", ["POST"], self.expose_one, Access.CONTROL),
        ]

    async def expose(self, request: Request) -> Response:
        """What the bridge has; give it addresses; take addresses from it."""
        exposures = self._exposures
        if request.method == "PUT":
            wanted = ExposeRequest.from_json(await read_json(request))
            given = await exposures.expose(wanted.addresses, fqdn=wanted.fqdn, masquerade=wanted.masquerade)
            return JsonResponse({"given": list(given)})
        if request.method == "DELETE":
            addresses = [parse_detached_address(text) for text in request.query_params.getlist("address")]
            return JsonResponse({"removed": list(await exposures.hide(addresses))})
        return JsonResponse(
            {
                "bridge": exposures.bridge,
                "mac": exposures.mac,
                "addresses": list(await exposures.present()),
                "exposed": [exposure.to_json() for exposure in exposures.list()],
            }
        )

    async def expose_one(self, request: Request) -> Response:
        """Give the bridge this address."""
        form = await read_form(request)
        masquerade = not truth_value(form, "skipNAT")
        text = f"{request.path_params['ip']}/{request.path_params['length']}"
        try:
            ip_interface(text)  # neither `net:` nor `ip:`
        except ValueError as error:
            raise HTTPException(400, f"invalid CIDR address: {text}") from error
        address = _parse_address(text)
        await self._exposures.expose([address], masquerade=masquerade)
        return Response(status_code=204)


def _parse_address(text: str) -> str:
    """As for attachments, but no link-local address. Raises `AttachmentError`."""
    wish = parse_interface_address(text)
    if not wish.startswith(SUBNET_PREFIX) and ip_interface(wish).ip in _LINK_LOCAL:
        raise AttachmentError(f"{text} cannot be exposed: it is an address of one link, not of a network")
    return wish
