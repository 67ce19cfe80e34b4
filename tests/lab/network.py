"""The lab: real routers on hosts that are network namespaces of this machine, and real containers' traffic.

    with Lab() as lab:
        a, b = lab.host("A"), lab.host("B")
        link = lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
        a.weave("launch", "--name", "::1")
        b.weave("launch", "--name", "::2", link.address_of(a))
        one, two = a.container("one", "10.2.1.1/24"), b.container("two", "10.2.1.2/24")
        wait_until(lambda: one.reaches("10.2.1.2"), 10, "the first answer")
        lab.cut(link)

Everything has a name that begins with `wvlab` and the number of this process, lives in namespaces and one
temporary directory, and goes when the block ends, be it by an error, Ctrl-C or SIGTERM. A lab whose process
was killed outright is cleared away by the next one. Processes are ended by their number, found by the
namespace that they are in.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lab.namespace import Namespace
from lab.shell import CommandFailed, LabError, wait_until
from lab.underlay import End, Segment, Underlay, connect, join

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType, TracebackType

__all__ = ["CommandFailed", "Container", "Host", "Lab", "LabError", "Namespace", "Segment", "Underlay", "wait_until"]

WEAVE = Path(sys.executable).with_name("weave")
TOOLS = ("ip", "nft", "ping", "sysctl")
STOP_TIMEOUT_S = 8.0
_STALE = re.compile(r"wvlab(\d+)[.-]")
_numbers_in_use: set[int] = set()

N = TypeVar("N", bound=Namespace)


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end; a KeyboardInterrupt, since pytest winds up in good order on that."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"ended by {signal.Signals(number).name}")


class Container(Namespace):
    """A container as the network sees it."""

    def __init__(self, name: str, label: str) -> None:
        super().__init__(name)
        self.label = label
        """Name within the test."""


class Host(Namespace):
    """A machine with a router of its own."""

    def __init__(self, lab: Lab, name: str, label: str, directory: Path) -> None:
        super().__init__(name)
        self.label = label
        """Name within the test, and the router's nickname."""
        self.state_dir = directory / "state"
        self.run_dir = directory / "run"
        self.containers: list[Container] = []
        self.fast_datapath = False
        """Whether routers launched from now on may leave packets to the kernel; most tests are about sleeve."""
        self._lab = lab
        self._interfaces = itertools.count()

    def environment(self) -> Mapping[str, str]:
        """Environment of programs inside; it leads `weave` to this host's router."""
        directories = {"WEAVE_STATE_DIR": str(self.state_dir), "WEAVE_RUN_DIR": str(self.run_dir)}
        sleeve = {} if self.fast_datapath else {"WEAVE_NO_FASTDP": "1"}
        return {**super().environment(), **directories, **sleeve}

    def weave(self, command: str, *arguments: str, timeout_s: float = 90) -> str:
        """Run the real `weave`; returns what it prints. `launch` gets this host's label as the nickname."""
        if command == "launch" and not any(argument.startswith("--nickname") for argument in arguments):
            arguments = ("--nickname", self.label, *arguments)
        return self.run(*self.weave_command(command, *arguments), timeout_s=timeout_s)

    @staticmethod
    def weave_command(command: str, *arguments: str) -> tuple[str, ...]:
        """The words of a `weave` command."""
        return (str(WEAVE), command, *arguments)

    def container(self, label: str, *addresses: str) -> Container:
        """Start a container and attach it with these addresses (`10.2.1.5/24`)."""
        container = self._lab.add(Container(self._lab.name(f"{self.label}-{label}"), label))
        self.containers.append(container)
        self.weave("attach", "--netns", str(container.path), *addresses)
        return container

    @property
    def pid(self) -> int | None:
        """The running daemon's process number."""
        try:
            pid = int((self.run_dir / "weave.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if self.holds(pid) else None

    def kill(self) -> None:
        """Crash the daemon (SIGKILL) and wait until it is gone."""
        pid = self.pid
        if pid is None:
            raise LabError(f"no daemon runs on {self.label}")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.holds(pid), 5, f"the end of process {pid}")

    def log(self, lines: int = 40) -> str:
        """The end of the daemon's log."""
        try:
            text = (self.state_dir / "weave.log").read_text(errors="replace")
        except OSError as error:
            return f"(no log: {error.strerror})"
        return "\n".join(text.splitlines()[-lines:])

    def next_interface(self) -> str:
        """A name for one more underlay interface."""
        return f"eth{next(self._interfaces)}"


class Lab:
    """Hosts, containers and the network beneath; a context manager."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self.directory = Path()
        self._number = 0
        self._namespaces: list[Namespace] = []
        self._segments = itertools.count(1)
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Lab:
        check_needs()
        clear_stale_labs()
        # Labs may be nested, for instance a module's and a test's; the first one gets the plain name.
        self._number = next(number for number in itertools.count() if number not in _numbers_in_use)
        _numbers_in_use.add(self._number)
        self.directory = Path(tempfile.mkdtemp(prefix=self.name("")))
        self._catch_signals()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Nothing may interrupt this but a second thought by SIGKILL.
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)
        try:
            self._clean_up()
        finally:
            _numbers_in_use.discard(self._number)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def name(self, label: str) -> str:
        """The machine-wide name of something in this lab."""
        return f"wvlab{os.getpid()}" + (f".{self._number}" if self._number else "") + f"-{label}"

    def host(self, label: str) -> Host:
        """Add a machine without any link."""
        host = self.add(Host(self, self.name(label), label, self.directory / label))
        self.hosts.append(host)
        return host

    def namespace(self, label: str) -> Namespace:
        """Add a namespace that is neither host nor container."""
        return self.add(Namespace(self.name(label)))

    def add(self, namespace: N) -> N:
        """Create a namespace that goes with the lab."""
        self._namespaces.append(namespace)  # first, so that it is removed even if we are interrupted here
        namespace.create()
        return namespace

    def link(self, first: Host, address: str, second: Host, other_address: str, *, mtu: int = 1500) -> Underlay:
        """Lay a cable between two hosts, with their addresses (`192.0.2.1/30`)."""
        here = End(first, first.next_interface(), address)
        return connect(here, End(second, second.next_interface(), other_address), mtu)

    def segment(self, addresses: Mapping[Host, str], *, mtu: int = 1500) -> Segment:
        """Plug hosts into one switch, with their addresses."""
        switch = self.namespace(f"switch{next(self._segments)}")
        return join(switch, [End(host, host.next_interface(), address) for host, address in addresses.items()], mtu)

    def cut(self, link: Underlay, *hosts: Host, carrier: bool = False) -> None:
        """Let nothing arrive over a link any more; see `Underlay.cut`."""
        link.cut(*hosts, carrier=carrier)

    def heal(self, link: Underlay) -> None:
        """Undo every cut of a link."""
        link.heal()

    def kill(self, host: Host) -> None:
        """Crash a host's daemon."""
        host.kill()

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            self._handlers[number] = handler
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _interrupt)

    def _clean_up(self) -> None:
        failures = []
        self._stop_daemons()
        for namespace in reversed(self._namespaces):
            try:
                namespace.end_processes()
                namespace.remove()
            except (LabError, OSError) as error:
                failures.append(str(error))
        shutil.rmtree(self.directory, ignore_errors=True)
        if failures:
            raise LabError("the lab could not be cleared away: " + "; ".join(failures))

    def _stop_daemons(self) -> None:
        # All at once, then wait for all: an orderly stop takes a moment each.
        running = [(host, pid) for host in self.hosts if (pid := host.pid) is not None]
        for _, pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while any(host.holds(pid) for host, pid in running) and time.monotonic() < deadline:
            time.sleep(0.02)


def check_needs() -> None:
    """Say what is missing before anything is begun."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root, since it makes network namespaces: try it with sudo")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise LabError(f"the lab needs these programs: {', '.join(missing)} (install them with `.ci/packages lab`)")


def clear_stale_labs() -> None:
    """Remove what labs left behind whose process was killed outright."""
    try:
        names = [path.name for path in Path("/run/netns").iterdir()]
    except FileNotFoundError:
        names = []
    for name in names:
        if _is_stale(name):
            namespace = Namespace(name)
            # Another lab that starts right now may do the same.
            with suppress(LabError):
                namespace.end_processes()
                namespace.remove()
    for path in Path(tempfile.gettempdir()).glob("wvlab*"):
        if _is_stale(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _is_stale(name: str) -> bool:
    match = _STALE.match(name)
    return match is not None and not Path("/proc", match[1]).exists()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)
