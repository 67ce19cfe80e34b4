"""Gossip channels, and the queue of messages that wait for one neighbour (mesh.md section 7).

A channel's data are state: two pieces waiting for the same neighbour are merged into one, so a slow receiver never
makes a queue grow. What cannot be merged (unicasts, unknown channels) is bounded, and dropped when too much waits.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from weave_router.wire.envelope import Envelope, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from weave_router.wire.peer_name import PeerName

MAX_WAITING_MESSAGES = 512
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Of unicasts and control messages that wait for one neighbour."""
MAX_RELAYED_PAYLOADS = 64
MAX_RELAYED_BYTES = 12 * 1024 * 1024
"""Of all unknown channels toward one neighbour; a little more than the largest single message."""
MAX_UNKNOWN_CHANNELS = 64
MAX_SEEN = 4096
"""Payloads of an unknown channel that are remembered, so as not to relay them twice."""


class GossipData(Protocol):
    """Something to be told to neighbours, encoded only when it is really sent."""

    def merge(self, other: GossipData) -> GossipData:
        """This and another one of the same channel in one."""

    def encode(self) -> Iterable[bytes]:
        """The payloads to send, normally one; each is made when the one before has been sent."""


class Channel(Protocol):
    """A gossip channel that this router takes part in.

    A payload that makes no sense raises `ProtocolError`; it is then not relayed, and not applied from that point on.
    """

    def complete_state(self) -> GossipData | None:
        """All that is known: sent every 30 s, and to every new neighbour. None if there is nothing to say."""

    def on_gossip(self, source: PeerName, payload: bytes, now: float) -> Iterator[GossipData | None]:
        """Apply a neighbour's gossip. Yields None where a long decoding may pause, at last what was new (or None)."""

    def on_broadcast(self, source: PeerName, payload: bytes, now: float) -> GossipData | None:
        """Apply a broadcast of `source`; returns what is passed on along its tree."""

    def on_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        """Handle a message of `source` to us."""


class RelayedPayloads:
    """Payloads of a channel that we do not understand, passed on one by one in order."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._payloads = tuple(payloads)

    def merge(self, other: GossipData) -> GossipData:
        """Both lists; the oldest payloads are dropped beyond the bounds."""
        payloads = [*self._payloads, *other.encode()][-MAX_RELAYED_PAYLOADS:]
        size = sum(map(len, payloads))
        while size > MAX_RELAYED_BYTES and len(payloads) > 1:
            size -= len(payloads.pop(0))
        return RelayedPayloads(payloads)

    def encode(self) -> Sequence[bytes]:
        """The payloads as they came."""
        return self._payloads


class UnknownChannel:
    """Stands in for a channel that we do not take part in: relays without understanding (7.2)."""

    def __init__(self, remember: float = 30.0) -> None:
        self._remember = remember
        self._seen: dict[int, float] = {}  # oldest first

    def complete_state(self) -> GossipData | None:
        """Nothing: this router has no state of this channel."""
        return None

    def on_gossip(self, source: PeerName, payload: bytes, now: float) -> Iterator[GossipData | None]:
        """Pass on what has not been seen in the last 30 s."""
        seen = self._seen
        while seen and (len(seen) >= MAX_SEEN or now - next(iter(seen.values())) > self._remember):
            del seen[next(iter(seen))]
        mark = hash(payload)
        if mark not in seen:
            seen[mark] = now
            yield RelayedPayloads([payload])

    def on_broadcast(self, source: PeerName, payload: bytes, now: float) -> GossipData | None:
        """Pass on as it is."""
        return RelayedPayloads([payload])

    def on_unicast(self, source: PeerName, payload: bytes, now: float) -> None:
        """For us, but not understood: dropped."""


class Outbox:
    """What waits to be sent to one neighbour. `wake` is called when something is added."""

    def __init__(self, ourselves: PeerName, wake: Callable[[], None]) -> None:
        self._ourselves = ourselves
        self._wake = wake
        self._messages: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._gossip: dict[str, GossipData] = {}
        self._broadcasts: dict[tuple[str, PeerName], GossipData] = {}
        self._ready: Iterator[bytes] = iter(())
        self._relayed: deque[bytes] = deque()
        self._relayed_bytes = 0
        self.dropped = 0
        """Messages given up because too much was waiting."""

    def put(self, message: bytes) -> None:
        """Queue a control message or a unicast; they go before gossip. Dropped when too much waits."""
        waiting = self._waiting_bytes + len(message)
        if len(self._messages) >= MAX_WAITING_MESSAGES or (self._messages and waiting > MAX_WAITING_BYTES):
            self.dropped += 1
            return
        self._messages.append(message)
        self._waiting_bytes = waiting
        self._wake()

    def gossip(self, channel: str, data: GossipData) -> None:
        """Tell the neighbour, as from ourselves."""
        if isinstance(data, RelayedPayloads):
            self._relay(Tag.GOSSIP, channel, self._ourselves, data)
            return
        waiting = self._gossip.get(channel)
        self._gossip[channel] = data if waiting is None else waiting.merge(data)
        self._wake()

    def broadcast(self, channel: str, source: PeerName, data: GossipData) -> None:
        """Pass on a broadcast of `source`."""
        if isinstance(data, RelayedPayloads):
            self._relay(Tag.BROADCAST, channel, source, data)
            return
        waiting = self._broadcasts.get((channel, source))
        self._broadcasts[channel, source] = data if waiting is None else waiting.merge(data)
        self._wake()

    def _relay(self, tag: Tag, channel: str, source: PeerName, data: RelayedPayloads) -> None:
        """Queue what cannot be merged; the oldest is dropped when too much waits."""
        for payload in data.encode():
            message = Envelope(tag, channel, source, payload).encode()
            self._relayed.append(message)
            self._relayed_bytes += len(message)
        while len(self._relayed) > MAX_RELAYED_PAYLOADS or self._relayed_bytes > MAX_RELAYED_BYTES:
            self._relayed_bytes -= len(self._relayed.popleft())
            self.dropped += 1
        self._wake()

    def pop(self) -> bytes | None:
        """The next message to send, or None."""
        if self._messages:
            message = self._messages.popleft()
            self._waiting_bytes -= len(message)
            return message
        while (ready := next(self._ready, None)) is None:
            if self._gossip:
                channel = next(iter(self._gossip))
                self._ready = self._messages_of(Tag.GOSSIP, channel, self._ourselves, self._gossip.pop(channel))
            elif self._broadcasts:
                channel, source = next(iter(self._broadcasts))
                self._ready = self._messages_of(Tag.BROADCAST, channel, source, self._broadcasts.pop((channel, source)))
            elif self._relayed:
                message = self._relayed.popleft()
                self._relayed_bytes -= len(message)
                return message
            else:
                return None
        return ready

    def _messages_of(self, tag: Tag, channel: str, source: PeerName, data: GossipData) -> Iterator[bytes]:
        return (Envelope(tag, channel, source, payload).encode() for payload in data.encode())
