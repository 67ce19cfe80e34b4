"""A daemon of fakes inside the test, and callers of its CNI socket that need not be as polite as the executables."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from weave_cni.wire import DONE, LENGTH_BYTES, encode_call, encode_frame
from weave_net.testing.daemons import RunningDaemon, running_daemon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from weave_net.testing.wirings import FakeWiring

LIMIT_S = 30.0
"""Of a whole test: whatever hangs fails."""


class GoneError(OSError):
    """The daemon ended the connection without an answer."""


@dataclass(frozen=True)
class Answer:
    """How a call ended."""

    status: int
    document: Any
    """What is to be printed, decoded; None for nothing."""

    @property
    def result(self) -> dict[str, Any]:
        """Of a call that had to succeed."""
        assert self.status == 0, self.document
        found: dict[str, Any] = self.document
        return found

    @property
    def code(self) -> int:
        """Of a call that had to fail."""
        assert self.status == 1, self.document
        assert isinstance(self.document["msg"], str)
        assert self.document["msg"]
        code: int = self.document["code"]
        return code


@dataclass(frozen=True)
class Delegation:
    """The daemon asks to run another plugin."""

    plugin: str
    command: str
    config: dict[str, Any]


class Caller:
    """One connection, from the caller's side."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._trio = trio.socket.from_stdlib_socket(sock)

    async def next(self) -> Answer | Delegation:
        """The next frame. Raises `GoneError`."""
        kind, payload = await self._exactly(1), await self._counted()
        if kind == b"R":
            return Answer(payload[0], json.loads(payload[1:]) if payload[1:].strip() else None)
        size = int.from_bytes(payload[:LENGTH_BYTES], "big")
        lines = payload[LENGTH_BYTES : LENGTH_BYTES + size].split(b"\0")
        environment = dict(line.decode().partition("=")[::2] for line in lines)
        config = json.loads(payload[2 * LENGTH_BYTES + size :])
        return Delegation(environment["WEAVE_CNI_DELEGATE"], environment["CNI_COMMAND"], config)

    async def answer(self) -> Answer:
        """The answer, when no plugin is to be run."""
        found = await self.next()
        assert isinstance(found, Answer), found
        return found

    async def delegation(self) -> Delegation:
        """What plugin is to be run."""
        found = await self.next()
        assert isinstance(found, Delegation), found
        return found

    async def done(self, printed: bytes | Mapping[str, Any] = b"", status: int = 0) -> None:
        """Tell how the plugin went."""
        text = printed if isinstance(printed, bytes) else json.dumps(printed).encode()
        await self._send(encode_frame(DONE, bytes([status]) + text))

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await self._trio.send(view) :]

    async def _counted(self) -> bytes:
        return await self._exactly(int.from_bytes(await self._exactly(LENGTH_BYTES), "big"))

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = await self._trio.recv(size - len(data))
            except OSError as error:
                raise GoneError from error
            if not part:
                raise GoneError
            data += part
        return data

    def close(self) -> None:
        """Die."""
        self._trio.close()


@dataclass
class Hostile:
    """What a test has at hand: the daemon, and the path of a network namespace that a container has."""

    daemon: RunningDaemon
    netns: str
    callers: list[Caller] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Of the socket."""
        return self.daemon.settings.directories.cni_socket

    def environment(self, command: str, **changes: str | None) -> dict[str, str]:
        """Variables of a call; None leaves one out."""
        variables: dict[str, str | None] = {
            "WEAVE_CNI_PLUGIN": "weave-net",
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "web",
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": self.netns,
            "CNI_PATH": "/opt/cni/bin",
            **changes,
        }
        return {name: value for name, value in variables.items() if value is not None}

    def call(self, command: str, config: Mapping[str, Any] | bytes | None = None, **changes: str | None) -> Caller:
        """Begin a call; `config` is added to the least that is needed, or is all that is sent."""
        return self.send(encode_call(self.environment(command, **changes), standard_input(config)), command)

    def send(self, data: bytes, command: str = "ADD") -> Caller:
        """Begin a call with these bytes."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        if command in ("ADD", "CHECK"):
            with Path(self.netns).open("rb") as namespace:
                socket.send_fds(sock, [data], [namespace.fileno()])
        else:
            sock.sendall(data)
        sock.setblocking(False)
        self.callers.append(Caller(sock))
        return self.callers[-1]

    async def ask(self, command: str, config: Mapping[str, Any] | bytes | None = None, **changes: str | None) -> Answer:
        """A whole call without delegation."""
        caller = self.call(command, config, **changes)
        try:
            return await caller.answer()
        finally:
            caller.close()

    async def owned(self) -> dict[str, list[str]]:
        """Addresses recorded, by identifier, those of the host left out."""
        document = json.loads(await self.daemon.call(lambda client: client.document("/ip")))
        return {
            entry["containerid"]: entry["addrs"]
            for entry in document["owned"] or []
            if entry["containerid"] != "weave:expose"
        }

    async def attachments(self) -> list[dict[str, Any]]:
        """All attachments."""
        found: list[dict[str, Any]] = await self.daemon.call(lambda client: client.attachments())
        return found

    @property
    def links(self) -> set[str]:
        """The host's veth devices."""
        return {device.name for device in self.daemon.fakes.host.devices.values() if device.peer is not None}

    async def check_nothing_left(self) -> None:
        """No address, no link, no attachment."""
        assert (await self.attachments(), await self.owned(), self.links) == ([], {}, set())

    async def wait_until_nothing_left(self) -> None:
        """The same after a moment."""
        with trio.move_on_after(5):
            while await self.attachments() or self.links:  # noqa: ASYNC110
                await trio.sleep(0.05)
        await self.check_nothing_left()


def standard_input(config: Mapping[str, Any] | bytes | None) -> bytes:
    """A configuration as bytes."""
    if isinstance(config, bytes):
        return config
    return json.dumps({"cniVersion": "1.1.0", "name": "weave", "type": "weave-net", **(config or {})}).encode()


def with_daemon(
    check: Callable[[Hostile], Awaitable[None]],
    directory: Path,
    netns: str,
    fakes: FakeWiring | None = None,
    **changes: Any,
) -> None:
    """Run a check with a daemon."""

    settings = {"ipalloc_init": "consensus=1", "dns": False, **changes}

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with running_daemon(directory, fakes, **settings) as daemon:
                if netns not in daemon.fakes.host.namespaces:
                    daemon.fakes.host.add_namespace(netns)
                hostile = Hostile(daemon, netns)
                try:
                    await check(hostile)
                finally:
                    for caller in hostile.callers:  # a daemon that waits for one could not be stopped
                        caller.close()

    trio.run(main)
