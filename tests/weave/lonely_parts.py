"""Parts of a daemon that has no peers, as `World`s of tests put them together."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from weave_ipam.service import Ipam
from weave_ipam.settings import parse_settings
from weave_net.attachments import Attachments
from weave_net.container_addresses import ContainerAddresses
from weave_net.container_names import ContainerNames
from weave_net.testing.wirings import bridge_address
from weave_router.control.mesh import Mesh
from weave_router.control.targets import Targets
from weave_router.wire.peer_name import PeerName
from weave_router.wire.topology import PeerRecord

if TYPE_CHECKING:
    from weave_dns.service import Names
    from weave_net.testing.wirings import FakeWiring
    from weave_router.doors import Store


def lonely_mesh() -> Mesh:
    """That of peer 1, h1, which knows nobody."""
    name, chance = PeerName(1), random.Random(1)
    return Mesh(
        PeerRecord(name, "h1", 1),
        Targets(name, 6783, chance),
        overlays=(),
        connection_limit=0,
        random=chance,
        now=trio.current_time(),
    )


def lonely_ipam(
    mesh: Mesh,
    store: Store,
    beginning: str | None = None,
    *,
    network: str = "10.32.0.0/12",
    default_subnet: str | None = None,
) -> Ipam:
    """An allocator that is still to begin, with a quorum of one unless `beginning` says otherwise."""
    settings = parse_settings(network, default_subnet, beginning)
    assert settings
    return Ipam(settings, mesh, store, random=random.Random(1), clock=lambda: 0.0)


def make_attachments(
    fakes: FakeWiring,
    store: Store,
    *,
    ipam: Ipam | None = None,
    names: Names | None = None,
    boot: str = "this boot",
) -> Attachments:
    """Attachments to the bridge `weave` of a host of fakes, without allocator and names unless they are given."""
    return Attachments(
        fakes.host,
        store,
        bridge="weave",
        mtu=1376,
        namespace_identity=fakes.identify,
        addresses=ContainerAddresses(ipam),
        names=ContainerNames(names),
        gateway=bridge_address,
        boot=boot,
    )
