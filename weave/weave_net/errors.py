"""The program's errors; the text of each is a sentence for the operator that says what to do.

WeaveError
 ├── SettingsError           a flag, an environment variable or a file of settings makes no sense
 ├── LaunchError             the daemon cannot start here
 │    └── AlreadyRunning     one daemon per run directory, and there is one
 ├── DaemonError             the daemon started and cannot go on
 ├── StoreError              the state file cannot be read or written
 ├── ListenError             an address of the HTTP API cannot be used
 ├── AttachmentError         a request about an attachment that makes no sense
 │    └── AttachmentConflict it contradicts an attachment that exists
 ├── JsonPathError           a path into the report that does not exist or cannot be read
 └── ClientError             the command line could not get an answer (client)
      ├── DaemonUnavailable  nobody listens on the socket, or it may not be opened
      └── ApiError           the daemon answered with an error
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class WeaveError(Exception):
    """Whatever this program raises on purpose."""


class SettingsError(WeaveError):
    """A setting makes no sense; the text names the flag or the variable."""


class LaunchError(WeaveError):
    """The daemon cannot be started here and now."""


class AlreadyRunning(LaunchError):  # noqa: N818 - reads as what it is at the place where it is raised
    """Another daemon holds the lock of the run directory; `pid` is 0 where its file does not tell."""

    def __init__(self, pid: int, run_dir: Path) -> None:
        super().__init__(pid, run_dir)
        self.pid = pid
        self.run_dir = run_dir

    def __str__(self) -> str:
        who = f"pid {self.pid}, " if self.pid else ""
        return f"weave is already running ({who}run directory {self.run_dir}); stop it with 'weave stop'"


class DaemonError(WeaveError):
    """The daemon was running and cannot go on."""


class StoreError(WeaveError):
    """The state file cannot be opened, read or written."""


class ListenError(WeaveError):
    """An address or a socket file of the HTTP API cannot be used."""


class AttachmentError(WeaveError):
    """A request about an attachment that makes no sense."""


class AttachmentConflict(AttachmentError):  # noqa: N818 - a conflict, not a fault of anybody
    """A request that contradicts an attachment that exists."""


class JsonPathError(WeaveError):
    """A path into a JSON document that cannot be read or leads nowhere."""


class ClientError(WeaveError):
    """The command line got no useful answer from the daemon."""


class DaemonUnavailable(ClientError):  # noqa: N818 - a state, which the commands test for
    """No daemon answers on the socket, or this user may not open it."""


class ApiError(ClientError):
    """The daemon answered with an error; `status` is the HTTP status code."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions inside nested exception groups, or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
