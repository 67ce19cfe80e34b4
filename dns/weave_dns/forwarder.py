"""Questions that are not ours, answered by the host's own name servers, or from what they answered before.

    resolve ─> cache ─> exchange (one for all that ask the same) ─> attempts at one server after the other

The next server is asked *as well* when one is slow, and at once when one fails; the first good answer wins. NXDOMAIN is
a good answer, SERVFAIL is none: it is passed on only if no server does better.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import TYPE_CHECKING

import dns.message
import dns.rcode
import dns.rdata
import trio

from weave_dns.cache import Cache, Question, copy_answer, key_of
from weave_dns.errors import Unresolved
from weave_dns.server_order import ServerOrder
from weave_dns.upstream import Upstream
from weave_dns.upstream_query import UnusableAnswer
from weave_router.log_limit import LogLimit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from weave_dns.cache import QuestionKey
    from weave_dns.resolv_conf import Address
    from weave_dns.upstream_query import Answer
    from weave_router.control.random_source import RandomSource

__all__ = ["Forwarder", "Question"]

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
PATIENCE_S = 1.0
"""How long a server has the question for itself before the next is asked as well."""
MOST_EXCHANGES = 512
COUNTERS = ("asked", "cached", "answered", "servfail", "timeouts", "unserved", "tcp", "ignored")
_GOOD = frozenset((dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN))
_LAST_RESORT = (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR)
"""Bad answers, best first: those before others, as they tell clients to try elsewhere."""


class _Asked:
    """One server in one exchange."""

    def __init__(self) -> None:
        self.failure = ""
        self.failed = trio.Event()

    def fail(self, reason: str) -> None:
        self.failure = reason
        self.failed.set()


class _Exchange:
    """One question on its way, and all who wait for its answer."""

    def __init__(self, key: QuestionKey, question: Question) -> None:
        self.key = key
        self.question = question
        self.answer: Answer | None = None
        self.bad: list[Answer] = []
        self.asked: dict[Address, _Asked] = {}
        self.reason = "the name server is stopping"
        self.timed_out = False
        self.over = trio.Event()

    def best(self) -> Answer | None:
        """The good answer, else the best of the bad ones."""
        if self.answer is not None or not self.bad:
            return self.answer
        return min(self.bad, key=_badness)

    def story(self) -> str:
        """What each server did."""
        return ", ".join(f"{server} {asked.failure or 'kept silent'}" for server, asked in self.asked.items())


def _badness(answer: Answer) -> int:
    return _LAST_RESORT.index(answer.rcode) if answer.rcode in _LAST_RESORT else len(_LAST_RESORT)


class Forwarder:
    """Resolves by asking other servers. `servers`: who they are, asked for each question that is not in the cache.

    `timeout`: seconds for one question, all servers and rounds together. `random`: for message IDs, so it must be one
    that nobody can guess, `random.SystemRandom()`. `most`: questions on their way at the same time, and sockets too.

    `counters`: questions `asked`; thereof from the cache (`cached`), from a server (`answered`), only with a failure
    of theirs (`servfail`), given up for lack of time (`timeouts`) and for other reasons (`unserved`); queries by TCP
    (`tcp`), datagrams that belonged to no query (`ignored`).
    """

    def __init__(
        self,
        servers: Callable[[], Awaitable[Sequence[Address]]],
        *,
        timeout: float = TIMEOUT_S,
        random: RandomSource,
        port: int = 53,
        most: int = MOST_EXCHANGES,
    ) -> None:
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self.cache = Cache()
        self._servers = servers
        self._timeout = timeout
        self._most = most
        self._upstream = Upstream(random=random, port=port, counters=self.counters, complain=self._complain)
        self._order = ServerOrder()
        self._known_servers: frozenset[Address] = frozenset()
        self._exchanges: dict[QuestionKey, _Exchange] = {}
        # One for each attempt: those at further servers must not use up the daemon's descriptors.
        self._sockets = trio.Semaphore(most)
        self._nursery: trio.Nursery | None = None
        self._log_limit = LogLimit()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; whoever waits then gets `Unresolved`."""
        # All at once, 30 ms: else each record of an unknown type makes dnspython search the disk for a module.
        await trio.to_thread.run_sync(dns.rdata.load_all_types)
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def resolve(self, question: Question, *, dnssec_ok: bool, checking_disabled: bool) -> dns.message.Message:
        """The answer, as a copy of the caller's own, within `timeout` seconds.

        Its question has the caller's letter case; QR, RD, RA are set, CD as asked, AA and AD not; ID 0; no OPT. The
        response code is that of the server, SERVFAIL for those above 15. Raises `Unresolved`.

        Equal questions share one exchange, which goes on when its first asker goes away.
        """
        self.counters["asked"] += 1
        key = key_of(question, dnssec_ok=dnssec_ok, checking_disabled=checking_disabled)
        message = self.cache.get(key, question, trio.current_time())
        if message is not None:
            self.counters["cached"] += 1
            await trio.lowlevel.checkpoint()
            return message
        exchange = self._exchanges.get(key) or self._begin(key, question)
        await exchange.over.wait()
        answer = exchange.best()
        if answer is None:
            self.counters["timeouts" if exchange.timed_out else "unserved"] += 1
            raise Unresolved(f"{question}: {exchange.reason}")
        self.counters["servfail" if exchange.answer is None else "answered"] += 1
        return copy_answer(answer.message, question)

    def _begin(self, key: QuestionKey, question: Question) -> _Exchange:
        now = trio.current_time()
        if self._nursery is None:
            self.counters["unserved"] += 1
            raise Unresolved(f"{question}: the name server is not running")
        if len(self._exchanges) >= self._most:
            self.counters["unserved"] += 1
            if self._log_limit.allows("too many", now):
                log.warning("More than %d questions wait for upstream servers: further ones are refused", self._most)
            raise Unresolved(f"{question}: {self._most} questions are waiting already; ask again later")
        exchange = self._exchanges[key] = _Exchange(key, question)
        self._nursery.start_soon(self._run_exchange, exchange)
        return exchange

    async def _run_exchange(self, exchange: _Exchange) -> None:
        try:
            with trio.move_on_after(self._timeout) as limit:
                await self._ask_servers(exchange)
            exchange.timed_out = limit.cancelled_caught
            self._conclude(exchange)
        finally:
            del self._exchanges[exchange.key]
            exchange.over.set()

    def _conclude(self, exchange: _Exchange) -> None:
        """Keep the answer, or say why there is none."""
        now = trio.current_time()
        answer = exchange.answer
        if answer is not None:
            self.cache.put(exchange.key, answer.message, exchange.question, answer.size, now)
        elif not exchange.asked and exchange.timed_out:
            exchange.reason = "the list of upstream name servers could not be read in time; see whether its disk hangs"
        elif not exchange.asked:
            exchange.reason = "this host has no upstream name server: add one to its resolv.conf"
        else:
            when = f" within {self._timeout:g} s" if exchange.timed_out else ""
            exchange.reason = f"no upstream name server answered{when}: {exchange.story()}"
        if exchange.best() is None and self._log_limit.allows("unresolved", now):
            log.warning("%s: %s", exchange.question, exchange.reason)

    async def _ask_servers(self, exchange: _Exchange) -> None:
        """Return when there is a good answer or all servers have failed; the caller limits the time."""
        servers = await self._servers()
        self._notice(servers)
        order = self._order.ranked(servers, trio.current_time())
        if not order:
            return
        exchange.asked = {server: _Asked() for server in order}
        patience = min(PATIENCE_S, self._timeout / (2 * len(order)))
        async with trio.open_nursery() as nursery:
            while left := [server for server, asked in exchange.asked.items() if not asked.failed.is_set()]:
                for server in left:
                    if not exchange.asked[server].failed.is_set():
                        await self._sockets.acquire()  # here, so that no server is blamed for the time this takes
                        nursery.start_soon(self._ask, exchange, server, nursery.cancel_scope)
                        await self._wait(exchange.asked[server], server, patience)
                patience *= 2  # those that are silent may be overloaded
            nursery.cancel_scope.cancel()

    def _notice(self, servers: Sequence[Address]) -> None:
        """What servers of another network answered may not hold in this one."""
        if self._known_servers != (known := frozenset(servers)):
            self._known_servers = known
            self.cache.clear()

    async def _wait(self, asked: _Asked, server: Address, patience: float) -> None:
        begin = trio.current_time()
        with trio.move_on_after(patience):
            await asked.failed.wait()
            return
        now = trio.current_time()
        if self._order.kept_silent(server, begin, now):
            self._complain(server, "does not answer")

    async def _ask(self, exchange: _Exchange, server: Address, others: trio.CancelScope) -> None:
        """One attempt at one server; a good answer ends all others. Gives back the socket that was acquired for it."""
        asked = exchange.asked[server]
        _, _, _, dnssec_ok, checking_disabled = exchange.key
        try:
            answer = await self._upstream.ask(
                server, exchange.question, dnssec_ok=dnssec_ok, checking_disabled=checking_disabled
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)  # trio's texts repeat the address
            self._complain(server, f"cannot be asked: {reason}")
            asked.fail(f"cannot be asked ({reason})")
            return
        except UnusableAnswer as error:
            self._order.heard(server, trio.current_time())
            self._complain(server, f"sent an answer that is of no use: {error}")
            asked.fail(f"sent an answer that is of no use ({error})")
            return
        finally:
            self._sockets.release()
        self._order.heard(server, trio.current_time())
        if answer.rcode in _GOOD and not answer.is_referral:
            exchange.answer = answer
            others.cancel()
        elif answer.is_referral:
            self._complain(server, "does not resolve for us, it only refers to other servers")
            asked.fail("only refers to other servers")
        else:
            exchange.bad.append(answer)
            asked.fail(f"said {dns.rcode.to_text(answer.rcode)}")

    def _complain(self, server: Address, trouble: str) -> None:
        if self._log_limit.allows(f"server {server}", trio.current_time()):
            log.warning("Upstream name server %s %s; check the nameserver lines of this host", server, trouble)
