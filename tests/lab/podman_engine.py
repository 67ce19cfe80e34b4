"""Podman on a host of the lab, with its CNI back end; it has no daemon.

engine = Podman(host, image, network="weave")
web = engine.start("web", "-p", "8080:80")
web.remove()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.engine_container import EngineContainer
from lab.engine_image import IMAGE

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from lab.engine_host import EngineHost

SOCKET = "/run/podman/podman.sock"
# The limits, because Podman's own need CAP_SYS_RESOURCE; cgroupfs, because no systemd runs.
CONFIG = """[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
default_network = "{network}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Podman:
    """The engine, with the lab's image."""

    def __init__(self, host: EngineHost, image: Path, *, network: str = "weave") -> None:
        self.host = host
        self.network = network
        host.write("/etc/containers/containers.conf", CONFIG.format(network=network))
        host.run("podman", "load", "-q", "-i", str(image), timeout_s=60)

    def serve(self) -> None:
        """Let Podman answer on its API socket."""
        self.host.write("/run/podman/.keep", "")
        self.host.start_daemon("podman", "podman", "system", "service", "--time=0", f"unix://{SOCKET}")

    def start(
        self, name: str, *options: str, command: tuple[str, ...] = (), network: str | None = None
    ) -> PodmanContainer:
        """Run a container in the background. CommandFailed with Podman's own words if it does not start."""
        self.run_command(name, "-d", *options, command=command, network=network)
        return PodmanContainer(self.host, name)

    def clear(self) -> None:
        """Remove all containers, should there be any."""
        if self.host.run("podman", "ps", "-aq").strip():
            self.host.run("podman", "rm", "-f", "-t", "0", "--all", timeout_s=60)

    def run_command(self, name: str, *options: str, command: tuple[str, ...] = (), network: str | None = None) -> str:
        """`podman run`; returns what it prints."""
        network = self.network if network is None else network
        # Podman does not let containers ping by default.
        fixed = ("--name", name, "--hostname", name, "--pull", "never", "--cap-add", "NET_RAW", "--network", network)
        return self.host.run("podman", "run", *fixed, *options, IMAGE, *command, timeout_s=40)


class PodmanContainer(EngineContainer):
    """A container of Podman."""

    def find_pid(self) -> int:
        """Its first process, from `podman inspect`."""
        return int(self.host.run("podman", "inspect", "--format", "{{.State.Pid}}", self.name))

    @property
    def id(self) -> str:
        """Its full identifier."""
        return self.host.run("podman", "inspect", "--format", "{{.Id}}", self.name).strip()

    def stop(self) -> None:
        """Stop it; it stays to be started again."""
        self.host.run("podman", "stop", "-t", "2", self.name, timeout_s=40)

    def start(self) -> None:
        """Start it again."""
        self.host.run("podman", "start", self.name, timeout_s=40)

    def remove(self) -> None:
        """Remove it, though it runs."""
        self.host.run("podman", "rm", "-f", "-t", "0", self.name, timeout_s=40)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait until it has ended by itself."""
        return self.host.attempt("podman", "wait", self.name)
