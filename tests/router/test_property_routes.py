"""Routes against a literal transcription of mesh.md sections 11.1 to 11.4, on random graphs, also one-sided ones."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.control.routes import Routes
from weave_router.wire.peer_name import NO_PEER, PeerName
from weave_router.wire.topology import Link, PeerRecord

MODERATE = settings(deadline=None)
Graph = dict[PeerName, set[PeerName]]


def links_strategy() -> st.SearchStrategy[dict[PeerName, PeerRecord]]:
    names = st.lists(st.integers(1, 2**48 - 1).map(PeerName), min_size=1, max_size=8, unique=True)

    def records(found: list[PeerName]) -> st.SearchStrategy[dict[PeerName, PeerRecord]]:
        pairs = [(a, b) for a in found for b in found if a != b]
        states = st.lists(st.sampled_from([None, None, False, True, True]), min_size=len(pairs), max_size=len(pairs))

        def build(chosen: list[bool | None]) -> dict[PeerName, PeerRecord]:
            links: dict[PeerName, list[Link]] = {name: [] for name in found}
            for (a, b), established in zip(pairs, chosen, strict=True):
                if established is not None:
                    links[a].append(Link(b, "", outbound=True, established=established))
            return {name: PeerRecord(name, links=tuple(links[name])) for name in found}

        return states.map(build)

    return names.flatmap(records)


RECORDS = links_strategy()


def graph_all(records: dict[PeerName, PeerRecord]) -> Graph:
    """A->B is an edge if B is in conn(A)."""
    return {name: {link.remote for link in record.links} for name, record in records.items()}


def graph_established(records: dict[PeerName, PeerRecord]) -> Graph:
    """A->B is an edge if B is in conn(A) with Established, and A is in conn(B) with Established."""
    said = {(name, link.remote) for name, record in records.items() for link in record.links if link.established}
    return {name: {b for a, b in said if a == name and (b, a) in said} for name in records}


def unicast(graph: Graph, source: PeerName) -> dict[PeerName, PeerName]:
    """11.2, line by line."""
    hop = {source: NO_PEER}
    level = [source]
    while level:
        level.sort()
        following = []
        for p in level:
            for q in graph[p]:
                if q not in hop:
                    hop[q] = q if p == source else hop[p]
                    following.append(q)
        level = following
    return hop


def next_hops(graph: Graph, m: PeerName, source: PeerName) -> set[PeerName]:
    """11.3, line by line: the same search from the source, stopped when M comes up."""
    if source not in graph:
        return set()
    hop = {source: NO_PEER}
    level = [source]
    while level:
        level.sort()
        following = []
        for p in level:
            if p == m:
                return {q for q in graph[m] if q not in hop}
            for q in graph[p]:
                if q not in hop:
                    hop[q] = q if p == source else hop[p]
                    following.append(q)
        level = following
    return set()


@MODERATE
@given(RECORDS)
def test_all_tables_of_all_peers(records: dict[PeerName, PeerRecord]) -> None:
    everything, established = graph_all(records), graph_established(records)
    for name in records:
        routes = Routes(name, records)
        assert routes.peers == records.keys()
        assert routes.unicast_all == unicast(everything, name)
        assert routes.unicast == unicast(established, name)
        for source in records:
            assert set(routes.broadcast_all(source)) == next_hops(everything, name, source)
            assert set(routes.broadcast(source)) == next_hops(established, name, source)
            assert len(set(routes.broadcast(source))) == len(routes.broadcast(source))
            parents = [p for p in records if name in next_hops(established, p, source)]
            assert routes.parent(source) == (parents[0] if parents else NO_PEER)
            assert len(parents) <= 1


@MODERATE
@given(RECORDS)
def test_broadcasts_form_trees_that_reach_every_peer_once(records: dict[PeerName, PeerRecord]) -> None:
    tables = {name: Routes(name, records) for name in records}
    for source in records:
        frames, gossip = [source], [source]
        for name in frames:  # grows while it is walked
            frames += tables[name].broadcast(source)
            assert len(frames) <= len(records)
        for name in gossip:
            gossip += tables[name].broadcast_all(source)
            assert len(gossip) <= len(records)
        assert sorted(frames) == sorted(tables[source].unicast)
        assert sorted(gossip) == sorted(tables[source].unicast_all)


@MODERATE
@given(RECORDS)
def test_unicasts_arrive(records: dict[PeerName, PeerRecord]) -> None:
    tables = {name: Routes(name, records) for name in records}
    for start in records:
        for end in tables[start].unicast:
            at = start
            for _ in records:
                if at == end:
                    break
                at = tables[at].unicast[end]
            assert at == end


@MODERATE
@given(RECORDS, st.integers(1, 2**48 - 1).map(PeerName))
def test_an_unknown_source_has_no_tree(records: dict[PeerName, PeerRecord], stranger: PeerName) -> None:
    if stranger not in records:
        for name in records:
            routes = Routes(name, records)
            assert (*routes.broadcast(stranger), *routes.broadcast_all(stranger)) == ()
            assert routes.parent(stranger) == NO_PEER


@MODERATE
@given(RECORDS, st.randoms(use_true_random=False), st.data())
def test_random_neighbours(records: dict[PeerName, PeerRecord], rng: random.Random, data: st.DataObject) -> None:
    ourselves = data.draw(st.sampled_from(sorted(records)))
    left_out = data.draw(st.sampled_from(sorted(records)))
    table = unicast(graph_all(records), ourselves)
    candidates = set(table.values()) - {NO_PEER, left_out}
    wanted = math.floor(min(2 * math.log2(len(table)), len(candidates)))
    chosen = Routes(ourselves, records).random_neighbours(left_out, rng)

    assert len(chosen) == len(set(chosen)) == wanted
    assert set(chosen) <= candidates


def test_random_neighbours_are_weighted_by_what_lies_behind_them() -> None:
    """One neighbour with 30 peers behind it, 14 with none: it is chosen first in 31 of 45 cases, and k is 11."""
    hub, leaves = PeerName(2), [PeerName(name) for name in range(3, 17)]
    behind = [PeerName(name) for name in range(100, 130)]
    links = {PeerName(1): [hub, *leaves], hub: [PeerName(1), *behind]}
    names = [PeerName(1), hub, *leaves, *behind]
    records = {
        name: PeerRecord(
            name, links=tuple(Link(to, "", outbound=True, established=False) for to in links.get(name, ()))
        )
        for name in names
    }
    routes = Routes(PeerName(1), records)
    rng = random.Random(5)
    rounds = [routes.random_neighbours(NO_PEER, rng) for _ in range(2000)]

    assert {len(chosen) for chosen in rounds} == {math.floor(2 * math.log2(46))}
    share = sum(chosen[0] == hub for chosen in rounds) / len(rounds)
    assert abs(share - 31 / 45) < 0.05
