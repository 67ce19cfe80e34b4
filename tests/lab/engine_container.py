"""A container that a real engine runs on a host of the lab, as tests see it: the same questions for every engine."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

from lab.shell import POLL_S, CommandFailed, LabError

if TYPE_CHECKING:
    import subprocess

    from lab.engine_host import EngineHost

_ADDRESS = re.compile(r"inet (\S+)")
_MAC = re.compile(r"link/ether (\S+)")
_MTU = re.compile(r"mtu (\d+)")


class EngineContainer(ABC):
    """One running container."""

    def __init__(self, host: EngineHost, name: str) -> None:
        self.host = host
        self.name = name
        self._pid = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} on {self.host.label}>"

    @abstractmethod
    def find_pid(self) -> int:
        """Ask the engine for the number that the container's first process has on the host; 0 if it does not run."""

    def exec_command(self, *command: str) -> tuple[str, ...]:
        """The words that run a program in the container, by entering its namespaces. LabError if it does not run.

        Not the engine's own `exec`: it takes ten times as long, and that of ctr (containerd 1.6) loses the output of
        programs that end at once, now and then.
        """
        if not self._pid or not self.host.path_of(f"/proc/{self._pid}").exists():
            self._pid = self.find_pid()
        if not self._pid:
            raise LabError(f"{self} does not run")
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd=/")
        return ("nsenter", "-t", str(self._pid), *namespaces, "--", *command)

    def run(self, *command: str, timeout_s: float = 20) -> str:
        """Run a program in the container that has to succeed; returns its standard output."""
        return self.host.run(*self.exec_command(*command), timeout_s=timeout_s)

    def attempt(self, *command: str, timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
        """Run a program in the container to its end and return how it went."""
        return self.host.attempt(*self.exec_command(*command), timeout_s=timeout_s)

    def interfaces(self) -> list[str]:
        """Names of the interfaces, without the loopback."""
        return sorted(set(self.run("ls", "/sys/class/net").split()) - {"lo"})

    def addresses(self, interface: str = "eth0") -> list[str]:
        """IPv4 addresses of an interface, with prefix lengths."""
        return _ADDRESS.findall(self.run("ip", "addr", "show", "dev", interface))

    def address(self, interface: str = "eth0") -> str:
        """The only IPv4 address of an interface, without prefix length."""
        found = self.addresses(interface)
        if len(found) != 1:
            raise LabError(f"{self} has {found or 'no address'} on {interface}, not one address")
        return found[0].partition("/")[0]

    def mac(self, interface: str = "eth0") -> str:
        """The MAC address of an interface."""
        return str(_MAC.findall(self.run("ip", "link", "show", "dev", interface))[0])

    def mtu(self, interface: str = "eth0") -> int:
        """The MTU of an interface."""
        return int(_MTU.findall(self.run("ip", "link", "show", "dev", interface))[0])

    def routes(self) -> list[str]:
        """IPv4 routes, a line each."""
        return [" ".join(line.split()) for line in self.run("ip", "route").splitlines()]

    def reaches(self, address: str, *, timeout_s: int = 2) -> bool:
        """Whether one ping to an address, or a name, is answered."""
        return self.attempt("ping", "-c", "1", "-W", str(timeout_s), address).returncode == 0

    def resolves(self, name: str) -> set[str]:
        """The IPv4 addresses of a name as programs with glibc get them; empty if there are none."""
        done = self.attempt("getent", "ahostsv4", name, timeout_s=30)
        return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}

    def fetches(self, address: str, port: int = 80, *, within_s: float = 10) -> str | None:
        """What a web server says, None without an answer. It may just be starting, so this is tried for a while."""
        deadline = time.monotonic() + within_s
        while True:
            with suppress(CommandFailed):
                done = self.attempt("timeout", "5", "wget", "-q", "-O", "-", f"http://{address}:{port}/")
                if done.returncode == 0:
                    return done.stdout.strip()
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL_S)
