"""The plugin's errors; the text of each is a sentence for the operator.

PluginError
 ├── BadRequest    a request that cannot be read: it is answered with 400
 ├── Refused       a request that cannot be fulfilled: the engine shows the text to its user
 │    └── DaemonRefused  because the daemon says so, or does not answer
 ├── StateError    the state file cannot be read or written
 └── SocketError   the plugin's socket cannot be made
"""

from __future__ import annotations


class PluginError(Exception):
    """Whatever the plugin raises on purpose."""


class BadRequest(PluginError):  # noqa: N818 - named after what is the case
    """The request cannot be read."""


class Refused(PluginError):  # noqa: N818
    """The request was understood and cannot be fulfilled."""


class DaemonRefused(Refused):
    """The daemon answered with an error; `status` is the HTTP status code, None where no answer came."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class StateError(PluginError):
    """The state file is damaged, or cannot be read or written."""


class SocketError(PluginError):
    """The socket cannot be made where the engine looks for it."""
