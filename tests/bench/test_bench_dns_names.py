"""The bench of name servers in its smallest form: what it prints and judges, not how fast anything is."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.dns_columns import (
    ALL,
    ONE,
    SLOWEST,
    TARGETS,
    figures_at_half,
    figures_of_all,
    figures_of_one,
    judge,
    key,
    result_table,
)
from bench.dns_load import Answers, DnsLoad, NameServer
from bench.dns_options import parse
from bench.dns_systems import SYSTEMS, Dnsmasq, WeaveDns, WeaveNet28Dns
from bench.figures import Figures
from bench.targets import Verdict
from lab.network import Container, Lab, LabError, wait_until

NAMES = Path(__file__).with_name("names.py")
OURS, THEIRS = WeaveDns(), WeaveNet28Dns()
NAME_SERVER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 53))
number = 0
while True:
    data, client = sock.recvfrom(512)
    number += 1
    if number % 10 == 0 and "losing" in sys.argv:
        continue
    rcode = 3 if "denying" in sys.argv else 0
    last = 2 if "lying" in sys.argv else 1
    head = data[:2] + bytes([0x81, 0x80 | rcode, 0, 1, 0, 1, 0, 0, 0, 0])
    sock.sendto(head + data[12:] + bytes([192, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 2, 8, last]), client)
"""


def answers(per_s: float, p99_ms: float = 1.0, client_share: float = 0.5) -> Answers:
    """Of a run."""
    return Answers(per_s, 0.1, p99_ms, 0.25, 0.00001, client_share)


def server(lab: Lab, *faults: str) -> NameServer:
    """A name server that knows one address."""
    container = lab.add(Container(lab.name("client"), "client"))
    process = container.popen(sys.executable, "-c", NAME_SERVER, *faults)
    return NameServer(container, "127.0.0.1", process.pid)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as `make bench` does."""
    command = (sys.executable, str(NAMES), "--quick", "--seconds", "0.2", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_options() -> None:
    usual, quick = parse([]), parse(["--quick", "--systems", "weave28, weave"])
    assert (usual.systems, usual.rounds, usual.seconds, usual.names) == (SYSTEMS, 5, 1.5, 1000)
    assert ([system.name for system in quick.systems], quick.rounds, quick.seconds) == (["weave", "weave28"], 1, 0.7)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--seconds", "nan"],
        ["--seconds", "11"],
        ["--systems", "bind"],
        ["--systems", ""],
        ["--names", "0"],
        ["more"],
    ],
)
def test_bad_options_give_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("bench: ")
    assert complaint.count("\n") == 1


def noted(ours_per_s: float, theirs_per_s: float, p99_ms: float) -> Figures:
    """A run of one round."""
    figures = Figures()
    for system, per_s in ((OURS, ours_per_s), (THEIRS, theirs_per_s)):
        for found in (
            figures_of_one(answers(per_s, client_share=0.95)),
            figures_of_all(answers(per_s)),
            figures_at_half(answers(per_s / 2, p99_ms)),
        ):
            for name, value in found.items():
                figures.add(key(system, name), 0, value)
    return figures


@pytest.mark.parametrize(
    ("ours", "p99_ms", "verdicts"),
    [
        (50, 5.0, [Verdict.MET, Verdict.MET, Verdict.MET]),
        (49, 5.0, [Verdict.MISSED, Verdict.MISSED, Verdict.MET]),
        (50, 5.1, [Verdict.MET, Verdict.MET, Verdict.MISSED]),
    ],
)
def test_targets_are_ratios_to_2_8_and_the_99th_percentile(ours: float, p99_ms: float, verdicts: list[Verdict]) -> None:
    assert [judgement.verdict for judgement in judge(noted(ours, 100, p99_ms))] == verdicts


def test_ratios_need_2_8() -> None:
    figures = Figures()
    for column in (ONE, ALL, SLOWEST):
        figures.add(key(OURS, column), 0, 1.0)
    verdicts = [judgement.verdict for judgement in judge(figures)]
    assert verdicts == [Verdict.NOT_MEASURED, Verdict.NOT_MEASURED, Verdict.MET]
    assert len(verdicts) == len(TARGETS)


def test_table_marks_what_the_clients_limit() -> None:
    console = Console(file=StringIO(), width=120)
    console.print(result_table(noted(50_000, 100_000, 2.5), (OURS, Dnsmasq())))
    assert isinstance(console.file, StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["weave", "50", "000*", "50", "000", "0.10", "2.50", "1.00", "25.0", "25.0"] in lines
    assert ["dnsmasq", *"–––––––"] in lines


def test_answers_and_losses_are_counted(lab: Lab) -> None:
    load = DnsLoad(lab, {"one.weave.local": "10.2.8.1"}, 0.3)
    good = server(lab)
    load.wait_for_answer(good)
    paced = load.paced(good, 3, 2000)
    assert 1000 < paced.per_s < 3000
    assert 0 < paced.p50_ms <= paced.p99_ms
    assert paced.lost == 0
    assert 0 < paced.server_cpu_s < 0.01
    assert load.busy(good, 2, 4).per_s > 0


def test_unanswered_queries_are_lost(lab: Lab) -> None:
    load = DnsLoad(lab, {"one.weave.local": "10.2.8.1"}, 0.5)
    losing = server(lab, "losing")
    load.wait_for_answer(losing)
    assert 0.05 < load.paced(losing, 1, 500).lost < 0.2


@pytest.mark.parametrize(("fault", "complaint"), [("lying", "another address"), ("denying", "there is an error")])
def test_wrong_answers_fail_the_run(lab: Lab, fault: str, complaint: str) -> None:
    load = DnsLoad(lab, {"one.weave.local": "10.2.8.1"}, 0.2)
    wrong = server(lab, fault)
    wait_for_socket(wrong)
    with pytest.raises(LabError, match=f"a wrong answer about one.weave.local: .*{complaint}"):
        load.busy(wrong, 1, 1)


def wait_for_socket(name_server: NameServer) -> None:
    """Until something is bound to the port."""
    wait_until(lambda: name_server.client.run("ss", "-Hlun", "sport = :53"), 10, "the name server")


@pytest.mark.root
def test_smallest_run() -> None:
    done = run("--systems", "weave,dnsmasq")
    assert done.returncode in (0, 1), done.stdout + done.stderr  # the 99th percentile may be anything on a busy machine
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert "failed" not in done.stderr
    for system in ("weave", "dnsmasq"):
        assert len(rows[system]) >= 7
        assert "–" not in rows[system]
    assert done.stdout.count("not measured") == 2


@pytest.mark.root
def test_absent_systems_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEAVER", raising=False)
    done = run("--systems", "weave28")
    assert done.returncode == 2
    assert "Weave Net 2.8 is left out: WEAVER does not name its binary" in done.stderr
    assert "Traceback" not in done.stderr
