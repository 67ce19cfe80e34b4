"""dockerd on a host of the lab.

engine = Docker(host, image)
host.run("docker", "network", "create", "-d", "weave", "--ipam-driver", "weave", "--subnet", "10.40.0.0/16", "net")
web = engine.start("web", "--network", "net", "--network-alias", "www")
web.remove()
"""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

from lab.engine_container import EngineContainer
from lab.engine_image import IMAGE
from lab.network import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from lab.engine_host import EngineHost

LIMIT_S = 60.0
"""A call to a plugin that is gone takes the engine up to 45 s."""


class Docker:
    """The daemon, with the lab's image."""

    def __init__(self, host: EngineHost, image: Path) -> None:
        self.host = host
        self.up()
        host.run("docker", "load", "-q", "-i", str(image))

    def kill(self) -> None:
        """Crash the daemon; containers and their shims go on."""
        self.host.stop_daemon(self.process, LIMIT_S, signal.SIGKILL)

    def up(self, *options: str) -> None:
        """Start the daemon and wait until it answers."""
        self.process = self.host.start_daemon("dockerd", "dockerd", *options)
        wait_until(
            lambda: self.host.attempt("docker", "version", timeout_s=10).returncode == 0, LIMIT_S, "dockerd to answer"
        )

    def down(self) -> None:
        """Stop the daemon in good order."""
        self.host.stop_daemon(self.process, LIMIT_S)

    def run(self, *words: str) -> str:
        """A `docker` command that has to succeed."""
        return self.host.run("docker", *words, timeout_s=LIMIT_S)

    def start(self, name: str, *options: str, command: tuple[str, ...] = ()) -> DockerContainer:
        """Run a container in the background. CommandFailed with Docker's own words if it does not start."""
        self.run("run", "-d", "--name", name, "--hostname", name, "--pull", "never", *options, IMAGE, *command)
        return DockerContainer(self.host, name)

    def clear(self, *kept: str) -> None:
        """Remove all containers, and all networks of ours but those named, should there be any."""
        if containers := self.run("ps", "-aq").split():
            self.run("rm", "-f", *containers)
        networks = self.run("network", "ls", "--format", "{{.Name}}", "-f", "driver=weave").split()
        if others := sorted(set(networks) - set(kept)):
            self.run("network", "rm", *others)


class DockerContainer(EngineContainer):
    """A container of Docker."""

    def find_pid(self) -> int:
        """Its first process, from `docker inspect`."""
        return int(self.inspect()["State"]["Pid"])

    @property
    def id(self) -> str:
        """Its full identifier."""
        return str(self.inspect()["Id"])

    def inspect(self) -> dict[str, Any]:
        """What Docker knows of it."""
        (found,) = json.loads(self.host.run("docker", "inspect", self.name))
        known: dict[str, Any] = found
        return known

    def network_address(self, network: str) -> str:
        """Its address in a network, as Docker knows it."""
        return str(self.inspect()["NetworkSettings"]["Networks"][network]["IPAddress"])

    def stop(self) -> None:
        """Stop it; it stays to be started again."""
        self.host.run("docker", "stop", "-t", "2", self.name, timeout_s=LIMIT_S)

    def start(self) -> None:
        """Start it again."""
        self.host.run("docker", "start", self.name, timeout_s=LIMIT_S)

    def remove(self) -> None:
        """Remove it, though it runs."""
        self.host.run("docker", "rm", "-f", self.name, timeout_s=LIMIT_S)
