"""Finds out what the kernel lets us make, by making it in a network namespace that goes at once.

The namespace belongs to a thread that does nothing else. The kernel may load modules for what it is asked to make, as
it would for the daemon.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from weave_net.doctor.facts import KernelFacts, Unknown
from weave_router.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_router.host.netlink import Netlink

_CLONE_NEWNET = 0x40000000
NFT_LIMIT_S = 3.0
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# What the daemon's own tables are made of.
_FILTER = """table inet wvprobe {
    set peers { type ipv4_addr; }
    chain input {
        type filter hook input priority filter; policy accept;
        udp dport 6784 jump vxlan
    }
    chain vxlan {
        ip saddr @peers accept
        @th,224,16 0x88b5 accept
        counter drop
    }
}
"""
_NAT = """table ip wvprobe {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.32.0.0/12 ip daddr != 10.32.0.0/12 masquerade
    }
}
"""


def probe_kernel() -> KernelFacts | Unknown:
    """Make one of everything. To be called in a thread of its own, which must end with this."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        return Unknown(
            f"a network namespace to try things in cannot be made: {os.strerror(ctypes.get_errno())}; try it as root"
        )
    from weave_router.host.netlink import Netlink

    with Netlink() as netlink:
        devices = {
            "bridge": _attempt(lambda: netlink.add_bridge("wvbridge")),
            "veth": _attempt(lambda: netlink.add_veth("wvveth", "wvpeer", namespace=None, mtu=1376, mac=None)),
            "TAP": "",
            "VXLAN": _attempt(lambda: _add_vxlan(netlink)),
        }
        isolated = "" if devices["bridge"] or devices["veth"] else _attempt(lambda: _isolate(netlink))
    devices["TAP"], features = _packet_io()
    return KernelFacts(
        release=platform.release(),
        devices=devices,
        isolated_ports=isolated,
        features=features,
        nft=_nft(_FILTER),
        nft_nat=_nft(_NAT),
    )


def _attempt(make: Callable[[], object]) -> str:
    try:
        make()
    except HostError as error:
        return str(error)
    return ""


def _add_vxlan(netlink: Netlink) -> None:
    from weave_router.doors import VxlanSettings

    netlink.add_vxlan(VxlanSettings("wvvxlan", "wvbridge", 6784, 6784, 1376))


def _isolate(netlink: Netlink) -> None:
    port = netlink.require("wvveth").index
    netlink.set_master(port, netlink.require("wvbridge").index)
    netlink.set_port(port, isolated=True)
    link = netlink.require("wvveth")
    if link.port is not None and not link.port.isolated:
        raise HostError("the kernel knows no isolation")


def _packet_io() -> tuple[str, dict[str, str]]:
    """A TAP and a UDP socket, as the data plane opens them: what is wrong, and which features there are."""
    from weave_router.dataplane.kernel_io import KernelIO

    try:
        io = KernelIO("wvtap", ("0.0.0.0", 0))  # noqa: S104 - in a namespace that nobody reaches
    except HostError as error:
        return str(error), {}
    with suppress(OSError):
        io.close()
    return "", dict(io.diagnostics())


def _nft(script: str) -> str:
    """Why nft does not take this; empty if it does."""
    try:
        done = subprocess.run(
            ["nft", "-f", "-"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=NFT_LIMIT_S,
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return "the program nft is not installed"
    except subprocess.TimeoutExpired:
        return f"nft did not finish within {NFT_LIMIT_S:g} s"
    except OSError as error:
        return f"nft cannot be run: {error.strerror}"
    return "" if done.returncode == 0 else done.stderr.strip().partition("\n")[0] or f"exit status {done.returncode}"
