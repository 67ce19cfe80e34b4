"""This project's router, as its users run it: `weave launch` and `weave attach`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bench.system import CONTAINER_ADDRESSES, CONTAINER_MTU_BYTES, UNDERLAY_ADDRESSES, Bed, System, pair
from bench.traffic import End
from bench.underlays import Wire
from lab.network import Host, Lab, wait_until
from lab.overlays import wait_for_overlay
from lab.reports import established, link_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

PASSWORD = "correct horse battery staple"
MESH_TIMEOUT_S = 20


class Sleeve(System):
    """Two hosts, not encrypted."""

    name = "sleeve"
    title = "weave sleeve"
    fast_datapath: ClassVar[bool] = False
    """Whether the kernel may carry packets; otherwise routers get --no-fastdp."""

    def options(self, lab: Lab) -> Sequence[str]:
        """Further options of `weave launch`."""
        return ()

    def build(self, lab: Lab) -> Bed:
        """Launch a router on both hosts."""
        left, right, wire = pair(lab, self.name)
        options = self.options(lab)
        launch(left, "::1", *options, fast_datapath=self.fast_datapath)
        launch(right, "::2", *options, UNDERLAY_ADDRESSES[0], fast_datapath=self.fast_datapath)
        bed = attached_bed((left, right), (wire,))
        wait_for_overlay("vxlan" if self.fast_datapath else "sleeve", (left, right))
        return bed


class FastDatapath(Sleeve):
    """Two hosts whose kernels carry the packets by VXLAN, not encrypted."""

    name = "fastdp"
    title = "weave fast datapath"
    fast_datapath = True


class EncryptedSleeve(Sleeve):
    """Two hosts with a password."""

    name = "sleeve-encrypted"
    title = "weave sleeve, encrypted"

    def options(self, lab: Lab) -> Sequence[str]:
        """Name the file with the password."""
        file = lab.directory / "password"
        file.write_text(PASSWORD)
        return ("--password-file", str(file))


class RelayedSleeve(System):
    """Three hosts in a line, not encrypted; the ends reach each other only through the one in the middle."""

    name = "sleeve-relayed"
    title = "weave sleeve, relayed"
    in_loss = False

    def build(self, lab: Lab) -> Bed:
        """Launch a router on each of the three."""
        left, middle, right = (lab.host(f"{self.name}-{letter}") for letter in "ABC")
        wires = (
            Wire(lab, {left: "192.0.2.1/30", middle: "192.0.2.2/30"}),
            Wire(lab, {middle: "192.0.2.5/30", right: "192.0.2.6/30"}),
        )
        launch(middle, "::2")
        launch(left, "::1", "192.0.2.2")
        launch(right, "::3", "192.0.2.5")
        for host in (left, right):
            wait_until(lambda h=host: link_counts(h) == [1, 1, 2], MESH_TIMEOUT_S, f"{host.label} to see the line")  # type: ignore[misc]
        return attached_bed((left, right), wires)


def launch(host: Host, name: str, *arguments: str, fast_datapath: bool = False) -> None:
    """Start a router with the containers' MTU."""
    host.fast_datapath = fast_datapath
    overlay = () if fast_datapath else ("--no-fastdp",)
    host.weave("launch", "--name", name, "--mtu", str(CONTAINER_MTU_BYTES), *overlay, *arguments)


def attached_bed(hosts: tuple[Host, Host], wires: tuple[Wire, ...]) -> Bed:
    """A container attached on each host, once the hosts' connections are established."""
    ends = []
    for host, address in zip(hosts, CONTAINER_ADDRESSES, strict=True):
        wait_until(lambda h=host: established(h) > 0, MESH_TIMEOUT_S, f"the connection of {host.label}")  # type: ignore[misc]
        ends.append(End(host.container("web", f"{address}/24"), address))
    return Bed(ends[0], ends[1], wires)
