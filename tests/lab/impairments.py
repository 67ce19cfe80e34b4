"""Underlays that are not perfect: a switch that loses packets, lets some overtake others, or has short queues.

    segment = lab.segment({a: "192.0.2.1/24", b: "192.0.2.2/24"})
    with lossy(segment, percent=2) as lost:
        ...
        assert lost() > 0

Each is a context manager that yields a function: how many packets were hit so far. The hosts' superframes are
taken apart before they reach the switch, so a packet is hit alone, as on a real wire, and what arrives is joined
again, gaps and all (GRO). Only qdiscs that small kernels have are used (no netem).
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.underlay import Segment

_TABLE = "wvimpair"
_OVERTAKEN_KBIT = 10_000
"""How fast packets go that others may overtake: slow enough that a few in a row wait for milliseconds."""


@contextmanager
def lossy(segment: Segment, *, percent: int) -> Iterator[Callable[[], int]]:
    """Lose packets by chance, in every direction."""
    with _by_chance(segment, percent, "drop") as hits:
        yield hits


@contextmanager
def reordering(segment: Segment, *, percent: int) -> Iterator[Callable[[], int]]:
    """Send packets by chance through a slow queue, which all others pass by; none is lost."""
    for port in segment.ports:
        _tc(segment, "add", "dev", port, "root", "handle", "1:", "htb")
        slow = ("rate", f"{_OVERTAKEN_KBIT}kbit", "burst", "1600", "quantum", "10000")
        segment.switch.run("tc", "class", "add", "dev", port, "parent", "1:", "classid", "1:1", "htb", *slow)
        _tc(segment, "add", "dev", port, "parent", "1:1", "bfifo", "limit", "10000000")
    try:
        # The queue is chosen where a packet comes in; the mark stays with it to the port where it leaves.
        with _by_chance(segment, percent, "meta priority set 1:1") as hits:
            yield hits
    finally:
        for port in segment.ports:
            _tc(segment, "del", "dev", port, "root")


@contextmanager
def short_queue(segment: Segment, *, rate_mbit: int, limit_bytes: int) -> Iterator[Callable[[], int]]:
    """Let ports send no faster than this and drop what does not fit their short queues."""
    with _packet_by_packet(segment):
        for port in segment.ports:
            limits = ("rate", f"{rate_mbit}mbit", "burst", "10000", "limit", str(limit_bytes))
            _tc(segment, "add", "dev", port, "root", "tbf", *limits)
        try:
            yield lambda: sum(_dropped(segment, port) for port in segment.ports)
        finally:
            for port in segment.ports:
                _tc(segment, "del", "dev", port, "root")


@contextmanager
def _by_chance(segment: Segment, percent: int, action: str) -> Iterator[Callable[[], int]]:
    """Do something to some of the packets that come in at the switch's ports."""
    lines = [f"add table netdev {_TABLE}", f"add counter netdev {_TABLE} hits"]
    for port in segment.ports:
        hook = f"type filter hook ingress device {port} priority 0;"
        lines.append(f"add chain netdev {_TABLE} {port} {{ {hook} }}")
        lines.append(f"add rule netdev {_TABLE} {port} numgen random mod 100 < {percent} counter name hits {action}")
    with _packet_by_packet(segment):
        segment.switch.run("nft", "-f", "-", stdin="\n".join(lines) + "\n")
        try:
            yield lambda: _hits(segment)
        finally:
            segment.switch.run("nft", "delete", "table", "netdev", _TABLE)


@contextmanager
def _packet_by_packet(segment: Segment) -> Iterator[None]:
    """Let hosts do as with a network card: send superframes' packets one by one, and join those that arrive."""
    _offload(segment, wire=True)
    try:
        yield
    finally:
        _offload(segment, wire=False)


def _offload(segment: Segment, *, wire: bool) -> None:
    sending, receiving = ("off", "on") if wire else ("on", "off")
    for end in segment.ends:
        features = ("tx-udp-segmentation", sending, "tso", sending, "gro", receiving)
        end.host.run("ethtool", "-K", end.interface, *features)
    for port in segment.ports:
        # A veth device joins nothing where the other end could have sent it joined.
        segment.switch.run("ethtool", "-K", port, "tso", sending)


def _hits(segment: Segment) -> int:
    listing = json.loads(segment.switch.run("nft", "-j", "list", "counter", "netdev", _TABLE, "hits"))
    return sum(int(entry["counter"]["packets"]) for entry in listing["nftables"] if "counter" in entry)


def _dropped(segment: Segment, port: str) -> int:
    return sum(int(qdisc["drops"]) for qdisc in json.loads(_tc(segment, "show", "dev", port)))


def _tc(segment: Segment, verb: str, *words: str) -> str:
    return segment.switch.run("tc", "-s", "-j", "qdisc", verb, *words)
