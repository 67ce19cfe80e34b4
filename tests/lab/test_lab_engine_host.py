"""The lab's hosts for container engines: they go without a trace, and what a plugin forgets is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.containerd_engine import Containerd
from lab.engine_host import CONTROL_GROUPS, add_engine_host, engine_world
from lab.engine_image import make_image
from lab.engine_mesh import REFERENCE_PLUGINS
from lab.engine_remains import difference, nothing_left, remains
from lab.network import Lab, clear_stale_labs, wait_until
from lab.podman_engine import Podman
from lab.shell import CommandFailed, LabError

if TYPE_CHECKING:
    from lab.engine_host import EngineHost

pytestmark = pytest.mark.root

TESTS = Path(__file__).resolve().parents[1]
KILLED_OUTRIGHT = """
import sys, time
from lab.containerd_engine import Containerd
from lab.engine_host import add_engine_host
from lab.engine_image import make_image
from lab.network import Lab

with Lab() as lab:
    host = add_engine_host(lab, "A")
    Containerd(host, make_image(lab.directory / "image.tar"))
    host.run("ctr", "run", "-d", "docker.io/library/weave-lab:1", "one")
    print(lab.name(""), *host.processes(), flush=True)
    time.sleep(60)
"""


def traces(name: str) -> list[str]:
    """What the machine has whose name begins so."""
    groups = [str(path) for path in (*CONTROL_GROUPS.glob(f"{name}*"), *CONTROL_GROUPS.glob(f"*/{name}*"))]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
    return [*groups, *mounts, *map(str, Path("/run/netns").glob(f"{name}*")), *map(str, Path("/tmp").glob(f"{name}*"))]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def with_bridge(host: EngineHost) -> None:
    """A network of the reference plugins."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": ipam}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    conflist = {"cniVersion": "1.0.0", "name": "weave", "plugins": [bridge, portmap]}
    host.write("/etc/cni/net.d/10-weave.conflist", json.dumps(conflist))
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    assert REFERENCE_PLUGINS.is_dir()


def test_nothing_stays_of_a_host(tmp_path: Path) -> None:
    class Trouble(Exception):
        pass

    with pytest.raises(Trouble), Lab() as lab:
        name = lab.name("")
        host = add_engine_host(lab, "A")
        Containerd(host, make_image(tmp_path / "image.tar"))
        host.run("ctr", "run", "-d", "docker.io/library/weave-lab:1", "one")
        pids = host.processes()
        assert len(pids) >= 4
        assert traces(name)
        raise Trouble
    assert (alive(pids), traces(name)) == ([], [])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_if_the_test_process_is_ended(how: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(
        (sys.executable, "-c", KILLED_OUTRIGHT),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
        # Whoever runs the tests in the background may have Ctrl-C ignored, which children inherit.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        name, *numbers = process.stdout.readline().split()
        pids = list(map(int, numbers))
        assert alive(pids) == pids
        process.send_signal(how)
        process.wait(20)
    wait_until(lambda: not alive(pids), 10, "the end of all processes")
    if how == signal.SIGKILL:  # the next lab clears away what is no process
        clear_stale_labs()
        with Lab() as lab:
            add_engine_host(lab, "A")
    assert traces(name) == []


def test_commands_are_limited_in_time(lab: Lab) -> None:
    host = add_engine_host(lab, "A")
    before = remains(host)
    begin = time.monotonic()
    with pytest.raises(CommandFailed, match="did not end in time"):
        host.run("sh", "-c", "sleep 61 & sleep 62", timeout_s=0.5)
    assert time.monotonic() - begin < 3
    nothing_left([host], [before], 2)


def test_what_is_left_is_noticed(lab: Lab) -> None:
    world = engine_world(lab, "A", "B")
    host, other = world.hosts
    with_bridge(host)
    image = make_image(lab.directory / "image.tar")
    engine = Containerd(host, image)
    podman = Podman(host, image)
    engine.start("warm").end()
    podman.start("warm", "-p", "8080:80").remove()
    before = remains(host)
    container = engine.start("one")
    published = podman.start("two", "-p", "8080:80")
    assert published.reaches(container.address())
    answer = other.run("curl", "-s", "-m", "3", f"http://{world.address(host)}:8080/")
    assert answer.strip() == "two"
    changes = difference(before, remains(host))
    for what in ("links:", "nft:", "iptables (nft):", "namespaces:", "cni:", "mounts:", "processes:"):
        assert what in changes
    published.remove()
    container.end()
    nothing_left([host], [before])
    # ctr does not call DEL for these.
    host.run("ctr", "run", "-d", "--cni", "docker.io/library/weave-lab:1", "forgotten")
    host.run("ctr", "task", "rm", "-f", "forgotten")
    host.run("ctr", "container", "rm", "forgotten")
    with pytest.raises(LabError, match=r"cni:\n(.*\n)*.*/var/lib/cni/.*forgotten"):
        nothing_left([host], [before], 1)
