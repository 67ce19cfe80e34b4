"""What this machine tells about itself, for the choice of a peer name."""

from __future__ import annotations

import array
import fcntl
import re
import socket
import struct
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

SIOCGIFHWADDR = 0x8927
SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO = 0x00000003
_DRIVER_INFO_BYTES = 196  # sizeof(struct ethtool_drvinfo)
_IFREQ_BYTES = 40

_CONTAINER_BRIDGE = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}|(cni-)?podman[0-9]+")
_ROUTES = Path("/proc/thread-self/net/route")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_MACHINE_UUID_FILES = (Path("/sys/class/dmi/id/product_uuid"), Path("/sys/hypervisor/uuid"))


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Properties that tell this host from others; empty or None where it has none."""

    machine_id: str = ""
    """Contents of /etc/machine-id: copied along when the image of a machine is."""
    machine_uuid: str = ""
    """DMI product UUID or the hypervisor's: differs between machines of one image."""
    bridge_mac: str | None = None
    """MAC of a bridge that an earlier daemon, or Weave Net, left here."""
    routes: tuple[IPv4Network, ...] = ()
    """Where this host's IPv4 routes lead, the default route and those of the bridge left out."""


def read_host_facts(bridge: str) -> HostFacts:
    """Ask the machine; `bridge` is the name of the weave bridge in this network namespace."""
    return HostFacts(
        machine_id=_first_line(_MACHINE_ID_FILES),
        machine_uuid=_first_line(_MACHINE_UUID_FILES),
        bridge_mac=read_bridge_mac(bridge),
        routes=read_routes(bridge),
    )


def read_uptime() -> tuple[str, float]:
    """Which boot of this machine it is, and the seconds since its beginning, those of sleep included."""
    return _first_line((_BOOT_ID,)), time.clock_gettime(time.CLOCK_BOOTTIME)


def read_routes(bridge: str) -> tuple[IPv4Network, ...]:
    """The destinations of the main routing table, without the default route and what leads to the bridge."""
    return tuple(network for device, network in _routes() if device != bridge and network.prefixlen)


def _routes() -> list[tuple[str, IPv4Network]]:
    try:
        lines = _ROUTES.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    routes = []
    for line in lines:
        device, destination, *_, mask, _, _, _ = line.split()
        network = IPv4Network((_host_order(destination), str(IPv4Address(_host_order(mask)))), strict=False)
        routes.append((device, network))
    return routes


def is_behind_container_bridge(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is in the subnet of a bridge that Docker or Podman made on this host."""
    return any(address in network for device, network in _routes() if _CONTAINER_BRIDGE.fullmatch(device))


def _host_order(text: str) -> int:
    return int.from_bytes(int(text, 16).to_bytes(4, sys.byteorder))


def read_bridge_mac(name: str) -> str | None:
    """The MAC of a Linux bridge in this process's network namespace, None if there is no such bridge.

    Asked by ioctl: /sys shows the network namespace of whoever mounted it, which may be another one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = array.array("B", struct.pack(f"16s{_IFREQ_BYTES - 16}x", name.encode()))
        try:
            if _driver(sock, name) != b"bridge":
                return None
            fcntl.ioctl(sock, SIOCGIFHWADDR, request, True)
        except OSError:
            return None
    return request[18:24].tobytes().hex(":")


def _driver(sock: socket.socket, name: str) -> bytes:
    info = array.array("B", struct.pack(f"I{_DRIVER_INFO_BYTES - 4}x", ETHTOOL_GDRVINFO))
    address, _ = info.buffer_info()
    fcntl.ioctl(sock, SIOCETHTOOL, struct.pack(f"16sP{_IFREQ_BYTES - 24}x", name.encode(), address))
    return info[4:36].tobytes().rstrip(b"\0")


def _first_line(candidates: tuple[Path, ...]) -> str:
    for path in candidates:
        try:
            text = path.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            continue  # not every machine has it, and product_uuid is for root only
        if text:
            return text
    return ""
