"""The daemon's log: one line per record on standard error, which is the log file of a daemon in the background.

    2026-01-31T12:00:00.123Z INFO    weave_router.shell.router: connected to 02:42:ac:11:00:05(h2)

Peers choose nicknames and error texts that end up in records, so control characters are written as escapes: nobody can
forge a line. Only a traceback takes more lines, and these are indented.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import TYPE_CHECKING

from weave_net.errors import LaunchError

if TYPE_CHECKING:
    from pathlib import Path

    from weave_net.settings import LogLevel

LOG_FILE_MODE = 0o640

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {
    0x0A: "\\n",
    0x0D: "\\r",
    0x09: "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


PACKAGES = ("weave_net", "weave_cni", "weave_docker", "weave_ipam", "weave_dns", "weave_router")
"""Ours, which log from another level on than libraries."""


class LineFormatter(logging.Formatter):
    """Time in UTC with milliseconds, level, logger, message; see the top of this module."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without traceback, control characters escaped."""
        return super().formatMessage(record).translate(_ESCAPES)

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        """The traceback, indented so that a line at the left margin is always a record."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(f"    {line}" for line in text.splitlines())


def set_up_logging(level: LogLevel) -> None:
    """Log to standard error from `level` on; libraries only from WARNING on, Python's warnings included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, _number(level)))
    for ours in PACKAGES:
        logging.getLogger(ours).setLevel(_number(level))
    logging.captureWarnings(True)


def open_log_file(path: Path) -> int:
    """A descriptor that appends to the log file. Raises `LaunchError`."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, LOG_FILE_MODE)
    except OSError as error:
        raise LaunchError(
            f"the log file {path} cannot be written: {error.strerror}; choose another one with --log-file"
        ) from error


def redirect_output(descriptor: int) -> None:
    """Let standard output and error be the log file, which then stays open in their place; closes `descriptor`."""
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if descriptor > 2:
        os.close(descriptor)


def reopen_log_file(path: Path) -> None:
    """Begin the file anew after logrotate has moved it; if that fails, log on into the old one."""
    try:
        redirect_output(open_log_file(path))
    except LaunchError as error:
        logging.getLogger(__name__).warning("%s", error)
    else:
        logging.getLogger(__name__).info("log file opened anew")


def _number(level: LogLevel) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
