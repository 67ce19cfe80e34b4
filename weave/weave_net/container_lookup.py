"""Containers as the operator names them, found through the engines of this host."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from weave_net.errors import AttachmentError

if TYPE_CHECKING:
    from weave_docker.engine_documents import Container


def find_container(text: str) -> Container:
    """The container of this name or id, running or not; DOCKER_HOST may say where Docker is.

    Raises `AttachmentError` with the places that were looked at.
    """
    from weave_docker.engine import find_container as find
    from weave_docker.engine_errors import EngineError
    from weave_docker.engine_sockets import default_engines

    try:
        return find(text, default_engines(os.environ.get("DOCKER_HOST")))
    except EngineError as error:
        raise AttachmentError(str(error)) from error


def containers_of_endpoints() -> dict[str, str]:
    """Ids of Docker's containers, by those of their endpoints on networks; empty if Docker cannot be asked."""
    from weave_docker.engine import containers_of_endpoints as ask
    from weave_docker.engine_errors import EngineError
    from weave_docker.engine_sockets import default_engines

    found: dict[str, str] = {}
    for engine in default_engines(os.environ.get("DOCKER_HOST")):
        with suppress(EngineError):
            found |= ask(engine)
    return found


def container_id(text: str) -> str | None:
    """The full id of a container; None if no engine knows it or none can be asked."""
    try:
        return find_container(text).id
    except AttachmentError:
        return None
