"""Numbered frames from every container to all and to single others, and how often each arrived where."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab.raw_frames import BROADCAST, Station

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lab.namespace import Namespace

GROUP = bytes.fromhex("01005e010203")
INTERVAL_S = 0.04
"""Between the frames of one station."""
FLIGHT_S = 0.5
"""A frame that was sent so shortly before a change may be hit by it."""


@dataclass
class Count:
    """What arrived of the frames of some time, at all stations that they were for."""

    frames: int = 0
    expected: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """By the two stations and the kind of frame."""
    twice: Counter[str] = field(default_factory=Counter)
    lost_at: list[tuple[float, str]] = field(default_factory=list)
    """When each of these was sent, and which it was."""
    twice_at: list[tuple[float, str, list[float]]] = field(default_factory=list)
    """When each of these was sent, which it was, and how long its copies were on their way."""

    @property
    def exact(self) -> bool:
        """Whether each arrived exactly once."""
        return not self.lost and not self.twice


class NumberedTraffic:
    """Each station sends a broadcast, a multicast and a unicast to the next one in turn; a context manager.

    Of each number (from 0 on) the remainder by three tells which it is. Times are monotonic seconds.
    """

    def __init__(self, containers: Mapping[str, Namespace]) -> None:
        self._stack = ExitStack()
        self.stations = {label: Station(container) for label, container in containers.items()}
        self._sent: dict[str, list[float]] = {label: [] for label in containers}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> NumberedTraffic:
        with ExitStack() as stack:
            for station in self.stations.values():
                stack.enter_context(station)
            self._thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        time.sleep(FLIGHT_S)  # for what is on its way, or comes once more
        self._stack.close()

    def count(self, begin: float, end: float) -> Count:
        """What became of the frames that were sent from `begin` to `end`."""
        count = Count()
        counts = self._arrivals()
        for sender, moments in self._sent.items():
            for number, moment in enumerate(list(moments)):
                if begin <= moment < end:
                    count.frames += 1
                    for receiver in self._receivers(sender, number):
                        count.expected += 1
                        times = counts[sender, receiver][number]
                        what = f"{sender}→{receiver} {('broadcast', 'multicast', 'unicast')[number % 3]}"
                        if times == 0:
                            count.lost[what] += 1
                            count.lost_at.append((moment, what))
                        elif times > 1:
                            count.twice[what] += 1
                            count.twice_at.append((moment, what, self._delays(sender, receiver, number)))
        return count

    def latest(self) -> float:
        """The longest time that a frame was on its way."""
        names = {station.mac: label for label, station in self.stations.items()}
        return max(
            arrived - self._sent[names[source]][number]
            for station in self.stations.values()
            for source, number, arrived in list(station.arrivals)
            if source in names and number < len(self._sent[names[source]])
        )

    def _delays(self, sender: str, receiver: str, number: int) -> list[float]:
        source, sent = self.stations[sender].mac, self._sent[sender][number]
        arrivals = list(self.stations[receiver].arrivals)
        return [round(arrived - sent, 4) for mac, n, arrived in arrivals if (mac, n) == (source, number)]

    def _arrivals(self) -> dict[tuple[str, str], Counter[int]]:
        return {
            (sender, receiver): self.stations[receiver].counts(self.stations[sender].mac)
            for sender, receiver in itertools.permutations(self.stations, 2)
        }

    def _receivers(self, sender: str, number: int) -> Iterator[str]:
        if number % 3 == 2:
            yield self._next(sender)
        else:
            yield from (label for label in self.stations if label != sender)

    def _next(self, sender: str) -> str:
        labels = list(self.stations)
        return labels[(labels.index(sender) + 1) % len(labels)]

    def _send(self) -> None:
        due = time.monotonic()
        for number in itertools.count():
            for label, station in self.stations.items():
                targets = (BROADCAST, GROUP, self.stations[self._next(label)].mac)
                self._sent[label].append(time.monotonic())
                station.send(targets[number % 3], number)
            due = max(due + INTERVAL_S, time.monotonic())
            if self._stopped.wait(due - time.monotonic()):
                return
