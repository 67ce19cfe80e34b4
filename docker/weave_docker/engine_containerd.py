"""containerd without Docker, as under Kubernetes: its program `ctr` is asked."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weave_docker.engine_documents import Container, read_json
from weave_docker.engine_errors import EngineUnavailable
from weave_docker.engine_program import run_program

NAME = "containerd (by 'ctr')"

NAMESPACES = ("default", "k8s.io")
"""Of containerd. Docker's own containers are in `moby`, and Docker knows them better."""
SHORTEST_BEGINNING = 6
"""Characters by which an id may be named; ids of containerd may be any text."""

_SOCKET = "/run/containerd/containerd.sock"


def is_here() -> bool:
    """Whether containerd's socket is there, and its program."""
    return Path(os.environ.get("CONTAINERD_ADDRESS", _SOCKET)).exists() and shutil.which("ctr") is not None


def find(text: str) -> Container | None:
    """The container of this id, or of the only one that begins so; None if there is none.

    Raises `EngineUnavailable`.
    """
    found = [(namespace, name) for namespace in NAMESPACES for name in _matching(namespace, text)]
    if len(found) > 1:
        names = ", ".join(f"{name} in {namespace}" for namespace, name in found)
        raise EngineUnavailable(f"containerd knows several containers {text}: {names}")
    if not found:
        return None
    namespace, name = found[0]
    pid, specification = _pid(namespace, name), _specification(namespace, name)
    return Container(
        id=name,
        name=name,
        engine="containerd",
        running=pid > 0,
        pid=pid,
        hostname=specification.hostname,
        network_mode="" if specification.own_network else "host",
    )


@dataclass(frozen=True, slots=True)
class _Specification:
    """What matters here of the OCI runtime specification of a container."""

    hostname: str
    own_network: bool


def _matching(namespace: str, text: str) -> list[str]:
    names = _ctr(namespace, "containers", "list", "--quiet").split()
    if text in names:
        return [text]
    return [name for name in names if len(text) >= SHORTEST_BEGINNING and name.startswith(text)]


def _pid(namespace: str, name: str) -> int:
    """Of the container's first process, 0 if it does not run; lines of `task list` are TASK, PID, STATUS."""
    for line in _ctr(namespace, "tasks", "list").splitlines():
        match line.split():
            case [task, pid, "RUNNING" | "PAUSED"] if task == name and pid.isdecimal():
                return int(pid)
    return 0


def _specification(namespace: str, name: str) -> _Specification:
    document: Any = read_json(_ctr(namespace, "containers", "info", name), NAME)
    specification = document.get("Spec") if isinstance(document, dict) else None
    if not isinstance(specification, dict):
        return _Specification("", own_network=True)
    linux = specification.get("linux")
    namespaces = linux.get("namespaces") if isinstance(linux, dict) else None
    kinds = [entry.get("type") for entry in namespaces or () if isinstance(entry, dict)]
    hostname = specification.get("hostname")
    return _Specification(hostname if isinstance(hostname, str) else "", own_network="network" in kinds)


def _ctr(namespace: str, *arguments: str) -> str:
    status, output, complaint = run_program(["ctr", "--namespace", namespace, *arguments])
    if status != 0:
        raise EngineUnavailable(f"'ctr {' '.join(arguments)}' failed: {complaint or f'exit status {status}'}")
    return output
