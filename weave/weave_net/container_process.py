"""A container's first process, held in such a way that a later process of the same number is not taken for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from weave_net.errors import AttachmentError

if TYPE_CHECKING:
    from types import TracebackType

_FIRST_PROCESS = Path("/proc/1/ns/net")
"""Whoever has this network namespace uses the host's network."""
_OWN = Path("/proc/self/ns/net")
"""The same thing as a rule, for whoever may not look into process 1."""


class ContainerProcess:
    """A process by its number in the host's process namespace; a context manager.

    Raises `AttachmentError` if there is none, and where this user may not look into it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise AttachmentError(f"there is no process {pid} on this host") from error
        try:
            self._namespace = self._read_namespace()
        except PermissionError as error:
            os.close(self._directory)
            raise AttachmentError(f"permission denied on the namespaces of process {pid}; try it as root") from error
        except OSError as error:
            os.close(self._directory)
            raise AttachmentError(f"process {pid} has ended") from error

    def __enter__(self) -> ContainerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._directory)

    @property
    def network_namespace(self) -> str:
        """The path of its network namespace, as long as it lives."""
        return f"/proc/{self.pid}/ns/net"

    def lives(self) -> bool:
        """Whether it is there, in the network namespace in which it was at first."""
        try:
            return self._read_namespace() == self._namespace
        except OSError:
            return False

    def uses_host_network(self) -> bool:
        """Whether it has no network namespace of its own."""
        try:
            status = _FIRST_PROCESS.stat()
        except OSError:
            status = _OWN.stat()
        return (status.st_dev, status.st_ino) == self._namespace

    def open_root(self) -> int:
        """A descriptor of its root directory, to start paths from; the caller closes it. Raises `OSError`."""
        return os.open("root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)

    def _read_namespace(self) -> tuple[int, int]:
        status = os.stat("ns/net", dir_fd=self._directory)
        return status.st_dev, status.st_ino
