"""Where a daemon keeps its files: the state directory survives a reboot, the run directory does not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from weave_cni.pending import PENDING
from weave_net.errors import LaunchError

DEFAULT_STATE_DIR = Path("/var/lib/weave")
DEFAULT_RUN_DIR = Path("/run/weave")

MAX_SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket, `sun_path` of sockaddr_un without its final zero."""


@dataclass(frozen=True, slots=True)
class Directories:
    """The two directories of one daemon, both absolute, and the files in them."""

    state: Path = DEFAULT_STATE_DIR
    run: Path = DEFAULT_RUN_DIR

    @property
    def database(self) -> Path:
        """The state file (SQLite)."""
        return self.state / "weave.db"

    @property
    def log(self) -> Path:
        """The log of a daemon in the background, unless `--log-file` says otherwise."""
        return self.state / "weave.log"

    @property
    def docker_state(self) -> Path:
        """What the network driver for Docker remembers."""
        return self.state / "docker.json"

    @property
    def socket(self) -> Path:
        """The Unix socket of the HTTP API."""
        return self.run / "weave.sock"

    @property
    def cni_socket(self) -> Path:
        """The Unix socket of CNI calls."""
        return self.run / "cni.sock"

    @property
    def cni_pending(self) -> Path:
        """Where CNI plugins leave what they cannot ask while no daemon runs (see `weave_cni.server`)."""
        return self.run / PENDING

    @property
    def pid_file(self) -> Path:
        """Holds the daemon's process id; the lock on it says whether the daemon lives."""
        return self.run / "weave.pid"

    def prepare(self) -> None:
        """Create both directories. Raises `LaunchError` where one cannot be made or written."""
        # The state may hold keys of the network one day; nobody but root has business in there.
        _prepare("state", self.state, "--state-dir or WEAVE_STATE_DIR", 0o700)
        _prepare("run", self.run, "--run-dir or WEAVE_RUN_DIR", 0o755)
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH_BYTES:
            raise LaunchError(
                f"the path {self.socket} is too long for a Unix socket ({MAX_SOCKET_PATH_BYTES} bytes at most); "
                "choose a shorter run directory with --run-dir or WEAVE_RUN_DIR"
            )


def _prepare(kind: str, path: Path, override: str, mode: int) -> None:
    advice = f"choose another one with {override}"
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(f"{kind} directory {path} cannot be made: {error.strerror}; {advice}") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        # access(2) does not say why: for root it is nearly always a file system mounted read-only.
        reason = "read-only file system" if _read_only(path) else "permission denied"
        raise LaunchError(f"{kind} directory {path} is not writable: {reason}; {advice}")


def _read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
