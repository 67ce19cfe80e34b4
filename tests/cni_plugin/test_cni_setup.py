"""`weave setup-cni`: what it installs works for old and new runtimes, and an administrator's files are theirs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_host import CniHost
from lab.network import CommandFailed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture
def fresh(cni: CniHost, tmp_path: Path) -> CniHost:
    """The host with empty directories of its own; its daemon is not needed."""
    fresh = CniHost.__new__(CniHost)
    fresh.__dict__.update(cni.__dict__)
    fresh.plugin_dir, fresh.conf_dir = tmp_path / "bin", tmp_path / "net.d"
    fresh.plugin_dir.mkdir()
    fresh.conf_dir.mkdir()
    return fresh


def test_what_is_installed(fresh: CniHost) -> None:
    fresh.set_up()
    document = json.loads(fresh.conflist.read_text())
    assert document["name"] == "weave"
    assert document["cniVersion"] == "1.0.0", "the highest that libraries of 2022 take"
    assert set(document["cniVersions"]) >= {"0.4.0", "1.0.0", "1.1.0"}
    ours, portmap = document["plugins"]
    assert (ours["type"], ours["hairpinMode"]) == ("weave-net", True)
    assert portmap["type"] == "portmap"
    assert portmap["capabilities"] == {"portMappings": True}
    assert portmap["snat"] is True
    for capability in ("ips", "mac", "aliases", "dns"):
        assert ours["capabilities"][capability] is True
    for plugin in ("weave-net", "weave-ipam"):
        path = fresh.plugin_dir / plugin
        assert os.access(path, os.X_OK)
        assert path.stat().st_mode & 0o022 == 0, "nobody else may change what root runs"


def test_second_time_changes_nothing(fresh: CniHost) -> None:
    fresh.set_up()
    before = {path: path.read_bytes() for path in (*fresh.plugin_dir.iterdir(), fresh.conflist)}
    fresh.set_up()
    after = {path: path.read_bytes() for path in (*fresh.plugin_dir.iterdir(), *fresh.conf_dir.iterdir())}
    assert after == before, "and no temporary file is left"


def test_file_of_an_administrator_stays(fresh: CniHost) -> None:
    fresh.conflist.write_text('{"mine": true}')
    fresh.set_up()
    assert fresh.conflist.read_text() == '{"mine": true}'
    assert (fresh.plugin_dir / "weave-net").exists()


def test_file_that_was_changed_stays(fresh: CniHost) -> None:
    fresh.set_up()
    document = json.loads(fresh.conflist.read_text())
    document["plugins"][0]["mtu"] = 1300
    fresh.conflist.write_text(json.dumps(document))
    fresh.set_up()
    assert json.loads(fresh.conflist.read_text()) == document


def test_plugins_are_replaced_while_they_run(fresh: CniHost) -> None:
    """By renaming: who opened the old file goes on reading it."""
    fresh.set_up()
    path = fresh.plugin_dir / "weave-net"
    path.write_bytes(path.read_bytes() + b"\n# an older one\n")
    with path.open("rb") as old:
        fresh.set_up()
        assert old.read().endswith(b"# an older one\n")
    assert not path.read_bytes().endswith(b"# an older one\n")


def test_directory_that_is_not_there(fresh: CniHost) -> None:
    """No runtime is there to read a configuration (7.8); what is done is told, or the error is."""
    fresh.conf_dir.rmdir()
    fresh.plugin_dir.rmdir()
    try:
        fresh.set_up()
    except CommandFailed as error:
        assert "Traceback" not in error.output
    else:
        assert (fresh.plugin_dir / "weave-net").exists()


def test_hairpin_by_environment(fresh: CniHost) -> None:
    fresh.set_up(HAIRPIN_MODE="false")
    assert json.loads(fresh.conflist.read_text())["plugins"][0]["hairpinMode"] is False


def test_the_way_to_the_daemon_is_in_the_file(weave: CniHost) -> None:
    """Podman calls DEL with an environment of its own."""
    assert str(weave.host.run_dir) in json.dumps(weave.way_to_daemon())
    pod = weave.pod()
    weave.add(weave.network(), pod)
    environment = {**weave.runtime.environment("DEL", pod), "WEAVE_RUN_DIR": "/nowhere", "HOME": "/nowhere"}
    weave.runtime.run("weave-net", environment, weave.config()).nothing()
    assert weave.owned_by(pod) == []
