"""Starting the daemon: in the background, until it is ready, or in place of this process.

In both ways it is a fresh interpreter that reads its settings from standard input. The background one has a session of
its own, the log file for its output, and no other descriptor of ours but a pipe on which it says that it is ready.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from weave_net.errors import AlreadyRunning, LaunchError
from weave_net.instance_lock import TOLERANCE_S, running_pid, wait_until_free
from weave_net.logging_setup import open_log_file, redirect_output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from weave_net.settings import DaemonSettings

# -P: the working directory, where anybody may have put a json.py, is no place to import from.
DAEMON_COMMAND = (sys.executable, "-P", "-m", "weave_net.daemon_process")

START_LIMIT_S = 60.0
"""How long the daemon may take until it is ready: ample, even where a slow disk has to be read first."""

STOP_LIMIT_S = 6.0
"""How long a daemon that failed to get ready may take to end in order; it gives up by itself a second earlier."""

LOG_LINES_SHOWN = 10

SECRET_VARIABLES = ("WEAVE_PASSWORD",)
"""Not handed on: whoever may look at /proc/PID/environ must not find a secret in it."""

_CAP_NET_ADMIN = 12


def check_privileges(command: str, status: str | None = None) -> None:
    """Whether this process may set up network devices, as `command` must. Raises `LaunchError`.

    `status` is the text of /proc/self/status, which tells the effective capabilities.
    """
    if status is None:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            status = file.read()
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    if not int(effective, 16) >> _CAP_NET_ADMIN & 1:
        user = next((line.split()[2] for line in status.splitlines() if line.startswith("Uid:")), "")
        if user == "0":
            raise LaunchError(
                f"{command} needs the capability CAP_NET_ADMIN, which root does not have here; a container has it with "
                "--privileged or --cap-add NET_ADMIN"
            )
        raise LaunchError(
            f"{command} needs root, or the capability CAP_NET_ADMIN, since it changes network devices; try it with sudo"
        )


def check_not_running(settings: DaemonSettings) -> None:
    """Whether the run directory is free; the daemon looks again, with a lock. Raises `AlreadyRunning`."""
    pid_file = settings.directories.pid_file
    if not wait_until_free(pid_file, TOLERANCE_S) and (pid := running_pid(pid_file)) is not None:
        raise AlreadyRunning(pid, settings.directories.run)


def launch_in_background(
    settings: DaemonSettings, log_file: Path, command: Sequence[str] = DAEMON_COMMAND, *, limit_s: float = START_LIMIT_S
) -> None:
    """Start the daemon and return when it is ready. Raises `LaunchError` with the daemon's own words if it is not."""
    log = open_log_file(log_file)
    log_begin = os.fstat(log).st_size
    receiving, sending = os.pipe2(os.O_CLOEXEC)
    try:
        with _settings_file(settings, ready_descriptor=sending) as document:
            process = subprocess.Popen(
                command,
                stdin=document,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_clean_environment(os.environ),
                pass_fds=(sending,),
                start_new_session=True,
            )
        os.close(sending)
        sending = -1
        answer = _wait_for_answer(process, receiving, limit_s)
    finally:
        for descriptor in (log, receiving, sending):
            if descriptor >= 0:
                os.close(descriptor)
    if answer is None:
        raise LaunchError(_obituary(process, log_file, log_begin))
    if "error" in answer:
        process.wait()
        raise LaunchError(answer["error"])
    # The daemon outlives us and is no longer ours to wait for.
    process.returncode = 0


def become_daemon(settings: DaemonSettings, log_file: Path | None, command: Sequence[str] = DAEMON_COMMAND) -> NoReturn:
    """Replace this process by the daemon, which logs to standard error or to `log_file`; the process id stays.

    A new program image rather than a call: it has neither our arguments nor our environment, where a password may be.
    """
    if log_file is not None:
        redirect_output(open_log_file(log_file))
    with _settings_file(settings, ready_descriptor=None) as document:
        os.dup2(document.fileno(), 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], list(command), _clean_environment(os.environ))  # noqa: S606 - no shell is wanted


def _settings_file(settings: DaemonSettings, *, ready_descriptor: int | None) -> Any:
    """A file in memory, unlike a pipe not limited in size, with what the daemon reads from standard input."""
    document = {"settings": json.loads(settings.to_json()), "ready_fd": ready_descriptor}
    file = os.fdopen(os.memfd_create("weave-settings"), "w+", encoding="utf-8")
    json.dump(document, file)
    file.flush()
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return file


def _clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in SECRET_VARIABLES}


def _wait_for_answer(process: subprocess.Popen[bytes], receiving: int, limit_s: float) -> dict[str, Any] | None:
    """What the daemon says about its start, None if it died without a word."""
    deadline = time.monotonic() + limit_s
    received = b""
    try:
        while not received.endswith(b"\n"):
            readable, _, _ = select.select([receiving], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise LaunchError(f"the daemon was not ready within {limit_s:.0f} s and was stopped; see its log")
            piece = os.read(receiving, 65536)
            if not piece:
                return None
            received += piece
    except (KeyboardInterrupt, LaunchError):
        _end(process)
        raise
    answer: dict[str, Any] = json.loads(received)
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _obituary(process: subprocess.Popen[bytes], log_file: Path, log_begin: int) -> str:
    status = process.wait()
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    with log_file.open("rb") as log:
        log.seek(log_begin)
        lines = log.read().decode(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    text = f"the daemon ended while it started ({how})"
    return "\n    ".join([f"{text}; the last lines of {log_file}:", *lines]) if lines else f"{text}, without a word"
