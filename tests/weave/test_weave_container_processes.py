"""Real processes as containers, with network, mounts and a root directory of their own. Needs root."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from weave_net import container_process
from weave_net.container_hosts_file import hosts_file, write_hosts_file
from weave_net.container_process import ContainerProcess
from weave_net.errors import AttachmentError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

WEAVE = Path(sys.executable).with_name("weave")
INSIDE = """
import os, subprocess, sys, time
root, *mount = sys.argv[1:]
if mount:
    subprocess.run(["mount", *mount], check=True)
os.chroot(root)
os.chdir("/")
print(os.getpid(), flush=True)
time.sleep(600)
"""


@contextmanager
def container(root: Path, *mount: str, network: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process with this root directory, after a mount that only it sees; `network`: path, else a new one."""
    enter = ["nsenter", f"--net={network}"] if network else []
    unshare = ["unshare", "--mount", "--propagation", "private", *([] if network else ["--net"])]
    command = [*enter, *unshare, sys.executable, "-c", INSIDE, str(root), *mount]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert int(process.stdout.readline()) == process.pid  # all of them execute each other
            yield process
        finally:
            process.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory with /etc/hosts."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/hosts").write_text("image\n")
    return root


def write(process: subprocess.Popen[str], text: str = "ours\n") -> None:
    with ContainerProcess(process.pid) as held:
        write_hosts_file(held, text)


def refusal(process: subprocess.Popen[str]) -> str:
    with pytest.raises(AttachmentError) as caught:
        write(process)
    return str(caught.value)


def test_file_of_the_engine_is_left_alone(root: Path, tmp_path: Path) -> None:
    """Engines mount a file of theirs at /etc/hosts, which they write and other containers may use."""
    engines = tmp_path / "engines-hosts"
    engines.write_text("engine\n")
    with container(root, "--bind", str(engines), str(root / "etc/hosts")) as process:
        inside = Path(f"/proc/{process.pid}/root/etc/hosts")
        assert inside.read_text() == "engine\n"
        write(process, "first\n")
        write(process, "second\n")
        assert inside.read_text() == "second\n"
        assert inside.stat().st_mode & 0o7777 == 0o644
    assert engines.read_text() == "engine\n"
    assert [entry.name for entry in (root / "etc").iterdir()] == ["hosts"]


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_links_lead_nowhere(root: Path, tmp_path: Path, kind: str) -> None:
    """A container that puts links in our way must not get us to write elsewhere."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "hosts").write_text("victim\n")
    (root / "etc/hosts").unlink()
    (root / "etc/hosts").symlink_to(victim / "hosts" if kind == "absolute" else "../../victim/hosts")
    with container(root) as process:
        write(process)
    assert not (root / "etc/hosts").is_symlink()
    assert (root / "etc/hosts").read_text() == "ours\n"
    (root / "etc/hosts").unlink()
    (root / "etc").rmdir()
    (root / "etc").symlink_to(victim if kind == "absolute" else "../victim")
    with container(root) as process:
        assert "cannot be written" in refusal(process)
    assert [(entry.name, entry.read_text()) for entry in victim.iterdir()] == [("hosts", "victim\n")]


def test_etc_that_changes_all_the_time(root: Path, tmp_path: Path) -> None:
    """A race between looking and writing would sooner or later lead to the victim."""
    victim, spare = tmp_path / "victim", root / "spare"
    victim.mkdir()
    spare.symlink_to("../victim")
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            for old, new in (("etc", "x"), ("spare", "etc"), ("etc", "spare"), ("x", "etc")):
                (root / old).rename(root / new)

    swapper = threading.Thread(target=swap)
    with container(root) as process:
        swapper.start()
        try:
            for _ in range(2000):
                with suppress(AttachmentError):
                    write(process)
        finally:
            ended.set()
            swapper.join()
    assert list(victim.iterdir()) == []


def test_what_cannot_be_replaced(root: Path) -> None:
    (root / "etc/hosts").unlink()
    (root / "etc/hosts/full").mkdir(parents=True)
    with container(root) as process:
        assert "cannot be written: Is a directory" in refusal(process)
    assert [entry.name for entry in (root / "etc").iterdir()] == ["hosts"]
    with container(root, "-t", "tmpfs", "-o", "ro", "tmpfs", str(root / "etc")) as process:
        assert "cannot be written: Read-only file system" in refusal(process)


def test_container_without_etc(root: Path) -> None:
    (root / "etc/hosts").unlink()
    with container(root) as process:
        write(process)
        assert (root / "etc/hosts").read_text() == "ours\n"
        (root / "etc/hosts").unlink()
        (root / "etc").rmdir()
        assert "cannot be written: No such file or directory" in refusal(process)


def test_files_of_the_host_are_never_written(root: Path) -> None:
    before = Path("/etc/hosts").read_bytes()
    with container(Path("/")) as process:
        assert "has the host's file system" in refusal(process)
    with container(root, "--bind", "/etc", str(root / "etc")) as process:
        assert "has the host's /etc" in refusal(process)
    assert Path("/etc/hosts").read_bytes() == before


def test_process_that_ends(root: Path) -> None:
    with container(root) as process:
        with ContainerProcess(process.pid) as held:
            assert held.lives()
            assert not held.uses_host_network()
            process.kill()
            process.wait()
            assert not held.lives()
            with pytest.raises(AttachmentError, match="out of reach"):
                write_hosts_file(held, "x\n")
    with pytest.raises(AttachmentError, match="there is no process"):
        ContainerProcess(process.pid)


def test_process_of_the_host(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 1 tells what the host's network is; where it may not be looked at, we do."""
    with container(root) as process, ContainerProcess(process.pid) as held, ContainerProcess(os.getpid()) as ours:
        for path in (tmp_path / "none", Path("/proc/self/ns/net")):
            monkeypatch.setattr(container_process, "_FIRST_PROCESS", path)
            assert (held.uses_host_network(), ours.uses_host_network()) == (False, True)
        monkeypatch.setattr(container_process, "_FIRST_PROCESS", Path(held.network_namespace))
        assert (held.uses_host_network(), ours.uses_host_network()) == (True, False)


def test_attaching_a_process(root: Path, tmp_path: Path) -> None:
    """The whole way on a real host: a network namespace with a daemon, and a container beside it."""
    name = f"wc{os.getpid()}"
    environment = {**os.environ, "WEAVE_STATE_DIR": str(tmp_path / "state"), "WEAVE_RUN_DIR": str(tmp_path / "run")}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        inside = ["ip", "netns", "exec", name, *command]
        return subprocess.run(inside, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def weave(*arguments: str) -> str:
        done = run(str(WEAVE), *arguments)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        run("ip", "link", "set", "lo", "up")
        weave("launch", "--docker-api", "", "--http-addr", "", "--ipalloc-init", "consensus=1")
        with container(root) as process, container(root, network=f"/run/netns/{name}") as host:
            options = ("--rewrite-hosts", "-h", "web.weave.local", "--add-host", "db:10.2.1.9")
            assert weave("attach", "10.2.1.5/24", "--pid", str(process.pid), *options) == "10.2.1.5\n"
            inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip", "-o", "address", "show", "ethwe"]
            assert "10.2.1.5/24" in subprocess.run(inside, capture_output=True, text=True, check=True).stdout
            assert (root / "etc/hosts").read_text() == hosts_file(
                ["10.2.1.5/24"], ["web.weave.local", "web"], [("db", "10.2.1.9")]
            )
            assert weave("dns-lookup", "web.weave.local") == "10.2.1.5\n"
            assert weave("detach", "--pid", str(process.pid)) == "10.2.1.5\n"
            refused = run(str(WEAVE), "attach", "10.2.1.6/24", "--pid", str(host.pid))
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "cannot be attached" in refused.stderr or "uses the host's network" in refused.stderr
    finally:
        run(str(WEAVE), "reset", "--force")
        subprocess.run(["ip", "netns", "del", name], check=True)
