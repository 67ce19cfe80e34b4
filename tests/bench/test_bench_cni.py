"""The bench of CNI plugins in its smallest form: what it prints and judges, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.cni_columns import ALL, COMMANDS, ONE, figures_of, judge, key, result_tables
from bench.cni_load import Calls, Plugin, call
from bench.cni_options import parse
from bench.cni_systems import SYSTEMS, BridgeCni, CniSystem, WeaveCni
from bench.figures import Figures
from bench.targets import Verdict
from lab.network import Lab, LabError

CNI = Path(__file__).with_name("cni.py")
OURS, THEIRS = WeaveCni(), BridgeCni()
PLUGIN = """#!{python} -IS
import json, os, sys, time
config, command, container = json.load(sys.stdin), os.environ["CNI_COMMAND"], os.environ["CNI_CONTAINERID"]
if command == config["fails"]:
    print(json.dumps({{"code": 11, "msg": "not now"}}))
    sys.exit(1)
if command == "DEL":
    time.sleep(0.2)
number = 1 if config["repeats"] else int(container[:8], 16) % 2**24
if command == "ADD":
    assert os.path.exists(os.environ["CNI_NETNS"]) and os.environ["CNI_IFNAME"] == "eth0"
    print(json.dumps({{"ips": [{{"address": f"10.{{number >> 16}}.{{number >> 8 & 255}}.{{number & 255}}/8"}}]}}))
"""


def plugin(lab: Lab, *, fails: str = "", repeats: bool = False) -> Plugin:
    """A plugin that is fast, but for DEL, and without effect."""
    program = lab.directory / "plugin"
    program.write_text(PLUGIN.format(python=sys.executable))
    program.chmod(0o755)
    host = lab.host("host")
    namespaces = [str(lab.namespace(label).path) for label in ("one", "two", "three")]
    return Plugin(host, program, [lab.directory], {"fails": fails, "repeats": repeats}, namespaces)


def calls(p50_ms: float, *, daemon_ms: float | None = None) -> Calls:
    """Of a run."""
    return Calls((p50_ms / 2, p50_ms, p50_ms * 2), p50_ms / 4, daemon_ms)


def noted(add_ms: float, del_ms: float, systems: tuple[CniSystem, ...] = SYSTEMS) -> Figures:
    """A run of one round in which theirs took 10 ms for everything."""
    figures = Figures()
    for system in systems:
        ours = system.name == OURS.name
        found = {
            "VERSION": calls(5),
            "ADD": calls(add_ms, daemon_ms=1) if ours else calls(10),
            "DEL": calls(del_ms, daemon_ms=2) if ours else calls(10),
        }
        for at_once in (ONE, ALL):
            for column, value in figures_of(found, at_once).items():
                figures.add(key(system, column), 0, value)
    return figures


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as `make bench` does."""
    command = (sys.executable, str(CNI), "--quick", "--batches", "1", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_options() -> None:
    usual, quick = parse([]), parse(["--quick", "--systems", "bridge"])
    assert (usual.systems, usual.rounds, usual.batches) == (SYSTEMS, 5, 7)
    assert ([system.name for system in quick.systems], quick.rounds, quick.batches) == (["bridge"], 1, 2)
    told = parse(["--quick", "--rounds", "3", "--batches", "4"])
    assert (told.rounds, told.batches) == (3, 4)


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--batches", "x"], ["--systems", "calico"], ["--systems", ""], ["more"]]
)
def test_bad_options_give_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("bench: ")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("add_ms", "del_ms", "verdicts"),
    [
        (30, 18, [Verdict.MET, Verdict.MET, Verdict.MET]),
        (30.1, 18, [Verdict.MISSED, Verdict.MET, Verdict.MET]),
        (50.1, 18, [Verdict.MISSED, Verdict.MISSED, Verdict.MET]),
        (30, 18.1, [Verdict.MET, Verdict.MET, Verdict.MISSED]),
    ],
)
def test_targets_are_ratios_of_medians_and_a_time(add_ms: float, del_ms: float, verdicts: list[Verdict]) -> None:
    assert [judgement.verdict for judgement in judge(noted(add_ms, del_ms))] == verdicts


def test_ratios_need_the_reference_plugins() -> None:
    verdicts = [judgement.verdict for judgement in judge(noted(30, 18, (OURS,)))]
    assert verdicts == [Verdict.NOT_MEASURED, Verdict.MET, Verdict.NOT_MEASURED]


def test_tables_tell_latencies_and_where_time_goes() -> None:
    console = Console(file=StringIO(), width=120)
    for table in result_tables(noted(30, 18), SYSTEMS):
        console.print(table)
    assert isinstance(console.file, StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    ours = [line[1:] for line in lines if line[:1] == ["weave-net"]]
    theirs = [line[3:] for line in lines if line[:3] == ["bridge", "+", "host-local"]]
    latencies = ["30.0", "59.4", "18.0", "35.6"]
    assert ours == [latencies, latencies, ["5.00", "25.0", "7.50", "1.00", "13.0", "4.50", "2.00"]]
    assert theirs[2] == ["5.00", "5.00", "2.50", "–", "5.00", "2.50", "–"]


@pytest.mark.root
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_calls_are_timed_apart(lab: Lab, at_once: int) -> None:
    found = call(plugin(lab), ("ADD", "DEL"), batches=2, at_once=at_once)
    assert [len(found[command].times_ms) for command in ("ADD", "DEL")] == [6, 6]
    assert all(time >= 200 for time in found["DEL"].times_ms)
    assert min(found["ADD"].times_ms) < min(found["DEL"].times_ms)
    assert found["ADD"].processor_ms > 0
    assert found["ADD"].daemon_ms is None


@pytest.mark.root
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_a_failing_call_fails_the_run(lab: Lab, command: str) -> None:
    with pytest.raises(LabError, match=f"{command} of .*plugin failed .*not now"):
        call(plugin(lab, fails=command), ("ADD", "DEL"), batches=1, at_once=3)


@pytest.mark.root
def test_addresses_must_differ(lab: Lab) -> None:
    with pytest.raises(LabError, match="3 containers were given 1 addresses"):
        call(plugin(lab, repeats=True), ("ADD", "DEL"), batches=1, at_once=1)


@pytest.mark.root
def test_reference_plugins_leave_nothing(lab: Lab) -> None:
    reference = THEIRS.build(lab)
    call(reference, COMMANDS[ALL], batches=1, at_once=ALL)
    assert json.loads(reference.host.ip("-j", "link", "show", "type", "veth")) == []


@pytest.mark.root
def test_smallest_run() -> None:
    done = run()
    assert done.returncode in (0, 1), done.stdout + done.stderr  # a busy machine may miss any target
    assert "failed" not in done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("weave-net")]
    assert len(rows) == 3
    assert "–" not in "".join(rows)
    assert "not measured" not in done.stdout
