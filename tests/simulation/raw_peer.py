"""A peer that a test moves by hand: the real handshake and framing, nothing behind them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from weave_router.testing.simulated_cluster import peer_name
from weave_router.wire.envelope import Envelope, Tag, decode_envelope
from weave_router.wire.features import Features
from weave_router.wire.session import FeaturesReceived, KeyAgreed, MessageReceived, Session
from weave_router.wire.topology import Link, PeerRecord, decode_records, encode_records

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weave_router.testing.simulated_network import SimulatedNetwork
    from weave_router.wire.peer_name import PeerName


def features_of(number: int, **changes: object) -> Features:
    """What a peer of our own kind announces; `changes` replace fields."""
    plain = Features(
        name=peer_name(number),
        nickname=f"raw {number}",
        uid=1000 + number,
        connection_half=number,
        short_id=number,
        overlays=("sleeve",),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # names and types are the dataclass's


class RawPeer:
    """One connection to a router, dialled by the test."""

    def __init__(self, stream: trio.abc.Stream, session: Session, features: Features) -> None:
        self.stream = stream
        self.session = session
        self.features = features
        self.messages: list[bytes] = []
        """Everything received so far."""
        self.theirs: dict[str, str] = {}
        self.ended = trio.Event()
        """The router closed or reset the connection."""
        self._may_read = trio.Event()
        self._may_read.set()
        self._send_lock = trio.Lock()

    @property
    def name(self) -> PeerName:
        return self.features.name

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Shake hands, then collect messages until the connection ends."""
        await self.stream.send_all(self.session.hello())
        try:
            while data := await self.stream.receive_some():
                for event in self.session.receive(bytes(data)):
                    match event:
                        case KeyAgreed():
                            await self.stream.send_all(self.session.send_features(self.features.to_map()))
                        case FeaturesReceived(theirs):
                            self.theirs = theirs
                            task_status.started()
                        case MessageReceived(message):
                            self.messages.append(message)
                await self._may_read.wait()
        except trio.BrokenResourceError:
            pass
        finally:
            self.ended.set()

    def stop_reading(self) -> None:
        """Be a slow reader from now on."""
        self._may_read = trio.Event()

    async def send(self, message: bytes) -> None:
        async with self._send_lock:
            await self.stream.send_all(self.session.send(message))

    async def keep_alive(self) -> None:
        """Send what keeps the TCP connection from timing out."""
        try:
            while True:
                await self.send(b"\0")
                await trio.sleep(20)
        except trio.BrokenResourceError:
            pass

    async def announce(self, *records: PeerRecord) -> None:
        """Tell the router these topology records."""
        await self.send(Envelope(Tag.GOSSIP, "topology", self.name, encode_records(records)).encode())

    def record(self, version: int, *links: tuple[int, str]) -> PeerRecord:
        """This peer's own record, with established links to (number, address)."""
        made = tuple(Link(peer_name(number), address, outbound=True, established=True) for number, address in links)
        return PeerRecord(self.name, self.features.nickname, self.features.uid, version, self.features.short_id, made)

    def gossip(self, channel: str, tag: Tag | None = None) -> list[Envelope]:
        """Messages received on a channel."""
        envelopes = [decode_envelope(message) for message in self.messages if message[:1] in (b"\4", b"\5", b"\6")]
        return [e for e in envelopes if e.channel == channel and tag in (None, e.tag)]

    def told_records(self) -> list[PeerRecord]:
        """Every topology record received, in order."""
        return [record for envelope in self.gossip("topology") for record in decode_records(envelope.payload)]


@asynccontextmanager
async def raw_peer(
    world: SimulatedNetwork,
    number: int,
    target: str,
    *,
    password: bytes | None = None,
    alive: bool = True,
    **features: object,
) -> AsyncIterator[RawPeer]:
    """A raw peer of host 10.0.0.`number`, connected to `target` (`ip:port`) and through the handshake."""
    stream = await world.host(f"10.0.0.{number}").dial(target)
    session = Session(outbound=True, password=password, private_key=bytes([number]) * 32)
    peer = RawPeer(stream, session, features_of(number, **features))
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        if alive:
            nursery.start_soon(peer.keep_alive)
        yield peer
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)
