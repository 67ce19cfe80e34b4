"""The plugin's HTTP: one path for each method, POST only (docker.md section 2)."""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from weave_docker.plugin.errors import BadRequest, PluginError
from weave_docker.plugin.messages import MAX_BODY_BYTES, MEDIA_TYPE, Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    Method = Callable[[Message], Awaitable[dict[str, Any]]]

LOG_INTERVAL_S = 60.0

_log = logging.getLogger(__name__)


class Application:
    """Methods by their names in full, such as `NetworkDriver.Join`."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._logged: dict[str, float] = {}

    def asgi(self) -> Starlette:
        """The ASGI application."""
        application = Starlette(routes=[Route("/{method}", self.call, methods=["POST"])])
        application.router.redirect_slashes = False
        return application

    async def call(self, request: Request) -> Response:
        """Run one method. The engine shows `Err` to its user, and takes 404 for a method that is optional."""
        name = request.path_params["method"]
        method = self._methods.get(name)
        if method is None:
            return _answer({"Err": f"there is no method {name[:80]}"}, 404)
        try:
            body = await _read_body(request)
            if body is None:
                raise BadRequest(f"the body is longer than {MAX_BODY_BYTES} bytes")
            return _answer(await method(Message.decode(body)))
        except BadRequest as error:
            self._complain(name, error)
            return _answer({"Err": str(error)}, 400)
        except PluginError as error:
            self._complain(name, error)
            return _answer({"Err": str(error)}, 500)
        except Exception:
            _log.exception("%s failed", name)
            return _answer({"Err": "the weave plugin failed at this request; the daemon's log tells why"}, 500)

    def _complain(self, name: str, error: PluginError) -> None:
        """Each method's errors once a minute: the engine repeats some requests as fast as it can."""
        now = trio.current_time()
        if now - self._logged.get(name, now - LOG_INTERVAL_S) >= LOG_INTERVAL_S:
            self._logged[name] = now
            _log.warning("%s: %s", name, error)


def _answer(content: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse(content, status_code=status, media_type=MEDIA_TYPE)


async def _read_body(request: Request) -> bytes | None:
    """None for one that is too long."""
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return None
    return bytes(body)
