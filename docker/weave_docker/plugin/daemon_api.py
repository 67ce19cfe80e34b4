"""The daemon's HTTP API as the plugin uses it. Every method raises `DaemonRefused`, with the daemon's own text."""

from __future__ import annotations

import json
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import httpx
import trio

from weave_docker.plugin.errors import DaemonRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_docker.plugin.pools import Interface, Network

INTERFACE = "ethwe"
"""Name of the network's interface in containers; Docker appends a number."""
OWNER = "docker"
HOLDER_PREFIX = "docker:"
"""Of the identifiers in the allocator."""

ADDRESS_WAIT_S = 1.5
"""How long the allocator may wait for other hosts; the engine's user waits as long."""
ANSWER_LIMIT_S = 3.0
ATTACHMENT_LIMIT_S = 5.0
"""An interface takes some tens of milliseconds; claiming an address of another host's may take longer."""

NOT_FOUND = 404
CONFLICT = 409


class Daemon:
    """`client` has the daemon's base URL; whoever made it closes it."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def allocate(self, holder: str, subnet: Network) -> Interface:
        """Any address of the subnet."""
        path = f"/ip/{holder}/{subnet.network_address}/{subnet.prefixlen}"
        return _interface(await self._request("POST", path, data={"timeout": str(ADDRESS_WAIT_S)}))

    async def claim(self, holder: str, address: Interface) -> None:
        """Just this address. What its owner cannot be asked about now is asked later."""
        path = f"/ip/{holder}/{address.ip}/{address.network.prefixlen}"
        await self._request("PUT", path, data={"timeout": str(ADDRESS_WAIT_S), "noErrorOnUnknown": "true"})

    async def release(self, holder: str) -> None:
        """Free what the holder has."""
        await self._request("DELETE", f"/ip/{holder}")

    async def held(self) -> dict[str, Interface]:
        """What our holders have; each has one address."""
        listed = _json(await self._request("GET", "/ip"))
        entries = listed.get("owned") if isinstance(listed, dict) else None
        return {
            entry["containerid"]: ip_interface(entry["addrs"][0])
            for entry in entries or []
            if entry["containerid"].startswith(HOLDER_PREFIX) and entry["addrs"]
        }

    async def default_subnet(self) -> Network:
        """The subnet of those who name none."""
        text = (await self._request("GET", "/ipinfo/defaultsubnet")).text.strip()
        try:
            return ip_network(text)
        except ValueError as error:
            raise DaemonRefused(f"the weave daemon gave a default subnet that is none: {text[:80]!r}") from error

    async def attach(self, endpoint: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Make an attachment; its description."""
        answer = await self._request("PUT", _attachment(endpoint), content=json.dumps(wanted), limit=ATTACHMENT_LIMIT_S)
        return _object(answer)

    async def detach(self, endpoint: str) -> None:
        """Remove an attachment of ours; what is gone, or somebody else's, is left."""
        try:
            await self._request(
                "DELETE", _attachment(endpoint), params={"owner": OWNER}, limit=ATTACHMENT_LIMIT_S
            )  # fmt: skip
        except DaemonRefused as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise

    async def attachments(self) -> dict[str, dict[str, Any]]:
        """All of ours by endpoint."""
        listed = _json(await self._request("GET", "/attachment", params={"owner": OWNER}))
        return {
            entry["id"]: entry
            for entry in (listed if isinstance(listed, list) else [])
            if entry.get("owner") == OWNER and entry.get("interface") == INTERFACE
        }

    async def attachment(self, endpoint: str) -> dict[str, Any] | None:
        """One of them."""
        try:
            return _object(await self._request("GET", _attachment(endpoint)))
        except DaemonRefused as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def bridge_addresses(self) -> list[Interface]:
        """The host's own addresses in the network."""
        return [ip_interface(text) for text in _object(await self._request("GET", "/expose")).get("addresses", [])]

    async def expose(self, subnet: Network) -> Interface:
        """Give the host an address in the subnet."""
        body = json.dumps({"addresses": [f"net:{subnet}"]})
        given = _object(await self._request("PUT", "/expose", content=body)).get("given") or [""]
        try:
            return ip_interface(given[0])
        except ValueError as error:
            raise DaemonRefused("the weave daemon gave the host no address that can be read") from error

    async def _request(
        self, method: str, path: str, *, limit: float = ANSWER_LIMIT_S, **options: Any
    ) -> httpx.Response:
        try:
            with trio.fail_after(limit):
                answer = await self._client.request(method, path, timeout=None, **options)
        except trio.TooSlowError as error:
            raise DaemonRefused(f"the weave daemon did not answer within {limit:.0f} s; try again") from error
        except httpx.HTTPError as error:
            raise DaemonRefused(f"the weave daemon cannot be asked: {error or type(error).__name__}") from error
        if answer.is_error:
            text = answer.text.strip() or f"status {answer.status_code}"
            raise DaemonRefused(text, answer.status_code)
        return answer


def _attachment(endpoint: str) -> str:
    return f"/attachment/{endpoint}/{INTERFACE}"


def _interface(answer: httpx.Response) -> Interface:
    try:
        return ip_interface(answer.text.strip())
    except ValueError as error:
        raise DaemonRefused(f"the weave daemon gave an address that is none: {answer.text[:80]!r}") from error


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise DaemonRefused("the weave daemon's answer cannot be read") from error


def _object(answer: httpx.Response) -> dict[str, Any]:
    value = _json(answer)
    if not isinstance(value, dict):
        raise DaemonRefused("the weave daemon's answer cannot be read")
    return value
