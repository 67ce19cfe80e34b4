"""What the bench expects of a system under test, and how its pieces are put together.

A system is a class with a name that builds two containers on hosts of its own that can talk to each other. To add one,
write such a class in a module `system_….py` and list it in `catalogue.py`.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.traffic import End
from bench.underlays import Wire
from lab.network import Container, Host, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.underlays import Underlay

CONTAINER_MTU_BYTES = 1376
UNDERLAY_ADDRESSES = ("192.0.2.1", "192.0.2.2")
CONTAINER_ADDRESSES = ("10.2.1.1", "10.2.1.2")
BRIDGE = "bridge"


@dataclass(frozen=True)
class Bed:
    """A system that is up: the containers at its two ends and the wires between its hosts."""

    left: End
    right: End
    wires: tuple[Wire, ...]

    def behave_like(self, underlay: Underlay) -> None:
        """Let all wires be of one kind."""
        for wire in self.wires:
            wire.behave_like(underlay)

    @contextmanager
    def losing(self, packets: str) -> Iterator[None]:
        """Drop 1 % of the packets that match an nftables expression, on each wire in both directions."""
        with ExitStack() as stack:
            for wire in self.wires:
                stack.enter_context(wire.losing(packets))
            yield


class System(ABC):
    """A system under test."""

    name: ClassVar[str]
    """What options and JSON call it."""
    title: ClassVar[str]
    """What tables call it."""
    tunnel_packets: ClassVar[str] = "meta l4proto udp"
    """nftables expression of the packets that carry containers' traffic on the wire."""
    in_loss: ClassVar[bool] = True
    """Whether it is measured with loss."""

    def absent(self) -> str | None:
        """Why it cannot be measured on this machine; None if it can."""
        return None

    @abstractmethod
    def build(self, lab: Lab) -> Bed:
        """Bring it up on new hosts. LabError if that fails."""


def lacks(program: str) -> str | None:
    """A reason to be absent if a program is not installed."""
    return None if shutil.which(program) else f"{program} is not installed"


def pair(lab: Lab, label: str) -> tuple[Host, Host, Wire]:
    """Two hosts on a wire, with `UNDERLAY_ADDRESSES`."""
    left, right = lab.host(f"{label}-A"), lab.host(f"{label}-B")
    addresses = {host: f"{address}/30" for host, address in zip((left, right), UNDERLAY_ADDRESSES, strict=True)}
    return left, right, Wire(lab, addresses)


def add_bridge(host: Host) -> None:
    """Make the bridge that containers are plugged into."""
    host.ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
    host.ip("link", "set", BRIDGE, "up")


def add_port(host: Host, device: str) -> None:
    """Plug a device into the bridge."""
    host.ip("link", "set", device, "master", BRIDGE, "up")


def add_container(lab: Lab, host: Host, address: str) -> Container:
    """Start a container with a veth device `web` on the host; the address has a prefix length."""
    container = lab.add(Container(lab.name(f"{host.label}-web"), "web"))
    mtu = ("mtu", str(CONTAINER_MTU_BYTES))
    host.ip(
        "link", "add", "web", *mtu, "type", "veth", "peer", "name", "eth0", *mtu, "netns", container.name
    )  # fmt: skip
    host.ip("link", "set", "web", "up")
    container.ip("addr", "add", address, "dev", "eth0")
    container.ip("link", "set", "eth0", "up")
    return container


def bridged_bed(lab: Lab, hosts: tuple[Host, Host], wires: tuple[Wire, ...]) -> Bed:
    """A container on each host's bridge."""
    ends = []
    for host, address in zip(hosts, CONTAINER_ADDRESSES, strict=True):
        container = add_container(lab, host, f"{address}/24")
        add_port(host, "web")
        ends.append(End(container, address))
    return Bed(ends[0], ends[1], wires)
