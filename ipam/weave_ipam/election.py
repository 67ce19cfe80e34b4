"""How a ring begins: single-decree Paxos over gossip (ipam.md section 10.3). No I/O.

Every voter keeps what all voters claim, as far as it has heard. The value that is agreed on is a set of peers, among
whom the range is divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_router.wire.peer_name import PeerName

MAX_ROUND = (1 << 64) - 1


class Voter(NamedTuple):
    """A peer in one of its lives: restarted, it is another voter."""

    name: PeerName
    uid: int


class Proposal(NamedTuple):
    """A numbered proposal, ordered by its fields. Round 0: none."""

    round: int
    proposer: Voter


NO_VOTER = Voter(0, 0)  # type: ignore[arg-type]  # stands for nobody
NO_PROPOSAL = Proposal(0, NO_VOTER)


@dataclass(frozen=True, slots=True)
class Claims:
    """What one voter has said."""

    promise: Proposal = NO_PROPOSAL
    accepted: Proposal = NO_PROPOSAL
    value: tuple[PeerName, ...] = ()
    """Accepted with `accepted`."""
    origin: Proposal = NO_PROPOSAL
    """The proposal that first had this value."""


class Election:
    """One voter's view of the election. `quorum`: voters that make a decision, None while not computed."""

    def __init__(self, ourselves: Voter, quorum: int | None = None) -> None:
        self.ourselves = ourselves
        self.quorum = quorum
        self.claims: dict[Voter, Claims] = {}

    @property
    def own(self) -> Claims | None:
        """What we have said: to be stored before it is told, and kept over restarts (ipam.md section 17, rule 8)."""
        return self.claims.get(self.ourselves)

    @property
    def known(self) -> int:
        """How many peers are known to vote."""
        return len({voter.name for voter in self.claims})

    @property
    def highest(self) -> Proposal:
        """The latest proposal that anybody has promised to follow."""
        return max((claims.promise for claims in self.claims.values()), default=NO_PROPOSAL)

    def learn(self, heard: Mapping[Voter, Claims]) -> bool:
        """Take over what is newer of others' claims; whether anything was."""
        changed = False
        for voter, theirs in heard.items():
            ours = self.claims.get(voter)
            if ours is None:
                self.claims[voter] = theirs
                changed = True
                continue
            promise = max(ours.promise, theirs.promise)
            newer = theirs if theirs.accepted > ours.accepted else ours
            learned = Claims(promise, newer.accepted, newer.value, newer.origin)
            if learned != ours:
                self.claims[voter] = learned
                changed = True
        return changed

    def propose(self) -> None:
        """Begin a new round of our own, higher than all that were heard of."""
        ours = self.claims.get(self.ourselves, Claims())
        highest = max((max(claims.promise.round, claims.accepted.round) for claims in self.claims.values()), default=0)
        promise = Proposal(min(highest + 1, MAX_ROUND), self.ourselves)
        self.claims[self.ourselves] = Claims(promise, ours.accepted, ours.value, ours.origin)

    def think(self) -> bool:
        """Promise and accept what the claims of all ask for; whether our own claims changed."""
        before = self.claims.get(self.ourselves, Claims())
        promise = max(self.highest, before.promise)
        if not promise.round:
            return False
        ours = Claims(promise, before.accepted, before.value, before.origin)
        self.claims[self.ourselves] = ours
        if promise.proposer == self.ourselves and ours.accepted != promise:
            ours = self._try_to_accept_own(ours)
        if ours.accepted != promise:
            for claims in self.claims.values():
                if claims.accepted == promise:
                    ours = Claims(promise, promise, claims.value, claims.origin)
                    break
        self.claims[self.ourselves] = ours
        return ours != before

    def _try_to_accept_own(self, ours: Claims) -> Claims:
        # A peer has one voice, however many lives of it are known; Weave Net gives it one for each life.
        promised = [claims for claims in self.claims.values() if claims.promise == ours.promise]
        peers = {voter.name for voter, claims in self.claims.items() if claims.promise == ours.promise}
        if self.quorum is None or len(peers) < self.quorum:
            return ours
        best = max(promised, key=lambda claims: claims.accepted)
        if best.accepted.round:
            return Claims(ours.promise, ours.promise, best.value, best.origin)
        value = tuple(sorted({voter.name for voter in self.claims}))
        return Claims(ours.promise, ours.promise, value, ours.promise)

    def decided(self) -> tuple[PeerName, ...] | None:
        """The value on which there is consensus, if there is.

        Weave Net counts who has accepted a value of one origin, in whatever round; then two values can be decided when
        states get lost. Counted are the peers here that have accepted one and the same proposal.
        """
        if self.quorum is None:
            return None
        votes: dict[Proposal, set[PeerName]] = {}
        for voter, claims in self.claims.items():
            if claims.accepted.round:
                peers = votes.setdefault(claims.accepted, set())
                peers.add(voter.name)
                if len(peers) >= self.quorum:
                    return claims.value
        return None
