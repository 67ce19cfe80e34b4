"""Makes a router's status of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from weave_router.control.mesh import printable
from weave_router.control.targets import Target, TargetState
from weave_router.status import ConnectionStatus, MacStatus, PeerLinkStatus, PeerStatus, RouterStatus
from weave_router.wire.features import SLEEVE, VXLAN
from weave_router.wire.peer_name import PeerName, format_peer_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from weave_router.control.mesh import Mesh, MeshConnection
    from weave_router.control.targets import Targets
    from weave_router.dataplane.data_plane import DataPlane
    from weave_router.dataplane.neighbour import Neighbour
    from weave_router.shell.fast_datapath import FastDatapath
    from weave_router.shell.settings import RouterSettings


class Parts(Protocol):
    """What a router is made of, as far as it is told."""

    settings: RouterSettings
    mesh: Mesh
    data_plane: DataPlane | None
    fast_datapath: FastDatapath | None
    fast_datapath_trouble: str


def router_status(
    parts: Parts, targets: Targets, neighbours: Mapping[MeshConnection, Neighbour], now: float
) -> RouterStatus:
    """A snapshot of everything; `now` in seconds of the same clock as the router's."""
    settings, mesh, data_plane, fast_datapath = parts.settings, parts.mesh, parts.data_plane, parts.fast_datapath
    records = mesh.topology.records

    def nickname(name: PeerName) -> str:
        record = records.get(name)
        return printable(record.nickname) if record else ""

    peers = tuple(
        PeerStatus(
            format_peer_name(record.name),
            printable(record.nickname),
            record.uid,
            record.short_id,
            record.version,
            tuple(
                PeerLinkStatus(
                    format_peer_name(link.remote),
                    nickname(link.remote),
                    printable(link.address),
                    link.outbound,
                    link.established,
                )
                for link in record.links
            ),
        )
        for record in sorted(records.values(), key=lambda record: record.name)
    )
    routes = mesh.routes
    broadcast = []
    for name in sorted(routes.peers):
        hops = routes.broadcast(name)
        if name in routes.unicast:
            broadcast.append((format_peer_name(name), tuple(map(format_peer_name, hops))))
    counters = dict(data_plane.counters()) if data_plane else {}
    counters.update({name: count for name, count in mesh.counters.items() if name != "terminations"})
    if fast_datapath is not None:
        counters.update(fast_datapath.counters)
    macs = data_plane.forwarder.macs.entries() if data_plane else ()
    return RouterStatus(
        name=format_peer_name(mesh.ourselves),
        nickname=settings.nickname,
        uid=mesh.topology.own.uid,
        port=settings.port,
        encryption=settings.password is not None,
        discovery=settings.discovery,
        targets=tuple(targets.direct),
        trusted_subnets=tuple(map(str, settings.trusted_subnets)),
        connections=(*_live(parts, neighbours, now), *_targets(targets, now)),
        peers=peers,
        unicast_routes=tuple(
            (format_peer_name(name), format_peer_name(hop)) for name, hop in sorted(routes.unicast.items())
        ),
        broadcast_routes=tuple(broadcast),
        termination_count=mesh.counters["terminations"],
        interface=data_plane.io.interface if data_plane else "",
        macs=tuple(
            MacStatus(mac.hex(":"), format_peer_name(entry.peer), nickname(entry.peer), now - entry.last_seen)
            for mac, entry in macs
        ),
        counters=counters,
        overlay_diagnostics=_diagnostics(parts),
    )


def _diagnostics(parts: Parts) -> dict[str, dict[str, Any]]:
    diagnostics: dict[str, dict[str, Any]] = {}
    if parts.fast_datapath is not None:
        diagnostics[VXLAN] = {"Device": parts.settings.vxlan, "Peers": parts.fast_datapath.table()}
    elif parts.fast_datapath_trouble:
        diagnostics[VXLAN] = {"Trouble": parts.fast_datapath_trouble}
    if parts.data_plane is not None:
        diagnostics[SLEEVE] = dict(parts.data_plane.io.diagnostics())
    return diagnostics


def _live(parts: Parts, neighbours: Mapping[MeshConnection, Neighbour], now: float) -> Iterator[ConnectionStatus]:
    settings, mesh, fast_datapath = parts.settings, parts.mesh, parts.fast_datapath
    for connection in mesh.connections.values():
        neighbour = neighbours.get(connection)
        if neighbour is None:
            continue
        link, cipher = neighbour.link, neighbour.cipher.name
        established = connection.established
        info = ""
        if not established:
            info = (
                "the peer has not confirmed our UDP packets yet"
                if link.heard
                else "no UDP packet from the peer yet: is the UDP port open on the way?"
            )
        mtu = link.path_mtu.mtu if link.established else None
        path = fast_datapath.link_of(connection.peer) if fast_datapath is not None else None
        overlay = VXLAN if path is not None and path.in_use else SLEEVE
        if established and path is not None:
            info = path.trouble(now)
        if overlay == VXLAN:
            mtu = settings.mtu
        attrs = {"cipher": cipher} if cipher else {}
        if mtu is not None:
            attrs["mtu"] = str(mtu)
        yield ConnectionStatus(
            address=connection.address,
            outbound=connection.outbound,
            state="established" if established else "pending",
            info=info,
            peer=format_peer_name(connection.peer),
            nickname=printable(connection.features.nickname),
            overlay=overlay if established else "none",
            encrypted=bool(cipher),
            cipher=cipher,
            mtu=mtu,
            attrs=attrs,
        )


def _targets(targets: Targets, now: float) -> Iterator[ConnectionStatus]:
    for target in targets.targets.values():
        match target.state:
            case TargetState.ATTEMPTING:
                state, retry = ("retrying" if target.attempts > 1 else "connecting"), None
            case TargetState.WAITING:
                state, retry = "failed", max(target.try_at - now, 0.0)
            case TargetState.REFUSED:
                state, retry = "failed", None
            case _:
                continue
        yield _target_status(target, state, retry)
    for peer in targets.direct.values():
        if not peer.addresses:
            yield ConnectionStatus(address=peer.text, outbound=True, state="failed", info=peer.error)


def _target_status(target: Target, state: str, retry: float | None) -> ConnectionStatus:
    return ConnectionStatus(
        address=target.address,
        outbound=True,
        state=state,  # type: ignore[arg-type]  # one of three literals above
        info=target.error,
        retry_in=retry,
    )
