"""Sealing, replays and the path MTU search, against slow and obvious models (sleeve.md sections 3, 6 to 8)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.sleeve.cipher import AES, CHACHA, AeadCipher, Cipher, NaclCipher, PlainCipher, Replayed, choose_cipher
from weave_router.sleeve.codec import PacketError, encode_frame, frame_prefix, split_frames
from weave_router.sleeve.link import (
    FRAGOK,
    HEARD,
    Action,
    Address,
    Established,
    Failed,
    SendControl,
    SendSpecial,
    SleeveLink,
)
from weave_router.sleeve.path_mtu import PathMtu
from weave_router.sleeve.replay import ReplayWindow
from weave_router.wire.peer_name import PeerName

MODERATE = settings(deadline=None)
WINDOW = 1 << 20

DIALLER, ACCEPTOR = PeerName(0x0242AC110002), PeerName(0x0242AC110001)
NAMES = st.integers(1, 2**48 - 1).map(PeerName)
KEYS = st.binary(min_size=32, max_size=32)
FRAMES = st.lists(st.tuples(NAMES, NAMES, st.binary(max_size=1500)), max_size=5)
SEALED = pytest.mark.parametrize("name", ["nacl", AES, CHACHA])
ALL = pytest.mark.parametrize("name", ["plain", "nacl", AES, CHACHA])


def pair(name: str, key: bytes = bytes(32), uid: int = 7) -> tuple[Cipher, Cipher]:
    """The ciphers of dialler and acceptor."""
    if name == "plain":
        return PlainCipher(DIALLER), PlainCipher(ACCEPTOR)
    if name == "nacl":
        return NaclCipher(DIALLER, key, outbound=True), NaclCipher(ACCEPTOR, key, outbound=False)
    return AeadCipher(name, DIALLER, ACCEPTOR, uid, key), AeadCipher(name, ACCEPTOR, DIALLER, uid, key)


# Ciphers


@ALL
@MODERATE
@given(
    key=KEYS,
    packets=st.lists(st.tuples(FRAMES, st.booleans(), st.booleans()), max_size=6),
    uid=st.integers(0, 2**64 - 1),
)
def test_frames_survive_the_journey_in_both_directions(
    name: str, key: bytes, packets: list[tuple[list[tuple[PeerName, PeerName, bytes]], bool, bool]], uid: int
) -> None:
    both = pair(name, key, uid)
    for frames, df, back in packets:
        sender, receiver = both[::-1] if back else both
        data = b"".join(encode_frame(frame_prefix(source, destination), frame) for source, destination, frame in frames)
        packet = sender.seal(data, df=df)

        assert packet[:6] == (ACCEPTOR if back else DIALLER).to_bytes(6)
        assert len(packet) == len(data) + sender.packet_overhead
        assert sender.packet_overhead == (6 if name == "plain" else 30)
        assert [
            (int.from_bytes(source), int.from_bytes(destination), frame)
            for source, destination, frame in split_frames(receiver.open(packet))
        ] == frames


@SEALED
@MODERATE
@given(data=st.binary(max_size=100), df=st.booleans(), where=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_packet_that_was_changed_does_not_open(name: str, data: bytes, df: bool, where: int, bit: int) -> None:
    """In the AEAD form the name in front is covered too; in NaCl's it selects the key, so it cannot be swapped."""
    sender, receiver = pair(name)
    packet = bytearray(sender.seal(data, df=df))
    start = 6 if name == "nacl" else 0
    packet[start + where % (len(packet) - start)] ^= 1 << bit

    with pytest.raises(PacketError) as raised:
        receiver.open(bytes(packet))
    assert not isinstance(raised.value, Replayed)


@SEALED
@MODERATE
@given(data=st.binary(max_size=60), df=st.booleans(), length=st.integers(0, 89), extra=st.binary(max_size=3))
def test_a_packet_that_was_cut_or_lengthened_does_not_open(
    name: str, data: bytes, df: bool, length: int, extra: bytes
) -> None:
    sender, receiver = pair(name)
    packet = sender.seal(data, df=df)
    if length < len(packet):
        with pytest.raises(PacketError):
            receiver.open(packet[:length])
    if extra:
        with pytest.raises(PacketError):
            receiver.open(packet + extra)
    assert receiver.open(packet) == data  # what did not open changed no state


@SEALED
@MODERATE
@given(
    count=st.integers(1, 12),
    ways=st.lists(st.booleans(), min_size=12, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_each_packet_is_accepted_once_in_any_order(name: str, count: int, ways: list[bool], order: object) -> None:
    sender, receiver = pair(name)
    sealed = [(sender.seal(bytes([number]), df=ways[number]), bytes([number])) for number in range(count)]
    arriving = sealed * 3
    order.shuffle(arriving)  # type: ignore[attr-defined]
    seen = set()
    for packet, data in arriving:
        if data in seen:
            with pytest.raises(Replayed):
                receiver.open(packet)
        else:
            assert receiver.open(packet) == data
            seen.add(data)
    assert len(seen) == count
    assert len({packet for packet, _ in sealed}) == count


@SEALED
@MODERATE
@given(data=st.binary(max_size=50), key=KEYS, df=st.booleans())
def test_a_packet_opens_only_for_its_receiver(name: str, data: bytes, key: bytes, df: bool) -> None:
    sender, _ = pair(name, key)
    packet = sender.seal(data, df=df)
    strangers = [
        pair(name, key)[0],  # reflected to its sender
        pair(name, bytes([key[0] ^ 1]) + key[1:])[1],  # another session
    ]
    strangers += [pair(other, key)[1] for other in ("nacl", AES, CHACHA) if other != name]
    if name != "nacl":
        strangers.append(pair(name, key, uid=8)[1])  # another connection of one session key
    for stranger in strangers:
        with pytest.raises(PacketError):
            stranger.open(packet)


@pytest.mark.parametrize("name", [AES, CHACHA])
def test_keys_are_renewed_and_packets_of_some_epochs_are_open_together(name: str) -> None:
    """The design: a new key each 2^24 packets, by sequence number, so that no message announces it."""
    sender, receiver = pair(name)
    assert isinstance(sender, AeadCipher)
    assert isinstance(receiver, AeadCipher)
    packets = []
    for sequence in (0, 2**24 - 1, 2**24, 2**24 + 5, 2**25 + 1, 2**25 - 1):
        sender._next[False] = sequence  # 2^24 packets take too long
        packets.append(sender.seal(b"x" * 40, df=False))
    assert len({packet[14:] for packet in packets}) == len(packets)
    for packet in packets:
        assert receiver.open(packet) == b"x" * 40
        with pytest.raises(Replayed):
            receiver.open(packet)


CIPHER_LISTS = st.lists(st.sampled_from([AES, CHACHA, "rot13"]), max_size=3, unique=True).map(tuple)


@MODERATE
@given(CIPHER_LISTS, CIPHER_LISTS)
def test_both_sides_choose_the_same_cipher(ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    """AES if both list it first, else ChaCha if both list it, else NaCl (design, data plane)."""
    chosen = choose_cipher(ours, theirs)

    assert chosen == choose_cipher(theirs, ours)
    if ours[:1] == theirs[:1] == (AES,):
        assert chosen == AES
    else:
        assert chosen == (CHACHA if CHACHA in ours and CHACHA in theirs else "nacl")


# Replays


@dataclass
class SeenNumbers:
    """All that was accepted, however long ago: what the window must do as far as it remembers."""

    newest: int = 0
    accepted: set[int] = field(default_factory=set)

    def accept(self, number: int) -> bool:
        window = number // WINDOW
        if window < self.newest - 1 or number in self.accepted:
            return False
        self.newest = max(self.newest, window)
        self.accepted.add(number)
        return True


NEAR_EDGES = st.builds(
    lambda window, offset: max(0, window * WINDOW + offset),
    st.one_of(st.integers(0, 6), st.sampled_from([2**20, 2**42])),
    st.one_of(st.integers(-3, 3), st.integers(0, 40).map(lambda part: part * 1024 + 1023)),
)


@MODERATE
@given(st.lists(st.one_of(NEAR_EDGES, st.integers(0, 20), st.integers(0, 2**63 - 1)), max_size=60))
def test_replay_window_agrees_with_remembering_everything(numbers: list[int]) -> None:
    window, model = ReplayWindow(), SeenNumbers()
    for number in numbers:
        assert window.accept(number) == model.accept(number), number


@MODERATE
@given(
    st.lists(
        st.one_of(
            st.lists(st.one_of(NEAR_EDGES, st.integers(0, 60)), min_size=1, max_size=8),
            st.builds(lambda first, count: [*range(first, first + count)], NEAR_EDGES, st.integers(1, 3000)),
        ),
        max_size=12,
    )
)
def test_replay_window_takes_all_numbers_of_a_burst_or_none(bursts: list[list[int]]) -> None:
    window, model = ReplayWindow(), SeenNumbers()
    for numbers in bursts:
        oldest = max(model.newest, max(numbers) // WINDOW) - 1
        new = len(set(numbers)) == len(numbers) and not model.accepted & set(numbers)
        expected = new and min(numbers) // WINDOW >= oldest
        if numbers == [*range(numbers[0], numbers[0] + len(numbers))]:
            assert window.accept_range(numbers[0], len(numbers)) == expected
        else:
            assert window.accept_all(numbers) == expected
        if expected:
            model.newest = oldest + 1
            model.accepted |= set(numbers)


# Path MTU


@dataclass
class SearchModel:
    """sleeve.md 8.1 to 8.3 word for word."""

    overhead: int
    mtu: int = 65535
    limit: int = 65507
    candidate: int = 0
    good: int = 0
    bad: int = 0
    tests: int = 0
    timer: float | None = None
    sent: list[int] = field(default_factory=list)

    def refused(self, p: int, now: float) -> None:
        m = p - self.overhead
        if self.candidate and m >= self.candidate:
            return
        self.good, self.bad, self.candidate, self.tests = 552, m + 1, m, 0
        self.limit, self.mtu = p - 28, m
        self.test(now)

    def test(self, now: float) -> None:
        self.sent.append(self.candidate)
        self.timer = now + 0.010 * 2**self.tests
        self.tests += 1

    def expired(self, now: float) -> None:
        if self.timer is None or now < self.timer:
            return
        if self.tests < 8:
            self.test(now)
        else:
            self.bad = self.candidate
            self.step(now)

    def confirmed(self, value: int, now: float) -> None:
        if value == self.candidate and self.candidate:
            self.good = value
            self.step(now)

    def step(self, now: float) -> None:
        if self.good + 1 >= self.bad:
            self.mtu, self.limit = self.good, self.good + self.overhead - 28
            self.candidate, self.timer = 0, None
        else:
            self.candidate, self.tests = (self.good + self.bad) // 2, 0
            self.test(now)


def drive(overhead: int, path: int, shrinks_to: int | None, losses: list[bool], told: int) -> None:
    """Search on a path that carries `path` bytes while the kernel knows `told`; the model must agree at each step."""
    search, model = PathMtu(overhead), SearchModel(overhead)
    now, sent = 0.0, 0
    asked = search.refused(told, now)
    model.refused(told, now)
    for _ in range(400):
        if asked is not None:
            sent += 1
            assert model.sent[-1] == asked
        assert (search.mtu, search.limit) == (model.mtu, model.limit)
        assert search.timer == pytest.approx(model.timer)
        if model.timer is None:
            break
        if shrinks_to is not None and sent == 3:
            now += 0.001
            asked = search.refused(shrinks_to, now)
            model.refused(shrinks_to, now)
            shrinks_to = None
            continue
        lost = losses[sent % len(losses)] if losses else False
        if asked is not None and asked + overhead <= path and not lost:
            now += 0.001
            model.confirmed(asked, now)
            asked = search.confirmed(asked, now)
        else:
            assert search.timer is not None
            now = search.timer
            model.expired(now)
            asked = search.handle_timer(now)
    assert sent == len(model.sent)
    assert not search.searching


@MODERATE
@given(
    st.sampled_from([62, 86]),
    st.integers(700, 9000),
    st.one_of(st.none(), st.integers(700, 1600)),
    st.lists(st.booleans(), max_size=7),
    st.integers(700, 9000),
)
def test_path_mtu_search_agrees_with_the_specification(
    overhead: int, path: int, shrinks_to: int | None, losses: list[bool], told: int
) -> None:
    drive(overhead, path, shrinks_to, losses, told)


@MODERATE
@given(st.sampled_from([62, 86]), st.integers(552, 700))
def test_a_narrow_path_is_used_as_the_kernel_tells_it(overhead: int, told: int) -> None:
    """sleeve.md 8.2: m = p - overhead, also where that is less than 552 (Linux learns path MTUs down to 552)."""
    drive(overhead, told, None, [], told)


@MODERATE
@given(st.sampled_from([62, 86]), st.integers(700, 9000), st.integers(700, 9000))
def test_the_search_finds_the_largest_mtu(overhead: int, path: int, told: int) -> None:
    search = PathMtu(overhead)
    now = 0.0
    asked = search.refused(told, now)
    while search.timer is not None:
        if asked is not None and asked + overhead <= path:
            asked = search.confirmed(asked, now)
        else:
            now = search.timer
            asked = search.handle_timer(now)

    assert search.mtu == min(path, told) - overhead
    assert search.limit == search.mtu + overhead - 28


# Establishment

UID = 0xBDF12DC5331C7075
HERE, THERE = ("10.0.0.1", 6783), ("10.0.0.2", 40000)


@dataclass
class LinkModel:
    """sleeve.md sections 5 and 7 word for word, from the moment of "confirmed"."""

    remote: Address | None
    interval: float = 0.5
    heartbeat_at: float = 0.5
    timeout_at: float = 60.0
    test_at: float | None = None
    first_seen: bool = False
    frag_ok: bool = False
    established: bool = False

    def heartbeat(self) -> Action:
        return SendSpecial(bytes(14) + UID.to_bytes(8), df=True)

    def test(self, now: float) -> Action:
        self.frag_ok = False
        self.test_at = now + 300
        return SendSpecial(bytes(60001), df=False)

    def heartbeat_received(self, uid: int, source: Address, now: float) -> list[Action]:
        if uid != UID:
            return []
        wanted: list[Action] = []
        if self.remote is None:
            wanted.append(self.heartbeat())
        self.remote = source
        if not self.first_seen:
            self.first_seen = True
            wanted.append(SendControl(HEARD))
        self.timeout_at = now + 60
        return wanted

    def heard(self, now: float) -> list[Action]:
        wanted: list[Action] = []
        if self.interval == 0.5:
            self.interval = 10.0
            self.heartbeat_at = now + 10
            self.established = True
            wanted.append(Established())
        return [*wanted, self.test(now), SendSpecial(bytes(60000), df=True)]

    def timers(self, now: float) -> list[Action]:
        wanted: list[Action] = []
        if now >= self.heartbeat_at:
            self.heartbeat_at = now + self.interval
            if self.remote is not None:
                wanted.append(self.heartbeat())
        if self.test_at is not None and now >= self.test_at:
            wanted.append(self.test(now))
        return wanted


LINK_EVENTS = st.one_of(
    st.tuples(st.just("heartbeat"), st.sampled_from([UID, UID, UID, UID ^ 1, 0]), st.sampled_from([HERE, THERE])),
    st.sampled_from([("heard",), ("fragok",), ("unknown",), ("wait", 0.1), ("wait", 7.0), ("wait", 40.0)]),
)


@MODERATE
@given(st.sampled_from([None, HERE]), st.lists(LINK_EVENTS, max_size=30))
def test_link_agrees_with_the_specification(remote: Address | None, events: list[tuple[object, ...]]) -> None:
    link, model, now = SleeveLink(UID, 6, remote, 0.0), LinkModel(remote), 0.0
    assert link.confirmed(0.0) == ([model.heartbeat()] if remote else [])
    for event in events:
        match event:
            case ("heartbeat", int() as uid, source):
                assert isinstance(source, tuple)
                frame = bytes(14) + uid.to_bytes(8)
                assert link.special_frame(frame, source, now) == model.heartbeat_received(uid, source, now)
            case ("heard",):
                assert link.control(HEARD, b"more than needed", now) == model.heard(now)
            case ("fragok",):
                assert link.control(FRAGOK, b"", now) == []
                model.frag_ok = True
            case ("unknown",):
                assert link.control(9, b"\x05\x9e", now) == link.control(3, b"\x05", now) == []
                assert link.control(3, b"\x05\x9e", now) == []  # no search is running
            case ("wait", float() as length):
                until = now + length
                while link.next_timer() <= until:
                    now = link.next_timer()
                    if now >= model.timeout_at:
                        assert now == model.timeout_at
                        (failed,) = link.handle_timer(now)
                        assert isinstance(failed, Failed)
                        return
                    assert link.handle_timer(now) == model.timers(now)
                now = until
        assert link.remote == model.remote
        assert link.established == model.established
        assert link.fragments_pass == model.frag_ok
        times = (model.timeout_at, model.heartbeat_at, model.test_at)
        assert link.next_timer() == min(time for time in times if time is not None)
