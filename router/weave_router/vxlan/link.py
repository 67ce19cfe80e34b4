"""The VXLAN path between two neighbours: is it well in both directions, and do both use it? Without I/O.

Each side sends heartbeats through the path and tells over the control connection which of the other's it hears. When
full-sized ones pass both ways the *leader* (the lower name) switches over; the follower follows. Any side may switch
back, at once.

A side *accepts* a neighbour's frames either from the kernel or by sleeve, never both: so nothing comes twice,
whatever the two sides believe. It *sends* through the kernel only while the other has said that it accepts that:

    leader                             follower
    path well for a while
    accept kernel ── MODE 1 ─────────>  accept kernel, send kernel
    send kernel   <───────── MODE 1 ──

A restarted router finds what it had programmed still at work: such a link is *resumed*, begins in that state, and keeps
it if the neighbour does, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weave_router.vxlan.messages import Hearing, Hello, Number, decode_flag, decode_hello, encode_hello

if TYPE_CHECKING:
    from weave_router.wire.peer_name import PeerName

BEAT_S = 1.0
LOST_S = 4.0
"""Without a heartbeat for so long the path is lost."""
PROOF_S = 2.0
"""The path must be well for so long before it is used; longer after it has failed soon."""
LONGEST_PROOF_S = 30.0
STABLE_S = 60.0
"""A path that was used for so long failed for a new reason."""
ANSWER_S = 5.0
"""How long the leader waits for the follower."""


@dataclass(frozen=True, slots=True)
class SendControl:
    """Send this over the control connection."""

    number: Number
    body: bytes


@dataclass(frozen=True, slots=True)
class SendBeat:
    """Send a small and a full heartbeat with this token."""

    token: bytes


@dataclass(frozen=True, slots=True)
class SetMode:
    """How the neighbour's frames are accepted, and how ours are sent to it, from now on."""

    accept: bool
    """From the kernel; else by sleeve."""
    send: bool
    """Through the kernel; else by sleeve."""


Action = SendControl | SendBeat | SetMode


class VxlanLink:
    """One neighbour's path. `token`: 8 random bytes; `mtu`: bytes; times in seconds.

    `resumed`: the kernel carries frames of both sides already.
    """

    def __init__(
        self, ourselves: PeerName, peer: PeerName, *, token: bytes, mtu: int, now: float, resumed: bool = False
    ) -> None:
        self.token = token
        self.accept = self.send = resumed
        self.switches = 0
        """How often it has changed from one way to the other."""
        self._leads = ourselves < peer
        self._mtu = mtu
        self._theirs: Hello | None = None
        self._heard = {Hearing.SMALL: now if resumed else None, Hearing.FULL: now if resumed else None}
        self._hearing = Hearing.SMALL | Hearing.FULL if resumed else Hearing.NONE
        self._peer_hears = self._hearing
        self._well_since: float | None = None
        self._proof = PROOF_S
        self._used_since = now
        self._asked_at: float | None = None
        self._next_beat = now
        self._began = now

    @property
    def in_use(self) -> bool:
        """Whether frames go through the kernel in both directions."""
        return self.accept and self.send

    @property
    def next_timer(self) -> float:
        """When `handle_timer` is due."""
        return self._next_beat

    def start(self) -> list[Action]:
        """The control connection is there."""
        return [
            SendControl(Number.HELLO, encode_hello(Hello(self.token, self._mtu))),
            SendControl(Number.HEARING, bytes((self._hearing,))),
            SendControl(Number.MODE, bytes((self.accept,))),
        ]

    def heartbeat(self, token: bytes, *, full: bool, now: float) -> list[Action]:
        """A heartbeat of the neighbour has come; one with another token was made up, or sent in an earlier life."""
        if token != self.token:
            return []
        self._heard[Hearing.FULL if full else Hearing.SMALL] = now
        return self._judge(now)

    def control(self, number: int, body: bytes, now: float) -> list[Action]:
        """A control message of the neighbour. Raises `VxlanError`."""
        match number:
            case Number.HELLO:
                self._theirs = decode_hello(body)
                self._next_beat = now
            case Number.HEARING:
                self._peer_hears = Hearing(decode_flag(body) & 3)
            case Number.MODE:
                return self._told(bool(decode_flag(body)), now)
        return self._judge(now)

    def handle_timer(self, now: float) -> list[Action]:
        """Do what is due."""
        actions: list[Action] = []
        if now >= self._next_beat:
            self._next_beat = now + BEAT_S
            if self._theirs is not None:
                actions.append(SendBeat(self._theirs.token))
        return actions + self._judge(now)

    def trouble(self, now: float) -> str:
        """Why the path is not used, for the operator; empty while it is."""
        if self.in_use:
            return ""
        if self._theirs is not None and self._theirs.mtu != self._mtu:
            return f"the MTUs differ: {self._mtu} here, {self._theirs.mtu} there"
        if now - self._began < LOST_S:
            return "VXLAN is being tried"
        missing = [
            (not self._hearing & Hearing.SMALL, "nothing comes through it"),
            (not self._peer_hears & Hearing.SMALL, "nothing arrives at the peer"),
            (
                not self._hearing & self._peer_hears & Hearing.FULL,
                f"packets of {self._mtu} bytes do not pass: the underlay's MTU is too small",
            ),
        ]
        reason = next((text for is_so, text in missing if is_so), "")
        return f"VXLAN: {reason}" if reason else "VXLAN is being tried"

    def abandon(self, now: float) -> list[Action]:
        """The kernel fails us."""
        return self._leave(now)

    def farewell(self, now: float) -> list[Action]:
        """The neighbour stops for good."""
        return self._leave(now, tell=False)

    # --- what follows -----------------------------------------------------------------------------------------------

    def _judge(self, now: float) -> list[Action]:
        hearing = Hearing.NONE
        for kind, heard in self._heard.items():
            if heard is not None and now - heard < LOST_S:
                hearing |= kind
        actions: list[Action] = []
        if hearing != self._hearing:
            self._hearing = hearing
            actions.append(SendControl(Number.HEARING, bytes((hearing,))))
        if not hearing & self._peer_hears & Hearing.FULL:
            self._well_since = None
            return actions + self._leave(now)
        if self._well_since is None:
            self._well_since = now
        if self._asked_at is not None and now - self._asked_at >= ANSWER_S:
            return actions + self._leave(now)
        if self._leads and not self.accept and now - self._well_since >= self._proof:
            self._asked_at = now
            self.accept = True
            actions += [SetMode(accept=True, send=self.send), SendControl(Number.MODE, b"\1")]
        return actions

    def _told(self, kernel: bool, now: float) -> list[Action]:
        """The neighbour says how it accepts our frames."""
        if not kernel:
            return self._leave(now, tell=self.accept)
        if self._leads:
            if not self.accept:
                return []  # an answer that comes too late; ours has crossed it
            self._asked_at = None
            return self._use(now)
        if not self._hearing & Hearing.FULL:
            return [SendControl(Number.MODE, b"\0")]
        self.accept = True
        return [*self._use(now), SendControl(Number.MODE, b"\1")]

    def _use(self, now: float) -> list[Action]:
        if self.send:
            return []
        self.send = True
        self.switches += 1
        self._used_since = now
        return [SetMode(accept=True, send=True)]

    def _leave(self, now: float, *, tell: bool = True) -> list[Action]:
        if not self.accept and not self.send:
            return []
        if self.send:
            self.switches += 1
        in_vain = self._asked_at is not None
        if self.send or in_vain:
            soon = in_vain or now - self._used_since < STABLE_S
            self._proof = min(self._proof * 2, LONGEST_PROOF_S) if soon else PROOF_S
        self.accept = self.send = False
        self._asked_at = None
        self._well_since = None
        actions: list[Action] = [SetMode(accept=False, send=False)]
        if tell:
            actions.append(SendControl(Number.MODE, b"\0"))
        return actions
