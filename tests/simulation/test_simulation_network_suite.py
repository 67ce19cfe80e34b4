"""One suite for the network door: the real one on the loopback device, and the simulated one."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

from weave_router.errors import HostError, TargetError
from weave_router.shell.network import Network, TrioNetwork
from weave_router.testing.simulated_run import run_simulation
from weave_router.testing.single_packets import capture_packets, receive_packets, send_packets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from weave_router.testing.simulated_network import SimulatedNetwork

    Scenario = Callable[[Network, str, int], Awaitable[None]]
    Run = Callable[[Scenario], None]


def _run_real(scenario: Scenario) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def main() -> None:
        with trio.fail_after(10):
            await scenario(TrioNetwork(), "127.0.0.1", port)

    trio.run(main)


def _run_simulated(scenario: Scenario) -> None:
    async def main(world: SimulatedNetwork) -> None:
        with trio.fail_after(10):
            await scenario(world.host("10.0.0.1"), "10.0.0.1", 6783)

    run_simulation(main)


@pytest.fixture(params=[_run_real, _run_simulated], ids=["real", "simulated"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


class _Server:
    """Listens, and keeps what it accepts."""

    def __init__(self, network: Network, nursery: trio.Nursery) -> None:
        self._network = network
        self._nursery = nursery
        self._send, self._receive = trio.open_memory_channel[tuple[trio.abc.Stream, str]](100)

    async def start(self, ip: str, port: int) -> None:
        listener = await self._network.listen(ip, port)
        self._nursery.start_soon(listener.serve, self._accepted, self._nursery)

    async def _accepted(self, stream: trio.abc.Stream, address: str) -> None:
        await self._send.send((stream, address))

    async def accept(self) -> tuple[trio.abc.Stream, str]:
        return await self._receive.receive()

    async def connected(self, address: str) -> tuple[trio.abc.Stream, trio.abc.Stream]:
        near = await self._network.dial(address)
        far, _ = await self.accept()
        return near, far


async def _read(stream: trio.abc.Stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        assert part
        data += part
    return data


def _with_pair(run: Run, scenario: Callable[[trio.abc.Stream, trio.abc.Stream], Awaitable[None]]) -> None:
    async def main(network: Network, ip: str, port: int) -> None:
        async with trio.open_nursery() as nursery:
            server = _Server(network, nursery)
            await server.start(ip, port)
            near, far = await server.connected(f"{ip}:{port}")
            async with near, far:
                await scenario(near, far)
            nursery.cancel_scope.cancel()

    run(main)


def test_bytes_arrive_in_order_both_ways(run: Run) -> None:
    async def scenario(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        data = bytes(range(256)) * 4096  # a megabyte, more than buffers hold
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, data)
            nursery.start_soon(far.send_all, data[::-1])
            assert await _read(far, len(data)) == data
            assert await _read(near, len(data)) == data[::-1]

    _with_pair(run, scenario)


def test_accepted_address_is_that_of_the_dialler(run: Run) -> None:
    async def main(network: Network, ip: str, port: int) -> None:
        async with trio.open_nursery() as nursery:
            server = _Server(network, nursery)
            await server.start(ip, port)
            near = [await network.dial(f"{ip}:{port}") for _ in range(2)]
            far = [await server.accept() for _ in range(2)]
            assert {address.rpartition(":")[0] for _, address in far} == {ip}
            assert len({address for _, address in far}) == 2
            for stream in (*near, *(stream for stream, _ in far)):
                await stream.aclose()
            nursery.cancel_scope.cancel()

    run(main)


def test_closing_gives_end_of_file_then_a_broken_stream(run: Run) -> None:
    async def scenario(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        await near.send_all(b"last words")
        await near.aclose()
        assert await _read(far, 10) == b"last words"
        assert await far.receive_some(10) == b""
        with pytest.raises(trio.BrokenResourceError) as caught:
            while True:
                await far.send_all(b"anybody?")
                await trio.sleep(0.01)
        assert isinstance(caught.value.__cause__, OSError)

    _with_pair(run, scenario)


def test_closing_with_unread_data_resets(run: Run) -> None:
    async def scenario(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        await near.send_all(b"never read")
        await trio.sleep(0.05)
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await near.receive_some(10)
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    _with_pair(run, scenario)


def test_own_closing_wakes_readers_and_writers(run: Run) -> None:
    async def scenario(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.receive_some(10)

        async def write() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.send_all(bytes(100_000_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(write)
            await trio.sleep(0.05)
            await near.aclose()

    _with_pair(run, scenario)


def test_slow_reader_blocks_the_writer(run: Run) -> None:
    async def scenario(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        with trio.move_on_after(0.2) as scope:
            await near.send_all(bytes(100_000_000))
        assert scope.cancelled_caught
        assert await far.receive_some(1000)

    _with_pair(run, scenario)


def test_two_readers_are_refused(run: Run) -> None:
    async def scenario(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some, 10)
            await trio.sleep(0.01)
            with pytest.raises(trio.BusyResourceError):
                await near.receive_some(10)
            nursery.cancel_scope.cancel()

    _with_pair(run, scenario)


def test_a_port_that_nobody_listens_on_refuses(run: Run) -> None:
    async def main(network: Network, ip: str, port: int) -> None:
        with pytest.raises(ConnectionRefusedError):
            await network.dial(f"{ip}:{port}")

    run(main)


def test_listening_twice_is_a_host_error(run: Run) -> None:
    async def main(network: Network, ip: str, port: int) -> None:
        async with trio.open_nursery() as nursery:
            await _Server(network, nursery).start(ip, port)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(HostError, match="in use"):
                await network.listen(ip, port)
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:  # the port is free again
            await _Server(network, nursery).start(ip, port)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    run(main)


def test_listening_at_an_address_of_others_is_a_host_error(run: Run) -> None:
    async def main(network: Network, ip: str, port: int) -> None:
        with pytest.raises(HostError):
            await network.listen("192.0.2.1", port)

    run(main)


def test_resolving(run: Run) -> None:
    async def main(network: Network, ip: str, port: int) -> None:
        assert await network.resolve(ip) == (ip,)
        with pytest.raises(TargetError, match="cannot resolve"):
            await network.resolve("no-such-host.invalid")

    run(main)


def test_datagrams(run: Run) -> None:
    async def main(network: Network, ip: str, port: int) -> None:
        io = network.open_packet_io(None, ip, port)
        try:
            with pytest.raises(HostError):
                network.open_packet_io(None, ip, port)
            assert receive_packets(io) == []
            assert capture_packets(io) == []
            assert io.interface == ""
            assert io.inject([bytes(60)]) == 1
            packets = [b"one", b"two", b"three!"]
            assert send_packets(io, packets, (ip, port), df=True)
            assert send_packets(io, [bytes(60_000)], (ip, port), df=False)
            received: list[tuple[bytes, tuple[str, int]]] = []
            while len(received) < 4:
                await io.wait()
                received += receive_packets(io)
            assert received == [(bytes(data), (ip, port)) for data in (*packets, bytes(60_000))]
            assert not send_packets(io, [bytes(65_508)], (ip, port), df=True)
            assert io.take_errors() == {"drop_larger_than_path": 1}
            assert io.take_errors() == {}
            mtu = io.path_mtu((ip, port))
            assert mtu is not None
            assert mtu >= 1500
        finally:
            io.close()
        network.open_packet_io(None, ip, port).close()

    run(main)
