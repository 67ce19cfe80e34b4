"""Routes of the host beside the range of addresses: what is read, and when a daemon refuses to start."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from ipaddress import IPv4Network, ip_address
from pathlib import Path

import pytest
import trio

from lab.inside import call_inside
from weave_net import host_facts
from weave_net.daemon import run_daemon
from weave_net.errors import SettingsError, leaves
from weave_net.host_facts import HostFacts, is_behind_container_bridge, read_routes
from weave_net.testing.daemons import running_daemon, settings_in
from weave_net.testing.wirings import FakeWiring

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def line(device: str, destination: str) -> str:
    """A line of /proc/net/route on this machine, whose byte order the numbers have."""
    network = IPv4Network(destination)
    numbers = (network.network_address, network.netmask)
    words = [f"{int.from_bytes(number.packed, sys.byteorder):08X}" for number in numbers]
    return f"{device}\t{words[0]}\t00000000\t0001\t0\t0\t0\t{words[1]}\t0\t0\t0" + " " * 20 + "\n"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that is read in place of the kernel's."""
    path = tmp_path / "route"
    monkeypatch.setattr(host_facts, "_ROUTES", path)
    return path


def test_routes_of_the_table(table: Path) -> None:
    destinations = ["0.0.0.0/0", "192.0.2.0/24", "10.32.0.0/12", "10.1.2.3/32", "128.0.0.0/1"]
    table.write_text(HEADER + "".join(line("eth0", text) for text in destinations) + line("weave", "10.40.0.0/16"))
    assert read_routes("weave") == tuple(map(IPv4Network, destinations[1:]))
    assert IPv4Network("10.40.0.0/16") in read_routes("other")


def test_addresses_behind_bridges_of_engines(table: Path) -> None:
    assert not is_behind_container_bridge(ip_address("172.18.0.2"))
    bridges = {"docker0": "172.17.0.0/16", "docker_gwbridge": "172.18.0.0/16", "br-0123456789ab": "172.19.0.0/16"}
    others = {"br0": "192.168.1.0/24", "eth0": "0.0.0.0/0", "docker1": "10.9.0.0/16"}
    table.write_text(HEADER + "".join(line(device, text) for device, text in (bridges | others).items()))
    for text in ("172.17.0.2", "172.18.255.254", "172.19.0.2"):
        assert is_behind_container_bridge(ip_address(text)), text
    for text in ("192.168.1.7", "10.9.0.1", "172.20.0.1", "8.8.8.8", "fd00::1"):
        assert not is_behind_container_bridge(ip_address(text)), text


def test_table_that_is_empty_or_missing(table: Path) -> None:
    assert read_routes("weave") == ()
    for text in ("", HEADER):
        table.write_text(text)
        assert read_routes("weave") == ()


@pytest.mark.root
def test_routes_of_a_real_namespace() -> None:
    name = f"wvroutes{os.getpid()}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", "-n", name, *arguments], check=True)

    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        ip("link", "set", "lo", "up")
        for device in ("eth0", "weave"):
            ip("link", "add", device, "type", "bridge")
            ip("link", "set", device, "up")
        ip("addr", "add", "192.0.2.1/24", "dev", "eth0")
        ip("addr", "add", "10.40.0.1/16", "dev", "weave")
        ip("route", "add", "default", "via", "192.0.2.2")
        ip("route", "add", "10.32.0.0/13", "via", "192.0.2.2")
        ip("route", "add", "198.51.100.7", "via", "192.0.2.2")
        ip("route", "add", "blackhole", "203.0.113.0/24")
        found = call_inside(Path("/run/netns") / name, lambda: read_routes("weave"))
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    # What is dropped on purpose counts too: containers could not be reached there either.
    wanted = {"192.0.2.0/24", "10.32.0.0/13", "198.51.100.7/32", "203.0.113.0/24"}
    assert set(map(str, found)) == wanted


# What follows from them


def fakes_with(*routes: str) -> FakeWiring:
    return FakeWiring(HostFacts("machine", "uuid", routes=tuple(map(IPv4Network, routes))))


def refusal(directory: Path, fakes: FakeWiring, **changes: str) -> str:
    """Why a daemon does not start."""

    async def main() -> None:
        settings = settings_in(directory, **changes)
        settings.directories.prepare()
        with trio.fail_after(5):
            await run_daemon(settings, ready=lambda: None, wiring=fakes.wiring())

    with pytest.raises((SettingsError, BaseExceptionGroup)) as caught:
        trio.run(main)
    (error,) = leaves(caught.value)
    assert isinstance(error, SettingsError)
    return str(error)


@pytest.mark.parametrize("route", ["10.32.0.0/12", "10.0.0.0/8", "10.47.255.255/32", "10.33.0.0/16", "0.0.0.0/1"])
def test_default_range_that_overlaps_a_route(tmp_path: Path, route: str) -> None:
    fakes = fakes_with("192.0.2.0/24", route, "10.40.0.0/24")
    assert refusal(tmp_path, fakes) == (
        f"the range 10.32.0.0/12 overlaps the route {route} of this host; "
        "give another one with --ipalloc-range, the same on all hosts"
    )
    assert [call.method for call in fakes.host.calls] == []
    assert fakes.host.closed


def starts(directory: Path, fakes: FakeWiring, **changes: str | bool) -> bool:
    """Whether a daemon gets ready."""

    async def main() -> bool:
        async with running_daemon(directory, fakes, **changes):
            return True

    return trio.run(main)


def test_chosen_range_that_overlaps_a_route(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert starts(tmp_path, fakes_with("10.0.0.0/8"), ipalloc_range="10.64.0.0/12", ipalloc_range_given=True)
    (record,) = caplog.records
    assert "the range 10.64.0.0/12 overlaps the route 10.0.0.0/8 of this host" in record.getMessage()
    assert record.levelname == "WARNING"


def test_no_overlap(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert starts(tmp_path, fakes_with("10.48.0.0/12", "10.31.255.255/32", "192.168.0.0/16"))
    assert starts(tmp_path, fakes_with("10.0.0.0/8"), ipalloc_range="")
    assert not caplog.records
