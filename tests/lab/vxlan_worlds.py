"""`host_worlds` for tests of the fast datapath: with hands and eyes for forwarding tables and the firewall."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Any, Protocol, cast

import trio

from lab.host_worlds import LinuxWorld, RecorderWorld, World, ip, ip_json
from weave_router.doors import Host, VxlanEntry, VxlanSettings
from weave_router.host.firewall import Allowed

_NFT_PORT = re.compile(r"udp dport (\d+)")


class VxlanWorld(World, Protocol):
    """A world in which forwarding tables can be seen and changed."""

    def add_wire(self, name: str) -> None:
        """A device that can become a port and receive frames."""

    async def takes_frames(self, port: str) -> None:
        """Wait until the bridge takes what comes in at a port."""

    def frame_came(self, bridge: str, port: str, mac: bytes) -> None:
        """The bridge learns an address."""

    def age(self, bridge: str, port: str, mac: bytes) -> None: ...

    def heartbeat_came(self, port: str, frame: bytes) -> None: ...

    def vxlan(self, device: str) -> VxlanSettings | None:
        """A VXLAN device as it is, None if there is none."""

    def entries(self, device: str) -> set[VxlanEntry]: ...

    def table(self, bridge: str) -> dict[bytes, str]:
        """Addresses and ports, those aside that are the ports' own."""

    def allowed(self) -> Allowed | None: ...

    def messages(self) -> int:
        """What the host counted."""


class VxlanRecorderWorld(RecorderWorld):
    """The recorder; hands and eyes are its own attributes."""

    def add_wire(self, name: str) -> None:
        self.host.add_device(name, "veth")

    async def takes_frames(self, port: str) -> None:
        await trio.lowlevel.checkpoint()

    def frame_came(self, bridge: str, port: str, mac: bytes) -> None:
        self.host.frame_came(bridge, port, mac)

    def age(self, bridge: str, port: str, mac: bytes) -> None:
        assert self.host.devices[bridge].table[mac] == port
        self.host.age(bridge, mac)

    def heartbeat_came(self, port: str, frame: bytes) -> None:
        self.host.heartbeats.deliver(frame)

    def vxlan(self, device: str) -> VxlanSettings | None:
        found = self.host.devices.get(device)
        return None if found is None else found.vxlan

    def entries(self, device: str) -> set[VxlanEntry]:
        entries = self.host.devices[device].entries
        assert len(entries) == len(set(entries))
        return set(entries)

    def table(self, bridge: str) -> dict[bytes, str]:
        return dict(self.host.devices[bridge].table)

    def allowed(self) -> Allowed | None:
        return self.host.allowed

    def messages(self) -> int:
        return self.host.messages


class VxlanLinuxWorld(LinuxWorld):
    """The kernel; hands and eyes are those of iproute2 and nft."""

    def run(self, check: VxlanCheck) -> None:
        async def remember(host: Host, _: World) -> None:
            self._host = host
            await check(host, cast("VxlanWorld", self))

        super().run(remember)

    def add_wire(self, name: str) -> None:
        ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-end")
        ip("link", "set", f"{name}-end", "addrgenmode", "none", "up")

    async def takes_frames(self, port: str) -> None:
        with trio.fail_after(5):
            while not is_forwarding(run("bridge", "-j", "link", "show", "dev", port)):  # noqa: ASYNC110
                await trio.sleep(0.005)

    def frame_came(self, bridge: str, port: str, mac: bytes) -> None:
        run("bridge", "fdb", "replace", mac.hex(":"), "dev", port, "master", "dynamic")

    def age(self, bridge: str, port: str, mac: bytes) -> None:
        run("bridge", "fdb", "del", mac.hex(":"), "dev", port, "master")

    def heartbeat_came(self, port: str, frame: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
            sender.bind((f"{port}-end", 0))
            sender.send(frame)

    def vxlan(self, device: str) -> VxlanSettings | None:
        found = next((link for link in ip_json("-d", "link") if link["ifname"] == device), None)
        if found is None or found["linkinfo"]["info_kind"] != "vxlan":
            return None
        data = found["linkinfo"]["info_data"]
        local = IPv4Address(data["local"]) if "local" in data else None
        return VxlanSettings(device, found["master"], data["port"], data["id"], found["mtu"], local)

    def entries(self, device: str) -> set[VxlanEntry]:
        return {
            VxlanEntry(octets(entry["mac"]), IPv4Address(entry["dst"]), "extern_learn" in entry["flags"])
            for entry in fdb("dev", device)
            if "self" in entry["flags"] and "dst" in entry
        }

    def table(self, bridge: str) -> dict[bytes, str]:
        return {
            octets(entry["mac"]): entry["ifname"]
            for entry in fdb("br", bridge)
            if entry.get("master") == bridge and entry["state"] != "permanent"
        }

    def allowed(self) -> Allowed | None:
        listed = subprocess.run(["nft", "list", "table", "inet", "weave"], capture_output=True, text=True, check=False)
        port = _NFT_PORT.search(listed.stdout)
        if port is None:
            return None
        return Allowed(int(port[1]), nft_set("vxlan_peers"), nft_set("vxlan_data"))

    def messages(self) -> int:
        return int(self._host.messages)  # type: ignore[attr-defined]


def run(*command: str, text: str | None = None) -> str:
    """Run a program in the namespace of the calling thread."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def fdb(*selection: str) -> list[Any]:
    """What `bridge fdb show` tells, decoded."""
    listed: list[Any] = json.loads(run("bridge", "-j", "fdb", "show", *selection) or "[]")
    return listed


def nft_set(name: str) -> frozenset[IPv4Address]:
    """The elements of one of our sets."""
    (found,) = (
        entry["set"] for entry in json.loads(run("nft", "-j", "list", "set", "inet", "weave", name))["nftables"][1:]
    )
    return frozenset(map(IPv4Address, found.get("elem", ())))


def is_forwarding(listed: str) -> bool:
    """Whether `bridge -j link show` says so of its one port; a port needs a moment until it has its carrier."""
    return bool(json.loads(listed)[0]["state"] == "forwarding")


def octets(mac: str) -> bytes:
    """A MAC address as bytes."""
    return bytes.fromhex(mac.replace(":", ""))


VxlanCheck = Callable[[Host, VxlanWorld], Awaitable[None]]
"""A test that is handed an open host and its world."""
