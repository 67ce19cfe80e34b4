"""How the living agree that a peer is gone, and who takes its addresses over. No I/O.

Weave Net lets any peer take over any other at any time. If two do so apart from each other, or the peer lives, the same
addresses are given out twice. Among our own peers therefore:

- Every owner of addresses has to agree, not a majority: whoever cannot be reached might have been given space by the
  peer that is gone, without anybody else having heard of it. So two halves of a network can never both agree.
- An owner agrees if the peer has been out of its reach for `GONE_SECONDS`, and keeps in its store to whom it did. With
  its consent it sends its ring, so that the taker knows all that was given away.
- A peer that was down for longer than that asks one other owner, when it is back, whether it has been removed, before
  it gives out anything. Nobody confirms it who has agreed to its removal.

    taker ── ASK ──> each owner ── YES (stored) or NO ──> taker: all agree ─> ring
    peer that is back ── CONFIRM ──> an owner ── CONFIRMED, or PENDING; that owner ── RESOLVE ──> taker ── ABANDONED

Owners of Weave Net 2.8 are not asked: that they can be reached and send their ring counts as consent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from weave_router.wire import gob
from weave_router.wire.peer_name import NO_PEER, PeerName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHANNEL = "weave-net ipam"
GONE_SECONDS = 60.0
MAX_TEXT_BYTES = 1024
_MAX_NUMBER = 1 << 32


class Ballot(NamedTuple):
    """One attempt to take a peer over; of two attempts the higher one counts."""

    number: int
    taker: PeerName


class Step(IntEnum):
    """What a message says."""

    ASK = 1
    YES = 2
    NO = 3
    CONFIRM = 4
    CONFIRMED = 5
    PENDING = 6
    RESOLVE = 7
    ABANDONED = 8


@dataclass(frozen=True, slots=True)
class Message:
    """One unicast. `peer`: who is to be removed; for CONFIRM and its answers the asker."""

    step: Step
    peer: PeerName
    ballot: Ballot = Ballot(0, NO_PEER)  # noqa: RUF009 - immutable
    text: str = ""
    """Why not."""


_MESSAGE = gob.Struct(
    {"Step": gob.UINT, "Peer": gob.UINT, "Number": gob.UINT, "Taker": gob.UINT, "Text": gob.STRING}, "removal"
)


_MESSAGES = gob.Codec(_MESSAGE)


def encode_message(message: Message) -> bytes:
    """A payload."""
    return _MESSAGES.encode(
        _MESSAGE,
        {
            "Step": message.step,
            "Peer": message.peer,
            "Number": message.ballot.number,
            "Taker": message.ballot.taker,
            "Text": message.text,
        },
    )


def decode_message(payload: bytes) -> Message:
    """Read a payload. Raises `GobError`."""
    content = _MESSAGES.decode(_MESSAGE, payload)
    step, peer, taker = content.get("Step", 0), content.get("Peer", 0), content.get("Taker", 0)
    number, text = content.get("Number", 0), content.get("Text", "")
    if step not in set(Step) or (peer | taker) >> 48 or number >= _MAX_NUMBER or gob.byte_length(text) > MAX_TEXT_BYTES:
        raise gob.GobError("message about a removal that makes no sense")
    return Message(Step(step), PeerName(peer), Ballot(number, PeerName(taker)), text)


@dataclass
class Attempt:
    """Our own attempt to take a peer over."""

    ballot: Ballot
    awaited: set[PeerName]
    """Owners that have not agreed yet."""
    refusal: str = ""
    committed: bool = False


class Removals:
    """One peer's part in removals.

    `votes`: to whom it agreed, as stored. `reachable`: whether a peer can be reached; `owns`: whether it still owns
    addresses in our ring; `label`: a peer for people. `now`: seconds.
    """

    def __init__(
        self,
        ourselves: PeerName,
        votes: Mapping[PeerName, Ballot],
        *,
        reachable: Callable[[PeerName], bool],
        owns: Callable[[PeerName], bool],
        label: Callable[[PeerName], str],
        now: float,
    ) -> None:
        self.votes = dict(votes)
        self.attempts: dict[PeerName, Attempt] = {}
        self._ourselves = ourselves
        self._reachable = reachable
        self._owns = owns
        self._label = label
        self._start = now
        self._last_seen: dict[PeerName, float] = {}
        self._changed: dict[PeerName, None] = {}

    def take_changes(self) -> dict[PeerName, Ballot | None]:
        """Votes to store; None for those that are over."""
        changed, self._changed = self._changed, {}
        return {peer: self.votes.get(peer) for peer in changed}

    def seen(self, peers: Mapping[PeerName, object], now: float) -> None:
        """These peers can be reached at present; call it at least every few seconds."""
        for peer in peers:
            self._last_seen[peer] = now
        for peer in [peer for peer, at in self._last_seen.items() if now - at > 2 * GONE_SECONDS]:
            del self._last_seen[peer]
        for peer in [peer for peer in self.votes if not self._owns(peer)]:
            self._forget(peer)  # it was taken over, or has handed over itself

    def objection(self, peer: PeerName, now: float) -> str:
        """Why a peer must not be removed as far as we can tell; empty if it may."""
        if peer == self._ourselves:
            return f"{self._label(peer)} is alive"
        if self._reachable(peer):
            return f"{self._label(peer)} can be reached"
        missing = now - self._last_seen.get(peer, self._start)
        if missing < GONE_SECONDS:
            return (
                f"{self._label(peer)} has been out of reach for {missing:.0f} s only: "
                f"try again in {GONE_SECONDS - missing:.0f} s"
            )
        return ""

    def begin(self, peer: PeerName, owners: set[PeerName]) -> Attempt:
        """Attempt to take a peer over; these owners have to agree."""
        before = self.votes.get(peer)
        ballot = Ballot(before.number + 1 if before else 1, self._ourselves)
        self._vote(peer, ballot)
        attempt = self.attempts[peer] = Attempt(ballot, set(owners))
        return attempt

    def end(self, peer: PeerName, *, committed: bool) -> None:
        """Our attempt is over."""
        attempt = self.attempts.pop(peer, None)
        if attempt is not None and committed:
            self._forget(peer)

    def receive(self, source: PeerName, message: Message, now: float) -> list[tuple[PeerName, Message]]:
        """Handle a message; returns what to send. A YES must be stored before it is sent."""
        peer, ballot = message.peer, message.ballot
        match message.step:
            case Step.ASK if ballot.taker == source:
                return [(source, self._consider(peer, ballot, now))]
            case Step.YES | Step.NO:
                self._answered(source, message)
            case Step.CONFIRM if peer == source:
                return self._confirm(peer)
            case Step.RESOLVE if ballot.taker == self._ourselves and self._owns(peer):
                attempt = self.attempts.get(peer)
                if attempt is not None and attempt.ballot == ballot:
                    attempt.refusal = f"{self._label(peer)} has come back"
                return [(source, Message(Step.ABANDONED, peer, ballot))]
            case Step.ABANDONED if ballot.taker == source and self.votes.get(peer) == ballot:
                self._forget(peer)
            case _:
                pass
        return []

    def _consider(self, peer: PeerName, ballot: Ballot, now: float) -> Message:
        objection = self.objection(peer, now)
        vote = self.votes.get(peer)
        if not objection and vote is not None and vote > ballot:
            objection = f"{self._label(vote.taker)} has begun to take {self._label(peer)} over"
            ballot = vote._replace(taker=ballot.taker)  # so that the next attempt has a higher number
        if objection:
            return Message(Step.NO, peer, ballot, objection)
        self._vote(peer, ballot)
        if peer in self.attempts and ballot.taker != self._ourselves:
            self.attempts[peer].refusal = f"{self._label(ballot.taker)} takes it over"
        return Message(Step.YES, peer, ballot)

    def _answered(self, source: PeerName, message: Message) -> None:
        attempt = self.attempts.get(message.peer)
        if attempt is None or message.ballot.taker != self._ourselves:
            return
        if message.step is Step.NO:
            attempt.refusal = message.text or "it was refused"
            if message.ballot.number > attempt.ballot.number:
                self._vote(message.peer, Ballot(message.ballot.number, self._ourselves))
        elif message.ballot == attempt.ballot:
            attempt.awaited.discard(source)

    def _confirm(self, peer: PeerName) -> list[tuple[PeerName, Message]]:
        vote = self.votes.get(peer)
        if vote is None:
            return [(peer, Message(Step.CONFIRMED, peer))]
        if vote.taker == self._ourselves:
            attempt = self.attempts.get(peer)
            if attempt is not None:
                attempt.refusal = f"{self._label(peer)} has come back"
            self._forget(peer)
            return [(peer, Message(Step.CONFIRMED, peer))]
        return [(peer, Message(Step.PENDING, peer, vote)), (vote.taker, Message(Step.RESOLVE, peer, vote))]

    def _vote(self, peer: PeerName, ballot: Ballot) -> None:
        self.votes[peer] = ballot
        self._changed[peer] = None

    def _forget(self, peer: PeerName) -> None:
        if self.votes.pop(peer, None) is not None:
            self._changed[peer] = None
