"""Messages about forwarding databases: what the kernel is sent, and that no bytes confuse the reader."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from weave_router.doors import VxlanEntry
from weave_router.host import fdb_messages
from weave_router.host.fdb_messages import Answer, Entry

MAC = bytes.fromhex("020000000001")
ENTRY = VxlanEntry(MAC, IPv4Address("192.0.2.1"))


def test_message_is_laid_out_as_in_rtnetlink() -> None:
    message = fdb_messages.add_entry(7, ENTRY).numbered(3, answered=True)
    assert message.hex(" ", 4) == (
        "30000000 1c000505 03000000 00000000 07000000 07000000 80000200 0a000200 02000000 00010000 08000100 c0000201"
    )


def test_own_messages_are_read() -> None:
    data = fdb_messages.learn(7, MAC).numbered(0, answered=False) + fdb_messages.remove_entry(8, ENTRY).numbered(
        1, answered=True
    )
    assert list(fdb_messages.parse(data)) == [
        Entry(added=True, device=7, state=0x40, flags=0x44, mac=MAC, remote=None, bridge=None),
        Entry(added=False, device=8, state=0, flags=2, mac=MAC, remote=ENTRY.remote, bridge=None),
    ]


def test_answers_are_read() -> None:
    refusal = bytes.fromhex("24000000 02000000 05000000 00000000 feffffff") + bytes(16)
    assert list(fdb_messages.parse(refusal)) == [Answer(5, 2)]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    list(fdb_messages.parse(data))


@given(st.data())
def test_damaged_messages_are_read_without_an_error(data: st.DataObject) -> None:
    whole = bytearray(
        b"".join(request.numbered(i, answered=True) for i, request in enumerate([fdb_messages.add_entry(7, ENTRY)] * 3))
    )
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    list(fdb_messages.parse(bytes(whole[: data.draw(st.integers(0, len(whole)))])))
