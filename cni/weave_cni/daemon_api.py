"""What the plugins ask of the daemon, over its HTTP API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from weave_cni.errors import CniError, Code

if TYPE_CHECKING:
    from collections.abc import Mapping

OWNER = "cni"
"""Of our attachments, and the first part of the identifiers of addresses without an attachment."""

ALLOCATION_LIMIT_S = 10
"""Runtimes ask again; they do not wait for a consensus."""

_NOT_FOUND, _CONFLICT, _BAD_REQUEST, _NOT_NOW = 404, 409, 400, 503


class DaemonApi:
    """A client of the daemon's API. Every method may raise `CniError`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def attach(self, container: str, interface: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an attachment; the daemon's description of it."""
        answer = await self._ask("PUT", _attachment(container, interface), content=json.dumps(body))
        attachment: dict[str, Any] = answer.json()
        return attachment

    async def detach(self, container: str, interface: str, network: str, host_mac: str | None = None) -> None:
        """Remove an attachment of this network; none, or one of somebody else, is no error.

        `host_mac`: only the one whose host side has this MAC address, and no later one under the same name.
        """
        wanted = {"owner": OWNER, "network": network} | ({} if host_mac is None else {"host_mac": host_mac})
        # A name that the daemon refuses was never added.
        await self._ask("DELETE", _attachment(container, interface), fine=(_CONFLICT, _BAD_REQUEST), params=wanted)

    async def attachment(self, container: str, interface: str) -> dict[str, Any] | None:
        """One attachment, None if there is none."""
        answer = await self._ask("GET", _attachment(container, interface), fine=(_NOT_FOUND,))
        found: dict[str, Any] | None = None if answer.status_code == _NOT_FOUND else answer.json()
        return found

    async def problems(self, container: str, interface: str, descriptor: int | None, mac: str | None) -> list[str]:
        """What of an attachment is not as it was made; it may have got another MAC address since, which is `mac`."""
        wanted = {"descriptor": descriptor, "mac": mac}
        parameters = {name: str(value) for name, value in wanted.items() if value is not None}
        answer = await self._ask("GET", f"{_attachment(container, interface)}/problems", params=parameters)
        problems: list[str] = answer.json()["problems"]
        return problems

    async def attachments(self, network: str) -> list[tuple[str, str]]:
        """Id and interface of each of a network's attachments."""
        answer = await self._ask("GET", "/attachment", params={"owner": OWNER, "network": network})
        return [(found["id"], found["interface"]) for found in answer.json()]

    async def allocate(self, identifier: str, subnet: str | None) -> str:
        """An address, `address/len`, recorded for the identifier; the same again for the same."""
        path = f"/ip/{_segment(identifier)}" + ("" if subnet is None else f"/{subnet}")
        answer = await self._ask("POST", path, data={"timeout": str(ALLOCATION_LIMIT_S)})
        return answer.text

    async def claim(self, identifier: str, address: str) -> None:
        """Record `address/len` for the identifier."""
        form = {"noErrorOnUnknown": "true", "timeout": str(ALLOCATION_LIMIT_S)}
        answer = await self._ask("PUT", f"/ip/{_segment(identifier)}/{address}", fine=(_BAD_REQUEST,), data=form)
        if answer.status_code == _BAD_REQUEST:
            raise CniError(Code.TAKEN, answer.text.strip())

    async def recorded(self, identifier: str) -> list[str]:
        """The addresses of an identifier, `address/len`."""
        return (await self._ask("GET", f"/ip/{_segment(identifier)}")).text.split()

    async def identifiers(self, prefix: str) -> list[str]:
        """The identifiers that begin so and have addresses; none where allocation is off."""
        answer = await self._ask("GET", "/ip", fine=(_NOT_FOUND,))
        owned = [] if answer.status_code == _NOT_FOUND else answer.json()["owned"] or []
        return [entry["containerid"] for entry in owned if entry["containerid"].startswith(prefix)]

    async def release(self, identifier: str) -> None:
        """Free all addresses of an identifier; none is no error."""
        await self._ask("DELETE", f"/ip/{_segment(identifier)}", fine=(_BAD_REQUEST, _NOT_FOUND))

    async def default_subnet(self) -> str | None:
        """Where addresses come from when no subnet is named; None where allocation is off."""
        answer = await self._ask("GET", "/ipinfo/defaultsubnet", fine=(_NOT_FOUND,))
        return None if answer.status_code == _NOT_FOUND else answer.text.strip()

    async def why_no_addresses(self, subnet: str | None) -> str | None:
        """Why none of the subnet could be had now; None if one could, or where it is for others to say."""
        parameters = {} if subnet is None else {"subnet": subnet}
        answer = await self._ask("GET", "/ipinfo/available", fine=(_NOT_NOW, _NOT_FOUND), params=parameters)
        return None if answer.status_code == httpx.codes.OK else answer.text.strip()

    async def bridge(self) -> str:
        """Name of the bridge."""
        answer = await self._ask("GET", "/expose")
        name: str = answer.json()["bridge"]
        return name

    async def name_server(self) -> tuple[str, str] | None:
        """Address and domain of the name service, empty where it is off; None while it has no address yet."""
        domain = await self._ask("GET", "/domain", fine=(_NOT_FOUND,))
        if domain.status_code == _NOT_FOUND:
            return "", ""
        address = await self._ask("GET", "/dns-address", fine=(_NOT_NOW,))
        return None if address.status_code == _NOT_NOW else (address.text.strip(), domain.text.strip().rstrip("."))

    async def _ask(self, method: str, path: str, *, fine: tuple[int, ...] = (), **arguments: Any) -> httpx.Response:
        response = await self._client.request(method, path, **arguments)
        if response.is_success or response.status_code in fine:
            return response
        raise CniError(_CODES.get(response.status_code, Code.INTERNAL), response.text.strip())


_CODES = {_BAD_REQUEST: Code.INVALID_CONFIG, _CONFLICT: Code.TAKEN, _NOT_NOW: Code.TRY_AGAIN, 500: Code.HOST_REFUSED}


def _attachment(container: str, interface: str) -> str:
    return f"/attachment/{_segment(container)}/{_segment(interface)}"


def _segment(text: str) -> str:
    return quote(text, safe="")
