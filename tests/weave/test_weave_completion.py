"""Completion in shells, asked for as a shell does; in bash by bash itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from weave.fake_daemon_process import NAMESPACE, daemon
from weave_net.cli import ALIASES, COMMANDS, COMPLETION_VARIABLE, weave
from weave_net.client import DaemonClient
from weave_net.commands.views import VIEWS
from weave_net.completion import SHELLS, VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.directories import Directories

PROGRAM = Path(sys.executable).with_name("weave")
CONTAINER = "c0ffee" * 10 + "abcd"


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directories]:
    """Those of a daemon with one container, whose id is long, and some targets."""
    with daemon(tmp_path_factory.mktemp("host"), dns=False, peers=("h3.example:7000",)) as directories:
        with DaemonClient(directories) as client:
            client.put_attachment(CONTAINER, "ethwe", {"netns": NAMESPACE, "addresses": ["10.2.1.1/24"]})
        yield directories


def ask(*words: str, run_dir: Path = Path("/nonexistent")) -> list[str]:
    """What fits in place of the last word."""
    environment = {
        "COMP_WORDS": " ".join(("weave", *words)),
        "COMP_CWORD": str(len(words)),
        VARIABLE: "bash_complete",
        "WEAVE_RUN_DIR": str(run_dir),
    }
    result = CliRunner().invoke(weave, [], env=environment)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return [line.removeprefix("plain,") for line in result.stdout.splitlines() if line]


def test_one_variable() -> None:
    assert COMPLETION_VARIABLE == VARIABLE


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts(shell: str) -> None:
    result = CliRunner().invoke(weave, ["completion", shell])
    assert result.exit_code == 0
    assert f"{VARIABLE}={shell}_complete" in result.stdout
    assert "weave" in result.stdout


def test_a_shell_that_nobody_knows() -> None:
    result = CliRunner().invoke(weave, ["completion", "csh"])
    assert result.exit_code == 1
    assert "bash" in result.stderr


def test_commands() -> None:
    assert set(ask("")) == COMMANDS.keys() - ALIASES
    assert ask("dns-") == ["dns-add", "dns-args", "dns-lookup", "dns-remove"]
    assert ask("nonsense") == []


@pytest.mark.parametrize(
    ("words", "items"),
    [
        (("status", ""), set(VIEWS)),
        (("status", "con"), {"connections"}),
        (("help", "dns-a"), {"dns-add", "dns-args"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
        (("reset", "--fo"), {"--force"}),
        (("--run-dir", "/x", "st"), {"status", "stop"}),
        (("nonsense", "--x"), set()),
    ],
)
def test_parameters(words: tuple[str, ...], items: set[str]) -> None:
    assert set(ask(*words)) == items


@pytest.mark.parametrize(
    ("words", "items"),
    [
        (("ps", ""), ["c0ffeec0ffee"]),
        (("ps", "c0f"), ["c0ffeec0ffee"]),
        (("ps", "x"), []),
        (("detach", "--id", ""), ["c0ffeec0ffee"]),
        (("detach", "--interface", ""), ["ethwe"]),
        (("dns-add", ""), ["c0ffeec0ffee"]),
        (("forget", "h3"), ["h3.example:7000"]),
        (("rmpeer", ""), ["h1", "h2"]),
    ],
)
def test_what_the_daemon_knows(directories: Directories, words: tuple[str, ...], items: list[str]) -> None:
    assert ask(*words, run_dir=directories.run) == items
    assert ask(*words) == [], "without a daemon there is nothing, and no error"


def test_a_daemon_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "weave.sock"))
        deaf.listen()
        begin = time.monotonic()
        assert ask("ps", "", run_dir=tmp_path) == []
        assert time.monotonic() - begin < 5


def test_names_that_a_shell_would_take_for_more_than_names_are_left_out(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ["$(reboot)", "a b", "a;b", "*", "a\nplain,b", "`x`", "web-1.weave"]
    attachments = [{"id": name, "interface": "ethwe"} for name in bad]
    monkeypatch.setattr(DaemonClient, "attachments", lambda _: attachments)
    assert ask("ps", "", run_dir=directories.run) == ["web-1.weave"]


def test_asking_for_commands_imports_none_of_their_modules() -> None:
    code = "import sys; from weave_net.cli import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    environment = {**os.environ, "COMP_WORDS": "weave ", "COMP_CWORD": "1", VARIABLE: "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    modules = done.stderr.split()
    assert "weave_net.cli" in modules
    assert not {"trio", "httpx", "numpy", "pyroute2", "weave_net.commands.launch"} & set(modules)


BASH = """
source <("$PROGRAM" completion bash) || exit 1
complete -p weave
COMP_WORDS=(weave "$@"); COMP_CWORD=$#
_weave_completion weave
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "items"),
    [
        (["stat"], ["status"]),
        (["status", "p"], ["peers"]),
        (["help", "sto"], ["stop"]),
        (["launch", "--no-f"], ["--no-fastdp"]),
    ],
)
def test_bash_itself(words: list[str], items: list[str]) -> None:
    environment = {**os.environ, "PROGRAM": str(PROGRAM), "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *found = done.stdout.splitlines()
    assert "-F _weave_completion weave" in first
    assert found == items


def test_bash_completes_ids_of_a_daemon_that_runs(directories: Directories) -> None:
    environment = {**os.environ, "PROGRAM": str(PROGRAM), "WEAVE_RUN_DIR": str(directories.run)}
    environment["PATH"] = f"{PROGRAM.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", "ps", "c"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1:] == ["c0ffeec0ffee"]
