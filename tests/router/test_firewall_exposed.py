"""Address translation and the chain FORWARD: for every host, then what the real nft and iptables make of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from ipaddress import IPv4Address, ip_network
from typing import TYPE_CHECKING

import pytest
import trio

from lab.vxlan_worlds import VxlanLinuxWorld, VxlanRecorderWorld, VxlanWorld, run
from weave_router.doors import ExposedSubnet
from weave_router.errors import HostError
from weave_router.host import firewall_exposed, firewall_programs, firewall_watch
from weave_router.host.firewall import Allowed, Firewall
from weave_router.host.firewall_forward import LOST_AGAIN_S, MOVE_AGAIN_S, FilterTable, ForwardRules
from weave_router.testing.hosts import RecordingHost

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.vxlan_worlds import VxlanCheck
    from weave_router.doors import Host

PORT = 6784
ONE = frozenset({IPv4Address("192.0.2.1")})
NONE: frozenset[IPv4Address] = frozenset()


def subnet(text: str, *, masquerade: bool = True) -> ExposedSubnet:
    return ExposedSubnet(ip_network(text), masquerade)


WEB, DB, SIX = subnet("10.2.1.0/24"), subnet("10.2.2.0/24"), subnet("fd00:2::/64")
PLAIN = subnet("10.2.3.0/24", masquerade=False)
OTHERS = "table inet other {\n\tchain mine {\n\t\taccept\n\t}\n}\n"


def on_every_host(check: VxlanCheck) -> Callable[[type[VxlanWorld]], None]:
    @pytest.mark.parametrize(
        "world",
        [
            pytest.param(VxlanRecorderWorld, id="recorder"),
            pytest.param(VxlanLinuxWorld, id="linux", marks=pytest.mark.root),
        ],
    )
    def test(world: type[VxlanWorld]) -> None:
        world().run(check)  # type: ignore[arg-type]

    test.__doc__ = check.__doc__
    return test


def on_linux(check: VxlanCheck) -> Callable[[], None]:
    @pytest.mark.root
    def test() -> None:
        VxlanLinuxWorld().run(check)

    test.__doc__ = check.__doc__
    return test


def translated(host: Host) -> set[str]:
    """For which subnets addresses are translated."""
    if isinstance(host, RecordingHost):
        return {str(found.network) for found in host.exposed or () if found.masquerade}
    rules = re.findall(r"\t\tip6? (daddr|saddr) (\S+) ip6? (?:saddr|daddr) != (\S+) masquerade\n", table())
    into, out_of = ({(net, other) for way, net, other in rules if way == wanted} for wanted in ("daddr", "saddr"))
    assert into == out_of
    assert len(rules) == 2 * len(into)
    assert all(net == other for net, other in into)
    return {net for net, _ in into}


def table(*options: str) -> str:
    """Our table, empty if there is none."""
    done = subprocess.run(
        ["nft", *options, "list", "table", "inet", "weave"], capture_output=True, text=True, check=False
    )
    return done.stdout


# Every host


@on_every_host
async def test_whole_state_is_replaced(host: Host, world: VxlanWorld) -> None:
    await host.ensure_bridge("weave", "7a:00:00:00:00:01", 1376)
    for exposed in ((), (WEB,), (WEB, DB), (DB, PLAIN), (DB, PLAIN), (SIX, WEB), (PLAIN,), (WEB,), ()):
        await host.set_exposed("weave", exposed)
        assert translated(host) == {str(found.network) for found in exposed if found.masquerade}


@on_every_host
async def test_vxlan_and_exposure_share_the_table_in_peace(host: Host, world: VxlanWorld) -> None:
    await host.allow_vxlan(PORT, NONE, ONE)
    await host.set_exposed("weave", [WEB])
    await host.allow_vxlan(PORT + 1, ONE, NONE)
    assert (world.allowed(), translated(host)) == (Allowed(PORT + 1, ONE, NONE), {"10.2.1.0/24"})
    await host.set_exposed("weave", [])
    assert (world.allowed(), translated(host)) == (Allowed(PORT + 1, ONE, NONE), set())
    await host.set_exposed("weave", [DB])
    await host.close_vxlan("weave-vxlan")
    assert (world.allowed(), translated(host)) == (None, {"10.2.2.0/24"})
    await host.set_exposed("weave", [WEB])
    assert (world.allowed(), translated(host)) == (None, {"10.2.1.0/24"})


@on_every_host
async def test_all_rules_are_removed(host: Host, world: VxlanWorld) -> None:
    assert not await host.remove_rules("weave")
    for _ in range(2):
        await host.allow_vxlan(PORT, NONE, ONE)
        await host.set_exposed("weave", [WEB])
        assert await host.remove_rules("weave")
        assert (world.allowed(), translated(host)) == (None, set())
        assert not await host.remove_rules("weave")


@on_every_host
async def test_impossible_bridge_is_refused(host: Host, world: VxlanWorld) -> None:
    with pytest.raises(HostError, match="cannot be the name"):
        await host.set_exposed("a b", [WEB])
    with pytest.raises(HostError, match="cannot be the name"):
        await host.remove_rules("")


@on_every_host
async def test_watch_begins_with_a_look(host: Host, world: VxlanWorld) -> None:
    async with host.watch_rules() as changes:
        with trio.fail_after(5):
            await anext(changes)
        with trio.move_on_after(0.2) as waited:
            await anext(changes)
        assert waited.cancelled_caught


# The table


@on_linux
async def test_translation_as_it_is(host: Host, world: VxlanWorld) -> None:
    await host.set_exposed("weave", [WEB, PLAIN, SIX])
    assert run("nft", "list", "ruleset") == (
        "table inet weave {\n"
        "\tchain exposed {\n"
        "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
        "\t\tip daddr { 224.0.0.0/4, 255.255.255.255 } return\n"
        "\t\tip6 daddr { fe80::/10, ff00::/8 } return\n"
        "\t\tip6 saddr fe80::/10 return\n"
        "\t\tip daddr 10.2.1.0/24 ip saddr != 10.2.1.0/24 masquerade\n"
        "\t\tip saddr 10.2.1.0/24 ip daddr != 10.2.1.0/24 masquerade\n"
        "\t\tip6 daddr fd00:2::/64 ip6 saddr != fd00:2::/64 masquerade\n"
        "\t\tip6 saddr fd00:2::/64 ip6 daddr != fd00:2::/64 masquerade\n"
        "\t}\n"
        "}\n"
    )


@on_linux
async def test_what_is_in_order_is_left_alone(host: Host, world: VxlanWorld) -> None:
    run("nft", "-f", "-", text=OTHERS)
    run("iptables-nft", "-P", "FORWARD", "DROP")
    await host.allow_vxlan(PORT, NONE, ONE)
    await host.set_exposed("weave", [WEB])
    before = run("nft", "-a", "list", "ruleset")
    for _ in range(3):
        await host.set_exposed("weave", [WEB])
    assert run("nft", "-a", "list", "ruleset") == before


@on_linux
async def test_rules_of_an_earlier_daemon_are_replaced(host: Host, world: VxlanWorld) -> None:
    await host.allow_vxlan(PORT, NONE, ONE)
    await host.set_exposed("weave", [WEB, DB])
    later = Firewall()
    await later.allow(Allowed(PORT, NONE, NONE))
    assert translated(host) == {"10.2.1.0/24", "10.2.2.0/24"}, "the first call of the other part leaves them alone"
    await later.expose("weave", [SIX])
    assert translated(host) == {"fd00:2::/64"}
    await Firewall().expose("weave", [])
    assert translated(host) == set()
    assert world.allowed() == Allowed(PORT, NONE, NONE)


@pytest.mark.parametrize(
    "interference",
    [
        ("flush", "ruleset"),
        ("flush", "table", "inet", "weave"),
        ("flush", "chain", "inet", "weave", "exposed"),
        ("insert", "rule", "inet", "weave", "exposed", "return"),
        ("delete", "table", "inet", "weave"),
    ],
    ids=" ".join,
)
@pytest.mark.root
def test_what_others_removed_is_put_back(interference: tuple[str, ...]) -> None:
    async def check(host: Host, world: VxlanWorld) -> None:
        await host.allow_vxlan(PORT, NONE, ONE)
        await host.set_exposed("weave", [WEB])
        before = table()
        run("nft", *interference)
        assert table() != before
        await host.set_exposed("weave", [WEB])
        assert sorted(table().splitlines()) == sorted(before.splitlines())

    VxlanLinuxWorld().run(check)


# Hosts that lack something


def with_program(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, script: str) -> None:
    """Let a script pass for a program; `$REAL` is the one that it replaces."""
    real = f"REAL={shutil.which(name, path='/usr/sbin:/usr/bin:/sbin:/bin')}"
    program = folder / name
    program.write_text(f"#!/bin/sh\n{real}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin")


NO_NAT = """input=$(cat)
case "$input" in *nat*)
    echo "/dev/stdin:2:1-9: Error: Could not process rule: No such file or directory" >&2
    exit 1
esac
echo "$input" | $REAL "$@\""""


@pytest.mark.root
def test_kernel_without_translation_does_the_rest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_program(monkeypatch, tmp_path, "nft", NO_NAT)

    async def check(host: Host, world: VxlanWorld) -> None:
        run("iptables-nft", "-P", "FORWARD", "DROP")
        await host.allow_vxlan(PORT, NONE, ONE)
        run("nft", "delete", "table", "inet", "weave")
        for _ in range(2):
            with pytest.raises(HostError, match=r"nft says: Could not process rule: No such.*modprobe nft_masq"):
                await host.set_exposed("weave", [WEB])
        assert world.allowed() == Allowed(PORT, NONE, ONE)
        assert len(ours("iptables-nft")) == 4
        await host.set_exposed("weave", [PLAIN])

    VxlanLinuxWorld().run(check)


@pytest.mark.root
def test_host_without_nft(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def check(host: Host, world: VxlanWorld) -> None:
        run("iptables-legacy", "-P", "FORWARD", "DROP")
        legacy = str(shutil.which("iptables-legacy"))
        for name in ("iptables-legacy", "iptables-legacy-restore"):
            (tmp_path / name).symlink_to(legacy.replace("iptables-legacy", name))
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(firewall_programs, "_SYSTEM_PATHS", str(tmp_path))
        await host.set_exposed("weave", [])
        await host.set_exposed("weave", [PLAIN])
        with pytest.raises(HostError, match="install the package nftables"):
            await host.set_exposed("weave", [WEB])
        monkeypatch.undo()
        assert len(ours("iptables-legacy")) == 4

    VxlanLinuxWorld().run(check)


@pytest.mark.root
def test_host_without_iptables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def check(host: Host, world: VxlanWorld) -> None:
        run("iptables-nft", "-P", "FORWARD", "DROP")
        (tmp_path / "nft").symlink_to("/usr/sbin/nft")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(firewall_programs, "_SYSTEM_PATHS", str(tmp_path))
        with pytest.raises(HostError, match=r"iptables-nft.*is not installed: install the package iptables"):
            await host.set_exposed("weave", [WEB])
        monkeypatch.undo()
        assert translated(host) == {"10.2.1.0/24"}

    VxlanLinuxWorld().run(check)


@pytest.mark.root
def test_iptables_of_the_right_kind_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def check(host: Host, world: VxlanWorld) -> None:
        run("iptables-legacy", "-P", "FORWARD", "DROP")
        for name in ("iptables", "iptables-restore"):
            (tmp_path / name).symlink_to("/usr/sbin/xtables-nft-multi")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(firewall_programs, "_SYSTEM_PATHS", str(tmp_path))
        with pytest.raises(HostError, match=r"iptables-legacy.*is not installed"):
            await host.set_exposed("weave", [])
        for name in ("iptables", "iptables-restore"):
            (tmp_path / name).unlink()
            (tmp_path / name).symlink_to("/usr/sbin/xtables-legacy-multi")
        await host.set_exposed("weave", [])
        monkeypatch.undo()
        assert len(ours("iptables-legacy")) == 3

    VxlanLinuxWorld().run(check)


@on_linux
async def test_chain_that_iptables_cannot_read(host: Host, world: VxlanWorld) -> None:
    run("nft", "add table ip filter; add chain ip filter FORWARD; add rule ip filter FORWARD ct state new meta mark 7")
    run("nft", "add rule ip filter FORWARD ip saddr { 10.0.0.1, 10.0.0.2 } numgen random mod 2 vmap { 0: drop }")
    with pytest.raises(HostError, match=r"iptables-nft-restore v1\.[^;]* \S"):
        await host.set_exposed("weave", [WEB])
    assert translated(host) == {"10.2.1.0/24"}


# The chain FORWARD


PROGRAMS = ("iptables-nft", "iptables-legacy")


def with_each(check: Callable[[Host, str], object]) -> Callable[[str], None]:
    @pytest.mark.parametrize("program", PROGRAMS)
    @pytest.mark.root
    def test(program: str) -> None:
        async def go(host: Host, world: VxlanWorld) -> None:
            await check(host, program)  # type: ignore[misc]

        VxlanLinuxWorld().run(go)

    test.__doc__ = check.__doc__
    return test


def chain(program: str, name: str = "FORWARD") -> list[str]:
    """The rules of a chain, in order."""
    return [line for line in run(program, "-S", name).splitlines() if line.startswith("-A")]


def ours(program: str, name: str = "FORWARD") -> list[str]:
    return [line for line in chain(program, name) if "--comment weave-net" in line]


def rules(*subnets: str, place: str = "FORWARD") -> list[str]:
    mark = "-m comment --comment weave-net"
    return [
        f"-A {place} -i weave -o weave {mark} -j ACCEPT",
        f"-A {place} -i weave ! -o weave {mark} -j ACCEPT",
        f"-A {place} -o weave {mark} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        *(f"-A {place} -d {text} -o weave {mark} -j ACCEPT" for text in subnets),
    ]


@on_linux
async def test_no_chain_is_made(host: Host, world: VxlanWorld) -> None:
    await host.set_exposed("weave", [WEB])
    assert "FORWARD" not in run("nft", "list", "ruleset")
    assert not FilterTable("iptables", legacy=True).exists()


@with_each
async def test_rules_are_at_the_top(host: Host, program: str) -> None:
    run(program, "-P", "FORWARD", "DROP")
    run(program, "-A", "FORWARD", "-m", "comment", "--comment", 'it\'s "mine"', "-j", "REJECT")
    foreign = chain(program)
    for exposed in ((), (WEB, PLAIN, SIX), (DB,), (), (WEB,)):
        await host.set_exposed("weave", exposed)
        subnets = [str(found.network) for found in exposed if found.network.version == 4]
        assert chain(program) == rules(*subnets) + foreign
    assert "-P FORWARD DROP" in run(program, "-S")
    assert await host.remove_rules("weave")
    assert chain(program) == foreign
    assert not await host.remove_rules("weave")


@with_each
async def test_chain_that_comes_later(host: Host, program: str) -> None:
    await host.set_exposed("weave", [WEB])
    run(program, "-P", "FORWARD", "DROP")
    await host.set_exposed("weave", [WEB])
    assert chain(program) == rules("10.2.1.0/24")


@with_each
async def test_rules_of_docker_are_left_to_docker(host: Host, program: str) -> None:
    """DOCKER-USER ends with RETURN in older versions, and FORWARD leads to it first."""
    await host.set_exposed("weave", [WEB])
    run(program, "-A", "FORWARD", "-j", "ACCEPT")
    await host.set_exposed("weave", [WEB])
    run(program, "-N", "DOCKER-USER")
    run(program, "-A", "DOCKER-USER", "-j", "RETURN")
    run(program, "-I", "FORWARD", "-j", "DOCKER-USER")
    await host.set_exposed("weave", [WEB])
    forward = ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j ACCEPT"]
    assert chain(program) == forward
    assert chain(program, "DOCKER-USER") == [*rules("10.2.1.0/24", place="DOCKER-USER"), "-A DOCKER-USER -j RETURN"]
    run(program, "-F", "FORWARD")
    await trio.sleep(LOST_AGAIN_S)
    await host.set_exposed("weave", [WEB])
    assert chain(program) == rules("10.2.1.0/24"), "nothing leads to DOCKER-USER any more"
    assert chain(program, "DOCKER-USER") == ["-A DOCKER-USER -j RETURN"]


@with_each
async def test_what_others_flushed_is_put_back(host: Host, program: str) -> None:
    run(program, "-P", "FORWARD", "DROP")
    await host.set_exposed("weave", [WEB])
    run(program, "-F")
    await host.set_exposed("weave", [WEB])
    assert chain(program) == rules("10.2.1.0/24")


@with_each
async def test_remains_of_another_bridge_and_duplicates_go(host: Host, program: str) -> None:
    run(program, "-P", "FORWARD", "DROP")
    await host.set_exposed("weave0", [WEB])
    await Firewall().expose("weave", [WEB])
    assert chain(program) == rules("10.2.1.0/24")
    run(program, "-A", *rules()[0].split()[1:])
    await Firewall().expose("weave", [WEB])
    assert chain(program) == rules("10.2.1.0/24")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.root
def test_nobody_is_fought_without_end(legacy: bool) -> None:
    program = PROGRAMS[legacy]

    async def check(host: Host, world: VxlanWorld) -> None:
        run(program, "-P", "FORWARD", "DROP")
        kept = ForwardRules(FilterTable("iptables", legacy))

        def look(now: float) -> float:
            return kept.set("weave", [WEB.network], now)

        def is_on_top() -> bool:
            return chain(program)[0] == rules()[0]

        assert look(100) == float("inf")
        run(program, "-I", "FORWARD", "-s", "10.9.9.9", "-j", "DROP")
        assert look(100) == float("inf")
        assert is_on_top(), "the first time at once"
        run(program, "-D", "FORWARD", "-s", "10.9.9.9", "-j", "DROP")
        run(program, "-I", "FORWARD", "-s", "10.9.9.9", "-j", "DROP")
        assert look(101) == 100 + MOVE_AGAIN_S
        assert not is_on_top()
        assert look(100 + MOVE_AGAIN_S) == float("inf")
        assert is_on_top()
        run(program, "-F", "FORWARD")
        assert look(110.5) == 110 + LOST_AGAIN_S
        assert chain(program) == []
        assert look(111) == float("inf")
        assert chain(program) == rules("10.2.1.0/24")
        run(program, "-F", "FORWARD")
        assert kept.set("weave", [], 111.1) == float("inf"), "what is wanted anew is not put off"
        assert chain(program) == rules()

    VxlanLinuxWorld().run(check)


@pytest.mark.parametrize("program", ["ip6tables-nft", "ip6tables-legacy"])
@pytest.mark.root
def test_ipv6_only_where_it_is_dropped(program: str) -> None:
    async def check(host: Host, world: VxlanWorld) -> None:
        run(program, "-A", "FORWARD", "-j", "ACCEPT")
        await host.set_exposed("weave", [WEB, SIX])
        assert ours(program) == []
        run(program, "-P", "FORWARD", "DROP")
        await host.set_exposed("weave", [WEB, SIX])
        assert ours(program) == rules("fd00:2::/64")
        run(program, "-P", "FORWARD", "ACCEPT")
        await Firewall().expose("weave", [WEB, SIX])
        assert ours(program) == []

    VxlanLinuxWorld().run(check)


# Watching


@on_linux
async def test_changes_are_noticed_and_lead_to_no_circle(host: Host, world: VxlanWorld) -> None:
    await host.allow_vxlan(PORT, NONE, ONE)
    async with host.watch_rules() as changes:

        async def repair() -> None:
            for _ in range(5):
                with trio.move_on_after(2.5) as waited:
                    await anext(changes)
                if waited.cancelled_caught:
                    return
                await host.set_exposed("weave", [WEB])
            raise AssertionError("there is no end")

        await repair()
        before = sorted(table().splitlines())
        for command in (("nft", "flush", "ruleset"), ("iptables-nft", "-P", "FORWARD", "DROP")):
            run(*command)
            with trio.fail_after(1.9):
                await anext(changes)
            await host.set_exposed("weave", [WEB])
            assert sorted(table().splitlines()) == before
            await repair()
        assert chain("iptables-nft") == rules("10.2.1.0/24")


@on_linux
async def test_changes_of_what_is_not_ours_are_ignored(host: Host, world: VxlanWorld) -> None:
    async with host.watch_rules() as changes:
        await anext(changes)
        run("nft", "-f", "-", text=OTHERS)
        with trio.move_on_after(1.5) as waited:
            await anext(changes)
        assert waited.cancelled_caught


@on_linux
async def test_burst_of_changes_is_one(host: Host, world: VxlanWorld) -> None:
    async with host.watch_rules() as changes:
        await anext(changes)
        for number in range(20):
            run("iptables-nft", "-A", "FORWARD", "-s", f"10.0.0.{number}", "-j", "ACCEPT")
        count = 0
        with trio.move_on_after(3):
            async for _ in changes:
                count += 1
        assert 1 <= count <= 2


@pytest.mark.root
def test_legacy_tables_are_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall_watch, "LEGACY_POLL_S", 0.2)

    async def check(host: Host, world: VxlanWorld) -> None:
        async with host.watch_rules() as changes:
            await anext(changes)
            with trio.move_on_after(1.5) as waited:
                await anext(changes)
            assert waited.cancelled_caught, "there is none"
            run("iptables-legacy", "-P", "FORWARD", "DROP")
            for _ in range(2):
                with trio.fail_after(2):
                    await anext(changes)

    VxlanLinuxWorld().run(check)


@on_linux
async def test_move_that_was_put_off_is_made_up_for(host: Host, world: VxlanWorld) -> None:
    run("iptables-nft", "-P", "FORWARD", "DROP")
    await host.set_exposed("weave", [])
    async with host.watch_rules() as changes:
        for _ in range(2):
            run("iptables-nft", "-F", "FORWARD")
            await anext(changes)
            await host.set_exposed("weave", [])
        with trio.fail_after(5):
            while chain("iptables-nft") != rules():
                await anext(changes)
                await host.set_exposed("weave", [])


@on_linux
async def test_whether_packets_are_passed_on(host: Host, world: VxlanWorld) -> None:
    for value in ("0", "1", "0"):
        run("sysctl", "-qw", f"net.ipv4.ip_forward={value}")
        assert await host.forwards_packets() == (value == "1")


def test_failures_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0 if "list" in command else 1, "", "# Warning\nout of luck")

    monkeypatch.setattr("weave_router.host.firewall_forward.run_program", broken)
    monkeypatch.setattr("weave_router.host.firewall_forward.is_installed", lambda _: True)
    monkeypatch.setattr(firewall_exposed, "nft", lambda _: broken())

    async def main() -> None:
        with pytest.raises(HostError) as refused:
            await Firewall().expose("weave", [WEB])
        assert "nft says: # Warning" in str(refused.value)
        assert "iptables-nft says: out of luck" in str(refused.value)

    trio.run(main)
