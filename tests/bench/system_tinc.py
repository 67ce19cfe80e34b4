"""tinc 1.0 as an Ethernet switch: its TAP is a port of each host's bridge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.system import UNDERLAY_ADDRESSES, Bed, System, add_bridge, add_port, bridged_bed, lacks, pair
from lab.network import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lab.network import Host, Lab

RSA_BITS = 2048
TAP = "tinc0"
START_TIMEOUT_S = 10


class Tinc(System):
    """Two hosts, with tinc's own choice of cipher and digest."""

    name = "tinc"
    title = "tinc 1.0"

    def absent(self) -> str | None:
        """It needs the daemon."""
        return lacks("tincd")

    def build(self, lab: Lab) -> Bed:
        """Start a daemon on both hosts; the right one connects to the left one."""
        left, right, wire = pair(lab, self.name)
        keys = {name: rsa.generate_private_key(65537, RSA_BITS) for name in ("left", "right")}
        for host, name in ((left, "left"), (right, "right")):
            directory = lab.directory / f"tinc-{name}"
            write_configuration(directory, name, keys)
            add_bridge(host)
            start(host, directory)
        return bridged_bed(lab, (left, right), (wire,))


def write_configuration(directory: Path, name: str, keys: Mapping[str, rsa.RSAPrivateKey]) -> None:
    """The directory of one of the two hosts `left` and `right`."""
    (directory / "hosts").mkdir(parents=True)
    settings = [f"Name = {name}", "Mode = switch", "DeviceType = tap", f"Interface = {TAP}", "AddressFamily = ipv4"]
    if name == "right":
        settings.append("ConnectTo = left")
    (directory / "tinc.conf").write_text("\n".join(settings) + "\n")
    private = keys[name].private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    key_file = directory / "rsa_key.priv"
    key_file.touch(0o600)  # tinc complains about keys that others can read
    key_file.write_bytes(private)
    for host, address in zip(("left", "right"), UNDERLAY_ADDRESSES, strict=True):
        public = keys[host].public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
        (directory / "hosts" / host).write_text(f"Address = {address}\n{public}")


def start(host: Host, directory: Path) -> None:
    """Start the daemon and plug its TAP into the bridge."""
    files = ("--config", str(directory), "--pidfile", str(directory / "pid"), "--logfile", str(directory / "log"))
    host.popen("tincd", "--no-detach", *files)
    wait_until(lambda: host.ip("link", "show", TAP), START_TIMEOUT_S, f"tinc on {host.label}")
    add_port(host, TAP)
