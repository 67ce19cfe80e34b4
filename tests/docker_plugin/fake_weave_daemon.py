"""The daemon's HTTP API as far as the plugin uses it: an allocator, attachments and exposures in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import httpx
import trio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

MAC = "02:00:00:00:00:99"
"""Of interfaces for which none was asked for."""


@dataclass
class FakeWeaveDaemon:
    """`held`: the addresses of each holder as `address/len`; `elsewhere`: what other hosts hold."""

    range: IPv4Network | None = field(default_factory=lambda: IPv4Network("10.32.0.0/12"))
    held: dict[str, list[str]] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    attachments: dict[str, dict[str, Any]] = field(default_factory=dict)
    exposed: list[str] = field(default_factory=list)
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)
    """What to answer requests whose `METHOD /path` begins like this."""
    hanging: tuple[str, ...] = ()
    """Requests that begin like this are carried out and never answered."""
    requests: list[str] = field(default_factory=list)
    before: Callable[[str], Awaitable[None]] | None = None
    """Called with each `METHOD /path` before it is carried out."""

    def client(self) -> httpx.AsyncClient:
        """A client of this daemon."""
        paths = [
            ("/ip", self.owned),
            ("/ip/{id}", self.identifier),
            ("/ip/{id}/{address}/{length}", self.address),
            ("/ipinfo/defaultsubnet", self.default_subnet),
            ("/attachment", self.list_attachments),
            ("/attachment/{id}/{ifname}", self.attachment),
            ("/expose", self.expose),
        ]
        routes = [
            Route(path, self._handler(handler), methods=["GET", "POST", "PUT", "DELETE"]) for path, handler in paths
        ]
        transport = httpx.ASGITransport(Starlette(routes=routes))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    def docker_addresses(self) -> list[str]:
        """What Docker's holders have."""
        return sorted(text for holder, texts in self.held.items() if holder.startswith("docker:") for text in texts)

    def _handler(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            line = f"{request.method} {request.url.path}"
            self.requests.append(line)
            if self.before is not None:
                await self.before(line)
            for begin, (status, text) in self.errors.items():
                if line.startswith(begin):
                    return PlainTextResponse(f"{text}\n", status_code=status)
            answer = await handler(request)
            if line.startswith(self.hanging or ("-",)):
                await trio.sleep_forever()
            return answer

        return handle

    def _off(self) -> Response | None:
        if self.range is None:
            return PlainTextResponse("address allocation is off (--ipalloc-range is empty)\n", status_code=404)
        return None

    async def owned(self, _: Request) -> Response:
        entries = [{"containerid": holder, "addrs": addresses} for holder, addresses in self.held.items()]
        return self._off() or JSONResponse({"owned": entries or None})

    async def default_subnet(self, _: Request) -> Response:
        return self._off() or PlainTextResponse(str(self.range))

    async def identifier(self, request: Request) -> Response:
        assert request.method == "DELETE"
        if self.held.pop(request.path_params["id"], None) is None:
            return PlainTextResponse("Delete: no addresses\n", status_code=400)
        return Response(status_code=204)

    async def address(self, request: Request) -> Response:
        if off := self._off():
            return off
        assert self.range is not None
        form = dict(pair.split("=") for pair in (await request.body()).decode().split("&"))
        assert 0 < float(form["timeout"]) <= 2
        holder = request.path_params["id"]
        text = f"{request.path_params['address']}/{request.path_params['length']}"
        used = {ip_interface(held).ip for addresses in self.held.values() for held in addresses}
        used |= {ip_address(held) for held in self.elsewhere}
        if request.method == "POST":
            subnet = ip_network(text)
            if not subnet.overlaps(self.range):
                return PlainTextResponse(f"{subnet} has no address of {self.range}\n", status_code=400)
            ip = next(ip for ip in map(IPv4Address, range(int(subnet[1]), int(subnet[-1]))) if ip not in used)
            self.held[holder] = [f"{ip}/{subnet.prefixlen}"]
            return PlainTextResponse(self.held[holder][0])
        if ip_interface(text).ip in used and text not in self.held.get(holder, []):
            return PlainTextResponse(f"Unable to claim: address {text} already in use\n", status_code=400)
        self.held[holder] = [text]
        return Response(status_code=204)

    async def list_attachments(self, _: Request) -> Response:
        return JSONResponse(list(self.attachments.values()))

    async def attachment(self, request: Request) -> Response:
        endpoint, ifname = request.path_params["id"], request.path_params["ifname"]
        assert ifname == "ethwe"
        if request.method == "PUT":
            wanted = json.loads(await request.body())
            made = {**wanted, "id": endpoint, "interface": ifname, "mac": wanted["mac"] or MAC}
            self.attachments[endpoint] = made
            return JSONResponse({**made, "given": wanted["addresses"]})
        if endpoint not in self.attachments:
            return PlainTextResponse("no such interface\n", status_code=404)
        if request.method == "DELETE":
            assert request.query_params["owner"] == "docker"
            return JSONResponse({"removed": self.attachments.pop(endpoint)["addresses"]})
        return JSONResponse(self.attachments[endpoint])

    async def expose(self, request: Request) -> Response:
        if request.method == "PUT":
            subnet = ip_network(json.loads(await request.body())["addresses"][0].removeprefix("net:"))
            if self.range is None or not subnet.overlaps(self.range):
                return PlainTextResponse("no such address\n", status_code=400)
            self.exposed.append(f"{subnet[-2]}/{subnet.prefixlen}")
            return JSONResponse({"given": [self.exposed[-1]]})
        return JSONResponse({"mac": MAC, "addresses": self.exposed, "exposed": []})
