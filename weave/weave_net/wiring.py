"""What the daemon is put together from: the router's interface, and where router and host come from.

Tests hand in other makers; nothing else in the daemon knows whether it runs on a real host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from weave_net.host_facts import HostFacts, read_host_facts
from weave_net.namespaces import boot_id, namespace_identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    import trio

    from weave_router.control.mesh import Mesh
    from weave_router.doors import Host
    from weave_router.shell.settings import RouterSettings
    from weave_router.status import RouterStatus


class Router(Protocol):
    """What the daemon asks of `weave_router.shell.router.Router`."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run until cancelled; started once it listens and the TAP is up. Raises `HostError` or `RouterError`."""

    @property
    def mesh(self) -> Mesh:
        """Its control plane, with the gossip channels."""

    def on_routes_changed(self, call: Callable[[], None]) -> None:
        """Have `call()` called whenever peers came, went or became reachable."""

    def status(self) -> RouterStatus:
        """A snapshot of everything that it tells about itself."""

    async def connect(self, peers: Sequence[str], *, replace: bool = False) -> None:
        """Add targets, or replace them all; stored durably on return. Raises `TargetError`."""

    async def farewell(self) -> None:
        """Before the router is cancelled for good: tell the neighbours not to wait for it."""

    async def forget(self, peers: Sequence[str]) -> None:
        """Remove targets and end the connections dialled to them; unknown ones are ignored."""


class RouterMaker(Protocol):
    """The constructor of a router."""

    def __call__(
        self,
        settings: RouterSettings,
        *,
        host: Host,
        targets: Sequence[str] = (),
        on_targets_changed: Callable[[tuple[str, ...]], Awaitable[None]] | None = None,
    ) -> Router:
        """Make a router that does nothing yet. May raise `TargetError`."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where the daemon's parts come from."""

    make_router: RouterMaker
    open_host: Callable[[], AbstractAsyncContextManager[Host]]
    read_facts: Callable[[str], HostFacts] = read_host_facts
    """By the name of the weave bridge."""
    namespace_identity: Callable[[str], str | None] = namespace_identity
    """Tells network namespaces apart, by path; None where there is none."""
    boot_id: Callable[[], str] = boot_id
    """Identifies the host's start."""


def production_wiring() -> Wiring:
    """The real router on the real host."""
    return Wiring(make_router=_make_real_router, open_host=_open_real_host)


# Both bring numpy, pyroute2 or cryptography along, and who needs the one (`reset`) need not wait for the other.


def _make_real_router(
    settings: RouterSettings,
    *,
    host: Host,
    targets: Sequence[str] = (),
    on_targets_changed: Callable[[tuple[str, ...]], Awaitable[None]] | None = None,
) -> Router:
    from weave_router.shell.router import Router as RealRouter

    return RealRouter(settings, host=host, targets=targets, on_targets_changed=on_targets_changed)


def _open_real_host() -> AbstractAsyncContextManager[Host]:
    from weave_router.host.linux import LinuxHost

    return LinuxHost()
