"""Frames captured in one burst, where the data plane's door has put them: in slots of one buffer.

    | room | virtio-net header | frame        | unused  |   a small frame takes one slot,
    | room | virtio-net header | frame ................ |   a superframe as many as it needs

The room, together with the virtio-net header, is what sleeve's headers need; see `weave_router.sleeve.codec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from weave_router.frames.segmentation import VNET_BYTES
from weave_router.sleeve.codec import FIRST_FRAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

SLOT_BYTES = 2048
ROOM = FIRST_FRAME - VNET_BYTES
"""Bytes at the beginning of a slot, before the virtio-net header."""
WORTHWHILE_ROWS = 4
"""Fewer packets than this are quicker one by one than as an array."""


@dataclass(frozen=True, slots=True)
class CapturedBurst:
    """Packets from the bridge, each a virtio-net header and a frame; valid until the next burst is captured."""

    buffer: NDArray[np.uint8]
    """Shape (slots * SLOT_BYTES,)."""
    slots: Sequence[int]
    """The first slot of each packet, in order of arrival."""
    lengths: Sequence[int]
    """Bytes of each packet, from its virtio-net header on."""

    def __bool__(self) -> bool:
        return bool(self.slots)

    def pieces(self) -> Iterator[memoryview | NDArray[np.uint8]]:
        """The packets in order: one by one, or several of equal length as rows of an array."""
        lengths, slots = self.lengths, self.slots
        count = len(lengths)
        data = self.buffer.data
        start = 0
        while start < count:
            length = lengths[start]
            stop = start + 1
            while stop < count and lengths[stop] == length:
                stop += 1
            if stop - start >= WORTHWHILE_ROWS and VNET_BYTES <= length <= SLOT_BYTES - ROOM:
                taken = self.buffer[slots[start] * SLOT_BYTES : slots[stop - 1] * SLOT_BYTES + SLOT_BYTES]
                rows = taken.reshape(-1, SLOT_BYTES)[:, ROOM : ROOM + length]
                if rows[:, 1].any():
                    yield from (row.data for row in rows)  # small superframes among them
                else:
                    yield rows
            else:
                for slot in slots[start:stop]:
                    begin = slot * SLOT_BYTES + ROOM
                    yield data[begin : begin + length]
            start = stop


def slots_of(length: int) -> int:
    """How many slots a packet of so many bytes takes."""
    return -(-(ROOM + length) // SLOT_BYTES)


def burst_of(packets: Sequence[bytes]) -> CapturedBurst:
    """A burst of these packets."""
    slots, place = [], 0
    for packet in packets:
        slots.append(place)
        place += slots_of(len(packet))
    buffer = np.zeros(place * SLOT_BYTES, np.uint8)
    for slot, packet in zip(slots, packets, strict=True):
        begin = slot * SLOT_BYTES + ROOM
        buffer[begin : begin + len(packet)] = np.frombuffer(packet, np.uint8)
    return CapturedBurst(buffer, slots, [len(packet) for packet in packets])
