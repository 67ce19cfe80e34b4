"""Ending a daemon from outside: by a request over its socket, else by a signal."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from weave_net.client import QUICK_LIMIT_S, DaemonClient
from weave_net.errors import ApiError, ClientError, DaemonUnavailable
from weave_net.instance_lock import running_pid, wait_until_free

if TYPE_CHECKING:
    from weave_net.directories import Directories

STOP_LIMIT_S = 8.0
"""The daemon gives up an orderly stop after 5 s; then it takes a moment until the kernel has cleared up."""


def stop_daemon(directories: Directories) -> None:
    """End the daemon of this run directory and wait until it is gone.

    Raises `DaemonUnavailable` if there is none, and `ClientError` if it does not end.
    """
    pid = running_pid(directories.pid_file)
    if pid is None:
        raise DaemonUnavailable(f"weave is not running (no daemon holds {directories.pid_file})")
    try:
        with DaemonClient(directories, answer_limit_s=QUICK_LIMIT_S) as client:
            client.post("/stop")
    except ApiError:
        raise
    except ClientError as error:
        # It may be starting still, or hang; if it is neither, the wait below ends at once.
        _send(pid, signal.SIGTERM, str(error))
    if not wait_until_free(directories.pid_file, STOP_LIMIT_S):
        raise ClientError(f"weave (pid {pid}) does not stop; end it with 'kill -9 {pid}'")


def kill_daemon(directories: Directories) -> None:
    """End a daemon that does not answer. Raises `ClientError`."""
    pid = running_pid(directories.pid_file)
    if pid is None:
        return
    _send(pid, signal.SIGKILL, "it does not answer")
    if not wait_until_free(directories.pid_file, STOP_LIMIT_S):
        raise ClientError(f"weave (pid {pid}) cannot be killed")


def _send(pid: int, number: signal.Signals, reason: str) -> None:
    if not _is_daemon(pid):
        # The file holds the daemon's own idea of its pid: in a container, that is another process outside.
        raise ClientError(f"weave runs, but not as process {pid} here ({reason}); stop it where it was started")
    try:
        os.kill(pid, number)
    except PermissionError as error:
        raise ClientError(f"weave (pid {pid}) may not be stopped by this user; try it as root") from error
    except ProcessLookupError:
        pass  # it has just ended


def _is_daemon(pid: int) -> bool:
    try:
        return b"weave" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
