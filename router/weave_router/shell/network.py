"""The door to the network: dialling, listening, resolving names, and the data plane's packet I/O.

`TrioNetwork` is the real one; `weave_router.testing` has a simulated one.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from weave_router.dataplane.kernel_io import KernelIO
from weave_router.errors import HostError, TargetError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from weave_router.dataplane.packet_io import PacketIO

    AcceptHandler = Callable[[trio.abc.Stream, str], Awaitable[None]]

_USER_TIMEOUT_MS = 60_000
_ACCEPT_PAUSE = 0.1


class Listener(Protocol):
    """A bound TCP port."""

    async def serve(self, handler: AcceptHandler, nursery: trio.Nursery) -> None:
        """Start `handler(stream, "ip:port")` in the nursery for each connection, until cancelled."""


class Network(Protocol):
    """What the router asks of the network."""

    async def dial(self, address: str) -> trio.abc.Stream:
        """Connect to `ip:port`. Raises `OSError`."""

    async def listen(self, host: str, port: int) -> Listener:
        """Bind the control port. Raises `HostError`."""

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of a name, or the address itself. Raises `TargetError`."""

    def open_packet_io(self, tap: str | None, host: str, port: int) -> PacketIO:
        """Open TAP (if any) and UDP socket. Raises `HostError`."""


@dataclass(slots=True)
class TcpListener:
    """A real TCP port."""

    sock: trio.socket.SocketType

    async def serve(self, handler: AcceptHandler, nursery: trio.Nursery) -> None:
        """Accept until cancelled; running out of descriptors is survived."""
        with self.sock:
            while True:
                try:
                    accepted, (ip, port, *_) = await self.sock.accept()
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        await trio.sleep(_ACCEPT_PAUSE)
                    continue
                try:
                    stream = _stream(accepted)
                except OSError:  # gone already
                    accepted.close()
                    continue
                nursery.start_soon(handler, stream, f"{ip}:{port}")


def _stream(sock: trio.socket.SocketType) -> trio.SocketStream:
    # SocketStream switches Nagle's algorithm off, which the MTU tests depend on (mesh.md section 2).
    stream = trio.SocketStream(sock)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    return stream


class TrioNetwork:
    """The host's network. `local_host`: source address of what we dial, where the operator named one."""

    def __init__(self, local_host: str | None = None) -> None:
        self._local_host = local_host

    async def dial(self, address: str) -> trio.abc.Stream:
        """Connect to `ip:port`. Raises `OSError`."""
        host, _, port = address.rpartition(":")
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if self._local_host:
                await sock.bind((self._local_host, 0))
            await sock.connect((host, int(port)))
            return _stream(sock)
        except BaseException:
            sock.close()
            raise

    async def listen(self, host: str, port: int) -> Listener:
        """Bind the control port. Raises `HostError`."""
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await sock.bind((host, port))
            sock.listen(128)
        except OSError as error:
            sock.close()
            hint = ""
            if error.errno == errno.EADDRINUSE:
                hint = ": another program has it; stop that or choose another with --port"
            elif error.errno == errno.EADDRNOTAVAIL:
                hint = ": no interface has this address"
            raise HostError(f"cannot listen on TCP {host}:{port} ({error.strerror}){hint}") from error
        return TcpListener(sock)

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The IPv4 addresses of a name, or the address itself. Raises `TargetError`."""
        try:
            found = await trio.socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise TargetError(f"cannot resolve {host!r}: {error.strerror or error}") from error
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))

    def open_packet_io(self, tap: str | None, host: str, port: int) -> PacketIO:
        """Open TAP (if any) and UDP socket. Raises `HostError`."""
        return KernelIO(tap, (host, port))
