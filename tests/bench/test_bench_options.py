"""Options of the bench: defaults, choices, and complaints of one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.catalogue import SYSTEMS
from bench.options import parse
from bench.underlays import LOSS, UNDERLAYS, VETH

if TYPE_CHECKING:
    from pathlib import Path


def test_defaults() -> None:
    options = parse([])
    assert (options.rounds, options.loss_rounds, options.seconds, options.json) == (5, 5, 1.5, None)
    assert (options.systems, options.underlays) == (SYSTEMS, UNDERLAYS)


def test_quick_yields_to_what_is_said() -> None:
    quick = parse(["--quick"])
    assert (quick.rounds, quick.loss_rounds, quick.seconds) == (1, 1, 0.7)
    told = parse(["--quick", "--rounds", "3", "--seconds", "0.2"])
    assert (told.rounds, told.loss_rounds, told.seconds) == (3, 1, 0.2)


def test_choices_keep_the_order_of_the_tables() -> None:
    options = parse(["--systems", "tinc, underlay", "--underlays=loss,veth", "--columns", "udp64"])
    assert [system.name for system in options.systems] == ["underlay", "tinc"]
    assert options.underlays == (VETH, LOSS)
    assert options.columns == {"udp64"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--rounds", "101"],
        ["--loss-rounds", "-1"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--seconds", "11"],
        ["--systems", "tinc,tink"],
        ["--systems", ""],
        ["--underlays", "wire"],
        ["--columns", "tcp2"],
        ["--json", "/nowhere/at/all.json"],
        ["--round", "3"],
        ["surplus"],
    ],
)
def test_bad_values_give_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("bench: ")
    assert complaint.count("\n") == 1


def test_json_must_not_be_a_directory(tmp_path: Path) -> None:
    assert parse(["--json", str(tmp_path / "new.json")]).json == tmp_path / "new.json"
    with pytest.raises(SystemExit):
        parse(["--json", str(tmp_path)])
