"""Routes, computed exactly as every other peer computes them (mesh.md section 11).

All peers must come to the same trees from the same records, so the search below is the specification's to the letter:
breadth first from the source, the peers of a level in ascending order of name, the first to reach a peer decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from weave_router.wire.peer_name import NO_PEER, PeerName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_router.control.random_source import RandomSource
    from weave_router.wire.topology import PeerRecord

    Graph = Mapping[PeerName, frozenset[PeerName]]


@dataclass(frozen=True, slots=True)
class Tree:
    """The breadth-first tree of one source."""

    hop: Mapping[PeerName, PeerName]
    """For each peer reached: the source's next hop towards it; `NO_PEER` for the source itself."""
    parent: Mapping[PeerName, PeerName]
    """For each peer reached but the source: the peer that a broadcast of the source comes from."""
    children: Mapping[PeerName, tuple[PeerName, ...]]
    """For each peer with any: the next hops of a broadcast of the source."""


def search(graph: Graph, source: PeerName) -> Tree:
    """The tree of `source`: unicast next hops (11.2) and, as its branches, broadcast next hops (11.3).

    The specification's broadcast rule (edges of M to peers not found before M is handled) names just those peers that
    M finds first in this search.
    """
    hop = {source: NO_PEER}
    parent: dict[PeerName, PeerName] = {}
    children: dict[PeerName, tuple[PeerName, ...]] = {}
    level = [source]
    while level:
        following: list[PeerName] = []
        for peer in level:
            found = sorted(other for other in graph.get(peer, ()) if other not in hop)
            if not found:
                continue
            children[peer] = tuple(found)
            for other in found:
                hop[other] = other if peer == source else hop[peer]
                parent[other] = peer
            following += found
        following.sort()
        level = following
    return Tree(hop, parent, children)


class Routes:
    """Routes of one peer, from one consistent set of records. Immutable; trees of other sources are made when asked."""

    def __init__(self, ourselves: PeerName, records: Mapping[PeerName, PeerRecord]) -> None:
        self.ourselves = ourselves
        self._all: Graph = {name: record.neighbours for name, record in records.items()}
        half = {name: record.established for name, record in records.items()}
        self._established: Graph = {name: _agreed(name, others, half) for name, others in half.items()}
        self.peers = frozenset(records)
        """Every peer that is known."""
        self._trees: dict[tuple[bool, PeerName], Tree] = {}
        self.unicast_all = self._tree(ourselves, established=False).hop
        """Next hop to every peer that is connected in any way; for gossip."""
        self.unicast = self._tree(ourselves, established=True).hop
        """Next hop over links that both ends report as established; for frames."""

    def _tree(self, source: PeerName, *, established: bool) -> Tree:
        key = (established, source)
        tree = self._trees.get(key)
        if tree is None:
            graph = self._established if established else self._all
            tree = search(graph, source) if source in graph else Tree({}, {}, {})
            self._trees[key] = tree
        return tree

    def broadcast(self, source: PeerName) -> tuple[PeerName, ...]:
        """Where we pass on frames that `source` broadcasts."""
        return self._tree(source, established=True).children.get(self.ourselves, ())

    def behind(self, neighbour: PeerName) -> tuple[PeerName, ...]:
        """To whom a neighbour passes on frames that we broadcast."""
        return self._tree(self.ourselves, established=True).children.get(neighbour, ())

    def broadcast_all(self, source: PeerName) -> tuple[PeerName, ...]:
        """Where we pass on gossip broadcasts of `source`."""
        return self._tree(source, established=False).children.get(self.ourselves, ())

    def parent(self, source: PeerName) -> PeerName:
        """The neighbour from which frames broadcast by `source` must come; `NO_PEER` if none may."""
        return self._tree(source, established=True).parent.get(self.ourselves, NO_PEER)

    def hop_of(self, peer: PeerName, destination: PeerName) -> PeerName:
        """The next hop that `peer` has for frames to `destination`, if it sees what we see; `NO_PEER` if none."""
        return self._tree(peer, established=True).hop.get(destination, NO_PEER)

    def hop_of_all(self, peer: PeerName, destination: PeerName) -> PeerName:
        """The same for gossip."""
        return self._tree(peer, established=False).hop.get(destination, NO_PEER)

    def random_neighbours(self, leave_out: PeerName, random: RandomSource) -> list[PeerName]:
        """A random set of neighbours, weighted by how many peers lie behind each (11.4)."""
        weights: dict[PeerName, int] = {}
        for hop in self.unicast_all.values():
            if hop not in (NO_PEER, leave_out):
                weights[hop] = weights.get(hop, 0) + 1
        wanted = int(min(2 * math.log2(max(len(self.unicast_all), 1)), len(weights)))
        chosen = []
        for _ in range(wanted):
            chosen.append(_weighted(weights, random))
            del weights[chosen[-1]]
        return chosen


def _agreed(name: PeerName, others: frozenset[PeerName], half: Graph) -> frozenset[PeerName]:
    """Those of the others that say the same."""
    return frozenset([other for other in others if name in half.get(other, ())])


def _weighted(weights: dict[PeerName, int], random: RandomSource) -> PeerName:
    mark = random.random() * sum(weights.values())
    for hop, weight in weights.items():
        mark -= weight
        if mark < 0:
            return hop
    return next(reversed(weights))  # rounding left nothing over
