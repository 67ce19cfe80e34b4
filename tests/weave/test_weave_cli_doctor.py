"""`weave doctor`: what it prints, and its exit status."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from weave.doctor_facts import HEALTHY, NO_DAEMON, with_connection
from weave_net.cli import weave
from weave_net.doctor import gather
from weave_net.doctor.facts import ClockFacts, Facts, Wanted

if TYPE_CHECKING:
    from weave_net.directories import Directories


class Gathering:
    """In place of `gather.gather`."""

    def __init__(self) -> None:
        self.facts: Facts = HEALTHY
        self.wanted: list[Wanted] = []

    def __call__(self, directories: Directories, wanted: Wanted) -> Facts:
        self.wanted.append(wanted)
        return self.facts


@pytest.fixture
def gathering(monkeypatch: pytest.MonkeyPatch) -> Gathering:
    gathering = Gathering()
    monkeypatch.setattr(gather, "gather", gathering)
    return gathering


def doctor(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(weave, ["doctor", *arguments], env=environment)


def test_a_healthy_host(gathering: Gathering) -> None:
    result = doctor()
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines[:-2])
    assert lines[-1] == "no problem found"
    assert doctor("--quiet").stdout.split("\n") == ["", "no problem found", ""]


def test_notes_do_not_count_as_problems(gathering: Gathering) -> None:
    gathering.facts = replace(HEALTHY, daemon=NO_DAEMON)
    result = doctor("-q")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].startswith("note     daemon            it does not run")
    assert result.stdout.splitlines()[1].strip() == "-> start it with 'weave launch'"


def test_problems(gathering: Gathering) -> None:
    gathering.facts = replace(HEALTHY, clock=ClockFacts(now=0, synchronised=True))
    result = doctor("-q")
    assert result.exit_code == 1
    assert result.stdout.startswith("problem  clock ")
    assert "\n1 problem found\n" in result.stdout
    gathering.facts = replace(gathering.facts, daemon=with_connection(state="failed", reason="x"))
    assert "\n2 problems found\n" in doctor().stdout


def test_json(gathering: Gathering) -> None:
    gathering.facts = replace(HEALTHY, clock=ClockFacts(now=0, synchronised=True))
    result = doctor("--json")
    assert result.exit_code == 1
    findings = json.loads(result.stdout)
    assert {"ok", "problem"} == {finding["verdict"] for finding in findings}
    (bad,) = [finding for finding in findings if finding["verdict"] == "problem"]
    assert bad.keys() == {"check", "verdict", "text", "advice"}


def test_names_of_peers_do_not_command_the_terminal(gathering: Gathering) -> None:
    gathering.facts = replace(HEALTHY, daemon=with_connection(state="failed", nickname="\x1b[2Jx\nok", reason="\r\x07"))
    result = doctor()
    assert not set(result.stdout) & set("\x1b\r\x07")
    assert "�[2Jx�ok" in result.stdout


def test_what_a_daemon_would_be_launched_with(gathering: Gathering) -> None:
    doctor()
    doctor("--port", "6800", "--mtu", "1400", "--ipalloc-range", "10.9.0.0/16")
    doctor("--ipalloc-range", "", WEAVE_PORT="6900", WEAVE_MTU="1500")
    default, given, variables = gathering.wanted
    assert (default.port, default.mtu, str(default.range), default.http_port) == (6783, 1376, "10.32.0.0/12", 6784)
    assert (given.port, given.mtu, str(given.range), given.http_port) == (6800, 1400, "10.9.0.0/16", 6801)
    assert (variables.port, variables.mtu, variables.range) == (6900, 1500, None)


def test_a_range_that_is_none(gathering: Gathering) -> None:
    result = doctor("--ipalloc-range", "10.9.0.1/16")
    assert result.exit_code == 1
    assert "--ipalloc-range 10.9.0.1/16" in result.stderr
