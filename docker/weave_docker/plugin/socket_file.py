"""The Unix socket where the engine looks for plugins.

The file exists only while requests are served: an engine that finds a dead socket blocks for 15 seconds and more.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

from weave_docker.plugin.errors import SocketError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKLOG = 128
SOCKET_MODE = 0o600
"""The engine runs as root."""


def remove_stale_socket(path: Path) -> None:
    """Remove what a plugin left that did not end in order. Raises `SocketError` if one answers there."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketError(f"{path} is in the way and is no socket; remove it")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # its queue is full
                probe.connect(str(path))
        raise SocketError(f"another program serves {path}; stop that plugin first, an older Weave Net's for instance")
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SocketError(f"the plugin's socket {path} cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def plugin_socket(path: Path) -> Iterator[socket.socket]:
    """A listening socket whose file goes with it. Raises `SocketError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Linux creates the file with the mode that the unbound socket has, so it is never open to others.
            os.fchmod(sock.fileno(), SOCKET_MODE)
            sock.bind(str(path))
            sock.listen(BACKLOG)
            identity = path.stat().st_ino
        except OSError as error:
            raise SocketError(f"the plugin's socket {path} cannot be made: {error.strerror}") from error
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == identity:  # or else somebody else's by now
                    path.unlink()
