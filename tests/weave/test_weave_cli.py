"""The command line: arguments, output, errors and exit status, against one daemon of fakes in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from weave.fake_daemon_process import NAMESPACE, Cli, caller, daemon, forget_containers
from weave_net import launch as launcher
from weave_net.cli import ABSENT_COMMANDS, ALIASES, COMMANDS, weave
from weave_net.client import DaemonClient
from weave_net.directories import Directories
from weave_net.launch_flags import FUTURE_FLAGS, GONE_FLAGS
from weave_net.settings import DaemonSettings
from weave_net.status_views import VIEWS
from weave_net.version import program_version

if TYPE_CHECKING:
    from collections.abc import Iterator

Launch = Callable[..., tuple[DaemonSettings, str]]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directories]:
    """Those of a daemon that runs, with this process's namespace as the only one that it knows."""
    with daemon(tmp_path_factory.mktemp("host")) as directories:
        yield directories


@pytest.fixture
def cli(directories: Directories) -> Iterator[Cli]:
    """Runs `weave` against that daemon, which afterwards has no targets and no attachments again."""
    yield caller(directories)
    forget_containers(directories)
    with DaemonClient(directories) as client:
        client.post("/connect", {"replace": "true"})


def alone(*arguments: str, **environment: str) -> Result:
    """Runs `weave` where no daemon is."""
    return CliRunner().invoke(weave, list(arguments), env={"WEAVE_RUN_DIR": "/nonexistent", **environment})


def fails(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    return result.stderr


# Usage


def test_usage_is_shown_where_no_command_is_named() -> None:
    assert fails(alone()).startswith("Usage: weave ")


@pytest.mark.parametrize("command", ["nonsense", "Status", "stat"])
def test_unknown_command_shows_the_usage(command: str) -> None:
    text = fails(alone(command))
    assert text.startswith("Usage: weave ")
    assert text.endswith(f"There is no command '{command}'\n")


@pytest.mark.parametrize("command", sorted(ABSENT_COMMANDS))
def test_commands_of_2_8_that_are_not_here(command: str) -> None:
    assert ABSENT_COMMANDS[command] in fails(alone(command, "--whatever"))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    for arguments in ((command, "--help"), ("help", command), (command, "-help")):
        result = alone(*arguments)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: weave {command}")


def test_help() -> None:
    for arguments in (["help"], ["--help"]):
        result = alone(*arguments)
        assert result.exit_code == 0
        assert all(f"  {command} " in result.stdout for command in COMMANDS.keys() - ALIASES)
    assert "no command 'nonsense'" in fails(alone("help", "nonsense"))


def test_wrong_flags_and_arguments() -> None:
    for arguments in (
        ["status", "--nonsense"],
        ["--nonsense", "status"],
        ["forget"],
        ["attach"],
        ["detach"],
        ["rmpeer"],
        ["prime", "now"],
        ["status", "peers", "more"],
    ):
        assert "Usage: weave" in fails(alone(*arguments)), arguments
    assert "requires an argument" in fails(alone("report", "-f"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["status", "peers"],
        ["report"],
        ["connect", "h2"],
        ["forget", "h2"],
        ["attach", "--netns", NAMESPACE, "10.2.1.5/24"],
        ["attach", "--netns", NAMESPACE],
        ["detach", "--netns", NAMESPACE],
        ["ps"],
        ["prime"],
        ["rmpeer", "h2"],
    ],
)
def test_no_daemon(arguments: list[str]) -> None:
    assert fails(alone(*arguments)) == (
        "weave is not running (no daemon answers on /nonexistent/weave.sock); start it with 'weave launch'\n"
    )


def test_stop_without_a_daemon() -> None:
    assert fails(alone("stop")) == "weave is not running (no daemon holds /nonexistent/weave.pid)\n"


def test_program_is_installed_and_starts_lightly() -> None:
    """Nothing that takes long to import is needed to find out that a daemon is missing."""
    program = (
        "import sys; from weave_net.cli import main\n"
        "try: main()\n"
        "finally: print(*sorted({'trio', 'numpy', 'pyroute2', 'starlette', 'rich'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", program, "status", "--run-dir", "/nonexistent"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "\n")
    assert result.stderr.startswith("weave is not running")


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["completion", "bash"]])
def test_output_that_finds_no_room_is_an_error_of_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "from weave_net.cli import main; main()", *arguments]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "the output cannot be written: No space left on device\n"


# Where the daemon is


def test_run_directory_by_flag_before_or_after_the_command_or_by_environment(directories: Directories) -> None:
    run = str(directories.run)
    for arguments, environment in (
        (["status", "--run-dir", run], "/nonexistent"),
        (["--run-dir", run, "status"], "/nonexistent"),
        (["--run-dir", "/nowhere", "status", "-run-dir", run], "/nonexistent"),
        (["-run-dir=" + run, "--local", "status"], "/nonexistent"),
        (["status"], run),
    ):
        result = CliRunner().invoke(weave, arguments, env={"WEAVE_RUN_DIR": environment})
        assert result.exit_code == 0, (arguments, result.output)
    assert "/nowhere/weave.sock" in fails(alone("--run-dir", "/nowhere", "status"))


def test_relative_run_directory(directories: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directories.run.parent)
    assert alone("status", "--run-dir", "run").exit_code == 0


# Looking


def test_status(cli: Cli) -> None:
    result = cli("status")
    assert result.exit_code == 0
    assert result.stdout.startswith("\n        Version: ")
    assert "10.0.1.0/24\n\n        Service: ipam\n         Status: " in result.stdout
    assert "\n          Range: 10.32.0.0/12\n  DefaultSubnet: 10.32.0.0/12\n\n        Service: dns\n" in result.stdout
    assert result.stdout.endswith("'weave expose' gives it one\n\n")
    for view in VIEWS:
        assert cli("status", view).exit_code == 0
    assert "There is no status view 'proxy'" in fails(cli("status", "proxy"))


def test_status_as_json(cli: Cli) -> None:
    assert json.loads(cli("status", "--json").stdout)["Router"]["PeerCount"] == 2
    assert json.loads(cli("status", "connections", "--json").stdout)[0]["Overlay"] == "sleeve"


def test_report(cli: Cli) -> None:
    document = json.loads(cli("report").stdout)
    assert document["Version"] == program_version()
    for flags in (["-f", ".Router.NickName"], ["--format", "{{.Router.NickName}}"], ["-format=.Router.NickName"]):
        assert cli("report", *flags).stdout == "h1\n"
    assert "there is no 'Nonsense'" in fails(cli("report", "-f", ".Nonsense"))


def test_version(cli: Cli) -> None:
    assert cli("version").stdout == alone("version").stdout == f"weave {program_version()}\n"


# Peers


def test_connect_and_forget(cli: Cli) -> None:
    assert (cli("connect", "h2", "h3:99").output, cli("connect", "h4").output) == ("", "")
    assert cli("status", "targets").stdout == "h2\nh3:99\nh4\n"
    assert cli("forget", "h3:99", "unknown").output == ""
    assert cli("status", "targets").stdout == "h2\nh4\n"
    assert cli("connect", "-replace", "h5").output == ""
    assert cli("status", "targets").stdout == "h5\n"
    assert "is no port number" in fails(cli("connect", "h6:x"))
    assert cli("status", "targets").stdout == "h5\n"


# Attachments


def test_attach_and_detach(cli: Cli, directories: Directories) -> None:
    assert cli("attach", "--netns", NAMESPACE, "10.2.1.5/24", "ip:10.2.2.5/24").stdout == "10.2.1.5 10.2.2.5\n"
    with DaemonClient(directories) as client:
        (entry,) = json.loads(client.document("/attachment"))
    inode = Path(NAMESPACE).stat().st_ino
    assert (entry["id"], entry["interface"], entry["owner"]) == (f"netns-{inode}", "ethwe", "cli")
    assert entry["multicast_route"]
    assert cli("detach", "--netns", NAMESPACE, "10.2.1.5").stdout == "10.2.1.5\n"
    assert cli("detach", "--netns", NAMESPACE).stdout == "10.2.2.5\n"
    nothing = cli("detach", "--netns", NAMESPACE)
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "nothing" in nothing.stderr


def test_attach_with_every_flag(cli: Cli, directories: Directories) -> None:
    result = cli(
        *("attach", "--netns", NAMESPACE, "--id", "web", "--interface", "eth1", "--no-multicast-route"),
        *("--mac", "7A:00:00:00:00:05", "--mtu", "1400", "fd00::5/64"),
    )
    assert result.stdout == "fd00::5\n"
    with DaemonClient(directories) as client:
        (entry,) = json.loads(client.document("/attachment"))
    assert (entry["id"], entry["interface"], entry["mac"], entry["mtu"]) == ("web", "eth1", "7a:00:00:00:00:05", 1400)
    assert not entry["multicast_route"]


def test_relative_namespace_path(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(f"/proc/{os.getpid()}")
    assert cli("attach", "--netns", "ns/net", "10.2.1.5/24").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--netns", NAMESPACE, "web"], "a container is named by --netns"),
        (["--netns", NAMESPACE, "10.2.1.5"], "ADDRESS/LEN"),
        (["--netns", NAMESPACE, "net:10.32.0.1/24"], "no subnet such as"),
        (["--netns", NAMESPACE, "net:10.32.0.0/31"], "too small"),
        (["--netns", NAMESPACE, "net:10.99.0.0/24"], "range 10.99.0.0/24 out of bounds: 10.32.0.0/12"),
        (["--netns", "/proc/self/ns/net", "10.2.1.5/24"], "/proc/PID/ns/net"),
        (["--netns", "/no/such", "10.2.1.5/24"], "cannot be opened"),
        (["--netns", "/etc/passwd", "10.2.1.5/24"], "no network namespace at /etc/passwd"),
        (["--netns", NAMESPACE, "--id", "../x", "10.2.1.5/24"], "no attachment id"),
        (["--netns", NAMESPACE, "--interface", "much-too-long-name", "10.2.1.5/24"], "no interface name"),
        (["--netns", NAMESPACE, "--mac", "01:00:00:00:00:00", "10.2.1.5/24"], "multicast"),
        (["--netns", NAMESPACE, "--mtu", "17", "10.2.1.5/24"], "'mtu'"),
    ],
)
def test_bad_attachments(cli: Cli, arguments: list[str], part: str) -> None:
    assert part in fails(cli("attach", *arguments))


# Launch: flags become settings


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Runs `weave launch` up to the moment when a process would be started; its settings and standard error."""
    started: list[DaemonSettings] = []

    def start(settings: DaemonSettings, *_: Any) -> None:
        started.append(settings)

    monkeypatch.setattr(launcher, "launch_in_background", start)
    monkeypatch.setattr(launcher, "become_daemon", start)
    monkeypatch.setattr(launcher, "check_privileges", lambda _: None)

    def run(*arguments: str, **environment: str) -> tuple[DaemonSettings, str]:
        directories = {"WEAVE_STATE_DIR": str(tmp_path / "state"), "WEAVE_RUN_DIR": str(tmp_path / "run")}
        result = CliRunner().invoke(weave, ["launch", *arguments], env={**directories, **environment})
        assert (result.exit_code, result.stdout) == (0, ""), result.output
        return started[-1], result.stderr

    return run


def test_defaults(launch: Launch, tmp_path: Path) -> None:
    settings, errors = launch()
    assert errors == ""
    assert settings.directories == Directories(tmp_path / "state", tmp_path / "run")
    assert (settings.port, settings.mtu, settings.bridge, settings.nickname) == (
        6783,
        1376,
        "weave",
        os.uname().nodename,
    )
    assert str(settings.http_address) == "127.0.0.1:6784"
    assert settings.log_file == tmp_path / "state" / "weave.log"
    assert (settings.name, settings.password, settings.peers) == (None, None, ())


def test_all_flags(launch: Launch, tmp_path: Path) -> None:
    settings, errors = launch(
        *("-name", "::2", "--nickname=h2", "-port", "7000", "--host", "10.0.0.1", "--mtu", "1400"),
        *("-password", "s3cret", "--no-discovery", "-trusted-subnets", "10.0.0.0/8,fd00::/8", "--conn-limit=0"),
        *("--min-protocol-version", "2", "--http-addr", ":7005", "--http-writable", "--weave-bridge", "net0"),
        *("--log-level", "debug", "--log-file", str(tmp_path / "log"), "h2", "10.0.0.3:99"),
    )
    assert errors == ""
    assert (settings.name, settings.nickname, settings.port, settings.mtu) == (2, "h2", 7000, 1400)
    assert (settings.listen_address, settings.password, settings.discovery) == ("10.0.0.1", "s3cret", False)
    assert [str(subnet) for subnet in settings.trusted_subnets] == ["10.0.0.0/8", "fd00::/8"]
    assert (settings.connection_limit, settings.bridge, settings.log_level) == (0, "net0", "debug")
    assert (str(settings.http_address), settings.http_writable) == ("127.0.0.1:7005", True)
    assert (settings.peers, settings.log_file) == (("h2", "10.0.0.3:99"), tmp_path / "log")


def test_environment(launch: Launch) -> None:
    variables = {"WEAVE_PORT": "7000", "WEAVE_MTU": "1400", "WEAVE_PASSWORD": "s3cret", "WEAVE_DEBUG": "1"}
    settings, _ = launch(**variables)
    assert (settings.port, settings.mtu, settings.password, settings.log_level) == (7000, 1400, "s3cret", "debug")
    assert str(settings.http_address) == "127.0.0.1:7001"
    settings, _ = launch("--port", "8000", "--password", "other", **variables, WEAVE_HTTP_ADDR="127.0.0.1:9000")
    assert (settings.port, settings.password, str(settings.http_address)) == (8000, "other", "127.0.0.1:9000")


def test_foreground_logs_to_standard_error(launch: Launch, tmp_path: Path) -> None:
    assert launch("--foreground")[0].log_file is None
    assert launch("--foreground", "--log-file", "x")[0].log_file == Path.cwd() / "x"


def test_no_http_address(launch: Launch) -> None:
    assert launch("--http-addr", "")[0].http_address is None
    assert launch("--http-addr=")[0].http_address is None


def test_flags_of_later_releases_are_named_once(launch: Launch) -> None:
    arguments = [
        part for name, value in FUTURE_FLAGS.items() for part in ([f"-{name}", "x"] if value else [f"--{name}"])
    ]
    _, errors = launch(*arguments)
    assert errors == f"no effect in this release: {', '.join(f'--{name}' for name in FUTURE_FLAGS)}\n"
    assert launch("--plugin=false", "--proxy=false", "--no-dns=false")[1] == ""
    assert launch(WEAVE_STATUS_ADDR="::1")[1] == "no effect in this release: --status-addr\n"
    assert launch("--ipalloc-range", "")[1] == ""


@pytest.mark.parametrize("name", sorted(GONE_FLAGS))
def test_flags_that_are_gone(name: str) -> None:
    takes_value, instead = GONE_FLAGS[name]
    flag = "-H" if name == "H" else f"--{name}"
    text = fails(alone("launch", flag, *(["x"] if takes_value else [])))
    assert f"{flag} is gone: {instead}." in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--port", "65535"], "65535"),
        (["--mtu", "575"], "575"),
        (["--mtu", "65536"], "65536"),
        (["--name", "nonsense"], "'--name'"),
        (["--name", "01:00:00:00:00:00"], "multicast"),
        (["--host", "h2"], "no IPv4 address"),
        (["--min-protocol-version", "1"], "only 2"),
        (["--conn-limit", "-1"], "--conn-limit"),
        (["--trusted-subnets", "x"], "--trusted-subnets"),
        (["--http-addr", "/run/x"], "--http-addr"),
        (["--weave-bridge", "a/b"], "--weave-bridge"),
        (["--log-level", "loud"], "--log-level"),
        (["--resume", "h2"], "--resume"),
        (["--password", "a", "--password-file", "b"], "contradict"),
        (["--password-file", "/nonexistent/x"], "/nonexistent/x"),
        (["h2:x"], "h2:x"),
        (["--", "--peer"], "--peer"),
    ],
)
def test_bad_launches(arguments: list[str], part: str) -> None:
    assert part in fails(alone("launch", *arguments))


def test_launch_needs_privileges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = launcher.check_privileges
    monkeypatch.setattr(launcher, "check_privileges", lambda command: original(command, "CapEff:\t0\n"))
    for command in (["launch"], ["reset"]):
        text = fails(alone(*command, WEAVE_STATE_DIR=str(tmp_path / "state")))
        assert text.startswith(f"weave {command[0]} needs root")
    assert not (tmp_path / "state").exists()


def test_version_of_launch() -> None:
    assert alone("launch", "--version").stdout == f"weave {program_version()}\n"


def test_peer_name_is_printed(directories: Directories, tmp_path: Path) -> None:
    assert alone("launch", "--print-peer-name", "--name", "::7").stdout == "00:00:00:00:00:07\n"
    # Without --name it derives one of the machine's identity, or invents one where the machine has none.
    state = {"WEAVE_STATE_DIR": str(tmp_path / "state")}
    assert re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}\n", alone("launch", "--print-peer-name", **state).stdout)
    assert not (tmp_path / "state").exists()
    running = CliRunner().invoke(weave, ["launch", "--print-peer-name", "--run-dir", str(directories.run)])
    assert running.stdout == "02:00:00:00:00:01\n"
