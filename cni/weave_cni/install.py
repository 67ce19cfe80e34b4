"""Putting the CNI executables and the network's configuration where container runtimes look for them."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

PLUGINS = ("weave-net", "weave-ipam")
OFFLINE = "weave-cni-offline.py"
CONFLIST = "10-weave.conflist"
OLD_CONFIG = "10-weave.conf"
"""Of old releases of Weave Net; its place is taken by the list."""

DEFAULT_PLUGIN_DIRECTORY = Path("/opt/cni/bin")
DEFAULT_CONFIG_DIRECTORY = Path("/etc/cni/net.d")

MARKER = "weaveSetup"
"""A key of our list, with a number for its contents: a list without it, or a changed one, is the administrator's."""

_MAX_SHEBANG = 255
_HERE = Path(__file__).parent


class InstallError(Exception):
    """A file cannot be put in its place."""


def conflist(run_directory: Path, *, hairpin: bool = True) -> dict[str, Any]:
    """The network's configuration.

    Old libraries take `cniVersion`, newer ones the best of `cniVersions`; 1.1.0 alone would be refused by the old ones.
    """
    return {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "weave",
        "plugins": [
            {
                "type": "weave-net",
                "hairpinMode": hairpin,
                "weaveRunDir": str(run_directory),
                "capabilities": {"aliases": True, "dns": True, "ips": True, "mac": True},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def install_plugins(directory: Path) -> list[Path]:
    """Write the executables, each in one step, in place of what is there; what was written. Raises `InstallError`."""
    interpreter = os.path.realpath(sys.executable)
    shebang = f"#!{interpreter} -IS\n"
    if len(shebang) > _MAX_SHEBANG or " " in interpreter:
        raise InstallError(f"the kernel cannot start a program with this interpreter: {interpreter}")
    source = (_HERE / "executable.py").read_text(encoding="utf-8")
    _make(directory)
    written = [_replace(directory / OFFLINE, (_HERE / "offline.py").read_text(encoding="utf-8"), 0o644)]
    written += [_replace(directory / name, shebang + source, 0o755) for name in PLUGINS]
    return written


def install_conflist(directory: Path, run_directory: Path, *, hairpin: bool = True) -> Path | None:
    """Write the list unless the administrator has one of his own; None if so. Raises `InstallError`."""
    path = directory / CONFLIST
    wanted = conflist(run_directory, hairpin=hairpin)
    wanted[MARKER] = _fingerprint(wanted)
    _make(directory)
    try:
        present = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        present = None
    except (OSError, ValueError):
        return None
    if present is not None and not _is_ours(present):
        return None
    _replace(path, json.dumps(wanted, indent=2) + "\n", 0o644)
    (directory / OLD_CONFIG).unlink(missing_ok=True)
    return path


def remove_installed(plugin_directory: Path, config_directory: Path) -> list[Path]:
    """Remove what was installed, an administrator's own list aside; what was removed."""
    removed = []
    for path in [plugin_directory / name for name in (*PLUGINS, OFFLINE)]:
        if path.exists() or path.is_symlink():
            path.unlink()
            removed.append(path)
    path = config_directory / CONFLIST
    try:
        ours = _is_ours(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        ours = False
    if ours:
        path.unlink()
        removed.append(path)
    return removed


def _is_ours(present: Any) -> bool:
    """Whether a list is as an earlier release of ours wrote it."""
    if not isinstance(present, dict) or MARKER not in present:
        return False
    content = {name: value for name, value in present.items() if name != MARKER}
    return bool(present[MARKER] == _fingerprint(content))


def _fingerprint(content: dict[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InstallError(f"the directory {directory} cannot be made: {error.strerror}") from error


def _replace(path: Path, text: str, mode: int) -> Path:
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(descriptor, mode)
        Path(name).replace(path)
    except OSError as error:
        raise InstallError(f"{path} cannot be written: {error.strerror}") from error
    return path
