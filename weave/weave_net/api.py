"""The HTTP API: paths, handlers, and the application for one listener (cli.md section 8).

Handlers run in the daemon's event loop and answer from snapshots; what is large is rendered in a thread, one at a time,
so that a scrape of a big network does not hold up packets.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar, cast

import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from weave_net.api_access import READ_ONLY_TEXT, SOCKET_ONLY_TEXT, Access, Gate
from weave_net.api_messages import (
    STATUS_OF_ERRORS,
    JsonResponse,
    error_response,
    read_form,
    read_json,
    truth_value,
    wants_json,
)
from weave_net.attachment_request import AttachmentRequest, check_key, check_mac, parse_detached_address
from weave_net.dns_api import DnsApi
from weave_net.engines import never_dead
from weave_net.expose_api import ExposeApi
from weave_net.ipam_api import IpamApi
from weave_net.json_path import select
from weave_net.metrics import CONTENT_TYPE, render_metrics
from weave_net.report import full_report, view_report
from weave_net.status_views import VIEWS, Snapshot, overview

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from weave_dns.weavedns import WeaveDns
    from weave_ipam.service import Ipam
    from weave_net.attachments import Attachments
    from weave_net.engines import IsDead
    from weave_net.exposures import Exposures
    from weave_net.settings import HttpAddress
    from weave_net.wiring import Router

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Api:
    """The handlers; one object serves all listeners of a daemon.

    `stop` asks the daemon to end and returns at once; `stopping` tells whether it is about to. `is_dead`: whether a
    container engine says that the container of an id does not run.
    """

    def __init__(
        self,
        router: Router,
        ipam: Ipam | None,
        weave_dns: WeaveDns | None,
        attachments: Attachments,
        exposures: Exposures,
        *,
        version: str,
        stop: Callable[[], None],
        stopping: Callable[[], bool],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        is_dead: IsDead = never_dead,
    ) -> None:
        self._router = router
        self._ipam = ipam
        self._dns = weave_dns
        self._attachments = attachments
        self._exposures = exposures
        self._version = version
        self._stop = stop
        self._stopping = stopping
        self._now = now
        self._is_dead = is_dead
        self._renderers = trio.CapacityLimiter(1)

    def application(self, access: Access, address: HttpAddress | None = None) -> Starlette:
        """The ASGI application for a listener with these rights; `address` is None for the Unix socket."""
        paths: list[tuple[str, list[str], Callable[[Request], Awaitable[Response]], Access]] = [
            ("/status", ["GET"], self.status, Access.READ),
            ("/status/{view}", ["GET"], self.status, Access.READ),
            ("/report", ["GET"], self.report, Access.READ),
            ("/metrics", ["GET"], self.metrics, Access.READ),
            ("/healthz", ["GET"], self.healthz, Access.READ),
            ("/readyz", ["GET"], self.readyz, Access.READ),
            ("/connect", ["POST"], self.connect, Access.CONTROL),
            ("/forget", ["POST"], self.forget, Access.CONTROL),
            ("/attachment", ["GET"], self.list_attachments, Access.LOCAL),
            ("/attachment/{id}/{ifname}", ["GET", "PUT", "DELETE"], self.attachment, Access.LOCAL),
            ("/attachment/{id}/{ifname}/problems", ["GET"], self.inspect_attachment, Access.LOCAL),
            ("/stop", ["POST"], self.stop, Access.LOCAL),
            *IpamApi(self._ipam, self._is_dead).paths(),
            *DnsApi(self._dns, self._attachments.has, self._is_dead).paths(),
            *ExposeApi(self._exposures).paths(),
        ]
        routes = [
            Route(path, handler if needed <= access else _refusal(needed), methods=methods)
            for path, methods, handler, needed in paths
        ]
        application = Starlette(
            routes=routes,
            middleware=[Middleware(Gate, access=access, address=address)],
            exception_handlers={
                HTTPException: _http_error,
                Exception: _unexpected_error,
                **dict.fromkeys(STATUS_OF_ERRORS, _known_error),
            },
        )
        application.router.redirect_slashes = False  # a path that does not exist is a 404
        return application

    async def status(self, request: Request) -> Response:
        """The overview, or one view."""
        view = request.path_params.get("view", "")
        if view and view not in VIEWS:
            raise HTTPException(404, f"there is no status view {view!r}; there are {', '.join(VIEWS)}")
        code = 503 if self._stopping() else 200
        snapshot = self._snapshot()
        if view == "ipam" and snapshot.ipam is None:
            raise HTTPException(404, "address allocation is off (--ipalloc-range is empty)")
        if view == "dns" and snapshot.dns is None:
            raise HTTPException(404, "names are off (--no-dns)")
        if wants_json(request):
            return await self._render(lambda: JsonResponse(view_report(view, snapshot), status_code=code))
        return await self._render(
            lambda: PlainTextResponse(VIEWS[view](snapshot) if view else overview(snapshot), status_code=code)
        )

    async def report(self, request: Request) -> Response:
        """Everything as JSON, or the values at the JSON path `format`."""
        path = request.query_params.get("format")
        snapshot = self._snapshot()
        if path is None:
            return await self._render(lambda: JsonResponse(full_report(snapshot)))
        return await self._render(lambda: PlainTextResponse(select(full_report(snapshot), path) + "\n"))

    async def metrics(self, _: Request) -> Response:
        """Prometheus's text format."""
        snapshot = self._snapshot()
        body = await self._render(lambda: render_metrics(snapshot))
        return Response(body, headers={"Content-Type": CONTENT_TYPE})

    async def healthz(self, _: Request) -> Response:
        """The process lives and its event loop turns."""
        return PlainTextResponse("ok\n")

    async def readyz(self, _: Request) -> Response:
        """The router runs: the API is opened after it and closed before it."""
        if self._stopping():
            return PlainTextResponse("stopping\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def connect(self, request: Request) -> Response:
        """Add the targets `peer`, or with `replace=true` let them be the only ones."""
        form = await read_form(request)
        replace = truth_value(form, "replace")
        await self._router.connect(form.get("peer", []), replace=replace)
        return Response(status_code=200)

    async def forget(self, request: Request) -> Response:
        """Remove the targets `peer`; unknown ones are ignored."""
        form = await read_form(request)
        await self._router.forget(form.get("peer", []))
        return Response(status_code=200)

    async def list_attachments(self, request: Request) -> Response:
        """All attachments, or those of an `owner` and `network`, as a JSON array."""
        owner, network = request.query_params.get("owner"), request.query_params.get("network")
        return JsonResponse(
            [
                attachment.to_json()
                for attachment in self._attachments.list()
                if owner in (None, attachment.owner) and network in (None, attachment.network)
            ]
        )

    async def inspect_attachment(self, request: Request) -> Response:
        """What of an attachment is not as it was made, as a JSON array of texts in `problems`."""
        attachment_id, interface = request.path_params["id"], request.path_params["ifname"]
        if self._attachments.get(attachment_id, interface) is None:
            raise HTTPException(404, f"{attachment_id} has no interface {interface} on the network")
        text = request.query_params.get("descriptor")
        if text is not None and not text.isdecimal():
            raise HTTPException(400, "'descriptor' must be the number of an open descriptor")
        descriptor = None if text is None else int(text)
        mac = request.query_params.get("mac")
        problems = await self._attachments.inspect(
            attachment_id, interface, descriptor, None if mac is None else check_mac(mac)
        )
        return JsonResponse({"problems": list(problems)})

    async def attachment(self, request: Request) -> Response:
        """Ask for, make or remove one attachment."""
        attachment_id, interface = request.path_params["id"], request.path_params["ifname"]
        check_key(attachment_id, interface)
        if request.method == "PUT":
            wanted = AttachmentRequest.from_json(await read_json(request))
            made = await self._attachments.put(attachment_id, interface, wanted)
            bridge = {"name": self._exposures.bridge, "mac": self._exposures.mac, "mtu": self._attachments.mtu}
            return JsonResponse({**made.to_json(), "given": list(made.given), "bridge": bridge})
        if request.method == "DELETE":
            addresses = tuple(parse_detached_address(text) for text in request.query_params.getlist("address"))
            of = {name: request.query_params.get(name) for name in ("owner", "network", "host_mac")}
            removed = await self._attachments.delete(attachment_id, interface, addresses, **of)
            return JsonResponse({"removed": list(removed)})
        known = self._attachments.get(attachment_id, interface)
        if known is None:
            raise HTTPException(404, f"{attachment_id} has no interface {interface} on the network")
        return JsonResponse(known.to_json())

    async def stop(self, _: Request) -> Response:
        """End the daemon in order, after the answer has gone out."""

        async def stop() -> None:
            self._stop()

        return PlainTextResponse("stopping\n", status_code=202, background=BackgroundTask(stop))

    def _snapshot(self) -> Snapshot:
        ipam = None if self._ipam is None else self._ipam.status()
        names = None if self._dns is None else self._dns.status()
        return Snapshot(self._router.status(), ipam, names, self._now(), self._version)

    async def _render(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._renderers)


def _refusal(needed: Access) -> Callable[[Request], Awaitable[Response]]:
    async def refuse(_: Request) -> Response:
        raise HTTPException(403, SOCKET_ONLY_TEXT if needed is Access.LOCAL else READ_ONLY_TEXT)

    return refuse


async def _http_error(request: Request, error: Exception) -> Response:
    answer = cast("HTTPException", error)
    return error_response(request, answer.status_code, answer.detail, dict(answer.headers or {}))


async def _known_error(request: Request, error: Exception) -> Response:
    status = next(code for kind, code in STATUS_OF_ERRORS.items() if isinstance(error, kind))
    if status >= 500:
        _log.warning("%s %s: %s", request.method, request.url.path, error)
    return error_response(request, status, str(error))


async def _unexpected_error(request: Request, _: Exception) -> Response:
    return error_response(request, 500, "the daemon failed at this request; its log tells why")
