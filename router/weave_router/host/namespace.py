"""Network namespaces: opening them safely and working inside them.

A thread that enters another namespace is never used for anything else: one that came from a pool and could
not find its way back would do the next job in a container. So each visit has a thread of its own, which ends
with it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from weave_router.errors import HostError
from weave_router.host import problems

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_libc = ctypes.CDLL(None, use_errno=True)

P = ParamSpec("P")
R = TypeVar("R")

NamespaceIdentity = tuple[int, int]
"""Device and inode number of a namespace: two paths lead to the same namespace when these are equal."""


def current_namespace() -> NamespaceIdentity:
    """The network namespace of the calling thread."""
    status = os.stat("/proc/thread-self/ns/net")  # noqa: PTH116 - the pathlib form is no clearer
    return status.st_dev, status.st_ino


class NetworkNamespace:
    """An open network namespace, which lives at least as long as this object is open."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = _open(path)
        status = os.fstat(self._fd)
        self.identity: NamespaceIdentity = (status.st_dev, status.st_ino)

    def __enter__(self) -> NetworkNamespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fd(self) -> int:
        """Descriptor for netlink requests that name a namespace; closed with this object."""
        return self._fd

    def close(self) -> None:
        """Let go of the namespace; it ends here if nothing else keeps it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def still_at_path(self) -> bool:
        """Whether the path still leads here: false once the container has ended."""
        try:
            status = Path(self.path).stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in a fresh thread inside the namespace and wait for it."""
        outcome: Future[R] = Future()

        def visit() -> None:
            try:
                if _libc.setns(self._fd, _CLONE_NEWNET) != 0:
                    raise _cannot_enter(self.path, ctypes.get_errno())
                result = function(*args, **kwargs)
            except BaseException as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(result)

        thread = threading.Thread(target=visit, name=f"inside {self.path}", daemon=True)
        thread.start()
        thread.join()
        return outcome.result()


def _open(path: str) -> int:
    try:
        # What is no namespace may be a FIFO, which blocks whoever opens it, or a device that notices.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise problems.not_a_namespace(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError) as error:
        raise problems.no_namespace(path) from error
    except OSError as error:
        raise HostError(f"cannot open the network namespace {path}: {error.strerror}") from error
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0  # a file of an ordinary file system
    if kind != _CLONE_NEWNET:
        os.close(fd)
        raise problems.not_a_namespace(path)
    return fd


def _cannot_enter(path: str, code: int) -> HostError:
    advice = "; run the router as root (CAP_SYS_ADMIN)" if code == errno.EPERM else ""
    return HostError(f"cannot enter the network namespace {path}: {os.strerror(code)}{advice}")
