"""A container engine on a Unix socket, in threads of its own: containers, networks and a stream of events.

It speaks HTTP by hand, so that a test can have it say anything.
"""

from __future__ import annotations

import json
import queue
import socketserver
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


def full_id(number: int) -> str:
    """The id of a container: the number in 64 hexadecimal digits, of which the first differ, too."""
    return f"{number:04x}" * 16


async def until(
    condition: Callable[[], bool], sleep: Callable[[float], Awaitable[None]] = trio.sleep, within: float = 10.0
) -> None:
    """Wait for what the engine's threads bring about."""
    with trio.fail_after(within):
        while not condition():
            await sleep(0.01)


class FakeEngine:
    """What the engine knows and says. Change it while it runs."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.containers: dict[str, dict[str, Any]] = {}
        """`inspect` documents by full id."""
        self.networks: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        """Paths of all requests."""
        self.answers: dict[str, bytes] = {}
        """By path: a complete HTTP answer instead of the right one."""
        self.head_waits = False
        """Send the head of the stream with the first event only, as Podman does."""
        self.streams: list[queue.SimpleQueue[bytes | None]] = []

    def add(self, number: int, name: str, pid: int = 0, **changes: Any) -> str:
        """A container that runs if it has a pid; its id."""
        identifier = full_id(number)
        self.containers[identifier] = {
            "Id": identifier,
            "Name": f"/{name}",
            "State": {"Running": pid > 0, "Restarting": False, "Pid": pid},
            "Config": {"Hostname": identifier[:12], "Domainname": ""},
            "HostConfig": {"NetworkMode": "default"},
            "NetworkSettings": {"Networks": {}},
            **changes,
        }
        return identifier

    def add_network(self, name: str, driver: str = "weave", **options: str) -> None:
        """A network, whose id is its name."""
        self.networks[name] = {"Id": name, "Driver": driver, "Options": options}

    def connect(self, identifier: str, network: str, address: str, *aliases: str) -> None:
        """Put a container on a network."""
        endpoint = {"NetworkID": network, "IPAddress": address, "GlobalIPv6Address": "", "Aliases": list(aliases)}
        self.containers[identifier]["NetworkSettings"]["Networks"][network] = endpoint

    def stop(self, identifier: str) -> None:
        """Let a container end, without an event."""
        self.containers[identifier]["State"] = {"Running": False, "Restarting": False, "Pid": 0}

    def tell(self, action: str, identifier: str, kind: str = "container") -> None:
        """Send an event about a container to everybody who listens."""
        actor: dict[str, Any] = {"ID": identifier, "Attributes": {"name": "x"}}
        if kind == "network":
            actor = {"ID": "n", "Attributes": {"container": identifier}}
        self.say((json.dumps({"Type": kind, "Action": action, "Actor": actor}) + "\n").encode())

    def say(self, piece: bytes | None) -> None:
        """Send bytes of the stream; None ends it in the middle."""
        for stream in list(self.streams):
            stream.put(piece)

    def find(self, text: str) -> dict[str, Any] | None:
        """A container by id, name or beginning of its id."""
        for identifier, document in self.containers.items():
            if document["Name"] == f"/{text}" or identifier.startswith(text):
                return document
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    engine: FakeEngine

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.engine.asked.append(self.path)
        if path in self.engine.answers:
            self.wfile.write(self.engine.answers[path])
            self.close_connection = True
        elif path == "/events":
            self._stream()
        elif path == "/containers/json":
            state = {True: "running", False: "exited"}
            documents = self.engine.containers.values()
            self._answer([{"Id": d["Id"], "State": state[d["State"]["Running"]]} for d in documents])
        elif path == "/networks":
            self._answer([{**document, "Containers": {}} for document in self.engine.networks.values()])
        elif path.startswith("/networks/"):
            self._answer(self.engine.networks.get(path.split("/")[2]))
        else:
            self._answer(self.engine.find(path.split("/")[2]))

    def _answer(self, document: object) -> None:
        body = json.dumps({"message": "no such thing"} if document is None else document).encode()
        self.send_response(404 if document is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.engine.streams.append(pieces)
        self.close_connection = True
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        if not self.engine.head_waits:
            self.wfile.write(head)
            head = b""
        try:
            while (piece := pieces.get()) is not None:
                self.wfile.write(head + b"%x\r\n%s\r\n" % (len(piece), piece))
                head = b""
        except OSError:
            pass
        finally:
            self.engine.streams.remove(pieces)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away in the middle is no error of ours."""


@contextmanager
def fake_engine(socket: Path) -> Iterator[FakeEngine]:
    """An engine that listens there for the length of the block."""
    engine = FakeEngine(socket)
    handler = type("Handler", (_Handler,), {"engine": engine})
    with _Server(str(socket), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield engine
        finally:
            engine.say(None)
            server.shutdown()
            thread.join()
            socket.unlink()
