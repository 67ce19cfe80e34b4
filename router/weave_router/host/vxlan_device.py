"""The VXLAN device of the fast datapath, as synchronous operations for the netlink thread.

    bridge `weave` ── `weave-vxlan` ── UDP ── the same device of another host (RFC 7348)

The kernel learns nothing here: addresses of strangers' packets would be believed. Forwarding entries are programmed
(`fdb`), and survive the router's crash together with the device.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack
from typing import TYPE_CHECKING

from weave_router.host import fdb, problems, requests, sysctl
from weave_router.host.bridge import require_bridge

if TYPE_CHECKING:
    from weave_router.doors import VxlanEntry, VxlanSettings
    from weave_router.host.netlink import Link, Netlink


def open_vxlan(netlink: Netlink, settings: VxlanSettings) -> tuple[VxlanEntry, ...]:
    """`doors.Host.open_vxlan`."""
    requests.check_vxlan(settings)
    bridge = require_bridge(netlink, settings.bridge)
    link = netlink.find(settings.device)
    if link is not None and link.kind != "vxlan":
        raise problems.not_a_vxlan(settings.device, link.kind)
    if link is not None and link.master not in (None, bridge.index):
        raise problems.port_of_other_bridge(settings.device, settings.bridge)
    if link is not None and not _fits(link, settings):
        netlink.remove(link.index)
        link = None
    with ExitStack() as undo:
        if link is None:
            link = netlink.add_vxlan(settings)
            undo.callback(netlink.remove, link.index)
        _make_port(netlink, link, bridge, settings)
        entries = fdb.adopt(link.index, settings.device, settings.bridge)
        undo.pop_all()
    return entries


def remove_vxlan(netlink: Netlink, device: str) -> bool:
    """Remove the VXLAN device; False if there is none, or one of another kind."""
    requests.check_name(device)
    link = netlink.find(device)
    return link is not None and link.kind == "vxlan" and netlink.remove(link.index)


def _fits(link: Link, settings: VxlanSettings) -> bool:
    """Whether a device can be adopted: these things are fixed when it is created."""
    found = link.vxlan
    return (
        found is not None
        and (found.vni, found.port, found.local) == (settings.vni, settings.port, settings.local)
        and found.plain
        and not found.learning
        and not found.fragmentable
    )


def _make_port(netlink: Netlink, link: Link, bridge: Link, settings: VxlanSettings) -> None:
    sysctl.tune_port(settings.device)
    if link.mtu != settings.mtu:
        netlink.set_mtu(link.index, settings.mtu)
    if link.master is None:
        netlink.set_master(link.index, bridge.index)
    # A new device is still down here, so no frame passes before the port is isolated.
    netlink.set_port(link.index, learning=False, hairpin=False, isolated=True)
    netlink.set_up(link.index, {errno.EADDRINUSE: problems.vxlan_in_use(settings.port, settings.vni)})
