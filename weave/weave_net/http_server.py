"""Listening sockets of the HTTP API, and Hypercorn on them.

We bind the sockets ourselves and hand them over as descriptors: Hypercorn would take over the Unix socket of a daemon
that lives, and could set its mode only after others were able to open it.

Hypercorn answers 500 when a handler fails, but an error in its own protocol code ends the whole server. Such an end is
logged and the server is started again on the same socket, so that no request can close the API.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from weave_net.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from starlette.types import ASGIApp

    from weave_net.settings import HttpAddress

BACKLOG = 128
SOCKET_MODE = 0o600
"""Whoever can open the socket owns the network: root only."""

KEEP_ALIVE_S = 30
"""A connection without a request is closed after this long."""

GRACE_S = 1.5
"""Requests that run when the daemon stops have this long to end."""

RESTART_PAUSE_S = 0.1

_log = logging.getLogger(__name__)


def bind_unix_socket(path: Path) -> socket.socket:
    """A bound Unix socket; call `serve_http` to listen on it. Raises `ListenError`.

    Only the holder of the run directory's lock may call this: what is at the path is removed.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        # Linux creates the file with the mode that the unbound socket has, so it is never open to others.
        os.fchmod(sock.fileno(), SOCKET_MODE)
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise ListenError(f"the socket {path} cannot be made: {error.strerror}") from error
    return sock


def bind_tcp_socket(address: HttpAddress) -> socket.socket:
    """A bound TCP socket for the read-only API. Raises `ListenError`."""
    advice = "choose another address with --http-addr or WEAVE_HTTP_ADDR, or turn it off with --http-addr ''"
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ListenError(f"the HTTP address {address} cannot be resolved: {error.strerror}; {advice}") from error
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        # Two sockets may be bound to one port as long as neither listens; now, a busy port shows.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        what = (
            "is in use by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        )
        raise ListenError(f"the HTTP address {address} {what}; {advice}") from error
    return sock


async def serve_http(
    application: ASGIApp,
    sock: socket.socket,
    *,
    stop: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop` returns, then let requests end for `GRACE_S`; the caller closes the socket.

    Started once connections are accepted.
    """
    stopping = trio.Event()

    async def wait_for_stop() -> None:
        await stop()
        stopping.set()

    started = False
    while not stopping.is_set():
        try:
            async with trio.open_nursery(strict_exception_groups=True) as nursery:
                await nursery.start(_serve_once, application, os.dup(sock.fileno()), wait_for_stop)
                if not started:
                    task_status.started()
                    started = True
        except Exception:  # a group that also holds Cancelled is none: cancellation passes
            if not started:
                raise
            _log.exception("the HTTP server failed and is started again")
            await trio.sleep(RESTART_PAUSE_S)


async def _serve_once(
    application: ASGIApp,
    descriptor: int,
    stop: Callable[[], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[list[str]],
) -> None:
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.backlog = BACKLOG
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn")
    config.graceful_timeout = GRACE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.include_server_header = False
    # Our applications are typed by Starlette, Hypercorn's parameter by asgiref's stricter notion of the same.
    await serve(application, config, shutdown_trigger=stop, task_status=task_status, mode="asgi")  # type: ignore[arg-type]
