"""Who may ask what: the rules in front of the HTTP API's handlers.

On the Unix socket, which only root can open, everything is allowed. A TCP address can be reached by every process of
the machine and, through a browser, by every web page that its user visits. So there:

- only reading is possible, unless the daemon was launched with `--http-writable`;
- the Host header must name the address: a page whose name was rebound to 127.0.0.1 sends its own name;
- a request with the Origin of a foreign page is refused;
- attachments and stopping are never possible.
"""

from __future__ import annotations

import enum
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.requests import Request

from weave_net.api_messages import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from weave_net.settings import HttpAddress

READ_ONLY_TEXT = "read-only: use the Unix socket, or launch with --http-writable"
SOCKET_ONLY_TEXT = "this is possible on the Unix socket only"

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Access(enum.IntEnum):
    """What a listener allows, or a path needs."""

    READ = 0
    CONTROL = 1
    """Changes the network: `connect`, `forget`."""
    LOCAL = 2
    """Reaches into this host: the Unix socket only."""


class Gate:
    """ASGI middleware that applies the rules of one listener; `address` is None for the Unix socket."""

    def __init__(self, app: ASGIApp, *, access: Access, address: HttpAddress | None) -> None:
        self._app = app
        self._access = access
        self._hosts = None if address is None else _HostNames(address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "http":
            request = Request(scope)
            objection = self._objection(request)
            if objection is not None:
                await error_response(request, 403, objection)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _objection(self, request: Request) -> str | None:
        if self._hosts is None:
            return None
        host = request.headers.get("host", "")
        if not self._hosts.include(host_of(host)):
            return f"the Host header {host!r} does not name this address"
        origin = request.headers.get("origin")
        if origin is not None and not self._hosts.include(host_of(origin.partition("://")[2])):
            return "requests from web pages are refused"
        if self._access is Access.READ and request.method not in _READING:
            return READ_ONLY_TEXT
        return None


class _HostNames:
    """The names under which a TCP address may be addressed."""

    def __init__(self, address: HttpAddress) -> None:
        self._names = _LOOPBACK_NAMES | {address.host.lower()}
        # Bound to all addresses, any of them is right; a name never is, since names are what rebinding works with.
        self._any_address = address.host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound

    def include(self, host: str) -> bool:
        return host in self._names or (self._any_address and _is_ip_address(host))


def host_of(text: str) -> str:
    """The host in a Host header or the rest of an Origin, without port and brackets, in lower case."""
    if text.startswith("["):
        return text[1:].partition("]")[0].lower()
    host, colon, port = text.rpartition(":")
    return (host if colon and port.isdigit() else text).lower()


def _is_ip_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
