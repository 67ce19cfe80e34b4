"""`weave setup-cni`: what it puts where, and whose files it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from weave_cni.install import conflist

WEAVE = Path(sys.executable).with_name("weave")
PLUGINS = ("weave-net", "weave-ipam")


class Places:
    """Directories in place of /opt/cni/bin and /etc/cni/net.d."""

    def __init__(self, directory: Path) -> None:
        self.plugins, self.conf = directory / "bin", directory / "net.d"
        self.list = self.conf / "10-weave.conflist"

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "WEAVE_CNI_PLUGIN_DIR": str(self.plugins),
            "WEAVE_CNI_CONF_DIR": str(self.conf),
            **variables,
        }
        return subprocess.run(
            [str(WEAVE), "setup-cni", *arguments], env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def test_plugins_and_list_are_written(places: Places) -> None:
    done = places.run("--run-dir", "/run/weave-two")
    assert done.returncode == 0, done.stderr
    assert set(map(Path, done.stdout.split())) >= {places.list, *(places.plugins / name for name in PLUGINS)}
    written = json.loads(places.list.read_text())
    assert written["cniVersion"] == "1.0.0", "what libraries before 1.1 can read"
    assert written["cniVersions"][-1] == "1.1.0"
    assert [plugin["type"] for plugin in written["plugins"]] == ["weave-net", "portmap"]
    assert written["plugins"][0]["weaveRunDir"] == "/run/weave-two"
    for name in PLUGINS:
        version = subprocess.run(
            [places.plugins / name], env={"CNI_COMMAND": "VERSION"}, capture_output=True, text=True, check=True
        )
        assert json.loads(version.stdout)["supportedVersions"][-1] == "1.1.0"


def test_plugin_without_a_command_tells_what_it_is(places: Places) -> None:
    places.run()
    done = subprocess.run([places.plugins / "weave-ipam"], env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "weave-ipam" in done.stderr
    assert "1.1.0" in done.stderr


def test_second_call_renews_what_the_first_wrote(places: Places) -> None:
    places.run("--run-dir", "/run/one")
    done = places.run("--run-dir", "/run/two", HAIRPIN_MODE="false")
    assert done.returncode == 0
    first = json.loads(places.list.read_text())["plugins"][0]
    assert (first["weaveRunDir"], first["hairpinMode"]) == ("/run/two", False)


@pytest.mark.parametrize("changed", [True, False])
def test_list_of_the_administrator_stays(places: Places, changed: bool) -> None:
    if changed:
        places.run()
        text = json.dumps({**json.loads(places.list.read_text()), "name": "ours"})
    else:
        text = json.dumps(conflist(Path("/run/weave")))  # by hand, without our mark
        places.conf.mkdir()
    places.list.write_text(text)
    done = places.run()
    assert done.returncode == 0
    assert "left alone" in done.stderr
    assert places.list.read_text() == text
    assert places.list in {*places.conf.iterdir()}
    assert str(places.list) not in places.run("--remove").stdout.split()
    assert places.list.exists()


def test_removal_takes_all_that_was_written(places: Places) -> None:
    foreign = places.plugins / "bridge"
    places.run()
    foreign.write_text("")
    assert places.run("--remove").returncode == 0
    assert [*places.plugins.iterdir()] == [foreign]
    assert [*places.conf.iterdir()] == []


def test_list_that_comes_first_is_named(places: Places) -> None:
    places.conf.mkdir()
    (places.conf / "05-other.conflist").write_text("{}")
    assert "05-other.conflist" in places.run().stderr


def test_directory_that_cannot_be_written(places: Places, tmp_path: Path) -> None:
    places.plugins = tmp_path / "file" / "bin"
    (tmp_path / "file").write_text("")
    done = places.run()
    assert done.returncode == 1
    assert str(places.plugins) in done.stderr
    assert "Traceback" not in done.stderr
