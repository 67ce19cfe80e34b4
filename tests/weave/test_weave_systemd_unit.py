"""The service of systemd: what the unit file says, and that no administrator's file is lost."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from weave_net.cli import weave
from weave_net.errors import SettingsError, WeaveError
from weave_net.systemd_unit import UNIT, UnitChanged, executable, unit_text, write_unit

WEAVE = Path("/opt/weave/bin/weave")
TEXT = unit_text(WEAVE)


def settings(text: str) -> dict[str, list[str]]:
    """Values by key."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def cli(*arguments: str, directory: Path, path: str = os.environ["PATH"]) -> Result:
    environment = {"WEAVE_SYSTEMD_DIR": str(directory), "PATH": path}
    return CliRunner().invoke(weave, ["setup-systemd", *arguments], env=environment)


def test_the_daemon_is_started_as_systemd_wants_it() -> None:
    unit = settings(TEXT)
    assert unit["Type"] == ["notify"]
    assert unit["ExecStart"] == ["/opt/weave/bin/weave launch --foreground $WEAVE_ARGS"]
    assert unit["EnvironmentFile"] == ["-/etc/default/weave"]
    assert "docker.service" in unit["Before"][0].split()
    assert unit["Restart"] == ["on-failure"]
    assert unit["WantedBy"] == ["multi-user.target"]


def test_the_service_has_the_mounts_and_namespaces_of_the_host() -> None:
    prefixes = ("Private", "Protect", "MountFlags", "ReadOnly", "ReadWrite", "Inaccessible", "RestrictNamespaces")
    assert not [key for key in settings(TEXT) if key.startswith(prefixes)]


def test_the_command_that_is_installed_beside_this_interpreter_is_started() -> None:
    assert executable() == Path(sys.executable).with_name("weave")


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/usr/bin/weave", "/usr/bin/weave"),
        ("/opt/my programs/weave", '"/opt/my programs/weave"'),
        ("/opt/100%/weave", '"/opt/100%%/weave"'),
        ("/opt/$x/weave", '"/opt/$$x/weave"'),
        ('/opt/"/weave', '"/opt/\\"/weave"'),
    ],
)
def test_paths_are_quoted_for_systemd(path: str, word: str) -> None:
    assert settings(unit_text(Path(path)))["ExecStart"][0].startswith(f"{word} launch ")


def test_a_path_that_no_unit_file_can_have() -> None:
    with pytest.raises(SettingsError, match="control characters"):
        unit_text(Path("/opt/a\nb"))


def test_systemd_takes_the_file(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return  # most containers have none; the other tests do without
    (tmp_path / UNIT).write_text(unit_text(executable()))
    done = subprocess.run([analyze, "verify", str(tmp_path / UNIT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Writing


def test_a_file_is_written_once(tmp_path: Path) -> None:
    directory = tmp_path / "etc" / "systemd"
    assert write_unit(directory, TEXT, force=False)
    assert (directory / UNIT).read_text() == TEXT
    assert (directory / UNIT).stat().st_mode & 0o777 == 0o644
    assert not write_unit(directory, TEXT, force=False)
    assert [path.name for path in directory.iterdir()] == [UNIT]


def test_a_file_that_we_wrote_is_brought_up_to_date(tmp_path: Path) -> None:
    write_unit(tmp_path, unit_text(Path("/old/weave")), force=False)
    assert write_unit(tmp_path, TEXT, force=False)
    assert (tmp_path / UNIT).read_text() == TEXT


@pytest.mark.parametrize(
    "theirs",
    [
        "[Service]\nExecStart=/usr/bin/weave\n",
        TEXT.replace("RestartSec=1", "RestartSec=9"),
        TEXT + "# mine\n",
        "",
    ],
)
def test_a_file_of_the_administrator_is_left_alone(tmp_path: Path, theirs: str) -> None:
    (tmp_path / UNIT).write_text(theirs)
    with pytest.raises(UnitChanged, match="systemctl edit weave"):
        write_unit(tmp_path, TEXT, force=False)
    assert (tmp_path / UNIT).read_text() == theirs
    assert write_unit(tmp_path, TEXT, force=True)
    assert (tmp_path / UNIT).read_text() == TEXT


def test_a_masked_unit_stays_masked(tmp_path: Path) -> None:
    (tmp_path / UNIT).symlink_to("/dev/null")
    with pytest.raises(UnitChanged):
        write_unit(tmp_path, TEXT, force=False)
    assert (tmp_path / UNIT).is_symlink()
    write_unit(tmp_path, TEXT, force=True)
    assert not (tmp_path / UNIT).is_symlink()
    assert Path("/dev/null").is_char_device()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeaveError, match="WEAVE_SYSTEMD_DIR"):
        write_unit(tmp_path / "file" / "system", TEXT, force=False)


# The command


def test_the_command_writes_and_says_what_comes_next(tmp_path: Path) -> None:
    result = cli(directory=tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"wrote {tmp_path / UNIT}\n")
    assert "systemctl enable --now weave" in result.stdout
    assert (tmp_path / UNIT).read_text() == unit_text(executable())
    assert cli(directory=tmp_path).stdout == f"nothing to change in {tmp_path / UNIT}\n"


def test_the_command_refuses_and_obeys_force(tmp_path: Path) -> None:
    (tmp_path / UNIT).write_text("mine")
    result = cli(directory=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--force" in result.stderr
    assert cli("--force", directory=tmp_path).exit_code == 0


def test_the_command_prints(tmp_path: Path) -> None:
    assert cli("--print", directory=tmp_path).stdout == unit_text(executable())
    assert not list(tmp_path.iterdir())


def test_enabling(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    programs = tmp_path / "bin"
    programs.mkdir()
    systemctl = programs / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(calls))}\n')
    systemctl.chmod(0o755)
    result = cli("--enable", directory=tmp_path / "units", path=str(programs))
    assert result.exit_code == 0, result.stderr
    assert calls.read_text() == "daemon-reload\nenable weave.service\n"
    systemctl.write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    result = cli("--enable", directory=tmp_path / "units", path=str(programs))
    assert result.exit_code == 1
    assert "'systemctl daemon-reload' failed: no bus" in result.stderr
    systemctl.unlink()
    assert "not run by systemd" in cli("--enable", directory=tmp_path / "units", path=str(programs)).stderr
