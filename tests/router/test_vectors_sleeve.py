"""Captured sleeve packets and time lines (sleeve.md sections 2 to 8)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from vector_files import load, octets, peer
from weave_router.frames.ipv4 import Kind, classify
from weave_router.sleeve.cipher import Cipher, NaclCipher, PlainCipher, Replayed
from weave_router.sleeve.codec import (
    PacketError,
    encode_frame,
    frame_prefix,
    is_special,
    read_heartbeat,
    split_frames,
)
from weave_router.sleeve.link import FRAGOK, HEARD, MTUOK, Established, SendControl, SendSpecial, SleeveLink
from weave_router.sleeve.replay import ReplayWindow

if TYPE_CHECKING:
    from weave_router.sleeve.link import Action
    from weave_router.wire.peer_name import PeerName

DISCOVERY = SendSpecial(bytes(60000), df=True)
FRAGMENTATION_TEST = SendSpecial(bytes(60001), df=False)
ACCEPTOR_ADDRESS = ("10.99.0.1", 6783)
DIALLER_ADDRESS = ("10.99.0.2", 6783)


@dataclass(frozen=True)
class Packet:
    """One captured packet, of a plain or a sealed run."""

    sender: str
    df: bool
    sequence: int | None
    plain: bytes
    """The frames, without the name in front."""
    frames: tuple[Any, ...]
    recorded: Any

    def matches(self, packet: bytes) -> bool:
        recorded = self.recorded
        if len(packet) != recorded["length"]:
            return False
        if "packet" in recorded:
            return packet == octets(recorded["packet"])
        start = recorded.get("packet_first_64") or recorded["packet_first_60"]
        return (
            packet.startswith(bytes.fromhex(start)) and hashlib.sha256(packet).hexdigest() == recorded["packet_sha256"]
        )


@dataclass(frozen=True)
class Run:
    """A captured run between a dialler and an acceptor."""

    name: str
    key: bytes | None
    connection_uid: int
    names: dict[str, PeerName]
    dialler: str
    packets: tuple[Packet, ...]

    def cipher(self, side: str) -> Cipher:
        if self.key is None:
            return PlainCipher(self.names[side])
        return NaclCipher(self.names[side], self.key, outbound=side == self.dialler)

    def opposite(self, side: str) -> str:
        (other,) = self.names.keys() - {side}
        return other


def packet_of(recorded: Any, names: dict[str, PeerName]) -> Packet:
    if recorded.get("note") == "fragmentation test":
        sender = recorded["from"]
        (other,) = names.keys() - {sender}
        plain = encode_frame(frame_prefix(names[sender], names[other]), bytes(60001))
        frame = {
            "source": names[sender].to_bytes(6).hex(":"),
            "destination": names[other].to_bytes(6).hex(":"),
            "length": 60001,
            "kind": "fragmentation test",
        }
        return Packet(sender, False, 0, plain, (frame,), recorded)
    if "plain" in recorded:
        plain, df = octets(recorded["plain"]), recorded["df_counter"]
    else:
        plain, df = octets(recorded["packet"])[6:], recorded["ip_df"]
    return Packet(recorded["from"], df, recorded.get("sequence"), plain, tuple(recorded["frames"]), recorded)


def runs() -> list[Run]:
    two = {"dialler": peer("00:00:00:00:00:02"), "acceptor": peer("00:00:00:00:00:01")}
    client = {"client": peer("02:42:ac:11:00:05"), "daemon": peer("00:00:00:00:00:03")}
    found = []
    for name, key, names in (
        ("sleeve-plain", "packets", two),
        ("sleeve-encrypted", "packets", two),
        ("encrypted-v2-client", "udp_packets", client),
    ):
        record = load(name)
        session = record.get("session_key")
        found.append(
            Run(
                name,
                bytes.fromhex(session) if session else None,
                int(record["connection_uid"], 16),
                names,
                "client" if "client" in names else "dialler",
                tuple(packet_of(packet, names) for packet in record[key]),
            )
        )
    return found


RUNS = pytest.mark.parametrize("run", runs(), ids=lambda run: run.name)


# Packets


@RUNS
def test_packets_are_opened_and_split_into_the_recorded_frames(run: Run) -> None:
    openers = {side: run.cipher(side) for side in run.names}
    for packet in run.packets:
        sealed = octets(packet.recorded["packet"]) if "packet" in packet.recorded else None
        if sealed is None:  # only its beginning and its hash were recorded
            continue
        opened = openers[run.opposite(packet.sender)].open(sealed)

        assert opened == packet.plain
        frames = list(split_frames(opened))
        assert [(source.hex(":"), destination.hex(":"), len(frame)) for source, destination, frame in frames] == [
            (frame["source"], frame["destination"], frame["length"]) for frame in packet.frames
        ]
        for (_, _, frame), described in zip(frames, packet.frames, strict=True):
            assert frame.hex() == described.get("data", frame.hex())


@RUNS
def test_packets_are_sealed_to_the_same_bytes(run: Run) -> None:
    """Each way has its own counter, and a packet that the kernel refused (the 60000 bytes) has counted too."""
    sealers = {side: run.cipher(side) for side in run.names}
    openers = {side: run.cipher(side) for side in run.names}
    counted = {(side, df): 0 for side in run.names for df in (False, True)}
    for packet in run.packets:
        way = (packet.sender, packet.df)
        while packet.sequence is not None and counted[way] < packet.sequence:
            sealers[packet.sender].seal(bytes(60014), df=packet.df)
            counted[way] += 1
        sealed = sealers[packet.sender].seal(packet.plain, df=packet.df)
        counted[way] += 1

        assert packet.matches(sealed)
        assert openers[run.opposite(packet.sender)].open(sealed) == packet.plain


@pytest.mark.parametrize("run", runs()[1:], ids=lambda run: run.name)
def test_repeated_and_misdirected_packets_are_refused(run: Run) -> None:
    openers = {side: run.cipher(side) for side in run.names}
    for packet in run.packets:
        if "packet" in packet.recorded:
            sealed = octets(packet.recorded["packet"])
            openers[run.opposite(packet.sender)].open(sealed)

            with pytest.raises(Replayed):
                openers[run.opposite(packet.sender)].open(sealed)
            with pytest.raises(PacketError):
                openers[packet.sender].open(sealed)


@RUNS
def test_special_frames_are_recognised(run: Run) -> None:
    kinds = set()
    for packet in run.packets:
        for (source, destination, frame), described in zip(split_frames(packet.plain), packet.frames, strict=True):
            kind = described["kind"]
            kinds.add(kind)
            assert is_special(frame) == (kind != "ethernet")
            if kind == "heartbeat":
                assert len(frame) == 22
                assert read_heartbeat(frame) == run.connection_uid == int(described["connection_uid"], 16)
            if kind != "ethernet":
                assert len(packet.frames) == 1
                assert source == run.names[packet.sender].to_bytes(6)
                assert destination == run.names[run.opposite(packet.sender)].to_bytes(6)
    assert kinds == {"heartbeat", "fragmentation test", "MTU test", "ethernet"}


@pytest.mark.parametrize("run", runs()[:2], ids=lambda run: run.name)
def test_containers_frames_went_the_way_that_their_kind_demands(run: Run) -> None:
    """sleeve.md section 6, after FRAGOK: IPv4 with DF goes with DF, all else without."""
    checked = 0
    for packet in run.packets:
        for (_, _, frame), described in zip(split_frames(packet.plain), packet.frames, strict=True):
            if described["kind"] == "ethernet":
                assert (classify(frame) is Kind.IP_DF) == packet.recorded["ip_df"]
                checked += 1
    assert checked > 20


# The opening of a connection


def control_messages(side: str) -> list[tuple[int, str]]:
    """The sleeve control messages that a side of the plain run sent over TCP."""
    return [
        (event["decoded"]["number"], event["decoded"]["body"])
        for event in load("tcp-plain-v2")["events"]
        if event["from"] == side and event["what"] == "message" and event["decoded"]["tag"] == 7
    ]


def sent(actions: list[Action], *, kind: type[SendSpecial] | type[SendControl]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


@pytest.mark.parametrize("side", ["dialler", "acceptor"])
def test_link_opens_the_plain_connection_as_the_reference_did(side: str) -> None:
    """Both sides of the recorded run: what our link sends is what was captured, in the same order."""
    run = runs()[0]
    other = run.opposite(side)
    remote = ACCEPTOR_ADDRESS if side == "dialler" else DIALLER_ADDRESS
    theirs = [packet for packet in run.packets if packet.sender == other]
    ((_, _, heartbeat),) = split_frames(theirs[0].plain)
    link = SleeveLink(run.connection_uid, 6, remote if side == "dialler" else None, 0.004)

    actions = link.confirmed(0.004)
    assert len(actions) == (1 if side == "dialler" else 0)
    actions += link.special_frame(heartbeat, remote, 0.0115)
    assert link.remote == remote
    assert Established() not in actions
    actions += link.control(HEARD, b"", 0.104)
    assert actions[-3:] == [Established(), FRAGMENTATION_TEST, DISCOVERY]
    assert link.established
    actions += link.refused(1500, 0.1041)
    for packet in theirs[1:3]:
        ((_, _, frame),) = split_frames(packet.plain)
        actions += link.special_frame(frame, remote, 0.1115)
    fragments_passed = [link.fragments_pass]
    for number, body in control_messages(other):
        if number != HEARD:
            assert link.control(number, bytes.fromhex(body), 0.112) == []

    ours = [packet for packet in run.packets if packet.sender == side]
    prefix = frame_prefix(run.names[side], run.names[other])
    left = [
        (encode_frame(prefix, action.frame), action.df)
        for action in sent(actions, kind=SendSpecial)
        if action != DISCOVERY  # the sender's own stack refused it
    ]
    assert left == [(packet.plain, packet.df) for packet in ours[:3]]
    assert [(action.number, action.body.hex()) for action in sent(actions, kind=SendControl)] == control_messages(side)
    assert [*fragments_passed, link.fragments_pass] == [False, True]
    assert (link.path_mtu.mtu, link.path_mtu.limit, link.path_mtu.searching) == (1438, 1472, False)
    assert link.next_timer() == pytest.approx(10.104)
    (later,) = link.handle_timer(10.104)
    assert later == SendSpecial(heartbeat, df=True)


# The search for the path MTU


def test_path_mtu_search_follows_the_recorded_time_line() -> None:
    record = load("sleeve-mtu-search")
    link = SleeveLink(1, 6, DIALLER_ADDRESS, 0.0)
    link.confirmed(0.0)
    link.control(HEARD, b"", 0.5)
    asked = link.refused(1500, record["timeline"][0]["t"])
    for event in record["timeline"]:
        now = event["t"]
        if event["event"] == "MTUOK":
            asked = link.control(MTUOK, event["overlay_mtu"].to_bytes(2), now)
            continue
        if not asked:
            due = link.path_mtu.timer
            assert due is not None
            assert due <= now < due + 0.005  # waits of 10 ms, doubling; captures are some tenths late
            asked = [action for action in link.handle_timer(now) if action != heartbeat_of(1)]
        assert asked == [SendSpecial(bytes(event["overlay_mtu"] + 14), df=True)]
        asked = []

    assert not link.path_mtu.searching
    assert link.path_mtu.timer is None
    assert link.path_mtu.mtu == record["result_overlay_mtu"] == 1238
    assert link.path_mtu.limit == 1238 + 62 - 28


def heartbeat_of(connection_uid: int) -> SendSpecial:
    return SendSpecial(bytes(14) + connection_uid.to_bytes(8), df=True)


@pytest.mark.parametrize("run", runs(), ids=lambda run: run.name)
def test_tests_of_the_neighbour_are_answered(run: Run) -> None:
    link = SleeveLink(run.connection_uid, 6, DIALLER_ADDRESS, 0.0)
    for packet in run.packets:
        for (_, _, frame), described in zip(split_frames(packet.plain), packet.frames, strict=True):
            if described["kind"] == "fragmentation test":
                assert link.special_frame(frame, DIALLER_ADDRESS, 1.0) == [SendControl(FRAGOK)]
            elif described["kind"] == "MTU test":
                answer = SendControl(MTUOK, described["overlay_mtu"].to_bytes(2))
                assert link.special_frame(frame, DIALLER_ADDRESS, 1.0) == [answer]


# Replays


def test_replay_window_decides_as_recorded() -> None:
    window = ReplayWindow()
    sequence = load("replay-window")["sequence"]
    assert len(sequence) > 20

    for number, accepted, _ in sequence:
        assert window.accept(number) == accepted, number
