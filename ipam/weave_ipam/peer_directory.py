"""What address allocation asks about other peers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from weave_router.wire.peer_name import PeerName


class PeerDirectory(Protocol):
    """Implemented on the topology."""

    def is_known(self, name: PeerName) -> bool:
        """Whether the topology has an entry for it, ourselves included."""

    def nickname(self, name: PeerName) -> str | None:
        """Its nickname, if known."""

    def targets(self) -> int:
        """How many addresses of other peers the operator named: a guess of the network's size."""
