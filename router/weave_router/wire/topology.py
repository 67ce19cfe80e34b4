"""Topology payloads: peers' records with their connection lists (mesh.md section 8.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from weave_router.wire import gob
from weave_router.wire.peer_name import NO_PEER, PeerName

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

MAX_PEERS = 4096
MAX_CONNECTIONS = 4096
MAX_NICKNAME_BYTES = 256
MAX_ADDRESS_BYTES = 256
MAX_SHORT_ID = 4095
MAX_VERSION = 2**63
"""Versions above leave no room to jump over them; records that claim one are not applied (mesh.md section 14)."""

_PEER = gob.Struct(
    {
        "NameByte": gob.BYTES,
        "NickName": gob.STRING,
        "UID": gob.UINT,
        "Version": gob.UINT,
        "ShortID": gob.UINT16,
        "HasShortID": gob.BOOL,
    },
    "peerSummary",
)
_CONNECTION = gob.Struct(
    {
        "NameByte": gob.BYTES,
        "RemoteTCPAddr": gob.STRING,
        "Outbound": gob.BOOL,
        "Established": gob.BOOL,
    },
    "connectionSummary",
)
_CONNECTIONS = gob.Slice(_CONNECTION, limit=MAX_CONNECTIONS)


_CODEC = gob.Codec(_PEER, _CONNECTIONS)


@dataclass(frozen=True, slots=True)
class Link:
    """A connection of a peer, as that peer tells it."""

    remote: PeerName
    address: str
    """`ip:port` of the remote end as this peer sees it."""
    outbound: bool
    """Whether this peer dialled."""
    established: bool


@dataclass(frozen=True)
class PeerRecord:
    """A peer's record. Immutable, so that a set of records is a consistent snapshot."""

    name: PeerName
    nickname: str = ""
    uid: int = 0
    """0 for a placeholder, a peer that is known by name only."""
    version: int = 0
    short_id: int | None = None
    links: tuple[Link, ...] = ()

    @cached_property
    def neighbours(self) -> frozenset[PeerName]:
        """Peers that this one has links with."""
        return frozenset(link.remote for link in self.links)

    @cached_property
    def established(self) -> frozenset[PeerName]:
        """Those of them with which the link is established, as this peer sees it."""
        return frozenset(link.remote for link in self.links if link.established)

    @cached_property
    def encoded(self) -> bytes:
        """The two chunks of this peer in a payload; made once, since complete states are sent often."""
        peer = {
            "NameByte": self.name.to_bytes(6),
            "NickName": self.nickname,
            "UID": self.uid,
            "Version": self.version,
            "ShortID": self.short_id,
            "HasShortID": self.short_id is not None,
        }
        links = [
            {
                "NameByte": link.remote.to_bytes(6),
                "RemoteTCPAddr": link.address,
                "Outbound": link.outbound,
                "Established": link.established,
            }
            for link in self.links
        ]
        return _CODEC.chunk(_PEER, peer) + _CODEC.chunk(_CONNECTIONS, links)


def encode_records(records: Iterable[PeerRecord]) -> bytes:
    """A payload of these records; empty without any."""
    encoded = b"".join(record.encoded for record in records)
    return _CODEC.definitions + encoded if encoded else b""


def decode_records(payload: bytes, known: Container[bytes] = frozenset()) -> Iterator[PeerRecord]:
    """Read a payload record by record, so that the caller can pause in a long one. Raises `GobError`.

    Records that no honest peer sends (zero name, version out of range) are left out; the rest is used. Those whose
    encoding is `known` are passed over: most records of a payload are, and decoding them would be most of the work.
    """
    decoder = _CODEC.decoder(payload)
    count = 0
    while not decoder.at_end():
        if decoder.peek(2) in known:
            decoder.skip()
            decoder.skip()
            continue
        peer = decoder.value(_PEER)
        count += 1
        if count > MAX_PEERS:
            raise gob.GobError(f"more than {MAX_PEERS} peers")
        nickname = peer.get("NickName", "")
        if gob.byte_length(nickname) > MAX_NICKNAME_BYTES:
            raise gob.GobError(f"nickname of {gob.byte_length(nickname)} bytes")
        short_id = peer.get("ShortID", 0) if peer.get("HasShortID") else None
        if short_id is not None and short_id > MAX_SHORT_ID:
            short_id = None
        name, version = _name(peer), peer.get("Version", 0)
        links = _read_links(decoder.value(_CONNECTIONS), name)
        if name != NO_PEER and version <= MAX_VERSION:
            yield PeerRecord(name, nickname, peer.get("UID", 0), version, short_id, links)
    _CODEC.done(decoder, payload)


def _read_links(connections: Iterable[dict[str, Any]], name: PeerName) -> tuple[Link, ...]:
    links = {}
    for connection in connections:
        remote = _name(connection)
        address = connection.get("RemoteTCPAddr", "")
        if gob.byte_length(address) > MAX_ADDRESS_BYTES:
            raise gob.GobError(f"address of {gob.byte_length(address)} bytes")
        if remote not in (NO_PEER, name):
            links[remote] = Link(
                remote, address, connection.get("Outbound", False), connection.get("Established", False)
            )
    return tuple(links.values())


def _name(struct: dict[str, bytes]) -> PeerName:
    raw = struct.get("NameByte", b"")
    if len(raw) != 6:
        raise gob.GobError(f"peer name of {len(raw)} bytes")
    return PeerName(int.from_bytes(raw))
