"""`weave dns-add`, `dns-remove`, `dns-lookup`, `dns-args` and `attach -h`, against a daemon of fakes in a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
from weave.http_asker import free_port
from weave_net.directories import Directories

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ORIGIN = "00:00:00:00:00:01"
LONG = "0123456789abcdef" * 4
"""A container id as container engines make them."""


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directories]:
    with daemon(tmp_path_factory.mktemp("host"), **ALLOCATES_ALONE) as directories:
        yield directories


@pytest.fixture
def cli(directories: Directories) -> Iterator[Cli]:
    """Runs `weave` against that daemon, which afterwards has no attachments and no names again."""
    yield caller(directories)
    forget_containers(directories)


def line(name: str, address: str, container: str) -> str:
    """A line of `weave status dns`."""
    return f"{name:<12} {address:<15} {container:>12} {ORIGIN}\n"


def attach(cli: Cli, *arguments: str) -> str:
    return succeeds(cli("attach", "--netns", NAMESPACE, *arguments)).strip()


# Adding


def test_names_without_a_container(cli: Cli) -> None:
    assert succeeds(cli("dns-add", "10.2.1.1", "10.2.1.2", "-h", "printer.weave.local")) == ""
    assert succeeds(cli("dns-add", "-h", "Nas.weave.local.", "fd00::7")) == ""
    assert succeeds(cli("status", "dns")) == (
        line("Nas", "fd00::7", "weave:extern")
        + line("printer", "10.2.1.1", "weave:extern")
        + line("printer", "10.2.1.2", "weave:extern")
    )


def test_names_of_containers_by_address(cli: Cli) -> None:
    succeeds(cli("dns-add", "10.2.1.1", "web", "-h", "web.weave.local"))
    succeeds(cli("dns-add", "10.2.1.2", "10.2.1.3", LONG, "--hostname", "db.weave.local"))
    assert succeeds(cli("status", "dns")) == (
        line("db", "10.2.1.2", LONG[:12]) + line("db", "10.2.1.3", LONG[:12]) + line("web", "10.2.1.1", "web")
    )


def test_names_of_containers_that_are_attached(cli: Cli) -> None:
    attach(cli, "--id", "web", "10.2.1.1/24", "fd00::1/64")
    attach(cli, "--id", "web", "--interface", "eth1", "10.2.1.2/24")
    attach(cli, "--id", "db", "--interface", "eth2", "10.2.1.3/24")
    assert succeeds(cli("dns-add", "web", "-h", "web.weave.local")) == ""
    assert sorted(succeeds(cli("dns-lookup", "web")).split()) == ["10.2.1.1", "10.2.1.2", "fd00::1"]
    succeeds(cli("detach", "--netns", NAMESPACE, "--id", "web", "10.2.1.1"))
    assert succeeds(cli("dns-lookup", "web")).split() == ["10.2.1.2", "fd00::1"]
    succeeds(cli("detach", "--netns", NAMESPACE, "--id", "web"))
    succeeds(cli("detach", "--netns", NAMESPACE, "--id", "web", "--interface", "eth1"))
    assert "there is no address of web" in fails(cli("dns-lookup", "web"))


def test_container_as_the_views_show_it(cli: Cli) -> None:
    """'weave ps' and 'weave status dns' cut ids to 12 characters; 'weave ps' takes these, too."""
    attach(cli, "--id", LONG, "10.2.1.1/24")
    shown = succeeds(cli("ps")).split()[0]
    assert shown == LONG[:12]
    succeeds(cli("dns-add", shown, "-h", "web.weave.local"))
    assert succeeds(cli("status", "dns")) == line("web", "10.2.1.1", shown)
    succeeds(cli("dns-remove", shown))
    assert succeeds(cli("status", "dns")) == ""


def test_repeating_changes_nothing(cli: Cli) -> None:
    for name in ("printer.weave.local", "PRINTER.weave.local", "printer.weave.local."):
        succeeds(cli("dns-add", "10.2.1.1", "-h", name))
    assert succeeds(cli("status", "dns")) == line("printer", "10.2.1.1", "weave:extern")


def test_flags_as_go_writes_them(cli: Cli) -> None:
    for number, arguments in enumerate(
        (["-h=x.weave.local"], ["-hostname", "x.weave.local"], ["--hostname=x.weave.local"])
    ):
        succeeds(cli("dns-add", *arguments, f"10.2.1.{number}"))
    assert succeeds(cli("dns-lookup", "x")).split() == ["10.2.1.0", "10.2.1.1", "10.2.1.2"]


# Removing


def test_removing(cli: Cli) -> None:
    def again() -> None:
        for container, address in (("web", "10.2.1.1"), ("web", "10.2.1.2"), ("weave:extern", "10.2.1.1")):
            for name in ("a.weave.local", "b.weave.local"):
                succeeds(cli("dns-add", address, container, "-h", name))

    everything = [
        line(name, address, container)
        for name in ("a", "b")
        for container, address in (("weave:extern", "10.2.1.1"), ("web", "10.2.1.1"), ("web", "10.2.1.2"))
    ]
    for arguments, gone in (
        (["10.2.1.1", "web", "-h", "A.weave.local"], {1}),
        (["10.2.1.1", "web"], {1, 4}),
        (["10.2.1.1", "10.2.1.2", "web"], {1, 2, 4, 5}),
        (["web", "-h", "a.weave.local."], {1, 2}),
        (["web"], {1, 2, 4, 5}),
        (["10.2.1.1"], {0, 3}),
        (["10.2.1.1", "-h", "b.weave.local"], {3}),
        (["10.2.1.2"], set()),
        (["nobody"], set()),
        (["web", "-h", "c.weave.local"], set()),
    ):
        again()
        assert succeeds(cli("dns-remove", *arguments)) == ""
        left = [text for number, text in enumerate(everything) if number not in gone]
        assert succeeds(cli("status", "dns")) == "".join(left), arguments


def test_empty_name_does_not_mean_all_names(cli: Cli) -> None:
    """A script's `weave dns-remove web -h "$NAME"` without a value must not take all names away."""
    succeeds(cli("dns-add", "10.2.1.1", "web", "-h", "web.weave.local"))
    assert "is no host name" in fails(cli("dns-remove", "web", "-h", ""))
    assert "is no host name" in fails(cli("dns-remove", "10.2.1.1", "web", "-h", ""))
    assert succeeds(cli("status", "dns")) == line("web", "10.2.1.1", "web")


# Bad input


@pytest.mark.parametrize("command", ["dns-add", "dns-remove", "dns-lookup"])
def test_no_words(cli: Cli, command: str) -> None:
    for arguments in ([], [] if command == "dns-lookup" else ["-h", "x.weave.local"]):
        result = cli(command, *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"Usage: weave {command} [OPTIONS]" in result.stderr
        assert "Missing argument" in result.stderr


NO_ADDRESS = ["10.2.1.999", "10.2.1.1.1", "10.2.1", "010.2.1.1", "10.2.1.1/33", "10.2.1.1/", "fd00::g", "fd00:::1"]
"""What somebody wrote who meant an address."""


@pytest.mark.parametrize("text", NO_ADDRESS)
@pytest.mark.parametrize("command", ["dns-add", "dns-remove"])
def test_bad_address(cli: Cli, command: str, text: str) -> None:
    """An operator who mistypes an address is told that, and not about containers; nothing is taken for done."""
    for others in ((), ("web",), ("10.2.1.1",)):
        error = fails(cli(command, text, *others, "-h", "x.weave.local"))
        assert text in error
        assert "is no" in error
        assert "address" in error
        assert "attachment id" not in error
    assert succeeds(cli("status", "dns")) == ""


def test_address_as_ps_prints_it(cli: Cli) -> None:
    succeeds(cli("dns-add", "10.2.1.1/24", "FD00:0::1/64", "-h", "x.weave.local"))
    assert succeeds(cli("dns-lookup", "x")) == "10.2.1.1\nfd00::1\n"
    succeeds(cli("dns-remove", "10.2.1.1/24", "fd00::1/64"))
    assert succeeds(cli("status", "dns")) == ""


def test_address_of_one_link(cli: Cli) -> None:
    error = fails(cli("dns-add", "fe80::1%eth0", "-h", "x.weave.local"))
    assert error == "'fe80::1%eth0' is an address of one link only\n"
    assert succeeds(cli("status", "dns")) == ""


@pytest.mark.parametrize("command", ["dns-add", "dns-remove"])
def test_two_containers(cli: Cli, command: str) -> None:
    error = fails(cli(command, "web", "db", "-h", "x.weave.local"))
    assert error == "web and db: there can be one container only, and addresses before it\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [("", "the container's name is empty"), ("a/b", "a/b"), ("c" * 1025, "at most 1024 bytes")],
    ids=["empty", "with a slash", "too long"],
)
@pytest.mark.parametrize("command", ["dns-add", "dns-remove"])
def test_bad_container(cli: Cli, command: str, text: str, part: str) -> None:
    if (command, part) == ("dns-remove", "at most 1024 bytes"):
        succeeds(cli(command, text))  # what cannot be there is gone
        return
    error = fails(cli(command, "10.2.1.1", text, "-h", "x.weave.local"))
    assert part in error
    assert len(error) < 200, "it is to be read"
    assert succeeds(cli("status", "dns")) == ""


@pytest.mark.parametrize("text", ["a b", "ü", "_", "c" * 300, "-", "a?b", "a#b", "a%2fb", "weave:expose"])
def test_odd_container(cli: Cli, text: str) -> None:
    """It is free text."""
    succeeds(cli("dns-add", "10.2.1.1", "-h", "x.weave.local", "--", text))
    assert succeeds(cli("status", "dns")) == line("x", "10.2.1.1", text[:12])
    succeeds(cli("dns-remove", "--", text))
    assert succeeds(cli("status", "dns")) == ""


@pytest.mark.parametrize("text", [".", "..", "./", "../name", "web/10.2.1.1"])
def test_container_is_no_path(cli: Cli, text: str) -> None:
    """Whatever the word is, what has another container's name stays: '/name/.' is '/name' to an HTTP client."""
    for container in ("web", "weave:extern"):
        succeeds(cli("dns-add", "10.2.1.1", container, "-h", "x.weave.local"))
    before = succeeds(cli("status", "dns"))
    cli("dns-remove", text)
    assert succeeds(cli("status", "dns")) == before


def test_peer_is_no_path(tmp_path: Path) -> None:
    """'/peer/.' is '/peer' to an HTTP client, and to DELETE that is to hand all addresses over."""
    with daemon(tmp_path, **ALLOCATES_ALONE) as directories:
        cli = caller(directories)
        cli("rmpeer", ".")
        assert attach(cli)


def test_no_name(cli: Cli) -> None:
    assert fails(cli("dns-add", "10.2.1.1")) == "which name? Give it with -h NAME\n"


def test_container_without_an_address(cli: Cli) -> None:
    assert fails(cli("dns-add", "web", "-h", "web.weave.local")) == (
        "web has no address on the network of this host: name its addresses\n"
    )
    attach(cli, "--id", "web", "10.2.1.1/24")
    assert "has no address" in fails(cli("dns-add", "db", "-h", "web.weave.local"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "'' is no host name"),
        (".", "'.' is no host name"),
        ("a b.weave.local", "'a b.weave.local' is no host name: use letters, digits, hyphens and dots"),
        ("münchen.weave.local", "'münchen.weave.local' is no host name: use letters, digits, hyphens and dots"),
        ("a\x1b[2J.weave.local", r"'a\x1b[2J.weave.local' is no host name"),
        (f"{'x' * 64}.weave.local", "labels have 1 to 63 characters, the whole name at most 253"),
        (f"{'x.' * 200}weave.local", "labels have 1 to 63 characters, the whole name at most 253"),
        ("web.example.com", "web.example.com is outside of the domain weave.local."),
        ("web", "web is outside of the domain weave.local."),
    ],
)
def test_bad_name(cli: Cli, name: str, text: str) -> None:
    attach(cli, "--id", "db", "10.2.1.9/24")
    for arguments in (["dns-add", "10.2.1.1"], ["dns-add", "10.2.1.1", "10.2.1.2", "web"], ["dns-add", "db"]):
        error = fails(cli(*arguments, "-h", name))
        assert text in error
        assert len(error) < 250
    assert succeeds(cli("status", "dns")) == ""


# Looking up


def test_look_up(cli: Cli) -> None:
    succeeds(cli("dns-add", "10.2.1.1", "fd00::1", "-h", "web.weave.local"))
    for name in ("web", "WEB", "web.weave.local", "web.weave.local.", "Web.Weave.Local"):
        assert succeeds(cli("dns-lookup", name)) == "10.2.1.1\nfd00::1\n"


def test_look_up_of_what_is_not_there(cli: Cli) -> None:
    for name in ("nobody", "nobody.weave.local", "weave.local"):
        assert fails(cli("dns-lookup", name)) == f"there is no address of {name}\n"
    error = fails(cli("dns-lookup", "www.example.com"))
    assert error.startswith("www.example.com. A: no upstream name server answered: 127.0.0.99 ")


@pytest.mark.parametrize("name", ["", ".", "..", "a b", " ", "a/b", "../status", "a?b", "a#b", "a%2fb", "ä", "x" * 64])
def test_look_up_of_what_is_no_name(cli: Cli, name: str) -> None:
    assert fails(cli("dns-lookup", name)).startswith(f"{name!r} is no host name: ")


def test_look_up_of_two_names(cli: Cli) -> None:
    assert "unexpected extra argument (y)" in cli("dns-lookup", "x", "y").stderr


# Attaching


def test_attach_with_a_name(cli: Cli) -> None:
    address = attach(cli, "-h", "web.weave.local")
    assert succeeds(cli("dns-lookup", "web")) == f"{address}\n"
    assert attach(cli, "--hostname", "more.weave.local", "10.2.1.1/24", "fd00::1/64") == "10.2.1.1 fd00::1"
    assert succeeds(cli("dns-lookup", "more")) == "10.2.1.1\nfd00::1\n"
    assert succeeds(cli("dns-lookup", "web")) == f"{address}\n"
    succeeds(cli("detach", "--netns", NAMESPACE))
    assert succeeds(cli("status", "dns")) == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("web.example.com", "web.example.com is outside of the domain weave.local."),
        ("web", "web is outside of the domain weave.local."),
        ("w eb.weave.local", "'w eb.weave.local' is no host name"),
        ("", "'' is no host name"),
    ],
)
def test_attach_with_a_bad_name(cli: Cli, name: str, text: str) -> None:
    assert text in fails(cli("attach", "--netns", NAMESPACE, "-h", name))
    assert succeeds(cli("ps")) == ""


# Arguments for containers


def test_arguments_without_an_address_to_listen_at(cli: Cli) -> None:
    assert fails(cli("dns-args")) == "no address to listen at: the bridge has none; 'weave expose' gives it one\n"


@pytest.mark.root
def test_arguments(tmp_path: Path) -> None:
    with daemon(tmp_path, **ALLOCATES_ALONE, dns_listen_address="127.0.0.97", dns_domain="Example.test") as directories:
        assert succeeds(caller(directories)("dns-args")) == "--dns=127.0.0.97 --dns-search=Example.test"


def test_arguments_cannot_tell_a_port(tmp_path: Path) -> None:
    port = free_port()
    with daemon(tmp_path, **ALLOCATES_ALONE, dns_listen_address=f"127.0.0.1:{port}") as directories:
        error = fails(caller(directories)("dns-args"))
        assert error == f"the name server listens at port {port}, and containers always ask at port 53\n"


def test_arguments_name_an_address_that_containers_can_ask(tmp_path: Path) -> None:
    """0.0.0.0 is all addresses of this host to a server, and the container itself to who asks."""
    with daemon(tmp_path, **ALLOCATES_ALONE, dns_listen_address=f"0.0.0.0:{free_port()}") as directories:
        assert "0.0.0.0" not in caller(directories)("dns-args").stdout


# A service that is off, a daemon that does not run, help


def test_names_that_are_off(tmp_path: Path) -> None:
    off = "names are off (--no-dns)\n"
    with daemon(tmp_path, **ALLOCATES_ALONE, dns=False) as directories:
        cli = caller(directories)
        assert succeeds(cli("dns-args")) == ""
        for arguments in (
            ["dns-add", "10.2.1.1", "-h", "x.weave.local"],
            ["dns-remove", "10.2.1.1"],
            ["dns-remove", "web"],
            ["dns-lookup", "x"],
            ["status", "dns"],
        ):
            assert fails(cli(*arguments)) == off, arguments
        error = fails(cli("attach", "--netns", NAMESPACE, "-h", "x.weave.local"))
        assert error == f"x.weave.local cannot be added: {off}"
        assert succeeds(cli("ps")) == ""
        assert attach(cli)
        assert "dns" not in succeeds(cli("status"))


def test_no_daemon(tmp_path: Path) -> None:
    cli = caller(Directories(tmp_path / "state", tmp_path / "run"))
    for arguments in (
        ["dns-add", "10.2.1.1", "-h", "x.weave.local"],
        ["dns-remove", "web"],
        ["dns-lookup", "x"],
        ["dns-args"],
    ):
        assert "start it with 'weave launch'" in fails(cli(*arguments))


def test_help_of_status_tells_of_every_view(cli: Cli) -> None:
    text = succeeds(cli("status", "--help"))
    for view in ("targets", "connections", "peers", "dns", "ipam"):
        assert f"\n  {view} " in text, view
