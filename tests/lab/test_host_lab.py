"""The lab itself: links that carry and can be cut, programs inside, and nothing left behind. No router takes part."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from lab.network import CommandFailed, Lab, LabError, clear_stale_labs, wait_until

pytestmark = pytest.mark.root

TESTS = Path(__file__).parents[1]


def traces(name: str) -> list[str]:
    """What a lab of that name left on this machine."""
    folders = (Path("/run/netns"), Path(tempfile.gettempdir()))
    return [str(path) for folder in folders if folder.exists() for path in folder.glob(f"{name}*")]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie that nobody in this machine has collected yet."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_cable_carries_both_families(lab: Lab) -> None:
    a, b = lab.host("A"), lab.host("B")
    link = lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    six = lab.link(a, "2001:db8::1/64", b, "2001:db8::2/64", mtu=1400)
    assert link.address_of(a) == "192.0.2.1"
    assert 0 < a.ping(link.address_of(b), count=2) < 1000
    assert b.reaches(six.address_of(a))
    assert a.attempt("ping", "-c1", "-W1", "-Mdo", "-s1472", "192.0.2.2").returncode == 0
    assert a.attempt("ping", "-c1", "-W1", "-Mdo", "-s1353", "2001:db8::2").returncode != 0
    with pytest.raises(LabError, match="not on this link"):
        link.address_of(lab.host("C"))


def test_hosts_in_a_line_do_not_forward(lab: Lab) -> None:
    a, b, c = lab.host("A"), lab.host("B"), lab.host("C")
    lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    lab.link(b, "192.0.2.5/30", c, "192.0.2.6/30")
    a.ip("route", "add", "default", "via", "192.0.2.2")
    c.ip("route", "add", "default", "via", "192.0.2.5")
    assert b.reaches("192.0.2.1")
    assert b.reaches("192.0.2.6")
    assert not a.reaches("192.0.2.6")


def test_switch_joins_many(lab: Lab) -> None:
    hosts = [lab.host(label) for label in "ABC"]
    segment = lab.segment({host: f"10.0.0.{i}/24" for i, host in enumerate(hosts, 1)}, mtu=9000)
    for host in hosts:
        for other in hosts:
            assert host.reaches(segment.address_of(other))
    lab.cut(segment, hosts[2])
    assert hosts[0].reaches("10.0.0.2")
    assert not hosts[0].reaches("10.0.0.3", timeout_s=0.3)
    lab.heal(segment)
    assert hosts[0].reaches("10.0.0.3")


def test_silent_cut_shows_nobody_anything_but_silence(lab: Lab) -> None:
    a, b = lab.host("A"), lab.host("B")
    link = lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    other = lab.link(a, "192.0.2.5/30", b, "192.0.2.6/30")
    assert a.reaches("192.0.2.2")
    for _ in range(2):
        lab.cut(link)
        lab.cut(link)
        assert not a.reaches("192.0.2.2", timeout_s=0.3)
        assert not b.reaches("192.0.2.1", timeout_s=0.3)
        assert "LOWER_UP" in a.ip("link", "show", link.end_of(a).interface)
        assert a.reaches("192.0.2.6"), "another link was cut as well"
        lab.heal(link)
        assert a.reaches("192.0.2.2")
    assert other.ends[0].host is a


def test_cut_of_the_carrier(lab: Lab) -> None:
    a, b = lab.host("A"), lab.host("B")
    link = lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
    six = lab.link(a, "2001:db8::1/64", b, "2001:db8::2/64")
    lab.cut(link, a, carrier=True)
    lab.cut(six, carrier=True)
    assert "NO-CARRIER" in b.ip("link", "show", link.end_of(b).interface)
    lab.heal(link)
    lab.heal(six)
    wait_until(lambda: a.reaches("192.0.2.2", timeout_s=0.2), 5, "the link to carry again")
    wait_until(lambda: a.reaches("2001:db8::2", timeout_s=0.2), 5, "the IPv6 link to carry again")


def test_programs_inside(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVE_PASSWORD", "meant for another router")
    a = lab.host("A")
    variables = a.run("env")
    assert f"WEAVE_RUN_DIR={a.run_dir}" in variables
    assert "WEAVE_PASSWORD" not in variables
    with pytest.raises(CommandFailed, match=r"false failed with status 1"):
        a.run("false")
    with pytest.raises(CommandFailed, match="did not end in time"):
        a.run("sleep", "20", timeout_s=0.1)
    assert a.run("cat", stdin="text") == "text"
    sleeper = a.popen("sleep", "60")
    wait_until(lambda: a.holds(sleeper.pid), 5, "sleep to be inside")
    assert a.pids() == [sleeper.pid]
    assert a.pid is None
    assert a.log() == "(no log: No such file or directory)"
    with pytest.raises(LabError, match="no daemon runs on A"):
        lab.kill(a)


def test_wait_until() -> None:
    answers = iter([0, 0, 7])
    assert wait_until(lambda: next(answers), 5, "a seven") == 7
    with pytest.raises(LabError, match=r"waited 0\.1 s in vain for Godot"):
        wait_until(lambda: False, 0.1, "Godot")

    def fail() -> bool:
        raise LabError("not yet")

    with pytest.raises(LabError, match="in vain") as caught:
        wait_until(fail, 0.1, "Godot")
    assert str(caught.value.__cause__) == "not yet"


def test_nothing_is_left_behind() -> None:
    with pytest.raises(ZeroDivisionError), Lab() as lab:
        a, b = lab.host("A"), lab.host("B")
        lab.segment({a: "10.0.0.1/24", b: "10.0.0.2/24"})
        with Lab() as inner:
            assert inner.host("A").name != a.name
        assert a.reaches("10.0.0.2")
        name = lab.name("")
        # A stray that is nobody's child, as a daemon would be.
        a.run("sh", "-c", "setsid sleep 60 >/dev/null 2>&1 & echo")
        wait_until(a.pids, 5, "the stray to run")
        (stray,) = a.pids()
        assert traces(name)
        raise ZeroDivisionError
    assert traces(name) == []
    wait_until(lambda: not is_running(stray), 5, "the end of the stray")


SCRIPT = """
import sys, time
from lab.network import Lab
with Lab() as lab:
    host = lab.host("A")
    host.popen("sleep", "60")
    print(lab.name(""), flush=True)
    time.sleep(60)
"""


def start_script() -> tuple[subprocess.Popen[str], str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        # Whoever runs the tests in the background may have Ctrl-C ignored, which children inherit.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert script.stdout is not None
    name = script.stdout.readline().strip()
    script.stdout.close()
    assert len(traces(name)) == 2, "the namespace and the directory"
    return script, name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_clear_the_lab_away(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    script, name = start_script()
    script.send_signal(number)
    assert script.wait(10) != 0
    assert traces(name) == []
    assert "Interrupted" in capfd.readouterr().err


def test_next_lab_clears_away_what_a_killed_one_left() -> None:
    script, name = start_script()
    script.kill()
    script.wait()
    time.sleep(0.1)
    assert len(traces(name)) == 2
    clear_stale_labs()
    assert traces(name) == []
