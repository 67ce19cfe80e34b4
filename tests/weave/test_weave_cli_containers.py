"""`weave attach`, `detach`, `ps`, `dns-add` and `dns-remove` of containers: a fake engine and a daemon of fakes.

This process is the container: its network namespace is the only one that the daemon knows.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker_plugin.fake_engine import FakeEngine, fake_engine, full_id
from weave.fake_daemon_process import (
    ALLOCATES_ALONE,
    NAMESPACE,
    Cli,
    caller,
    daemon,
    fails,
    forget_containers,
    succeeds,
)
from weave_docker import engine_containerd, engine_podman, engine_sockets
from weave_docker.engine_sockets import Engine
from weave_net import container_process
from weave_net.client import DaemonClient
from weave_net.commands import attachments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.directories import Directories

PID = os.getpid()
WEB = full_id(1)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directories]:
    with daemon(tmp_path_factory.mktemp("host"), **ALLOCATES_ALONE) as directories:
        yield directories


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """The only engine of the host; this process uses a network namespace that is not the host's."""
    monkeypatch.setattr(engine_sockets, "PODMAN", Engine(tmp_path / "podman.sock"))
    monkeypatch.setattr(engine_podman, "_TRACES", ())
    monkeypatch.setattr(engine_containerd, "_SOCKET", str(tmp_path / "containerd.sock"))
    monkeypatch.setattr(container_process, "_FIRST_PROCESS", tmp_path)
    with fake_engine(tmp_path / "docker.sock") as engine:
        yield engine


@pytest.fixture
def cli(directories: Directories, engine: FakeEngine) -> Iterator[Cli]:
    """Runs `weave` against that daemon, which afterwards has no attachments and no names again."""
    yield caller(directories, DOCKER_HOST=f"unix://{engine.socket}")
    forget_containers(directories)


def attached(directories: Directories) -> list[tuple[str, str, list[str]]]:
    with DaemonClient(directories) as client:
        return [(entry["id"], entry["netns"], entry["addresses"]) for entry in client.attachments()]


# Attaching and detaching


@pytest.mark.parametrize("text", ["web", WEB, WEB[:12]])
def test_by_name_or_id(cli: Cli, engine: FakeEngine, directories: Directories, text: str) -> None:
    engine.add(1, "web", pid=PID)
    assert succeeds(cli("attach", "10.2.1.5/24", "ip:10.2.2.5/24", text)) == "10.2.1.5 10.2.2.5\n"
    assert attached(directories) == [(WEB, NAMESPACE, ["10.2.1.5/24", "10.2.2.5/24"])]
    assert succeeds(cli("ps", text)).split()[::2] == [WEB[:12], "10.2.1.5/24"]
    assert succeeds(cli("detach", "10.2.1.5", text)) == "10.2.1.5\n"
    assert succeeds(cli("detach", text)) == "10.2.2.5\n"
    assert attached(directories) == []


def test_address_of_the_default_subnet(cli: Cli, engine: FakeEngine) -> None:
    engine.add(1, "web", pid=PID)
    first = succeeds(cli("attach", "web"))
    assert first.startswith("10.32.1.")
    assert succeeds(cli("attach", "web")) == first
    assert succeeds(cli("attach", "net:default", "web")) == first


def test_container_that_stopped_can_be_detached(cli: Cli, engine: FakeEngine) -> None:
    engine.add(1, "web", pid=PID)
    succeeds(cli("attach", "10.2.1.5/24", "web"))
    engine.stop(WEB)
    assert succeeds(cli("detach", "web")) == "10.2.1.5\n"
    succeeds(cli("attach", "--id", WEB, "--pid", str(PID), "10.2.1.5/24"))
    engine.containers.clear()
    assert succeeds(cli("detach", WEB[:12])) == "10.2.1.5\n"


def test_process_and_path_instead_of_a_container(cli: Cli, engine: FakeEngine, directories: Directories) -> None:
    key = f"netns-{Path(NAMESPACE).stat().st_ino}"
    assert succeeds(cli("attach", "10.2.1.5/24", "--pid", str(PID))) == "10.2.1.5\n"
    assert succeeds(cli("attach", "10.2.1.6/24", "--netns", NAMESPACE)) == "10.2.1.6\n"
    assert attached(directories) == [(key, NAMESPACE, ["10.2.1.5/24", "10.2.1.6/24"])]
    assert succeeds(cli("detach", "10.2.1.5", "--pid", str(PID))) == "10.2.1.5\n"
    assert succeeds(cli("detach", "--id", key)) == "10.2.1.6\n"
    assert engine.asked == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"pid": 0}, "container web is not running"),
        ({"pid": PID, "HostConfig": {"NetworkMode": "host"}}, "container web uses the host's network"),
        ({"pid": 4194305}, "there is no process 4194305"),
    ],
)
def test_refused(cli: Cli, engine: FakeEngine, directories: Directories, changes: dict[str, object], part: str) -> None:
    engine.add(1, "web", **changes)  # type: ignore[arg-type]
    assert part in fails(cli("attach", "10.2.1.5/24", "web"))
    assert attached(directories) == []


def test_host_network_by_another_name(
    cli: Cli, engine: FakeEngine, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_process, "_FIRST_PROCESS", Path(NAMESPACE))
    engine.add(1, "web", pid=PID)
    assert "container web uses the host's network" in fails(cli("attach", "10.2.1.5/24", "web"))
    assert f"process {PID} uses the host's network" in fails(cli("attach", "10.2.1.5/24", "--pid", str(PID)))
    assert attached(directories) == []


def test_unknown_container(cli: Cli, engine: FakeEngine) -> None:
    text = f"there is no container web: not known to Docker ({engine.socket})\n"
    assert fails(cli("attach", "10.2.1.5/24", "web")) == text
    assert fails(cli("detach", "web")) == text


@pytest.mark.parametrize("arguments", [["--pid", "1"], ["--netns", NAMESPACE], ["--pid", "1", "--netns", NAMESPACE]])
@pytest.mark.parametrize("command", ["attach", "detach"])
def test_container_twice(cli: Cli, command: str, arguments: list[str]) -> None:
    words = [*arguments, *([] if len(arguments) > 2 else ["web"])]
    assert "not twice" in fails(cli(command, *words))


@pytest.mark.parametrize("command", ["attach", "detach"])
def test_two_containers(cli: Cli, engine: FakeEngine, command: str) -> None:
    engine.add(1, "web", pid=PID)
    assert "'db' is" in fails(cli(command, "db", "web"))
    result = cli(command, "10.2.1.5/24")
    assert result.exit_code == 1
    assert "which container?" in result.stderr


def test_container_that_dies_half_way(
    cli: Cli, engine: FakeEngine, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.add(1, "web", pid=PID)
    lives = container_process.ContainerProcess.lives
    monkeypatch.setattr(container_process.ContainerProcess, "lives", lambda _: False)
    assert fails(cli("attach", "10.2.1.5/24", "web")) == "container web: container died\n"
    assert attached(directories) == []
    monkeypatch.setattr(container_process.ContainerProcess, "lives", lives)
    with subprocess.Popen(["sleep", "60"]) as process:
        engine.add(1, "web", pid=process.pid)
        put = DaemonClient.put_attachment

        def kill_and_put(*arguments: object) -> object:
            process.kill()
            process.wait()
            return put(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(DaemonClient, "put_attachment", kill_and_put)
        assert fails(cli("attach", "10.2.1.5/24", "web")) == "container web: container died\n"


# Names


def lookup(cli: Cli, name: str) -> list[str]:
    result = cli("dns-lookup", name)
    return result.stdout.split() if result.exit_code == 0 else []


@pytest.mark.parametrize(
    ("hostname", "domainname", "options", "names"),
    [
        ("web", "weave.local", [], ["web"]),
        ("WEB", "Weave.Local.", [], ["web"]),
        ("web.weave.local", "", [], ["web"]),
        ("web", "", [], []),
        ("web", "example.com", [], []),
        ("web", "weave.local", ["--without-dns"], []),
        ("web", "weave.local", ["-h", "other.weave.local"], ["other"]),
    ],
)
def test_own_name(
    cli: Cli, engine: FakeEngine, hostname: str, domainname: str, options: list[str], names: list[str]
) -> None:
    engine.add(1, "box", pid=PID, Config={"Hostname": hostname, "Domainname": domainname})
    succeeds(cli("attach", *options, "10.2.1.5/24", "box"))
    found = [name for name in ("web", "box", "other") if lookup(cli, f"{name}.weave.local") == ["10.2.1.5"]]
    assert found == names
    succeeds(cli("detach", "box"))
    assert succeeds(cli("status", "dns")) == ""


def test_contradiction(cli: Cli, engine: FakeEngine) -> None:
    assert "contradict" in fails(cli("attach", "--without-dns", "-h", "x.weave.local", "web"))
    assert "--add-host needs --rewrite-hosts" in fails(cli("attach", "--add-host", "a:10.0.0.1", "web"))
    assert engine.asked == []


def test_names_of_containers(cli: Cli, engine: FakeEngine) -> None:
    engine.add(1, "web", pid=PID)
    engine.add(2, "db")
    succeeds(cli("attach", "10.2.1.5/24", "web"))
    succeeds(cli("dns-add", "web", "-h", "www.weave.local"))
    assert lookup(cli, "www.weave.local") == ["10.2.1.5"]
    succeeds(cli("dns-add", "10.2.1.7", "db", "-h", "db.weave.local"))
    assert full_id(2)[:12] in succeeds(cli("status", "dns"))
    succeeds(cli("dns-remove", "db"))
    succeeds(cli("dns-remove", "web", "-h", "www.weave.local"))
    assert succeeds(cli("status", "dns")) == ""
    assert "has no address" in fails(cli("dns-add", "db", "-h", "db.weave.local"))


def test_name_from_before_the_container_is_removed_too(cli: Cli, engine: FakeEngine) -> None:
    succeeds(cli("dns-add", "10.2.1.7", "db", "-h", "db.weave.local"))
    engine.add(2, "db")
    succeeds(cli("dns-remove", "db"))
    assert succeeds(cli("status", "dns")) == ""


def test_ps_of_unknown_containers(cli: Cli, engine: FakeEngine) -> None:
    engine.add(1, "web")
    assert succeeds(cli("ps", "web", "nobody", "../x")) == ""


# /etc/hosts


def test_hosts_of_this_host_are_never_written(cli: Cli, engine: FakeEngine) -> None:
    """This process has the root of the host."""
    engine.add(1, "web", pid=PID, Config={"Hostname": "web", "Domainname": "weave.local"})
    before = Path("/etc/hosts").read_bytes()
    result = cli("attach", "--rewrite-hosts", "10.2.1.5/24", "web")
    assert (result.exit_code, result.stdout) == (1, "10.2.1.5\n")
    assert "has the host's file system" in result.stderr
    assert Path("/etc/hosts").read_bytes() == before


def test_what_is_written(cli: Cli, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.add(1, "web", pid=PID, Config={"Hostname": "web", "Domainname": "weave.local"})
    written: list[str] = []
    monkeypatch.setattr(attachments, "write_hosts_file", lambda _, text: written.append(text))
    arguments = ["--rewrite-hosts", "--add-host", "db:10.2.1.9", "--add-host=six:fd00::9", "web"]
    succeeds(cli("attach", "10.2.1.5/24", "web"))
    succeeds(cli("attach", "10.2.2.5/24", *arguments))
    lines = written[0].splitlines()
    assert lines[1] == "127.0.0.1 localhost"
    assert lines[-4:] == [
        "10.2.1.5 web.weave.local web",
        "10.2.2.5 web.weave.local web",
        "10.2.1.9 db",
        "fd00::9 six",
    ]


def test_container_whose_host_name_is_unknown(cli: Cli, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under containerd."""
    engine.add(1, "web", pid=PID, Config={})
    written: list[str] = []
    monkeypatch.setattr(attachments, "write_hosts_file", lambda _, text: written.append(text))
    assert "give it with -h NAME" in fails(cli("attach", "--rewrite-hosts", "web"))
    succeeds(cli("attach", "--rewrite-hosts", "-h", "www.weave.local", "10.2.1.5/24", "web"))
    assert written[0].splitlines()[-1] == "10.2.1.5 www.weave.local www"


@pytest.mark.parametrize("text", ["db", "db:", "db:nonsense", ":10.0.0.1", "a b:10.0.0.1", "a\nb:10.0.0.1"])
def test_bad_extra_host(cli: Cli, engine: FakeEngine, directories: Directories, text: str) -> None:
    engine.add(1, "web", pid=PID)
    result = cli("attach", "--rewrite-hosts", "--add-host", text, "web")
    assert (result.exit_code, result.stdout) == (1, "")
    assert attached(directories) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--netns", NAMESPACE], "a namespace has no files"),
        (["--pid", str(PID)], "is unknown; give it with -h NAME"),
        (["evil"], "is no host name"),
    ],
)
def test_hosts_that_cannot_be_written(
    cli: Cli, engine: FakeEngine, directories: Directories, arguments: list[str], part: str
) -> None:
    engine.add(1, "evil", pid=PID, Config={"Hostname": "a\n10.0.0.1 bank", "Domainname": ""})
    assert part in fails(cli("attach", "--rewrite-hosts", *arguments))
    assert attached(directories) == []
