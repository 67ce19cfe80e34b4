"""Names of containers on Docker's networks of our driver, at a daemon that only records."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import httpx
import pytest
import trio

from docker_plugin.fake_engine import FakeEngine, fake_engine, full_id, until
from weave_docker import engine_client, names
from weave_docker.engine_documents import Container
from weave_docker.engine_sockets import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

WEB, DB = full_id(1), full_id(2)
OURS, OTHER = 0x7A0000000001, 0x7A0000000002

Entry = tuple[str, str, str]
"""Container, address and name."""


class FakeApi:
    """The daemon's paths of names, as far as they are used here."""

    def __init__(self) -> None:
        self.names: set[Entry] = set()
        self.foreign: list[dict[str, object]] = []
        self.attached: list[str] = []
        self.domain: str | None = "weave.local."
        self.broken = False
        self.added = 0

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer), base_url="http://weave")

    def answer(self, request: httpx.Request) -> httpx.Response:
        if self.broken:
            return httpx.Response(503, text="not now\n")
        parts = request.url.path.split("/")
        match request.method, parts[1], len(parts):
            case "GET", "domain", _:
                return httpx.Response(404) if self.domain is None else httpx.Response(200, text=self.domain)
            case "GET", "attachment", _:
                return httpx.Response(200, json=[{"id": identifier} for identifier in self.attached])
            case "GET", "report", _:
                return httpx.Response(200, text="7a:00:00:00:00:01\n")
            case "GET", "name", _:
                own: list[dict[str, object]] = [
                    {"ContainerID": c, "Origin": OURS, "Addr": a, "Hostname": f"{n}.", "Tombstone": 0}
                    for c, a, n in sorted(self.names)
                ]
                return httpx.Response(200, content=json.dumps([*own, *self.foreign] or None))
            case "PUT", "name", 4:
                self.added += 1
                self.names.add((parts[2], parts[3], parse_qs(request.content.decode())["fqdn"][0]))
            case "DELETE", "name", 4:
                fqdn = request.url.params.get("fqdn")
                self.names = {
                    name for name in self.names if name[:2] != (parts[2], parts[3]) or fqdn not in (None, name[2])
                }
            case _:
                return httpx.Response(405, text=f"{request.method} {request.url}")
        return httpx.Response(204)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(names, "RETRY_S", 0.1)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path / "docker.sock") as engine:
        engine.add_network("n1")
        engine.add_network("quiet", **{"weave.dns": "False"})
        engine.add_network("managed", driver="weave:latest")
        engine.add_network("bridge", driver="bridge")
        yield engine


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@asynccontextmanager
async def running(engine: FakeEngine, api: FakeApi) -> AsyncIterator[None]:
    async with api.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(names.run, Engine(engine.socket), client)
        await until(lambda: bool(engine.streams))
        yield
        nursery.cancel_scope.cancel()


def start(engine: FakeEngine, identifier: str, pid: int = 5) -> None:
    engine.containers[identifier]["State"] = {"Running": True, "Pid": pid}
    engine.tell("start", identifier)


def test_life_of_a_container(engine: FakeEngine, api: FakeApi) -> None:
    engine.add(1, "web", Config={"Hostname": "www", "Domainname": ""})
    engine.connect(WEB, "n1", "10.40.0.1", "alias", WEB[:12])
    engine.connect(WEB, "bridge", "172.17.0.2", "elsewhere")

    async def scenario() -> None:
        async with running(engine, api):
            engine.tell("connect", WEB, kind="network")
            start(engine, WEB)
            first = {(WEB, "10.40.0.1", f"{name}.weave.local") for name in ("web", "www", "alias")}
            await until(lambda: api.names == first)
            engine.connect(WEB, "managed", "10.41.0.1")
            engine.tell("connect", WEB, kind="network")
            second = {(WEB, "10.41.0.1", f"{name}.weave.local") for name in ("web", "www")}
            await until(lambda: api.names == first | second)
            del engine.containers[WEB]["NetworkSettings"]["Networks"]["n1"]
            engine.tell("disconnect", WEB, kind="network")
            await until(lambda: api.names == second)
            engine.stop(WEB)
            engine.tell("die", WEB)
            await until(lambda: api.names == set())
            start(engine, WEB, pid=6)
            await until(lambda: api.names == second)
            del engine.containers[WEB]
            engine.tell("destroy", WEB)
            await until(lambda: api.names == set())

    trio.run(scenario)


def test_address_and_aliases_that_change(engine: FakeEngine, api: FakeApi) -> None:
    engine.add(1, "web", pid=5)
    engine.connect(WEB, "n1", "10.40.0.1", "a", "b")

    async def scenario() -> None:
        async with running(engine, api):
            await until(lambda: len(api.names) == 3)
            api.names.add((WEB, "10.40.0.1", "by-hand.weave.local"))
            engine.connect(WEB, "n1", "10.40.0.1", "b", "c")
            engine.tell("connect", WEB, kind="network")
            expected = {(WEB, "10.40.0.1", f"{name}.weave.local") for name in ("web", "b", "c", "by-hand")}
            await until(lambda: api.names == expected)
            engine.connect(WEB, "n1", "10.40.0.2")
            engine.tell("start", WEB)
            await until(lambda: api.names == {(WEB, "10.40.0.2", "web.weave.local")})

    trio.run(scenario)


def test_network_without_names(engine: FakeEngine, api: FakeApi) -> None:
    for number, network in ((1, "quiet"), (2, "bridge"), (3, "unknown"), (4, "n1")):
        engine.add(number, f"c{number}", pid=number)
        engine.connect(full_id(number), network, f"10.40.0.{number}")

    async def scenario() -> None:
        async with running(engine, api):
            await until(lambda: api.names == {(full_id(4), "10.40.0.4", "c4.weave.local")})

    trio.run(scenario)


def test_start_compares_what_is_with_what_was(engine: FakeEngine, api: FakeApi) -> None:
    gone, attached, kept = full_id(7), full_id(8), "printer"
    engine.add(1, "web", pid=5)
    engine.connect(WEB, "n1", "10.40.0.2")
    engine.add(2, "db")
    engine.connect(DB, "n1", "10.40.0.3")
    api.attached = [attached]
    api.names = {
        (WEB, "10.40.0.1", "web.weave.local"),  # the address that it had before
        (WEB, "10.40.0.2", "by-hand.weave.local"),
        (DB, "10.40.0.3", "db.weave.local"),
        (gone, "10.40.0.9", "gone.weave.local"),
        (attached, "10.40.0.10", "attached.weave.local"),
        (kept, "10.40.0.11", "printer.weave.local"),
    }
    api.foreign = [
        {"ContainerID": full_id(9), "Origin": OTHER, "Addr": "10.40.1.1", "Hostname": "x.", "Tombstone": 0},
        {"ContainerID": full_id(9), "Origin": OURS, "Addr": "10.40.1.2", "Hostname": "x.", "Tombstone": 5},
    ]
    left = {
        (WEB, "10.40.0.2", "web.weave.local"),
        (WEB, "10.40.0.2", "by-hand.weave.local"),
        (attached, "10.40.0.10", "attached.weave.local"),
        (kept, "10.40.0.11", "printer.weave.local"),
    }

    async def scenario() -> None:
        async with running(engine, api):
            await until(lambda: api.names == left)

    trio.run(scenario)
    assert not [path for path in engine.asked if full_id(9) in path]


def test_what_is_missed_while_the_stream_is_down(engine: FakeEngine, api: FakeApi) -> None:
    engine.add(1, "web", pid=5)
    engine.connect(WEB, "n1", "10.40.0.1")
    engine.add(2, "db")
    engine.connect(DB, "n1", "10.40.0.2")

    async def scenario() -> None:
        async with running(engine, api):
            await until(lambda: api.names == {(WEB, "10.40.0.1", "web.weave.local")})
            engine.stop(WEB)
            engine.containers[DB]["State"] = {"Running": True, "Pid": 6}
            engine.say(None)
            await until(lambda: api.names == {(DB, "10.40.0.2", "db.weave.local")})

    trio.run(scenario)


def test_daemon_that_refuses_is_asked_again(engine: FakeEngine, api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    engine.add(1, "web", pid=5)
    engine.connect(WEB, "n1", "10.40.0.1")

    async def scenario() -> None:
        async with running(engine, api):
            await until(lambda: len(api.names) == 1)
            api.broken = True
            engine.connect(WEB, "n1", "10.40.0.2")
            engine.tell("start", WEB)
            await trio.sleep(0.5)
            api.broken = False
            await until(lambda: api.names == {(WEB, "10.40.0.2", "web.weave.local")})

    trio.run(scenario)
    assert caplog.text.count("not up to date") == 1


def test_container_that_cannot_be_read_does_not_hold_up_others(engine: FakeEngine, api: FakeApi) -> None:
    engine.add(1, "web", pid=5)
    engine.add(2, "db", pid=6)
    engine.connect(DB, "n1", "10.40.0.2")
    engine.answers[f"/containers/{WEB}/json"] = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{"

    async def scenario() -> None:
        async with running(engine, api):
            await until(lambda: api.names == {(DB, "10.40.0.2", "db.weave.local")})
            engine.connect(WEB, "n1", "10.40.0.1")
            del engine.answers[f"/containers/{WEB}/json"]
            await until(lambda: (WEB, "10.40.0.1", "web.weave.local") in api.names)

    trio.run(scenario)


def test_nothing_to_do_where_names_are_off(engine: FakeEngine, api: FakeApi) -> None:
    api.domain = None

    async def scenario() -> None:
        async with api.client() as client:
            await names.run(Engine(engine.socket), client)

    trio.run(scenario)
    assert engine.asked == []


@pytest.mark.parametrize(
    ("hostname", "domainname", "name", "aliases", "expected"),
    [
        ("www", "", "web", (), ["web", "www"]),
        ("web", "", "web", ("web", "WEB."), ["web"]),
        (WEB[:12], "", "web", (WEB[:12],), ["web"]),
        ("www", "weave.local", "web", (), ["web", "www"]),
        ("www.weave.local", "", "web", (), ["web", "www"]),
        ("www.example.com", "", "web", (), ["web"]),
        ("www", "example.com", "web", (), ["web"]),
        ("", "", "web", ("db.prod", "x.Weave.Local"), ["db.prod", "web", "x"]),
        ("", "", "", (), []),
    ],
)
def test_which_names(hostname: str, domainname: str, name: str, aliases: tuple[str, ...], expected: list[str]) -> None:
    container = Container(
        id=WEB, name=name, engine="Docker", running=True, pid=1, hostname=hostname, domainname=domainname
    )
    given = names.names_of(container, aliases, "weave.local")
    assert given == [f"{text}.weave.local" for text in expected]
