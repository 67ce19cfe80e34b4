"""Three hosts on which engines run and weave is launched: what the tests with real engines begin with.

A (192.0.2.1) ─┐
B (192.0.2.2) ─┼─ switch ─ outside (192.0.2.254, 203.0.113.7)
C (192.0.2.3) ─┘
"""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lab import name_server_stub
from lab.engine_host import OUTSIDE_GATEWAY, EngineHost, EngineWorld, engine_world
from lab.engine_image import make_image
from lab.network import Lab, wait_until
from lab.reports import established
from lab.shell import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from lab.engine_container import EngineContainer
    from lab.namespace import Namespace

OUTSIDE_NAME = "www.example"
"""Its address is `OUTSIDE_ADDRESS`, by the name server that the hosts' resolv.conf names."""
REFERENCE_PLUGINS = Path("/usr/lib/cni")
"""Of Debian's containernetworking-plugins."""
DOMAIN = "weave.local"
LAUNCH = ("--ipalloc-init", "consensus=3")

T = TypeVar("T")


@dataclass(frozen=True)
class EngineMesh:
    """The hosts, and the image for their engines."""

    lab: Lab
    world: EngineWorld
    image: Path

    @property
    def hosts(self) -> tuple[EngineHost, ...]:
        """The three."""
        return self.world.hosts

    def launch(self, host: EngineHost) -> None:
        """Start a host's daemon and wait for its connections."""
        start_weave(self.world, host)
        self.connected(host)

    def connected(self, host: EngineHost) -> None:
        """Wait until a host has a connection to all others."""
        wait_until(lambda: established(host) == len(self.hosts) - 1, 30, f"{host.label}'s connections")

    def publishes(self, host: EngineHost, port: int, text: str, *sources: Namespace) -> None:
        """Wait until other hosts, or those named, get a text from a published port of this one."""
        for source in sources or [other for other in self.hosts if other is not host][:1]:
            wait_until(lambda s=source: self._fetch(s, host, port) == text, 10, f"{text} on port {port} from {source}")  # type: ignore[misc]

    def publishes_nothing(self, host: EngineHost, port: int) -> bool:
        """Whether another host gets no answer from a port of this one."""
        return all(self._fetch(other, host, port) is None for other in self.hosts if other is not host)

    def _fetch(self, source: Namespace, host: EngineHost, port: int) -> str | None:
        done = source.attempt("curl", "-s", "-m", "3", f"http://{self.world.address(host)}:{port}/")
        return done.stdout.strip() if done.returncode == 0 else None


@contextmanager
def engine_mesh(
    request: pytest.FixtureRequest, setup: Callable[[EngineHost, Path], T]
) -> Iterator[tuple[EngineMesh, list[T]]]:
    """Hosts with weave launched and on the network themselves (`weave expose`), each with an engine set up.

    If a test of the module fails, the end of all logs is shown.
    """
    failed = request.session.testsfailed
    with Lab() as lab:
        world = engine_world(lab, "A", "B", "C")
        world.outside.popen(sys.executable, name_server_stub.__file__, OUTSIDE_GATEWAY)
        mesh = EngineMesh(lab, world, make_image(lab.directory / "image.tar"))
        try:

            def prepare(host: EngineHost) -> T:
                start_weave(world, host)
                return setup(host, mesh.image)

            engines = in_parallel(prepare, world.hosts)
            for host in world.hosts:
                mesh.connected(host)
            for host in world.hosts:
                host.weave("prime", timeout_s=30)
                host.weave("expose")
            yield mesh, engines
        except LabError:
            show_logs(mesh)
            raise
        if request.session.testsfailed > failed:
            show_logs(mesh)


def start_weave(world: EngineWorld, host: EngineHost) -> None:
    """Start a host's daemon, which connects to the others.

    Its name is given, since it would be made of what these hosts share: the machine and the state directory's path.
    """
    others = (world.address(other) for other in world.hosts if other is not host)
    host.weave("launch", *LAUNCH, "--name", f"::{world.hosts.index(host) + 1}", *others)


def show_logs(mesh: EngineMesh) -> None:
    """Print the end of all logs."""
    for host in mesh.hosts:
        print(f"--- end of the logs of {host.label}\n{host.log()}")


def in_parallel(function: Callable[[EngineHost], T], hosts: tuple[EngineHost, ...]) -> list[T]:
    """Call a function for all hosts at once; results in their order."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(function, hosts))


def set_up_cni(host: EngineHost) -> None:
    """Install our plugins as `weave setup-cni` does, and beside them those of others that a chain needs.

    The host passes packets on, which is the administrator's business: the daemon only warns where it does not.
    """
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    host.weave("setup-cni")
    for name in ("loopback", "portmap"):
        shutil.copy(REFERENCE_PLUGINS / name, host.path_of(f"/opt/cni/bin/{name}"))


def add_cni_network(host: EngineHost, name: str, subnet: str) -> None:
    """Add a second network of ours with a subnet of its own, which sorts behind the first."""
    plugins = [{"type": "weave-net", "ipam": {"subnet": subnet}}]
    text = json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins})
    host.write(f"/etc/cni/net.d/20-{name}.conflist", text)


def resolver_of(host: EngineHost) -> str:
    """The text of resolv.conf by which containers use the host's name server, from `weave dns-args`."""
    words = dict(word.removeprefix("--").split("=") for word in host.weave("dns-args").split())
    return f"nameserver {words['dns']}\nsearch {words['dns-search']}\n"


def all_reach_all(containers: list[EngineContainer], interface: str = "eth0") -> list[str]:
    """Assert that every container pings every other one by address; their addresses."""
    addresses = [container.address(interface) for container in containers]
    assert len(set(addresses)) == len(addresses), addresses
    for container in containers:
        for address in addresses:
            wait_until(lambda c=container, a=address: c.reaches(a), 10, f"{container} to reach {address}")  # type: ignore[misc]
    return addresses
