"""What a container runtime does with CNI plugins, after the specification 1.1.0 and its Go library.

    runtime = Runtime(host, [plugin_dir], cache_dir)
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    network = Network("net", "1.0.0", [{"type": "weave-net"}, portmap])
    pod = Pod("container-id", "/run/netns/name")
    result = runtime.add(network, pod, capabilities={"portMappings": [...]})
    runtime.delete(network, pod)

It knows nothing of any plugin, and is strict where runtimes are lenient: nothing but one JSON object may be on standard
output, what must print nothing prints nothing, and every call has a time limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from lab.namespace import Namespace

Json = dict[str, Any]

LIMIT_S = 20.0
"""What a plugin may take; the lab's machine may be busy."""
PREVIOUS_RESULT_SINCE = (0, 4, 0)
"""CHECK exists from this version on, and DEL gets the result of ADD."""
LISTS_SINCE = (1, 1, 0)
"""GC and STATUS exist from this version on."""
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class NotConforming(AssertionError):
    """A plugin broke the contract between runtime and plugin."""


class PluginFailed(Exception):
    """A plugin answered with an error object."""

    def __init__(self, call: str, document: Json) -> None:
        self.code: int = document["code"]
        self.message: str = document["msg"]
        self.details: str = document.get("details", "")
        self.document = document
        super().__init__(f"{call}: code {self.code}: {self.message}; {self.details}")


class ManyFailed(Exception):
    """Several plugins failed in an operation that goes on after errors."""

    def __init__(self, failures: Sequence[PluginFailed]) -> None:
        self.failures = tuple(failures)
        super().__init__("; ".join(str(failure) for failure in failures))


@dataclass(frozen=True)
class Pod:
    """A container as a runtime names it to plugins."""

    id: str
    netns: str
    """Path of its network namespace; empty if there is none any more."""


@dataclass(frozen=True)
class Network:
    """A network configuration list (`.conflist`)."""

    name: str
    version: str
    plugins: Sequence[Json]
    more: Json = field(default_factory=dict)
    """`disableCheck`, `disableGC`, `cniVersions` and the like."""

    @classmethod
    def load(cls, path: Path, known: Iterable[str] = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")) -> Network:
        """Read a file, as a runtime does that knows these versions."""
        document = json.loads(path.read_text())
        name, plugins = document.pop("name"), document.pop("plugins")
        versions = {document.pop("cniVersion", "0.1.0"), *document.get("cniVersions", [])}
        return cls(name, max(versions & set(known), key=number), plugins, document)

    def plugin_config(self, index: int, capabilities: Mapping[str, Any], previous: Json | None) -> Json:
        """What the plugin at this place is given. The Go library leaves the key `capabilities` in place."""
        plugin = dict(self.plugins[index])
        config = {**plugin, "name": self.name, "cniVersion": self.version}
        declared = plugin.get("capabilities", {})
        chosen = {key: value for key, value in capabilities.items() if declared.get(key)}
        if chosen:
            config["runtimeConfig"] = chosen
        if previous is not None:
            config["prevResult"] = previous
        return config


@dataclass(frozen=True)
class Answer:
    """How one call of an executable went."""

    call: str
    status: int
    output: str
    errors: str
    seconds: float

    def document(self) -> Json:
        """The JSON object on standard output; there must be nothing else."""
        try:
            document = json.loads(self.output)
        except ValueError as error:
            raise NotConforming(f"{self} prints no JSON document") from error
        if not isinstance(document, dict):
            raise NotConforming(f"{self} prints no JSON object")
        return document

    def failure(self) -> PluginFailed:
        """The error object that a call that failed has to print."""
        if self.status == 0:
            raise NotConforming(f"{self} should have failed")
        document = self.document()
        code, message = document.get("code"), document.get("msg")
        # The Go library itself leaves cniVersion out of most errors.
        if type(code) is not int or code == 0 or not isinstance(message, str) or not message:
            raise NotConforming(f"{self} prints a bad error object")
        if not isinstance(document.get("details", ""), str):
            raise NotConforming(f"{self} prints an error object whose details are no text")
        return PluginFailed(self.call, document)

    def result(self) -> Json:
        """The result of a call that has to succeed. Raises PluginFailed."""
        if self.status != 0:
            raise self.failure()
        return self.document()

    def nothing(self) -> None:
        """A call that has to succeed without any output. Raises PluginFailed."""
        if self.status != 0:
            raise self.failure()
        if self.output.strip():
            raise NotConforming(f"{self} should print nothing")

    def __str__(self) -> str:
        return f"{self.call} (status {self.status}, output {self.output!r}, errors {self.errors!r})"


class Call:
    """An executable that runs."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], stdin: str) -> None:
        self.name = name
        self._stdin = stdin
        self._begin = time.monotonic()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(environment),
            start_new_session=True,
        )

    def kill(self) -> None:
        """SIGKILL, for it and what it started."""
        os.killpg(self._process.pid, signal.SIGKILL)

    def answer(self, limit_s: float = LIMIT_S) -> Answer:
        """Wait for the end. Raises NotConforming if it does not come in time."""
        try:
            output, errors = self._process.communicate(self._stdin, timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            output, errors = self._process.communicate()
            raise NotConforming(f"{self.name} takes more than {limit_s:g} s: {output}{errors}") from None
        return Answer(self.name, self._process.returncode, output, errors, time.monotonic() - self._begin)


class Runtime:
    """One host's runtime: where plugins are, what was cached."""

    def __init__(self, host: Namespace, plugin_dirs: Sequence[Path], cache: Path) -> None:
        self.host = host
        self.plugin_dirs = list(plugin_dirs)
        self._cache = cache / "results"
        self._cache.mkdir(parents=True, exist_ok=True)

    # -- single executables ---------------------------------------------------------------------------------------

    def find(self, plugin: str) -> Path:
        """The executable of a plugin type."""
        for directory in self.plugin_dirs:
            if (path := directory / plugin).exists():
                return path
        raise NotConforming(f"no plugin {plugin} in {self.plugin_dirs}")

    def environment(self, command: str, pod: Pod | None = None, ifname: str = "eth0", arguments: str = "") -> Json:
        """The variables of a call, nothing of our own among them."""
        environment = {"PATH": PATH, "CNI_COMMAND": command, "CNI_PATH": ":".join(map(str, self.plugin_dirs))}
        if pod is not None:
            environment |= {"CNI_CONTAINERID": pod.id, "CNI_IFNAME": ifname, "CNI_NETNS": pod.netns}
            if arguments:
                environment["CNI_ARGS"] = arguments
        return environment

    def start(
        self,
        plugin: str,
        environment: Mapping[str, str],
        config: Json | str,
        *,
        before: Sequence[str] = (),
    ) -> Call:
        """Start an executable in the host's network. `before`: a command that starts it, as `unshare -m`."""
        stdin = config if isinstance(config, str) else json.dumps(config)
        command = ("ip", "netns", "exec", self.host.name, *before, str(self.find(plugin)))
        return Call(f"{plugin} {environment.get('CNI_COMMAND', '')}", command, environment, stdin)

    def run(
        self,
        plugin: str,
        environment: Mapping[str, str],
        config: Json | str,
        *,
        before: Sequence[str] = (),
        limit_s: float = LIMIT_S,
    ) -> Answer:
        """Run an executable to its end."""
        return self.start(plugin, environment, config, before=before).answer(limit_s)

    # -- what a runtime does --------------------------------------------------------------------------------------

    def add(
        self,
        network: Network,
        pod: Pod,
        ifname: str = "eth0",
        *,
        arguments: str = "",
        capabilities: Mapping[str, Any] | None = None,
    ) -> Json:
        """ADD along the list; the last result is cached. Raises PluginFailed, after which it is time for `delete`."""
        result: Json | None = None
        self._store(network, pod, ifname, arguments, capabilities or {}, None)
        for index, plugin in enumerate(network.plugins):
            config = network.plugin_config(index, capabilities or {}, result)
            result = self.run(plugin["type"], self.environment("ADD", pod, ifname, arguments), config).result()
            check_result(result, network.version)
        assert result is not None
        self._store(network, pod, ifname, arguments, capabilities or {}, result)
        return result

    def check(self, network: Network, pod: Pod, ifname: str = "eth0") -> None:
        """CHECK along the list with the cached result. Raises PluginFailed."""
        if number(network.version) < PREVIOUS_RESULT_SINCE:
            raise NotConforming(f"version {network.version} has no CHECK")
        if network.more.get("disableCheck"):
            return
        cached = self.cached(network, pod, ifname)
        for index, plugin in enumerate(network.plugins):
            config = network.plugin_config(index, cached["capabilities"], cached["result"])
            self.run(plugin["type"], self.environment("CHECK", pod, ifname, cached["arguments"]), config).nothing()

    def delete(self, network: Network, pod: Pod, ifname: str = "eth0") -> None:
        """DEL in reverse order, with the cached result if there is one, which is forgotten. Raises PluginFailed."""
        path = self._path(network, pod.id, ifname)
        cached = json.loads(path.read_text()) if path.exists() else {}
        arguments, capabilities = cached.get("arguments", ""), cached.get("capabilities", {})
        previous = cached.get("result") if number(network.version) >= PREVIOUS_RESULT_SINCE else None
        for index in reversed(range(len(network.plugins))):
            config = network.plugin_config(index, capabilities, previous)
            plugin = network.plugins[index]["type"]
            self.run(plugin, self.environment("DEL", pod, ifname, arguments), config).nothing()
        path.unlink(missing_ok=True)

    def status(self, network: Network) -> None:
        """STATUS along the list. Raises PluginFailed."""
        if number(network.version) < LISTS_SINCE:
            return
        for index, plugin in enumerate(network.plugins):
            self.run(plugin["type"], self.environment("STATUS"), network.plugin_config(index, {}, None)).nothing()

    def gc(self, network: Network, valid: Iterable[tuple[str, str]] | None) -> None:
        """Collect garbage: DEL for what is cached and not valid, then GC along the list; goes on after errors.

        Raises ManyFailed in the end. `valid`: container IDs and interfaces; None leaves the list out, as cnitool does.
        """
        if network.more.get("disableGC"):
            return
        keep = None if valid is None else list(valid)
        failures: list[PluginFailed] = []
        for path in sorted(self._cache.iterdir()):
            cached = json.loads(path.read_text())
            if cached["network"] != network.name or (keep and (cached["id"], cached["ifname"]) in keep):
                continue
            try:
                self.delete(network, Pod(cached["id"], cached["netns"]), cached["ifname"])
            except PluginFailed as failure:
                failures.append(failure)
        if number(network.version) >= LISTS_SINCE:
            for index, plugin in enumerate(network.plugins):
                config = network.plugin_config(index, {}, None) | valid_attachments(keep)
                try:
                    self.run(plugin["type"], self.environment("GC"), config).nothing()
                except PluginFailed as failure:
                    failures.append(failure)
        if failures:
            raise ManyFailed(failures)

    def versions(self, plugin: str, version: str = "1.1.0") -> list[str]:
        """VERSION of a plugin: what it supports."""
        document = self.run(plugin, self.environment("VERSION"), {"cniVersion": version}).result()
        supported = document.get("supportedVersions")
        if not isinstance(document.get("cniVersion"), str) or not isinstance(supported, list) or not supported:
            raise NotConforming(f"{plugin} VERSION prints {document}")
        return [str(entry) for entry in supported]

    # -- the cache ------------------------------------------------------------------------------------------------

    def cached(self, network: Network, pod: Pod, ifname: str = "eth0") -> Json:
        """What is remembered of an ADD."""
        document: Json = json.loads(self._path(network, pod.id, ifname).read_text())
        return document

    def forget(self, network: Network, pod: Pod, ifname: str = "eth0") -> None:
        """Lose the cached result, as after a reboot of a host that keeps it in memory."""
        self._path(network, pod.id, ifname).unlink(missing_ok=True)

    def _path(self, network: Network, container: str, ifname: str) -> Path:
        name = hashlib.sha256(f"{network.name}/{container}/{ifname}".encode()).hexdigest()
        return self._cache / name

    def _store(
        self,
        network: Network,
        pod: Pod,
        ifname: str,
        arguments: str,
        capabilities: Mapping[str, Any],
        result: Json | None,
    ) -> None:
        entry = {"network": network.name, "id": pod.id, "netns": pod.netns, "ifname": ifname, "arguments": arguments}
        entry |= {"capabilities": dict(capabilities), "result": result}  # type: ignore[dict-item]
        self._path(network, pod.id, ifname).write_text(json.dumps(entry))


def number(version: str) -> tuple[int, ...]:
    """A version as a tuple that can be compared."""
    return tuple(int(part) for part in version.split("."))


def valid_attachments(pairs: Iterable[tuple[str, str]] | None) -> Json:
    """The keys of GC, the old one too, as the library sends them; no keys for None."""
    if pairs is None:
        return {}
    entries = [{"containerID": container, "ifname": ifname} for container, ifname in pairs]
    return {"cni.dev/valid-attachments": entries, "cni.dev/attachments": entries}


def check_result(result: Json, version: str) -> None:
    """What holds for every result from 0.3.0 on. Raises NotConforming."""

    def must(condition: object, what: str) -> None:
        if not condition:
            raise NotConforming(f"a result {what}: {result}")

    must(result.get("cniVersion") == version, f"whose cniVersion is not {version}")
    interfaces = result.get("interfaces", [])
    for interface in interfaces:
        must(isinstance(interface.get("name"), str) and interface["name"], "with an interface without a name")
        must(isinstance(interface.get("sandbox", ""), str), "with a sandbox that is no text")
        if number(version) < LISTS_SINCE:
            must(set(interface) <= {"name", "mac", "sandbox"}, f"with interface fields that {version} does not know")
    for address in result.get("ips", []):
        must("/" in address.get("address", ""), "with an address without a prefix length")
        index = address.get("interface")
        must(index is None or 0 <= index < len(interfaces), "with an address of an interface that is not listed")
        family = "6" if ":" in address["address"] else "4"
        if number(version) < (1, 0, 0):
            must(address.get("version") == family, "with an address without its family")
        else:
            must("version" not in address, "with an address's family, which is gone since 1.0.0")
    for route in result.get("routes", []):
        must("/" in route.get("dst", ""), "with a route without a destination")
        if number(version) < LISTS_SINCE:
            must(set(route) <= {"dst", "gw"}, f"with route fields that {version} does not know")
