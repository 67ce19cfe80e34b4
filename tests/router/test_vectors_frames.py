"""IPv4 frames that the reference cut or refused (sleeve.md sections 8.4 and 8.5)."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from vector_files import cases, load, octets
from weave_router.frames.ipv4 import Kind, classify, fragment, fragmentation_needed
from weave_router.sleeve.codec import split_frames


@pytest.mark.parametrize("case", cases("ip-fragmentation", key="fragmentation", label="case"))
def test_frame_is_cut_as_recorded(case: Any) -> None:
    frame = bytes.fromhex(case["frame"])

    assert classify(frame) is Kind.IP_NO_DF
    assert [part.hex() for part in fragment(frame, case["mtu"])] == case["fragments"]


@pytest.mark.parametrize("case", cases("ip-fragmentation", key="icmp", label="case"))
def test_refusal_is_written_as_recorded(case: Any) -> None:
    frame = bytes.fromhex(case["frame"])

    assert classify(frame) is Kind.IP_DF
    assert fragmentation_needed(frame, case["mtu"]).hex() == case["reply"]


def header_checksum(header: bytes | bytearray) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def test_captured_fragments_are_those_of_the_original_frame() -> None:
    """The dialler's overlay MTU was 1242: the frame is put together from the capture and cut again."""
    packets = load("sleeve-mtu-search")["router_fragmented"]["packets"]
    frames = [frame for packet in packets for _, _, frame in split_frames(octets(packet["packet"])[6:])]
    assert len(frames) == 2
    payload = b"".join(frame[34 : 14 + int.from_bytes(frame[16:18])] for frame in frames)
    header = bytearray(frames[0][14:34])
    header[2:4] = (20 + len(payload)).to_bytes(2)
    header[6:8] = b"\0\0"
    header[10:12] = b"\0\0"
    header[10:12] = header_checksum(header).to_bytes(2)
    original = frames[0][:14] + bytes(header) + payload

    assert 20 + len(payload) == 1928
    assert fragment(original, 1242) == frames
    assert all(packet["ip_df"] for packet in packets)  # each by the DF way
