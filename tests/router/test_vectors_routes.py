"""Route tables of the reference (mesh.md section 11), computed by its code and reported by running daemons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from vector_files import cases, load, peer
from weave_router.control.routes import Routes
from weave_router.wire.peer_name import NO_PEER, PeerName
from weave_router.wire.topology import Link, PeerRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def records_of(connections: Iterable[tuple[PeerName, PeerName, bool]], peers: Iterable[PeerName]) -> Any:
    links: dict[PeerName, list[Link]] = {name: [] for name in peers}
    for name, remote, established in connections:
        links[name].append(Link(remote, "", outbound=False, established=established))
    return {name: PeerRecord(name, links=tuple(found)) for name, found in links.items()}


def tables(routes: Routes, peers: Iterable[PeerName]) -> dict[str, Any]:
    sources = list(peers)
    return {
        "unicast": dict(routes.unicast),
        "unicast_all": dict(routes.unicast_all),
        "broadcast": {source: sorted(routes.broadcast(source)) for source in sources},
        "broadcast_all": {source: sorted(routes.broadcast_all(source)) for source in sources},
    }


@pytest.mark.parametrize("topology", cases("routes", key="topologies"))
def test_all_tables_of_all_peers(topology: Any) -> None:
    names: Mapping[int, PeerName] = {int(index): peer(text) for index, text in topology["peers"].items()} | {0: NO_PEER}
    peers = [name for name in names.values() if name != NO_PEER]
    records = records_of(
        ((names[start], names[end], bool(established)) for start, end, established in topology["connections"]), peers
    )
    assert topology["routes_of"].keys() == topology["peers"].keys()

    for index, recorded in topology["routes_of"].items():
        expected: dict[str, Any] = {
            table: {names[int(destination)]: names[hop] for destination, hop in recorded[table].items()}
            for table in ("unicast", "unicast_all")
        }
        for table in ("broadcast", "broadcast_all"):
            expected[table] = {
                names[int(source)]: sorted(names[hop] for hop in hops) for source, hops in recorded[table].items()
            }
        assert tables(Routes(names[int(index)], records), peers) == expected


@pytest.mark.parametrize("router", load("routes-live")["routers"])
def test_tables_of_running_daemons(router: str) -> None:
    recorded = load("routes-live")["routers"][router]
    records = records_of(
        (
            (peer(name), peer(remote), established)
            for name, links in recorded["records"].items()
            for remote, established in links.items()
        ),
        map(peer, recorded["records"]),
    )
    routes = Routes(peer(router), records)

    assert dict(routes.unicast) == {peer(name): peer(hop) for name, hop in recorded["unicast"].items()}
    for source, hops in recorded["broadcast"].items():
        assert set(routes.broadcast(peer(source))) == set(map(peer, hops))


@pytest.mark.parametrize("topology", cases("routes", key="topologies"))
def test_parent_is_the_neighbour_that_has_us_among_its_next_hops(topology: Any) -> None:
    """sleeve.md 9.6 from the recorded tables: our parent for S is the peer whose broadcast of S goes to us."""
    names = {int(index): peer(text) for index, text in topology["peers"].items()}
    records = records_of(
        ((names[start], names[end], bool(established)) for start, end, established in topology["connections"]),
        names.values(),
    )
    recorded = topology["routes_of"]
    for index, ourselves in names.items():
        routes = Routes(ourselves, records)
        for source_index, source in names.items():
            parents = [
                names[int(other)] for other, table in recorded.items() if index in table["broadcast"][str(source_index)]
            ]
            assert len(parents) <= 1
            assert routes.parent(source) == (parents[0] if parents else NO_PEER)
