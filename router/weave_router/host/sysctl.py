"""Kernel settings of network devices under /proc/sys/net.

Which network namespace a path there belongs to is decided by the thread that opens it, so these functions are
to be called from a thread inside the namespace that is meant.
"""

from __future__ import annotations

import logging
from pathlib import Path

from weave_router.errors import HostError

_log = logging.getLogger(__name__)

_NEIGHBOUR_TIMINGS = {"base_reachable_time": 5, "delay_first_probe_time": 2, "ucast_solicit": 1}
"""Seconds, seconds, probes: an address that moves to another container is found within a few seconds."""

_ADDR_GEN_MODE_NONE = 1


def quieten_bridge(bridge: str) -> None:
    """Keep a new bridge from taking part in IPv6 by itself: it gets addresses from `weave expose` only."""
    _write("ipv6", "conf", bridge, "addr_gen_mode", value=_ADDR_GEN_MODE_NONE)


def tune_bridge(bridge: str) -> None:
    """Settings of the bridge that hold from the first moment, also when it has been there before."""
    _refuse_router_advertisements(bridge)
    _tune_neighbours(bridge)


def tune_port(device: str) -> None:
    """Make a bridge port a mere port: else the kernel sends neighbour discovery of its own through it."""
    _refuse_router_advertisements(device)
    _write("ipv6", "conf", device, "disable_ipv6", value=1)


def tune_container_interface(interface: str, *, ipv6: bool) -> None:
    """Settings of the container's end; `ipv6` makes sure that it can have IPv6 addresses."""
    _refuse_router_advertisements(interface)
    _tune_neighbours(interface)
    prepare_for_addresses(interface, ipv6=ipv6)


def prepare_for_addresses(device: str, *, ipv6: bool) -> None:
    """Settings of a device that gets addresses; `ipv6` makes sure that it can have IPv6 addresses."""
    # Else removing one address also removes the later ones of the same subnet.
    _write("ipv4", "conf", device, "promote_secondaries", value=1)
    if ipv6:
        # Container engines turn IPv6 off by default where they hand out no IPv6 address themselves.
        _write("ipv6", "conf", device, "disable_ipv6", value=0)


def forwards_packets() -> bool:
    """Whether IPv4 packets are passed on from one device to another; True where that cannot be read."""
    try:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() != "0"
    except OSError as error:
        _log.debug("cannot read whether packets are passed on: %s", error)
        return True


def _refuse_router_advertisements(device: str) -> None:
    # Any container could otherwise become everybody's IPv6 router (CVE-2020-11091).
    _write("ipv6", "conf", device, "accept_ra", value=0)


def _tune_neighbours(device: str) -> None:
    for family in ("ipv4", "ipv6"):
        for setting, value in _NEIGHBOUR_TIMINGS.items():
            _write(family, "neigh", device, setting, value=value)


def _write(*key: str, value: int) -> None:
    path = Path("/proc/sys/net", *key)
    try:
        # Where /proc/sys is read-only, as in many containers, what has the right value already is no
        # obstacle.
        if path.read_text().strip() != str(value):
            path.write_text(str(value))
    except FileNotFoundError:
        _log.debug("%s does not exist on this kernel", path)  # IPv6 is compiled out or disabled
    except OSError as error:
        raise HostError(
            f"cannot set {path} to {value} ({error.strerror}); run the router as root with a writable /proc/sys"
        ) from error
