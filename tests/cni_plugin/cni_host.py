"""A host with a daemon, the plugins as `weave setup-cni` installs them, a runtime, and containers to attach."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cni_plugin.cni_runtime import Network, NotConforming, PluginFailed, Pod, Runtime
from lab.network import LabError, Namespace
from lab.shell import attempt, run, wait_until
from weave_net.client import DaemonClient
from weave_net.directories import Directories
from weave_net.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni_plugin.cni_runtime import Json
    from lab.network import Host, Lab

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
REFERENCE_PLUGINS = Path("/usr/lib/cni")
LAUNCH = ("--ipalloc-init", "consensus=1")
BY_HAND = "ethwe"
"""The interface that `weave attach` makes."""
_KNOWN_KEYS = {"type", "hairpinMode", "mtu", "bridge", "ipam", "dns", "capabilities", "name", "cniVersion"}

_ids = itertools.count(1)


class PodNamespace(Namespace):
    """A container's namespace as an engine makes it: empty, quickly, and by the hundred."""

    def create(self) -> None:
        """Make it; the loopback stays down."""
        run("ip", "netns", "add", self.name)

    def end_processes(self, timeout_s: float = 5) -> None:
        """End what runs inside, if it is still there."""
        if self.path.exists():
            super().end_processes(timeout_s)


class CniHost:
    """One host of a lab. Nothing runs on it before `launch`."""

    def __init__(self, lab: Lab, label: str = "cni") -> None:
        self.lab = lab
        self.host: Host = lab.host(label)
        directory = lab.directory / f"{label}-cni"
        self.plugin_dir, self.conf_dir, self.cache = directory / "bin", directory / "net.d", directory / "cache"
        for path in (self.plugin_dir, self.conf_dir, self.cache):
            path.mkdir(parents=True)
        self.runtime = Runtime(self.host, [self.plugin_dir, REFERENCE_PLUGINS], self.cache)
        self._pods: list[tuple[Pod, Namespace]] = []
        self._used: list[tuple[Network, Pod, str]] = []
        self._with_processes: set[Namespace] = set()

    # -- the daemon -----------------------------------------------------------------------------------------------

    def launch(self, *arguments: str) -> None:
        """Start the daemon, or start it again, and wait until it has addresses to give."""
        self.host.weave("launch", *LAUNCH, *arguments)
        self.host.weave("prime")

    def set_up(self, **variables: str) -> str:
        """Run `weave setup-cni` with our directories."""
        environment = {
            **self.host.environment(),
            "WEAVE_CNI_PLUGIN_DIR": str(self.plugin_dir),
            "WEAVE_CNI_CONF_DIR": str(self.conf_dir),
            **variables,
        }
        command = self.host.weave_command("setup-cni")
        return run("ip", "netns", "exec", self.host.name, *command, environment=environment, named=command)

    @property
    def conflist(self) -> Path:
        """The file that `weave setup-cni` writes."""
        return self.conf_dir / "10-weave.conflist"

    @property
    def pending(self) -> list[Path]:
        """Records of deletions that wait for the daemon."""
        directory = self.host.run_dir / "cni-pending"
        return sorted(directory.iterdir()) if directory.exists() else []

    def client(self) -> DaemonClient:
        """A client of the daemon; a context manager."""
        return DaemonClient(Directories(self.host.state_dir, self.host.run_dir))

    def owned(self) -> dict[str, list[str]]:
        """What the allocator has recorded: identifier to addresses, what the host itself has left out."""
        return self.known()[0]

    def known(self) -> tuple[dict[str, list[str]], list[Json]]:
        """What `owned` and `attachments` tell, by one client."""
        with self.client() as client:
            entries = json.loads(client.document("/ip"))["owned"] or []
            attachments = client.attachments()
        owned = {entry["containerid"]: sorted(entry["addrs"]) for entry in entries}
        owned.pop("weave:expose", None)
        return owned, attachments

    def owned_by(self, pod: Pod) -> list[str]:
        """The addresses recorded for a container, by whatever identifier."""
        return sorted(
            address
            for identifier, addresses in self.owned().items()
            if pod.id in re.split("[:@]", identifier)
            for address in addresses
        )

    def attachments(self) -> list[Json]:
        """All attachments of the daemon."""
        with self.client() as client:
            return client.attachments()

    def claim(self, identifier: str, address: str) -> None:
        """Have an address (`10.32.0.9/12`) recorded for somebody else."""
        with self.client() as client:
            client._request("PUT", f"/ip/{quote(identifier)}/{address}")

    def release(self, identifier: str) -> None:
        """Free what `claim` recorded, or what anybody has."""
        with self.client() as client:
            client._request("DELETE", f"/ip/{quote(identifier)}")

    def use_up(self, identifier: str, subnet: str) -> None:
        """Take all free addresses of a subnet."""
        with self.client() as client:
            for number in itertools.count():
                try:
                    client.post(f"/ip/{quote(identifier)}{number}/{subnet}", {"timeout": "0.2s"})
                except ApiError:
                    return

    def attach_by_hand(self, pod: Pod, address: str) -> None:
        """Attach as `weave attach` does, with one address (`10.46.0.1/24`)."""
        with self.client() as client:
            client.put_attachment(pod.id, BY_HAND, {"netns": pod.netns, "addresses": [address]})

    def detach_by_hand(self, pod: Pod, address: str) -> None:
        """Undo that."""
        with self.client() as client:
            client.delete_attachment(pod.id, BY_HAND, [address])

    def look_up(self, name: str) -> list[str]:
        """The addresses of a name in the network."""
        with self.client() as client:
            try:
                return sorted(client.look_up(name).split())
            except ApiError:
                return []

    def exposed(self) -> list[str]:
        """The addresses of the bridge, `address/len`."""
        with self.client() as client:
            return [str(address) for address in client.exposed()["addresses"]]

    # -- containers -----------------------------------------------------------------------------------------------

    def pod(self, container: str | None = None) -> Pod:
        """A new container with an identifier as engines choose them."""
        counter = next(_ids)
        namespace = self.lab.add(PodNamespace(self.lab.name(f"pod{counter}")))
        pod = Pod(container or f"{counter:04x}{os.urandom(30).hex()}", str(namespace.path))
        self._pods.append((pod, namespace))
        return pod

    def namespace(self, pod: Pod) -> Namespace:
        """A container's namespace, to run programs in."""
        return next(namespace for known, namespace in self._pods if known.netns == pod.netns)

    def process(self, pod: Pod) -> int:
        """Start a process in a container, which ends with it; its number."""
        namespace = self.namespace(pod)
        self._with_processes.add(namespace)
        return namespace.popen("sleep", "600").pid

    def vanish(self, pod: Pod) -> None:
        """Remove a container's namespace without a word to anybody."""
        self.namespace(pod).remove()

    def inside(self, pod: Pod, *arguments: str) -> str:
        """Run iproute2 inside."""
        return self.namespace(pod).ip(*arguments)

    def link(self, pod: Pod | None, name: str) -> Json:
        """A link inside a container, or of the host, with addresses and details. LabError if it is not there."""
        namespace = self.host if pod is None else self.namespace(pod)
        document: Json = json.loads(namespace.ip("-d", "-j", "addr", "show", "dev", name))[0]
        return document

    def has_interface(self, pod: Pod, name: str) -> bool:
        """Whether a container has an interface."""
        return attempt("ip", "-n", self.namespace(pod).name, "link", "show", "dev", name).returncode == 0

    def addresses(self, pod: Pod, name: str = "eth0") -> list[Json]:
        """An interface's addresses, those of its link left out."""
        return [entry for entry in self.link(pod, name)["addr_info"] if entry["scope"] != "link"]

    def routes(self, pod: Pod) -> list[Json]:
        """The IPv4 routes of a container."""
        routes: list[Json] = json.loads(self.inside(pod, "-j", "route", "show"))
        return routes

    def host_links(self) -> set[str]:
        """The names of the host's veth devices."""
        return {entry["ifname"] for entry in json.loads(self.host.ip("-j", "link", "show", "type", "veth"))}

    # -- configurations -------------------------------------------------------------------------------------------

    def installed_plugin(self) -> Json:
        """The configuration of our plugin as it is installed, with what leads it to this host's daemon."""
        document = json.loads(self.conflist.read_text())
        return next(copy.deepcopy(plugin) for plugin in document["plugins"] if plugin["type"] == "weave-net")

    def way_to_daemon(self) -> Json:
        """The keys of the installed configuration that no specification knows: they lead to the daemon."""
        return {key: value for key, value in self.installed_plugin().items() if key not in _KNOWN_KEYS}

    def network(
        self, version: str = "1.1.0", *, name: str = "weave", chain: tuple[Json, ...] = (), **changes: Any
    ) -> Network:
        """Our plugin alone or with others after it; keys of its configuration may be added or changed."""
        return Network(name, version, [{**self.installed_plugin(), **changes}, *chain])

    def weave_ipam(self, **ipam: Any) -> Json:
        """The `ipam` section that names our address plugin."""
        return {"type": "weave-ipam", **self.way_to_daemon(), **ipam}

    def config(self, version: str = "1.1.0", *, name: str = "weave", **changes: Any) -> Json:
        """What our plugin is given on standard input when it is alone."""
        return self.network(version, name=name, **changes).plugin_config(0, {}, None)

    # -- operations -----------------------------------------------------------------------------------------------

    def add(
        self,
        network: Network,
        pod: Pod,
        ifname: str = "eth0",
        *,
        arguments: str = "",
        capabilities: Mapping[str, Any] | None = None,
    ) -> Json:
        """ADD by the runtime; undone with the test at the latest."""
        self._used.append((network, pod, ifname))
        return self.runtime.add(network, pod, ifname, arguments=arguments, capabilities=capabilities)

    def delete(self, network: Network, pod: Pod, ifname: str = "eth0") -> None:
        """DEL by the runtime."""
        self.runtime.delete(network, pod, ifname)
        if (network, pod, ifname) in self._used:
            self._used.remove((network, pod, ifname))

    def check_ours(self, network: Network, pod: Pod, ifname: str = "eth0") -> None:
        """CHECK by our plugin only: that of Debian's `portmap` fails without an IPv6 address, whatever came before."""
        cached = self.runtime.cached(network, pod, ifname)
        for index, plugin in enumerate(network.plugins):
            if plugin["type"] == "weave-net":
                config = network.plugin_config(index, cached["capabilities"], cached["result"])
                environment = self.runtime.environment("CHECK", pod, ifname, cached["arguments"])
                self.runtime.run("weave-net", environment, config).nothing()

    def refusal(
        self,
        network: Network,
        pod: Pod,
        ifname: str = "eth0",
        *,
        arguments: str = "",
        capabilities: Mapping[str, Any] | None = None,
    ) -> PluginFailed:
        """The error of an ADD that has to fail, and that leaves nothing."""
        known, links = self.known(), self.host_links()
        inside = self.inside(pod, "-o", "addr") if pod.netns.startswith("/run/netns") else ""
        try:
            result = self.add(network, pod, ifname, arguments=arguments, capabilities=capabilities)
        except PluginFailed as failure:
            assert self.known() == known, "an ADD that failed left an address or an attachment"
            assert self.host_links() == links, "an ADD that failed left a link"
            if inside:
                assert self.inside(pod, "-o", "addr") == inside, "an ADD that failed changed the container"
            return failure
        raise NotConforming(f"ADD should have failed, but answered {result}")

    # -- the end --------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Delete what the test attached, and its containers."""
        for network, pod, ifname in reversed(self._used):
            if len(network.plugins) > 1 or (network.plugins[0].get("ipam") or {}).get("type"):
                with suppress(PluginFailed, NotConforming, OSError):
                    self.runtime.delete(network, pod, ifname)
        self._used.clear()
        if self.host.pid is not None:
            self._forget_attachments()
        for _, namespace in self._pods:
            with suppress(LabError):
                if namespace in self._with_processes:  # looking for them takes a while
                    namespace.end_processes()
                namespace.remove()
        self._pods.clear()
        self._with_processes.clear()
        for path in (self.cache / "results").iterdir():
            path.unlink()

    def _forget_attachments(self) -> None:
        """Have the daemon itself delete what CNI attached, which is quicker than a process for each."""
        with self.client() as client:
            for attachment in client.attachments():
                if attachment["owner"] == "cni":
                    with suppress(ApiError):
                        client.delete_attachment(attachment["id"], attachment["interface"], [])

    def check_nothing_left(self) -> None:
        """What holds when every container has gone: no address, no link, no attachment, no record."""
        wait_until(lambda: not self.host_links(), 5, "the end of all veth pairs")
        assert (self.known(), self.pending) == (({}, []), [])
