"""Lets a test see every message that the routers of a simulation receive."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from weave_router.control.mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from weave_router.control.mesh import MeshConnection


@contextmanager
def watched_messages(see: Callable[[Mesh, bytes], None]) -> Iterator[None]:
    """Have every message shown with its receiver, at each hop, before it is handled."""
    receive = Mesh.receive

    def showing(mesh: Mesh, connection: MeshConnection, message: bytes, now: float) -> Iterator[None]:
        see(mesh, message)
        return receive(mesh, connection, message, now)

    Mesh.receive = showing  # type: ignore[method-assign, assignment]  # a function in place of a method
    try:
        yield
    finally:
        Mesh.receive = receive  # type: ignore[method-assign]
