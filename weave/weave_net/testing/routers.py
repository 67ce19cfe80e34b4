"""`FakeRouter`: does nothing, remembers what it was asked, and shows whatever status a test gives it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from weave_router.control.mesh import Mesh
from weave_router.control.targets import Targets
from weave_router.errors import TargetError
from weave_router.shell.peer_argument import parse_peer_argument
from weave_router.status import RouterStatus
from weave_router.wire.peer_name import PeerName, format_peer_name
from weave_router.wire.topology import PeerRecord

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from weave_router.doors import Host
    from weave_router.shell.settings import RouterSettings


class FakeRouter:
    """A `weave_net.wiring.Router` in memory; tests read and change its public attributes at will."""

    def __init__(
        self,
        settings: RouterSettings,
        *,
        host: Host,
        targets: Sequence[str] = (),
        on_targets_changed: Callable[[tuple[str, ...]], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self.host = host
        self.targets = tuple(targets)
        self.running = False
        self.start_error: Exception | None = None
        """Raised by `run` before it has started."""
        self.status_error: Exception | None = None
        """Raised by `status`."""
        self.crash: Exception | None = None
        """Raised by `run` once `crashing` is set; None lets it return, which is wrong too."""
        self.crashing = trio.Event()
        self.shown = RouterStatus(
            name=format_peer_name(settings.name),
            nickname=settings.nickname,
            uid=1,
            port=settings.port,
            encryption=settings.password is not None,
            discovery=settings.discovery,
        )
        self._on_targets_changed = on_targets_changed
        name = PeerName(settings.name)
        chance = random.Random(1)  # noqa: S311 - nothing depends on it here
        self.mesh = Mesh(
            PeerRecord(name, settings.nickname, 1),
            Targets(name, settings.port, chance),
            overlays=(),
            connection_limit=0,
            random=chance,
            now=0.0,
        )
        self.routes_listeners: list[Callable[[], None]] = []

    def on_routes_changed(self, call: Callable[[], None]) -> None:
        """Remember who wants to know."""
        self.routes_listeners.append(call)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make the bridge, as a router does, and wait."""
        await trio.lowlevel.checkpoint()
        if self.start_error is not None:
            raise self.start_error
        await self.host.ensure_bridge(self.settings.bridge, format_peer_name(self.settings.name), self.settings.mtu)
        self.running = True
        task_status.started()
        try:
            await self.crashing.wait()
            if self.crash is not None:
                raise self.crash
        finally:
            self.running = False

    def status(self) -> RouterStatus:
        """`shown`, with the present targets."""
        if self.status_error is not None:
            raise self.status_error
        return replace(self.shown, targets=self.targets)

    async def connect(self, peers: Sequence[str], *, replace: bool = False) -> None:
        """Add the peers, whose form is checked as the real router does."""
        for peer in peers:
            parse_peer_argument(peer)
            if peer.endswith(".invalid"):
                raise TargetError(f"peer {peer!r} cannot be resolved")
        await self._change(tuple(dict.fromkeys((*(() if replace else self.targets), *peers))))

    async def farewell(self) -> None:
        """Nobody waits for this router."""
        await trio.lowlevel.checkpoint()

    async def forget(self, peers: Sequence[str]) -> None:
        """Remove the peers."""
        await self._change(tuple(target for target in self.targets if target not in peers))

    async def _change(self, targets: tuple[str, ...]) -> None:
        await trio.lowlevel.checkpoint()
        self.targets = targets
        if self._on_targets_changed is not None:
            await self._on_targets_changed(targets)
