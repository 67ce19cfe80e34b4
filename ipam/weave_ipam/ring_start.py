"""How a cluster that has no ring gets one, as one peer takes part in it (ipam.md section 10). No I/O.

A voter runs an election with the others (`election`); an observer passes on what voters claim and waits for the ring.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_ipam.effects import Broadcast, BroadcastClaims
from weave_ipam.election import Claims, Election, Voter
from weave_ipam.settings import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_ipam.effects import Effect
    from weave_ipam.settings import Beginning
    from weave_router.wire.peer_name import PeerName

MAX_OBSERVED = 4096
"""Voters whose claims an observer passes on."""


class RingStart:
    """One peer's part in it. `voter`: ourselves in this life, or in an earlier one that has said something."""

    def __init__(self, voter: Voter, beginning: Beginning) -> None:
        self._voter = voter
        self._beginning = beginning
        self._election: Election | None = None
        self._observed: dict[Voter, Claims] = {}
        self._overtaken = float("-inf")
        """When we last heard of a proposal above ours that was new."""
        self._stored: Claims | None = None

    def restore(self, voter: Voter, claims: Claims, *, over: bool) -> None:
        """What we have promised holds over restarts (section 17, rule 8). `over`: there is a ring."""
        self._voter, self._stored = voter, claims
        if not over:
            self._election = Election(voter)
            self._election.claims[voter] = claims

    @property
    def votes(self) -> bool:
        """Whether we take part in elections."""
        return self._beginning.mode is not Mode.OBSERVER

    @property
    def elects(self) -> bool:
        """Whether an election runs that we want a result of."""
        return self._election is not None and self._election.quorum is not None

    @property
    def quorum(self) -> tuple[int, int]:
        """How many voters make a decision, and how many are known; zeros where no election runs."""
        if self._election is None or self._election.quorum is None:
            return 0, 0
        return self._election.quorum, self._election.known

    @property
    def claims(self) -> Mapping[Voter, Claims] | None:
        """What others are told; None where there is nothing that an observer could tell."""
        if self._election is not None:
            return self._election.claims
        return {} if self.votes else self._observed or None

    @property
    def own_claims(self) -> Claims | None:
        """What we have said ourselves."""
        return None if self._election is None else self._election.own

    def take_change(self) -> tuple[Voter, Claims | None] | None:
        """What we have said, if that is new since the last call; no claims once there is a ring."""
        claims = self.own_claims
        if claims == self._stored:
            return None
        self._stored = claims
        return self._voter, claims

    def want(self, peers: int) -> list[Effect]:
        """A ring is wanted; `peers` is the guess of how many we are, where the operator named no number of voters."""
        if not self.votes:
            return [Broadcast()]
        if self.elects:
            return []
        election = self._elect()
        election.quorum = (self._beginning.voters or peers) // 2 + 1
        return self.propose()

    def propose(self) -> list[Effect]:
        """Begin a round of our own."""
        election = self._elect()
        election.propose()
        if election.quorum == 1:
            election.think()
        return [BroadcastClaims(self._voter)]

    def propose_again(self, now: float, pause: float) -> list[Effect]:
        """The same where none has decided anything, unless another voter has begun a later one within `pause` seconds.

        Else voters would go on and on outdoing each other, and each round is a broadcast of every voter.
        """
        return [] if now - self._overtaken < pause else self.propose()

    def hear(self, claims: Mapping[Voter, Claims], now: float) -> list[Effect]:
        """Others have told what they claim."""
        if not self.votes:
            if len(self._observed) < MAX_OBSERVED:
                passing = Election(self._voter)
                passing.claims = self._observed
                passing.learn(claims)
            return []
        if not claims:
            return []
        election = self._elect()
        before = election.highest
        if not election.learn(claims):
            return []
        if election.highest > before:
            self._overtaken = now
        return [BroadcastClaims(self._voter)] if election.think() else []

    def decided(self) -> tuple[PeerName, ...] | None:
        """Who is to share the range, once that is agreed."""
        return None if self._election is None else self._election.decided()

    def end(self) -> None:
        """There is a ring."""
        self._election = None
        self._observed.clear()

    def _elect(self) -> Election:
        if self._election is None:
            self._election = Election(self._voter)
        return self._election
