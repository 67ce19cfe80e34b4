"""Asking a daemon of fakes over HTTP, politely or not: `@on_socket async def test_…(ask: Asker)`."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from weave_net.settings import HttpAddress
from weave_net.testing.daemons import RunningDaemon, running_daemon
from weave_net.testing.statuses import SAMPLE_STATUS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

JSON = {"Accept": "application/json"}
WEB = "/run/netns/web"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Asker:
    """A plain HTTP client without a library's politeness, in a thread."""

    daemon: RunningDaemon
    tcp: bool = False

    async def __call__(
        self, method: str, path: str, body: str | bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request on a connection of its own."""
        return await trio.to_thread.run_sync(partial(self._ask, method, path, body, headers or {}))

    async def send(self, data: bytes) -> bytes:
        """Send raw bytes; what comes back until the daemon closes or is silent."""
        return await trio.to_thread.run_sync(self._send, data)

    def _ask(self, method: str, path: str, body: str | bytes | None, headers: dict[str, str]) -> Answer:
        with self.connected() as sock, closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = sock
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
            return Answer(response.status, text, {name.lower(): value for name, value in response.headers.items()})

    def _send(self, data: bytes) -> bytes:
        with self.connected() as sock:
            sock.settimeout(0.3)
            sock.sendall(data)
            received = b""
            try:
                while piece := sock.recv(65536):
                    received += piece
            except OSError:
                pass
            return received

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A connection to the daemon."""
        settings = self.daemon.settings
        if not self.tcp:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(settings.directories.socket))
        else:
            assert settings.http_address
            sock = socket.create_connection(("127.0.0.1", settings.http_address.port))
        with sock:
            yield sock


def free_port() -> int:
    """A TCP port that nobody uses."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def with_daemon(
    check: Callable[[Asker], Awaitable[None]], *, tcp: bool = False, **changes: Any
) -> Callable[[Path], None]:
    """Make a test of a coroutine: a daemon with these settings runs, which has one container's namespace, `WEB`."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            address = HttpAddress("127.0.0.1", free_port()) if tcp else None
            async with running_daemon(tmp_path, **{"http_address": address, **changes}) as daemon:
                daemon.router.shown = SAMPLE_STATUS
                daemon.fakes.host.add_namespace(WEB)
                await check(Asker(daemon, tcp))

        trio.run(main)

    return run


on_socket = with_daemon
on_tcp = partial(with_daemon, tcp=True)
on_writable_tcp = partial(with_daemon, tcp=True, http_writable=True)
