"""The plugin under trio: state, reconciliation, socket.

stale socket away ─> state ─> reconciliation ─> socket: the engine may come
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import trio

from weave_docker.engine_client import EngineClient
from weave_docker.plugin.abandoned import Tidying
from weave_docker.plugin.application import Application
from weave_docker.plugin.daemon_api import Daemon
from weave_docker.plugin.errors import DaemonRefused, StateError
from weave_docker.plugin.ipam_driver import IpamDriver
from weave_docker.plugin.network_driver import NetworkDriver
from weave_docker.plugin.pool_requests import PoolRequests
from weave_docker.plugin.reconciliation import reconcile
from weave_docker.plugin.socket_file import plugin_socket, remove_stale_socket
from weave_docker.plugin.state_file import StateFile

if TYPE_CHECKING:
    import socket

    import httpx
    from starlette.types import ASGIApp

    from weave_docker.engine_sockets import Engine
    from weave_docker.plugin.messages import Message

DEFAULT_SOCKET = Path("/run/docker/plugins/weave.sock")
"""The file's name is the driver's; the engine looks nowhere else."""

JOIN_WAIT_S = 60.0
"""An endpoint that was made before this start is joined within this time (the engine tries for about 30 s) or never."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSettings:
    """Where the plugin lives."""

    state_file: Path
    """Belongs next to the daemon's own state: the two have to go together."""
    socket: Path = DEFAULT_SOCKET
    engines: tuple[Engine, ...] = ()
    """Where it can be asked what became of endpoints; see `abandoned`. Nothing else needs it."""


class HttpServer(Protocol):
    """What serves an application on a listening socket, whatever happens, until cancelled."""

    async def __call__(self, application: ASGIApp, sock: socket.socket, *, task_status: trio.TaskStatus[None]) -> None:
        """Started once requests are taken."""


async def serve(
    settings: PluginSettings,
    api: httpx.AsyncClient,
    serve_http: HttpServer,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the engine until cancelled; started once it may come.

    `api`: a client of the daemon's HTTP API, which must answer already; its base URL is the daemon's. It is not closed
    here. `serve_http`: the daemon's own server. Raises `SocketError`, `StateError` and `DaemonRefused`, all before it
    has started.
    """
    remove_stale_socket(settings.socket)
    states, daemon = StateFile(settings.state_file), Daemon(api)
    await states.load()
    await reconcile(states, daemon)
    requests = PoolRequests(trio.current_time)
    ipam = IpamDriver(states, daemon, requests, new_token=lambda: secrets.token_hex(6))
    network = NetworkDriver(states, daemon, requests)
    application = Application(
        {
            "Plugin.Activate": _activate,
            **{f"NetworkDriver.{name}": method for name, method in network.methods().items()},
            **{f"IpamDriver.{name}": method for name, method in ipam.methods().items()},
        }
    )
    with plugin_socket(settings.socket) as sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_remove_unjoined, states, daemon)
            if settings.engines:
                engines = [EngineClient(engine) for engine in settings.engines]
                nursery.start_soon(Tidying(engines, settings.socket.stem, states, daemon, ipam).run)
            await nursery.start(serve_http, application.asgi(), sock)
            task_status.started()


async def _activate(_: Message) -> dict[str, Any]:
    return {"Implements": ["NetworkDriver", "IpamDriver"]}


async def _remove_unjoined(states: StateFile, daemon: Daemon) -> None:
    """Remove endpoints that an earlier plugin made and whose answer the engine never got."""
    earlier = {key for key, endpoint in states.state.endpoints.items() if not endpoint.joined}
    await trio.sleep(JOIN_WAIT_S)
    for endpoint_id in sorted(earlier):
        endpoint = states.state.endpoints.get(endpoint_id)
        if endpoint is None or endpoint.joined:
            continue
        try:
            await daemon.detach(endpoint_id)
            await states.change(lambda state: state.without_endpoint(endpoint_id))  # noqa: B023 - awaited here
        except (DaemonRefused, StateError) as error:
            _log.warning("Endpoint %s, which no container uses, could not be removed: %s", endpoint_id, error)
