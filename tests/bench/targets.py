"""The ratios that this project promises, and whether a run kept them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from bench.figures import Key, Spread
from bench.probes import LOSSLESS, LOSSY, ROUND_TRIP, TCP_1, UDP_64, UDP_1200, Column
from bench.system_kernel import KernelVxlan
from bench.system_weave import EncryptedSleeve, FastDatapath, RelayedSleeve, Sleeve
from bench.system_weave_net_28 import EncryptedWeaveNet28Sleeve, WeaveNet28Sleeve
from bench.system_wireguard import WireguardGo
from bench.underlays import LOSS, VETH, Underlay

if TYPE_CHECKING:
    from bench.figures import Figures
    from bench.system import System


class Verdict(Enum):
    """How a run did on a target."""

    MET = "met"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Target:
    """A limit for a ratio of figures of one round; the median over the rounds is judged."""

    title: str
    above: tuple[Key, ...]
    below: tuple[Key, ...]
    limit: float
    at_least: bool = True
    """Otherwise at most."""


@dataclass(frozen=True)
class Judgement:
    """What a run says about a target."""

    target: Target
    ratios: tuple[float, ...]
    """Of each round."""

    @property
    def spread(self) -> Spread | None:
        """None if it was not measured."""
        return Spread.of(self.ratios) if self.ratios else None

    @property
    def verdict(self) -> Verdict:
        """Whether the median keeps the limit."""
        if self.spread is None:
            return Verdict.NOT_MEASURED
        ratio, limit = self.spread.median, self.target.limit
        kept = ratio >= limit if self.target.at_least else ratio <= limit
        return Verdict.MET if kept else Verdict.MISSED


def judge(figures: Figures) -> list[Judgement]:
    """Compare a run with all targets."""
    return [Judgement(target, tuple(figures.ratios(target.above, target.below))) for target in TARGETS]


def _key(system: type[System], column: Column, underlay: Underlay = VETH) -> Key:
    return Key(underlay.name, system.name, column.name)


def _versus(
    ours: type[System], theirs: type[System], column: Column, limit: float, title: str, *, at_least: bool = True
) -> Target:
    full_title = f"{title}, {ours.title} : {theirs.title}"
    return Target(full_title, (_key(ours, column),), (_key(theirs, column),), limit, at_least)


TARGETS = (
    _versus(FastDatapath, KernelVxlan, TCP_1, 0.95, "TCP"),
    _versus(Sleeve, WeaveNet28Sleeve, TCP_1, 9, "TCP"),
    _versus(EncryptedSleeve, EncryptedWeaveNet28Sleeve, TCP_1, 7, "TCP"),
    _versus(Sleeve, KernelVxlan, TCP_1, 0.28, "TCP"),
    _versus(EncryptedSleeve, KernelVxlan, TCP_1, 0.17, "TCP"),
    _versus(EncryptedSleeve, WireguardGo, TCP_1, 5, "TCP"),
    _versus(Sleeve, WeaveNet28Sleeve, UDP_64, 2.7, "UDP 64 B"),
    _versus(Sleeve, WeaveNet28Sleeve, UDP_1200, 5, "UDP 1200 B"),
    _versus(EncryptedSleeve, WireguardGo, UDP_1200, 3.5, "UDP 1200 B"),
    _versus(Sleeve, WeaveNet28Sleeve, ROUND_TRIP, 0.5, "round trip", at_least=False),
    _versus(RelayedSleeve, Sleeve, TCP_1, 0.55, "TCP"),
    Target(
        f"TCP kept under 1 % loss, {Sleeve.title} : {WeaveNet28Sleeve.title}",
        (_key(Sleeve, LOSSY, LOSS), _key(WeaveNet28Sleeve, LOSSLESS, LOSS)),
        (_key(Sleeve, LOSSLESS, LOSS), _key(WeaveNet28Sleeve, LOSSY, LOSS)),
        0.8,
    ),
)
