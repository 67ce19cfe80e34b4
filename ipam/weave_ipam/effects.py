"""What the allocator wants done, once what it depends on is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weave_ipam.election import Voter
    from weave_ipam.messages import Kind
    from weave_ipam.ranges import AddressRange
    from weave_ipam.requests import Request
    from weave_router.wire.peer_name import PeerName


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Tell all peers our state."""


@dataclass(frozen=True, slots=True)
class BroadcastClaims:
    """Tell all peers what we say in the election, and only that: many say something at the same time."""

    voter: Voter


@dataclass(frozen=True, slots=True)
class SendState:
    """Tell one peer our state."""

    destination: PeerName


@dataclass(frozen=True, slots=True)
class SendRange:
    """Ask a peer for space, or deny it."""

    destination: PeerName
    kind: Kind
    wanted: AddressRange


@dataclass(frozen=True, slots=True)
class Answer:
    """Wake whoever waits for this request."""

    request: Request


Effect = Broadcast | BroadcastClaims | SendState | SendRange | Answer
