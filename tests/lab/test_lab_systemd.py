"""The daemon as the unit file starts it: with no more rights than that gives, and telling when it is ready."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from typing import TYPE_CHECKING

from lab.network import wait_until
from lab.overlays import wait_for_overlay
from weave_net.systemd_unit import executable, unit_text

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from lab.network import Host, Lab


def setting(key: str) -> str:
    """A value of the unit file."""
    match = re.search(f"^{key}=(.*)$", unit_text(executable()), re.MULTILINE)
    assert match is not None
    return match[1]


def start(host: Host, *arguments: str, notify: Path | None = None) -> subprocess.Popen[str]:
    """Run the service's command with its capabilities only."""
    rights = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in setting("CapabilityBoundingSet").split())
    command = [word for word in shlex.split(setting("ExecStart")) if word != "$WEAVE_ARGS"]
    variables = [] if notify is None else [f"NOTIFY_SOCKET={notify}"]
    return host.popen(
        *("env", *variables, "setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all,{rights}"),
        *(*command, "--nickname", host.label, *arguments),
    )


def test_the_rights_of_the_service_are_enough(lab: Lab, tmp_path: Path) -> None:
    a, b = lab.host("A"), lab.host("B")
    lab.segment({a: "192.0.2.1/24", b: "192.0.2.2/24"})
    a.fast_datapath = b.fast_datapath = True
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        first = start(a, notify=tmp_path / "notify")
        assert manager.recv(4096) == b"READY=1"
        assert a.pid == first.pid, "systemd knows the daemon by its process number"
        start(b, "192.0.2.1")
        wait_until(lambda: b.weave("status"), 30, "B to be ready")
        wait_for_overlay("vxlan", (a, b))
        one, two = a.container("one", "10.2.1.1/24"), b.container("two", "net:default")
        assert two.path.exists()
        a.weave("expose", "10.2.1.254/24")
        wait_until(lambda: one.reaches("10.2.1.254"), 5, "the host to answer")
        peer = b.container("peer", "10.2.1.2/24")
        wait_until(lambda: peer.reaches("10.2.1.1"), 5, "a container of the other host")
        found = a.attempt(*a.weave_command("doctor"))
        assert "kernel carries the packets" in found.stdout
        a.weave("stop")
        assert manager.recv(4096) == b"STOPPING=1"
        assert first.wait(10) == 0, "or systemd would start it again"


def test_a_daemon_that_cannot_start_fails_as_a_service(lab: Lab) -> None:
    a = lab.host("A")
    hog = a.popen(
        sys.executable,
        "-c",
        "import socket, time; s = socket.socket(); s.bind(('', 6783)); s.listen(); print(flush=True); time.sleep(60)",
    )
    assert hog.stdout is not None
    hog.stdout.readline()
    service = start(a)
    assert service.wait(30) != 0, "systemd tries again after a failure only"
