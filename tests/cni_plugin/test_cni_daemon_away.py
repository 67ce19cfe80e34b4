"""The daemon is down, hangs, or cannot give addresses yet: what runtimes hear, and what is made good later."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_host import CniHost
from cni_plugin.cni_runtime import Pod, valid_attachments
from lab.network import Lab, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from cni_plugin.cni_runtime import Json

pytestmark = pytest.mark.root

PLUGINS = ("weave-net", "weave-ipam")


def foreign(weave: CniHost) -> Json:
    """The configuration that another plugin hands to our address plugin."""
    return {"cniVersion": "1.1.0", "name": "foreign", "type": "bridge", "ipam": weave.weave_ipam()}


def settled(weave: CniHost, pod: Pod) -> bool:
    """Whether what was to be deleted is."""
    return not weave.pending and not weave.owned_by(pod) and not weave.host_links() and not weave.attachments()


def test_what_needs_the_daemon_says_try_again(weave: CniHost) -> None:
    network, pod, other = weave.network(), weave.pod(), weave.pod()
    result = weave.add(network, pod)
    weave.host.kill()
    for plugin, config in (("weave-net", weave.config()), ("weave-ipam", foreign(weave))):
        failure = weave.runtime.run(plugin, weave.runtime.environment("ADD", other), config).failure()
        assert failure.code == 11
        assert "weave launch" in failure.message + failure.details, "what to do about it"
        checked = {**config, "prevResult": result}
        assert weave.runtime.run(plugin, weave.runtime.environment("CHECK", pod), checked).failure().code == 11
        assert not weave.has_interface(other, "eth0")
        collected = {**config, **valid_attachments([])}
        assert weave.runtime.run(plugin, weave.runtime.environment("GC"), collected).failure().code == 11
        assert weave.runtime.versions(plugin)
    weave.launch()
    weave.runtime.check(network, pod)


@pytest.mark.parametrize("containers", [0, 1])
def test_status(weave: CniHost, containers: int) -> None:
    """50: no container can be added; 51: and those that are there may be cut off."""
    for _ in range(containers):
        weave.add(weave.network(), weave.pod())
    weave.host.kill()
    answer = weave.runtime.run("weave-net", weave.runtime.environment("STATUS"), weave.config())
    assert answer.failure().code == (51 if containers else 50)
    assert answer.seconds < 5
    weave.launch()
    weave.runtime.status(weave.network())


def test_delete_is_made_good(weave: CniHost) -> None:
    network, pod, kept = weave.network(), weave.pod(), weave.pod()
    weave.add(network, pod)
    weave.add(network, kept)
    address_alone = weave.pod()
    runtime = weave.runtime
    runtime.run("weave-ipam", runtime.environment("ADD", address_alone), foreign(weave)).result()
    weave.host.kill()
    for _ in range(2):
        weave.delete(network, pod)
        runtime.run("weave-ipam", runtime.environment("DEL", address_alone), foreign(weave)).nothing()
    weave.delete(network, Pod("never-seen", ""))
    assert weave.pending
    weave.launch()
    wait_until(lambda: not weave.pending, 5, "the records to be worked off")
    assert weave.owned_by(pod) == weave.owned_by(address_alone) == []
    assert not weave.has_interface(pod, "eth0")
    assert [attachment["id"] for attachment in weave.attachments()] == [kept.id]
    weave.runtime.check(network, kept)


def test_delete_without_a_namespace_is_made_good(weave: CniHost) -> None:
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    weave.host.kill()
    weave.vanish(pod)
    weave.runtime.run("weave-net", weave.runtime.environment("DEL", Pod(pod.id, "")), weave.config()).nothing()
    weave.launch()
    wait_until(lambda: settled(weave, pod), 5, "the record to be worked off")


def test_deleted_and_added_again(weave: CniHost) -> None:
    """A record that waits is of the old attachment, not of the one that is made next under the same names."""
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    weave.host.kill()
    weave.delete(network, pod)
    weave.launch()
    weave.add(network, pod)
    weave.runtime.check(network, pod)
    wait_until(lambda: not weave.pending, 5, "the record to be worked off")
    weave.runtime.check(network, pod)
    weave.host.kill()
    weave.launch()
    weave.runtime.check(network, pod)


def test_address_plugin_is_asked_without_the_daemon(weave: CniHost, tmp_path: Path) -> None:
    ipam = {"type": "host-local", "dataDir": str(tmp_path), "subnet": "10.99.0.0/24"}
    network, pod = weave.network("1.0.0", ipam=ipam), weave.pod()
    weave.add(network, pod)
    assert (tmp_path / "weave" / "10.99.0.2").exists()
    weave.host.kill()
    weave.delete(network, pod)
    weave.launch()
    wait_until(lambda: settled(weave, pod), 5, "the record to be worked off")
    assert not (tmp_path / "weave" / "10.99.0.2").exists()


def test_damaged_record_does_no_harm(weave: CniHost) -> None:
    network, pod, kept = weave.network(), weave.pod(), weave.pod()
    weave.add(network, pod)
    weave.add(network, kept)
    weave.host.kill()
    weave.delete(network, pod)
    directory = weave.pending[0].parent
    for name, content in (("half", b'{"contai'), ("empty", b""), ("binary", b"\xff\x00"), ("list", b"[]")):
        (directory / name).write_bytes(content)
        (directory / f"{name}{weave.pending[0].suffix}").write_bytes(content)
    weave.launch()
    wait_until(lambda: not weave.owned_by(pod), 5, "the good record to be worked off")
    weave.runtime.check(network, kept)
    for path in weave.pending:
        path.unlink()


def test_daemon_that_hangs(weave: CniHost) -> None:
    pid = weave.host.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = weave.runtime.run("weave-net", weave.runtime.environment("STATUS"), weave.config())
        assert answer.failure().code in {50, 51}
        assert answer.seconds < 5
    finally:
        os.kill(pid, signal.SIGCONT)
    weave.runtime.status(weave.network())


def test_addresses_that_are_not_agreed_on_yet() -> None:
    """One host of two that have to agree on the addresses, and a target that does not answer."""
    with Lab() as lab:
        weave = CniHost(lab, "alone")
        weave.host.weave("launch", "--ipalloc-init", "consensus=2", "192.0.2.77")
        weave.set_up()
        pod, runtime = weave.pod(), weave.runtime
        adding = runtime.start("weave-net", runtime.environment("ADD", pod), weave.config())
        for plugin, config in (("weave-net", weave.config()), ("weave-ipam", foreign(weave))):
            answer = runtime.run(plugin, runtime.environment("STATUS"), config)
            assert answer.failure().code == 50
            assert answer.seconds < 2, "it waits for no agreement"
        assert adding.answer().failure().code == 11
        assert weave.attachments() == []
        assert weave.host_links() == set()
        assert weave.owned() == {}
        runtime.run("weave-net", runtime.environment("DEL", pod), weave.config()).nothing()
        weave.host.weave("stop")
        weave.host.weave("reset", "--force")
        weave.launch("192.0.2.77")
        status = runtime.run("weave-net", runtime.environment("STATUS"), weave.config())
        if status.status:
            assert status.failure().code == 51, "containers of one host work without others"
        weave.add(weave.network(), pod)
        weave.runtime.check(weave.network(), pod)
