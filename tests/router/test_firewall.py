"""The firewall of the fast datapath, through the real nft, in a namespace made for each test; and nft that fails."""

from __future__ import annotations

import subprocess
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

from lab.vxlan_worlds import VxlanLinuxWorld, run
from weave_router.errors import HostError
from weave_router.host import firewall_programs, firewall_table, firewall_vxlan
from weave_router.host.firewall import Allowed, Firewall

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.vxlan_worlds import VxlanCheck, VxlanWorld
    from weave_router.doors import Host

PORT = 6784
ONE, TWO, THREE = (IPv4Address(f"192.0.2.{i}") for i in (1, 2, 3))
NONE: frozenset[IPv4Address] = frozenset()
OTHERS = "table inet other {\n\tset mine {\n\t\ttype ipv4_addr\n\t\telements = { 192.0.2.9 }\n\t}\n}\n"


def on_linux(check: VxlanCheck) -> Callable[[], None]:
    @pytest.mark.root
    def run() -> None:
        VxlanLinuxWorld().run(check)

    run.__doc__ = check.__doc__
    return run


def only(*addresses: IPv4Address) -> frozenset[IPv4Address]:
    return frozenset(addresses)


def handles() -> str:
    """The table's rules and their numbers, which change when a rule is made anew."""
    listed = run("nft", "-a", "list", "table", "inet", "weave")
    return "\n".join(line for line in listed.splitlines() if "handle" in line and "elements" not in line)


@on_linux
async def test_rules_as_they_are(host: Host, world: VxlanWorld) -> None:
    await host.allow_vxlan(PORT, only(ONE), only(TWO))
    assert run("nft", "list", "ruleset") == (
        "table inet weave {\n"
        "\tset vxlan_peers {\n\t\ttype ipv4_addr\n\t\telements = { 192.0.2.1 }\n\t}\n\n"
        "\tset vxlan_data {\n\t\ttype ipv4_addr\n\t\telements = { 192.0.2.2 }\n\t}\n\n"
        "\tchain input {\n"
        "\t\ttype filter hook input priority filter; policy accept;\n"
        "\t\tudp dport 6784 jump vxlan\n"
        "\t}\n\n"
        "\tchain vxlan {\n"
        "\t\tip saddr @vxlan_data accept\n"
        "\t\tip saddr @vxlan_peers @th,224,16 0x88b5 accept\n"
        "\t\tcounter packets 0 bytes 0 drop\n"
        "\t}\n"
        "}\n"
    )


@on_linux
async def test_later_calls_change_only_elements(host: Host, world: VxlanWorld) -> None:
    run("nft", "-f", "-", text=OTHERS)
    await host.allow_vxlan(PORT, NONE, only(ONE))
    before = handles()
    for data in (only(ONE, TWO), only(TWO, THREE), only(TWO, THREE), NONE, only(ONE)):
        await host.allow_vxlan(PORT, only(THREE), data)
        assert world.allowed() == Allowed(PORT, only(THREE), data)
        assert handles() == before
    assert run("nft", "list", "table", "inet", "other") == OTHERS
    await host.close_vxlan("weave-vxlan")
    assert run("nft", "list", "ruleset") == OTHERS


@on_linux
async def test_table_of_an_earlier_daemon_is_read_and_replaced(host: Host, world: VxlanWorld) -> None:
    many = frozenset(IPv4Address("10.0.0.1") + i for i in range(300))
    await host.allow_vxlan(PORT, NONE, many)
    run("nft", "add", "rule", "inet", "weave", "vxlan", "accept")
    later = Firewall()
    assert await later.allowed() == many
    await later.allow(Allowed(PORT, NONE, only(TWO)))
    assert world.allowed() == Allowed(PORT, NONE, only(TWO))
    assert "\t\taccept\n" not in run("nft", "list", "table", "inet", "weave")


@pytest.mark.parametrize(
    "interference",
    [
        ("flush", "ruleset"),
        ("flush", "set", "inet", "weave", "vxlan_data"),
        ("flush", "table", "inet", "weave"),
        ("insert", "rule", "inet", "weave", "vxlan", "accept"),
        ("delete", "table", "inet", "weave"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("wanted", [only(ONE), only(TWO), NONE], ids=["same", "other", "none"])
@pytest.mark.root
def test_what_others_removed_is_made_again(interference: tuple[str, ...], wanted: frozenset[IPv4Address]) -> None:
    async def check(host: Host, world: VxlanWorld) -> None:
        await host.allow_vxlan(PORT, NONE, only(ONE))
        run("nft", *interference)
        await host.allow_vxlan(PORT, NONE, wanted)
        assert world.allowed() == Allowed(PORT, NONE, wanted)
        listed = run("nft", "list", "table", "inet", "weave")
        assert "jump vxlan" in listed
        assert "counter" in listed
        assert "\t\taccept\n" not in listed

    VxlanLinuxWorld().run(check)


def test_calls_at_once_are_made_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    running = 0
    most = 0

    def slow(script: str) -> subprocess.CompletedProcess[str]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        return subprocess.CompletedProcess(["nft"], 0, "", "")

    monkeypatch.setattr(firewall_vxlan, "nft", slow)
    monkeypatch.setattr(firewall_table, "nft", slow)

    async def main() -> None:
        single = Firewall()
        async with trio.open_nursery() as nursery:
            for address in (ONE, TWO, THREE):
                nursery.start_soon(single.allow, Allowed(PORT, NONE, only(address)))
            nursery.start_soon(single.allowed)
            nursery.start_soon(single.shut)

    trio.run(main)
    assert most == 1


@on_linux
async def test_cancelled_call_is_finished(host: Host, world: VxlanWorld) -> None:
    with trio.move_on_after(0.0001):
        await host.allow_vxlan(PORT, NONE, only(ONE))
        await host.allow_vxlan(PORT, NONE, only(TWO))
    assert world.allowed() in (None, Allowed(PORT, NONE, only(ONE)))
    await host.allow_vxlan(PORT, NONE, only(TWO))
    assert world.allowed() == Allowed(PORT, NONE, only(TWO))


@on_linux
async def test_change_takes_milliseconds(host: Host, world: VxlanWorld) -> None:
    took = []
    peers = frozenset(IPv4Address("10.0.0.1") + i for i in range(200))
    for i in range(20):
        began = time.perf_counter()
        await host.allow_vxlan(PORT, peers, peers - {IPv4Address("10.0.0.1") + i})
        took.append(time.perf_counter() - began)
    print(f"first {took[0] * 1000:.1f} ms, then {sorted(took[1:])[9] * 1000:.1f} ms (median)")
    assert sorted(took)[10] < 1


def with_nft(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let a script pass for nft."""
    program = folder / "nft"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_missing_nft_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(firewall_programs, "_SYSTEM_PATHS", str(tmp_path))

    async def main() -> None:
        refusing = Firewall()
        for call in (refusing.allow(Allowed(PORT, NONE, NONE)), refusing.allowed()):
            with pytest.raises(
                HostError, match=r"program nft.*not installed: install the package nftables.*--no-fastdp"
            ):
                await call
        await refusing.shut()
        assert not await refusing.remove()

    trio.run(main)


def test_nft_is_found_outside_of_the_users_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_nft(monkeypatch, tmp_path, "exit 0")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(firewall_programs, "_SYSTEM_PATHS", str(tmp_path))
    trio.run(Firewall().allow, Allowed(PORT, NONE, NONE))


@pytest.mark.parametrize(
    ("complaint", "told"),
    [
        ("netlink: Error: cache initialization failed: Protocol not supported", "failed: Protocol not supported; "),
        ("Operation not permitted (you must be root)", r"\(you must be root\); the router must be root"),
        (
            "/dev/stdin:1:1-9: Error: Could not process rule: Operation not supported",
            "says: Could not process rule: Op",
        ),
        ("", "says: exit status 1; "),
    ],
)
def test_refusal_is_told_with_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, complaint: str, told: str
) -> None:
    with_nft(monkeypatch, tmp_path, f"cat > /dev/null; echo '{complaint}' >&2; echo 'add table inet weave' >&2; exit 1")
    if not complaint:
        with_nft(monkeypatch, tmp_path, "exit 1")

    async def main() -> None:
        refusing = Firewall()
        with pytest.raises(HostError, match=told) as refused:
            await refusing.allow(Allowed(PORT, NONE, NONE))
        assert "modprobe nf_tables" in str(refused.value)
        assert "add table" not in str(refused.value)
        with pytest.raises(HostError, match=told):
            await refusing.allowed()

    trio.run(main)


def test_loop_is_not_held_meanwhile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_nft(monkeypatch, tmp_path, "sleep 0.3")
    turns = 0

    async def main() -> None:
        nonlocal turns
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Firewall().allow, Allowed(PORT, NONE, NONE))
            with trio.move_on_after(0.2):
                while True:
                    await trio.sleep(0.01)
                    turns += 1

    trio.run(main)
    assert turns >= 3


def test_nft_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_nft(monkeypatch, tmp_path, "exec sleep 60")
    monkeypatch.setattr(firewall_programs, "TIMEOUT_S", 0.1)

    async def main() -> None:
        with trio.fail_after(10), pytest.raises(HostError, match=r"nft did not finish within 0\.1 seconds"):
            await Firewall().allow(Allowed(PORT, NONE, NONE))

    trio.run(main)


@pytest.mark.root
def test_failed_change_is_made_up_for_by_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what the kernel has after a failure."""

    async def check(host: Host, world: VxlanWorld) -> None:
        await host.allow_vxlan(PORT, NONE, only(ONE))
        original = firewall_table.nft

        def broken(script: str) -> subprocess.CompletedProcess[str]:
            original(script)
            return subprocess.CompletedProcess(["nft"], 1, "", "out of luck")

        monkeypatch.setattr(firewall_vxlan, "nft", broken)
        with pytest.raises(HostError, match="out of luck"):
            await host.allow_vxlan(PORT, NONE, only(TWO))
        monkeypatch.setattr(firewall_vxlan, "nft", original)
        await host.allow_vxlan(PORT, NONE, only(ONE))
        assert world.allowed() == Allowed(PORT, NONE, only(ONE))

    VxlanLinuxWorld().run(check)
