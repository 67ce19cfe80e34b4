"""What is measured of a system: columns of figures, and the probes that fill them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.system import Bed
    from bench.traffic import Traffic


@dataclass(frozen=True)
class Column:
    """A kind of figure."""

    name: str
    """What options and JSON call it."""
    title: str
    unit: str


@dataclass(frozen=True)
class Probe:
    """One measurement, which fills one or more columns."""

    columns: tuple[Column, ...]
    measure: Callable[[Traffic, Bed], Mapping[str, float]]
    """Returns figures by the names of the columns."""
    loses_packets: bool = False
    """Whether the wires drop packets meanwhile."""


TCP_1 = Column("tcp1", "TCP, 1 stream →", "Mbit/s")
TCP_1_BACK = Column("tcp1-back", "TCP, 1 stream ←", "Mbit/s")
TCP_4 = Column("tcp4", "TCP, 4 streams →", "Mbit/s")
TCP_4_BACK = Column("tcp4-back", "TCP, 4 streams ←", "Mbit/s")
CPU = Column("cpu", "processors, 1 stream →", "s/GB")
UDP_64 = Column("udp64", "UDP, 64 B", "packets/s")
UDP_64_SENT = Column("udp64-sent", "UDP, 64 B, sent", "packets/s")
UDP_1200 = Column("udp1200", "UDP, 1200 B", "packets/s")
UDP_1200_SENT = Column("udp1200-sent", "UDP, 1200 B, sent", "packets/s")
ROUND_TRIP = Column("rtt-p50", "round trip, median", "µs")
ROUND_TRIP_99 = Column("rtt-p99", "round trip, 99 %", "µs")
LOSSLESS = Column("tcp1-lossless", "TCP, 1 stream →, no loss", "Mbit/s")
LOSSY = Column("tcp1-lossy", "TCP, 1 stream →, 1 % loss", "Mbit/s")

SENT = {UDP_64: UDP_64_SENT, UDP_1200: UDP_1200_SENT}
"""What was sent, beside what was received: where they are close, the sender is what limits."""


def _tcp(column: Column, *, streams: int = 1, back: bool = False) -> Callable[[Traffic, Bed], Mapping[str, float]]:
    def measure(traffic: Traffic, bed: Bed) -> Mapping[str, float]:
        sender, receiver = (bed.right, bed.left) if back else (bed.left, bed.right)
        result = traffic.tcp(sender, receiver, streams)
        return {column.name: result.bits_per_s / 1e6, CPU.name: result.busy_s_per_gigabyte}

    return measure


def _udp(column: Column, payload_bytes: int) -> Callable[[Traffic, Bed], Mapping[str, float]]:
    def measure(traffic: Traffic, bed: Bed) -> Mapping[str, float]:
        result = traffic.udp(bed.left, bed.right, payload_bytes)
        return {column.name: result.received_per_s, SENT[column].name: result.sent_per_s}

    return measure


def _round_trip(traffic: Traffic, bed: Bed) -> Mapping[str, float]:
    result = traffic.round_trip(bed.left, bed.right)
    return {ROUND_TRIP.name: result.p50_us, ROUND_TRIP_99.name: result.p99_us}


PROBES = (
    Probe((TCP_1, CPU), _tcp(TCP_1)),
    Probe((TCP_1_BACK,), _tcp(TCP_1_BACK, back=True)),
    Probe((TCP_4,), _tcp(TCP_4, streams=4)),
    Probe((TCP_4_BACK,), _tcp(TCP_4_BACK, streams=4, back=True)),
    Probe((UDP_64, UDP_64_SENT), _udp(UDP_64, 64)),
    Probe((UDP_1200, UDP_1200_SENT), _udp(UDP_1200, 1200)),
    Probe((ROUND_TRIP, ROUND_TRIP_99), _round_trip),
)
"""What is measured on wires without loss."""

LOSS_PROBES = (
    Probe((LOSSLESS,), _tcp(LOSSLESS)),
    Probe((LOSSY,), _tcp(LOSSY), loses_packets=True),
)
"""What is measured about loss; each system's two right after each other."""
