"""A network namespace of the lab: a machine or a container, as far as the network can tell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lab.shell import LabError, attempt, run

if TYPE_CHECKING:
    from collections.abc import Mapping

_RTT = re.compile(r"time=([0-9.]+) ms")


class Namespace:
    """One network namespace with its loopback up, and the programs that run in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path("/run/netns", name)
        self._processes: list[subprocess.Popen[str]] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def create(self) -> None:
        """Make the namespace."""
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        # A new namespace copies these from the machine, where a container engine may have turned them on.
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")

    def run(self, *command: str, timeout_s: float = 30, stdin: str | None = None) -> str:
        """Run a program that has to succeed; returns its standard output."""
        return run(
            *self._inside(command), timeout_s=timeout_s, stdin=stdin, environment=self.environment(), named=command
        )

    def attempt(self, *command: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        """Run a program to its end and return how it went."""
        return attempt(*self._inside(command), timeout_s=timeout_s, environment=self.environment(), named=command)

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """Start a program in the background; it is ended with the lab at the latest."""
        process = subprocess.Popen(
            self._inside(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
        )
        self._processes.append(process)
        return process

    def ip(self, *arguments: str) -> str:
        """Run iproute2 on this namespace."""
        return run("ip", "-n", self.name, *arguments)

    def ping(self, address: str, *, count: int = 1, timeout_s: float = 1) -> float:
        """Ping an address `count` times; the best round trip in milliseconds. LabError if no answer comes."""
        done = self.attempt(
            "ping",
            "-n",
            "-c",
            str(count),
            "-i",
            "0.2",
            "-W",
            f"{timeout_s:g}",
            address,
            timeout_s=30 + count * timeout_s,
        )
        times = [float(text) for text in _RTT.findall(done.stdout)]
        if not times:
            raise LabError(f"{address} does not answer {self.name}")
        return min(times)

    def reaches(self, address: str, *, timeout_s: float = 1) -> bool:
        """Whether one ping is answered."""
        with suppress(LabError):
            self.ping(address, timeout_s=timeout_s)
            return True
        return False

    def pids(self) -> list[int]:
        """The processes inside."""
        return [int(word) for word in attempt("ip", "netns", "pids", self.name).stdout.split()]

    def holds(self, pid: int) -> bool:
        """Whether a process runs inside; a number that was given to another process since does not."""
        try:
            theirs, ours = Path(f"/proc/{pid}/ns/net").stat(), self.path.stat()
        except OSError:
            return False
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)

    def end_processes(self, timeout_s: float = 5) -> None:
        """Kill what runs inside and wait until it is gone."""
        self._reap()
        deadline = time.monotonic() + timeout_s
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise LabError(f"processes {pids} in {self.name} cannot be killed")
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def remove(self) -> None:
        """Delete the namespace; what the kernel keeps of it goes when its last process has gone."""
        if self.path.exists():
            run("ip", "netns", "del", self.name)

    def environment(self) -> Mapping[str, str]:
        """Environment of programs inside: ours, without settings that are meant for a router outside the lab."""
        return {key: value for key, value in os.environ.items() if not key.startswith("WEAVE_")}

    def _inside(self, command: tuple[str, ...]) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name, *command)

    def _reap(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(5)
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()
