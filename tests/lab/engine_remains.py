"""What is left on a host after containers have gone: everything that a network plugin might forget, to be compared."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.network import wait_until
from lab.shell import LabError
from weave_net.client import DaemonClient
from weave_net.directories import Directories
from weave_net.errors import WeaveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.engine_host import EngineHost

_VOLATILE_KEYS = re.compile(r"^(counter|handle|expires)$")
"""What changes by itself: counts, numbers given anew, clocks."""
_LINK_KEYS = ("ifname", "address", "mtu", "master", "promiscuity", "flags")
_OURS_UNTIL_STOPPED = ("tun", "vxlan")
"""Kinds of devices that a restarted daemon makes anew, with another MAC address."""
_CARRIER_FLAGS = {"NO-CARRIER", "LOWER_UP", "M-DOWN"}
"""Of a bridge, for instance, that has no ports any more."""
_IPTABLES_COUNTS = re.compile(r"\[\d+:\d+\]")
_ENGINES_MOUNTS = ("/run/netns", "/var/lib/containers/storage/overlay")
"""Podman makes these at times, with the first container that needs them."""
_KEPT_CNI_FILES = re.compile(r"/(lock|last_reserved_ip\.\d+)$")

Remains = dict[str, list[str]]
"""Lines by what they tell about."""


def remains(host: EngineHost) -> Remains:
    """A snapshot of a host: kernel, firewall, allocator, engines' files, processes."""
    return {
        "links": _links(host),
        # Sorted, since an engine that is started anew lays its rules down in another order.
        "nft": sorted(map(_line, json.loads(host.run("nft", "-j", "list", "ruleset"))["nftables"])),
        "iptables (nft)": _iptables(host.run("iptables-nft-save")),
        "iptables (legacy)": _iptables(host.run("iptables-legacy-save")),
        "namespaces": _files(host, "/run/netns"),
        "cni": [path for path in _files(host, "/var/lib/cni") if not _KEPT_CNI_FILES.search(path)],
        "mounts": _mounts(host),
        "processes": sorted(filter(None, map(_command, host.processes()))),
        **_daemon(host),
    }


def difference(before: Remains, after: Remains) -> str:
    """What changed, as lines that begin with + and -; empty if nothing did."""
    lines = []
    for what in before | after:
        changes = difflib.unified_diff(before.get(what, []), after.get(what, []), lineterm="", n=0)
        found = [line for line in changes if not line.startswith(("---", "+++", "@@"))]
        if found:
            lines += [f"{what}:", *(f"  {line}" for line in found)]
    return "\n".join(lines)


def nothing_left(hosts: Sequence[EngineHost], before: Sequence[Remains], timeout_s: float = 10) -> None:
    """Wait until hosts are as they were; LabError with the difference if they do not become so.

    Engines clean up after a container that ended by itself in the background, hence the wait.
    """
    for host, then in zip(hosts, before, strict=True):
        try:
            wait_until(lambda host=host, then=then: not difference(then, remains(host)), timeout_s, "nothing left")  # type: ignore[misc]
        except LabError as error:
            left = difference(then, remains(host))
            raise LabError(f"{host.label} is not as it was after {timeout_s:g} s:\n{left}") from error


def _links(host: EngineHost) -> list[str]:
    found = []
    for link in json.loads(host.run("ip", "-d", "-j", "link")):
        facts = {key: link[key] for key in _LINK_KEYS if key in link}
        facts["flags"] = sorted(set(link["flags"]) - _CARRIER_FLAGS)
        facts["kind"] = link.get("linkinfo", {}).get("info_kind")
        if facts["kind"] in _OURS_UNTIL_STOPPED:
            del facts["address"]
        found.append(json.dumps(facts))
    return sorted(found)


def _line(entry: Any) -> str:
    if isinstance(entry, dict) and str(entry.get("set", {}).get("name", "")).startswith("vxlan_"):
        entry = {"set": {**entry["set"], "elem": "whoever is heard at the moment"}}
    return json.dumps(_steady(entry), sort_keys=True)


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if not _VOLATILE_KEYS.match(key)}
    if isinstance(value, list):
        items = [_steady(item) for item in value if not (isinstance(item, dict) and set(item) == {"counter"})]
        # The elements of a set come in no order.
        return sorted(items, key=json.dumps) if all(isinstance(item, (str, dict)) for item in items) else items
    return value


def _iptables(text: str) -> list[str]:
    return sorted(_IPTABLES_COUNTS.sub("", line).strip() for line in text.splitlines() if not line.startswith("#"))


def _files(host: EngineHost, folder: str) -> list[str]:
    top = host.path_of(folder)
    return (
        sorted(f"{folder}/{path.relative_to(top)}" for path in top.rglob("*") if not path.is_dir())
        if top.is_dir()
        else []
    )


def _mounts(host: EngineHost) -> list[str]:
    """Docker's namespaces are among these; the empty files beneath stay for a minute."""
    points = [line.split()[1] for line in Path(f"/proc/{host.init}/mounts").read_text().splitlines()]
    return sorted(point for point in points if point not in _ENGINES_MOUNTS)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _daemon(host: EngineHost) -> Remains:
    """What the weave daemon has recorded, if there is one."""
    if host.pid is None:
        return {}
    try:
        with DaemonClient(Directories(host.state_dir, host.run_dir)) as client:
            addresses = json.loads(client.document("/ip"))["owned"] or []
            names = json.loads(client.document("/name")) or []
            attachments = client.attachments()
    except WeaveError as error:
        raise LabError(f"the daemon of {host.label} does not tell what it has: {error}") from error
    return {
        "addresses": sorted(map(_line, addresses)),
        "names": sorted(f"{name['Hostname']} {name['Addr']}" for name in names if not name["Tombstone"]),
        "attachments": sorted(map(_line, attachments)),
    }
