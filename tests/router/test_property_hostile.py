"""Bytes that nobody should send: every decoder accepts them or raises its documented error, soon and in little memory.

Random bytes rarely get past the first check, so most of these inputs are captured bytes with a few changes.
"""

from __future__ import annotations

import itertools
import struct
import time
import tracemalloc
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vector_files import DNS, IPAM_STATE, RANGE, load, octets
from weave_router.errors import ProtocolError
from weave_router.frames import segmentation
from weave_router.frames.ipv4 import Kind, classify, fragment, fragmentation_needed
from weave_router.sleeve.cipher import AES, CHACHA, AeadCipher, Cipher, NaclCipher, PlainCipher
from weave_router.sleeve.codec import PacketError, split_frames
from weave_router.sleeve.link import SleeveLink
from weave_router.wire import gob
from weave_router.wire.envelope import Envelope, Tag, decode_envelope
from weave_router.wire.features import Features, FeaturesError, decode_features
from weave_router.wire.peer_name import PeerName
from weave_router.wire.sealing import SealError, session_key
from weave_router.wire.session import FeaturesReceived, HandshakeError, MessageReceived, Session
from weave_router.wire.topology import MAX_SHORT_ID, PeerRecord, decode_records, encode_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn, SearchStrategy

MODERATE = settings(deadline=None)
MIB = 1 << 20
SCHEMAS = [
    gob.Map(gob.STRING, gob.STRING),
    gob.UINT,
    gob.STRING,
    gob.BYTES,
    IPAM_STATE,
    RANGE,
    DNS,
]
OURSELVES, NEIGHBOUR = PeerName(1), PeerName(2)


def accepted(decode: Callable[[], Any], *errors: type[ProtocolError]) -> bool:
    """Whether the input was accepted; any error but the documented ones fails the test."""
    try:
        decode()
    except ProtocolError as error:
        if errors and not isinstance(error, errors):
            raise
        return False
    return True


# --- captured bytes, changed -----------------------------------------------------------------------------------------


@cache
def messages() -> tuple[bytes, ...]:
    events = load("tcp-plain-v2")["events"] + load("encrypted-v2-client")["events"]
    found = [
        bytes.fromhex(event["plain"]) if "plain" in event else bytes.fromhex(event["wire"])[4:]
        for event in events
        if event["what"] == "message"
    ]
    return tuple(dict.fromkeys(found))


@cache
def gossip() -> tuple[bytes, ...]:
    return tuple(message for message in messages() if message[0] in (4, 5, 6))


@cache
def payloads() -> tuple[bytes, ...]:
    streams = [case["payload"] for case in load("gob-topology")["cases"]]
    streams += [case["payload"] for case in load("gob-payloads")["cases"] if case["tag"] != 5]
    return tuple(map(bytes.fromhex, streams))


@cache
def feature_streams() -> tuple[bytes, ...]:
    streams = [case["stream"] for case in load("gob-features")["cases"] + load("gob-malformed")["cases"]]
    return tuple(map(bytes.fromhex, streams))


@cache
def packets() -> tuple[bytes, ...]:
    return tuple(octets(packet["packet"]) for packet in load("sleeve-plain")["packets"])


@cache
def ip_frames() -> tuple[bytes, ...]:
    cases = load("ip-fragmentation")
    frames = [case["frame"] for case in cases["fragmentation"] + cases["icmp"]]
    frames += [part for case in cases["fragmentation"] for part in case["fragments"]]
    return tuple(map(bytes.fromhex, frames))


@st.composite
def changed(draw: DrawFn, base: tuple[bytes, ...]) -> bytes:
    """One of these byte strings after one to six edits."""
    data = bytearray(draw(st.sampled_from(base)))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        match draw(st.sampled_from(["set", "flip", "delete", "insert", "double", "cut", "splice"])):
            case "set" if data:
                data[start] = draw(st.sampled_from([0, 1, 0x7E, 0x7F, 0x80, 0xF7, 0xF8, 0xFE, 0xFF]))
            case "flip" if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "delete":
                del data[start:stop]
            case "insert":
                data[start:start] = draw(st.binary(max_size=9))
            case "double":
                data[start:start] = data[start:stop]
            case "cut":
                del data[start:]
            case "splice":
                other = draw(st.sampled_from(base))
                data[start:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


def hostile(base: tuple[bytes, ...]) -> SearchStrategy[bytes]:
    return st.one_of(changed(base), changed(base), st.binary(max_size=300))


# --- gob and what is made of it --------------------------------------------------------------------------------------


@MODERATE
@given(hostile(payloads() + feature_streams()), st.sampled_from(SCHEMAS))
def test_gob_decoder(data: bytes, schema: gob.Schema) -> None:
    def decode() -> None:
        decoder = gob.Decoder(data)
        while not decoder.at_end():
            decoder.value(schema)

    accepted(decode, gob.GobError)


@MODERATE
@given(hostile(gossip()))
def test_envelope(data: bytes) -> None:
    """The caller has looked at the tag; all behind it is the peer's."""
    tag = 4 + (data[0] if data else 0) % 3
    message = bytes([tag]) + data[1:]
    if accepted(lambda: decode_envelope(message), gob.GobError):
        envelope = decode_envelope(message)
        assert decode_envelope(envelope.encode()) == envelope
        assert 0 <= envelope.source < 2**48


@MODERATE
@given(hostile(payloads()))
def test_topology_records(data: bytes) -> None:
    if accepted(lambda: list(decode_records(data)), gob.GobError):
        records = list(decode_records(data))
        if records:  # a payload without any is never sent
            assert list(decode_records(encode_records(records))) == records
        for record in records:
            assert 0 < record.name < 2**48
            assert record.version <= 2**63
            assert record.short_id is None or 0 <= record.short_id <= MAX_SHORT_ID
            assert len({link.remote for link in record.links}) == len(record.links)


@MODERATE
@given(hostile(feature_streams()))
def test_features_message(data: bytes) -> None:
    def decode() -> None:
        Features.from_map(decode_features(data))

    accepted(decode, gob.GobError, FeaturesError)


@MODERATE
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "PeerNameFlavour": st.sampled_from(["mac", "hash", ""]),
            "Name": st.one_of(st.sampled_from(["00:00:00:00:00:02", "::", "::1", "0", "1:2:3:4:5:6"]), st.text()),
            "NickName": st.one_of(st.text(), st.just("x" * 300), st.just("\udcff")),
            "UID": st.one_of(st.integers(-1, 2**65).map(str), st.text(), st.just("٣"), st.just("9" * 5000)),
            "ConnID": st.one_of(st.integers(-1, 2**65).map(str), st.text(), st.just("+1"), st.just("1_0")),
            "ShortID": st.one_of(st.integers(-1, 5000).map(str), st.text()),
            "Trusted": st.one_of(st.sampled_from(["true", "0", "T", "yes", ""]), st.text()),
            "Overlays": st.one_of(st.sampled_from(["sleeve", "fastdp sleeve", "", " "]), st.text()),
            "Ciphers": st.text(),
        },
    )
)
def test_features_map(features: dict[str, str]) -> None:
    if accepted(lambda: Features.from_map(features), FeaturesError):
        read = Features.from_map(features)
        assert 0 < read.name < 2**48
        assert max(read.uid, read.connection_half) < 2**64
        assert read.short_id is None or read.short_id <= MAX_SHORT_ID
        assert Features.from_map(read.to_map()) == read


# --- announced counts, recursion, sheer size -------------------------------------------------------------------------


def framed(body: bytes) -> bytes:
    return gob.encode_uint(len(body)) + body


HUGE = b"\xf8" + bytes(3) + b"\x7f" + bytes(4)  # 127 * 2^32, in nine bytes
MILLION = b"\xfd\x0f\x42\x40"
FEATURES_TYPE = bytes.fromhex("0eff81040102ff8200010c010c0000")
NUMBERS_TYPE = framed(bytes.fromhex("ff8102 0102ff8200 0106 0000"))
"""A slice of unsigned numbers."""
NESTED_TYPE = framed(bytes.fromhex("ff8102 0102ff8200 01ff82 0000"))
"""A slice of itself."""
UNKNOWN_TYPE = framed(bytes.fromhex("ff8103 0102ff8200 0102 0101410106 00 01015a01ff8400 0000"))
"""A struct of A uint, which the receiver knows, and Z of type 66, which it does not."""


@pytest.mark.parametrize("count", [HUGE, MILLION], ids=["huge", "million"])
@pytest.mark.parametrize(
    ("schema", "start"),
    [
        pytest.param(gob.Map(gob.STRING, gob.STRING), FEATURES_TYPE + b"?\xff\x82\0", id="map"),
        pytest.param(gob.Slice(gob.UINT), NUMBERS_TYPE + b"?\xff\x82\0", id="slice"),
        pytest.param(gob.BYTES, b"?\x0a\0", id="bytes"),
        pytest.param(gob.STRING, b"?\x0c\0", id="string"),
        pytest.param(gob.UINT, b"", id="chunk"),
        pytest.param(gob.UINT, b"?\xff\x81\x03\x02", id="fields-of-a-definition"),
        pytest.param(
            gob.Struct({"A": gob.UINT}),
            UNKNOWN_TYPE + framed(bytes.fromhex("ff83020102ff8400010600 00")) + b"?\xff\x82\x02",
            id="unknown-slice",
        ),
    ],
)
def test_announced_counts_are_not_believed(schema: gob.Schema, start: bytes, count: bytes) -> None:
    head, found, tail = start.rpartition(b"?")
    stream = head + framed(tail + count + bytes(100)) if found else count + bytes(100)
    tracemalloc.start()
    try:
        began = time.perf_counter()
        assert not accepted(lambda: gob.Decoder(stream).value(schema), gob.GobError)
        assert time.perf_counter() - began < 0.5
        assert tracemalloc.get_traced_memory()[1] < MIB // 4
    finally:
        tracemalloc.stop()


def test_unknown_values_are_nested_only_so_deep() -> None:
    depth = 100_000
    body = bytes.fromhex("ff82 02") + b"\x01" * depth + b"\0" + b"\0"
    nested = framed(bytes.fromhex("ff83 02 0102ff8400 01ff84 0000"))
    stream = UNKNOWN_TYPE + nested + framed(body)

    assert not accepted(lambda: gob.Decoder(stream).value(gob.Struct({"A": gob.UINT})), gob.GobError)


def test_one_message_cannot_occupy_the_loop() -> None:
    """A 10 MiB message: a field that we do not know with ten million numbers. The data plane waits meanwhile."""
    numbers = framed(bytes.fromhex("ff83 02 0102ff8400 0106 0000"))
    elements = 10 * MIB - 100
    stream = UNKNOWN_TYPE + numbers + framed(b"\xff\x82\x02" + gob.encode_uint(elements) + bytes(elements) + b"\0")
    began = time.perf_counter()
    accepted(lambda: gob.Decoder(stream).value(gob.Struct({"A": gob.UINT})), gob.GobError)

    assert time.perf_counter() - began < 0.5


def test_a_large_topology_payload_is_decoded_in_short_steps() -> None:
    """10 MiB of peers, each in the smallest form: the caller may pause after each record."""
    record = PeerRecord(PeerName(5), uid=1)
    payload = encode_records([record]) + record.encoded * (10 * MIB // len(record.encoded) - 10)
    longest = 0.0

    def decode() -> None:
        nonlocal longest
        records = decode_records(payload)
        while True:
            began = time.perf_counter()
            if next(records, None) is None:
                return
            longest = max(longest, time.perf_counter() - began)

    assert not accepted(decode, gob.GobError)  # more than 4096 peers
    assert longest < 0.1


def test_features_are_bounded() -> None:
    entries = {f"key{number}": "" for number in range(65)}
    encoder = gob.Encoder()
    encoder.encode(gob.Map(gob.STRING, gob.STRING), entries)
    assert not accepted(lambda: decode_features(encoder.getvalue()))
    long = gob.Encoder()
    long.encode(gob.Map(gob.STRING, gob.STRING), {"Name": "x" * 9000})
    assert not accepted(lambda: decode_features(long.getvalue()))


def test_channel_names_are_bounded() -> None:
    """gob.md section 9: a channel name has at most 256 bytes."""
    for name in ("x" * 257, "é" * 200):
        message = Envelope(Tag.GOSSIP, name, OURSELVES, b"").encode()
        assert not accepted(lambda message=message: decode_envelope(message)), name  # type: ignore[misc]


# --- the session -----------------------------------------------------------------------------------------------------


def opened_stream() -> bytes:
    """Header, flag, features and some messages of a plain conversation."""
    events = [event for event in load("tcp-plain-v2")["events"] if event["from"] == "dialler"]
    return b"".join(bytes.fromhex(event["wire"]) for event in events[:10])


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(places)]


def play(session: Session, pieces: list[bytes]) -> tuple[list[Any], str]:
    """All events, and how it ended: in which way pieces are cut must not matter."""
    events: list[Any] = []
    try:
        for piece in pieces:
            events += session.receive(piece)
    except ProtocolError as error:
        return events, str(error)
    return events, ""


CONVERSATIONS = (opened_stream(), opened_stream()[:184])


@MODERATE
@given(hostile(CONVERSATIONS), st.lists(st.integers(0, 3000), max_size=20), st.sampled_from([None, b"secret"]))
def test_session(data: bytes, cuts: list[int], password: bytes | None) -> None:
    def session() -> Session:
        return Session(outbound=False, password=password, private_key=bytes(31) + b"\x40")

    whole = play(session(), [data])
    pieces = play(session(), in_pieces(data, cuts))

    assert pieces[1] == whole[1]
    if not whole[1]:
        assert pieces[0] == whole[0]
        assert all(len(event.message) <= 10 * MIB for event in whole[0] if isinstance(event, MessageReceived))


@MODERATE
@given(changed((opened_stream()[:184],)))
def test_until_the_session_is_open_only_handshake_errors_leave_it(data: bytes) -> None:
    """As `Session.receive` documents: the opening exchange fails with `HandshakeError`, whatever is wrong with it."""
    session = Session(outbound=False, password=None, private_key=bytes(32))
    for at in range(len(data)):
        try:
            events = session.receive(data[at : at + 1])
        except HandshakeError:
            return
        except ProtocolError as error:
            pytest.fail(f"{type(error).__name__} left the opening exchange: {error}")
        if any(isinstance(event, FeaturesReceived) for event in events):
            return


LOW_ORDER_POINTS = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=range(len(LOW_ORDER_POINTS)))
def test_public_keys_that_give_no_secret_are_refused(point: bytes) -> None:
    with pytest.raises(SealError):
        session_key(point, bytes(31) + b"\x40", b"secret")


@MODERATE
@given(st.binary(min_size=32, max_size=32))
def test_any_public_key_gives_a_key_or_an_error(point: bytes) -> None:
    accepted(lambda: session_key(point, bytes(31) + b"\x40", b"secret"), SealError)


# --- sleeve ----------------------------------------------------------------------------------------------------------


def ciphers() -> list[Cipher]:
    key = bytes(range(32))
    return [
        PlainCipher(OURSELVES),
        NaclCipher(OURSELVES, key, outbound=True),
        AeadCipher(AES, OURSELVES, NEIGHBOUR, 7, key),
        AeadCipher(CHACHA, OURSELVES, NEIGHBOUR, 7, key),
    ]


@MODERATE
@given(hostile(packets()))
def test_ciphers_and_frames(packet: bytes) -> None:
    for cipher in ciphers():
        accepted(lambda cipher=cipher: list(split_frames(cipher.open(packet))), PacketError)  # type: ignore[misc]


@MODERATE
@given(hostile(packets()))
def test_frames_of_a_packet_are_parts_of_it(data: bytes) -> None:
    """What was yielded before the mistake is whole; nothing is read twice or left out."""
    seen = bytearray()
    try:
        for source, destination, frame in split_frames(data):
            seen += source + destination + len(frame).to_bytes(2) + frame
    except PacketError:
        assert data.startswith(bytes(seen))
    else:
        assert seen == data


@MODERATE
@given(st.integers(0, 80), st.binary(max_size=40), st.integers(0, 9), st.binary(max_size=4))
def test_link_takes_any_special_frame_and_control_message(length: int, tail: bytes, number: int, body: bytes) -> None:
    link = SleeveLink(1, 6, None, 0.0)
    link.confirmed(0.0)
    link.special_frame(bytes(14) + tail, ("10.0.0.1", 6783), 0.1)
    link.special_frame(bytes(14 + length), ("10.0.0.1", 6783), 0.2)
    link.control(number, body, 0.3)
    link.handle_timer(1.0)
    assert link.next_timer() > 0.3


# --- Ethernet and IP -------------------------------------------------------------------------------------------------


@MODERATE
@given(hostile(ip_frames()), st.one_of(st.integers(0, 70000), st.sampled_from([0, 27, 28, 552, 1438, 65535])))
def test_ip_frames(frame: bytes, mtu: int) -> None:
    kind = classify(frame)
    assert classify(memoryview(frame)) is kind
    if kind is Kind.IP_NO_DF:
        parts = fragment(frame, mtu)
        assert all(classify(part) is Kind.IP_NO_DF for part in parts)
        assert all(len(part) <= max(mtu + 14, 60) for part in parts)
    elif kind is Kind.IP_DF and len(frame) > mtu + 14:
        reply = fragmentation_needed(frame, mtu)
        assert classify(reply) is Kind.IP_NO_DF
        assert len(reply) <= 14 + 20 + 8 + 60 + 8


def vnet(gso_type: int, size: int, start: int, offset: int, flags: int = 1) -> bytes:
    return struct.pack("<BBHHHH", flags, gso_type, 0, size, start, offset)


VNET_HEADERS = st.builds(
    vnet,
    st.one_of(st.sampled_from([0, 1, 4, 5, 0x81, 0x84]), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, 7, 536, 1400, 65535]), st.integers(0, 2000)),
    st.one_of(st.sampled_from([0, 34, 54, 38, 58]), st.integers(0, 2000)),
    st.integers(0, 40),
)


def cut(packet: bytes, headroom: int = 20) -> segmentation.Segments:
    return segmentation.cut([segmentation.read_superframe(packet)], headroom)


@MODERATE
@given(VNET_HEADERS, hostile(ip_frames()), st.sampled_from([0, 20]))
def test_superframes(header: bytes, frame: bytes, headroom: int) -> None:
    def check() -> None:
        segments = cut(header + frame, headroom)
        assert len(segments.frames()) == segments.count
        assert sum(map(len, segments.frames())) >= len(frame) - 14

    accepted(check, segmentation.SegmentationError)


def test_superframes_that_are_cut_short() -> None:
    packet = vnet(1, 1400, 34, 16) + ip_frames()[0]
    for length in range(10 + 34 + 20):
        start = packet[:length]
        assert not accepted(lambda start=start: cut(start), segmentation.SegmentationError)  # type: ignore[misc]


def test_a_superframe_needs_little_more_memory_than_it_has() -> None:
    """A container sets csum_start itself (AF_PACKET with a virtio header); headers are copied for every segment."""
    frame = bytearray(bytes.fromhex("02000000c20202000000c1010800") + b"\x45" + bytes(19) + bytes(30000))
    transport = 14000
    frame[transport + 12] = 0x50
    tracemalloc.start()
    try:
        accepted(lambda: cut(vnet(1, 1, transport, 16) + frame), segmentation.SegmentationError)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


@MODERATE
@given(hostile(ip_frames()), st.integers(0, 65535), st.integers(0, 65535))
def test_checksums_are_completed_within_the_frame(frame: bytes, start: int, offset: int) -> None:
    for at, field in ((start, offset), (start % 100, offset % 20)):
        if accepted(lambda at=at, field=field: segmentation.complete_checksum(frame, at, field)):  # type: ignore[misc]
            completed = segmentation.complete_checksum(frame, at, field)
            assert len(completed) == len(frame)
            assert completed[: at + field] == frame[: at + field]
            assert completed[at + field + 2 :] == frame[at + field + 2 :]
