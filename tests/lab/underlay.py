"""The network beneath: cables and switches between the lab's hosts, which can be cut."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from lab.shell import LabError, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.namespace import Namespace

_CUT = "wvcut"
"""The nftables table in a host that drops what a cut link would not bring."""


@dataclass(frozen=True)
class End:
    """Where an underlay network ends in a host."""

    host: Namespace
    interface: str
    address: str
    """With prefix length."""


class Underlay:
    """Hosts that reach each other directly: two ends of a cable, or the ports of a switch."""

    def __init__(self, ends: Sequence[End]) -> None:
        self.ends = tuple(ends)
        self._dropping: set[End] = set()
        self._down: set[End] = set()

    def end_of(self, host: Namespace) -> End:
        """The end in this host."""
        for end in self.ends:
            if end.host is host:
                return end
        raise LabError(f"{host} is not on this link")

    def address_of(self, host: Namespace) -> str:
        """The host's address here, without prefix length."""
        return str(ip_interface(self.end_of(host).address).ip)

    def cut(self, *hosts: Namespace, carrier: bool = False) -> None:
        """Let nothing arrive any more at these hosts, or at any if none is named.

        Senders are not told: packets vanish as behind a distant switch that died. With `carrier` the
        interfaces go down instead, so that the hosts notice at once.
        """
        for end in [self.end_of(host) for host in hosts] or self.ends:
            if carrier:
                end.host.ip("link", "set", end.interface, "down")
                self._down.add(end)
            elif end not in self._dropping:
                hook = f"type filter hook ingress device {end.interface} priority -500; policy drop;"
                rules = f"add table netdev {_CUT}\nadd chain netdev {_CUT} {end.interface} {{ {hook} }}\n"
                end.host.run("nft", "-f", "-", stdin=rules)
                self._dropping.add(end)

    def heal(self) -> None:
        """Undo every cut."""
        for end in self._dropping:
            end.host.run("nft", "delete", "chain", "netdev", _CUT, end.interface)
        for end in self._down:
            bring_up(end)
        self._dropping.clear()
        self._down.clear()


class Segment(Underlay):
    """A switch, and the hosts plugged into it. Its ports are numbered as the hosts were named."""

    def __init__(self, ends: Sequence[End], switch: Namespace) -> None:
        super().__init__(ends)
        self.switch = switch
        self.ports = tuple(f"port{number}" for number in range(len(self.ends)))


def connect(first: End, second: End, mtu: int) -> Underlay:
    """Lay a cable between two hosts."""
    _veth(first.host.name, first.interface, second.host.name, second.interface, mtu)
    for end in (first, second):
        bring_up(end)
    return Underlay([first, second])


def join(switch: Namespace, ends: Sequence[End], mtu: int) -> Segment:
    """Plug hosts into a switch, which is a bridge in a namespace of its own."""
    # Forwarding begins at once and group members need not be known: a plain switch of the 1990s.
    switch.ip("link", "add", "switch", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    switch.ip("link", "set", "switch", "up")
    segment = Segment(ends, switch)
    for end, port in zip(segment.ends, segment.ports, strict=True):
        _veth(end.host.name, end.interface, switch.name, port, mtu)
        switch.ip("link", "set", port, "master", "switch", "up")
        bring_up(end)
    return segment


def bring_up(end: End) -> None:
    """Set an end up with its address; IPv6 ones are gone from an interface that was down."""
    options: Mapping[int, tuple[str, ...]] = {4: (), 6: ("nodad",)}
    end.host.ip("addr", "replace", end.address, "dev", end.interface, *options[ip_interface(end.address).version])
    end.host.ip("link", "set", end.interface, "up")


def _veth(namespace: str, interface: str, other_namespace: str, other_interface: str, mtu: int) -> None:
    here = (interface, "mtu", str(mtu), "netns", namespace)
    there = (other_interface, "mtu", str(mtu), "netns", other_namespace)
    run("ip", "link", "add", *here, "type", "veth", "peer", "name", *there)
