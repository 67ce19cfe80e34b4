"""Two or more hosts with a fast datapath and no router: each a namespace and a `LinuxHost` that lives in it.

They are told by the test what routers would tell them.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_interface
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from lab.namespace import Namespace
from lab.shell import wait_until
from lab.vxlan_worlds import is_forwarding
from weave_router.doors import VethRequest, VxlanEntry, VxlanSettings
from weave_router.host.linux import LinuxHost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType

    from weave_router.doors import HeartbeatSocket

P = ParamSpec("P")
R = TypeVar("R")

MTU = 1376
PORT, VNI = 6784, 0x776561
DEVICE = "weave-vxlan"
FLOOD = bytes(6)

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


class Container(Namespace):
    """A namespace that is attached to a host's bridge."""

    mac: bytes
    address: str
    host_interface: str


class VxlanHost(Namespace):
    """A host; `call` runs what its router would run."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.underlay = IPv4Address("192.0.2.0") + number
        self.mac = b"\x7a\0\0\0\0" + bytes([number])
        self.host = LinuxHost()
        self.containers: list[Container] = []
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop = trio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Make the namespace and let a router's loop run in it."""
        self.create()
        started: Future[trio.lowlevel.TrioToken] = Future()

        async def main() -> None:
            async with self.host:
                started.set_result(trio.lowlevel.current_trio_token())
                await self._stop.wait()

        def live_inside() -> None:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    assert _libc.setns(fd, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
                finally:
                    os.close(fd)
                trio.run(main)
            except BaseException as error:
                if not started.done():
                    started.set_exception(error)
                raise

        self._thread = threading.Thread(target=live_inside)
        self._thread.start()
        self._token = started.result()

    def stop(self) -> None:
        """End the router's loop, clear the namespaces away."""
        if self._token is not None and self._thread is not None:
            self._token.run_sync_soon(self._stop.set)
            self._thread.join()
        for container in self.containers:
            container.remove()
        self.remove()

    def call(self, function: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run an asynchronous function in the host's loop and wait for it."""

        async def run() -> R:
            return await function(*args, **kwargs)

        return trio.from_thread.run(run, trio_token=self._token)

    def call_sync(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a synchronous function in the host's loop and wait for it."""

        async def run() -> R:
            await trio.lowlevel.checkpoint()
            return function(*args, **kwargs)

        return trio.from_thread.run(run, trio_token=self._token)

    def set_up(self) -> tuple[VxlanEntry, ...]:
        """Bridge, a port in place of the TAP, and the VXLAN device; returns the entries adopted."""
        self.call(self.host.ensure_bridge, "weave", self.mac.hex(":"), MTU)
        if self.attempt("ip", "link", "show", "weave-tap").returncode != 0:
            self.ip("link", "add", "weave-tap", "type", "veth", "peer", "name", "tap-end")
            self.ip("link", "set", "tap-end", "addrgenmode", "none", "up")
        self.call(self.host.join_bridge, "weave-tap", "weave", mtu=MTU, isolated=True)
        wait_until(lambda: is_forwarding(self.run("bridge", "-j", "link", "show", "dev", "weave-tap")), 5, "the port")
        return self.call(self.host.open_vxlan, VxlanSettings(DEVICE, "weave", PORT, VNI, MTU))

    def container(self, address: str) -> Container:
        """Attach a new container with this address, prefix length included."""
        container = Container(f"wvv{os.getpid()}-{next(_numbers)}")
        container.create()
        # It speaks when a test lets it, and never by itself.
        container.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1")
        self.containers.append(container)
        container.address = str(ip_interface(address).ip)
        container.host_interface = f"vethwe{next(_numbers):08x}"
        info = self.call(
            self.host.attach,
            VethRequest(
                namespace=str(container.path),
                interface="ethwe",
                host_interface=container.host_interface,
                bridge="weave",
                mtu=MTU,
                addresses=(ip_interface(address),),
            ),
        )
        container.mac = bytes.fromhex(info.mac.replace(":", ""))
        return container

    def program(
        self,
        *,
        remove: tuple[VxlanEntry, ...] = (),
        add: tuple[VxlanEntry, ...] = (),
        unlearn: tuple[bytes, ...] = (),
        learn: tuple[bytes, ...] = (),
    ) -> None:
        """Change forwarding entries."""
        self.call(self.host.program_vxlan, DEVICE, "weave", remove, add, unlearn, learn)

    def meet(self, other: VxlanHost) -> None:
        """Let a peer in, flood to it and send heartbeats to it."""
        self.call(self.host.allow_vxlan, PORT, frozenset(), frozenset({other.underlay}))
        self.program(add=(VxlanEntry(FLOOD, other.underlay), VxlanEntry(other.mac, other.underlay)))

    def open_heartbeats(self) -> HeartbeatSocket:
        """A socket for heartbeats in this host."""
        return self.call_sync(self.host.open_heartbeats, DEVICE, "weave")

    def dropped(self) -> int:
        """Packets of strangers so far."""
        listed = self.run("nft", "list", "chain", "inet", "weave", "vxlan")
        return int(listed.partition("counter packets ")[2].split()[0])

    def inside(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the host's namespace; a socket that it makes stays there."""
        return self.call_sync(function, *args, **kwargs)


class Cabled:
    """Two hosts with a cable between them; a context manager."""

    def __init__(self) -> None:
        prefix = f"wvx{os.getpid()}-{next(_numbers)}"
        self.one = VxlanHost(f"{prefix}a", 1)
        self.two = VxlanHost(f"{prefix}b", 2)
        self._cleanup = ExitStack()

    def __enter__(self) -> Cabled:
        with self._cleanup:
            for host in self:
                self._cleanup.callback(host.stop)
                host.start()
            self.one.ip(
                *("link", "add", "underlay", "type", "veth"), *("peer", "name", "underlay", "netns", self.two.name)
            )
            for host in self:
                host.ip("addr", "add", f"{host.underlay}/24", "dev", "underlay")
                host.ip("link", "set", "underlay", "up")
                host.set_up()
            wait_until(lambda: all("state UP" in host.ip("link", "show", "underlay") for host in self), 5, "the cable")
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def __iter__(self) -> Iterator[VxlanHost]:
        yield self.one
        yield self.two

    def meet(self) -> None:
        """Both know each other."""
        self.one.meet(self.two)
        self.two.meet(self.one)

    def set_underlay_mtu(self, mtu: int) -> None:
        """Of the cable, at both ends."""
        for host in self:
            host.ip("link", "set", "underlay", "mtu", str(mtu))
