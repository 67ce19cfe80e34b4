"""containerd on a host of the lab, and containers started with its tool `ctr`.

    engine = Containerd(host, image)
    web = engine.start("web", "/bin/serve", "hello")
    web.end()

`ctr run --cni` runs the plugins itself, from the first file of /etc/cni/net.d, and calls DEL only at the end of a
command in the foreground: so each container has one in the background.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from lab.engine_container import EngineContainer
from lab.engine_image import IMAGE
from lab.network import wait_until
from lab.shell import LabError

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from lab.engine_host import EngineHost

CRI_NAMESPACE = "k8s.io"
SOCKET = "/run/containerd/containerd.sock"
CONFIG = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"""


class Containerd:
    """The daemon, with the lab's image."""

    def __init__(self, host: EngineHost, image: Path, *, namespaces: tuple[str, ...] = ("default",)) -> None:
        self.host = host
        self._runs = itertools.count(1)
        host.write("/etc/containerd/config.toml", CONFIG)
        self.process = host.start_daemon("containerd", "containerd", "--log-level", "warn")
        wait_until(lambda: host.attempt("ctr", "version", timeout_s=5).returncode == 0, 20, "containerd")
        for namespace in namespaces:
            host.run("ctr", "-n", namespace, "image", "import", str(image))

    def start(self, name: str, *command: str, resolver: str | None = None) -> CtrContainer:
        """Run a container and wait until it runs.

        `resolver`: the text of its /etc/resolv.conf, since ctr makes none.
        LabError with the engine's own words if it does not start.
        """
        mounts: tuple[str, ...] = ()
        if resolver is not None:
            file = f"/run/lab/{name}.resolv.conf"
            self.host.write(file, resolver)
            mounts = ("--mount", f"type=bind,src={file},dst=/etc/resolv.conf,options=rbind:ro")
        log = f"ctr-{name}-{next(self._runs)}"
        process = self.host.start_daemon(log, "ctr", "run", "--rm", "--cni", *mounts, IMAGE, name, *command)
        container = CtrContainer(self.host, name, process)

        def runs() -> bool:
            if process.poll() is not None:
                # Not a LabError, which would count as "not yet".
                raise RuntimeError(f"{container} does not start: {self.host.log_of(log)}")
            return container.is_running()

        try:
            wait_until(runs, 30, f"{container} to run")
        except RuntimeError as error:
            raise LabError(str(error)) from error
        return container

    def clear(self, name: str) -> None:
        """Remove what ctr leaves of a container that did not start."""
        self.host.attempt("ctr", "task", "rm", "-f", name)
        self.host.attempt("ctr", "container", "rm", name)


def running_tasks(host: EngineHost, namespace: str = "default") -> dict[str, int]:
    """The running containers of a namespace of containerd, and the numbers of their first processes on the host."""
    rows = [line.split() for line in host.run("ctr", "-n", namespace, "task", "ls").splitlines()[1:]]
    return {row[0]: int(row[1]) for row in rows if row[-1] == "RUNNING"}


class CtrContainer(EngineContainer):
    """A container that `ctr` runs in the background."""

    def __init__(self, host: EngineHost, name: str, process: subprocess.Popen[bytes]) -> None:
        super().__init__(host, name)
        self._process = process

    def find_pid(self) -> int:
        """Its first process, from `ctr task ls`."""
        return running_tasks(self.host).get(self.name, 0)

    def is_running(self) -> bool:
        """Whether its process has been started, hence its network made."""
        return self.find_pid() != 0

    def result(self, network: str = "weave") -> dict[str, Any]:
        """What the plugins answered."""
        file = self.host.path_of(f"/var/lib/cni/results/{network}-default-{self.name}-eth0")
        answer: dict[str, Any] = json.loads(file.read_text())["result"]
        return answer

    def end(self) -> None:
        """Kill it; the plugins are called before ctr ends, which is waited for."""
        self.host.run("ctr", "task", "kill", "-s", "KILL", self.name)
        self._process.wait(20)
