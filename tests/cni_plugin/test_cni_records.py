"""Deletions that wait for the daemon, as files, and the executables' part that needs no daemon."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from cni_plugin.hostile_caller import Hostile, standard_input, with_daemon
from weave_cni.install import install_plugins
from weave_cni.pending import PENDING, record_name
from weave_cni.wire import encode_call
from weave_net.testing.wirings import FakeWiring
from weave_router.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture
def pending(tmp_path: Path) -> Path:
    """The directory of the records of a daemon in `tmp_path`."""
    directory = tmp_path / "run" / PENDING
    directory.mkdir(parents=True)
    return directory


def record(
    pending: Path, config: dict[str, Any] | bytes | None = None, *, name: str = "1", **changes: str | None
) -> Path:
    """Leave a record; executables name them by what they are about, see `record_name`."""
    environment = Hostile.environment(Hostile(None, ""), "DEL", **changes)  # type: ignore[arg-type]
    path = pending / name
    path.write_bytes(encode_call(environment, standard_input(config)))
    return path


async def starts(hostile: Hostile) -> None:
    """The daemon serves."""
    assert (await hostile.ask("VERSION")).status == 0


# The daemon's part


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (None, {"CNI_IFNAME": "eth\udcff"}),
        (None, {"CNI_CONTAINERID": "\udcff"}),
        (None, {"CNI_NETNS": "/\udcff"}),
        (None, {"WEAVE_CNI_PLUGIN": "weave-ipam", "CNI_IFNAME": "\udcff"}),
        (None, {"CNI_IFNAME": "net@1"}),
        (None, {"CNI_ARGS": "x"}),
        ({"ipam": {"type": "weave-net"}}, {}),
        ({"ipam": {"type": "\ud800"}}, {}),
        ({"name": "\ud800"}, {}),
        ({"name": 5}, {}),
        ({"cniVersion": []}, {}),
        (b"[" * 100_000, {}),
        (b"9" * 10_000, {}),
        (b"\xff\xfe", {}),
        (b"null", {}),
    ],
    ids=str,
)
def test_record_that_makes_no_sense_does_not_keep_the_daemon_from_starting(
    tmp_path: Path, netns: str, pending: Path, config: Any, changes: dict[str, str]
) -> None:
    path = record(pending, config, **changes)
    with_daemon(starts, tmp_path, netns)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["pipe", "directory", "socket", "endless", "dangling"])
def test_what_is_no_record(tmp_path: Path, netns: str, pending: Path, kind: str) -> None:
    """It is looked at without waiting for it, and without reading more than a record has."""
    path = pending / "1"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(path))
        case "endless":
            path.touch()
            os.truncate(path, 1 << 29)
        case _:
            path.symlink_to("/nowhere")

    def unblock() -> None:  # a daemon that waits for somebody to write would wait for ever
        time.sleep(5)
        if kind == "pipe":
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:
                return

    threading.Thread(target=unblock, daemon=True).start()
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with_daemon(starts, tmp_path, netns)
    assert time.monotonic() - begin < 4.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "KiB"


def test_long_record(tmp_path: Path, netns: str, pending: Path) -> None:
    """What goes over the socket can be left as a record, too."""
    fakes = FakeWiring()

    async def add(hostile: Hostile) -> None:
        assert (await hostile.ask("ADD")).status == 0

    async def check(hostile: Hostile) -> None:
        await hostile.check_nothing_left()

    with_daemon(add, tmp_path, netns, fakes)
    record(pending, {"prevResult": {"dns": {"search": ["x" * 1000] * 2000}}})
    with_daemon(check, tmp_path, netns, fakes)


def test_record_that_was_done_does_not_hit_the_next_attachment(tmp_path: Path, netns: str, pending: Path) -> None:
    """The executable may be killed between the daemon's answer and its removing the record."""
    fakes = FakeWiring()

    async def live(hostile: Hostile) -> None:
        assert (await hostile.ask("ADD")).status == 0
        record(pending, name=record_name("weave-net", "weave", "web", "eth0"))
        assert (await hostile.ask("DEL")).status == 0
        assert (await hostile.ask("ADD")).status == 0

    async def check(hostile: Hostile) -> None:
        assert [known["id"] for known in await hostile.attachments()] == ["web"]
        assert len(hostile.links) == 1

    with_daemon(live, tmp_path, netns, fakes)
    with_daemon(check, tmp_path, netns, fakes)


def test_record_of_another_network_leaves_the_interface_alone(tmp_path: Path, netns: str, pending: Path) -> None:
    fakes = FakeWiring()

    async def live(hostile: Hostile) -> None:
        assert (await hostile.ask("ADD")).status == 0

    async def check(hostile: Hostile) -> None:
        assert [known["id"] for known in await hostile.attachments()] == ["web"]

    with_daemon(live, tmp_path, netns, fakes)
    path = record(pending, {"name": "another"})
    with_daemon(check, tmp_path, netns, fakes)
    assert not path.exists()


def refuse_to_detach(fakes: FakeWiring, interface: str) -> Any:
    """Let the host refuse to remove interfaces of this name, until the function that is returned is called."""
    detach = fakes.host.detach

    async def refuse(namespace: Any, name: str, *arguments: Any) -> Any:
        if name == interface:
            raise HostError("the device is busy")
        return await detach(namespace, name, *arguments)

    fakes.host.detach = refuse  # type: ignore[method-assign, assignment]

    def allow() -> None:
        fakes.host.detach = detach  # type: ignore[method-assign]

    return allow


def test_record_that_cannot_be_done_yet_does_not_hit_the_next_attachment(
    tmp_path: Path, netns: str, pending: Path
) -> None:
    """It is older than an ADD that came later, whenever it is tried again."""
    fakes = FakeWiring()
    allow = refuse_to_detach(fakes, "eth0")
    record(pending)

    async def check(hostile: Hostile) -> None:
        added = (await hostile.ask("ADD")).status == 0  # it may be refused until the record is done
        allow()
        assert (await hostile.ask("ADD", CNI_CONTAINERID="db", CNI_IFNAME="eth1")).status == 0
        assert added == ("web" in {known["id"] for known in await hostile.attachments()})

    async def later(hostile: Hostile) -> None:
        assert {known["id"] for known in await hostile.attachments()} >= {"db"}

    with_daemon(check, tmp_path, netns, fakes)
    with_daemon(later, tmp_path, netns, fakes)


def test_record_that_cannot_be_done_is_told_of_once(
    tmp_path: Path, netns: str, pending: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Others are added meanwhile, and the log does not fill."""
    fakes = FakeWiring()
    refuse_to_detach(fakes, "eth0")
    record(pending)
    (pending / "2").mkdir()

    async def check(hostile: Hostile) -> None:
        for number in range(5):
            assert (await hostile.ask("ADD", CNI_CONTAINERID=f"c{number}", CNI_IFNAME=f"net{number}")).status == 0

    with_daemon(check, tmp_path, netns, fakes)
    assert len([entry for entry in caplog.records if str(pending) in entry.getMessage()]) <= 2


# The executables' part


class Executables:
    """The installed plugins, and a run directory without a daemon."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "bin"
        self.run_directory = directory / "run"
        install_plugins(self.directory)

    def other(self, name: str, script: str) -> None:
        """Another plugin: a shell script."""
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def call(self, command: str, config: dict[str, Any], **changes: str) -> tuple[int, Any, str]:
        """Exit status, what is printed as JSON, and standard error."""
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": "web",
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": "/run/netns/none",
            "CNI_PATH": str(self.directory),
            **changes,
        }
        done = subprocess.run(
            [self.directory / "weave-net"],
            input=standard_input({"weaveRunDir": str(self.run_directory), **config}),
            env={os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
            capture_output=True,
            timeout=20,
        )
        errors = done.stderr.decode(errors="replace")
        assert "Traceback" not in errors, errors
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, errors

    @property
    def records(self) -> list[Path]:
        """What waits for a daemon."""
        directory = self.run_directory / PENDING
        return sorted(directory.iterdir()) if directory.exists() else []


@pytest.fixture
def executables(tmp_path: Path) -> Executables:
    """The installed plugins."""
    return Executables(tmp_path)


def offline() -> Any:
    """The module as it is installed."""
    spec = importlib.util.find_spec("weave_cni.offline")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_record_that_cannot_be_written(executables: Executables) -> None:
    """A full or missing disk: the runtime is told why, and tries again."""
    executables.run_directory.write_text("a file is in the way")
    status, printed, _ = executables.call("DEL", {})
    assert status == 1
    assert printed["code"] in {5, 11}
    assert str(executables.run_directory) in printed["msg"]


def test_own_name_as_address_plugin_without_a_daemon(executables: Executables) -> None:
    status, _, _ = executables.call("DEL", {"ipam": {"type": "weave-net"}})
    assert status in {0, 1}
    assert len(executables.records) <= 1


def test_deleting_the_same_again_and_again_leaves_one_record(executables: Executables) -> None:
    """Runtimes try for as long as the other plugin fails, every few seconds."""
    executables.other("broken", "exit 3")
    for _ in range(5):
        assert executables.call("DEL", {"ipam": {"type": "broken"}})[0] != 0
    assert len(executables.records) == 1


def test_capitalised_key_without_a_daemon(executables: Executables) -> None:
    """As with the daemon: whose address it is, is told of the deletion."""
    executables.other("lessor", f"touch {executables.directory}/told")
    assert executables.call("DEL", {"IPAM": {"Type": "lessor"}})[0] == 0
    assert (executables.directory / "told").exists()


@pytest.mark.parametrize("name", ["x" * 300, "x" * 128, "..", ".", "a\nb", "a/b"])
def test_plugin_that_is_not_there(tmp_path: Path, name: str) -> None:
    status, printed = offline().delegate(name, {"CNI_PATH": f"{tmp_path}:{tmp_path}{'/x' * 3000}"}, b"{}")
    assert status == 1
    assert json.loads(printed)["code"] in {7, 999}


@pytest.mark.parametrize(
    ("script", "known"),
    [
        (
            "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done",
            "bytes",
        ),
        ("exec >&-; sleep 20", ""),
        ("sleep 20", "did not end"),
        ("sleep 20 & echo '{}'", ""),
        ("kill -9 $$", ""),
        ("exec <&-; echo '{}'", ""),
        ('cat >/dev/null; printf \'%s\' \'{"code": 5, "msg": "no"}\'; exit 5', "no"),
    ],
)
def test_plugin_that_misbehaves_is_over_in_time(executables: Executables, script: str, known: str) -> None:
    module = offline()
    module.DELEGATE_LIMIT_S = 2
    executables.other("other", script)
    begin = time.monotonic()
    status, printed = module.delegate("other", {"CNI_PATH": str(executables.directory)}, b" " * (2 << 20))
    assert time.monotonic() - begin < 10
    assert len(printed) < 4 << 20
    if known:
        assert status != 0
        assert known in json.loads(printed)["msg"]


def test_plugin_that_was_killed_leaves_no_children(executables: Executables, tmp_path: Path) -> None:
    """What it started goes on changing the container otherwise, after the runtime was told of a failure."""
    module = offline()
    module.DELEGATE_LIMIT_S = 1
    executables.other("other", f"(sleep 3; touch {tmp_path}/late) & wait")
    status, _ = module.delegate("other", {"CNI_PATH": str(executables.directory)}, b"{}")
    assert status != 0
    time.sleep(3)
    assert not (tmp_path / "late").exists()
