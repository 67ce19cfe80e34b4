"""Launching and stopping, with real processes: the command line in this one, a daemon of fakes in another."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from weave.fake_daemon_process import FAKE_DAEMON
from weave_net.cli import weave
from weave_net.directories import Directories
from weave_net.errors import LaunchError
from weave_net.instance_lock import running_pid
from weave_net.launch import launch_in_background
from weave_net.settings import DaemonSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result


class Host:
    """A host with directories of its own, whose daemon is made of fakes."""

    def __init__(self, directory: Path) -> None:
        self.directories = Directories(directory / "state", directory / "run")

    def weave(self, *arguments: str, **environment: str) -> Result:
        variables = {
            "WEAVE_STATE_DIR": str(self.directories.state),
            "WEAVE_RUN_DIR": str(self.directories.run),
            "WEAVE_HTTP_ADDR": "127.0.0.1:1",  # a port that nobody has; see `launch`
            **environment,
        }
        return CliRunner().invoke(weave, list(arguments), env=variables)

    def launch(self, *arguments: str, **environment: str) -> Result:
        return self.weave("launch", "--http-addr", "", *arguments, **environment)

    def pid(self) -> int | None:
        return running_pid(self.directories.pid_file)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr("weave_net.launch.DAEMON_COMMAND", FAKE_DAEMON)
    monkeypatch.setattr("weave_net.launch.check_privileges", lambda _: None)
    host = Host(tmp_path)
    yield host
    if pid := host.pid():
        os.kill(pid, signal.SIGKILL)


def test_life_of_a_daemon(host: Host) -> None:
    launched = host.launch("--name", "::1", "--nickname", "h1", "10.0.0.2")
    assert (launched.exit_code, launched.output) == (0, "")
    pid = host.pid()
    assert pid

    again = host.launch()
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == (
        f"weave is already running (pid {pid}, run directory {host.directories.run}); stop it with 'weave stop'\n"
    )
    assert host.pid() == pid

    status = host.weave("status", "targets")
    assert (status.exit_code, status.output) == (0, "10.0.0.2\n")

    stopped = host.weave("stop")
    assert (stopped.exit_code, stopped.output) == (0, "")
    assert host.pid() is None
    assert not host.directories.pid_file.exists()
    assert not host.directories.socket.exists()
    assert host.weave("stop").exit_code == 1

    assert host.launch("10.0.0.2").exit_code == 0  # at once, with what the first one left
    assert host.weave("stop").exit_code == 0
    log = host.directories.log.read_text().splitlines()
    assert len([line for line in log if line.endswith("ready")]) == 2
    assert all(line[10] == "T" for line in log)


def test_daemon_that_is_just_dying_is_waited_for(host: Host) -> None:
    """After `kill -9` the kernel drops the lock only when it has closed all that the daemon had."""
    host.directories.run.mkdir()
    host.directories.pid_file.write_text("4242\n")
    with host.directories.pid_file.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        release = threading.Timer(0.4, fcntl.flock, (file, fcntl.LOCK_UN))
        release.start()
        result = host.launch()
        release.join()
    assert result.exit_code == 0, result.output
    assert host.pid() not in (None, 4242)


@pytest.mark.parametrize("way", ["flag", "file", "variable"])
def test_password_is_nowhere_to_be_seen(host: Host, tmp_path: Path, way: str) -> None:
    (tmp_path / "password").write_text("s3cret-word\n")
    arguments = {"flag": ["--password", "s3cret-word"], "file": ["--password-file", str(tmp_path / "password")]}
    environment = {"WEAVE_PASSWORD": "s3cret-word"} if way == "variable" else {}
    assert host.launch(*arguments.get(way, []), **environment).exit_code == 0
    process = Path(f"/proc/{host.pid()}")
    assert b"s3cret" not in (process / "cmdline").read_bytes()
    assert b"s3cret" not in (process / "environ").read_bytes()
    assert (process / "fd" / "0").readlink() == Path("/dev/null")
    assert "s3cret" not in host.directories.log.read_text()
    assert host.weave("stop").exit_code == 0


def test_daemon_is_detached(host: Host, tmp_path: Path) -> None:
    with socket.socket() as ours, (tmp_path / "open").open("w") as file:
        ours.set_inheritable(True)
        os.set_inheritable(file.fileno(), True)
        assert host.launch().exit_code == 0
        pid = host.pid()
        assert pid
        assert os.getsid(pid) == pid
        process = Path(f"/proc/{pid}")
        assert (process / "cwd").readlink() == Path("/")
        links = {}
        for path in (process / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                links[path.name] = path.readlink()
        assert links["1"] == links["2"] == host.directories.log
        assert tmp_path / "open" not in links.values()
        assert Path(f"socket:[{os.fstat(ours.fileno()).st_ino}]") not in links.values()
    assert host.weave("stop").exit_code == 0


def test_error_at_the_start_is_told(host: Host) -> None:
    failed = host.launch(WEAVE_TEST_START="busy")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr == "TCP port 6783 is in use by another program\n"
    assert host.pid() is None
    assert "port 6783" in host.directories.log.read_text()


def test_bug_at_the_start_is_told_and_logged_with_its_traceback(host: Host) -> None:
    failed = host.launch(WEAVE_TEST_START="bug")
    assert failed.exit_code == 1
    assert "the daemon failed: a bug in the router" in failed.stderr
    assert "Traceback" in host.directories.log.read_text()


def test_sudden_death_shows_the_last_lines_of_the_log(host: Host) -> None:
    host.directories.prepare()
    host.directories.log.write_text("from last time\n")
    failed = host.launch(WEAVE_TEST_START="death")
    assert failed.exit_code == 1
    assert "the daemon ended while it started (signal SIGABRT)" in failed.stderr
    assert "last words" in failed.stderr
    assert "from last time" not in failed.stderr


def test_silent_death(host: Host) -> None:
    failed = host.launch(WEAVE_TEST_START="silence")
    assert failed.stderr == "the daemon ended while it started (exit status 3), without a word\n"


def test_start_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVE_TEST_START", "sleep")
    settings = DaemonSettings(directories=Directories(tmp_path / "state", tmp_path / "run"))
    settings.directories.prepare()
    with pytest.raises(LaunchError, match="not ready within"):
        launch_in_background(settings, tmp_path / "log", FAKE_DAEMON, limit_s=0.1)


def test_busy_http_address(host: Host) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        failed = host.weave("launch", "--http-addr", address)
    assert failed.exit_code == 1
    assert f"the HTTP address {address} is in use by another program" in failed.stderr


@pytest.mark.parametrize(("variable", "flag"), [("WEAVE_STATE_DIR", "--state-dir"), ("WEAVE_RUN_DIR", "--run-dir")])
def test_directory_that_cannot_be_made(host: Host, tmp_path: Path, variable: str, flag: str) -> None:
    (tmp_path / "file").write_text("")
    failed = host.launch(**{variable: str(tmp_path / "file" / "x")})
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "cannot be made: Not a directory" in failed.stderr
    assert flag in failed.stderr


def test_log_file_of_ones_own(host: Host, tmp_path: Path) -> None:
    log = tmp_path / "elsewhere.log"
    assert host.launch("--log-file", str(log), "--log-level", "debug").exit_code == 0
    assert log.read_text().count("ready") == 1
    assert not host.directories.log.exists()
    log.rename(tmp_path / "rotated.log")
    pid = host.pid()
    assert pid
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + 5
    while not log.exists() or "anew" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert host.weave("stop").exit_code == 0
    assert host.launch("--log-file", "/proc/none/x").exit_code == 1


def test_stop_of_a_daemon_that_does_not_answer(host: Host) -> None:
    assert host.launch().exit_code == 0
    host.directories.socket.unlink()
    assert "start it with" in host.weave("status").stderr
    stopped = host.weave("stop")
    assert (stopped.exit_code, stopped.output) == (0, "")
    assert host.pid() is None


# The name server


def test_flags_of_the_name_server(host: Host, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        launched = host.launch(
            *("-dns-domain=Example.test", "--dns-listen-address", f"127.0.0.1:{port}", "--dns-ttl", "30"),
            *("--dns-fallback-timeout", "500ms", "--resolv-conf", str(tmp_path / "resolv.conf")),
            *("--dns-clients", "192.0.2.0/24", "--dns-rate-limit", "0"),
        )
        assert (launched.exit_code, launched.output) == (0, ""), "a busy port is no reason not to start"
        status = host.weave("status").stdout
        assert "         Domain: Example.test.\n" in status
        assert "            TTL: 30\n" in status
        assert f"        Trouble: cannot listen at 127.0.0.1:{port}: Address already in use\n" in status
    assert f"cannot listen at 127.0.0.1:{port}" in host.directories.log.read_text()
    deadline = time.monotonic() + 20
    while f"      Listening: 127.0.0.1:{port}\n" not in host.weave("status").stdout:
        assert time.monotonic() < deadline, "it must be tried again"
        time.sleep(0.2)
    assert host.weave("stop").exit_code == 0


def test_without_a_name_server(host: Host) -> None:
    launched = host.launch("--no-dns", "--dns-domain", "example.test")
    assert (launched.exit_code, launched.output) == (0, "")
    assert "dns" not in host.weave("status").stdout
    assert host.weave("dns-args").output == ""
    assert host.weave("stop").exit_code == 0


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        ("--dns-domain", "a b", "--dns-domain: 'a b' is no host name: use letters, digits, hyphens and dots"),
        ("--dns-domain", "", "--dns-domain: '' is no host name"),
        ("--dns-listen-address", "docker0", "--dns-listen-address docker0: "),
        ("--dns-listen-address", "10.0.0.1:99999", "--dns-listen-address 10.0.0.1:99999: '99999' is no port"),
        ("--dns-ttl", "-1", "Invalid value for '--dns-ttl': -1 is not in the range 0<=x<=86400."),
        ("--dns-ttl", "x", "Invalid value for '--dns-ttl'"),
        ("--dns-fallback-timeout", "1h", "--dns-fallback-timeout 1h: give a time from 0.1 s to 60 s, such as 5s"),
        ("--dns-clients", "10.0.0.0/33", "--dns-clients: '10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"),
        ("--dns-rate-limit", "-1", "Invalid value for '--dns-rate-limit'"),
    ],
)
def test_bad_flag_of_the_name_server(host: Host, flag: str, value: str, text: str) -> None:
    failed = host.launch(flag, value)
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert text in failed.stderr
    assert host.pid() is None
    assert not host.directories.state.exists()


# In the foreground


def foreground(host: Host, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    program = (
        "import sys, weave_net.launch as launch; from weave_net.cli import main; "
        f"launch.DAEMON_COMMAND = {FAKE_DAEMON!r}; launch.check_privileges = lambda _: None; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, "launch", "--foreground", "--http-addr", "", *arguments],
        env={
            **os.environ,
            "WEAVE_STATE_DIR": str(host.directories.state),
            "WEAVE_RUN_DIR": str(host.directories.run),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_foreground(host: Host, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        secrets: dict[str, Any] = {"WEAVE_PASSWORD": "s3cret-word", "NOTIFY_SOCKET": str(tmp_path / "notify")}
        (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
        arguments = ("--password", "other-s3cret", "--resolv-conf", str(tmp_path / "resolv.conf"))
        with foreground(host, *arguments, **secrets) as process:
            assert manager.recv(100) == b"READY=1"
            assert host.pid() == process.pid
            for name in ("cmdline", "environ"):
                assert b"s3cret" not in Path(f"/proc/{process.pid}/{name}").read_bytes()
            process.send_signal(signal.SIGINT)
            assert manager.recv(100) == b"STOPPING=1"
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert [line.split(": ", 1)[1].split()[0] for line in err.splitlines()] == [
        "weave",
        "Name",  # servers of this host
        "ready",
        "stopping:",
        "stopped",
    ]
    assert not host.directories.log.exists()


def test_foreground_with_a_busy_port(host: Host) -> None:
    with foreground(host, WEAVE_TEST_START="busy") as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1].endswith("TCP port 6783 is in use by another program")
    assert "Traceback" not in err


def test_settings_do_not_depend_on_the_size_of_a_pipe(tmp_path: Path) -> None:
    """Thousands of peers make more than the 64 KiB that a pipe takes without a reader."""
    peers = tuple(f"host-{number}.example" for number in range(5000))
    directories = Directories(tmp_path / "state", tmp_path / "run")
    directories.prepare()
    settings = DaemonSettings(directories=directories, peers=peers)
    launch_in_background(settings, tmp_path / "log", FAKE_DAEMON)
    try:
        result = Host(tmp_path).weave("report", "-f", ".Router.Targets")
        assert json.loads(result.stdout) == list(peers)
    finally:
        assert Host(tmp_path).weave("stop").exit_code == 0
