"""Looks at the daemon's directories and at the files of container engines."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weave_cni.install import DEFAULT_CONFIG_DIRECTORY, DEFAULT_PLUGIN_DIRECTORY, PLUGINS
from weave_net.devices import KEY as DEVICES_KEY
from weave_net.devices import DeviceNames
from weave_net.doctor.facts import CniFacts, DirectoryFacts, DockerFacts, FileFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_net.directories import Directories

DOCKER_SOCKETS = ("weave.sock", "weavemesh.sock")
DEFAULT_DOCKER_DIR = Path("/run/docker/plugins")
PLUGIN_LIMIT_S = 4.0
ANSWER_LIMIT_S = 1.0
MAX_CONFIGURATION_BYTES = 1 << 20
_SUFFIXES = (".conf", ".conflist", ".json")


def probe_files(directories: Directories, *, daemon_runs: bool) -> FileFacts:
    """Directories, socket, and the state file while nobody has it open."""
    return FileFacts(
        state=_directory(directories.state),
        run=_directory(directories.run),
        database_trouble="" if daemon_runs else _database_trouble(directories.database),
        socket_open_to_others=bool(_mode(directories.socket) & 0o022),
    )


def _directory(path: Path) -> DirectoryFacts:
    try:
        status = path.stat()
    except NotADirectoryError:
        return DirectoryFacts(path=path, kind_ok=False)
    except OSError:
        return DirectoryFacts(path=path, exists=False)
    usage = os.statvfs(path)
    return DirectoryFacts(
        path=path,
        kind_ok=stat.S_ISDIR(status.st_mode),
        writable=os.access(path, os.R_OK | os.W_OK | os.X_OK),
        others_write=bool(status.st_mode & 0o022) and not status.st_mode & stat.S_ISVTX,
        others_read=bool(status.st_mode & 0o055),
        free_bytes=usage.f_bavail * usage.f_frsize,
    )


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _database_trouble(path: Path) -> str:
    if not path.exists():
        return ""
    try:
        with closing(_open_to_read(path)) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            connection.execute("SELECT count(*) FROM entries").fetchone()
    except sqlite3.Error as error:
        return f"the state file {path} cannot be read: {error}"
    return "" if verdict == "ok" else f"the state file {path} is damaged: {verdict}"


def stored_bridge(database: Path) -> str:
    """The name of the bridge that the last daemon had, else the usual one."""
    if database.exists():
        try:
            with closing(_open_to_read(database)) as connection:
                row = connection.execute("SELECT value FROM entries WHERE key = ?", (DEVICES_KEY,)).fetchone()
            if row is not None:
                return DeviceNames(**json.loads(row[0])).bridge
        except (sqlite3.Error, ValueError, TypeError):
            pass  # told by `probe_files`, unless a daemon has it open
    return DeviceNames().bridge


def _open_to_read(database: Path) -> sqlite3.Connection:
    """Read-only, and never made: a look must not begin a state file."""
    return sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=0.3)


def probe_cni(environment: Mapping[str, str]) -> CniFacts:
    """Plugins, which are run once, and configurations."""
    plugin_dir = Path(environment.get("WEAVE_CNI_PLUGIN_DIR") or DEFAULT_PLUGIN_DIRECTORY)
    configuration_dir = Path(environment.get("WEAVE_CNI_CONF_DIR") or DEFAULT_CONFIG_DIRECTORY)
    try:
        names = sorted(path.name for path in configuration_dir.iterdir() if path.suffix in _SUFFIXES)
    except OSError:
        names = []
    return CniFacts(
        plugin_dir=plugin_dir,
        configuration_dir=configuration_dir,
        plugins={name: _plugin_trouble(plugin_dir / name) for name in PLUGINS},
        configurations=tuple(names),
        ours=tuple(name for name in names if _is_ours(configuration_dir / name)),
    )


def _plugin_trouble(path: Path) -> str | None:
    if not os.path.lexists(path):
        return None
    try:
        done = subprocess.run(
            [path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=PLUGIN_LIMIT_S,
            env={"CNI_COMMAND": "VERSION", "PATH": os.environ.get("PATH", os.defpath)},
        )
    except subprocess.TimeoutExpired:
        return f"no answer to VERSION within {PLUGIN_LIMIT_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    try:
        versions = json.loads(done.stdout)["supportedVersions"]
    except (ValueError, KeyError, TypeError):
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        return f"it answers VERSION with {said[-1][:200]!r}" if said else "it does not answer VERSION"
    return "" if versions else "it supports no version of CNI"


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            document: Any = json.loads(file.read(MAX_CONFIGURATION_BYTES))
    except (OSError, ValueError):
        return False
    if not isinstance(document, dict):
        return False
    plugins = document.get("plugins")
    entries = [entry for entry in plugins if isinstance(entry, dict)] if isinstance(plugins, list) else [document]
    types = {entry.get("type") for entry in entries}
    types |= {entry["ipam"].get("type") for entry in entries if isinstance(entry.get("ipam"), dict)}
    return not types.isdisjoint(PLUGINS)


def probe_docker(directory: Path = DEFAULT_DOCKER_DIR) -> DockerFacts:
    """Plugin sockets of ours, and whether somebody listens."""
    return DockerFacts(
        sockets={str(path): _answers(path) for name in DOCKER_SOCKETS if (path := directory / name).exists()}
    )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(ANSWER_LIMIT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # somebody is there, but busy, or we may not ask
    return True
