"""Podman without its socket service: its program is asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from weave_docker.engine_documents import Container, read_container, read_json
from weave_docker.engine_errors import EngineUnavailable
from weave_docker.engine_program import run_program

NAME = "Podman (by 'podman inspect')"

_TRACES = (Path("/run/libpod"), Path("/run/containers"))
"""Directories that Podman makes when it is first used after a boot: without one, no container of root's runs."""


def is_here() -> bool:
    """Whether Podman is installed and was used since the host started."""
    return any(trace.exists() for trace in _TRACES) and shutil.which("podman") is not None


def find(text: str) -> Container | None:
    """The container of this name or id, None if there is none. Raises `EngineUnavailable`."""
    status, output, complaint = run_program(["podman", "container", "inspect", text])
    if status != 0:
        if "no such container" in complaint or "no such object" in complaint:
            return None
        raise EngineUnavailable(f"'podman inspect' failed: {complaint or f'exit status {status}'}")
    documents: Any = read_json(output, NAME)
    if not isinstance(documents, list) or not documents:
        raise EngineUnavailable("'podman inspect' says nothing")
    return read_container(documents[0], NAME, "Podman")
