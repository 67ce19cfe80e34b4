"""Two `VxlanLink`s, a path that loses and delays heartbeats as chance wants, and an orderly control connection.

A side accepts frames by one way only, so nothing comes twice; what is examined is that little is lost: who sends
through the kernel is accepted there, or was a moment ago, and the other way round for sleeve.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.vxlan.link import (
    ANSWER_S,
    BEAT_S,
    LONGEST_PROOF_S,
    LOST_S,
    Action,
    SendBeat,
    SendControl,
    SetMode,
    VxlanLink,
)
from weave_router.vxlan.messages import Number
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import Callable

LEADER, FOLLOWER = PeerName(1), PeerName(2)
OTHER = {LEADER: FOLLOWER, FOLLOWER: LEADER}
CONTROL_S = 1.0
"""The longest way of a control message."""
PATH_S = 0.5
"""The longest way of a heartbeat."""
A_MOMENT = 1e-6


class Weather(NamedTuple):
    """How the path is for some seconds; losses are probabilities."""

    seconds: float
    lost_small: dict[PeerName, float]
    """Of small heartbeats to this side."""
    lost_full: dict[PeerName, float]


FINE = {LEADER: 0.0, FOLLOWER: 0.0}
LOSSES = st.sampled_from([0.0, 0.0, 0.1, 0.5, 0.8, 0.95, 1.0])
BOTH = st.fixed_dictionaries({LEADER: LOSSES, FOLLOWER: LOSSES})
WEATHER = st.builds(Weather, st.floats(0.1, 40.0), BOTH, BOTH)
BLOCKED = st.sampled_from([{LEADER: 1.0, FOLLOWER: 0.0}, {LEADER: 0.0, FOLLOWER: 1.0}, {LEADER: 1.0, FOLLOWER: 1.0}])


@dataclass
class World:
    """Both links, and everything that is on its way between them."""

    rng: random.Random
    resumed: frozenset[PeerName]
    now: float = 50.0

    def __post_init__(self) -> None:
        self.weather = Weather(0.0, FINE, FINE)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        self.said = {LEADER: 0, FOLLOWER: 0}
        self.arrived = {LEADER: self.now, FOLLOWER: self.now}
        """Control messages do not overtake each other: when the last one arrives."""
        self.links = {
            name: VxlanLink(name, other, token=bytes([name]) * 8, mtu=1376, now=self.now, resumed=name in self.resumed)
            for name, other in OTHER.items()
        }
        self.accepted_until = dict.fromkeys(OTHER, self.now)
        """Until when this side has accepted from the kernel."""
        self.mismatch_since: dict[PeerName, float] = {}
        """Since when this side accepts from the kernel what the other sends by sleeve."""
        for name, link in self.links.items():
            self.perform(name, link.start())

    @property
    def in_use(self) -> bool:
        return all(link.in_use for link in self.links.values())

    @property
    def is_left(self) -> bool:
        return not any(link.accept or link.send for link in self.links.values())

    def at(self, when: float, call: Callable[[], None]) -> None:
        heappush(self.events, (when, next(self.order), call))

    def perform(self, name: PeerName, actions: list[Action]) -> None:
        other = OTHER[name]
        for action in actions:
            match action:
                case SendControl(number, body):
                    self.said[name] += number in (Number.HEARING, Number.MODE)
                    self.arrived[other] = max(self.arrived[other], self.now + self.rng.uniform(0, CONTROL_S))
                    self.at(self.arrived[other], partial(self.hear, other, number, body))
                case SendBeat(token):
                    for full, lost in ((False, self.weather.lost_small), (True, self.weather.lost_full)):
                        if self.rng.random() >= lost[other]:
                            when = self.now + self.rng.uniform(0, PATH_S)
                            self.at(when, partial(self.beat, other, token, full=full))
                case SetMode(accept, send):
                    assert (accept, send) == (self.links[name].accept, self.links[name].send)

    def hear(self, name: PeerName, number: int, body: bytes) -> None:
        self.perform(name, self.links[name].control(number, body, self.now))

    def beat(self, name: PeerName, token: bytes, *, full: bool) -> None:
        self.perform(name, self.links[name].heartbeat(token, full=full, now=self.now))

    def run(self, weather: Weather, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, until the weather changes or something has come true."""
        self.weather = weather
        end = self.now + weather.seconds
        while not until():
            name = min(self.links, key=lambda name: self.links[name].next_timer)
            timer = self.links[name].next_timer
            when = min(timer, self.events[0][0] if self.events else timer)
            if when > end:
                self.now = end
                return
            self.now = max(self.now, when)
            self.accepted_until.update({each: self.now for each, link in self.links.items() if link.accept})
            if self.events and self.events[0][0] <= self.now:
                heappop(self.events)[2]()
            else:
                self.perform(name, self.links[name].handle_timer(self.now))
            self.check()

    def check(self) -> None:
        for name, other in OTHER.items():
            receiver, sender = self.links[name], self.links[other]
            assert receiver.accept or not receiver.send, "sends through the kernel but does not accept from there"
            if sender.send and not receiver.accept:
                assert self.now - self.accepted_until[name] <= CONTROL_S + A_MOMENT, "sent to where it is not accepted"
            if receiver.accept and not sender.send:
                since = self.mismatch_since.setdefault(name, self.now)
                assert self.now - since <= ANSWER_S + BEAT_S + CONTROL_S + A_MOMENT, "what comes by sleeve is lost"
            else:
                self.mismatch_since.pop(name, None)


def begin(seed: int, resumed: frozenset[PeerName]) -> World:
    return World(random.Random(seed), resumed)


SEEDS = st.integers(0, 2**32)
RESUMED = st.frozensets(st.sampled_from([LEADER, FOLLOWER]))
WEATHERS = st.lists(WEATHER, max_size=6)


@given(SEEDS, RESUMED, WEATHERS)
def test_frames_are_lost_for_a_moment_at_most(seed: int, resumed: frozenset[PeerName], weathers: list[Weather]) -> None:
    """`World.check` after each step."""
    world = begin(seed, resumed)
    for weather in weathers:
        world.run(weather)


@given(SEEDS, RESUMED, WEATHERS)
def test_a_path_that_is_well_at_last_is_used_and_stays_so(
    seed: int, resumed: frozenset[PeerName], weathers: list[Weather]
) -> None:
    world = begin(seed, resumed)
    for weather in weathers:
        world.run(weather)
    limit = LONGEST_PROOF_S + ANSWER_S + LOST_S + 3 * BEAT_S + 4 * CONTROL_S
    world.run(Weather(limit, FINE, FINE), until=lambda: world.in_use)
    world.run(Weather(LOST_S + 2 * CONTROL_S, FINE, FINE))  # what was said in worse weather has had its effect
    world.run(Weather(limit, FINE, FINE), until=lambda: world.in_use)
    assert world.in_use
    said, switches = dict(world.said), [link.switches for link in world.links.values()]
    world.run(Weather(200.0, FINE, FINE))
    assert world.in_use
    assert [link.switches for link in world.links.values()] == switches
    assert sum(world.said.values()) - sum(said.values()) <= 2


@given(SEEDS, RESUMED, WEATHERS, BLOCKED, st.booleans())
def test_a_path_that_is_blocked_is_left_by_both_and_stays_so(
    seed: int,
    resumed: frozenset[PeerName],
    weathers: list[Weather],
    blocked: dict[PeerName, float],
    small_pass: bool,
) -> None:
    world = begin(seed, resumed)
    for weather in weathers:
        world.run(weather)
    world.run(Weather(60.0, FINE, FINE), until=lambda: world.in_use)
    limit = PATH_S + LOST_S + BEAT_S + CONTROL_S + A_MOMENT
    small = FINE if small_pass else blocked
    # The last heartbeat arrives, is missed, and the other is told.
    world.run(Weather(limit, small, blocked))
    assert world.is_left
    world.run(Weather(2 * CONTROL_S, small, blocked))
    for _ in range(100):
        world.run(Weather(1.0, small, blocked))
        assert world.is_left


@settings(max_examples=25)
@given(SEEDS, RESUMED, BOTH, BOTH)
def test_bad_weather_without_end_costs_few_switches_and_few_words(
    seed: int, resumed: frozenset[PeerName], small: dict[PeerName, float], full: dict[PeerName, float]
) -> None:
    world = begin(seed, resumed)
    seconds = 1800.0
    world.run(Weather(seconds, small, full))
    for name, link in world.links.items():
        # At worst: used for STABLE_S, and five short times until the proof is at its longest again.
        assert link.switches <= 12 * (1 + seconds / 120)
        # Of each size, lost and heard again within LOST_S at the earliest; MODE: twice at each switch.
        assert world.said[name] <= 10 + 4 * seconds / LOST_S + 2 * sum(link.switches for link in world.links.values())
