"""`/etc/hosts` of a container, written by `weave attach --rewrite-hosts`.

The file is replaced, not changed: engines mount one of theirs there, which must stay as it is. A rename over a mount
point of another mount namespace takes the mount away there (Linux 3.18 and later).

Everything in the container's file system may have been put there to lead us astray: no symbolic link is followed, and
nothing is read.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING

from weave_net.errors import AttachmentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_net.container_process import ContainerProcess

_LOCAL = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
fe00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_MODE = 0o644


def parse_extra_host(text: str) -> tuple[str, str]:
    """Read `NAME:ADDRESS` of `--add-host`. Raises `AttachmentError`."""
    name, _, address = text.partition(":")
    check_host_name(name)
    try:
        return name, str(ip_address(address.removeprefix("[").removesuffix("]")))
    except ValueError as error:
        raise AttachmentError(f"--add-host {text}: {address!r} is no IP address; it is written NAME:ADDRESS") from error


def check_host_name(name: str) -> str:
    """A name that may stand in the file. Raises `AttachmentError`."""
    if not _HOST_NAME.fullmatch(name):
        raise AttachmentError(f"{name!r} is no host name")
    return name


def hosts_file(addresses: Iterable[str], names: Iterable[str], extra: Iterable[tuple[str, str]]) -> str:
    """The text: usual local names, the container's own, and others (name, address)."""
    own = " ".join(dict.fromkeys(names))
    lines = [f"{ip_interface(address).ip} {own}\n" for address in addresses] if own else []
    others = [f"{address} {name}\n" for name, address in extra]
    return "".join(["# written by 'weave attach --rewrite-hosts'\n", _LOCAL, *lines, *others])


def write_hosts_file(process: ContainerProcess, text: str) -> None:
    """Put the text in the place of the container's file. Raises `AttachmentError`, then nothing was changed."""
    try:
        root = process.open_root()
    except OSError as error:
        raise AttachmentError(f"the file system of process {process.pid} is out of reach: {error.strerror}") from error
    try:
        if _is_same(os.fstat(root), Path("/")):
            raise AttachmentError(f"process {process.pid} has the host's file system, whose /etc/hosts stays as it is")
        etc = os.open("etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        try:
            if _is_same(os.fstat(etc), Path("/etc")):
                raise AttachmentError(f"process {process.pid} has the host's /etc, whose hosts file stays as it is")
            _replace(etc, text)
        finally:
            os.close(etc)
    except OSError as error:
        raise AttachmentError(f"/etc/hosts of the container cannot be written: {error.strerror}") from error
    finally:
        os.close(root)


def _replace(directory: int, text: str) -> None:
    name = f".hosts-{os.urandom(6).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, _MODE, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), _MODE)
            file.write(text)
        os.rename(name, "hosts", src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        os.unlink(name, dir_fd=directory)
        raise


def _is_same(status: os.stat_result, path: Path) -> bool:
    own = path.stat()
    return (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino)
