"""The CNI plugins under test. Each has a host of its own, and namespaces to attach."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from bench.cni_load import Plugin
from cni_plugin.cni_host import REFERENCE_PLUGINS, CniHost
from lab.network import Container, LabError

if TYPE_CHECKING:
    from lab.network import Lab

CONTAINERS = 16
VERSION = "1.0.0"
"""Of CNI; Debian 12's plugins know no newer one."""


class CniSystem(ABC):
    """A plugin under test."""

    name: ClassVar[str]
    title: ClassVar[str]

    def absent(self) -> str | None:
        """Why it cannot be measured on this machine; None if it can."""
        return None

    @abstractmethod
    def build(self, lab: Lab) -> Plugin:
        """Make it ready. LabError if that fails."""

    def namespaces(self, lab: Lab) -> list[str]:
        """New ones for containers."""
        labels = (f"{self.name}-{number}" for number in range(CONTAINERS))
        return [str(lab.add(Container(lab.name(label), label)).path) for label in labels]


class WeaveCni(CniSystem):
    """This project's, as `weave setup-cni` installs it; it gives addresses itself."""

    name = "weave"
    title = "weave-net"

    def build(self, lab: Lab) -> Plugin:
        """Launch a daemon as users do and wait until it has addresses."""
        cni = CniHost(lab, self.name)
        cni.host.fast_datapath = True
        cni.launch()
        cni.set_up()
        if (pid := cni.host.pid) is None:
            raise LabError(f"the daemon ended:\n{cni.host.log()}")
        program = cni.plugin_dir / "weave-net"
        return Plugin(cni.host, program, [cni.plugin_dir], cni.config(VERSION), self.namespaces(lab), pid)


class BridgeCni(CniSystem):
    """The reference plugins, in Go: a bridge of this host alone, addresses from files."""

    name = "bridge"
    title = "bridge + host-local"

    def absent(self) -> str | None:
        """It needs Debian's package."""
        if all((REFERENCE_PLUGINS / plugin).exists() for plugin in ("bridge", "host-local")):
            return None
        return "containernetworking-plugins is not installed"

    def build(self, lab: Lab) -> Plugin:
        """Let it do what ours does: a gateway on the bridge, a default route, hairpin."""
        config = {
            "cniVersion": VERSION,
            "name": "bench",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "subnet": "10.77.0.0/16",
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(lab.directory / "host-local"),
            },
        }
        program = REFERENCE_PLUGINS / "bridge"
        return Plugin(lab.host(self.name), program, [REFERENCE_PLUGINS], config, self.namespaces(lab))


SYSTEMS: tuple[CniSystem, ...] = (WeaveCni(), BridgeCni())
"""In the order of the table."""
