"""The simulated network itself: what links do to packets, and that a seed decides everything."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from weave_router.testing.simulated_cluster import SimulatedCluster, address, wait_until
from weave_router.testing.simulated_links import LinkConditions
from weave_router.testing.simulated_run import SimulationStuck, run_simulation
from weave_router.testing.single_packets import capture_packets, receive_packets, send_packets

if TYPE_CHECKING:
    from weave_router.testing.simulated_network import SimulatedHost, SimulatedNetwork
    from weave_router.testing.simulated_packet_io import SimulatedPacketIO
    from weave_router.testing.simulated_stream import SimulatedStream

A, B, C = address(1), address(2), address(3)


async def _pair(
    world: SimulatedNetwork, nursery: trio.Nursery, a: str = A, b: str = B
) -> tuple[SimulatedStream, trio.abc.Stream]:
    send, receive = trio.open_memory_channel[trio.abc.Stream](1)

    async def accepted(stream: trio.abc.Stream, _: str) -> None:
        await send.send(stream)

    listener = await world.host(b).listen("0.0.0.0", 7000)
    nursery.start_soon(listener.serve, accepted, nursery)
    near = await world.host(a).dial(f"{b}:7000")
    return near, await receive.receive()


def _ios(world: SimulatedNetwork) -> tuple[SimulatedPacketIO, SimulatedPacketIO]:
    return world.host(A).open_packet_io("tap", A, 6783), world.host(B).open_packet_io("tap", B, 6783)


def test_tcp_waits_while_the_link_is_down_and_goes_on_when_it_heals() -> None:
    async def main(world: SimulatedNetwork) -> None:
        async with trio.open_nursery() as nursery:
            near, far = await _pair(world, nursery)
            world.cut(A, B)
            await near.send_all(b"in the dark")
            with trio.move_on_after(1000) as scope:
                await far.receive_some()
            assert scope.cancelled_caught
            world.heal(A, B)
            with trio.fail_after(0.1):
                assert await far.receive_some() == b"in the dark"
            nursery.cancel_scope.cancel()

    run_simulation(main)


def test_one_way_cut() -> None:
    async def main(world: SimulatedNetwork) -> None:
        async with trio.open_nursery() as nursery:
            near, far = await _pair(world, nursery)
            world.cut(A, B, one_way=True)
            await far.send_all(b"hears me")
            assert await near.receive_some() == b"hears me"
            await near.send_all(b"lost")
            with trio.move_on_after(100) as scope:
                await far.receive_some()
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()

    run_simulation(main)


def test_dialling_into_a_cut_hangs_and_fails_as_tcp_does() -> None:
    async def main(world: SimulatedNetwork) -> None:
        world.host(B)
        world.cut(A, B)
        with pytest.raises(TimeoutError):
            await world.host(A).dial(f"{B}:7000")
        assert trio.current_time() == 127
        with pytest.raises(TimeoutError):
            await world.host(A).dial("10.9.9.9:7000")

    run_simulation(main)


def test_dialling_succeeds_with_the_first_attempt_after_healing() -> None:
    async def main(world: SimulatedNetwork) -> None:
        async with trio.open_nursery() as nursery:
            await _pair(world, nursery)
            world.cut(A, B)
            start = trio.current_time()
            nursery.start_soon(world.host(A).dial, f"{B}:7000")
            await trio.sleep(2)
            world.heal()
            await world.host(A).dial(f"{B}:7000")
            assert trio.current_time() - start == pytest.approx(2.002)
            nursery.cancel_scope.cancel()

    run_simulation(main)


def test_partition_and_heal() -> None:
    async def main(world: SimulatedNetwork) -> None:
        ios = {host: world.host(host).open_packet_io(None, host, 1) for host in (A, B, C)}

        async def reached() -> set[tuple[str, str]]:
            for source, io in ios.items():
                for destination in ios:
                    send_packets(io, [source.encode()], (destination, 1), df=True)
            await trio.sleep(1)
            return {(data.decode(), to) for to, io in ios.items() for data, _ in receive_packets(io)}

        everything = await reached()
        assert len(everything) == 9
        world.partition([A], [B, C])
        assert everything - await reached() == {(A, B), (A, C), (B, A), (C, A)}
        world.heal(A, B)
        assert everything - await reached() == {(A, C), (C, A)}
        world.heal()
        assert await reached() == everything
        world.isolate(C)
        assert everything - await reached() == {(A, C), (C, A), (B, C), (C, B)}

    run_simulation(main)


def test_reset_connections_break_both_ends() -> None:
    async def main(world: SimulatedNetwork) -> None:
        async with trio.open_nursery() as nursery:
            near, far = await _pair(world, nursery)
            world.host(B).reset_connections()
            for stream in (near, far):
                with pytest.raises(trio.BrokenResourceError):
                    await stream.receive_some()
            nursery.cancel_scope.cancel()

    run_simulation(main)


def test_power_failure_is_silent_until_the_host_is_back() -> None:
    async def main(world: SimulatedNetwork) -> None:
        async with trio.open_nursery() as nursery:
            near, _ = await _pair(world, nursery)
            world.host(B).lose_power()
            await near.send_all(b"hello?")
            with trio.move_on_after(1000) as scope:
                await near.receive_some()
            assert scope.cancelled_caught
            world.host(B).regain_power()
            with trio.fail_after(1), pytest.raises(trio.BrokenResourceError):
                await near.receive_some()
            nursery.cancel_scope.cancel()

    run_simulation(main)


def test_datagrams_get_lost_doubled_and_reordered_by_the_seed() -> None:
    async def main(world: SimulatedNetwork) -> list[int]:
        a, b = _ios(world)
        for number in range(1000):
            send_packets(a, [number.to_bytes(4)], b.address, df=True)
            await trio.sleep(0.001)
        await trio.sleep(1)
        received = []
        while burst := receive_packets(b):
            received += [int.from_bytes(data) for data, _ in burst]
        return received

    bad = LinkConditions(loss=0.2, duplication=0.1, reordering=0.1)
    received = run_simulation(main, seed=5, link=bad)
    assert 700 < len(set(received)) < 900
    assert 50 < len(received) - len(set(received)) < 120
    assert received != sorted(received)
    assert received == run_simulation(main, seed=5, link=bad)
    assert received != run_simulation(main, seed=6, link=bad)


def test_mtu_of_a_link() -> None:
    async def main(world: SimulatedNetwork) -> None:
        a, b = _ios(world)
        world.change_link(A, B, mtu=1400, hidden_mtu=1300)
        world.change_link(A, B, one_way=True, fragments_dropped=False)
        assert a.path_mtu(b.address) == 1400
        assert not send_packets(a, [bytes(1373)], b.address, df=True)  # refused, known
        assert send_packets(a, [bytes(1372)], b.address, df=True)  # vanishes on the way
        assert send_packets(a, [bytes(1272)], b.address, df=True)
        assert send_packets(a, [bytes(60000)], b.address, df=False)  # in fragments
        world.change_link(A, B, fragments_dropped=True)
        assert send_packets(a, [bytes(60001)], b.address, df=False)
        await trio.sleep(1)
        assert [len(data) for data, _ in receive_packets(b)] == [1272, 60000]
        assert a.take_errors() == {"drop_larger_than_path": 1}

    run_simulation(main)


def test_frames_are_captured_and_recorded() -> None:
    async def main(world: SimulatedNetwork) -> None:
        a, _ = _ios(world)
        host: SimulatedHost = world.host(A)
        host.frames_in(b"frame 1", b"frame 2")
        host.packets_in(b"with header")
        await a.wait()
        assert capture_packets(a) == [bytes(10) + b"frame 1", bytes(10) + b"frame 2", b"with header"]
        await trio.sleep(3)
        assert a.inject([b"back"]) == 0
        assert [(frame.time, frame.frame) for frame in host.injected] == [(3.0, b"back")]

    run_simulation(main)


def _eventful(seed: int) -> list[str]:
    async def main(world: SimulatedNetwork) -> list[str]:
        async with trio.open_nursery() as nursery:
            cluster = SimulatedCluster(world, nursery, seed)
            nodes = await cluster.start_ring(4, password=b"secret")
            await wait_until(lambda: all(len(node.router.mesh.routes.unicast) == 4 for node in nodes), within=30)
            nodes[0].host.frames_in(bytes.fromhex("ffffffffffff 020000000001 0806") + bytes(46))
            world.partition([A, B], [C, address(4)])
            await trio.sleep(70)
            await nodes[1].crash()
            world.heal()
            await nodes[1].start()
            await trio.sleep(40)
            nursery.cancel_scope.cancel()
        return world.trace

    return run_simulation(main, seed=seed, link=LinkConditions(loss=0.05, jitter=0.002, reordering=0.1), trace=True)


def test_two_runs_of_one_seed_are_equal_to_the_last_byte() -> None:
    first, second, other = _eventful(1), _eventful(1), _eventful(2)
    assert len(first) > 500
    assert first == second
    assert first != other


_IN_A_PROCESS_OF_ITS_OWN = """
import zlib, trio
from weave_router.testing.simulated_cluster import SimulatedCluster
from weave_router.testing.simulated_run import run_simulation

async def main(world):
    async with trio.open_nursery() as nursery:
        await SimulatedCluster(world, nursery).start_line(8)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    return world.trace

print(zlib.crc32("".join(run_simulation(main, trace=True)).encode()))
"""


def test_a_seed_means_the_same_in_every_process() -> None:
    """Python orders sets of strings differently in each: none may be iterated into what routers do."""
    runs = [
        subprocess.run(
            [sys.executable, "-c", _IN_A_PROCESS_OF_ITS_OWN],
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in (1, 2)
    ]
    assert runs[0] == runs[1]


def test_a_task_that_spins_is_named() -> None:
    async def spinner() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async def main(world: SimulatedNetwork) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spinner)
            await trio.sleep(1)

    with pytest.raises(SimulationStuck, match="spinner"):
        run_simulation(main)
