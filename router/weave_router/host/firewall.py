"""The host's firewall: what the router lets in, and what may pass between its containers and the outside.

Its parts are the rules of VXLAN and those of address translation, both in the nftables table `inet weave`, and rules in
the chain FORWARD of iptables.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from weave_router.errors import HostError
from weave_router.host import firewall_exposed, firewall_vxlan, requests
from weave_router.host.firewall_exposed import MasqueradeRules
from weave_router.host.firewall_forward import TABLES, ForwardRules
from weave_router.host.firewall_table import remove_table
from weave_router.host.firewall_vxlan import Allowed, VxlanRules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Address

    from weave_router.doors import ExposedSubnet

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["Allowed", "Firewall"]


class Firewall:
    """All our rules. Calls are made one after the other, by programs in the caller's namespace."""

    def __init__(self) -> None:
        self.look_again = float("inf")
        """When `expose` is to be repeated without a reason from outside, on trio's clock."""
        self._vxlan = VxlanRules()
        self._masquerade = MasqueradeRules()
        self._forward = [ForwardRules(table) for table in TABLES]
        self._turn = trio.Lock()

    async def allow(self, wanted: Allowed) -> None:
        """`doors.Host.allow_vxlan`."""
        requests.check_port(wanted.port)
        async with self._turn:
            await _in_thread(self._vxlan.allow, wanted)

    async def allowed(self) -> frozenset[IPv4Address]:
        """`doors.Host.vxlan_allowed`."""
        async with self._turn:
            return await _in_thread(self._vxlan.allowed)

    async def shut(self) -> None:
        """Remove the rules of VXLAN, if there are any."""
        async with self._turn:
            await _in_thread(self._vxlan.remove, firewall_exposed.OBJECTS)

    async def expose(self, bridge: str, exposed: Sequence[ExposedSubnet]) -> None:
        """`doors.Host.set_exposed`."""
        requests.check_name(bridge)
        async with self._turn:
            await _in_thread(self._expose, bridge, tuple(exposed), trio.current_time())

    async def remove(self) -> bool:
        """`doors.Host.remove_rules`."""
        async with self._turn:
            return await _in_thread(self._remove)

    def _expose(self, bridge: str, exposed: tuple[ExposedSubnet, ...], now: float) -> None:
        subnets = dict.fromkeys(subnet.network for subnet in exposed)
        masqueraded = dict.fromkeys(subnet.network for subnet in exposed if subnet.masquerade)
        look_again = [float("inf")]
        try:
            _each(
                self._vxlan.repair,
                lambda: self._masquerade.set(masqueraded, firewall_vxlan.OBJECTS),
                *(lambda part=part: look_again.append(part.set(bridge, subnets, now)) for part in self._forward),
            )
        finally:
            self.look_again = min(look_again)

    def _remove(self) -> bool:
        self._vxlan.forget()
        self._masquerade.forget()
        removed = [False]
        _each(
            lambda: removed.append(remove_table()),
            *(lambda part=part: removed.append(part.remove()) for part in self._forward),
        )
        return any(removed)


def _each(*steps: Callable[[], None]) -> None:
    """Take all steps, also after one that failed; HostError in the end that tells of all failures."""
    failures = []
    for step in steps:
        try:
            step()
        except HostError as error:
            failures.append(str(error))
    if failures:
        raise HostError("; ".join(dict.fromkeys(failures)))


async def _in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that runs programs; it is waited for also when cancelled.

    Not in a thread of trio's pool: one that was born in another network namespace would run them there.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    outcome: Future[R] = Future()
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def work() -> None:
        try:
            outcome.set_result(function(*args, **kwargs))
        except BaseException as error:
            outcome.set_exception(error)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    threading.Thread(target=work, name="firewall", daemon=True).start()
    with trio.CancelScope(shield=True):
        await done.wait()
    return outcome.result()
