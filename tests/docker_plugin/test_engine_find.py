"""Finding a container: engines on their sockets, programs where there is no socket, and what goes wrong there."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import pytest

from docker_plugin.fake_engine import FakeEngine, fake_engine, full_id
from weave_docker import engine as finder
from weave_docker import engine_containerd, engine_podman
from weave_docker.engine import find_container
from weave_docker.engine_documents import is_container_name, read_container, read_endpoints
from weave_docker.engine_errors import ContainerUnknown, EngineAddressError, EngineUnavailable
from weave_docker.engine_sockets import Engine, default_engines, joined, parse_engines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from weave_docker.engine_documents import Container


@pytest.fixture(autouse=True)
def _no_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own engines."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(engine_podman, "_TRACES", (tmp_path / "libpod",))
    monkeypatch.setattr(engine_containerd, "_SOCKET", str(tmp_path / "containerd.sock"))


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path / "docker.sock") as engine:
        yield engine


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[FakeEngine]:
    with fake_engine(tmp_path / "podman.sock") as engine:
        yield engine


def find(text: str, *engines: FakeEngine) -> Container:
    return find_container(text, [Engine(engine.socket) for engine in engines])


def refusal(text: str, *engines: FakeEngine) -> str:
    with pytest.raises(ContainerUnknown) as caught:
        find(text, *engines)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def program(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


# By socket


def test_by_name_id_and_beginning(docker: FakeEngine) -> None:
    identifier = docker.add(
        1,
        "web",
        pid=77,
        Config={"Hostname": "web", "Domainname": "weave.local"},
        HostConfig={"NetworkMode": "host"},
    )
    for text in ("web", identifier, identifier[:7]):
        found = find(text, docker)
        assert (found.id, found.name, found.engine) == (identifier, "web", "Docker")
        assert (found.running, found.pid) == (True, 77)
        assert (found.hostname, found.domainname, found.network_mode) == ("web", "weave.local", "host")


@pytest.mark.parametrize(
    "state",
    [
        {"Running": False, "Pid": 0},
        {"Running": True, "Restarting": True, "Pid": 0},
        {"Running": True, "Pid": 0},
        {"Running": True, "Pid": -1},
        {"Running": True, "Pid": "7"},
        {"Running": "yes", "Pid": 7},
        {},
        None,
    ],
)
def test_not_running(docker: FakeEngine, state: object) -> None:
    docker.add(1, "web", State=state)
    found = find("web", docker)
    assert (found.running, found.pid) == (False, 0)


def test_the_one_that_runs_is_meant(docker: FakeEngine, podman: FakeEngine) -> None:
    docker.add(1, "web")
    podman.add(2, "web", pid=5)
    assert find("web", docker, podman).engine == "Podman"
    docker.add(1, "web", pid=6)
    text = refusal("web", docker, podman)
    assert (
        text
        == f"Docker ({full_id(1)[:12]}) and Podman ({full_id(2)[:12]}) both have a container web; name it by its id"
    )


def test_one_engine_under_two_paths(docker: FakeEngine, tmp_path: Path) -> None:
    """/var/run/docker.sock and DOCKER_HOST may lead to the same engine."""
    docker.add(1, "web", pid=5)
    assert find("web", docker, docker).pid == 5


def test_unknown_tells_where_was_looked(docker: FakeEngine, podman: FakeEngine) -> None:
    assert refusal("web", docker, podman) == (
        f"there is no container web: not known to Docker ({docker.socket}), Podman ({podman.socket})"
    )
    assert refusal("web") == "there is no container web: no container engine answers on this host"


@pytest.mark.parametrize("text", ["", "-x", "../json", "a b", "a/b", "é", "a" * 256, "a?b", "a\n"])
def test_text_that_is_no_name_is_not_asked_for(docker: FakeEngine, text: str) -> None:
    assert not is_container_name(text)
    assert "cannot be the name" in refusal(text, docker).replace("\n", " ")
    assert docker.asked == []


def test_stale_and_absent_sockets_are_skipped(docker: FakeEngine, tmp_path: Path) -> None:
    docker.add(1, "web", pid=5)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "stale.sock"))
    engines = [Engine(tmp_path / name) for name in ("stale.sock", "none.sock", "none/x.sock")]
    assert find_container("web", [*engines, Engine(docker.socket)]).pid == 5
    with pytest.raises(ContainerUnknown, match="no container engine answers"):
        find_container("web", engines)


def test_engine_that_fails_does_not_hide_another(docker: FakeEngine, podman: FakeEngine) -> None:
    docker.answers["/containers/web/json"] = b"HTTP/1.1 500 x\r\nContent-Length: 18\r\n\r\n" + b'{"message":"oops"}'
    podman.add(2, "web", pid=5)
    assert find("web", docker, podman).engine == "Podman"
    assert f"Docker ({docker.socket}) answers with an error: oops" in refusal("web", docker)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (b"", "broke off"),
        (b"SSH-2.0-OpenSSH\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "no JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "without an id"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000, "no JSON"),
        (b"HTTP/1.1 503 x\r\nContent-Length: 2\r\n\r\n[]", "HTTP status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b" " * 9_000_000, "more than"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n", "broke off"),
    ],
    ids=["nothing", "no HTTP", "cut off", "no JSON", "no object", "deep", "error", "endless", "long head"],
)
def test_nonsense_is_told(docker: FakeEngine, answer: bytes, part: str) -> None:
    docker.answers["/containers/web/json"] = answer
    assert part in refusal("web", docker)


def test_silence_ends(docker: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finder, "ANSWER_LIMIT_S", 0.2)
    docker.answers["/containers/web/json"] = b"HTTP/1.1 200 OK\r\n"
    with socket.socket(socket.AF_UNIX) as listener:
        path = docker.socket.with_name("silent.sock")
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(ContainerUnknown, match="does not answer within"):
            find_container("web", [Engine(path)])


def test_no_permission(docker: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert f"permission denied on {docker.socket}; try it as root" in refusal("web", docker)


def test_garbage_in_fields_is_left_out() -> None:
    document = {
        "Id": "c1",
        "Name": 7,
        "Config": [],
        "HostConfig": None,
        "NetworkSettings": {
            "Networks": {"a": None, "b": {"IPAddress": "nonsense", "Aliases": "x"}, "c": {"Aliases": [1, "y"]}}
        },
    }
    found = read_container(document, "E", "E")
    assert (found.name, found.hostname, found.network_mode) == ("", "", "")
    assert [(entry.addresses, entry.aliases) for entry in found.endpoints] == [((), ()), ((), ()), ((), ("y",))]


# Addresses of engines


def test_addresses_of_engines() -> None:
    engines = parse_engines("unix:///a/docker.sock,/b/podman.sock")
    assert [(engine.name, str(engine.socket)) for engine in engines] == [
        ("Docker", "/a/docker.sock"),
        ("Podman", "/b/podman.sock"),
    ]
    assert parse_engines(joined(engines)) == engines
    assert parse_engines("") == ()
    for text in ("tcp://127.0.0.1:2375", "docker.sock", "unix://x", ",", "unix:///a,"):
        with pytest.raises(EngineAddressError, match="no address of an engine on this host"):
            parse_engines(text)


def test_usual_places() -> None:
    usual = ["/var/run/docker.sock", "/run/podman/podman.sock"]
    for host in (None, "", "tcp://elsewhere:2375", "ssh://elsewhere"):
        assert [str(engine.socket) for engine in default_engines(host)] == usual
    assert [str(engine.socket) for engine in default_engines("unix:///x.sock")] == ["/x.sock", usual[1]]


# By program

PODMAN_ANSWER = [{"Id": full_id(9), "Name": "web", "State": {"Running": True, "Pid": 9}, "Config": {"Hostname": "web"}}]


def test_podman_without_service(docker: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "answer").write_text(json.dumps(PODMAN_ANSWER))
    script = f'[ "$*" = "container inspect web" ] && exec /bin/cat {tmp_path}/answer\n'
    program(tmp_path, "podman", script + 'echo "Error: no such container $3" >&2; exit 125')
    assert "Podman" not in refusal("web", docker)  # no trace of a container: the program is not even started
    (tmp_path / "libpod").mkdir()
    found = find("web", docker)
    assert (found.id, found.pid, found.engine) == (full_id(9), 9, "Podman")
    assert refusal("db", docker) == (
        f"there is no container db: not known to Docker ({docker.socket}), Podman (by 'podman inspect')"
    )


@pytest.mark.parametrize(
    ("script", "part"),
    [("echo broken >&2; exit 3", "broken"), ("exit 3", "exit status 3"), ("echo x", "no JSON"), ("echo []", "nothing")],
)
def test_podman_that_fails(tmp_path: Path, script: str, part: str) -> None:
    (tmp_path / "libpod").mkdir()
    program(tmp_path, "podman", script)
    assert part in refusal("web")


CTR = """
case "$2 $3 $4" in
"default containers list") echo plain; echo other;;
"k8s.io containers list") echo {id};;
"default tasks list") printf 'TASK PID STATUS\\nplain 41 RUNNING\\nother 42 STOPPED\\n';;
"k8s.io tasks list") printf 'TASK PID STATUS\\n{id} 43 RUNNING\\n';;
"k8s.io containers info") echo '{{"Spec":{{"hostname":"pod","linux":{{"namespaces":[{{"type":"network"}}]}}}}}}';;
*) echo '{{"Spec":{{"linux":{{"namespaces":[{{"type":"pid"}}]}}}}}}';;
esac
"""


def test_containerd(tmp_path: Path) -> None:
    program(tmp_path, "ctr", CTR.format(id=full_id(3)))
    assert "ctr" not in refusal("plain")
    (tmp_path / "containerd.sock").touch()
    plain, other, pod = find("plain"), find("other"), find(full_id(3)[:12])
    assert (plain.id, plain.pid, plain.network_mode) == ("plain", 41, "host")
    assert (other.running, other.pid) == (False, 0)
    assert (pod.id, pod.pid, pod.hostname, pod.network_mode) == (full_id(3), 43, "pod", "")
    assert "containerd (by 'ctr')" in refusal("pla")


def test_program_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weave_docker import engine_program

    monkeypatch.setattr(engine_program, "PROGRAM_LIMIT_S", 0.2)
    program(tmp_path, "ctr", "exec /bin/sleep 60")
    with pytest.raises(EngineUnavailable, match="does not end"):
        engine_program.run_program([os.fspath(tmp_path / "bin" / "ctr")])
    with pytest.raises(EngineUnavailable, match="cannot be run: No such file"):
        engine_program.run_program(["nosuch"])


def test_containers_by_their_endpoints() -> None:
    document = [
        {"Id": "a" * 64, "NetworkSettings": {"Networks": {"one": {"EndpointID": "e1"}, "two": {"EndpointID": "e2"}}}},
        {"Id": "b" * 64, "NetworkSettings": {"Networks": {"host": {"EndpointID": ""}, "none": None}}},
        {"Id": "c" * 64},
        {"Id": "no id", "NetworkSettings": {"Networks": {"one": {"EndpointID": "e3"}}}},
        7,
    ]
    assert read_endpoints(document, "Docker") == {"e1": "a" * 64, "e2": "a" * 64}
    with pytest.raises(EngineUnavailable):
        read_endpoints({}, "Docker")
