"""Control messages and heartbeats of the VXLAN path: what is sent, what is read, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave_router.errors import ProtocolError
from weave_router.vxlan.messages import (
    ETHERTYPE,
    MACS_PER_MESSAGE,
    MOST_MACS,
    SMALL_PAYLOAD_BYTES,
    Heartbeat,
    Hello,
    Macs,
    MacsOperation,
    VxlanError,
    decode_flag,
    decode_heartbeat,
    decode_hello,
    decode_macs,
    encode_heartbeat,
    encode_hello,
    encode_macs,
)

HERE = bytes.fromhex("02000000000a")
THERE = bytes.fromhex("02000000000b")
TOKEN = bytes(range(8))
MTU = 1376
STATIONS = st.binary(min_size=6, max_size=6).filter(lambda mac: not mac[0] & 1 and any(mac))


def addresses(count: int) -> list[bytes]:
    return [b"\x06" + number.to_bytes(5) for number in range(count)]


def told(bodies: list[bytes], before: list[bytes]) -> list[bytes]:
    """What somebody who knew of `before` knows after these messages."""
    known = dict.fromkeys(before)
    for body in bodies:
        macs = decode_macs(body)
        if macs.operation is MacsOperation.ALL:
            known = {}
        for mac in macs.macs:
            if macs.operation is MacsOperation.REMOVED:
                known.pop(mac, None)
            else:
                known[mac] = None
    return list(known)


# --- HELLO, HEARING, MODE -------------------------------------------------------------------------------------------


def test_hello_is_a_token_and_an_mtu() -> None:
    assert encode_hello(Hello(TOKEN, MTU)) == TOKEN + b"\x05\x60"


@given(st.binary(min_size=8, max_size=8), st.integers(0, 65535))
def test_hello_comes_back(token: bytes, mtu: int) -> None:
    assert decode_hello(encode_hello(Hello(token, mtu))) == Hello(token, mtu)


def test_a_later_release_may_say_more_in_hello() -> None:
    assert decode_hello(encode_hello(Hello(TOKEN, MTU)) + b"more") == Hello(TOKEN, MTU)


@pytest.mark.parametrize("length", range(10))
def test_a_short_hello_is_refused(length: int) -> None:
    with pytest.raises(VxlanError, match=f"HELLO of {length} bytes"):
        decode_hello(bytes(length))


def test_a_flag_is_one_byte_and_more_may_follow() -> None:
    assert decode_flag(b"\x01") == 1
    assert decode_flag(b"\x02later") == 2
    with pytest.raises(VxlanError):
        decode_flag(b"")


# --- MACS -----------------------------------------------------------------------------------------------------------


def test_macs_are_an_operation_and_addresses() -> None:
    assert encode_macs(MacsOperation.REMOVED, [HERE, THERE]) == [b"\x01" + HERE + THERE]
    assert decode_macs(b"\x00" + HERE) == Macs(MacsOperation.ADDED, (HERE,))
    assert decode_macs(b"\x02") == Macs(MacsOperation.ALL, ())


def test_that_there_are_none_is_told_and_no_change_is_not() -> None:
    assert encode_macs(MacsOperation.ALL, []) == [b"\x02"]
    assert encode_macs(MacsOperation.ADDED, []) == []
    assert encode_macs(MacsOperation.REMOVED, []) == []


@pytest.mark.parametrize("count", [1, MACS_PER_MESSAGE - 1, MACS_PER_MESSAGE, MACS_PER_MESSAGE + 1, MOST_MACS])
@pytest.mark.parametrize("operation", MacsOperation)
def test_any_number_of_addresses_is_told_in_messages_of_limited_size(count: int, operation: MacsOperation) -> None:
    macs, others = addresses(count), [HERE, THERE]
    before = others + (macs if operation is MacsOperation.REMOVED else [])
    bodies = encode_macs(operation, iter(macs))

    assert len(bodies) == -(-count // MACS_PER_MESSAGE)
    assert max(map(len, bodies)) <= 1 + 6 * MACS_PER_MESSAGE
    expected = {MacsOperation.ADDED: others + macs, MacsOperation.REMOVED: others, MacsOperation.ALL: macs}
    assert sorted(told(bodies, before)) == sorted(expected[operation])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x03",
        b"\xff" + HERE,
        b"\x00" + HERE[:5],
        b"\x00" + HERE + b"\x02",
        b"\x00" + bytes.fromhex("ffffffffffff"),
        b"\x00" + HERE + bytes.fromhex("01005e000001"),
        b"\x02" + bytes(6),
        b"\x01" + bytes(6),
    ],
    ids=lambda body: body.hex() or "empty",
)
def test_addresses_that_make_no_sense_are_refused(body: bytes) -> None:
    """The host would refuse groups and zeros, and everything that is to be programmed together with them."""
    with pytest.raises(VxlanError):
        decode_macs(body)


def test_more_addresses_than_a_peer_may_have_are_refused() -> None:
    assert len(decode_macs(b"\x02" + b"".join(addresses(MOST_MACS))).macs) == MOST_MACS
    with pytest.raises(VxlanError, match=str(MOST_MACS)):
        decode_macs(b"\x02" + b"".join(addresses(MOST_MACS + 1)))


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for decode in (decode_hello, decode_flag, decode_macs):
        try:
            decode(body)
        except ProtocolError as error:
            assert str(error)


@given(st.sampled_from(MacsOperation), st.lists(STATIONS, min_size=1, max_size=20, unique=True))
def test_macs_come_back(operation: MacsOperation, macs: list[bytes]) -> None:
    (body,) = encode_macs(operation, macs)
    assert decode_macs(body) == Macs(operation, tuple(macs))


# --- heartbeats -----------------------------------------------------------------------------------------------------


def test_a_small_heartbeat_is_the_smallest_ethernet_frame() -> None:
    frame = encode_heartbeat(THERE, HERE, TOKEN, mtu=MTU, full=False)
    assert frame == THERE + HERE + ETHERTYPE.to_bytes(2) + b"\x01\x00" + TOKEN + bytes(SMALL_PAYLOAD_BYTES - 10)
    assert len(frame) == 60


def test_a_full_heartbeat_is_as_large_as_the_network_allows() -> None:
    frame = encode_heartbeat(THERE, HERE, TOKEN, mtu=MTU, full=True)
    assert len(frame) == 14 + MTU
    assert frame[14:24] == b"\x01\x01" + TOKEN


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("mtu", [68, 576, 1376, 1500, 8916, 65535])
def test_a_heartbeat_comes_back(mtu: int, full: bool) -> None:
    frame = encode_heartbeat(THERE, HERE, TOKEN, mtu=mtu, full=full)
    assert decode_heartbeat(frame, mtu) == Heartbeat(HERE, TOKEN, full)


def test_padding_on_the_way_does_no_harm() -> None:
    for full in (True, False):
        frame = encode_heartbeat(THERE, HERE, TOKEN, mtu=MTU, full=full) + bytes(4)
        assert decode_heartbeat(frame, MTU) == Heartbeat(HERE, TOKEN, full)


def test_one_is_full_only_if_it_is_as_large_as_ours() -> None:
    """Where MTUs differ, one side at least hears no full heartbeats, and the path is not used."""
    smaller = encode_heartbeat(THERE, HERE, TOKEN, mtu=MTU - 1, full=True)
    assert decode_heartbeat(smaller, MTU) == Heartbeat(HERE, TOKEN, full=False)
    larger = encode_heartbeat(THERE, HERE, TOKEN, mtu=MTU + 1, full=True)
    assert decode_heartbeat(larger, MTU) == Heartbeat(HERE, TOKEN, full=True)


def test_a_large_frame_that_says_it_is_small_is_small() -> None:
    frame = encode_heartbeat(THERE, HERE, TOKEN, mtu=MTU, full=False).ljust(14 + MTU, b"\0")
    assert decode_heartbeat(frame, MTU) == Heartbeat(HERE, TOKEN, full=False)


@pytest.mark.parametrize("length", [0, 13, 14, 23])
def test_a_short_frame_is_no_heartbeat(length: int) -> None:
    assert decode_heartbeat(encode_heartbeat(THERE, HERE, TOKEN, mtu=MTU, full=False)[:length], MTU) is None


@pytest.mark.parametrize("change", [(12, 0x08), (13, 0xB6), (14, 0), (14, 2)])
def test_another_type_or_version_is_no_heartbeat(change: tuple[int, int]) -> None:
    frame = bytearray(encode_heartbeat(THERE, HERE, TOKEN, mtu=MTU, full=False))
    frame[change[0]] = change[1]
    assert decode_heartbeat(bytes(frame), MTU) is None


@given(st.binary(max_size=80), st.integers(0, 65535))
def test_any_frame_is_read_or_ignored(frame: bytes, mtu: int) -> None:
    beat = decode_heartbeat(frame, mtu)
    assert beat is None or (len(beat.source), len(beat.token)) == (6, 8)
    forged = decode_heartbeat(frame[:12] + ETHERTYPE.to_bytes(2) + b"\x01" + frame[12:], mtu)
    assert forged is None or forged.source == frame[6:12]
