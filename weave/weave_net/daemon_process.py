"""The daemon's process, `python -m weave_net.daemon_process`: from settings on standard input to an exit status.

The parent writes one JSON document to our standard input: the settings, and the number of a pipe on which it wants to
hear how the start went (`{"ready": true}` or `{"error": text}`), null for a daemon in the foreground. So neither the
argument list nor the environment holds a secret.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import sys
import threading
from typing import TYPE_CHECKING, Any

from weave_net.errors import WeaveError, leaves
from weave_net.instance_lock import InstanceLock
from weave_net.logging_setup import set_up_logging
from weave_net.service_notify import notify_service_manager
from weave_net.settings import DaemonSettings
from weave_router.errors import RouterError

if TYPE_CHECKING:
    from weave_net.wiring import Wiring

STOP_LIMIT_S = 5.0
"""An orderly stop that takes longer is broken off: the state file and the host bear it as they bear a crash."""

_log = logging.getLogger("weave_net.daemon_process")  # not __name__, which is __main__ here


def main(wiring: Wiring | None = None) -> int:
    """Run the daemon as its settings on standard input say; the exit status. `wiring` is for tests."""
    settings, parent = _read_settings()
    os.chdir("/")  # keeps no file system busy
    set_up_logging(settings.log_level)
    # A busy host has 200 connections, hundreds of outside names being asked for, and clients of its own.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    started = threading.Event()
    try:
        with InstanceLock(settings.directories.pid_file):
            _run(settings, parent, started, wiring)
    except KeyboardInterrupt:  # before trio listens to signals
        return 1
    except (Exception, BaseExceptionGroup) as error:
        return _failed(error, parent, started=started.is_set())
    return 0


class _Parent:
    """Who started us and waits; tells it how the start went, once."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def tell(self, message: dict[str, Any]) -> None:
        """Send the message, if somebody waits and has not heard anything yet."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        # A parent that was interrupted reads no more; the daemon is none the worse for it.
        with contextlib.suppress(BrokenPipeError):
            os.write(descriptor, json.dumps(message).encode() + b"\n")
        os.close(descriptor)


def _read_settings() -> tuple[DaemonSettings, _Parent]:
    document = json.loads(sys.stdin.read())
    with open(os.devnull) as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)  # the settings, and the password in them, cannot be read again at /proc/PID/fd/0
    return DaemonSettings.from_json(json.dumps(document["settings"])), _Parent(document["ready_fd"])


def _run(settings: DaemonSettings, parent: _Parent, started: threading.Event, wiring: Wiring | None) -> None:
    # These take long to import, and a second daemon is to hear at once that it is one: hence after the lock.
    import trio

    from weave_net.daemon import run_daemon

    def ready() -> None:
        started.set()
        _log.info("ready")
        parent.tell({"ready": True})
        notify_service_manager("READY=1")

    def stopping() -> None:
        notify_service_manager("STOPPING=1")
        limit = threading.Timer(STOP_LIMIT_S, _break_off)
        limit.daemon = True
        limit.start()

    async def run() -> None:
        await run_daemon(settings, ready=ready, stopping=stopping, wiring=wiring)

    trio.run(run)


def _break_off() -> None:
    _log.error("the orderly stop took longer than %.0f s and is broken off", STOP_LIMIT_S)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(1)


def _failed(error: BaseException, parent: _Parent, *, started: bool) -> int:
    causes = list(leaves(error))
    explained = all(isinstance(cause, (WeaveError, RouterError)) for cause in causes)
    text = "; ".join(str(cause) or repr(cause) for cause in causes)
    if explained:  # something that the operator can repair: where in the program it was met says nothing
        _log.error("%s", f"the daemon ends: {text}" if started else text)
        parent.tell({"error": text})  # somebody may still wait
        return 1
    _log.critical("the daemon failed: %s", text, exc_info=error)
    parent.tell({"error": f"the daemon failed: {text}; its log holds the details"})
    return 1


if __name__ == "__main__":
    sys.exit(main())
