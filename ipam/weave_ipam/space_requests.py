"""Whom a peer has asked for space, and who had none (ipam.md section 8). No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from weave_ipam.ranges import AddressRange
    from weave_router.control.random_source import RandomSource
    from weave_router.wire.peer_name import PeerName

ANSWER_SECONDS = 1.0
"""A request that has not been answered for so long goes to another peer, or is repeated."""
DENIAL_SECONDS = 60.0
"""A peer that had nothing to give is not asked again for so long, unless it reports other numbers."""


class _Asked(NamedTuple):
    peer: PeerName
    at: float


class _Denial(NamedTuple):
    at: float
    free: int
    """What the peer reported to have at that time."""


class SpaceRequests:
    """Requests that may still be answered, one for each range, and the denials that are remembered."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._asked: dict[AddressRange, _Asked] = {}
        self._denials: dict[tuple[PeerName, AddressRange], _Denial] = {}

    def asked(self, wanted: AddressRange) -> PeerName | None:
        """Who has been asked for this range."""
        asked = self._asked.get(wanted)
        return None if asked is None else asked.peer

    def may_answer(self, wanted: AddressRange, now: float) -> bool:
        """Whether somebody was asked who has not had his time."""
        asked = self._asked.get(wanted)
        return asked is not None and now - asked.at < ANSWER_SECONDS

    def note(self, wanted: AddressRange, peer: PeerName, now: float) -> None:
        """A peer is being asked."""
        self._asked[wanted] = _Asked(peer, now)

    def choose(
        self, wanted: AddressRange, donors: Mapping[PeerName, int], suits: Callable[[PeerName], bool], now: float
    ) -> PeerName | None:
        """Whom to ask: by chance, weighted with how much each reports to have; None if nobody is worth it.

        Not who has just had his chance, while there are others, nor who denied and reports the same as then.
        """
        weights = {peer: free * self._random.random() for peer, free in donors.items()}
        before = self.asked(wanted)
        if before in weights:
            weights[before] = 0.0
        for peer in sorted(weights, key=weights.__getitem__, reverse=True):
            denial = self._denials.get((peer, wanted))
            stands = denial is not None and now - denial.at < DENIAL_SECONDS and denial.free == donors[peer]
            if not stands and suits(peer):
                self.note(wanted, peer, now)
                return peer
        self._asked.pop(wanted, None)
        return None

    def deny(self, wanted: AddressRange, peer: PeerName, free: int, now: float) -> None:
        """The peer that was asked has nothing, and reports `free` addresses."""
        del self._asked[wanted]
        self._denials = {key: denial for key, denial in self._denials.items() if now - denial.at < DENIAL_SECONDS}
        self._denials[peer, wanted] = _Denial(now, free)

    def settle(self, is_served: Callable[[AddressRange], bool]) -> None:
        """Forget the requests for ranges of which we have got something."""
        for wanted in [wanted for wanted in self._asked if is_served(wanted)]:
            del self._asked[wanted]

    def next_timer(self) -> float:
        """When the first of them has not been answered in time."""
        return min((asked.at + ANSWER_SECONDS for asked in self._asked.values()), default=float("inf"))

    def expire(self, now: float) -> None:
        """Forget those that were not answered in time."""
        self._asked = {wanted: asked for wanted, asked in self._asked.items() if asked.at + ANSWER_SECONDS > now}
