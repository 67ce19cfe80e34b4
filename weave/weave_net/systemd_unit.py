"""The unit file for systemd: its text, and writing it without treading on an administrator's toes.

The first line of what we write tells the digest of the rest, so that a file which somebody has changed is known for it.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import subprocess
import sysconfig
import tempfile
from contextlib import suppress
from pathlib import Path

from weave_net.errors import SettingsError, WeaveError

UNIT = "weave.service"
DEFAULT_DIRECTORY = Path("/etc/systemd/system")
SYSTEMCTL_LIMIT_S = 30.0

_MARK = "# Written by 'weave setup-systemd'; change it with 'systemctl edit weave'. sha256 of what follows: "


class UnitChanged(WeaveError):  # noqa: N818 - a state, not a fault
    """There is a unit file that is not as we wrote it."""


def executable() -> Path:
    """The command `weave` that belongs to this interpreter. Raises `WeaveError` if there is none."""
    path = Path(sysconfig.get_path("scripts"), "weave")
    if not path.is_file():
        raise WeaveError(f"{path} is missing; install weave-net with pip, in the Python that is to run it")
    return path


def unit_text(weave: Path) -> str:
    """The whole file, for this executable (absolute)."""
    template = importlib.resources.files("weave_net").joinpath("systemd", UNIT).read_text(encoding="utf-8")
    body = template.replace("@WEAVE@", _quoted(str(weave)))
    return f"{_MARK}{_digest(body)}\n{body}"


def write_unit(directory: Path, text: str, *, force: bool) -> bool:
    """Write the unit file; False if it is there already. Raises `UnitChanged` unless `force`, and `WeaveError`."""
    path = directory / UNIT
    try:
        # A link masks the unit, or something else manages it.
        found = None if path.is_symlink() else path.read_text(encoding="utf-8", errors="replace")
        if found == text:
            return False
        if not force and (found is None or not _is_ours(found)):
            raise UnitChanged(
                f"{path} was not written by this command, or has been changed since; changes are best made with "
                "'systemctl edit weave', which keeps them apart. To replace the file: 'weave setup-systemd --force'"
            )
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise WeaveError(f"{path} cannot be read: {error.strerror}") from error
    try:
        _replace(path, text)
    except OSError as error:
        raise WeaveError(
            f"{path} cannot be written: {error.strerror}; try it as root, or name another place in WEAVE_SYSTEMD_DIR"
        ) from error
    return True


def enable_unit() -> None:
    """Have systemd read the file and start the service at each boot. Raises `WeaveError`."""
    for command in (("systemctl", "daemon-reload"), ("systemctl", "enable", UNIT)):
        text = " ".join(command)
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=SYSTEMCTL_LIMIT_S,
            )
        except FileNotFoundError as error:
            raise WeaveError("the program systemctl is missing: this host is not run by systemd") from error
        except subprocess.TimeoutExpired as error:
            raise WeaveError(f"'{text}' did not finish within {SYSTEMCTL_LIMIT_S:g} s") from error
        if done.returncode != 0:
            raise WeaveError(f"'{text}' failed: {done.stderr.strip() or f'exit status {done.returncode}'}")


def _is_ours(text: str) -> bool:
    first, _, body = text.partition("\n")
    return first == f"{_MARK}{_digest(body)}"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _quoted(path: str) -> str:
    """A path as the first word of ExecStart (systemd.service(5), "Command lines"). Raises `SettingsError`."""
    if not path.isprintable():
        raise SettingsError(f"{path!r} cannot stand in a unit file: it has control characters")
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return escaped if escaped == path and not set(path) & set(" '") else f'"{escaped}"'


def _replace(path: Path, text: str) -> None:
    """Write beside it and rename, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor has no path
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
