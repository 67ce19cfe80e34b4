"""The real daemon on a real host: a network namespace of its own, with containers in two more. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

WEAVE = Path(sys.executable).with_name("weave")


class RealHost:
    """A network namespace with directories, in which `weave` is run."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.containers = [f"{name}c1", f"{name}c2"]

    def run(self, *command: str, namespace: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", namespace or self.name, *command],
            env={
                **os.environ,
                "WEAVE_STATE_DIR": str(self.directory / "state"),
                "WEAVE_RUN_DIR": str(self.directory / "run"),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def weave(self, *arguments: str) -> str:
        """Standard output of a command that must succeed without a word on standard error."""
        result = self.run(str(WEAVE), *arguments)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout

    def refused(self, *arguments: str) -> str:
        """Standard error of a command that must fail."""
        result = self.run(str(WEAVE), *arguments)
        assert (result.returncode, result.stdout) == (1, ""), result
        return result.stderr

    def devices(self) -> set[str]:
        lines = self.run("ip", "-o", "link").stdout.splitlines()
        return {line.split(": ")[1].partition("@")[0] for line in lines} - {"lo"}

    def mac(self, device: str) -> str:
        words = self.run("ip", "-o", "link", "show", device).stdout.split()
        return words[words.index("link/ether") + 1]

    def ping(self, container: str, address: str) -> bool:
        return self.run("ping", "-c1", "-W2", address, namespace=container).returncode == 0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RealHost]:
    host = RealHost(f"wt{os.getpid()}", tmp_path)
    names = [host.name, *host.containers]
    for name in names:
        subprocess.run(["ip", "netns", "add", name], check=True)
    host.run("ip", "link", "set", "lo", "up")
    try:
        yield host
    finally:
        host.run(str(WEAVE), "reset", "--force")
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=True)


def test_life_of_a_host(host: RealHost) -> None:
    assert host.weave("launch", "--nickname", "h1") == ""
    name = host.weave("report", "-f", ".Router.Name").strip()
    assert host.devices() == {"weave", "weave-tap", "weave-vxlan"}
    assert host.mac("weave") == name

    first, second = host.containers
    assert host.weave("attach", "--netns", first, "10.2.1.1/24") == "10.2.1.1\n"
    assert host.weave("attach", "--netns", second, "10.2.1.2/24") == "10.2.1.2\n"
    assert host.ping(first, "10.2.1.2")

    assert host.weave("stop") == ""
    assert not {"weave-tap", "weave-vxlan"} & host.devices()
    assert len(host.devices()) == 3
    assert host.ping(first, "10.2.1.2")  # a host's own containers need no daemon

    assert host.weave("launch") == ""
    assert host.weave("report", "-f", ".Router.Name").strip() == name
    assert host.weave("attach", "--netns", first, "10.2.1.3/24") == "10.2.1.3\n"
    assert host.weave("detach", "--netns", first) == "10.2.1.1 10.2.1.3\n"
    assert len(host.devices()) == 4

    removed = host.weave("reset").splitlines()
    assert removed[0] == "stopped the daemon"
    assert "removed bridge weave" in removed
    assert host.devices() == set()


def test_interfaces_follow_their_namespaces_over_a_restart(host: RealHost) -> None:
    first, second = host.containers
    host.weave("launch")
    host.weave("attach", "--netns", first, "10.2.1.1/24", "--mac", "7a:00:00:00:00:05")
    host.weave("attach", "--netns", second, "10.2.1.2/24")
    host.weave("stop")
    host.run("ip", "link", "del", "ethwe", namespace=first)
    subprocess.run(["ip", "netns", "del", second], check=True)
    subprocess.run(["ip", "netns", "add", second], check=True)
    host.weave("launch")
    inside = host.run("ip", "-o", "addr", "show", "ethwe", namespace=first).stdout
    assert "10.2.1.1/24" in inside
    assert "ethwe" not in host.run("ip", "link", namespace=second).stdout
    log = (host.directory / "state" / "weave.log").read_text()
    assert f"ethwe of {second}: its namespace is gone" in log


def test_refusals_and_a_lost_state(host: RealHost) -> None:
    host.weave("launch", "--name", "7a:00:00:00:00:42")
    assert "cannot be attached" in host.refused("attach", "--netns", f"/run/netns/{host.name}", "10.2.1.1/24")
    other = ("--state-dir", str(host.directory / "s2"), "--run-dir", str(host.directory / "r2"))
    assert "6784" in host.refused("launch", *other)
    assert "6783" in host.refused("launch", *other, "--http-addr", "")
    assert "weave-tap" in host.refused("launch", *other, "--http-addr", "", "--port", "7000")
    host.weave("stop")
    shutil.rmtree(host.directory / "state")
    # The bridge still has the name, and with it the host keeps its place in the network.
    assert host.weave("launch", "--print-peer-name") == "7a:00:00:00:00:42\n"
