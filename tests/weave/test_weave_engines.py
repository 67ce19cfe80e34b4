"""Containers that end, as the daemon hears of them, and requests of containers that are dead already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trio

from docker_plugin.fake_engine import FakeEngine, fake_engine, full_id, until
from weave.http_asker import Asker
from weave_docker import engine_client
from weave_docker.engine_sockets import Engine
from weave_net.engines import Engines
from weave_net.errors import SettingsError, StoreError
from weave_net.settings import DaemonSettings, choose_engines
from weave_net.testing.daemons import running_daemon, settings_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WEB, DB = full_id(1), full_id(2)


@dataclass
class Attached:
    id: str
    owner: str = "cli"


class FakeAttachments:
    def __init__(self, *attached: Attached) -> None:
        self.attached = list(attached)
        self.ended: list[str] = []
        self.error: Exception | None = None

    def list(self) -> list[Attached]:
        return self.attached

    async def container_ended(self, attachment_id: str) -> None:
        self.ended.append(attachment_id)
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_client, "FIRST_PAUSE_S", 0.02)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path / "docker.sock") as engine:
        yield engine


def test_containers_that_end(engine: FakeEngine) -> None:
    attachments = FakeAttachments(Attached(WEB), Attached(DB), Attached(full_id(3), "cni"), Attached("netns-1"))
    for number in range(1, 5):
        engine.add(number, f"c{number}", pid=number)

    async def scenario() -> None:
        engines = Engines([Engine(engine.socket)], attachments)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engines.run)
            await until(lambda: "/containers/json?all=true" in engine.asked)
            attachments.error = StoreError("the disk is full")  # which must not end the daemon
            for identifier in (full_id(3), full_id(4), WEB):
                engine.tell("die", identifier)
            engine.tell("start", DB)
            engine.tell("destroy", DB)
            await until(lambda: len(attachments.ended) == 2)
            nursery.cancel_scope.cancel()

    trio.run(scenario)
    assert attachments.ended == [WEB, DB]


def test_containers_that_ended_unheard(engine: FakeEngine) -> None:
    attachments = FakeAttachments(Attached(WEB), Attached(DB), Attached(full_id(9)))
    engine.add(1, "web")
    engine.add(2, "db", pid=2)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Engines([Engine(engine.socket)], attachments).run)
            await until(lambda: attachments.ended == [WEB])
            engine.stop(DB)
            attachments.attached = [Attached(DB)]
            await until(lambda: bool(engine.streams))
            engine.say(None)
            await until(lambda: attachments.ended == [WEB, DB])
            nursery.cancel_scope.cancel()

    trio.run(scenario)


def test_who_is_dead(engine: FakeEngine, tmp_path: Path) -> None:
    engine.add(1, "web")
    engine.add(2, "db", pid=5)
    engine.answers[f"/containers/{full_id(3)}/json"] = b"garbage"

    async def scenario() -> None:
        engines = Engines([Engine(tmp_path / "none.sock"), Engine(engine.socket)], FakeAttachments())
        dead = [await engines.is_dead(container) for container in (WEB, DB, full_id(3), full_id(4), "web", "_")]
        assert dead == [True, False, False, False, False, False]
        assert not await Engines([], FakeAttachments()).is_dead(WEB)

    trio.run(scenario)


def test_no_engines() -> None:
    trio.run(Engines([], FakeAttachments()).run)


def test_which_engines_are_followed(tmp_path: Path) -> None:
    usual = [str(engine.socket) for engine in choose_engines(None, None)]
    assert usual == ["/var/run/docker.sock", "/run/podman/podman.sock"]
    assert choose_engines("", "unix:///x.sock") == ()
    given = choose_engines("unix:///a.sock,/b.sock", None)
    assert [str(engine.socket) for engine in given] == ["/a.sock", "/b.sock"]
    settings = settings_in(tmp_path, engines=given)
    assert DaemonSettings.from_json(settings.to_json()) == settings
    with pytest.raises(SettingsError, match="--docker-api: 'tcp://x:1' is no address of an engine on this host"):
        choose_engines("tcp://x:1", None)
    with pytest.raises(SettingsError, match="DOCKER_HOST"):
        choose_engines(None, "unix://x.sock")


def test_requests_of_dead_containers(engine: FakeEngine, tmp_path: Path) -> None:
    """cli.md section 8, `check-alive`: nothing is left for a container that cannot give it back."""
    engine.add(1, "web")
    engine.add(2, "db", pid=5)
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.99\n")  # where nobody listens
    settings: dict[str, Any] = {
        "engines": (Engine(engine.socket),),
        "ipalloc_init": "consensus=1",
        "resolv_conf": str(tmp_path / "resolv.conf"),
    }

    async def scenario() -> None:
        async with running_daemon(tmp_path, **settings) as daemon:
            ask = Asker(daemon)

            async def held(container: str) -> str:
                return (await ask("GET", f"/ip/{container}/10.32.0.0/12")).body

            for path in (f"/ip/{WEB}", f"/ip/{WEB}/10.32.5.0/24"):
                answer = await ask("POST", f"{path}?check-alive=true")
                assert (answer.status, answer.body) == (200, "cancelled")
            assert (await ask("PUT", f"/ip/{WEB}/10.32.7.7/24?check-alive=true")).status == 204
            assert await held(WEB) == ""
            for body in ("fqdn=web.weave.local&check-alive=true", "fqdn=x.weave.local&check-alive=1&strict=1"):
                assert (await ask("PUT", f"/name/{WEB}/10.32.7.7", body)).status == 204
            assert (await ask("GET", "/lookup/web")).status == 404

            for container, query in ((WEB, ""), (WEB, "?check-alive=false"), (DB, "?check-alive=true")):
                assert (await ask("POST", f"/ip/{container}{query}")).body.endswith("/12")
            kept = await held(WEB)
            assert (await ask("POST", f"/ip/{WEB}?check-alive=true")).body == "cancelled"
            assert await held(WEB) == kept  # it was there before
            await ask("PUT", f"/name/{DB}/10.32.7.8", "fqdn=db.weave.local&check-alive=true")
            assert (await ask("GET", "/lookup/db")).body == "10.32.7.8\n"

    trio.run(scenario)
