"""STATUS: silent while ADD would work, else 50."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_runtime import Network, PluginFailed
from cni_plugin.recording_plugin import RecordingPlugin

if TYPE_CHECKING:
    from pathlib import Path

    from cni_plugin.cni_host import CniHost

pytestmark = pytest.mark.root


def test_ready(weave: CniHost) -> None:
    weave.runtime.status(weave.network())
    weave.runtime.status(weave.network(ipam=weave.weave_ipam()))
    config = {"cniVersion": "1.1.0", "name": "other", "type": "bridge", "ipam": weave.weave_ipam()}
    weave.runtime.run("weave-ipam", weave.runtime.environment("STATUS"), config).nothing()


def test_is_quick(weave: CniHost) -> None:
    """The kubelet asks every five seconds."""
    answers = [weave.runtime.run("weave-net", weave.runtime.environment("STATUS"), weave.config()) for _ in range(3)]
    assert min(answer.seconds for answer in answers) < 0.5


def test_configuration_that_makes_no_sense(weave: CniHost) -> None:
    with pytest.raises(PluginFailed) as caught:
        weave.runtime.status(weave.network(mtu=-1))
    assert caught.value.code in {7, 50}


def test_asks_the_address_plugin(weave: CniHost, tmp_path: Path) -> None:
    ipam = RecordingPlugin(tmp_path, "recording-ipam")
    weave.runtime.plugin_dirs.append(tmp_path)
    try:
        network = weave.network(ipam={"type": "recording-ipam", "something": 1})
        weave.runtime.status(network)
        (call,) = ipam.calls("STATUS")
        assert call.config["ipam"] == {"type": "recording-ipam", "something": 1}
        assert (call.config["name"], call.config["cniVersion"]) == ("weave", "1.1.0")
        ipam.fail("STATUS", 50, "no address today")
        with pytest.raises(PluginFailed, match="no address today") as caught:
            weave.runtime.status(network)
        assert caught.value.code == 50
    finally:
        weave.runtime.plugin_dirs.remove(tmp_path)


def test_address_plugin_that_is_not_there(weave: CniHost) -> None:
    with pytest.raises(PluginFailed) as caught:
        weave.runtime.status(weave.network(ipam={"type": "nowhere-ipam"}))
    assert caught.value.code in {7, 50}


def test_older_versions_have_none(weave: CniHost) -> None:
    weave.runtime.status(Network("weave", "1.0.0", [weave.installed_plugin()]))
