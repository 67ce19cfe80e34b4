"""Hosts for the tests of the door `Host`: the recorder, and the kernel in a network namespace made for the test.

A world is a host together with the hands and eyes of somebody beside it: it starts containers and looks at
devices without the help of what is tested.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any, Protocol

import trio

from weave_router.doors import Host
from weave_router.host.linux import LinuxHost
from weave_router.testing.hosts import OWN_NAMESPACE, ContainerInterface, RecordingHost

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


@dataclass(frozen=True)
class Seen:
    """What an onlooker sees of a device."""

    mac: str
    mtu: int
    up: bool
    bridge: str | None
    isolated: bool
    hairpin: bool


class World(Protocol):
    """A host to test with, and the hands and eyes of somebody beside it."""

    own_namespace: str
    """A path that leads to the host's own namespace."""

    def run(self, check: Check) -> None: ...

    def start_container(self) -> str: ...

    def end_container(self, path: str) -> None: ...

    def add_interface(self, namespace: str, name: str) -> None: ...

    def rename_interface(self, namespace: str, old: str, new: str) -> None: ...

    def add_tap(self, name: str) -> None: ...

    def device(self, name: str) -> Seen | None: ...

    def addresses(self, namespace: str, interface: str) -> set[str] | None:
        """None if there is no such interface."""

    def has_multicast_route(self, namespace: str, interface: str) -> bool: ...

    def routes(self, namespace: str, interface: str) -> set[tuple[str, str | None]]:
        """Destination and gateway of each route through an interface, the kernel's own left out."""

    def take_inside(self, namespace: str, interface: str, address: str) -> None:
        """As somebody in the container does with `ip addr del`."""

    def host_addresses(self, device: str) -> set[str]:
        """Addresses of a device of the host."""

    def give_address(self, bridge: str, address: str) -> None:
        """As an operator does with `ip addr add`."""

    def take_address(self, bridge: str, address: str) -> None: ...


class RecorderWorld:
    """The recorder; hands and eyes are its own attributes."""

    def __init__(self) -> None:
        self.own_namespace = OWN_NAMESPACE
        self.host = RecordingHost()

    def run(self, check: Check) -> None:
        async def main() -> None:
            async with self.host as host:
                await check(host, self)

        trio.run(main)

    def start_container(self) -> str:
        path = f"/run/netns/wvtest-{next(_numbers)}"
        self.host.add_namespace(path)
        return path

    def end_container(self, path: str) -> None:
        self.host.remove_namespace(path)

    def add_interface(self, namespace: str, name: str) -> None:
        interface = ContainerInterface(name=name, mac="02:02:00:00:00:01", mtu=1500)
        self.host.namespaces[namespace].interfaces[name] = interface

    def rename_interface(self, namespace: str, old: str, new: str) -> None:
        interfaces = self.host.namespaces[namespace].interfaces
        interfaces[new] = interfaces.pop(old)
        interfaces[new].name = new

    def add_tap(self, name: str) -> None:
        self.host.add_device(name)

    def device(self, name: str) -> Seen | None:
        found = self.host.devices.get(name)
        if found is None:
            return None
        return Seen(found.mac, found.mtu, found.up, found.bridge, found.isolated, found.hairpin)

    def addresses(self, namespace: str, interface: str) -> set[str] | None:
        found = self.host.namespaces[namespace].interfaces.get(interface)
        return None if found is None else {str(address) for address in found.addresses}

    def has_multicast_route(self, namespace: str, interface: str) -> bool:
        return self.host.namespaces[namespace].interfaces[interface].multicast_route

    def routes(self, namespace: str, interface: str) -> set[tuple[str, str | None]]:
        found = self.host.namespaces[namespace].interfaces[interface].routes
        return {(str(route.destination), None if route.gateway is None else str(route.gateway)) for route in found}

    def take_inside(self, namespace: str, interface: str, address: str) -> None:
        self.host.namespaces[namespace].interfaces[interface].addresses.remove(ip_interface(address))

    def host_addresses(self, device: str) -> set[str]:
        return {str(address) for address in self.host.devices[device].addresses}

    def give_address(self, bridge: str, address: str) -> None:
        present = self.host.devices[bridge].addresses
        self.host.set_bridge_addresses(bridge, [*present, ip_interface(address)])

    def take_address(self, bridge: str, address: str) -> None:
        present = self.host.devices[bridge].addresses
        self.host.set_bridge_addresses(bridge, [kept for kept in present if kept != ip_interface(address)])


class LinuxWorld:
    """The kernel; hands and eyes are iproute2's."""

    def __init__(self) -> None:
        self.own_namespace = ""
        self._cleanup = ExitStack()

    def run(self, check: Check) -> None:
        # A namespace is entered per thread, and subprocesses inherit that of the thread that starts them.
        outcome: Future[None] = Future()

        async def main() -> None:
            async with LinuxHost() as host:
                await check(host, self)

        def live_in_new_namespace() -> None:
            try:
                if _libc.unshare(_CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "unshare")
                # Not /proc/thread-self, which leads the netlink thread to itself.
                self.own_namespace = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
                with self._cleanup:
                    trio.run(main)
            except BaseException as error:
                outcome.set_exception(error)
            else:
                outcome.set_result(None)

        thread = threading.Thread(target=live_in_new_namespace)
        thread.start()
        thread.join()
        outcome.result()

    def start_container(self) -> str:
        name = f"wvtest{os.getpid()}-{next(_numbers)}"
        ip("netns", "add", name)
        self._cleanup.callback(subprocess.run, ["ip", "netns", "del", name], capture_output=True, check=False)
        return f"/run/netns/{name}"

    def end_container(self, path: str) -> None:
        ip("netns", "del", Path(path).name)

    def add_interface(self, namespace: str, name: str) -> None:
        ip("-n", Path(namespace).name, "link", "add", name, "type", "bridge")

    def rename_interface(self, namespace: str, old: str, new: str) -> None:
        ip("-n", Path(namespace).name, "link", "set", old, "down")
        ip("-n", Path(namespace).name, "link", "set", old, "name", new)

    def add_tap(self, name: str) -> None:
        ip("tuntap", "add", name, "mode", "tap")

    def device(self, name: str) -> Seen | None:
        found = next((link for link in ip_json("-d", "link") if link["ifname"] == name), None)
        if found is None:
            return None
        port = found.get("linkinfo", {}).get("info_slave_data", {})
        return Seen(
            found["address"],
            found["mtu"],
            "UP" in found["flags"],
            found.get("master"),
            port.get("isolated", False),
            port.get("hairpin", False),
        )

    def addresses(self, namespace: str, interface: str) -> set[str] | None:
        links = ip_json("-n", Path(namespace).name, "addr")
        found = next((link for link in links if link["ifname"] == interface), None)
        if found is None:
            return None
        return {f"{a['local']}/{a['prefixlen']}" for a in found["addr_info"] if a["scope"] != "link"}

    def has_multicast_route(self, namespace: str, interface: str) -> bool:
        routes = ip_json("-n", Path(namespace).name, "route")
        return any(r["dst"] == "224.0.0.0/4" and r["dev"] == interface for r in routes)

    def routes(self, namespace: str, interface: str) -> set[tuple[str, str | None]]:
        found = ip_json("-n", Path(namespace).name, "route", "show", "dev", interface)
        foreign = [route for route in found if route.get("protocol") != "kernel" and route["dst"] != "224.0.0.0/4"]
        return {(str(ip_network(_spelled(route["dst"]))), route.get("gateway")) for route in foreign}

    def take_inside(self, namespace: str, interface: str, address: str) -> None:
        ip("-n", Path(namespace).name, "addr", "del", address, "dev", interface)

    def host_addresses(self, device: str) -> set[str]:
        (found,) = ip_json("addr", "show", "dev", device)
        return {f"{a['local']}/{a['prefixlen']}" for a in found["addr_info"] if a["scope"] != "link"}

    def give_address(self, bridge: str, address: str) -> None:
        ip("addr", "add", address, "dev", bridge)

    def take_address(self, bridge: str, address: str) -> None:
        ip("addr", "del", address, "dev", bridge)


def ip(*arguments: str) -> str:
    """Run iproute2 in the namespace of the calling thread."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def ip_json(*arguments: str) -> list[Any]:
    """What `ip -j` tells, decoded."""
    listed: list[Any] = json.loads(ip("-j", *arguments) or "[]")
    return listed


def _spelled(destination: str) -> str:
    return "0.0.0.0/0" if destination == "default" else destination


Check = Callable[[Host, World], Awaitable[None]]
"""A test that is handed an open host and its world."""
