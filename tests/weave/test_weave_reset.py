"""Reset: everything of ours goes, and nothing when it should not."""

from __future__ import annotations

import os
import signal
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
import trio

from weave.fake_daemon_process import FAKE_DAEMON
from weave_net.directories import Directories
from weave_net.errors import ClientError
from weave_net.instance_lock import running_pid
from weave_net.launch import launch_in_background
from weave_net.reset import reset_host
from weave_net.settings import DaemonSettings
from weave_net.sqlite_store import open_store
from weave_net.testing.wirings import FakeWiring
from weave_router.doors import ExposedSubnet, VethRequest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return Directories(tmp_path / "state", tmp_path / "run")


def host_with_devices(bridge: str = "weave", tap: str = "weave-tap") -> FakeWiring:
    fakes = FakeWiring()

    async def make() -> None:
        await fakes.host.ensure_bridge(bridge, "02:00:00:00:00:01", 1376)
        fakes.host.add_namespace("/run/netns/web")
        fakes.host.add_device(tap)
        fakes.host.add_device("eth0", "dummy")
        await fakes.host.attach(VethRequest("/run/netns/web", "ethwe", "vethwe1a2b3c4d", bridge, 1376))

    trio.run(make)
    return fakes


def write_state(directories: Directories, devices: dict[str, str] | None = None) -> None:
    async def write() -> None:
        async with open_store(directories.database) as store:
            await store.write({"peer-name": "02:00:00:00:00:01", "devices": devices})

    directories.prepare()
    trio.run(write)


def reset(directories: Directories, fakes: FakeWiring, *, force: bool = False) -> list[str]:
    return list(reset_host(directories, force=force, wiring=fakes.wiring()))


def test_nothing_to_remove(directories: Directories) -> None:
    assert reset(directories, FakeWiring()) == []
    assert not directories.run.exists()


def test_everything_goes_but_the_log_and_the_devices_of_others(directories: Directories) -> None:
    write_state(directories)
    directories.log.write_text("")
    fakes = host_with_devices()
    assert reset(directories, fakes, force=True) == [
        "removed container interface vethwe1a2b3c4d",
        "removed TAP weave-tap",
        "removed bridge weave",
        f"removed {directories.database}",
    ]
    assert list(fakes.host.devices) == ["eth0"]
    assert list(directories.state.iterdir()) == [directories.log]
    assert list(directories.run.iterdir()) == []
    assert reset(directories, fakes) == []


def test_what_engines_left_goes(directories: Directories) -> None:
    directories.prepare()
    directories.docker_state.write_text("{}")
    directories.cni_pending.mkdir()
    (directories.cni_pending / "1").write_text("")
    reset(directories, FakeWiring())
    assert not directories.docker_state.exists()
    assert list(directories.cni_pending.iterdir()) == []


def test_firewall_rules_go(directories: Directories) -> None:
    write_state(directories)
    fakes = FakeWiring()
    trio.run(fakes.host.set_exposed, "weave", [ExposedSubnet(ip_network("10.2.1.0/24"), masquerade=True)])
    assert "removed firewall rules" in reset(directories, fakes, force=True)
    assert fakes.host.exposed is None


def test_devices_with_other_names_are_found_in_the_state(directories: Directories) -> None:
    write_state(directories, {"bridge": "net0", "tap": "tap0"})
    assert "removed bridge net0" in reset(directories, host_with_devices("net0", "tap0"), force=True)


def test_damaged_state_goes_too(directories: Directories) -> None:
    directories.prepare()
    directories.database.write_bytes(b"nonsense" * 1000)
    assert reset(directories, host_with_devices(), force=True)[-1] == f"removed {directories.database}"


def test_stopped_daemon_needs_force(directories: Directories) -> None:
    write_state(directories)
    fakes = host_with_devices()
    with pytest.raises(ClientError, match="'weave reset --force'"):
        reset(directories, fakes)
    assert "weave" in fakes.host.devices
    assert directories.database.exists()


def test_running_daemon_is_stopped(directories: Directories) -> None:
    directories.prepare()
    launch_in_background(DaemonSettings(directories=directories), directories.log, FAKE_DAEMON)
    assert reset(directories, FakeWiring()) == ["stopped the daemon", f"removed {directories.database}"]
    assert running_pid(directories.pid_file) is None


def test_daemon_that_hangs_needs_force(directories: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weave_net.reset.QUICK_LIMIT_S", 0.1)
    directories.prepare()
    launch_in_background(DaemonSettings(directories=directories), directories.log, FAKE_DAEMON)
    pid = running_pid(directories.pid_file)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    fakes = host_with_devices()
    with pytest.raises(ClientError, match="--force' kills it"):
        reset(directories, fakes)
    assert "weave" in fakes.host.devices
    assert reset(directories, fakes, force=True)[0] == "killed the daemon"
    assert running_pid(directories.pid_file) is None
