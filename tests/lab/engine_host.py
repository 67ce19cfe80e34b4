"""Hosts of the lab on which real container engines run, several on one machine, all with their default paths.

    with Lab() as lab:
        world = engine_world(lab, "A", "B", "C")
        a = world.hosts[0]
        a.start_daemon("containerd", "containerd")
        a.weave("launch")

Such a host has a network namespace as every host of the lab, and besides: mounts of its own (/run, /var/lib/…,
/etc/cni, /opt/cni and so on are empty and private), processes of its own with an init that reaps, and a subtree of the
control groups. One process outside holds it all; once that is killed, daemons, containers, mounts and their data are
gone, and the control groups can be removed. It is killed by the kernel, too, if the test process dies.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.network import Host, wait_until
from lab.shell import CommandFailed, LabError, attempt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.network import Lab, Segment

SETUP = Path(__file__).with_name("engine_host.sh")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
NEEDED = (
    "containerd",
    "ctr",
    "runc",
    "crun",
    "conmon",
    "podman",
    "dockerd",
    "docker",
    "setpriv",
    "busybox",
    "getent",
)
"""Programs; `.ci/packages lab` installs them."""
OUTSIDE_ADDRESS = "203.0.113.7"
"""Of the machine that is no part of the network, and reached through the hosts' uplink."""
OUTSIDE_GATEWAY = "192.0.2.254"
"""The same machine's address on the uplink; the hosts' default gateway and, if one runs there, name server."""
MARGIN_S = 5.0
"""How much later than the limit inside a command is given up from outside."""
_INITS = ("docker-init\n", "tini\n")
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
_STALE = re.compile(r"wvlab(\d+)[.-]")


class EngineHost(Host):
    """A machine with mounts, processes and control groups of its own."""

    def __init__(self, lab: Lab, name: str, label: str) -> None:
        self.directory = lab.directory / f"{label}-host"
        super().__init__(lab, name, label, self.directory)
        self.fast_datapath = True
        self._holder: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._daemons: list[subprocess.Popen[bytes]] = []

    @property
    def root(self) -> Path:
        """The root of the host's file systems, as seen from outside."""
        return Path(f"/proc/{self._init}/root")

    @property
    def init(self) -> int:
        """Number of the host's process 1, outside."""
        return self._init

    def create(self) -> None:
        """Make the namespaces, the mounts and the control groups."""
        _check_needs()
        super().create()
        _remove_stale_control_groups()
        self.directory.mkdir(parents=True, exist_ok=True)
        unshare = (
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        )
        log = self.directory / "host.log"
        with log.open("wb") as output:
            self._holder = subprocess.Popen(
                (
                    *("setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path}", *unshare),
                    *("sh", str(SETUP), str(self.directory), self.name, OUTSIDE_GATEWAY),
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment()),
                start_new_session=True,
            )
        wait_until(self._is_ready, 20, f"{self.label} to be set up")
        self.state_dir, self.run_dir = self.root / "var/lib/weave", self.root / "run/weave"
        # Nothing of the machine's own settings may lead containers to its name servers or registries.
        self.write("/etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}')

    def path_of(self, path: str) -> Path:
        """Where a file of the host is, outside."""
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the host, with the folders above it."""
        file = self.path_of(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def run(self, *command: str, timeout_s: float = 30, stdin: str | None = None) -> str:
        """Run a program that has to succeed; returns its standard output. What takes too long is killed inside."""
        done = self._attempt(command, timeout_s, stdin)
        if done.returncode != 0:
            raise CommandFailed(command, done.returncode, done.stdout + done.stderr)
        return done.stdout

    def attempt(self, *command: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and return how it went. `CommandFailed` if it takes too long."""
        return self._attempt(command, timeout_s, None)

    def start_daemon(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a program that stays; its output goes to `<name>.log`, the last 40 lines of which `log_of` has."""
        with (self.directory / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                self._inside(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(self.environment()),
            )
        self._daemons.append(process)
        return process

    def stop_daemon(
        self, process: subprocess.Popen[bytes], timeout_s: float = 20, how: signal.Signals = signal.SIGTERM
    ) -> None:
        """Send a signal to a program started by `start_daemon`, and wait for its end."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):
            with suppress(ProcessLookupError):
                os.kill(child, how)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"a daemon of {self.label} does not end within {timeout_s:g} s of {how.name}") from error

    def log_of(self, name: str, lines: int = 40) -> str:
        """The end of the output of a program started by `start_daemon`."""
        file = self.directory / f"{name}.log"
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:]) if file.exists() else "(no log)"

    def log(self, lines: int = 40) -> str:
        """The end of the logs of our daemon and of everything else that runs."""
        names = sorted(file.stem for file in self.directory.glob("*.log"))
        return "\n".join([super().log(lines), *(f"--- {name}\n{self.log_of(name, lines)}" for name in names)])

    @property
    def pid(self) -> int | None:
        """The running weave daemon's process number, outside."""
        try:
            inner = int((self.run_dir / "weave.pid").read_text())
        except (OSError, ValueError):
            return None
        return self.outer_pid(inner)

    def outer_pid(self, inner: int) -> int | None:
        """The number outside of a process that has this one on the host; None if there is none."""
        return next((outer for outer in self.processes() if _inner_pid(outer) == inner), None)

    def processes(self) -> list[int]:
        """The numbers outside of all processes of the host and its containers."""
        return [pid for pid in _all_processes() if _descends(pid, self._init)] if self._init else []

    def environment(self) -> Mapping[str, str]:
        """Environment of programs on the host: nothing that leads elsewhere than to the default paths."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **({} if self.fast_datapath else {"WEAVE_NO_FASTDP": "1"}),
        }

    def kill_all(self) -> None:
        """Kill every process on the host, containers' too; their end is not waited for."""
        if self._holder is not None and self._holder.poll() is None:
            # Before the host is set up there is nobody to reap; then the kernel does what is needed.
            pid = self._init or self._holder.pid
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end_processes(self, timeout_s: float = 10) -> None:
        """Kill everything on the host by killing what holds it, and wait until it is gone."""
        for host in self._lab.hosts:
            if isinstance(host, EngineHost):  # all at once: the end of many mounts takes a moment
                host.kill_all()
        if self._holder is not None:
            # Ends when it has reaped the host's process 1, which the kernel lets go as the last one.
            try:
                self._holder.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                self._holder.kill()
                raise LabError(f"{self.label}'s process 1 ({self._init}) does not end") from error
            self._holder = None
        for process in self._daemons:
            # Each ends when it has reaped what ran inside; killed earlier, it would leave that for the machine's init.
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
            process.kill()
            process.wait(5)
        self._daemons.clear()
        super().end_processes(timeout_s)

    def remove(self) -> None:
        """Delete control groups and the network namespace."""
        remove_control_groups(self.name)
        super().remove()

    def _attempt(
        self, command: tuple[str, ...], timeout_s: float, stdin: str | None
    ) -> subprocess.CompletedProcess[str]:
        # `timeout` kills the whole process group, so that nothing keeps the pipes open; nsenter does as its child did.
        limited = ("timeout", "--signal=KILL", f"{timeout_s:g}", *command)
        begin = time.monotonic()
        done = attempt(
            *self._inside(limited),
            timeout_s=timeout_s + MARGIN_S,
            stdin=stdin or "",
            environment=self.environment(),
            named=command,
        )
        if done.returncode in _KILLED and time.monotonic() - begin >= timeout_s:
            raise CommandFailed(command, None, done.stdout + done.stderr)
        return done

    def _is_ready(self) -> bool:
        holder = self._holder
        if holder is None or holder.poll() is not None:
            text = (self.directory / "host.log").read_text(errors="replace")
            # Not a LabError, which would count as "not yet".
            raise RuntimeError(f"{self.label} could not be set up as a host for container engines: {text}")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        if children:
            self._init = int(children[0])
        # The file is there before the init is, which sets up its signals first.
        return bool(children) and Path(f"/proc/{self._init}/comm").read_text() in _INITS

    def _inside(self, command: tuple[str, ...]) -> tuple[str, ...]:
        if not self._init:
            return super()._inside(command)
        # nsenter forks into the pid namespace; without the signal what it started would outlive it.
        namespaces = ("nsenter", "-t", str(self._init), "-m", "-n", "-p", "--wd=/", "--")
        return (*namespaces, "setpriv", "--pdeathsig", "KILL", *command)


@dataclass(frozen=True)
class EngineWorld:
    """Hosts on one switch, which is their uplink as well."""

    hosts: tuple[EngineHost, ...]
    outside: Host
    """A machine beyond the uplink, at `OUTSIDE_ADDRESS`; it knows no way to the containers' addresses."""
    uplink: Segment

    def address(self, host: Host) -> str:
        """The host's own address on the switch."""
        return self.uplink.address_of(host)


def engine_world(lab: Lab, *labels: str) -> EngineWorld:
    """Add hosts on which engines can run, and a machine outside of the network that is their default gateway."""
    hosts = tuple(add_engine_host(lab, label) for label in labels)
    outside = lab.host("outside")
    addresses: dict[Host, str] = {host: f"192.0.2.{number}/24" for number, host in enumerate(hosts, start=1)}
    uplink = lab.segment({**addresses, outside: f"{OUTSIDE_GATEWAY}/24"})
    outside.ip("addr", "add", f"{OUTSIDE_ADDRESS}/32", "dev", "lo")
    for host in hosts:
        host.ip("route", "add", "default", "via", OUTSIDE_GATEWAY)
    return EngineWorld(hosts, outside, uplink)


def add_engine_host(lab: Lab, label: str) -> EngineHost:
    """Add a host on which engines can run, without any link."""
    host = EngineHost(lab, lab.name(label), label)
    lab.hosts.append(host)
    return lab.add(host)


def remove_control_groups(name: str) -> None:
    """Remove the control groups of a host whose processes are gone. LabError if one stays."""
    tops = [path for path in (CONTROL_GROUPS / name, *CONTROL_GROUPS.glob(f"*/{name}")) if path.is_dir()]
    deadline = time.monotonic() + 5
    while tops:
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):  # a group is busy until the last process in it has been reaped
                    Path(folder).rmdir()
        tops = [top for top in tops if top.is_dir()]
        if tops and time.monotonic() > deadline:
            raise LabError(f"the control groups {', '.join(map(str, tops))} cannot be removed")
        if tops:
            time.sleep(0.02)


def _remove_stale_control_groups() -> None:
    """Remove what hosts left behind whose test process was killed outright; the kernel has killed their processes."""
    paths = [*CONTROL_GROUPS.glob("wvlab*"), *CONTROL_GROUPS.glob("*/wvlab*")]
    for name in {path.name for path in paths}:
        match = _STALE.match(name)
        if match is not None and not Path("/proc", match[1]).exists():
            with suppress(LabError):
                remove_control_groups(name)


def _check_needs() -> None:
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        raise LabError(
            f"container engines need these programs: {', '.join(missing)} (install them with `.ci/packages lab`)"
        )


def _all_processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _inner_pid(pid: int) -> int | None:
    """A process's number in its own pid namespace."""
    with suppress(OSError):
        match = re.search(r"^NSpid:.*?(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(match[1]) if match else None
    return None


def _descends(pid: int, init: int) -> bool:
    """Whether a process belongs to the pid namespace of a process 1, or to one below."""
    with suppress(OSError):
        match = re.search(r"^NSpid:(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        if match and len(match[1].split()) > 1:
            while pid > 1:
                if pid == init:
                    return True
                stat = Path(f"/proc/{pid}/stat").read_text()
                pid = int(stat.rpartition(")")[2].split()[1])
    return False
