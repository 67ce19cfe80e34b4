"""The daemon's life: how it starts, what makes it end, and what is left behind."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from weave_net.daemon import run_daemon
from weave_net.errors import DaemonError, ListenError, leaves
from weave_net.settings import HttpAddress
from weave_net.testing.daemons import running_daemon, settings_in
from weave_net.testing.wirings import FakeWiring
from weave_router.errors import HostError

if TYPE_CHECKING:
    from weave_net.settings import DaemonSettings
    from weave_router.doors import BridgeInfo


def causes(error: BaseException) -> list[str]:
    return [f"{type(cause).__name__}: {cause}" for cause in leaves(error)]


async def run_and_fail(settings: DaemonSettings, fakes: FakeWiring) -> BaseException:
    """Run a daemon that must end with an error, and return that."""
    settings.directories.prepare()
    try:
        with trio.fail_after(5):
            await run_daemon(settings, ready=lambda: None, wiring=fakes.wiring())
    except (Exception, BaseExceptionGroup) as error:
        return error
    raise AssertionError("the daemon ended without an error")


# Starting


def test_name_and_targets_are_kept_over_restarts(tmp_path: Path) -> None:
    async def main() -> None:
        fakes = FakeWiring()
        async with running_daemon(tmp_path, fakes, name=None, peers=("h2",)) as daemon:
            first = daemon.router.settings.name
            await daemon.call(lambda client: client.post("/connect", {"peer": "h3"}))
        async with running_daemon(tmp_path, fakes, name=None, peers=("h2",)) as daemon:
            assert daemon.router.settings.name == first
            assert daemon.router.targets == ("h2", "h3")
        async with running_daemon(tmp_path, fakes, name=None, peers=("h9",)) as daemon:
            assert daemon.router.targets == ("h9",)

    trio.run(main)


def test_attachments_are_adopted_over_restarts(tmp_path: Path) -> None:
    async def main() -> None:
        fakes = FakeWiring()
        fakes.host.add_namespace("/run/netns/web")
        body = {"netns": "/run/netns/web", "addresses": ["10.2.1.5/24"]}
        async with running_daemon(tmp_path, fakes) as daemon:
            made = await daemon.call(lambda client: client.put_attachment("web", "ethwe", body))
        async with running_daemon(tmp_path, fakes) as daemon:
            assert await daemon.call(lambda client: client.put_attachment("web", "ethwe", body)) == made

    trio.run(main)


def test_settings_reach_the_router(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_daemon(tmp_path, port=7000, password="s3cret", discovery=False, mtu=1400) as daemon:
            settings = daemon.router.settings
            assert (settings.port, settings.password, settings.discovery, settings.mtu) == (
                7000,
                b"s3cret",
                False,
                1400,
            )

    trio.run(main)


def test_router_that_cannot_start(tmp_path: Path) -> None:
    async def main() -> None:
        fakes = FakeWiring()
        fakes.start_error = HostError("TCP port 6783 is in use by another program")
        error = await run_and_fail(settings_in(tmp_path), fakes)
        assert causes(error) == ["HostError: TCP port 6783 is in use by another program"]
        assert not await trio.Path(tmp_path / "run" / "weave.sock").exists()

    trio.run(main)


def test_http_address_in_use(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            fakes = FakeWiring()
            settings = settings_in(tmp_path, http_address=HttpAddress("127.0.0.1", port))
            error = await run_and_fail(settings, fakes)
            assert isinstance(error, ListenError)
            assert f"127.0.0.1:{port} is in use" in str(error)
            assert "--http-addr" in str(error)
            assert not fakes.host.calls  # nothing was changed on the host

    trio.run(main)


@pytest.mark.parametrize(
    ("host", "text"), [("203.0.113.77", "cannot be used"), ("no-such-host.invalid", "cannot be resolved")]
)
def test_http_address_of_somebody_else(tmp_path: Path, host: str, text: str) -> None:
    async def main() -> None:
        error = await run_and_fail(settings_in(tmp_path, http_address=HttpAddress(host, 1)), FakeWiring())
        assert text in str(error)

    trio.run(main)


def test_stale_socket_is_replaced_and_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "weave.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def main() -> None:
        async with running_daemon(tmp_path) as daemon:
            assert await daemon.call(lambda client: client.text("/healthz")) == "ok\n"
            assert (await trio.Path(path).stat()).st_mode & 0o777 == 0o600
        assert not await trio.Path(path).exists()

    trio.run(main)


# Ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_the_daemon(tmp_path: Path, number: signal.Signals) -> None:
    async def main() -> None:
        async with running_daemon(tmp_path) as daemon:
            os.kill(os.getpid(), number)
            with trio.fail_after(5):
                await daemon.ended.wait()
            assert not daemon.router.running
            assert daemon.fakes.host.closed

    trio.run(main)


def test_signal_breaks_off_a_start_that_takes_long(tmp_path: Path) -> None:
    async def main() -> None:
        fakes = FakeWiring()

        async def hang(name: str, mac: str, mtu: int) -> BridgeInfo:
            os.kill(os.getpid(), signal.SIGTERM)
            await trio.sleep_forever()

        fakes.host.ensure_bridge = hang  # type: ignore[method-assign]
        settings = settings_in(tmp_path)
        settings.directories.prepare()
        announced = []
        with trio.fail_after(5):
            await run_daemon(
                settings,
                ready=lambda: announced.append("ready"),
                stopping=lambda: announced.append("stopping"),
                wiring=fakes.wiring(),
            )
        assert announced == ["stopping"]

    trio.run(main)


def test_requests_under_way_are_finished_before_the_router_ends(tmp_path: Path) -> None:
    async def main() -> None:
        fakes = FakeWiring()
        fakes.host.add_namespace("/run/netns/web")
        working = fakes.host.attach
        states = []

        async def slow(request: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            await trio.sleep(0.2)
            states.append(fakes.routers[-1].running)
            return await working(request)

        fakes.host.attach = slow  # type: ignore[method-assign]
        async with running_daemon(tmp_path, fakes) as daemon:
            body = {"netns": "/run/netns/web", "addresses": ["10.2.1.5/24"]}
            made = await daemon.call(lambda client: client.put_attachment("web", "ethwe", body))
            assert made["addresses"] == ["10.2.1.5/24"]
            with trio.fail_after(5):
                await daemon.ended.wait()
        assert states == [True]

    trio.run(main)


def test_idle_connections_do_not_hold_up_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_daemon(tmp_path) as daemon:
            with socket.socket(socket.AF_UNIX) as idle:
                idle.connect(str(daemon.settings.directories.socket))
                begin = trio.current_time()
                os.kill(os.getpid(), signal.SIGTERM)
                await daemon.ended.wait()
                assert trio.current_time() - begin < 4

    trio.run(main)


@pytest.mark.parametrize(
    ("crash", "cause"),
    [
        (RuntimeError("a bug"), "RuntimeError: a bug"),
        (None, "DaemonError: the router ended although nobody asked it to"),
    ],
)
def test_router_that_crashes_ends_the_daemon(tmp_path: Path, crash: Exception | None, cause: str) -> None:
    async def main() -> None:
        fakes = FakeWiring()
        settings = settings_in(tmp_path)
        settings.directories.prepare()

        def ready() -> None:
            fakes.routers[-1].crash = crash
            fakes.routers[-1].crashing.set()

        with trio.fail_after(5):
            try:
                await run_daemon(settings, ready=ready, wiring=fakes.wiring())
            except (BaseExceptionGroup, DaemonError) as error:
                assert causes(error) == [cause]
            else:
                raise AssertionError("the daemon did not notice")
        assert fakes.host.closed

    trio.run(main)


# Logging


def test_sighup_reopens_the_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[Path] = []

    async def main() -> None:
        reopened = trio.Event()

        def reopen(path: Path) -> None:
            paths.append(path)
            reopened.set()

        monkeypatch.setattr("weave_net.daemon.reopen_log_file", reopen)
        async with running_daemon(tmp_path, log_file=tmp_path / "weave.log") as daemon:
            os.kill(os.getpid(), signal.SIGHUP)
            with trio.fail_after(5):
                await reopened.wait()
            assert not daemon.ended.is_set()

    trio.run(main)
    assert paths == [tmp_path / "weave.log"]


def test_password_is_in_no_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with running_daemon(tmp_path, password="s3cret-word") as daemon:
            await daemon.call(lambda client: client.text("/report"))

    trio.run(main)
    assert caplog.records
    assert "s3cret-word" not in caplog.text
    for path in Path(tmp_path).rglob("*"):
        assert not path.is_file() or b"s3cret-word" not in path.read_bytes(), path
