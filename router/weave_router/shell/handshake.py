"""The opening exchange over a stream, and the limit on how many may be going on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from weave_router.errors import ProtocolError
from weave_router.wire.features import Features
from weave_router.wire.session import FeaturesReceived, HandshakeError, KeyAgreed, MessageReceived, Session

if TYPE_CHECKING:
    from collections.abc import Callable

HANDSHAKE_SECONDS = 20.0
MAX_OPENING = 128
MAX_OPENING_PER_HOST = 16
_READ_BYTES = 65536


async def open_session(
    stream: trio.abc.Stream, session: Session, features: Callable[[], Features]
) -> tuple[Features, list[bytes]]:
    """Exchange hello and features; returns the peer's features and messages that came right behind them.

    `features` is called for ours when they are due. Raises `HandshakeError`, also after 20 s.
    """
    messages: list[bytes] = []
    with trio.move_on_after(HANDSHAKE_SECONDS):
        try:
            await stream.send_all(session.hello())
            theirs: Features | None = None
            while theirs is None:
                data = await stream.receive_some(_READ_BYTES)
                if not data:
                    raise HandshakeError(_closed_hint(session))
                for event in session.receive(bytes(data)):
                    match event:
                        case KeyAgreed():
                            await stream.send_all(session.send_features(features().to_map()))
                        case FeaturesReceived(received):
                            theirs = Features.from_map(received)
                        case MessageReceived(message):
                            messages.append(message)
        except trio.BrokenResourceError as error:
            raise HandshakeError(_closed_hint(session)) from error
        except HandshakeError:
            raise
        except ProtocolError as error:
            raise HandshakeError(str(error)) from error
        return theirs, messages
    raise HandshakeError(f"the handshake took longer than {HANDSHAKE_SECONDS:.0f} s")


def _closed_hint(session: Session) -> str:
    if session.key is not None:
        return "the peer closed the connection during the handshake: does it have the same password?"
    return "the peer closed the connection during the handshake: is it a Weave router, with or without password as we?"


class OpeningLimit:
    """Bounds connections in their opening phase, in all and from one host: idle ones must not shut out real peers."""

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, str] = {}

    def enter(self, host: str) -> trio.CancelScope | None:
        """A scope for a new opening from `host`, to be given back to `leave`; None where it has too many already.

        When too many are open in all, the oldest is cancelled.
        """
        if sum(other == host for other in self._scopes.values()) >= MAX_OPENING_PER_HOST:
            return None
        if len(self._scopes) >= MAX_OPENING:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.cancel()
        scope = trio.CancelScope()
        self._scopes[scope] = host
        return scope

    def leave(self, scope: trio.CancelScope) -> None:
        """The opening is over."""
        self._scopes.pop(scope, None)
