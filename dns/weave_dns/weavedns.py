"""weaveDNS of one host, put together: the names that peers share, and the server that answers from them.

gossip ─> names ─> zone ─> responder ─> server ─> clients
                               resolv.conf ─> forwarder ─┘
"""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import dns.name
import dns.rdatatype
import trio

from weave_dns.forwarder import Forwarder, Question
from weave_dns.names import absolute, fold, wire_labels
from weave_dns.resolv_conf import ResolvConf
from weave_dns.responder import Responder
from weave_dns.server import Server
from weave_dns.service import Names
from weave_dns.status import DnsStatus
from weave_dns.zone import AAAA, A, Zone

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
    """Names and name server. `clock`: Unix seconds. `watch`, `networks`, `nearby`: see `Server`. `random`: secure."""

    def __init__(
        self,
        settings: DnsSettings,
        mesh: Mesh,
        store: Store,
        *,
        watch: Watch,
        networks: Iterable[Network] = (),
        nearby: Callable[[Address], bool] = lambda _: False,
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.names = Names(settings, mesh, store, clock=clock)
        table = self.names.table
        self._ourselves = mesh.ourselves
        self._resolv_conf = ResolvConf(settings.resolv_conf, own=lambda: self._server.own_addresses())
        self._forwarder = Forwarder(self._upstream, timeout=settings.fallback_timeout, random=random)
        self._zone = Zone(table, settings.domain, settings.ttl)
        responder = Responder(self._zone, table, random=random)
        self._server = Server(
            settings, responder, watch=watch, resolve=self._forwarder.resolve, networks=networks, nearby=nearby
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `names.begin` must have been called. Raises the errors of store and host."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.names.run)
            await nursery.start(self._forwarder.run)
            await nursery.start(self._server.run)
            await self._upstream()  # for the status, before anybody asks
            task_status.started()

    @property
    def client_address(self) -> ListenAddress | None:
        """Where containers send their queries; None while there is no such address."""
        return self._server.client_address

    @property
    def listening(self) -> tuple[ListenAddress, ...]:
        """Where queries are taken now."""
        return self._server.listening

    def status(self) -> DnsStatus:
        """All there is to tell, at this moment."""
        counters = Counter(self._server.counters)
        for name, count in self._forwarder.counters.items():
            counters[f"upstream_{name}"] = count
        return DnsStatus(
            ourselves=self._ourselves,
            domain=self.settings.domain,
            upstream=tuple(map(str, self._resolv_conf.current)),
            ttl=self.settings.ttl,
            listening=tuple(map(str, self.listening)),
            troubles=self.troubles(),
            entries=tuple(self.names.table.entries()),
            counters=dict(counters),
        )

    def troubles(self) -> tuple[str, ...]:
        """What keeps it from answering, in words for the operator."""
        upstream = self._resolv_conf.status
        return (*self.deafness(), upstream) if upstream else self.deafness()

    def deafness(self) -> tuple[str, ...]:
        """Why it does not listen at an address where it should."""
        troubles = tuple(f"cannot listen at {address}: {reason}" for address, reason in self._server.troubles.items())
        return troubles if troubles or self.listening else (WAITING,)

    async def look_up(self, name: str) -> list[Address]:
        """The addresses of a name, as a container gets them; none where there are none.

        Raises `InvalidName`, and `Unresolved` for an outside name that nobody could be asked about.
        """
        labels = wire_labels(absolute(fold(name)))
        found: list[Address] = []
        for rdtype, kind in ((A, IPv4Address), (AAAA, IPv6Address)):
            answer = self._zone.look_up(labels, rdtype)
            if answer is not None:
                found += [kind(data) for _, data in answer.records]
            else:
                found += await self._ask_others(labels, rdtype)
        return found

    async def _ask_others(self, labels: tuple[bytes, ...], rdtype: int) -> list[Address]:
        question = Question(dns.name.Name((*labels, b"")), dns.rdatatype.RdataType.make(rdtype))
        message = await self._forwarder.resolve(question, dnssec_ok=False, checking_disabled=False)
        return [ip_address(record.address) for rrset in message.answer for record in rrset if record.rdtype == rdtype]

    async def _upstream(self) -> Sequence[Address]:
        return await self._resolv_conf.servers(trio.current_time())
