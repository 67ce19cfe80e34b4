"""Namespaces that only the plugin can open: the runtime's mounts and processes need not be the daemon's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_runtime import Pod
from lab.network import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from cni_plugin.cni_host import CniHost

pytestmark = pytest.mark.root


def mounted_elsewhere(pod: Pod, path: Path) -> tuple[str, ...]:
    """A command that starts another where the namespace is mounted at a path that exists there only."""
    script = 'mount -t tmpfs tmpfs "$2" && touch "$2/net" && mount --bind "$1" "$2/net" && shift 2 && exec "$@"'
    return ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", pod.netns, str(path))


def test_namespace_of_another_mount_namespace(weave: CniHost, tmp_path: Path) -> None:
    network, pod, other = weave.network(), weave.pod(), weave.pod()
    hidden = Pod(pod.id, str(tmp_path / "net"))
    runtime, before = weave.runtime, mounted_elsewhere(pod, tmp_path)
    config = network.plugin_config(0, {}, None)
    result = runtime.run("weave-net", runtime.environment("ADD", hidden), config, before=before).result()
    assert not (tmp_path / "net").exists(), "what the daemon sees"
    assert result["interfaces"][2]["sandbox"] == hidden.netns
    assert weave.has_interface(pod, "eth0")
    address = result["ips"][0]["address"].split("/")[0]
    weave.add(network, other)
    assert weave.namespace(other).reaches(address)
    checked = network.plugin_config(0, {}, result)
    runtime.run("weave-net", runtime.environment("CHECK", hidden), checked, before=before).nothing()
    weave.inside(pod, "route", "del", "default")
    runtime.run("weave-net", runtime.environment("CHECK", hidden), checked, before=before).failure()
    runtime.run("weave-net", runtime.environment("DEL", hidden), config, before=before).nothing()
    assert not weave.has_interface(pod, "eth0")
    assert weave.owned_by(pod) == []


def test_plain_file_where_the_daemon_looks(weave: CniHost, tmp_path: Path) -> None:
    """What a daemon in another mount namespace sees of a mounted namespace is an empty file."""
    pod = weave.pod()
    (tmp_path / "net").touch()
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    path = str(tmp_path / "net")
    before = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", pod.netns, path)
    runtime, hidden = weave.runtime, Pod(pod.id, path)
    runtime.run("weave-net", runtime.environment("ADD", hidden), weave.config(), before=before).result()
    assert weave.has_interface(pod, "eth0")
    runtime.run("weave-net", runtime.environment("DEL", hidden), weave.config()).nothing()
    assert not weave.has_interface(pod, "eth0")


def test_other_namespace_where_the_daemon_looks(weave: CniHost) -> None:
    """A path means what it means to the plugin, even if the daemon finds another namespace there."""
    pod, decoy = weave.pod(), weave.pod()
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    before = ("unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", pod.netns, decoy.netns)
    runtime, hidden = weave.runtime, Pod(pod.id, decoy.netns)
    result = runtime.run("weave-net", runtime.environment("ADD", hidden), weave.config(), before=before).result()
    assert weave.has_interface(pod, "eth0")
    assert not weave.has_interface(decoy, "eth0")
    checked = weave.config(prevResult=result)
    runtime.run("weave-net", runtime.environment("CHECK", hidden), checked, before=before).nothing()
    runtime.run("weave-net", runtime.environment("DEL", hidden), weave.config(), before=before).nothing()
    assert not weave.has_interface(pod, "eth0")


def test_process_of_another_process_namespace(weave: CniHost) -> None:
    """`/proc/PID/ns/net` where the number names another process, or none, outside."""
    pod = weave.pod()
    script = (
        'exec 9<&0; netns=$1; shift; nsenter --net="$netns" sleep 30 <&- & sleep 0.1; '
        'CNI_NETNS=/proc/$!/ns/net; export CNI_NETNS; "$@" <&9; status=$?; kill $!; exit $status'
    )
    before = ("unshare", "-mpf", "--mount-proc", "sh", "-c", script, "sh", pod.netns)
    runtime = weave.runtime
    runtime.run("weave-net", runtime.environment("ADD", pod), weave.config(), before=before).result()
    assert weave.has_interface(pod, "eth0")
    runtime.run("weave-net", runtime.environment("DEL", Pod(pod.id, "")), weave.config()).nothing()
    assert not weave.has_interface(pod, "eth0")


def test_namespace_ends_with_its_container(weave: CniHost) -> None:
    """The daemon keeps no hold on a namespace: it ends with its last process."""
    network, pod = weave.network(), weave.pod()
    weave.add(network, pod)
    links = weave.host_links()
    weave.vanish(pod)
    # The veth pair goes when the kernel gives the namespace up, which nothing of ours may prevent.
    wait_until(lambda: not links & weave.host_links(), 10, "the end of the namespace")
    weave.delete(network, pod)
