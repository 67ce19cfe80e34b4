"""What the kernel does alone: no overlay, and VXLAN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.system import UNDERLAY_ADDRESSES, Bed, System, add_bridge, add_port, bridged_bed, pair

if TYPE_CHECKING:
    from lab.network import Lab


class NoOverlay(System):
    """Containers bridged straight onto the wire."""

    name = "underlay"
    title = "underlay, no overlay"
    tunnel_packets = ""  # all

    def build(self, lab: Lab) -> Bed:
        """Make the wire's device a port of each host's bridge."""
        left, right, wire = pair(lab, self.name)
        for host in (left, right):
            add_bridge(host)
            add_port(host, "eth0")
        return bridged_bed(lab, (left, right), (wire,))


class KernelVxlan(System):
    """A bridge with a VXLAN device on each host, which floods to the other one and learns."""

    name = "vxlan"
    title = "kernel VXLAN"

    def build(self, lab: Lab) -> Bed:
        """Make the VXLAN device a port of each host's bridge."""
        left, right, wire = pair(lab, self.name)
        for host, local, remote in zip((left, right), UNDERLAY_ADDRESSES, reversed(UNDERLAY_ADDRESSES), strict=True):
            add_bridge(host)
            host.ip(
                "link", "add", "vxlan0", "type", "vxlan", "id", "42", "dstport", "4789",
                "local", local, "remote", remote, "dev", "eth0",
            )  # fmt: skip
            add_port(host, "vxlan0")
        return bridged_bed(lab, (left, right), (wire,))
