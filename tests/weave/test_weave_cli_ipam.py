"""The command line of address allocation, against a daemon of fakes in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from weave.fake_daemon_process import NAMESPACE, Cli, caller, daemon, fails, forget_containers, succeeds
from weave_net import launch as launcher
from weave_net.cli import weave
from weave_net.client import DaemonClient
from weave_net.errors import ApiError
from weave_net.settings import DaemonSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from weave_net.directories import Directories


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directories]:
    """Of a daemon that shares the range with a peer that is gone."""
    base = tmp_path_factory.mktemp("host")
    with daemon(base, ipalloc_init="seed=::1,::2", ipalloc_default_subnet="10.32.1.0/24") as directories:
        yield directories


@pytest.fixture
def cli(directories: Directories) -> Iterator[Cli]:
    """Runs `weave` against that daemon, which afterwards has no attachments again."""
    yield caller(directories)
    forget_containers(directories)


def attach(cli: Cli, *arguments: str) -> str:
    """What `weave attach` prints to standard output; it has to succeed without a word on standard error."""
    return succeeds(cli("attach", "--netns", NAMESPACE, *arguments))


# Attaching


def test_attach_prints_the_address(cli: Cli) -> None:
    address = attach(cli)
    assert address.startswith("10.32.1.")
    assert attach(cli) == attach(cli, "net:default") == address
    assert cli("detach", "--netns", NAMESPACE).stdout == address
    assert cli("ps").stdout == ""


def test_attach_prints_one_address_of_each_kind(cli: Cli) -> None:
    words = attach(cli, "10.2.1.5/24", "net:10.33.0.0/24", "fd00::5/64").split()
    assert words == ["10.2.1.5", "10.33.0.1", "fd00::5"]
    assert cli("detach", "--netns", NAMESPACE, "10.33.0.1").stdout == "10.33.0.1\n"


def test_attach_prints_only_what_was_asked_for(cli: Cli) -> None:
    attach(cli, "10.2.1.5/24")
    (address,) = attach(cli).split()
    assert address.startswith("10.32.1.")


def test_attach_conflict(cli: Cli) -> None:
    address = attach(cli, "--id", "web").strip()
    text = fails(cli("attach", "--netns", NAMESPACE, "--id", "db", "--interface", "eth1", f"{address}/24"))
    assert text == f"address {address}/24 is already owned by web\n"
    assert len(cli("ps").stdout.splitlines()) == 1


def test_attach_without_allocation(tmp_path: Path) -> None:
    with daemon(tmp_path, ipalloc_range="") as directories:
        cli = caller(directories)
        text = fails(cli("attach", "--netns", NAMESPACE))
        assert text == "net:default: address allocation is off; give an address as ADDRESS/LEN\n"
        assert cli("attach", "--netns", NAMESPACE, "10.2.1.5/24").stdout == "10.2.1.5\n"
        assert "ipam" not in cli("status").stdout
        for arguments in (["prime"], ["status", "ipam"]):
            assert fails(cli(*arguments)) == "address allocation is off (--ipalloc-range is empty)\n"
        assert cli("rmpeer", "h2").output == ""


# ps


def test_ps(cli: Cli) -> None:
    assert cli("ps").output == ""
    address = attach(cli, "--id", "web", "--mac", "7a:00:00:00:00:05", "net:default", "10.2.1.5/24").split()[0]
    long = "0123456789abcdef" * 4
    attach(cli, "--id", long, "--interface", "eth1", "--mac", "7a:00:00:00:00:06", "10.2.1.6/24")
    short = f"{long[:12]} 7a:00:00:00:00:06 10.2.1.6/24\n"
    web = f"web 7a:00:00:00:00:05 {address}/24 10.2.1.5/24\n"
    assert cli("ps").stdout == short + web
    assert cli("ps", "web").stdout == web
    for text in (long, long[:12], long[:20]):
        assert cli("ps", text).stdout == short
    assert cli("ps", long[:11], "nobody").stdout == ""
    assert cli("ps", "web", long).stdout == short + web


def test_ps_tells_containers_apart(cli: Cli) -> None:
    """The default id of a namespace is 'netns-' and ten digits, of which the first ones are those of all others."""
    attach(cli, "--id", "netns-4026532001", "10.2.1.5/24")
    attach(cli, "--id", "netns-4026532002", "--interface", "eth1", "10.2.1.6/24")
    assert len({line.split()[0] for line in cli("ps").stdout.splitlines()}) == 2


# prime and rmpeer


def test_prime(cli: Cli) -> None:
    result = cli("prime")
    assert (result.exit_code, result.output) == (0, "")


def test_rmpeer(cli: Cli) -> None:
    assert "unreachable" in cli("status", "ipam").stdout
    refused = cli("rmpeer", "00:00:00:00:00:02")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "has been out of reach for" in refused.stderr
    result = cli("rmpeer", "--force", "nobody", "::2", "00:00:00:00:00:02", "h1", "a b ü%")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "0 IPs taken over from nobody",
        "0 IPs taken over from ::2",
        "524288 IPs taken over from 00:00:00:00:00:02",
        "0 IPs taken over from h1",
        "0 IPs taken over from a b ü%",
    ]
    assert "unreachable" not in cli("status", "ipam").stdout


def test_rmpeer_goes_on_after_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def remove(_: DaemonClient, peer: str, *, also: list[str], force: bool) -> str:
        asked.append((peer, also, force))
        if peer == "h2":
            raise ApiError(409, "h2 can be reached")
        return f"7 IPs taken over from {peer}\n"

    monkeypatch.setattr(DaemonClient, "remove_peer", remove)
    result = cli("rmpeer", "h1", "h2", "h3")
    assert (result.exit_code, result.stderr) == (1, "h2 can be reached\n")
    assert result.stdout == "7 IPs taken over from h1\n7 IPs taken over from h3\n"
    cli("rmpeer", "--force", "h4")
    assert asked == [
        ("h1", ["h2", "h3"], False),
        ("h2", ["h1", "h3"], False),
        ("h3", ["h1", "h2"], False),
        ("h4", [], True),
    ]


def test_rmpeer_needs_a_name(cli: Cli) -> None:
    assert "Usage: weave rmpeer" in cli("rmpeer").stderr


# Launching


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `weave launch`; the settings that a daemon would get are in `started`."""

    def start(settings: DaemonSettings, *_: Any) -> None:
        (tmp_path / "settings").write_text(settings.to_json())

    monkeypatch.setattr(launcher, "launch_in_background", start)
    monkeypatch.setattr(launcher, "check_privileges", lambda _: None)

    def run(*arguments: str) -> Result:
        directories = {"WEAVE_STATE_DIR": str(tmp_path / "state"), "WEAVE_RUN_DIR": str(tmp_path / "run")}
        return CliRunner().invoke(weave, ["launch", *arguments], env=directories)

    return run


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ipalloc-range", "nonsense"], "--ipalloc-range 'nonsense' is no subnet such as 10.32.0.0/12"),
        (["--ipalloc-range", "10.32.0.1/12"], "--ipalloc-range '10.32.0.1/12' is no subnet such as 10.32.0.0/12"),
        (["--ipalloc-range", "10.32.0.0/31"], "--ipalloc-range: 10.32.0.0/31 has fewer than 4 addresses"),
        (["--ipalloc-range", "10.32.0.0"], "--ipalloc-range: 10.32.0.0/32 has fewer than 4 addresses"),
        (["--iprange", "fd00::/64"], "allocation is for IPv4 only so far"),
        (["-iprange", "255.0.0.0/8"], "a range up to 255.255.255.255 cannot be told to Weave Net peers"),
        (["--ipalloc-default-subnet", "x"], "--ipalloc-default-subnet 'x' is no subnet"),
        (["--ipalloc-default-subnet", "10.99.0.0/16"], "10.99.0.0/16 has no address of --ipalloc-range 10.32.0.0/12"),
        (["--ipalloc-default-subnet=10.32.1.1/24"], "--ipalloc-default-subnet '10.32.1.1/24' is no subnet"),
        (["--ipalloc-range", "", "--ipalloc-default-subnet", "10.32.0.0/24"], "makes no sense without --ipalloc-range"),
        (["--ipalloc-range=", "--ipalloc-init=consensus"], "--ipalloc-init makes no sense without --ipalloc-range"),
        (["--ipalloc-init", "nonsense"], "--ipalloc-init 'nonsense' is none of 'consensus'"),
        (["--ipalloc-init", "consensus=x"], "the number of voters must stand behind 'consensus='"),
        (["--ipalloc-init", "consensus=-3"], "the number of voters must stand behind 'consensus='"),
        (["--ipalloc-init", "seed=::1,x"], "--ipalloc-init 'seed=::1,x': "),
        (["--ipalloc-init", "seed"], "--ipalloc-init 'seed' is none of"),
        (["--ipalloc-init", "observer=1"], "--ipalloc-init 'observer=1' is none of"),
    ],
)
def test_bad_values(launch: Callable[..., Result], tmp_path: Path, arguments: list[str], text: str) -> None:
    assert text in fails(launch(*arguments))
    assert not (tmp_path / "settings").exists()
    assert not (tmp_path / "state").exists()


def test_good_values(launch: Callable[..., Result], tmp_path: Path) -> None:
    for arguments, wanted in (
        ((), "IpamSettings(10.32.0.0/12, 10.32.0.0/12, CONSENSUS, 0, 0)"),
        (("-iprange=10.0.0.0/8",), "IpamSettings(10.0.0.0/8, 10.0.0.0/8, CONSENSUS, 0, 0)"),
        (("--ipalloc-default-subnet", "10.0.0.0/8"), "IpamSettings(10.32.0.0/12, 10.0.0.0/8, CONSENSUS, 0, 0)"),
        (("--ipalloc-init=consensus=5",), "IpamSettings(10.32.0.0/12, 10.32.0.0/12, CONSENSUS, 5, 0)"),
        (("-ipalloc-init", "seed=::1,::2"), "IpamSettings(10.32.0.0/12, 10.32.0.0/12, SEED, 0, 2)"),
        (("--ipalloc-init", "observer"), "IpamSettings(10.32.0.0/12, 10.32.0.0/12, OBSERVER, 0, 0)"),
        (("--ipalloc-range", ""), "None"),
        (("--ipalloc-range=",), "None"),
    ):
        result = launch(*arguments)
        assert (result.exit_code, result.output) == (0, ""), arguments
        settings = DaemonSettings.from_json((tmp_path / "settings").read_text()).ipam_settings()
        text = "None"
        if settings is not None:
            mode, voters, seeds = settings.beginning.mode, settings.beginning.voters, settings.beginning.seeds
            parts = (settings.network, settings.default_subnet, mode.name, voters, len(seeds))
            text = f"IpamSettings({', '.join(map(str, parts))})"
        assert text == wanted, arguments
