"""The image of the containers that engines run: busybox and getent, made by hand, so that no registry is asked.

    archive = make_image(directory / "image.tar")

The archive has the form of `docker save`; containerd, Podman and Docker load it. Its programs: busybox with all its
applets in /bin, glibc's getent (busybox cannot resolve as programs with glibc do), and `/bin/serve [TEXT]`, the
default command: a web server on port 80 that answers with the text or the host name, and ends at once on SIGTERM
although it is process 1.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import shutil
import tarfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lab.shell import LabError, run

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "docker.io/library/weave-lab:1"
SERVE = """#!/bin/sh
trap 'exit 0' TERM INT
mkdir -p /www
echo "${1:-$(hostname)}" > /www/index.html
httpd -p 80 -h /www
while :; do sleep 1000000 & wait $!; done
"""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def make_image(archive: Path) -> Path:
    """Write the archive; returns its path. LabError where busybox or getent is missing."""
    layer = _layer()
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["/bin/serve"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    config_text = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(config_text).hexdigest()}.json"
    layer_name = f"{digest}/layer.tar"
    manifest = [{"Config": config_name, "RepoTags": [IMAGE], "Layers": [layer_name]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, config_name, config_text)
        _add(tar, layer_name, layer)
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return archive


@cache
def _layer() -> bytes:
    """The root file system as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        busybox = _program("busybox")
        _add(tar, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in run(str(busybox), "--list").split():
            if applet not in ("busybox", "getent"):
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        _add(tar, "bin/serve", SERVE.encode(), 0o755)
        getent = _program("getent")
        _add(tar, "usr/bin/getent", getent.read_bytes(), 0o755)
        for library in _libraries(getent):
            _add(tar, str(library).lstrip("/"), library.read_bytes(), 0o755)
        _add(tar, "etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(tar, "etc/group", b"root:x:0:\n")
    return buffer.getvalue()


def _libraries(program: Path) -> Iterator[Path]:
    """The shared libraries that a program loads, the loader among them, by the paths that it asks for."""
    for path in re.findall(r"(/\S+) \(0x", run("ldd", str(program))):
        yield Path(path)


def _program(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise LabError(f"the lab of container engines needs {name} (install it with `.ci/packages lab`)")
    return Path(found)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
