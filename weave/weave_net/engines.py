"""What the container engines of this host tell the daemon: which containers ended.

A container that was attached by hand (`weave attach`) and ends loses its names at once; its addresses follow after the
grace period of `Attachments`, since it may be started again. Containers of CNI and Docker's plugin are taken away by
these themselves.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import trio

from weave_dns.errors import DnsError
from weave_docker.engine_client import EngineClient
from weave_docker.engine_documents import Event, is_container_id
from weave_docker.engine_errors import EngineError
from weave_net.errors import WeaveError
from weave_router.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from weave_docker.engine_sockets import Engine

    IsDead = Callable[[str], Awaitable[bool]]

OWNER = "cli"
"""Of attachments that nobody takes away when their container ends."""

ASK_LIMIT_S = 3.0
"""A request that wants to know whether its container lives does not wait for longer."""
WAITING_EVENTS = 64

_log = logging.getLogger(__name__)


class Attached(Protocol):
    """What is needed of an attachment."""

    @property
    def id(self) -> str:
        """Of the container."""

    @property
    def owner(self) -> str:
        """Who asked for it."""


class AttachedContainers(Protocol):
    """What is needed of `Attachments`."""

    def list(self) -> Iterable[Attached]:
        """All attachments."""

    async def container_ended(self, attachment_id: str) -> None:
        """The container ended: its names go now."""


async def never_dead(_: str) -> bool:
    """Where there is no engine that could be asked."""
    return False


class Engines:
    """The engines that this daemon follows; there may be none, and each may come and go."""

    def __init__(self, engines: Sequence[Engine], attachments: AttachedContainers) -> None:
        self._clients = [EngineClient(engine) for engine in engines]
        self._attachments = attachments

    async def run(self) -> None:
        """Follow the events of all engines until cancelled."""
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(self._follow, client)

    async def is_dead(self, container: str) -> bool:
        """Whether an engine knows the container and says that it does not run; what nobody knows is not dead."""
        if not is_container_id(container):
            return False
        with trio.move_on_after(ASK_LIMIT_S):
            for client in self._clients:
                try:
                    known = await client.container(container)
                except EngineError:
                    continue
                if known is not None:
                    return not known.running
        return False

    async def _follow(self, client: EngineClient) -> None:
        send, receive = trio.open_memory_channel[Event](WAITING_EVENTS)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.watch, send)
            async for event in receive:
                if event.kind == "connected":
                    await self._compare(client)
                elif event.kind in {"die", "destroy"} and event.container in self._by_hand():
                    await self._ended(event.container)

    async def _compare(self, client: EngineClient) -> None:
        """Find out who ended while nobody listened; what this engine does not know may be another's."""
        ids = self._by_hand()
        if not ids:
            return
        try:
            running = await client.running()
        except EngineError as error:
            _log.warning("containers that ended cannot be told: %s", error)
            return
        for container in sorted(ids):
            if running.get(container) is False:
                await self._ended(container)

    def _by_hand(self) -> set[str]:
        return {
            attachment.id
            for attachment in self._attachments.list()
            if attachment.owner == OWNER and is_container_id(attachment.id)
        }

    async def _ended(self, container: str) -> None:
        _log.info("container %s ended", container[:12])
        try:
            await self._attachments.container_ended(container)
        except (WeaveError, HostError, DnsError) as error:
            _log.warning("names of container %s could not be removed: %s", container[:12], error)
