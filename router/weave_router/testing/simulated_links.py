"""What lies between simulated hosts: one timeline of deliveries, and the condition of each link.

Links are directed: `conditions("10.0.0.1", "10.0.0.2")` is the way from the first to the second. All that happens in
the simulated network happens on the timeline, in order of time and then of planning, so that a seed decides it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict, Unpack

import trio

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, kw_only=True)
class LinkConditions:
    """One direction of a link. Probabilities are per datagram; TCP hides them, as it does in life."""

    latency: float = 0.001
    """Seconds from one host to the other."""
    jitter: float = 0.0
    """Up to so many seconds more, evenly distributed. TCP stays in order."""
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """Probability that a datagram is overtaken: it arrives late by up to 20 times the latency."""
    mtu: int = 1500
    """Bytes of an IP packet that the sending host knows the way to carry: larger ones with DF are refused."""
    hidden_mtu: int | None = None
    """What a router farther on carries: larger packets with DF vanish there without a word."""
    fragments_dropped: bool = False
    """Whether packets larger than either MTU vanish also without DF."""


class Changes(TypedDict, total=False):
    """Fields of `LinkConditions`, to change some of them."""

    latency: float
    jitter: float
    loss: float
    duplication: float
    reordering: float
    mtu: int
    hidden_mtu: int | None
    fragments_dropped: bool


class Timeline:
    """Actions at points in time. `run` must run for anything to happen."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0
        self._sooner = trio.Event()

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Plan an action for `delay` seconds from now."""
        self.at(trio.current_time() + delay, action)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Plan an action. Of actions at the same time the one planned first comes first."""
        if not self._due or time < self._due[0][0]:
            self._sooner.set()
        heapq.heappush(self._due, (time, self._planned, action))
        self._planned += 1

    async def run(self) -> None:
        """Carry out what is due, until cancelled."""
        while True:
            while self._due and self._due[0][0] <= trio.current_time():
                heapq.heappop(self._due)[2]()
            self._sooner = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                await self._sooner.wait()


class SimulatedLinks:
    """The condition of every link, and which are cut."""

    def __init__(self, default: LinkConditions, random: random.Random, trace: list[str] | None) -> None:
        self.timeline = Timeline()
        self.random = random
        self.default = default
        self._trace = trace
        self._conditions: dict[tuple[str, str], LinkConditions] = {}
        self._cuts: dict[tuple[str, str], None] = {}
        self._on_heal: dict[Callable[[], None], None] = {}

    def note(self, event: str, *facts: object) -> None:
        """Put an event into the trace, if there is one."""
        if self._trace is not None:
            self._trace.append(" ".join((f"{trio.current_time():.6f}", event, *map(str, facts))))

    def conditions(self, source: str, destination: str) -> LinkConditions:
        """The way from one host to another."""
        return self._conditions.get((source, destination), self.default)

    def change(self, source: str, destination: str, **changes: Unpack[Changes]) -> None:
        """Change some conditions of one direction."""
        self._conditions[source, destination] = replace(self.conditions(source, destination), **changes)

    def latency(self, source: str, destination: str) -> float:
        """How long the next packet takes."""
        link = self.conditions(source, destination)
        return link.latency + (self.random.random() * link.jitter if link.jitter else 0.0)

    def up(self, source: str, destination: str) -> bool:
        """Whether packets pass at all."""
        return (source, destination) not in self._cuts

    def cut(self, ways: Iterable[tuple[str, str]]) -> None:
        """Let nothing pass on these ways."""
        for way in ways:
            if way[0] != way[1]:
                self._cuts[way] = None
                self.note("cut", *way)

    def heal(self, ways: Iterable[tuple[str, str]] | None = None) -> None:
        """Let packets pass again, on these ways or on all. TCP sends again what has got lost."""
        for way in list(self._cuts if ways is None else ways):
            if way in self._cuts:
                del self._cuts[way]
                self.note("heal", *way)
        self.retransmit()

    def retransmit(self) -> None:
        """Let every TCP stream with undelivered data try again."""
        for action in list(self._on_heal):
            action()

    def when_healed(self, action: Callable[[], None]) -> None:
        """Call this at each healing until `delivered`."""
        self._on_heal[action] = None

    def delivered(self, action: Callable[[], None]) -> None:
        """Nothing waits for a healing any more."""
        self._on_heal.pop(action, None)
