"""The networks beneath the systems: a wire between two hosts that can behave like three different ones.

Each wire is a switch in a namespace of its own with a host at either end. The switch is there for the loss: packets
pass it one by one as soon as the hosts' devices cut superframes, whereas a rule on the receiving host would see
what GRO has already joined, and drop fifty packets at a time.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lab.namespace import Namespace
    from lab.network import Host, Lab

MTU_BYTES = 1500
_TABLE = "wvloss"
_OFFLOADS = {True: {"tso": "on", "tx-udp-segmentation": "on"}, False: {"tso": "off", "tx-udp-segmentation": "off"}}
"""Offloads of every device on the wire, by whether superframes stay whole."""


@dataclass(frozen=True)
class Underlay:
    """A way that wires behave."""

    name: str
    title: str
    whole_superframes: bool
    """Whether superframes cross the wire uncut; otherwise devices cut them, and the receiver joins packets by GRO."""


VETH = Underlay("veth", "veth: superframes cross it uncut", whole_superframes=True)
CARD = Underlay("card", "network card: no segmentation offload, GRO at the receiver", whole_superframes=False)
LOSS = Underlay("loss", "network card, without and with 1 % loss", whole_superframes=False)
UNDERLAYS = (VETH, CARD, LOSS)


class Wire:
    """A network of hosts; their addresses carry the prefix length."""

    def __init__(self, lab: Lab, addresses: Mapping[Host, str]) -> None:
        self._segment = lab.segment(addresses, mtu=MTU_BYTES)

    def behave_like(self, underlay: Underlay) -> None:
        """Set the offloads of all devices."""
        offloads = _OFFLOADS[underlay.whole_superframes]
        for port in self._segment.ports:
            _set_offloads(self._segment.switch, port, offloads)
        receive = {"gro": "off" if underlay.whole_superframes else "on"}
        for end in self._segment.ends:
            _set_offloads(end.host, end.interface, {**offloads, **receive})

    @contextmanager
    def losing(self, packets: str) -> Iterator[None]:
        """Drop 1 % of the packets that match an nftables expression, in both directions."""
        lines = [f"add table netdev {_TABLE}"]
        for port in self._segment.ports:
            lines.append(f"add chain netdev {_TABLE} {port} {{ type filter hook ingress device {port} priority 0; }}")
            lines.append(f"add rule netdev {_TABLE} {port} {packets} numgen random mod 100 == 0 drop")
        self._segment.switch.run("nft", "-f", "-", stdin="\n".join(lines) + "\n")
        try:
            yield
        finally:
            self._segment.switch.run("nft", "delete", "table", "netdev", _TABLE)


def _set_offloads(namespace: Namespace, device: str, offloads: Mapping[str, str]) -> None:
    words = [word for pair in offloads.items() for word in pair]
    namespace.run("ethtool", "-K", device, *words)
