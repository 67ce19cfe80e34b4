"""The parts around the daemon: lock, log lines, service manager, flags in Go's notation, namespaces."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from weave_net.errors import AlreadyRunning, AttachmentError, LaunchError
from weave_net.flags import normalise_flags
from weave_net.instance_lock import InstanceLock, running_pid, wait_until_free
from weave_net.launch import check_privileges
from weave_net.logging_setup import PACKAGES, LineFormatter, open_log_file, reopen_log_file, set_up_logging
from weave_net.namespaces import absolute_namespace_path, default_attachment_id, namespace_identity
from weave_net.service_notify import notify_service_manager

if TYPE_CHECKING:
    from collections.abc import Iterator

# The lock


def test_lock_tells_who_runs(tmp_path: Path) -> None:
    pid_file = tmp_path / "weave.pid"
    assert running_pid(pid_file) is None
    with InstanceLock(pid_file):
        assert running_pid(pid_file) == os.getpid()
        assert pid_file.read_text() == f"{os.getpid()}\n"
    assert running_pid(pid_file) is None
    assert not pid_file.exists()


def test_second_daemon_is_refused(tmp_path: Path) -> None:
    pid_file = tmp_path / "weave.pid"
    with InstanceLock(pid_file):
        with pytest.raises(AlreadyRunning, match=rf"already running \(pid {os.getpid()}, .*weave stop") as caught:
            with InstanceLock(pid_file):
                pass
        assert caught.value.pid == os.getpid()
        assert running_pid(pid_file) == os.getpid()


def test_pid_file_of_a_crashed_daemon_is_nobody(tmp_path: Path) -> None:
    pid_file = tmp_path / "weave.pid"
    pid_file.write_text("1\n")
    assert running_pid(pid_file) is None
    with InstanceLock(pid_file):
        assert running_pid(pid_file) == os.getpid()


def test_looking_does_not_keep_a_daemon_from_starting(tmp_path: Path) -> None:
    pid_file = tmp_path / "weave.pid"
    pid_file.write_text("")
    with pid_file.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        release = threading.Timer(0.05, fcntl.flock, (file, fcntl.LOCK_UN))
        release.start()
        with InstanceLock(pid_file):
            pass
        release.join()


def test_lock_on_a_file_that_was_removed_counts_for_nothing(tmp_path: Path) -> None:
    pid_file = tmp_path / "weave.pid"
    pid_file.write_text("")
    with pid_file.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pid_file.unlink()
        with InstanceLock(pid_file):
            assert running_pid(pid_file) == os.getpid()


def test_lock_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert running_pid(tmp_path / "none" / "weave.pid") is None
    with pytest.raises(LaunchError, match=r"run directory .* is not writable"):
        with InstanceLock(tmp_path / "none" / "weave.pid"):
            pass


def test_waiting_for_the_end(tmp_path: Path) -> None:
    pid_file = tmp_path / "weave.pid"
    assert wait_until_free(pid_file, 0)
    with InstanceLock(pid_file):
        assert not wait_until_free(pid_file, 0.05)


# The log


def formatted(message: str, *arguments: object, error: BaseException | None = None) -> str:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("weave_net.x", logging.WARNING, "x.py", 1, message, arguments, info)
    record.created, record.msecs = 1_769_860_800.25, 250
    return LineFormatter().format(record)


def test_lines() -> None:
    assert formatted("hello %s", "world") == "2026-01-31T12:00:00.250Z WARNING weave_net.x: hello world"


def test_what_peers_say_cannot_forge_lines() -> None:
    line = formatted("peer %s", "a\nb\rc\x1b[0m\x85\u2028d\te")
    assert len(line.splitlines()) == 1
    assert line.endswith("peer a\\nb\\rc\\x1b[0m\\x85\\u2028d\\te")


def test_tracebacks_are_indented() -> None:
    try:
        raise ValueError("bad\nthing")
    except ValueError as error:
        first, *others = formatted("failed", error=error).splitlines()
    assert first.endswith("failed")
    assert all(line.startswith("    ") for line in others)
    assert any("ValueError" in line for line in others)


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Puts back what `set_up_logging` changes in the whole process."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, [logging.getLogger(name).level for name in PACKAGES])
    yield
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for name, own in zip(PACKAGES, levels, strict=True):
        logging.getLogger(name).setLevel(own)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("own_logging")
def test_levels(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    set_up_logging("info")
    logging.getLogger("weave_router.shell").info("ours")
    logging.getLogger("weave_router.shell").debug("too much")
    logging.getLogger("httpx").info("a library's")
    logging.getLogger("httpx").warning("a library's warning")
    text = capfd.readouterr().err
    assert "ours" in text
    assert "a library's warning" in text
    assert "too much" not in text
    assert "a library's\n" not in text
    set_up_logging("error")
    logging.getLogger("weave_net").warning("quiet")
    logging.getLogger("httpx").warning("quiet")
    assert capfd.readouterr().err == ""


def test_log_file_is_appended_and_begun_anew_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "weave.log"
    path.write_text("before\n")
    child = os.fork()
    if child == 0:
        try:
            os.dup2(open_log_file(path), 2)
            os.write(2, b"first\n")
            path.rename(tmp_path / "weave.log.1")
            reopen_log_file(path)
            os.write(2, b"second\n")
            os.write(1, b"third\n")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "weave.log.1").read_text() == "before\nfirst\n"
    assert path.read_text() == "second\nthird\n"
    assert path.stat().st_mode & 0o007 == 0


def test_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="--log-file"):
        open_log_file(tmp_path)


# The service manager


@pytest.mark.parametrize("abstract", [False, True])
def test_service_manager_hears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = f"\0weave-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
        manager.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        assert notify_service_manager("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_a_service_manager_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify_service_manager("READY=1")
    for address in (str(tmp_path / "gone"), "nonsense", ""):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert not notify_service_manager("READY=1")


# Privileges


def test_privileges() -> None:
    check_privileges("weave launch", "Name:\tweave\nCapEff:\t000001ffffffffff\n")
    check_privileges("weave launch", "CapEff:\t0000000000001000\n")
    for status in ("CapEff:\t0000000000000000\n", "CapEff:\t000001ffffffefff\n", ""):
        with pytest.raises(LaunchError, match=r"weave reset needs root.*sudo"):
            check_privileges("weave reset", f"Uid:\t1000\t1000\t1000\t1000\n{status}")
        with pytest.raises(LaunchError, match="which root does not have here; a container has it with --privileged"):
            check_privileges("weave reset", f"Uid:\t0\t0\t0\t0\n{status}")


# Flags in Go's notation

PARAMETERS: list[click.Parameter] = [
    click.Option(["--name"]),
    click.Option(["--no-discovery"], is_flag=True),
    click.Option(["--plugin"], is_flag=True),
    click.Option(["-f", "--format"]),
    click.Option(["-H"]),
    click.Argument(["peers"], nargs=-1),
]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-name x h2", "--name x h2"),
        ("-name=x", "--name=x"),
        ("--name x --no-discovery", "--name x --no-discovery"),
        ("-no-discovery h2 -name x", "--no-discovery h2 --name x"),
        ("--plugin=true --no-discovery=1", "--plugin --no-discovery"),
        ("--plugin=false -no-discovery=false h2", "h2"),
        ("--name -plugin", "--name -plugin"),
        ("-name", "--name"),
        ("-f .x -format .y", "-f .x --format .y"),
        ("-f=.x", "-f .x"),
        ("-f.x", "-f.x"),
        ("-H x", "-H x"),
        ("-unknown --other=x -", "-unknown --other=x -"),
        ("-- -name x", "-- -name x"),
        ("h2 -- -name", "h2 -- -name"),
    ],
)
def test_go_flags(arguments: str, expected: str) -> None:
    assert normalise_flags(arguments.split(), PARAMETERS) == expected.split()


def test_go_flags_end_at_the_subcommand() -> None:
    arguments = ["-name", "x", "status", "-name", "y"]
    assert normalise_flags(arguments, PARAMETERS, until_operand=True) == ["--name", "x", "status", "-name", "y"]


def test_truth_value_that_is_none() -> None:
    with pytest.raises(click.UsageError, match="--plugin=perhaps"):
        normalise_flags(["--plugin=perhaps"], PARAMETERS)


# Namespaces


def test_identity_of_namespaces() -> None:
    own = namespace_identity("/proc/self/ns/net")
    assert own is not None
    assert namespace_identity(f"/proc/{os.getpid()}/ns/net") == own
    assert namespace_identity("/proc/self/ns/mnt") != own
    assert namespace_identity("/etc/passwd") is None
    assert namespace_identity("/run") is None
    assert namespace_identity("/no/such/path") is None


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("")
    assert absolute_namespace_path("here") == str(tmp_path / "here")
    assert absolute_namespace_path("../x") == str(tmp_path.parent / "x")
    assert absolute_namespace_path("/proc/17/ns/net") == "/proc/17/ns/net"
    for path in ("/proc/self/ns/net", "/proc/thread-self/ns/net", "/proc/../proc/self/ns/net"):
        with pytest.raises(AttachmentError, match="/proc/PID/ns/net"):
            absolute_namespace_path(path)


def test_bare_names_are_those_of_ip_netns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weave_net.namespaces.NAMED_NAMESPACES", tmp_path)
    (tmp_path / "web").write_text("")
    assert absolute_namespace_path("web") == str(tmp_path / "web")
    assert default_attachment_id(str(tmp_path / "web")) == "web"
    assert absolute_namespace_path("db") == str(Path.cwd() / "db")


def test_ids_of_bare_namespaces() -> None:
    assert default_attachment_id("/run/netns/web") == "web"
    assert default_attachment_id("/var/run/netns/web") == "web"
    path = f"/proc/{os.getpid()}/ns/net"
    assert default_attachment_id(path) == f"netns-{Path(path).stat().st_ino}"
    with pytest.raises(AttachmentError, match="cannot be opened"):
        default_attachment_id("/no/such/path")


def test_identity_tells_boots_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = namespace_identity("/proc/self/ns/net")
    (tmp_path / "boot_id").write_text(f"{time.time()}\n")
    monkeypatch.setattr("weave_net.namespaces._BOOT_ID", tmp_path / "boot_id")
    assert namespace_identity("/proc/self/ns/net") != before
