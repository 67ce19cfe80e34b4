"""wireguard-go: WireGuard in userspace; containers are routed, since it carries no Ethernet."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.system import UNDERLAY_ADDRESSES, Bed, System, add_container, lacks, pair
from bench.traffic import End
from lab.network import LabError, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from lab.network import Host, Lab

PORT = 51820
INTERFACE = "wg0"
START_TIMEOUT_S = 10
REPLY_TIMEOUT_S = 5


@dataclass(frozen=True)
class Side:
    """One of the two hosts."""

    host: Host
    address: str
    """In the underlay."""
    gateway: str
    """The host's address in the subnet of its container."""
    container_address: str
    subnet: str
    key: X25519PrivateKey


class WireguardGo(System):
    """Two hosts that route a subnet each."""

    name = "wireguard-go"
    title = "wireguard-go"

    def absent(self) -> str | None:
        """It needs the program; `wg` is not needed."""
        return lacks("wireguard-go")

    def build(self, lab: Lab) -> Bed:
        """Start it on both hosts, configure it and lay the routes."""
        left, right, wire = pair(lab, self.name)
        sides = [
            Side(host, address, f"10.2.{n}.254", f"10.2.{n}.1", f"10.2.{n}.0/24", X25519PrivateKey.generate())
            for n, (host, address) in enumerate(zip((left, right), UNDERLAY_ADDRESSES, strict=True), 1)
        ]
        ends = []
        for side, other in (sides, reversed(sides)):
            configure(start(lab, side.host), side, other)
            side.host.ip("link", "set", INTERFACE, "up")
            side.host.ip("route", "add", other.subnet, "dev", INTERFACE)
            ends.append(routed_end(lab, side))
        return Bed(ends[0], ends[1], (wire,))


def routed_end(lab: Lab, side: Side) -> End:
    """A container whose gateway is its host."""
    side.host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    container = add_container(lab, side.host, f"{side.container_address}/24")
    side.host.ip("addr", "add", f"{side.gateway}/24", "dev", "web")
    container.ip("route", "add", "default", "via", side.gateway)
    return End(container, side.container_address)


def start(lab: Lab, host: Host) -> Path:
    """Start the program; returns the path of its control socket.

    It makes that in /var/run/wireguard, under its interface's name. A directory of the lab is mounted there, visible to
    this program only (`ip netns exec` gives it a mount namespace), so that nothing is left on the machine.
    """
    directory = lab.directory / f"{host.label}-run"
    directory.mkdir()
    mount = 'mount --bind "$1" /var/run && exec wireguard-go --foreground "$2"'
    host.popen("sh", "-c", mount, "sh", str(directory), INTERFACE)
    path = directory / "wireguard" / f"{INTERFACE}.sock"
    wait_until(path.exists, START_TIMEOUT_S, f"wireguard-go on {host.label}")
    return path


def configure(control: Path, side: Side, other: Side) -> None:
    """Tell it its key and its peer, in the text protocol of WireGuard's userspace implementations."""
    settings = {
        "private_key": side.key.private_bytes_raw().hex(),
        "listen_port": str(PORT),
        "public_key": other.key.public_key().public_bytes_raw().hex(),
        "endpoint": f"{other.address}:{PORT}",
        "allowed_ip": other.subnet,
    }
    request = "set=1\n" + "".join(f"{key}={value}\n" for key, value in settings.items()) + "\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(REPLY_TIMEOUT_S)
        connection.connect(str(control))
        connection.sendall(request.encode())
        reply = connection.recv(4096).decode()
    if "errno=0" not in reply:
        raise LabError(f"wireguard-go on {side.host.label} refused its settings: {reply.strip()}")
