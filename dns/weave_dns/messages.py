"""Messages of the channels `nameserver` (dns.md section 3, gob.md section 8) and `nameserver6`, which is ours.

Weave Net 2.8 knows IPv4 addresses only, as numbers; those of IPv6 travel on a channel of their own, as 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

from weave_dns.entries import MAX_CONTAINER_BYTES, MAX_VERSION, Address, Entry
from weave_router.wire import gob
from weave_router.wire.peer_name import PeerName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CHANNEL = "nameserver"
CHANNEL6 = "nameserver6"
MAX_ENTRIES = 1 << 17
"""Of one message; we send fewer, but 2.8 sends all that it knows in one."""
ENTRIES_PER_MESSAGE = 512
BYTES_PER_MESSAGE = 60_000
"""Of entries, unless there is one only."""
ENTRIES_PER_STEP = 64
"""How many are read until the reader pauses: about a millisecond's work."""
_VALUES_PER_ENTRY = 8
MAX_HOSTNAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Family:
    """How entries of one family of addresses travel."""

    channel: str
    version: int
    entry: gob.Struct
    message: gob.Struct
    codec: gob.Codec


def _family(channel: str, version: int, address: gob.Schema) -> Family:
    entry = gob.Struct(
        {
            "ContainerID": gob.STRING,
            "Origin": gob.UINT,
            "Addr": address,
            "Hostname": gob.STRING,
            "Version": gob.INT,
            "Tombstone": gob.INT,
        },
        "Entry",
    )
    message = gob.Struct(
        {"Timestamp": gob.INT, "Entries": gob.Slice(entry, "Entries", MAX_ENTRIES)},
        "GossipData",
    )
    return Family(channel, version, entry, message, gob.Codec(message, max_values=_VALUES_PER_ENTRY * MAX_ENTRIES))


IPV4 = _family(CHANNEL, 4, gob.UINT32)
IPV6 = _family(CHANNEL6, 6, gob.BYTES)
FAMILIES = (IPV4, IPV6)


def family_of(address: Address) -> Family:
    """The family of an address."""
    return IPV4 if address.version == 4 else IPV6


@lru_cache(maxsize=1 << 16)
def _encode_entry(entry: Entry) -> bytes:
    return gob.encode_element(
        family_of(entry.address).entry,
        {
            "ContainerID": entry.container,
            "Origin": entry.origin,
            "Addr": int(entry.address) if entry.address.version == 4 else entry.address.packed,
            "Hostname": entry.hostname,
            "Version": entry.version,
            "Tombstone": entry.tombstone,
        },
    )


def batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries as they go into messages: so many that none is large; one empty batch where there are none."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        length = len(_encode_entry(entry))
        if batch and (len(batch) >= ENTRIES_PER_MESSAGE or size + length > BYTES_PER_MESSAGE):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += length
    yield batch


def encode_message(family: Family, entries: Iterable[Entry], clock: int) -> bytes:
    """A payload; the entries are in wire order and of this family. `clock`: Unix seconds."""
    content: dict[str, Any] = {"Timestamp": clock}
    elements = gob.EncodedElements(map(_encode_entry, entries))
    if elements:
        content["Entries"] = elements
    return family.codec.encode(family.message, content)


@dataclass(frozen=True, slots=True)
class Header:
    """What a message says before its entries."""

    clock: int
    """The sender's, Unix seconds."""
    mark: int
    """Equal for messages of the same entries."""


def decode_message(family: Family, payload: bytes) -> Iterator[Header | list[Entry]]:
    """Read a payload in steps between which the reader may pause, the header first. Raises `ProtocolError`.

    What cannot be an entry is left out.
    """
    decoder = family.codec.decoder(payload)
    for name, value, position in decoder.pieces(family.message, ENTRIES_PER_STEP):
        if name == "Timestamp":
            yield Header(value, hash(payload[position:]))
        else:
            yield [entry for item in value if (entry := _read_entry(family, item)) is not None]
    family.codec.done(decoder, payload)


def _read_entry(family: Family, item: dict[str, Any]) -> Entry | None:
    hostname, container = item.get("Hostname", ""), item.get("ContainerID", "")
    origin, version, tombstone = item.get("Origin", 0), item.get("Version", 0), item.get("Tombstone", 0)
    address = _read_address(family, item.get("Addr"))
    if (
        address is None
        or not 0 < gob.byte_length(hostname) <= MAX_HOSTNAME_BYTES
        or gob.byte_length(container) > MAX_CONTAINER_BYTES
        or not 0 < origin < 1 << 48
        or not 0 <= version < MAX_VERSION
        or tombstone < 0
    ):
        return None
    return Entry(container, PeerName(origin), address, hostname, version, tombstone)


def _read_address(family: Family, value: int | bytes | None) -> Address | None:
    if isinstance(value, bytes):
        return IPv6Address(value) if len(value) == 16 else None
    return IPv4Address(value or 0) if family is IPV4 else None
