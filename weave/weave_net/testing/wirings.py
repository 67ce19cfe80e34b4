"""`FakeWiring`: a daemon's parts in memory, and the hand on each of them."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from weave_net.host_facts import HostFacts
from weave_net.testing.routers import FakeRouter
from weave_net.wiring import Wiring
from weave_router.testing.hosts import Namespace, RecordingHost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from ipaddress import IPv4Interface

    from weave_router.doors import Host
    from weave_router.shell.settings import RouterSettings


BRIDGE_ADDRESS = IPv4Address("10.32.0.254")


async def bridge_address(_: IPv4Interface) -> IPv4Address:
    """In place of `Exposures.gateway`."""
    return BRIDGE_ADDRESS


class FakeWiring:
    """Makes a `Wiring` of fakes and keeps what it made: `host`, and `routers` in the order of their creation."""

    def __init__(self, facts: HostFacts | None = None) -> None:
        self.host = RecordingHost()
        self.facts = facts or HostFacts(machine_id="machine", machine_uuid="uuid")
        self.routers: list[FakeRouter] = []
        self.start_error: Exception | None = None
        """Handed to the next router."""
        self._seen: list[Namespace] = []

    def wiring(self) -> Wiring:
        """The parts for `run_daemon` or `reset_host`."""
        return Wiring(
            make_router=self._make_router,
            open_host=lambda: self.host,
            read_facts=lambda _: self.facts,
            namespace_identity=self.identify,
            boot_id=lambda: "this boot",
        )

    def identify(self, path: str) -> str | None:
        """The identity of one of the host's namespaces."""
        namespace = self.host.namespaces.get(path)
        if namespace is None:
            return None
        if namespace not in self._seen:  # kept, since id() is used again for later objects
            self._seen.append(namespace)
        return f"namespace {self._seen.index(namespace)}"

    def _make_router(
        self,
        settings: RouterSettings,
        *,
        host: Host,
        targets: Sequence[str] = (),
        on_targets_changed: Callable[[tuple[str, ...]], Awaitable[None]] | None = None,
    ) -> FakeRouter:
        router = FakeRouter(settings, host=host, targets=targets, on_targets_changed=on_targets_changed)
        router.start_error = self.start_error
        self.routers.append(router)
        return router
