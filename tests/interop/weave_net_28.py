"""A Weave Net 2.8 daemon on a host of the lab; WEAVER names its binary."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

from lab.network import Container, wait_until

if TYPE_CHECKING:
    from lab.network import Host, Lab


_OWN_PROCESSES = ("unshare", "--mount", "--pid", "--fork", "--kill-child=TERM", "--mount-proc")
"""Its allocator looks at process 1 and all others for addresses that are in use."""


def shares(status: str) -> dict[str, int]:
    """Addresses by peer name, from the text of `status ipam`."""
    found = re.findall(r"^([0-9a-f:]{17})\(.*?\) +([0-9]+) IPs", status, re.MULTILINE)
    return {name: int(count) for name, count in found}


class WeaveNet28:
    """The router of a host where Weave Net 2.8 runs instead of ours: sleeve, no DNS, an allocator if asked for."""

    def __init__(self, lab: Lab, host: Host, name: str) -> None:
        self.host = host
        self._lab = lab
        self._name = name
        self._process: subprocess.Popen[str] | None = None
        self._directory = lab.directory / f"weave28-{host.label}"
        self._directory.mkdir()

    def launch(self, *peers: str, password: str = "", ipalloc_range: str = "", ipalloc_init: str = "") -> None:
        """Start the daemon and wait until it answers. Without a range it allocates no addresses."""
        options = {
            "--name": self._name,
            "--nickname": self.host.label,
            "--port": "6783",
            "--http-addr": "127.0.0.1:6784",
            "--status-addr": "127.0.0.1:6782",
            "--ipalloc-range": ipalloc_range,
            "--datapath": "",
            "--weave-bridge": "weave",
            "--db-prefix": str(self._directory / "weave"),
            "--docker-api": "",
        }
        flags = [word for pair in options.items() for word in pair]
        flags += ["--no-dns", "--no-fastdp", "--plugin=false", "--proxy=false"]
        if ipalloc_init:
            flags += ["--ipalloc-init", ipalloc_init]
        if password:
            flags += ["--password", password]
        (self._directory / "restart.sentinel").unlink(missing_ok=True)  # would make it ignore the peers given here
        environment = {**os.environ, "CHECKPOINT_DISABLE": "1"}
        log = (self._directory / "log").open("a")
        with log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.host.name, *_OWN_PROCESSES, os.environ["WEAVER"], *flags, *peers],
                cwd=self._directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True,
            )  # fmt: skip
        wait_until(lambda: "Service: router" in self.status(), 15, "Weave Net 2.8 to answer")

    def stop(self) -> None:
        """End the daemon; its bridge stays."""
        if self._process is not None:
            self._process.kill()  # the daemon then gets SIGTERM
            self._process.wait(10)
            self._process = None
            wait_until(lambda: not self.host.run("ss", "-Hltn", "sport = :6784"), 10, "Weave Net 2.8 to end")

    def _get(self, path: str, *options: str) -> str:
        return self.host.run("curl", "-sf", *options, f"http://127.0.0.1:6784/{path}")

    def request(self, method: str, path: str, *, within_s: float = 10) -> str:
        """Ask its HTTP API; the answer's body, or `timeout` where it does not answer in time."""
        answer = self.host.attempt(
            "curl", "-s", "-m", str(within_s), "-X", method, f"http://127.0.0.1:6784/{path}", timeout_s=within_s + 5
        )
        return "timeout" if answer.returncode == 28 else answer.stdout

    def allocate(self, identifier: str, subnet: str = "") -> str:
        """An address, as its tools ask for one."""
        return self.request("POST", f"ip/{identifier}/{subnet}" if subnet else f"ip/{identifier}")

    def shares(self) -> dict[str, int]:
        """How many addresses each peer owns, by its own account."""
        return shares(self.status("ipam"))

    def status(self, view: str = "") -> str:
        """A status view as text."""
        return self._get(f"status/{view}" if view else "status")

    def report(self) -> dict[str, Any]:
        """The `Router` part of its report."""
        report: dict[str, Any] = json.loads(self._get("report", "-H", "Accept: application/json"))["Router"]
        return report

    def established(self) -> list[str]:
        """Its lines of established connections."""
        return [line for line in self.status("connections").splitlines() if " established " in line]

    def container(self, label: str, address: str, mtu: int = 1376) -> Container:
        """Start a container on this host, joined as Weave Net's own tools do: no transmit checksum offload."""
        container = self._lab.add(Container(self._lab.name(f"{self.host.label}-{label}"), label))
        outer = f"vethwepl{label}"
        self.host.ip(
            "link", "add", outer, "mtu", str(mtu), "type", "veth",
            "peer", "name", "ethwe", "mtu", str(mtu), "netns", container.name,
        )  # fmt: skip
        self.host.ip("link", "set", outer, "master", "weave", "up")
        container.ip("addr", "add", address, "dev", "ethwe")
        container.ip("link", "set", "ethwe", "up")
        container.run("ethtool", "-K", "ethwe", "tx", "off")
        return container
