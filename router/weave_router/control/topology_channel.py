"""The gossip channel `topology` (mesh.md section 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_router.errors import ProtocolError
from weave_router.wire.topology import decode_records, encode_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from weave_router.control.gossip import GossipData
    from weave_router.control.topology import Merge, Topology
    from weave_router.wire.peer_name import PeerName

CHANNEL = "topology"


class TopologyGossip:
    """The current records of some peers; encoded when sent, so always the newest."""

    def __init__(self, topology: Topology, names: Iterable[PeerName]) -> None:
        self._topology = topology
        self.names = dict.fromkeys(names)
        """Whose records are told."""

    def merge(self, other: GossipData) -> TopologyGossip:
        """The records of both."""
        if not isinstance(other, TopologyGossip):
            raise TypeError("gossip of another channel")
        return TopologyGossip(self._topology, self.names | other.names)

    def encode(self) -> Sequence[bytes]:
        """One payload, or none when all of these peers have been forgotten meanwhile."""
        records = self._topology.records
        present = [records[name] for name in self.names if name in records]
        return [encode_records(present)] if present else []


class TopologyChannel:
    """Applies topology payloads. `on_merge` tells the mesh what changed."""

    def __init__(self, topology: Topology, on_merge: Callable[[Merge, float], None]) -> None:
        self._topology = topology
        self._on_merge = on_merge
        self._last: dict[PeerName, tuple[int, int]] = {}

    def complete_state(self) -> TopologyGossip:
        """Every record, ours included."""
        return TopologyGossip(self._topology, self._topology.records)

    def forget(self, neighbour: PeerName) -> None:
        """A neighbour's connection ended: whatever it sends next is news."""
        self._last.pop(neighbour, None)

    def on_gossip(self, source: PeerName, payload: bytes, now: float) -> Iterator[GossipData | None]:
        """Apply a payload and pass on the records that were new. A neighbour's repetition costs nothing."""
        mark = (hash(payload), self._topology.removals)
        if self._last.get(source) == mark:
            return
        merge: Merge | None = None
        for merge in self._apply(payload, now):
            if merge is None:
                yield None
        self._last[source] = (mark[0], self._topology.removals)
        if merge is not None and merge.new:
            yield TopologyGossip(self._topology, merge.new)

    def on_broadcast(self, source: PeerName, payload: bytes, now: float) -> GossipData | None:
        """Apply a payload and pass on the records of all peers that it described. No peer sends these any more."""
        *_, merge = self._apply(payload, now)
        return TopologyGossip(self._topology, merge.described) if merge is not None and merge.new else None

    def on_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        """Not part of this channel."""
        raise ProtocolError("unicast on the topology channel")

    def _apply(self, payload: bytes, now: float) -> Iterator[Merge | None]:
        """Decode everything, pausing between peers, then apply it in one step."""
        received = []
        for record in decode_records(payload, self._topology.encodings):
            received.append(record)
            yield None
        merge = self._topology.merge(received)
        self._on_merge(merge, now)
        yield merge
