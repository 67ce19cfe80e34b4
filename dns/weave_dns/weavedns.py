"""weaveDNS of one host, put together: the names that peers share, and the server that answers from them.

gossip ─> names ─> zone ─> responder ─> server ─> clients
                               resolv.conf ─> forwarder ─┘
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from weave_dns.forwarder import Forwarder
from weave_dns.resolv_conf import ResolvConf
from weave_dns.responder import Responder
from weave_dns.server import Server
from weave_dns.service import Names
from weave_dns.status import DnsStatus, NameStatus
from weave_dns.zone import Zone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from weave_dns.resolv_conf import Address
    from weave_dns.server import Network, Watch
    from weave_dns.settings import DnsSettings, ListenAddress
    from weave_router.control.mesh import Mesh
    from weave_router.doors import Store

WAITING = "no address to listen at: the bridge has none; 'weave expose' gives it one"


class WeaveDns:
    """Names and name server. `clock`: Unix seconds. `watch`, `networks`: see `Server`; `random`: a secure one."""

    def __init__(
        self,
        settings: DnsSettings,
        mesh: Mesh,
        store: Store,
        *,
        watch: Watch,
        networks: Iterable[Network] = (),
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.names = Names(settings, mesh, store, clock=clock)
        table = self.names.table
        self._ourselves = mesh.ourselves
        self._resolv_conf = ResolvConf(settings.resolv_conf, own=lambda: self._server.own_addresses())
        self._forwarder = Forwarder(self._upstream, timeout=settings.fallback_timeout, random=random)
        responder = Responder(Zone(table, settings.domain, settings.ttl), table, random=random)
        self._server = Server(settings, responder, watch=watch, resolve=self._forwarder.resolve, networks=networks)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `names.begin` must have been called. Raises the errors of store and host."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.names.run)
            await nursery.start(self._forwarder.run)
            await nursery.start(self._server.run)
            task_status.started()

    @property
    def listening(self) -> tuple[ListenAddress, ...]:
        """Where queries are taken now."""
        return self._server.listening

    def status(self) -> DnsStatus:
        """All there is to tell, at this moment."""
        entries = self.names.table.in_memory_order()
        troubles = [f"cannot listen at {address}: {reason}" for address, reason in self._server.troubles.items()]
        if not self.listening and not troubles:
            troubles.append(WAITING)
        if self._resolv_conf.status:
            troubles.append(self._resolv_conf.status)
        counters = Counter(self._server.counters)
        for name, count in self._forwarder.counters.items():
            counters[f"upstream_{name}"] = count
        return DnsStatus(
            domain=self.settings.domain,
            upstream=tuple(map(str, self._resolv_conf.current)),
            ttl=self.settings.ttl,
            listening=tuple(map(str, self.listening)),
            troubles=tuple(troubles),
            entries=tuple(
                NameStatus(e.hostname, e.origin, e.container, str(e.address), e.version, e.tombstone) for e in entries
            ),
            own=sum(1 for entry in entries if entry.origin == self._ourselves and not entry.tombstone),
            counters=dict(counters),
        )

    async def _upstream(self) -> Sequence[Address]:
        return await self._resolv_conf.servers(trio.current_time())
