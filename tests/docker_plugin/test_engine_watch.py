"""The stream of an engine's events: what matters is handed over, whatever happens to the stream."""

from __future__ import annotations

import logging
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from docker_plugin.fake_engine import FakeEngine, fake_engine, full_id, until
from weave_docker import engine_client
from weave_docker.engine_client import EngineClient
from weave_docker.engine_documents import Event, read_event
from weave_docker.engine_errors import EngineAbsent, EngineUnavailable
from weave_docker.engine_lines import Lines
from weave_docker.engine_sockets import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

A, B = full_id(1), full_id(2)
LIMIT_S = 10.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LOOK_AGAIN_S", 0.05), ("FIRST_PAUSE_S", 0.02), ("MAX_PAUSE_S", 0.1), ("QUIET_S", 0.2)):
        monkeypatch.setattr(engine_client, name, seconds)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path / "docker.sock") as engine:
        yield engine


@asynccontextmanager
async def watching(path: Path) -> AsyncIterator[Callable[[], Awaitable[Event]]]:
    """Follows the engine's events; gives them one by one."""
    send, receive = trio.open_memory_channel[Event](100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(EngineClient(Engine(path)).watch, send)

        async def following() -> Event:
            with trio.fail_after(LIMIT_S):
                return await receive.receive()

        yield following
        nursery.cancel_scope.cancel()


CONNECTED = Event("connected")


def test_what_happens_is_handed_over_in_order(engine: FakeEngine) -> None:
    async def scenario() -> None:
        async with watching(engine.socket) as following:
            assert await following() == CONNECTED
            engine.tell("create", A)
            engine.tell("connect", A, kind="network")
            engine.tell("start", A)
            engine.tell("exec_start: sh", A)
            engine.tell("died", A)
            engine.tell("disconnect", A, kind="network")
            engine.tell("remove", A)
            engine.tell("start", "short")
            engine.tell("pull", B, kind="image")
            engine.tell("start", B)
            expected = [Event("connect", A), Event("start", A), Event("die", A), Event("disconnect", A)]
            expected += [Event("destroy", A), Event("start", B)]
            assert [await following() for _ in expected] == expected

    trio.run(scenario)


def test_head_that_waits_for_the_first_event(engine: FakeEngine) -> None:
    """Podman answers with nothing at all until something happens."""
    engine.head_waits = True

    async def scenario() -> None:
        async with watching(engine.socket) as following:
            assert await following() == CONNECTED
            engine.tell("start", A)
            assert await following() == Event("start", A)
            engine.say(None)
            assert await following() == CONNECTED

    trio.run(scenario)


def test_stream_that_ends_is_begun_again(engine: FakeEngine) -> None:
    async def scenario() -> None:
        async with watching(engine.socket) as following:
            for _ in range(3):
                assert await following() == CONNECTED
                engine.tell("die", A)
                assert await following() == Event("die", A)
                engine.say(None)

    trio.run(scenario)


def test_engine_that_comes_goes_and_comes_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with watching(tmp_path / "docker.sock") as following:
            await trio.sleep(0.1)
            for _ in range(2):
                with fake_engine(tmp_path / "docker.sock") as engine:
                    assert await following() == CONNECTED
                    await until(lambda: bool(engine.streams))

    trio.run(scenario)


def test_garbage_between_events(engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with watching(engine.socket) as following:
            assert await following() == CONNECTED
            for piece in (b"\n\nnonsense\n\xff\xfe\n[]\n7\n", b"[" * 200_000 + b"\n", b'{"Type":"container"}\n'):
                engine.say(piece)
            for _ in range(40):
                engine.say(b"x" * 100_000)  # one line without end
            engine.say(b"\n")
            engine.tell("start", A)
            assert await following() == Event("start", A)

    with caplog.at_level(logging.WARNING):
        trio.run(scenario)
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 404 x\r\n\r\n"],
    ids=["nothing", "garbage", "error", "not found"],
)
def test_engine_that_cannot_be_followed(engine: FakeEngine, answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again with pauses, and complained about once."""
    engine.answers["/events"] = answer

    async def scenario() -> None:
        async with watching(engine.socket) as following:
            await until(lambda: len(engine.asked) >= 5)
            del engine.answers["/events"]
            assert await following() == CONNECTED

    with caplog.at_level(logging.WARNING):
        trio.run(scenario)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    assert "tried again" in caplog.text


def test_pauses_grow_to_a_limit(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.answers["/events"] = b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"
    pauses: list[float] = []

    async def scenario() -> None:
        sleep = trio.sleep

        async def recorded(seconds: float) -> None:
            if seconds != engine_client.QUIET_S:
                pauses.append(seconds)
            await sleep(0.001)

        monkeypatch.setattr(trio, "sleep", recorded)
        async with watching(engine.socket):
            await until(lambda: len(pauses) >= 5, sleep)

    trio.run(scenario)
    assert pauses[:5] == [0.02, 0.04, 0.08, 0.1, 0.1]


# Look-ups


def test_look_ups(engine: FakeEngine) -> None:
    engine.add(1, "web", pid=5)
    engine.add(2, "db")
    engine.add_network("n1", **{"weave.dns": "false"})

    async def scenario() -> None:
        client = EngineClient(Engine(engine.socket))
        assert await client.running() == {A: True, B: False}
        found = await client.container("web")
        assert found is not None
        assert found.pid == 5
        assert await client.container("nobody") is None
        assert await client.container("../../version") is None
        network = await client.network("n1")
        assert network is not None
        assert (network.driver, network.options) == ("weave", {"weave.dns": "false"})
        assert await client.network("n2") is None

    trio.run(scenario)


def test_large_answers(engine: FakeEngine) -> None:
    for number in range(1, 1000):
        engine.add(number, f"c{number}", pid=number)

    async def scenario() -> None:
        assert len(await EngineClient(Engine(engine.socket)).running()) == 999

    trio.run(scenario)


def test_failing_look_ups(engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "MAX_ANSWER_BYTES", 1000)
    monkeypatch.setattr(engine_client, "ANSWER_LIMIT_S", 0.3)
    engine.answers["/containers/json"] = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + b"[" * 9999
    engine.answers["/containers/a/json"] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[[[["
    engine.answers["/containers/b/json"] = b"nothing like HTTP"

    async def scenario() -> None:
        client = EngineClient(Engine(engine.socket))
        with pytest.raises(EngineUnavailable, match="more than 1000"):
            await client.running()
        with pytest.raises(EngineUnavailable, match="no JSON"):
            await client.container("a")
        with pytest.raises(EngineUnavailable, match="broke off"):
            await client.container("b")
        with pytest.raises(EngineAbsent):
            await EngineClient(Engine(tmp_path / "none.sock")).running()
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "silent.sock"))
            silent.listen()
            with pytest.raises(EngineUnavailable, match="does not answer within"):
                await EngineClient(Engine(tmp_path / "silent.sock")).running()

    trio.run(scenario)


# Lines


@given(st.lists(st.binary(max_size=12)), st.integers(1, 20))
def test_lines_do_not_depend_on_the_pieces(pieces: list[bytes], size: int) -> None:
    stream = b"\n".join(pieces) + b"\n"
    whole = Lines(limit=8).feed(stream)
    lines = Lines(limit=8)
    cut = [line for start in range(0, len(stream), size) for line in lines.feed(stream[start : start + size])]
    assert cut == whole
    assert all(len(line) <= 8 for line in whole)


def test_long_lines_are_left_out_and_counted() -> None:
    lines = Lines(limit=4)
    assert lines.feed(b"abcd\nabcde\nx") == [b"abcd"]
    assert lines.feed(b"yz\r\n \n") == [b"xyz"]
    assert lines.skipped == 1
    for _ in range(1000):
        assert lines.feed(b"x" * 1000) == []
    assert len(lines._begun) <= 4
    assert lines.feed(b"\nab\n") == [b"ab"]


@given(st.binary(max_size=200))
def test_any_line_is_an_event_or_nothing(line: bytes) -> None:
    with suppress(ValueError):
        read_event(line)
