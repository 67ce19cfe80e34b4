"""`VxlanLink`: when two neighbours use their VXLAN path, and when they stop.

`Pair` joins two links: heartbeats go through a path that can be cut, control messages arrive at once or are held back.
Full heartbeats are as large as the sender's MTU and are read with the receiver's, as the frames are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from weave_router.vxlan.link import (
    ANSWER_S,
    BEAT_S,
    LONGEST_PROOF_S,
    LOST_S,
    PROOF_S,
    STABLE_S,
    Action,
    SendBeat,
    SendControl,
    SetMode,
    VxlanLink,
)
from weave_router.vxlan.messages import (
    Number,
    VxlanError,
    decode_heartbeat,
    encode_heartbeat,
)
from weave_router.wire.peer_name import PeerName

LEADER, FOLLOWER = PeerName(1), PeerName(2)
TOKENS = {LEADER: b"leader's", FOLLOWER: b"follower"}
MTU = 1376
TICK = 0.1
BY_SLEEVE, ACCEPTING, IN_USE = (False, False), (True, False), (True, True)


@dataclass
class Pair:
    """Two links and all that passes between them."""

    mtus: dict[PeerName, int] = field(default_factory=lambda: dict.fromkeys((LEADER, FOLLOWER), MTU))
    resumed: tuple[PeerName, ...] = ()
    now: float = 100.0
    largest: int = 65535
    """Payload bytes that pass the path."""
    deaf: set[PeerName] = field(default_factory=set)
    """Whom no heartbeats reach."""
    held: bool = False
    """Whether control messages wait."""
    delay: float = 0.0
    """Seconds that a control message takes."""

    def __post_init__(self) -> None:
        self.links = {
            name: VxlanLink(
                name, other, token=TOKENS[name], mtu=self.mtus[name], now=self.now, resumed=name in self.resumed
            )
            for name, other in ((LEADER, FOLLOWER), (FOLLOWER, LEADER))
        }
        self.log: list[tuple[float, PeerName, Action]] = []
        self.waiting: list[tuple[float, PeerName, SendControl]] = []
        """When a message arrives, at whom, and what it is."""
        for name, link in self.links.items():
            self.perform(name, link.start())
        self.deliver()

    @property
    def leader(self) -> VxlanLink:
        return self.links[LEADER]

    @property
    def follower(self) -> VxlanLink:
        return self.links[FOLLOWER]

    def modes(self) -> tuple[tuple[bool, bool], tuple[bool, bool]]:
        """(accept, send) of the leader, and of the follower."""
        return (self.leader.accept, self.leader.send), (self.follower.accept, self.follower.send)

    def perform(self, name: PeerName, actions: list[Action]) -> None:
        other = FOLLOWER if name == LEADER else LEADER
        for action in actions:
            self.log.append((self.now, name, action))
            match action:
                case SendControl():
                    self.waiting.append((self.now + self.delay, other, action))
                case SendBeat(token):
                    for full in (False, True):
                        frame = encode_heartbeat(bytes(6), bytes(6), token, mtu=self.mtus[name], full=full)
                        beat = decode_heartbeat(frame, self.mtus[other])
                        assert beat is not None
                        if other not in self.deaf and len(frame) - 14 <= self.largest:
                            self.perform(other, self.links[other].heartbeat(beat.token, full=beat.full, now=self.now))
                case SetMode(accept, send):
                    assert (accept, send) == (self.links[name].accept, self.links[name].send)

    def deliver(self) -> None:
        """Everything that was said arrives, unless it is held back."""
        while self.waiting and not self.held and self.now >= self.waiting[0][0]:
            self.deliver_one()

    def deliver_one(self) -> SendControl:
        """The next message arrives."""
        _, name, message = self.waiting.pop(0)
        self.perform(name, self.links[name].control(message.number, message.body, self.now))
        return message

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            for name, link in self.links.items():
                if self.now >= link.next_timer:
                    self.perform(name, link.handle_timer(self.now))
            self.deliver()

    def run_until_used(self, limit: float) -> float:
        """Seconds until both sides use the path."""
        began = self.now
        while self.modes() != (IN_USE, IN_USE):
            assert self.now - began < limit, f"not in use after {limit} s"
            self.run(TICK)
        return self.now - began

    def run_until_left(self, limit: float) -> float:
        """Seconds until neither side uses the path."""
        began = self.now
        while self.modes() != (BY_SLEEVE, BY_SLEEVE):
            assert self.now - began < limit, f"still in use after {limit} s"
            self.run(TICK)
        return self.now - began

    def said(self, *numbers: Number) -> list[tuple[PeerName, Number, int]]:
        """Control messages of these kinds since the last call."""
        said = [
            (name, action.number, action.body[0])
            for _, name, action in self.log
            if isinstance(action, SendControl) and action.number in numbers
        ]
        self.log.clear()
        return said


# --- switching over -------------------------------------------------------------------------------------------------


def test_a_path_that_is_well_is_used_after_a_while() -> None:
    pair = Pair()
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)
    pair.run(PROOF_S - 2 * TICK)
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)
    assert [link.in_use for link in pair.links.values()] == [False, False]
    pair.run_until_used(BEAT_S + 5 * TICK)
    assert [link.in_use for link in pair.links.values()] == [True, True]
    assert pair.leader.switches == pair.follower.switches == 1


def test_the_leader_asks_and_the_follower_follows() -> None:
    pair = Pair()
    pair.run_until_used(PROOF_S + 2 * BEAT_S)
    modes = [
        (name, action)
        for _, name, action in pair.log
        if isinstance(action, SetMode) or (isinstance(action, SendControl) and action.number is Number.MODE)
    ]
    assert modes[2:] == [  # behind the MODE 0 of both, with which they begin
        (LEADER, SetMode(accept=True, send=False)),
        (LEADER, SendControl(Number.MODE, b"\1")),
        (FOLLOWER, SetMode(accept=True, send=True)),
        (FOLLOWER, SendControl(Number.MODE, b"\1")),
        (LEADER, SetMode(accept=True, send=True)),
    ]


def test_the_follower_does_not_ask() -> None:
    follower = VxlanLink(FOLLOWER, LEADER, token=TOKENS[FOLLOWER], mtu=MTU, now=0.0)
    follower.control(Number.HEARING, b"\3", 0.0)
    for step in range(600):
        now = step * TICK
        follower.heartbeat(TOKENS[FOLLOWER], full=True, now=now)
        follower.heartbeat(TOKENS[FOLLOWER], full=False, now=now)
        actions = follower.handle_timer(now)
        assert SetMode not in map(type, actions)
    assert not follower.accept


def test_nothing_is_sent_through_the_kernel_before_the_other_accepts_it() -> None:
    pair = Pair()
    pair.run(PROOF_S)
    pair.held = True
    pair.run(BEAT_S + TICK)
    assert pair.modes() == (ACCEPTING, BY_SLEEVE)
    pair.run(1)
    assert pair.modes() == (ACCEPTING, BY_SLEEVE)
    pair.held = False
    pair.run(TICK)
    assert pair.modes() == (IN_USE, IN_USE)


def test_while_all_is_well_nothing_changes_and_little_is_said() -> None:
    pair = Pair()
    pair.run_until_used(10)
    pair.said()
    pair.run(300)
    assert pair.modes() == (IN_USE, IN_USE)
    beats = [name for _, name, action in pair.log if isinstance(action, SendBeat)]
    assert len(beats) == pytest.approx(2 * 300 / BEAT_S, abs=60)
    assert pair.said(*Number) == []


# --- heartbeats -----------------------------------------------------------------------------------------------------


def test_heartbeats_begin_at_once_when_the_token_is_known() -> None:
    link = VxlanLink(LEADER, FOLLOWER, token=TOKENS[LEADER], mtu=MTU, now=0.0)
    assert link.handle_timer(0.0) == []
    assert link.handle_timer(BEAT_S) == []
    link.control(Number.HELLO, TOKENS[FOLLOWER] + MTU.to_bytes(2), BEAT_S + 0.1)
    assert link.next_timer == BEAT_S + 0.1
    assert link.handle_timer(link.next_timer) == [SendBeat(TOKENS[FOLLOWER])]
    assert link.handle_timer(BEAT_S + 0.2) == []
    assert link.next_timer == 2 * BEAT_S + 0.1


def test_a_heartbeat_with_another_token_does_not_count() -> None:
    link = VxlanLink(LEADER, FOLLOWER, token=TOKENS[LEADER], mtu=MTU, now=0.0)
    link.control(Number.HEARING, b"\3", 0.0)
    for step in range(100):
        for full in (False, True):
            assert link.heartbeat(TOKENS[FOLLOWER], full=full, now=step * TICK) == []
        assert link.handle_timer(step * TICK) == []
    assert not link.accept


def test_what_is_heard_is_told_when_it_changes() -> None:
    pair = Pair()
    pair.said()
    pair.deaf = {FOLLOWER}
    pair.run(1)
    assert pair.said(Number.HEARING) == [(LEADER, Number.HEARING, 1), (LEADER, Number.HEARING, 3)]
    pair.largest = MTU - 1
    pair.run(LOST_S + BEAT_S)
    assert pair.said(Number.HEARING) == [(LEADER, Number.HEARING, 1)]
    pair.deaf = {LEADER, FOLLOWER}
    pair.run(LOST_S + BEAT_S)
    assert pair.said(Number.HEARING) == [(LEADER, Number.HEARING, 0)]


@pytest.mark.parametrize("deaf", [LEADER, FOLLOWER])
def test_a_path_of_one_direction_is_not_used(deaf: PeerName) -> None:
    pair = Pair(deaf={deaf})
    pair.run(60)
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)
    assert pair.leader.switches == 0


def test_a_path_that_takes_small_packets_only_is_not_used() -> None:
    pair = Pair(largest=MTU - 1)
    pair.run(60)
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)


def test_a_gap_within_the_proof_begins_it_anew() -> None:
    pair = Pair()
    pair.run(PROOF_S - 0.5)
    pair.deaf = {FOLLOWER}
    pair.run(LOST_S + BEAT_S)
    pair.deaf = set()
    pair.run(PROOF_S - 0.5)
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)
    pair.run_until_used(3 * BEAT_S)


# --- leaving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deaf", [{LEADER}, {FOLLOWER}, {LEADER, FOLLOWER}])
def test_both_leave_when_the_path_is_lost_in_one_direction_or_both(deaf: set[PeerName]) -> None:
    pair = Pair()
    pair.run_until_used(10)
    pair.deaf = deaf
    took = pair.run_until_left(LOST_S + BEAT_S + 2 * TICK)
    assert took > LOST_S - BEAT_S - TICK
    assert pair.leader.switches == pair.follower.switches == 2


def test_both_leave_when_large_packets_do_not_pass_any_more() -> None:
    pair = Pair()
    pair.run_until_used(10)
    pair.largest = MTU - 1
    pair.run_until_left(LOST_S + BEAT_S + 2 * TICK)


def test_some_lost_heartbeats_do_no_harm() -> None:
    pair = Pair()
    pair.run_until_used(10)
    for _ in range(20):
        pair.deaf = {LEADER, FOLLOWER}
        pair.run(LOST_S - 2 * BEAT_S - 2 * TICK)
        pair.deaf = set()
        pair.run(BEAT_S + TICK)
    assert pair.modes() == (IN_USE, IN_USE)
    assert pair.leader.switches == 1


def test_who_hears_nothing_leaves_also_while_the_control_connection_stalls() -> None:
    pair = Pair()
    pair.run_until_used(10)
    pair.held, pair.deaf = True, {LEADER, FOLLOWER}
    pair.run_until_left(LOST_S + BEAT_S + 2 * TICK)


def test_after_the_path_has_come_back_it_is_used_again() -> None:
    pair = Pair()
    pair.run_until_used(10)
    pair.run(STABLE_S)
    pair.deaf = {LEADER, FOLLOWER}
    pair.run_until_left(10)
    pair.run(30)
    pair.deaf = set()
    pair.run_until_used(PROOF_S + 2 * BEAT_S)


# --- messages that cross --------------------------------------------------------------------------------------------


def test_a_question_is_answered_with_no_by_who_does_not_hear() -> None:
    follower = VxlanLink(FOLLOWER, LEADER, token=TOKENS[FOLLOWER], mtu=MTU, now=0.0)
    assert follower.control(Number.MODE, b"\1", 0.0) == [SendControl(Number.MODE, b"\0")]
    assert not follower.accept


def test_a_leader_that_is_told_no_leaves() -> None:
    pair = Pair()
    pair.run(PROOF_S)
    pair.held = True
    pair.run(BEAT_S + TICK)
    assert pair.modes() == (ACCEPTING, BY_SLEEVE)
    pair.log.clear()
    pair.perform(LEADER, pair.leader.control(Number.MODE, b"\0", pair.now))
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)
    assert pair.said(Number.MODE) == [(LEADER, Number.MODE, 0)]


def test_an_answer_that_has_crossed_the_leaders_leaving_changes_nothing() -> None:
    pair = Pair()
    pair.run(PROOF_S)
    pair.held = True
    pair.run(BEAT_S + TICK)
    pair.deaf = {LEADER}
    pair.run_until_left(LOST_S + BEAT_S + 2 * TICK)
    while pair.deliver_one() != SendControl(Number.MODE, b"\1"):
        pass  # the question arrives, what was said later does not yet
    assert pair.modes() == (BY_SLEEVE, IN_USE)
    pair.held = False
    pair.deliver()
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)
    assert not pair.leader.switches


def test_both_leave_at_the_same_time_and_fall_silent() -> None:
    pair = Pair()
    pair.run_until_used(10)
    pair.held, pair.deaf = True, {LEADER, FOLLOWER}
    pair.run_until_left(LOST_S + BEAT_S + 2 * TICK)
    pair.said()
    pair.held = False
    pair.deliver()
    assert pair.said(Number.MODE) == []


def test_the_leader_waits_for_an_answer_for_a_limited_time() -> None:
    pair = Pair()
    pair.run(PROOF_S)
    pair.held = True
    while not pair.leader.accept:
        pair.run(TICK)
    asked = pair.now
    pair.run(ANSWER_S - TICK)
    assert pair.modes() == (ACCEPTING, BY_SLEEVE)
    pair.run_until_left(BEAT_S + 2 * TICK)
    assert pair.now - asked >= ANSWER_S - TICK
    assert pair.said(Number.MODE)[-1] == (LEADER, Number.MODE, 0)


def test_who_is_told_the_same_again_changes_nothing() -> None:
    pair = Pair()
    pair.run_until_used(10)
    pair.log.clear()
    pair.perform(FOLLOWER, pair.follower.control(Number.MODE, b"\1", pair.now))
    pair.deliver()
    assert [action for _, _, action in pair.log if isinstance(action, SetMode)] == []
    assert pair.leader.switches == pair.follower.switches == 1
    assert len(pair.said(Number.MODE)) == 1  # it is not answered without end


# --- damping --------------------------------------------------------------------------------------------------------


def test_a_path_that_fails_soon_must_prove_itself_for_longer_and_longer() -> None:
    pair = Pair()
    waits = []
    for _ in range(7):
        waits.append(pair.run_until_used(LONGEST_PROOF_S + 3 * BEAT_S))
        pair.run(5)
        pair.deaf = {LEADER, FOLLOWER}
        pair.run_until_left(10)
        pair.run(1)
        pair.deaf = set()
    expected = [min(PROOF_S * 2**number, LONGEST_PROOF_S) for number in range(7)]
    assert all(wait >= proof - TICK for wait, proof in zip(waits, expected, strict=True)), waits
    assert all(wait <= proof + 2 * BEAT_S + TICK for wait, proof in zip(waits, expected, strict=True)), waits


def test_a_path_that_was_used_for_long_proves_itself_as_at_first() -> None:
    pair = Pair()
    for _ in range(4):
        pair.run_until_used(LONGEST_PROOF_S + 3 * BEAT_S)
        pair.deaf = {FOLLOWER}
        pair.run_until_left(10)
        pair.deaf = set()
    pair.run_until_used(LONGEST_PROOF_S + 3 * BEAT_S)
    pair.run(STABLE_S + 1)
    pair.deaf = {FOLLOWER}
    pair.run_until_left(10)
    pair.deaf = set()
    assert pair.run_until_used(LONGEST_PROOF_S + 3 * BEAT_S) <= PROOF_S + 2 * BEAT_S


def test_a_leader_without_answer_asks_again_less_and_less_often() -> None:
    """While it waits, the follower's frames are lost: 5 s of every 7 must not go on for ever.

    Here the control connection is slow (a full queue on the way), and the path is well.
    """
    pair = Pair(delay=ANSWER_S / 2 + 0.5)
    lost_s = 0.0
    for _ in range(round(300 / TICK)):
        pair.run(TICK)
        lost_s += TICK * (pair.leader.accept and not pair.follower.send)
    assert lost_s < 100
    assert pair.follower.switches < 24


# --- restarted routers ----------------------------------------------------------------------------------------------


def test_a_path_that_both_resume_stays_in_use() -> None:
    pair = Pair(resumed=(LEADER, FOLLOWER))
    assert pair.modes() == (IN_USE, IN_USE)
    pair.run(120)
    assert pair.modes() == (IN_USE, IN_USE)
    assert pair.leader.switches == pair.follower.switches == 0
    assert [action for _, _, action in pair.log if isinstance(action, SetMode)] == []


@pytest.mark.parametrize("resumed", [LEADER, FOLLOWER])
def test_what_only_one_side_resumes_is_left_and_taken_up_again(resumed: PeerName) -> None:
    pair = Pair(resumed=(resumed,))
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)
    pair.run_until_used(2 * PROOF_S + 3 * BEAT_S)
    assert pair.links[resumed].switches == 2


@pytest.mark.parametrize("resumed", [(LEADER, FOLLOWER), (LEADER,), (FOLLOWER,)])
def test_a_resumed_path_that_is_dead_is_left(resumed: tuple[PeerName, ...]) -> None:
    pair = Pair(resumed=resumed, deaf={LEADER, FOLLOWER})
    pair.run_until_left(LOST_S + BEAT_S + 2 * TICK)
    pair.run(60)
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)


def test_a_resumed_side_leaves_when_the_other_says_nothing() -> None:
    link = VxlanLink(LEADER, FOLLOWER, token=TOKENS[LEADER], mtu=MTU, now=0.0, resumed=True)
    assert link.start() == [
        SendControl(Number.HELLO, TOKENS[LEADER] + MTU.to_bytes(2)),
        SendControl(Number.HEARING, b"\3"),
        SendControl(Number.MODE, b"\1"),
    ]
    assert link.handle_timer(LOST_S - 0.1) == []
    assert SetMode(accept=False, send=False) in link.handle_timer(LOST_S - 0.1 + BEAT_S)


def test_farewell_ends_the_use_without_a_word() -> None:
    pair = Pair()
    pair.run_until_used(10)
    assert pair.follower.farewell(pair.now) == [SetMode(accept=False, send=False)]
    assert pair.follower.farewell(pair.now) == []


# --- MTU ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("here", "there"), [(1376, 1400), (1400, 1376)])
def test_a_path_between_different_mtus_is_not_used(here: int, there: int) -> None:
    pair = Pair(mtus={LEADER: here, FOLLOWER: there})
    pair.run(60)
    assert pair.modes() == (BY_SLEEVE, BY_SLEEVE)
    for link, ours, theirs in ((pair.leader, here, there), (pair.follower, there, here)):
        assert link.trouble(pair.now) == f"the MTUs differ: {ours} here, {theirs} there"


# --- what the operator is told --------------------------------------------------------------------------------------


def test_there_is_no_trouble_while_it_is_used() -> None:
    pair = Pair()
    assert pair.leader.trouble(pair.now) == "VXLAN is being tried"
    pair.run_until_used(10)
    assert pair.leader.trouble(pair.now) == pair.follower.trouble(pair.now) == ""


def test_nothing_is_called_missing_before_it_can_be_there() -> None:
    pair = Pair(deaf={LEADER, FOLLOWER})
    pair.run(LOST_S - 2 * TICK)
    assert pair.leader.trouble(pair.now) == "VXLAN is being tried"


def test_a_path_of_one_direction_is_told_at_both_ends() -> None:
    pair = Pair(deaf={FOLLOWER})
    pair.run(10)
    assert pair.leader.trouble(pair.now) == "VXLAN: nothing arrives at the peer"
    assert pair.follower.trouble(pair.now) == "VXLAN: nothing comes through it"


def test_a_dead_path_is_told() -> None:
    pair = Pair()
    pair.run_until_used(10)
    pair.deaf = {LEADER, FOLLOWER}
    pair.run_until_left(10)
    assert "nothing comes through it" in pair.leader.trouble(pair.now)


def test_a_path_for_small_packets_only_is_told() -> None:
    pair = Pair(largest=MTU - 1)
    pair.run(10)
    for link in pair.links.values():
        assert link.trouble(pair.now) == "VXLAN: packets of 1376 bytes do not pass: the underlay's MTU is too small"


def test_a_path_that_proves_itself_is_being_tried() -> None:
    pair = Pair()
    for _ in range(5):
        pair.run_until_used(LONGEST_PROOF_S + 3 * BEAT_S)
        pair.deaf = {FOLLOWER}
        pair.run_until_left(10)
        pair.deaf = set()
    pair.run(10)
    assert pair.leader.trouble(pair.now) == pair.follower.trouble(pair.now) == "VXLAN is being tried"


# --- what makes no sense --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [Number.HELLO, Number.HEARING, Number.MODE])
def test_a_message_without_content_is_refused_and_changes_nothing(number: Number) -> None:
    pair = Pair()
    pair.run_until_used(10)
    with pytest.raises(VxlanError):
        pair.leader.control(number, b"", pair.now)
    assert pair.modes() == (IN_USE, IN_USE)


def test_unknown_numbers_and_bits_are_ignored() -> None:
    pair = Pair()
    pair.run_until_used(10)
    assert pair.leader.control(99, b"whatever", pair.now) == []
    assert pair.leader.control(Number.HEARING, b"\xff", pair.now) == []
    assert pair.modes() == (IN_USE, IN_USE)
