"""The weave bridge and its ports, as synchronous operations for the netlink thread."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

from weave_router.doors import BridgeInfo
from weave_router.host import problems, requests, sysctl

if TYPE_CHECKING:
    from weave_router.host.netlink import Link, Netlink

_log = logging.getLogger(__name__)


def ensure_bridge(netlink: Netlink, name: str, mac: str, mtu: int) -> BridgeInfo:
    """`doors.Host.ensure_bridge`."""
    requests.check_name(name)
    requests.check_mac(mac)
    requests.check_mtu(mtu)
    with ExitStack() as undo:
        bridge = netlink.find(name)
        if bridge is None:
            bridge = netlink.add_bridge(name)
            undo.callback(netlink.remove, bridge.index)
            sysctl.quieten_bridge(name)
        elif bridge.kind != "bridge":
            raise problems.not_a_bridge(name, bridge.kind)
        else:
            netlink.set_up_bridge(bridge.index)
        sysctl.tune_bridge(name)
        # Not given at creation: a bridge that was created with a MAC got a wrong local FDB entry on old
        # kernels.
        netlink.set_mac(bridge.index, mac)
        _pin_mtu(netlink, bridge, mtu)
        netlink.set_up(bridge.index)
        info = require_bridge(netlink, name)
        undo.pop_all()
    return BridgeInfo(name=info.name, index=info.index, mac=info.mac, mtu=info.mtu)


def require_bridge(netlink: Netlink, name: str) -> Link:
    """The bridge of that name; HostError if there is none."""
    bridge = netlink.find(name)
    if bridge is None:
        raise problems.no_bridge(name)
    if bridge.kind != "bridge":
        raise problems.not_a_bridge(name, bridge.kind)
    return bridge


def join_bridge(netlink: Netlink, device: str, bridge: str, *, mtu: int, isolated: bool) -> None:
    """`doors.Host.join_bridge`."""
    requests.check_name(device)
    requests.check_name(bridge)
    requests.check_mtu(mtu)
    master = require_bridge(netlink, bridge)
    link = netlink.require(device)
    if link.master not in (None, master.index):
        raise problems.port_of_other_bridge(device, bridge)
    sysctl.tune_port(device)
    if link.mtu != mtu:
        netlink.set_mtu(link.index, mtu)
    if link.master is None:
        netlink.set_master(link.index, master.index)
    netlink.set_port(link.index, isolated=isolated)
    netlink.set_up(link.index)
    port = netlink.require(device).port
    if isolated and (port is None or not port.isolated):
        # Unknown attributes are ignored by the kernel without a word.
        _log.warning(
            "this kernel cannot isolate ports of a bridge (it needs Linux 4.18): "
            "broadcasts may reach containers twice while more than one overlay is in use"
        )


def _pin_mtu(netlink: Netlink, bridge: Link, mtu: int) -> None:
    # A bridge follows the lowest MTU of its ports until it is given one. Setting the value that it has is no
    # change to the kernel and pins nothing, hence the step aside; upward, as that cannot hurt packets on
    # their way.
    if bridge.mtu == mtu:
        netlink.set_mtu(bridge.index, mtu + 1 if mtu < requests.MAX_MTU else mtu - 1)
    netlink.set_mtu(bridge.index, mtu)
