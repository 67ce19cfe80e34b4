"""What distant peers can do beyond Weave Net 2.8: the gossip channel `weave-net`.

The handshake's features reach neighbours only, so every peer of ours also announces its abilities by gossip. Relays of
Weave Net 2.8 pass a payload of this channel on once and greet newcomers with nothing: hence a counter in each
announcement, which makes every periodic repetition a new payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weave_router.errors import ProtocolError
from weave_router.wire import gob
from weave_router.wire.peer_name import NO_PEER, PeerName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from weave_router.control.gossip import GossipData
    from weave_router.wire.topology import PeerRecord

CHANNEL = "weave-net"
MAX_PEERS = 4096
MAX_ABILITIES = 64
MAX_ABILITY_BYTES = 64

_ANNOUNCEMENT = gob.Struct(
    {
        "Peer": gob.UINT,
        "UID": gob.UINT,
        "Counter": gob.UINT,
        "Abilities": gob.Slice(gob.STRING, limit=MAX_ABILITIES),
    },
    "announcement",
)
_PAYLOAD = gob.Slice(_ANNOUNCEMENT, limit=MAX_PEERS)
_CODEC = gob.Codec(_PAYLOAD)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one peer says in one of its lives."""

    uid: int
    counter: int
    abilities: frozenset[str]


class AbilitiesChannel:
    """All announcements that are known.

    `peers`: the topology's records. They tell which of a peer's lives is the present one; announcements of another
    life would else chase each other through the network for ever.
    """

    def __init__(
        self, ourselves: PeerName, uid: int, abilities: Sequence[str], peers: Mapping[PeerName, PeerRecord]
    ) -> None:
        self._ourselves = ourselves
        self._peers = peers
        self._known: dict[PeerName, Announcement] = {ourselves: Announcement(uid, 0, frozenset(abilities))}

    def can(self, peer: PeerName, ability: str) -> bool:
        """Whether a peer has announced an ability."""
        announcement, record = self._known.get(peer), self._peers.get(peer)
        if announcement is None or record is None or record.uid != announcement.uid:
            return False
        return ability in announcement.abilities

    def complete_state(self) -> GossipData:
        """All of them, ours with the next counter."""
        own = self._known[self._ourselves]
        self._known[self._ourselves] = Announcement(own.uid, own.counter + 1, own.abilities)
        for peer in [peer for peer in self._known if peer != self._ourselves and peer not in self._peers]:
            del self._known[peer]
        return _Announcements(self._known, self._known)

    def on_gossip(self, source: PeerName, payload: bytes, now: float) -> Iterator[GossipData | None]:
        """Learn, and pass on what was new."""
        news = self._learn(payload)
        if news:
            yield _Announcements(self._known, news)

    def on_broadcast(self, source: PeerName, payload: bytes, now: float) -> GossipData | None:
        """Not sent by anybody, but understood."""
        news = self._learn(payload)
        return _Announcements(self._known, news) if news else None

    def on_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        """Not part of this channel."""
        raise ProtocolError("unicast on the channel of abilities")

    def _learn(self, payload: bytes) -> dict[PeerName, None]:
        news: dict[PeerName, None] = {}
        for item in _CODEC.decode(_PAYLOAD, payload):
            peer = PeerName(item.get("Peer", NO_PEER))
            abilities = item.get("Abilities", ())
            if peer == NO_PEER or peer >> 48 or any(gob.byte_length(text) > MAX_ABILITY_BYTES for text in abilities):
                raise gob.GobError("announcement of nobody, or too long")
            heard = Announcement(item.get("UID", 0), item.get("Counter", 0), frozenset(abilities))
            known = self._known.get(peer)
            record = self._peers.get(peer)
            if peer == self._ourselves or (known is None and len(self._known) >= MAX_PEERS):
                continue
            if known is not None and (record is None or record.uid != heard.uid):
                continue
            if known is None or known.uid != heard.uid:
                news[peer] = None
            elif known.counter >= heard.counter:
                continue
            self._known[peer] = heard
        return news


class _Announcements:
    """Some of the announcements, as they are when sent."""

    def __init__(self, known: Mapping[PeerName, Announcement], names: Mapping[PeerName, object]) -> None:
        self._known = known
        self._names = dict.fromkeys(names)

    def merge(self, other: GossipData) -> GossipData:
        if not isinstance(other, _Announcements):
            raise TypeError("gossip of another channel")
        return _Announcements(self._known, self._names | other._names)

    def encode(self) -> Sequence[bytes]:
        items = [
            {"Peer": name, "UID": known.uid, "Counter": known.counter, "Abilities": sorted(known.abilities)}
            for name in self._names
            if (known := self._known.get(name)) is not None
        ]
        return [_CODEC.encode(_PAYLOAD, items)]
