"""Messages of the channel `nameserver` as Weave Net 2.8 sent them (dns.md section 3, gob.md section 8), and bad ones.

Where we differ from 2.8 on purpose:

- A message's `Timestamp` is never a reason to refuse it.
- Entries that make no sense (origin 0 or from 2^48 on, version below 0 or from 2^62 on, a name that is empty or longer
  than 255 bytes, a container of more than 1024 bytes, a tombstone below 0) are left out; the rest counts.
- More than 512 entries are sent in several messages.
- Entries with IPv6 addresses travel in the same form on `nameserver6`, their addresses as 16 bytes.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vector_files import DNS, load, peer, read_payload, value_bytes
from weave_dns.entries import Entry
from weave_dns.messages import (
    CHANNEL,
    ENTRIES_PER_STEP,
    IPV4,
    IPV6,
    MAX_ENTRIES,
    Family,
    Header,
    decode_message,
    encode_message,
)
from weave_router.errors import ProtocolError
from weave_router.wire import gob
from weave_router.wire.envelope import Tag, decode_envelope
from weave_router.wire.peer_name import PeerName

TAGS = {"gossip": Tag.GOSSIP, "broadcast": Tag.BROADCAST, "unicast": Tag.UNICAST}
CAPTURED = load("dns/wire")["messages"]
MESSAGES = [
    pytest.param(message, id=f"{number}-{message['tag']}-{message['step'].split(':')[0][:24].replace(' ', '-')}")
    for number, message in enumerate(CAPTURED)
]
STREAMS = list(dict.fromkeys(bytes.fromhex(message["payload_hex"]) for message in CAPTURED))
NOW = 1_700_000_000


def read(family: Family, payload: bytes) -> tuple[Header, list[Entry]]:
    """The header and all entries."""
    header = Header(0, 0)
    entries: list[Entry] = []
    for part in decode_message(family, payload):
        if isinstance(part, Header):
            header = part
        else:
            assert len(part) <= ENTRIES_PER_STEP
            entries += part
    return header, entries


def expected(decoded: Any) -> list[Entry]:
    """Entries as `decoded` has them; absent fields are zero."""
    return [
        Entry(
            item.get("ContainerID", ""),
            PeerName(item.get("Origin", 0)),
            IPv4Address(item.get("Addr", 0)),
            item.get("Hostname", ""),
            item.get("Version", 0),
            item.get("Tombstone", 0),
        )
        for item in decoded.get("Entries", ())
    ]


def recorded_entry(recorded: Any) -> Entry:
    """An entry of `rules.json`."""
    return Entry(
        recorded["container"],
        peer(recorded["origin"]),
        IPv4Address(recorded["address"]),
        recorded["hostname"],
        recorded["version"],
        recorded["tombstone"],
    )


def as_gob(**content: Any) -> bytes:
    """A message with these fields, made without `encode_message`."""
    return gob.Codec(DNS).encode(DNS, content)


GOOD = {"ContainerID": "c", "Origin": 2, "Addr": 0x0A000001, "Hostname": "good.weave.local."}


# What Weave Net sent


@pytest.mark.parametrize("message", MESSAGES)
def test_message_is_decoded(message: Any) -> None:
    header, entries = read(IPV4, bytes.fromhex(message["payload_hex"]))
    assert header.clock == message["decoded"]["Timestamp"]
    assert entries == expected(message["decoded"])


@pytest.mark.parametrize("message", MESSAGES)
def test_message_is_encoded_to_the_same_bytes_of_content(message: Any) -> None:
    payload = bytes.fromhex(message["payload_hex"])
    header, entries = read(IPV4, payload)
    ours = encode_message(IPV4, entries, header.clock)
    assert value_bytes(ours) == value_bytes(payload)
    assert read_payload(CHANNEL, TAGS[message["tag"]], ours)[0]["value"] == message["decoded"]


@pytest.mark.parametrize("message", MESSAGES)
def test_weave_net_sends_what_our_order_says(message: Any) -> None:
    entries = expected(message["decoded"])
    assert entries == sorted(entries, key=lambda entry: entry.wire_order)


@pytest.mark.parametrize(
    "frame",
    [pytest.param(frame, id=f"{number}-{frame['tag']}") for number, frame in enumerate(load("dns/frames")["frames"])],
)
def test_frame_is_read_down_to_the_content(frame: Any) -> None:
    message = bytes.fromhex(frame["message_hex"])
    envelope = decode_envelope(message)
    assert (envelope.tag, [envelope.channel, envelope.source]) == (frame["tag"], frame["envelope"])
    assert envelope.channel == frame["channel"] == CHANNEL == IPV4.channel
    assert len(envelope.payload) == frame["payload_len"]
    assert envelope.encode() == message
    recorded = read_payload(envelope.channel, envelope.tag, envelope.payload)[0]["value"]
    header, entries = read(IPV4, envelope.payload)
    assert (header.clock, entries) == (recorded["Timestamp"], expected(recorded))


@pytest.mark.parametrize(
    "type_", [type_ for frame in load("dns/frames")["frames"] for type_ in frame["payload_types"]], ids=str
)
def test_our_descriptors_have_the_fields_and_kinds_of_theirs(type_: Any) -> None:
    for name, kind in type_.get("fields", ()):
        schema = (IPV4.message if type_["name"] == "GossipData" else IPV4.entry).fields[name]
        if name == "Entries":
            assert isinstance(schema, gob.Slice)
            assert (schema.element, schema.name) == (IPV4.entry, "Entries")
        else:
            assert type(schema) is {2: gob.Int, 3: gob.Uint, 6: gob.String}[kind]
    if "fields" in type_:
        schema = IPV4.message if type_["name"] == "GossipData" else IPV4.entry
        assert [*schema.fields] == [name for name, _ in type_["fields"]]


def test_captures_hold_every_form_of_message() -> None:
    forms = {(message["tag"], "Entries" in message["decoded"]) for message in CAPTURED}
    assert forms == {("gossip", False), ("gossip", True), ("broadcast", True)}
    entries = [entry for message in CAPTURED for entry in expected(message["decoded"])]
    assert {bool(entry.tombstone) for entry in entries} == {True, False}
    assert max(entry.version for entry in entries) >= 2


def test_wire_order() -> None:
    """Section 1: by the host name's bytes, letter case significant, then origin, container, address."""
    vector = load("dns/rules")["wire_order"]
    entries = [recorded_entry(item) for item in vector["entries_in_any_order"]]
    ordered = sorted(entries, key=lambda entry: entry.wire_order)
    assert ordered == [recorded_entry(item) for item in vector["order_on_the_wire"]]
    header, entries = read(IPV4, bytes.fromhex(vector["hex"]))
    assert (header.clock, entries) == (vector["timestamp"], ordered)
    assert value_bytes(encode_message(IPV4, ordered, vector["timestamp"])) == value_bytes(bytes.fromhex(vector["hex"]))
    empty = bytes.fromhex(vector["hex_without_entries"])
    assert value_bytes(encode_message(IPV4, [], vector["timestamp"])) == value_bytes(empty)


# What others may send


def test_fields_that_we_do_not_know_are_ignored() -> None:
    entry = gob.Struct({"Extra": gob.STRING, **IPV4.entry.fields, "Weight": gob.UINT}, "Entry")
    message = gob.Struct(
        {"Zone": gob.STRING, "Timestamp": gob.INT, "Entries": gob.Slice(entry, "Entries")}, "GossipData"
    )
    item = {**GOOD, "Extra": "x", "Weight": 7}
    payload = gob.Codec(message).encode(message, {"Zone": "z", "Timestamp": NOW, "Entries": [item, item]})
    header, entries = read(IPV4, payload)
    assert header.clock == NOW
    assert entries == expected({"Entries": [GOOD]}) * 2


def test_fields_are_found_by_name_in_whatever_order() -> None:
    entry = gob.Struct(dict(reversed([*IPV4.entry.fields.items()])), "Entry")
    message = gob.Struct({"Entries": gob.Slice(entry, "Entries"), "Timestamp": gob.INT}, "GossipData")
    header, entries = read(IPV4, gob.Codec(message).encode(message, {"Timestamp": NOW, "Entries": [GOOD]}))
    assert (header.clock, entries) == (NOW, expected({"Entries": [GOOD]}))


def test_message_without_timestamp_is_of_the_year_1970() -> None:
    assert read(IPV4, as_gob(Entries=[GOOD])) == (Header(0, 0), expected({"Entries": [GOOD]}))


NONSENSE = {
    "origin 0": {"Origin": 0},
    "origin 2^48": {"Origin": 1 << 48},
    "origin 2^64 - 1": {"Origin": (1 << 64) - 1},
    "version -1": {"Version": -1},
    "version 2^62": {"Version": 1 << 62},
    "version -2^63": {"Version": -(1 << 63)},
    "version 2^63 - 1": {"Version": (1 << 63) - 1},
    "no name": {"Hostname": ""},
    "long name": {"Hostname": "a" * 256},
    "long name in bytes": {"Hostname": "é" * 128},
    "long container": {"ContainerID": "c" * 1025},
    "long container in bytes": {"ContainerID": "é" * 513},
    "tombstone -1": {"Tombstone": -1},
    "tombstone -2^63": {"Tombstone": -(1 << 63)},
}
LIMITS = {
    "origin 1": {"Origin": 1},
    "origin 2^48 - 1": {"Origin": (1 << 48) - 1},
    "version 2^62 - 1": {"Version": (1 << 62) - 1},
    "name of 255 bytes": {"Hostname": "a" * 255},
    "container of 1024 bytes": {"ContainerID": "c" * 1024},
    "no container": {"ContainerID": ""},
    "tombstone 2^63 - 1": {"Tombstone": (1 << 63) - 1, "Version": 1},
    "address 0.0.0.0": {"Addr": 0},
    "address 255.255.255.255": {"Addr": 0xFFFF_FFFF},
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in NONSENSE.items()])
def test_entry_that_makes_no_sense_is_left_out_and_the_rest_counts(change: dict[str, Any]) -> None:
    other = {**GOOD, "Hostname": "other.weave.local."}
    header, entries = read(IPV4, as_gob(Timestamp=NOW, Entries=[GOOD, {**GOOD, **change}, other]))
    assert header.clock == NOW
    assert entries == expected({"Entries": [GOOD, other]})


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in LIMITS.items()])
def test_entry_at_a_limit_counts(change: dict[str, Any]) -> None:
    item = {**GOOD, **change}
    assert read(IPV4, as_gob(Timestamp=NOW, Entries=[item]))[1] == expected({"Entries": [item]})


@pytest.mark.parametrize("clock", [0, 1, -1, NOW + 901, (1 << 63) - 1, -(1 << 63)])
def test_whatever_a_clock_says_the_message_is_read(clock: int) -> None:
    assert read(IPV4, as_gob(Timestamp=clock, Entries=[GOOD]))[1] == expected({"Entries": [GOOD]})


@pytest.mark.parametrize("count", [1, ENTRIES_PER_STEP, ENTRIES_PER_STEP + 1, 1000])
def test_long_message_is_read_in_steps(count: int) -> None:
    items = [{**GOOD, "Addr": number + 1} for number in range(count)]
    parts = [part for part in decode_message(IPV4, as_gob(Timestamp=NOW, Entries=items)) if isinstance(part, list)]
    assert len(parts) == -(-count // ENTRIES_PER_STEP)
    assert [entry for part in parts for entry in part] == expected({"Entries": items})


def test_message_of_as_many_entries_as_are_kept_is_read() -> None:
    """Weave Net 2.8 sends all that it knows in one message."""
    entries = [Entry("c", PeerName(2), IPv4Address(number), "h.weave.local.", 1, 5) for number in range(MAX_ENTRIES)]
    payload = encode_message(IPV4, entries, NOW)
    assert len(read(IPV4, payload)[1]) == MAX_ENTRIES


def test_messages_of_the_same_entries_have_the_same_mark() -> None:
    one, same, other, dead = (
        read(IPV4, as_gob(Timestamp=clock, Entries=[item]))[0]
        for clock, item in (
            (NOW, GOOD),
            (NOW + 30, GOOD),
            (NOW, {**GOOD, "Addr": 9}),
            (NOW, {**GOOD, "Version": 1, "Tombstone": NOW}),
        )
    )
    assert one.mark == same.mark
    assert len({one.mark, other.mark, dead.mark}) == 3


# IPv6


SIX = Entry("c6", PeerName(3), IPv6Address("fd00::1"), "six.weave.local.", 3, 0)


def test_entries_of_ipv6_travel_on_a_channel_of_their_own() -> None:
    entries = [SIX, Entry("c6", PeerName(3), IPv6Address("::"), "six.weave.local.", 4, NOW)]
    header, received = read(IPV6, encode_message(IPV6, entries, NOW))
    assert (header.clock, received) == (NOW, entries)
    assert (IPV4.channel, IPV6.channel) == ("nameserver", "nameserver6")


@pytest.mark.parametrize("address", [b"", b"\x0a\0\0\1", bytes(15), bytes(17), bytes(1024)])
def test_entry_whose_address_is_none_of_ipv6_is_left_out(address: bytes) -> None:
    item = {"ContainerID": "c6", "Origin": 3, "Addr": SIX.address.packed, "Hostname": "six.weave.local.", "Version": 3}
    payload = gob.Codec(IPV6.message).encode(
        IPV6.message, {"Timestamp": NOW, "Entries": [{**item, "Addr": address}, item]}
    )
    assert read(IPV6, payload)[1] == [SIX]


def test_messages_of_one_family_are_refused_by_the_other() -> None:
    for payload, family in ((encode_message(IPV6, [SIX], NOW), IPV4), (as_gob(Timestamp=NOW, Entries=[GOOD]), IPV6)):
        with pytest.raises(ProtocolError):
            read(family, payload)


# Damaged messages


@pytest.mark.parametrize("stream", [pytest.param(stream, id=str(number)) for number, stream in enumerate(STREAMS)])
def test_message_cut_short_is_refused(stream: bytes) -> None:
    for length in range(len(stream)):
        with pytest.raises(ProtocolError):
            read(IPV4, stream[:length])


class Announced(gob.EncodedElements):
    """One element that claims to be many."""

    def __init__(self, element: bytes, count: int) -> None:
        super().__init__([element])
        self.announced = count

    def __len__(self) -> int:
        return self.announced


@pytest.mark.parametrize("count", [2, MAX_ENTRIES, MAX_ENTRIES + 1, 1 << 32, (1 << 63) - 1])
def test_more_elements_announced_than_there_are_is_refused(count: int) -> None:
    element = gob.encode_element(IPV4.entry, GOOD)
    one = gob.Codec(DNS).encode(DNS, {"Timestamp": NOW, "Entries": Announced(element, 1)})
    assert read(IPV4, one)[1] == expected({"Entries": [GOOD]})
    many = gob.Codec(DNS).encode(DNS, {"Timestamp": NOW, "Entries": Announced(element, count)})
    with pytest.raises(ProtocolError):
        read(IPV4, many)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A stream with a few bytes changed; half of them behind the type definitions, where the values are."""
    result = bytearray(draw(st.sampled_from(STREAMS)))
    late = draw(st.booleans())
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4)):
        first = len(result) * 2 // 3 if late else 0
        result[first + place % (len(result) - first)] = byte
    return bytes(result)


@settings(max_examples=600, deadline=None)
@given(damaged(), st.sampled_from((IPV4, IPV6)))
def test_damaged_message_is_refused_or_understood(payload: bytes, family: Family) -> None:
    """Whatever was understood can be handled, and sent on to the same effect."""
    try:
        header, entries = read(family, payload)
    except ProtocolError:
        return
    again = read(family, encode_message(family, entries, header.clock))
    assert (again[0].clock, again[1]) == (header.clock, entries)
    for entry in entries:
        assert 0 < entry.origin < 1 << 48
        assert 0 <= entry.version < 1 << 62
        assert entry.tombstone >= 0
        assert 0 < gob.byte_length(entry.hostname) <= 255
        assert entry.identity.hostname
        assert sorted([entry, SIX], key=lambda one: one.wire_order)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.sampled_from((IPV4, IPV6)))
def test_noise_is_refused_or_understood(payload: bytes, family: Family) -> None:
    try:
        read(family, payload)
    except ProtocolError:
        return
