"""Network namespaces by path: what identifies one, and how a bare one is called in an attachment."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from weave_net.errors import AttachmentError

NAMED_NAMESPACES = Path("/run/netns")
"""Where `ip netns` keeps its namespaces."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def namespace_identity(path: str) -> str | None:
    """A text that no other network namespace has, as long as this one lives; None if there is none at the path.

    Made of the boot and the inode: a path may come to name another namespace (/proc/PID/ns/net is given to a new
    process, a name is used again), and inode numbers begin anew with every boot.
    """
    try:
        status = Path(path).stat()
        boot = boot_id()
    except OSError:
        return None
    # A name under /run/netns whose namespace was taken away is an ordinary file of that directory's file system.
    if status.st_dev != Path("/proc/self/ns/net").stat().st_dev or not stat.S_ISREG(status.st_mode):
        return None
    return f"{boot}/{status.st_ino}"


def boot_id() -> str:
    """Identifies this start of the host's kernel."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def absolute_namespace_path(text: str) -> str:
    """The path for the daemon, which runs in another directory; a bare name may be one of `ip netns`.

    Raises `AttachmentError` for a path that means another namespace to the daemon than to the caller.
    """
    if "/" not in text and not Path(text).exists() and (NAMED_NAMESPACES / text).exists():
        return str(NAMED_NAMESPACES / text)
    path = os.path.abspath(text)  # noqa: PTH100 - resolve() would follow /proc/PID/ns/net to nowhere
    if path.startswith(("/proc/self/", "/proc/thread-self/")):
        raise AttachmentError(
            f"{path} names the namespace of whoever opens it; give /proc/PID/ns/net with the container's process id"
        )
    return path


def default_attachment_id(path: str) -> str:
    """The id of a namespace that belongs to no container: its name under /run/netns, else `netns-<inode>`.

    Raises `AttachmentError` if there is nothing at the path.
    """
    for directory in (NAMED_NAMESPACES, Path("/var/run/netns")):
        if Path(path).parent == directory:
            return Path(path).name
    try:
        return f"netns-{Path(path).stat().st_ino}"
    except OSError as error:
        raise AttachmentError(f"the network namespace {path} cannot be opened: {error.strerror}") from error
