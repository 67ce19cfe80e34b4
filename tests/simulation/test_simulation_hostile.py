"""Strangers, broken peers and bad luck on TCP: what they must not be able to do."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from simulation.raw_peer import features_of, raw_peer
from weave_router.control.gossip import MAX_UNKNOWN_CHANNELS, MAX_WAITING_MESSAGES
from weave_router.shell.handshake import HANDSHAKE_SECONDS, MAX_OPENING, MAX_OPENING_PER_HOST
from weave_router.sleeve.codec import heartbeat
from weave_router.testing.simulated_cluster import address, peer_name, run_cluster, wait_until
from weave_router.testing.single_packets import send_packets
from weave_router.wire import gob
from weave_router.wire.envelope import Envelope, Tag
from weave_router.wire.features import encode_features
from weave_router.wire.session import Session
from weave_router.wire.topology import Link, PeerRecord

if TYPE_CHECKING:
    from simulation.raw_peer import RawPeer
    from weave_router.testing.simulated_cluster import SimulatedCluster, SimulatedNode

HANDSHAKE = 5.0
TARGET = f"{address(1)}:6783"
HELLO = b"weave\x02\x02"


async def is_closed(stream: trio.abc.Stream) -> bool:
    """Whether the router ended this connection within a second of now, whatever it sends before."""
    with trio.move_on_after(1):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            return True
        return True
    return False


async def check_that_a_peer_gets_in(cluster: SimulatedCluster, *, within: float = HANDSHAKE) -> None:
    node = await cluster.start(2, 1)
    await wait_until(lambda: node.route(cluster.nodes[1]) is not None, within=within)


# --- before the handshake is over -----------------------------------------------------------------------------------


def test_idle_connections_from_one_address_do_not_keep_a_peer_out() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a = await cluster.start(1)
        attacker = cluster.world.host("10.0.0.99")
        idle = [await attacker.dial(TARGET) for _ in range(200)]
        await check_that_a_peer_gets_in(cluster)
        closed = [await is_closed(stream) for stream in idle[MAX_OPENING_PER_HOST:]]
        assert all(closed)
        await trio.sleep(HANDSHAKE_SECONDS)
        assert all([await is_closed(stream) for stream in idle])
        assert len(a.connections()) == 1

    run_cluster(main)


def test_idle_connections_from_many_addresses_do_not_keep_a_peer_out() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(1)
        idle = [
            await cluster.world.host(f"10.1.{host}.1").dial(TARGET)
            for host in range(2 * MAX_OPENING // MAX_OPENING_PER_HOST + 4)
            for _ in range(MAX_OPENING_PER_HOST)
        ]
        await check_that_a_peer_gets_in(cluster)
        assert len(idle) > 2 * MAX_OPENING

    run_cluster(main)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "Weave's protocol"),
        (b"\x16\x03\x01\x02\x00\x01", "Weave's protocol"),
        (b"weave\x03\x04", "versions 3..4"),
        (b"weave\x01\x01", "versions 1..1"),
        (HELLO + b"\x07", "flag"),
        (HELLO + b"\x01" + bytes(32), "password"),
        (HELLO + b"\x00\xff\xff\xff\xff", "bytes"),
        (HELLO + b"\x00\x00\x00\x00\x00", ""),
        (HELLO + b"\x00\x00\x00\x00\x05hello", ""),
    ],
)
def test_garbage_is_refused_at_once(sent: bytes, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(1)
        stream = await cluster.world.host("10.0.0.99").dial(TARGET)
        await stream.send_all(sent)
        assert await is_closed(stream)
        (message,) = [message for message in caplog.messages if "10.0.0.99" in message]
        assert reason in message
        await check_that_a_peer_gets_in(cluster)

    run_cluster(main)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_are_refused(seed: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a = await cluster.start(1)
        chance = random.Random(seed)
        for _ in range(100):
            start = chance.choice((b"", b"weave", HELLO, HELLO + b"\x00", HELLO + b"\x00\x00\x00\x00\x20"))
            stream = await cluster.world.host("10.0.0.99").dial(TARGET)
            await stream.send_all(start + chance.randbytes(chance.randrange(1, 60)))
            await trio.sleep(0.1)
            await stream.aclose()
        assert len(a.router.status().connections) == 0
        await check_that_a_peer_gets_in(cluster)

    run_cluster(main, seed=seed)


@pytest.mark.parametrize("password", [None, b"secret"])
@pytest.mark.parametrize(
    "stage", ["nothing", "part of the header", "header", "part of the key", "key", "half features"]
)
def test_who_stalls_in_the_handshake_is_closed_after_20_s(stage: str, password: bytes | None) -> None:
    session = Session(outbound=True, password=password, private_key=bytes(32))
    hello = session.hello()
    features = encode_features(features_of(99).to_map())
    cut = {"nothing": 0, "part of the header": 4, "header": 7, "part of the key": 20, "key": 40, "half features": 40}

    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(1, password=password)
        cluster.node(2, password=password)
        stream = await cluster.world.host("10.0.0.99").dial(TARGET)
        await stream.send_all(hello[: cut[stage]] + (b"\0\0\1\0" + features[:50] if stage == "half features" else b""))
        assert not await is_closed(stream)
        await trio.sleep(HANDSHAKE_SECONDS - 1.5)
        assert await is_closed(stream)
        await check_that_a_peer_gets_in(cluster)

    run_cluster(main)


def test_a_router_that_dials_into_silence_gives_up_after_20_s() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        async def silent(_: trio.abc.Stream, __: str) -> None:
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            listener = await cluster.world.host(address(9)).listen("0.0.0.0", 6783)
            nursery.start_soon(listener.serve, silent, nursery)
            a = await cluster.start(1, 9)
            await trio.sleep(HANDSHAKE_SECONDS + 0.5)
            (failed,) = a.connections("failed")
            assert "20 s" in failed.info
            nursery.cancel_scope.cancel()

    run_cluster(main)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [(b"weave\x01\x01", "versions 1..1"), (b"weave\x03\x09", "versions 3..9"), (b"SSH-2.0-OpenSSH", "protocol")],
)
def test_a_router_that_dials_something_else_says_so_and_tries_again(answer: bytes, hint: str) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        times = []

        async def other(stream: trio.abc.Stream, _: str) -> None:
            times.append(trio.current_time())
            async with stream:
                await stream.send_all(answer)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            listener = await cluster.world.host(address(9)).listen("0.0.0.0", 6783)
            nursery.start_soon(listener.serve, other, nursery)
            a = await cluster.start(1, 9)
            await trio.sleep(300)
            (failed,) = a.connections("failed")
            assert hint in failed.info
            assert 10 <= len(times) <= 30
            nursery.cancel_scope.cancel()

    run_cluster(main)


def test_features_byte_by_byte() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a = await cluster.start(1)
        session = Session(outbound=True, password=None, private_key=bytes(32))
        stream = await cluster.world.host(address(9)).dial(TARGET)
        for byte in session.hello() + session.send_features(features_of(9).to_map()):
            await stream.send_all(bytes((byte,)))
            await trio.sleep(0.01)
        await trio.sleep(1)
        assert peer_name(9) in a.router.mesh.connections

    run_cluster(main)


# --- after it -------------------------------------------------------------------------------------------------------


async def _three(cluster: SimulatedCluster) -> tuple[SimulatedNode, SimulatedNode]:
    a, b = await cluster.start(1), await cluster.start(2, 1)
    await wait_until(lambda: a.route(b) == b.name and b.route(a) == a.name, within=HANDSHAKE)
    return a, b


@pytest.mark.parametrize(
    "message",
    [
        b"\x04" + b"\xf8" + b"\xff" * 8,  # a gob length of 2^64 - 1
        b"\x04" + b"\xfc\x7f\xff\xff\xff" + bytes(10),
        b"\x05\x00",
        b"\x06",
        Envelope(Tag.GOSSIP, "x" * 1000, peer_name(9), b"").encode(),
        Envelope(Tag.GOSSIP, "topology", peer_name(9), b"").encode() + b"more",
    ],
)
def test_a_broken_envelope_closes_that_connection_only(message: bytes) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            await peer.send(message)
            await trio.sleep(1)
            assert peer.ended.is_set()
        await trio.sleep(60)
        assert a.route(b) == b.name
        assert a.router.status().termination_count == 1

    run_cluster(main)


def test_a_frame_of_absurd_length_closes_that_connection_only() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            await peer.stream.send_all(b"\xff\xff\xff\xff")
            await trio.sleep(1)
            assert peer.ended.is_set()
        assert a.route(b) == b.name

    run_cluster(main)


def _struct_of_absurd_count() -> bytes:
    """A topology payload whose list claims 2^40 elements."""
    encoder = gob.Encoder()
    encoder.encode(gob.Slice(gob.UINT, limit=10), [1, 2, 3])
    data = bytearray(encoder.getvalue())
    return bytes(data).replace(b"\x03\x01\x02\x03", b"\xfa\x01\x00\x00\x00\x00\x00\x01\x02\x03")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"\xf8" + b"\xff" * 8,
        bytes(1000),
        b"\xff" * 1000,
        _struct_of_absurd_count(),
        b"\x03\x04\x00\x01" * 1000,
    ],
)
def test_a_broken_payload_is_dropped_and_the_connection_stays(payload: bytes) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, TARGET) as peer, raw_peer(cluster.world, 8, TARGET) as other:
            for tag in (Tag.GOSSIP, Tag.BROADCAST):
                await peer.send(Envelope(tag, "topology", peer.name, payload).encode())
            await peer.send(Envelope(Tag.UNICAST, "topology", peer.name, payload, a.name).encode())
            await trio.sleep(1)
            assert not peer.ended.is_set()
            assert a.router.status().counters["gossip_rejected"] >= (1 if payload == b"" else 3)
            assert not any(e.payload == payload for e in other.gossip("topology"))
            assert not other.ended.is_set()
        assert a.route(b) == b.name
        assert b.router.status().counters.get("gossip_rejected", 0) == 0

    run_cluster(main)


def test_random_messages_do_no_harm() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        chance = random.Random(1)
        sample = Envelope(Tag.GOSSIP, "topology", peer_name(9), b"").encode()
        for _ in range(100):
            async with raw_peer(cluster.world, 9, TARGET, uid=chance.getrandbits(64)) as peer:
                complete = peer.gossip("topology")
                message = bytearray(complete[0].encode() if complete else sample)
                for _ in range(chance.randrange(1, 5)):
                    message[chance.randrange(len(message))] = chance.randrange(256)
                await peer.send(bytes(message))
                await peer.send(chance.randbytes(chance.randrange(0, 40)))
                await trio.sleep(0.01)
        await trio.sleep(70)
        assert a.route(b) == b.name
        assert b.route(a) == a.name
        assert {a.name, b.name} <= a.router.mesh.topology.records.keys()

    run_cluster(main)


def test_overlay_messages_with_bad_indexes_and_old_tags_are_ignored() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            for message in (b"", b"\x07", b"\x07\x00", b"\x07\x01\x01", b"\x07\xff\x01", b"\x01", b"\x02", b"\x03\0\1"):
                await peer.send(message)
            for tag in range(8, 256):
                await peer.send(bytes((tag, 0, 1, 2)))
            await trio.sleep(1)
            assert not peer.ended.is_set()
            assert not a.router.mesh.connections[peer.name].established
            await peer.send(b"\x07\x00\x01")
            await trio.sleep(1)
            assert a.router.mesh.connections[peer.name].established
        assert a.route(b) == b.name

    run_cluster(main)


def test_a_silent_member_is_closed_after_60_s() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(1)
        async with raw_peer(cluster.world, 9, TARGET, alive=False) as peer:
            start = trio.current_time()
            with trio.fail_after(61):
                await peer.ended.wait()
            assert trio.current_time() - start > 59

    run_cluster(main)


def test_a_member_that_sends_single_bytes_is_closed_as_well() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(1)
        async with raw_peer(cluster.world, 9, TARGET, alive=False) as peer:
            await peer.stream.send_all(b"\0\0\xff\xff")
            for _ in range(58):
                await trio.sleep(1)
                await peer.stream.send_all(b"x")
            assert not peer.ended.is_set()
            await trio.sleep(3)
            assert peer.ended.is_set()

    run_cluster(main)


def test_a_slow_reader_does_not_block_others_and_its_queue_stays_bounded() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        cluster.world.host(address(9)).tcp_buffer_bytes = 4096
        async with (
            raw_peer(cluster.world, 9, TARGET) as slow,
            raw_peer(cluster.world, 8, TARGET) as writer,
            raw_peer(cluster.world, 7, TARGET) as reader,
        ):
            await trio.sleep(1)
            slow.stop_reading()
            for number in range(2000):
                payload = number.to_bytes(4) + bytes(1000)
                await writer.send(Envelope(Tag.UNICAST, "mail", writer.name, payload, slow.name).encode())
                await writer.send(Envelope(Tag.GOSSIP, "news", writer.name, payload).encode())
                if number % 100 == 99:
                    await writer.announce(writer.record(number + 1, (1, TARGET)))
                if number % 20 == 19:
                    await trio.sleep(0.2)  # relaying waits up to 100 ms for routes; what piles up then is bounded, too
            await trio.sleep(3)
            outbox = a.router.mesh.connections[slow.name].outbox
            waiting = []
            while (message := outbox.pop()) is not None:
                waiting.append(message)
            assert MAX_WAITING_MESSAGES <= len(waiting) <= MAX_WAITING_MESSAGES + 100
            assert outbox.dropped > 1000
            assert sum(map(len, waiting)) < 2_000_000
            # The others have noticed nothing.
            assert len(reader.gossip("news")) == 2000
            records = [record for record in reader.told_records() if record.name == writer.name]
            assert records[-1].version == 2000
            assert not slow.ended.is_set()
            await writer.send(Envelope(Tag.UNICAST, "mail", writer.name, b"prompt", reader.name).encode())
            await trio.sleep(0.1)
            assert reader.gossip("mail")[-1].payload == b"prompt"
        assert a.route(b) == b.name

    run_cluster(main)


def test_a_peer_that_never_reads_is_given_up_in_the_end() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        await cluster.start(1)
        cluster.world.host(address(9)).tcp_buffer_bytes = 4096
        io = cluster.world.host(address(9)).open_packet_io(None, "0.0.0.0", 6783)
        async with raw_peer(cluster.world, 9, TARGET) as stuck, raw_peer(cluster.world, 8, TARGET) as writer:
            connection = cluster.nodes[1].router.mesh.connections[stuck.name]
            names = stuck.name.to_bytes(6), cluster.nodes[1].name.to_bytes(6)
            packet = names[0] + names[0] + names[1] + b"\0\x16" + heartbeat(connection.uid)
            stuck.stop_reading()
            for number in range(100):
                message = Envelope(Tag.UNICAST, "mail", writer.name, bytes(1000) + bytes((number,)), stuck.name)
                await writer.send(message.encode())
            for _ in range(12):  # its heartbeats go on, on TCP and on UDP: only writing can tell
                send_packets(io, [packet], (address(1), 6783), df=True)
                await trio.sleep(5)
            assert stuck.name in cluster.nodes[1].router.mesh.connections
            send_packets(io, [packet], (address(1), 6783), df=True)
            await trio.sleep(5)
            assert stuck.name not in cluster.nodes[1].router.mesh.connections

    run_cluster(main)


def test_unknown_channels_are_limited() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            for number in range(MAX_UNKNOWN_CHANNELS + 100):
                await peer.send(Envelope(Tag.BROADCAST, f"channel {number}", peer.name, b"x").encode())
            await trio.sleep(1)
            assert not peer.ended.is_set()
            assert a.router.status().counters["gossip_rejected"] == 100
        assert a.route(b) == b.name

    run_cluster(main)


# --- lies -----------------------------------------------------------------------------------------------------------


async def _forge(peer: RawPeer, victim: SimulatedNode, version: int, *, uid: int | None = None) -> None:
    own = victim.router.mesh.topology.own
    forged = PeerRecord(own.name, "evil", own.uid if uid is None else uid, version, own.short_id, ())
    await peer.announce(forged)


@pytest.mark.parametrize("same_uid", [True, False])
def test_a_forged_record_of_ours_is_jumped_over(same_uid: bool) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            await trio.sleep(2)
            await _forge(peer, b, 10**6, uid=None if same_uid else 4711)
            await trio.sleep(0.2)
            assert a.router.mesh.topology.records[b.name].nickname == "evil"
            assert a.route(b) is None
            await wait_until(lambda: a.route(b) == b.name, within=2)
            record = a.router.mesh.topology.records[b.name]
            assert record.nickname == "node 2"
            assert record.version == 10**6 + 1
            await _forge(peer, a, 10**6, uid=None if same_uid else 4711)
            await wait_until(lambda: b.router.mesh.topology.records[a.name].version == 10**6 + 1, within=2)

    run_cluster(main)


# 2^63 itself is the last version that is taken: there is no room to jump over it, and no cure in the protocol.
@pytest.mark.parametrize("version", [2**62, 2**63 - 1, 2**63 + 1, 2**64 - 1])
def test_a_forged_version_at_the_end_of_the_range_does_not_shut_a_peer_out(version: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            await trio.sleep(2)
            await _forge(peer, b, version)
            await trio.sleep(5)
            assert a.router.mesh.topology.records[b.name].nickname == "node 2"
            assert a.route(b) == b.name
        b.host.reset_connections()
        await wait_until(lambda: a.route(b) == b.name, within=35)

    run_cluster(main)


def test_invented_peers_vanish_with_their_inventor() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            invented = [PeerRecord(peer_name(1000 + n), "ghost", n + 1, 1, n % 4096) for n in range(500)]
            links = tuple(Link(ghost.name, "10.9.9.9:1", outbound=False, established=True) for ghost in invented)
            own = PeerRecord(peer.name, "raw 9", peer.features.uid, 5, 9, links)
            await peer.announce(own, *invented)
            await trio.sleep(3)
            assert len(b.router.mesh.topology.records) == 503
        await wait_until(lambda: len(a.router.mesh.topology.records) == 2, within=1)
        await wait_until(lambda: len(b.router.mesh.topology.records) == 2, within=35)

    run_cluster(main)


@pytest.mark.parametrize("version", [2**41, 2**62])
def test_a_forged_version_told_to_its_victim_does_not_make_it_leave_the_others_behind(version: int) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        async with raw_peer(cluster.world, 9, f"{address(2)}:6783") as peer:
            await _forge(peer, b, version)
            await trio.sleep(2)
        for _ in range(3):
            b.host.reset_connections()
            await trio.sleep(1)
            await wait_until(lambda: a.route(b) == b.name, within=35)
            await trio.sleep(2)
            assert a.router.mesh.topology.records[b.name].links == b.router.mesh.topology.own.links

    run_cluster(main)


async def _invent_addresses(peer: RawPeer, count: int) -> None:
    """Tell of so many peers at addresses where nobody answers."""
    ghosts = [PeerRecord(peer_name(1000 + n), "ghost", n + 1, 1, n % 4096) for n in range(count)]
    links = tuple(
        Link(ghost.name, f"10.{7 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}:22", outbound=True, established=True)
        for n, ghost in enumerate(ghosts)
    )
    await peer.announce(PeerRecord(peer.name, "raw 9", peer.features.uid, 5, 9, links[: count // 2]))
    await peer.announce(PeerRecord(ghosts[0].name, "ghost", 1, 2, 0, links[count // 2 :]))


def test_invented_addresses_are_dialled_sparingly() -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, _ = await _three(cluster)
        dials = 0
        dial = a.host.dial

        async def counted(target: str) -> object:
            nonlocal dials
            dials += 1
            return await dial(target)

        a.host.dial = counted  # type: ignore[method-assign, assignment]
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            await _invent_addresses(peer, 2000)
            await trio.sleep(0.5)
            assert dials <= 100

    run_cluster(main)


@pytest.mark.parametrize("when", ["before", "after"])
def test_invented_addresses_do_not_hold_up_what_the_operator_wants(when: str) -> None:
    async def main(cluster: SimulatedCluster) -> None:
        a, b = await _three(cluster)
        c = cluster.node(3)
        async with raw_peer(cluster.world, 9, TARGET) as peer:
            if when == "before":
                await a.router.connect([address(3)])
            await _invent_addresses(peer, 4000)
            await trio.sleep(5)
            await c.start()
            if when == "after":  # what is named by hand is tried at once
                await a.router.connect([address(3)])
            await wait_until(lambda: c.name in a.neighbours(), within=35 if when == "before" else HANDSHAKE)
            assert a.route(b) == b.name

    run_cluster(main)
