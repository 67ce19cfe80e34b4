"""One daemon per run directory: an advisory lock (flock) on its pid file, which the kernel drops when the daemon dies.

The file is removed on an orderly stop, while the lock is still held. Whoever opened it a moment earlier may then get
the lock of a file that has no name any more, and begins again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

from weave_net.errors import AlreadyRunning, LaunchError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

TOLERANCE_S = 1.0
"""Whoever wants the lock tries for this long before they believe in another daemon: `running_pid` holds it for an
instant, and a killed daemon until the kernel has closed all that it had.
"""

_RETRY_S = 0.02


class InstanceLock:
    """The lock of a run directory; a context manager that takes it, writes our pid and cleans up.

    `__enter__` raises `AlreadyRunning`, or `LaunchError` where the file cannot be written.
    """

    def __init__(self, pid_file: Path) -> None:
        self._path = pid_file
        self._descriptor = -1

    def __enter__(self) -> InstanceLock:
        deadline = time.monotonic() + TOLERANCE_S
        while not self._try():
            if time.monotonic() > deadline:
                raise AlreadyRunning(_read_pid(self._path), self._path.parent)
            time.sleep(_RETRY_S)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1

    def _try(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise LaunchError(
                f"the run directory {self._path.parent} is not writable: {self._path.name}: {error.strerror}; "
                "choose another one with --run-dir or WEAVE_RUN_DIR"
            ) from error
        if not _lock(descriptor, fcntl.LOCK_EX) or not _is_file_at(descriptor, self._path):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True


def running_pid(pid_file: Path) -> int | None:
    """The process id of the daemon that holds the lock; None when there is none, 0 when its file does not tell.

    The number is the daemon's own, from its process namespace. Raises `LaunchError` where the file may not be read.
    """
    try:
        descriptor = os.open(pid_file, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise LaunchError(f"{pid_file} cannot be read: {error.strerror}; try it as root") from error
    try:
        # A shared lock, so that two commands that look at the same time do not take each other for a daemon.
        return None if _lock(descriptor, fcntl.LOCK_SH) else _read_pid(pid_file)
    finally:
        os.close(descriptor)


def wait_until_free(pid_file: Path, timeout_s: float, *, sleep: Callable[[float], object] = time.sleep) -> bool:
    """Wait until no daemon holds the lock; False if one still does after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while running_pid(pid_file) is not None:
        if time.monotonic() > deadline:
            return False
        sleep(_RETRY_S)
    return True


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
            return False
        raise
    return True


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read_pid(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
