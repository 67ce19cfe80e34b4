"""`weave expose`, `weave hide` and how `weave ps` shows it, against a daemon of fakes in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from weave.fake_daemon_process import ALLOCATES_ALONE, Cli, caller, daemon, fails, succeeds
from weave_net.client import DaemonClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

    from weave_net.directories import Directories

MAC = "00:00:00:00:00:01"


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directories]:
    """Of a daemon that allocates addresses alone."""
    with daemon(tmp_path_factory.mktemp("host"), **ALLOCATES_ALONE) as directories:
        yield directories


@pytest.fixture
def cli(directories: Directories) -> Iterator[Cli]:
    """Runs `weave` against that daemon, which afterwards exposes nothing again."""
    yield caller(directories)
    with DaemonClient(directories) as client:
        addresses = client.exposed()["addresses"]
        if addresses:
            client.hide(addresses)


def finds_nothing(result: Result) -> str:
    """Standard error of a command that had nothing to do, which is no failure."""
    assert (result.exit_code, result.stdout) == (0, "")
    return result.stderr


def test_expose_and_hide_print_plain_addresses(cli: Cli) -> None:
    address = succeeds(cli("expose"))
    assert address.startswith("10.32.1.")
    assert address.count("\n") == 1
    assert succeeds(cli("expose")) == succeeds(cli("expose", "net:default")) == address
    assert succeeds(cli("hide")) == address
    assert "no such address" in finds_nothing(cli("hide"))


def test_all_forms(cli: Cli) -> None:
    words = succeeds(cli("expose", "10.2.1.5/24", "net:10.33.0.0/24", "ip:fd00::5/64", "10.2.1.5/24")).split()
    assert (words[0], words[1].rpartition(".")[0], words[2:]) == ("10.2.1.5", "10.33.0", ["fd00::5"])
    assert finds_nothing(cli("hide")), "none of them is in the default subnet"
    assert succeeds(cli("hide", "fd00::5", "10.2.1.5/24", words[1])) == f"10.2.1.5 {words[1]} fd00::5\n"


def test_options_of_weave_net(cli: Cli) -> None:
    assert succeeds(cli("expose", "10.2.1.5/24", "--without-masquerade")) == "10.2.1.5\n"
    assert succeeds(cli("expose", "-without-masquerade", "10.2.1.5/24")) == "10.2.1.5\n"
    assert "translate" in succeeds(cli("expose", "--help"))


@pytest.mark.parametrize("option", [("-h", "gate.weave.local"), ("-h=gate.weave.local",)])
def test_name_reaches_the_daemon(cli: Cli, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]) -> None:
    sent: list[dict[str, Any]] = []

    def remember(_: DaemonClient, body: dict[str, Any]) -> list[str]:
        sent.append(body)
        return ["10.2.1.5/24"]

    monkeypatch.setattr(DaemonClient, "expose", remember)
    assert succeeds(cli("expose", *option, "10.2.1.5/24")) == "10.2.1.5\n"
    assert sent == [{"addresses": ["10.2.1.5/24"], "fqdn": "gate.weave.local", "masquerade": True}]


def test_nonsense(cli: Cli) -> None:
    assert "ADDRESS/LEN" in fails(cli("expose", "10.2.1.5"))
    assert "ADDRESS/LEN" in fails(cli("expose", "web"))
    assert "cannot be exposed" in fails(cli("expose", "fe80::1/64"))
    assert "out of bounds" in fails(cli("expose", "net:10.99.0.0/24"))
    assert "is no address" in fails(cli("hide", "web"))
    assert succeeds(cli("ps")) == ""


def test_without_allocation(tmp_path: Path) -> None:
    with daemon(tmp_path, ipalloc_range="") as directories:
        cli = caller(directories)
        assert fails(cli("expose")) == "net:default: address allocation is off; give an address as ADDRESS/LEN\n"
        assert succeeds(cli("expose", "10.2.1.5/24")) == "10.2.1.5\n"
        assert "name the addresses" in fails(cli("hide"))
        assert succeeds(cli("hide", "10.2.1.5")) == "10.2.1.5\n"


def test_ps_shows_the_bridge_first(cli: Cli) -> None:
    assert succeeds(cli("ps")) == ""
    assert succeeds(cli("ps", "weave:expose")) == f"weave:expose {MAC}\n"
    address = succeeds(cli("expose", "net:default", "10.2.1.5/24")).split()[0]
    line = f"weave:expose {MAC} {address}/24 10.2.1.5/24\n"
    assert succeeds(cli("ps")) == succeeds(cli("ps", "weave:expose")) == succeeds(cli("ps", "web", "weave:expose"))
    assert succeeds(cli("ps")) == line
    assert succeeds(cli("ps", "web")) == ""
