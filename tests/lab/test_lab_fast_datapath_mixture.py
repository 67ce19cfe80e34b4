"""Broadcasts, multicasts and unicasts over a mixture of overlays that changes: once, and never twice.

    A, B, C, D on a switch, all connected; D with --no-fastdp          E ─── C: reached by the others over C only
    with WEAVER a sixth host on the switch runs Weave Net 2.8

`WEAVE_CHANGES=600` lets the mixture change for so many seconds, `WEAVE_SEED` chooses other changes.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from interop.weave_net_28 import WeaveNet28
from lab.network import LabError
from lab.numbered_traffic import FLIGHT_S, NumberedTraffic
from lab.overlays import VXLAN_PORT, close_ways, overlays
from lab.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.network import Host, Lab
    from lab.overlays import Way

CHANGES_S = float(os.environ.get("WEAVE_CHANGES", "20"))
SEED = int(os.environ.get("WEAVE_SEED", "1"))
SETTLED_S = 2.0
"""So long after the last change has settled each frame arrives exactly once again."""
STEADY_S = 3.0
"""For so long it is watched then."""
SETTLE_TIMEOUT_S = 120.0
OLD = "W"
ADDRESSES = {"A": "192.0.2.1", "B": "192.0.2.2", "C": "192.0.2.3", "D": "192.0.2.4", OLD: "192.0.2.6"}
CABLE = {"C": "198.51.100.1", "E": "198.51.100.2"}
Pair = frozenset[str]


def pair(first: str, second: str) -> Pair:
    """Two hosts."""
    return frozenset((first, second))


def _names(pairs: set[Pair]) -> str:
    return " ".join(sorted("".join(sorted(two)) for two in pairs)) or "nowhere"


@dataclass
class Mixture:
    """The hosts, what is done to them, and what their connections should be like then."""

    hosts: dict[str, Host]
    """Those with our router."""
    old: WeaveNet28 | None
    blocked: set[Pair] = field(default_factory=set)
    """Between these no VXLAN packet passes."""
    cut: set[Pair] = field(default_factory=set)
    """Between these nothing passes."""
    forgotten: set[Pair] = field(default_factory=set)
    """These have been told to end their connection."""
    sleeve_only: set[str] = field(default_factory=lambda: {"D"})
    done: list[tuple[str, float]] = field(default_factory=list)
    """What has been done, and when it had been."""

    @property
    def pairs(self) -> list[Pair]:
        """Those of ours that are connected unless told otherwise."""
        switch = [label for label in self.hosts if label in ADDRESSES]
        return [pair(*two) for two in itertools.combinations(switch, 2)] + [pair("C", "E")]

    def expected(self) -> dict[str, dict[str, str]]:
        """Of each host the overlays of its connections."""
        found: dict[str, dict[str, str]] = {label: {} for label in self.hosts}
        for two in self.pairs:
            if two not in self.forgotten:
                sleeve = two in self.blocked or two & self.sleeve_only
                for label in two:
                    (other,) = two - {label}
                    found[label][other] = "sleeve" if sleeve else "vxlan"
        if self.old is not None:
            for label in found:
                if label in ADDRESSES:
                    found[label][OLD] = "sleeve"
        return found

    def as_expected(self) -> bool:
        """Whether all connections are as they should be."""
        expected = self.expected()
        return all(overlays(host) == expected[label] for label, host in self.hosts.items())

    # --- what is done ------------------------------------------------------------------------------------------------

    def launch(self, label: str) -> None:
        """Launch a router; each dials those before it."""
        host = self.hosts[label]
        host.fast_datapath = True
        before = {other: address for other, address in ADDRESSES.items() if other < label}
        targets = [CABLE["C"]] if label == "E" else list(before.values())
        sleeve = ["--no-fastdp"] if label in self.sleeve_only else []
        host.weave("launch", "--no-discovery", "--name", f"::{ord(label) - ord('A') + 1}", *sleeve, *targets)
        self.done.append((f"launched {label}", time.monotonic()))

    def launch_old(self) -> None:
        """Launch Weave Net 2.8, which dials all on the switch."""
        if self.old is not None:
            self.old.launch(*(ADDRESSES[label] for label in "ABCD"))

    def apply_ways(self) -> None:
        """Let pass between hosts what is to pass."""
        for label, host in self.hosts.items():
            ways: list[Way] = []
            for two in self.blocked | self.cut:
                if label in two:
                    (other,) = two - {label}
                    addresses = CABLE if "E" in two else ADDRESSES
                    ways.append((addresses[other], None if two in self.cut else VXLAN_PORT))
            close_ways(host, ways)
        self.done.append((f"ways closed: VXLAN {_names(self.blocked)}, all {_names(self.cut)}", time.monotonic()))

    def forget(self, two: Pair) -> None:
        """Have the one that dialled the other forget it."""
        target, dialler = sorted(two)
        self.forgotten.add(two)
        self.hosts[dialler].weave("forget", (CABLE if dialler == "E" else ADDRESSES)[target])
        self.done.append((f"{dialler} forgot {target}", time.monotonic()))

    def connect(self, two: Pair) -> None:
        """Undo `forget`."""
        target, dialler = sorted(two)
        self.forgotten.discard(two)
        self.hosts[dialler].weave("connect", (CABLE if dialler == "E" else ADDRESSES)[target])
        self.done.append((f"{dialler} connects to {target}", time.monotonic()))

    def restart(self, label: str, *, kill: bool, away_s: float) -> None:
        """End a router and launch it again after a while."""
        if label == OLD and self.old is not None:
            self.old.stop()
            time.sleep(away_s)
            self.launch_old()
            return
        if kill:
            self.hosts[label].kill()
        else:
            self.hosts[label].weave("stop")
        self.done.append((f"{'killed' if kill else 'stopped'} {label}", time.monotonic()))
        time.sleep(away_s)
        self.launch(label)


class Judge:
    """Watches traffic while a mixture changes."""

    def __init__(self, mixture: Mixture, traffic: NumberedTraffic) -> None:
        self._mixture = mixture
        self._traffic = traffic
        self._began = time.monotonic()
        self.windows: list[tuple[str, float, float]] = []
        """After which change, begin and end of times in which all frames had to arrive."""

    def settle(self, after: str) -> None:
        """Wait until the connections are as they should be; then nothing may be lost for a while."""
        began = time.monotonic()
        flips = 0
        while True:
            left = SETTLE_TIMEOUT_S - (time.monotonic() - began)
            try:
                wait_until(self._mixture.as_expected, left, f"the connections to settle after: {after}")
            except LabError as error:
                found = {label: overlays(host) for label, host in self._mixture.hosts.items()}
                raise LabError(f"{error}\nexpected {self._mixture.expected()}\nfound    {found}") from error
            settled = time.monotonic()
            begin, end = settled + SETTLED_S, settled + SETTLED_S + STEADY_S
            while time.monotonic() < end and self._mixture.as_expected():
                time.sleep(0.4)
            if time.monotonic() >= end:
                break
            flips += 1
        self.windows.append((after, begin, end))
        time.sleep(FLIGHT_S)
        count = self._traffic.count(begin, end)
        lost = ", ".join(f"{what} after {moment - settled:.2f} s" for moment, what in count.lost_at)
        verdict = "all exactly once" if count.exact else f"LOST {lost or 'none'} TWICE {dict(count.twice)}"
        restless = f", {flips} times not for long" if flips else ""
        at = time.monotonic() - self._began
        print(f"{at:5.0f} s {after}: settled after {settled - began:.1f} s{restless}, {count.frames} frames, {verdict}")

    def _last_change(self, moment: float) -> str:
        done = [(what, at) for what, at in self._mixture.done if at <= moment]
        return ", ".join(f"{what} at {at - self._began:.2f} s" for what, at in done[-3:])

    def verdict(self) -> None:
        """Assert it, when the traffic is over.

        While something changes, nothing is asked of what comes from or to 2.8, nor of unicasts, which are flooded
        until it is known where their destination lives.
        """
        total = self._traffic.count(self._began, float("inf"))
        ours = {what: times for what, times in total.twice.items() if OLD not in what and "unicast" not in what}
        print(f"{total.frames} frames for {total.expected} receivers: {total.lost.total()} lost, {ours} twice")
        for moment, what, delays in sorted(total.twice_at):
            print(f"  {moment - self._began:.2f} s: {what} {delays}; before that: {self._last_change(moment)}")
        print(f"longest on its way: {self._traffic.latest():.2f} s")
        for after, begin, end in self.windows:
            count = self._traffic.count(begin, end)
            assert not count.lost_at, f"lost in the steady state after: {after}"
            assert not count.twice, f"twice in the steady state after: {after}"
        assert not ours, "twice while something changed"


@contextmanager
def running(lab: Lab, *, with_old: bool) -> Iterator[tuple[Mixture, Judge]]:
    """The mixture, settled, with traffic between all its containers; the verdict comes at the end."""
    hosts = {label: lab.host(label) for label in "ABCDE"}
    plugged = {host: f"{ADDRESSES[label]}/24" for label, host in hosts.items() if label in ADDRESSES}
    old = None
    if with_old:
        old = WeaveNet28(lab, lab.host(OLD), "00:00:00:00:00:06")
        plugged[old.host] = f"{ADDRESSES[OLD]}/24"
    lab.segment(plugged)
    lab.link(hosts["C"], f"{CABLE['C']}/30", hosts["E"], f"{CABLE['E']}/30")
    mixture = Mixture(hosts, old)
    for label in hosts:
        mixture.launch(label)
    try:
        mixture.launch_old()
        containers = {
            label: host.container("web", f"10.2.1.{number}/24") for number, (label, host) in enumerate(hosts.items(), 1)
        }
        if old is not None:
            containers[OLD] = old.container("web", "10.2.1.6/24")
        with NumberedTraffic(containers) as traffic:
            judge = Judge(mixture, traffic)
            judge.settle("the start")
            yield mixture, judge
        judge.verdict()
    finally:
        if old is not None:
            old.stop()


with_or_without_old = pytest.mark.parametrize(
    "with_old", [False, pytest.param(True, marks=pytest.mark.interop)], ids=["ours", "with 2.8"]
)


@pytest.mark.waits
@with_or_without_old
@pytest.mark.timeout(900)
def test_each_change_settles(lab: Lab, with_old: bool) -> None:
    """All kinds of changes with `WEAVE_CHANGES` or 2.8, else those that have gone wrong before."""
    with running(lab, with_old=with_old) as (mixture, judge):
        mixture.blocked.add(pair("A", "B"))
        mixture.apply_ways()
        judge.settle("VXLAN blocked between A and B")
        mixture.forget(pair("C", "D"))
        judge.settle("D has forgotten C")
        mixture.blocked.clear()
        mixture.apply_ways()
        mixture.connect(pair("C", "D"))
        judge.settle("nothing blocked, all connected")
        mixture.restart("C", kill=True, away_s=0)
        judge.settle("C killed and launched")
        if with_old or "WEAVE_CHANGES" in os.environ:
            _rarer_changes(mixture, judge, with_old=with_old)


def _rarer_changes(mixture: Mixture, judge: Judge, *, with_old: bool) -> None:
    mixture.blocked.add(pair("C", "E"))
    mixture.apply_ways()
    judge.settle("VXLAN blocked between C and E")
    mixture.blocked.clear()
    mixture.apply_ways()
    mixture.forget(pair("A", "B"))
    judge.settle("B has forgotten A")
    mixture.connect(pair("A", "B"))
    judge.settle("all connected")
    mixture.cut.add(pair("B", "C"))
    mixture.apply_ways()
    time.sleep(7)
    mixture.cut.clear()
    mixture.apply_ways()
    judge.settle("B and C cut off from each other for 7 s")
    mixture.restart("A", kill=True, away_s=18)
    judge.settle("A killed and launched 18 s later")
    mixture.restart("B", kill=False, away_s=0)
    judge.settle("B stopped and launched")
    mixture.sleeve_only = {"A"}
    for label in "AD":
        mixture.restart(label, kill=True, away_s=0)
    judge.settle("--no-fastdp at A instead of D")
    if with_old:
        mixture.restart(OLD, kill=False, away_s=1)
        judge.settle("2.8 restarted")


@pytest.mark.waits
@with_or_without_old
@pytest.mark.timeout(CHANGES_S * 2 + 600)
def test_changes_at_random(lab: Lab, with_old: bool) -> None:
    """Each change may come before the one before has settled."""
    chance = random.Random(SEED)
    with running(lab, with_old=with_old) as (mixture, judge):
        end = time.monotonic() + CHANGES_S
        done: list[str] = []
        while time.monotonic() < end:
            done.append(change(mixture, chance))
            if mixture.cut or chance.random() < 0.5:
                time.sleep(chance.uniform(0.1, 6))
            if mixture.cut:
                mixture.cut.clear()
                mixture.apply_ways()
            if chance.random() < 0.3:
                judge.settle("; ".join(done))
                done.clear()
        mixture.blocked.clear()
        mixture.apply_ways()
        for two in sorted(mixture.forgotten, key=sorted):
            mixture.connect(two)
        judge.settle("; ".join([*done, "all undone"]))


def change(mixture: Mixture, chance: random.Random) -> str:
    """Make one change; tells which."""
    two = chance.choice([two for two in mixture.pairs if mixture.old is None or OLD not in two])
    label = chance.choice([*mixture.hosts, *([OLD] if mixture.old else [])])
    names = "".join(sorted(two))

    def block() -> str:
        mixture.blocked ^= {two}
        mixture.apply_ways()
        return f"{'block' if two in mixture.blocked else 'unblock'} {names}"

    def cut() -> str:
        mixture.cut.add(two)
        mixture.apply_ways()
        return f"cut {names}"

    def connect_or_forget() -> str:
        if two in mixture.forgotten:
            mixture.connect(two)
            return f"connect {names}"
        if len(mixture.forgotten) < 2 and "E" not in two:  # the mesh stays whole
            mixture.forget(two)
            return f"forget {names}"
        return block()

    def restart() -> str:
        kill, away_s = chance.random() < 0.6, chance.choice([0, 0, 1, 4, 18])
        mixture.restart(label, kill=kill, away_s=away_s)
        return f"{'kill' if kill else 'stop'} {label} for {away_s} s"

    def other_options() -> str:
        if label in (OLD, "E"):
            return block()
        mixture.sleeve_only = {label} ^ mixture.sleeve_only
        mixture.restart(label, kill=chance.random() < 0.5, away_s=0)
        return f"{'sleeve only' if label in mixture.sleeve_only else 'VXLAN'} at {label}"

    kinds: list[Callable[[], str]] = [block, block, cut, connect_or_forget, connect_or_forget, restart, other_options]
    return chance.choice(kinds)()
