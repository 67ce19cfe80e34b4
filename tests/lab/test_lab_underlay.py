"""Every byte between containers arrives as it was sent, whatever the network beneath the routers is like."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from lab.impairments import lossy, reordering, short_queue
from lab.network import Container, Host, Lab, Segment, wait_until
from lab.reports import connections
from lab.transfers import SMALLEST_DATAGRAM, Delivery, Flight, deliver, exchange

if TYPE_CHECKING:
    from pathlib import Path

CONTAINER_MTU = 1376
UDP4_HEADERS, UDP6_HEADERS = 28, 48
FOUR, SIX = ("10.2.1.1", "10.2.1.2"), ("fd00::1", "fd00::2")
"""Addresses of the first and the second container."""

Connect = Callable[..., "Pair"]

either_cipher = pytest.mark.parametrize("sealed", [False, True], ids=["plain", "password"])


@dataclass
class Pair:
    """Two hosts on a switch with one container each, which have addresses of both families."""

    hosts: tuple[Host, Host]
    containers: tuple[Container, Container]
    segment: Segment
    mtu: int
    """Of the containers."""

    def exchange(self, size: int) -> None:
        """TCP over IPv4 and over IPv6, each both ways at once."""
        one, two = self.containers
        exchange(one, two, FOUR[1], size)
        exchange(two, one, SIX[0], size)

    def deliver(self, flights: list[Flight], *, flights_per_s: float, patience_s: float = 2.0) -> list[Delivery]:
        """UDP at the same time over IPv6, over IPv4 without DF, and over IPv4 with DF as far as it fits the path."""
        one, two = self.containers
        fitting = min(self.mtu, self.path_mtu) - UDP4_HEADERS
        whole = [flight for flight in flights if flight[0] <= fitting]

        def send(way: tuple[Container, Container, str], flights: list[Flight], *, df: bool) -> Delivery:
            return deliver(*way, flights, flights_per_s=flights_per_s, df=df, patience_s=patience_s)

        with ThreadPoolExecutor() as pool:
            futures = [
                pool.submit(send, (two, one, SIX[0]), flights, df=False),
                pool.submit(send, (one, two, FOUR[1]), flights, df=False),
                pool.submit(send, (two, one, FOUR[0]), whole, df=True),
            ]
        return [future.result() for future in futures]

    @property
    def path_mtu(self) -> int:
        """The largest packet of containers that fits the underlay, as the first router found out."""
        return int(connections(self.hosts[0])[0]["MTU"])


@pytest.fixture
def connect(lab: Lab, tmp_path: Path) -> Connect:
    """Makes a connected pair."""

    def connected_pair(sealed: bool, underlay_mtu: int = 1500, mtu: int = CONTAINER_MTU) -> Pair:
        launch = ["--mtu", str(mtu)]
        if sealed:
            (tmp_path / "password").write_text("correct horse battery staple\n")
            launch += ["--password-file", str(tmp_path / "password")]
        hosts = a, b = lab.host("A"), lab.host("B")
        segment = lab.segment({a: "192.0.2.1/24", b: "192.0.2.2/24"}, mtu=underlay_mtu)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: host.weave("launch", *launch), hosts))
            b.weave("connect", segment.address_of(a))
            one, two = pool.map(lambda host, address: host.container("c", f"{address}/24"), hosts, FOUR)
        for container, address in zip((one, two), SIX, strict=True):
            container.ip("addr", "add", f"{address}/64", "dev", "ethwe", "nodad")
        wait_until(lambda: [row["State"] for row in connections(a)] == ["established"], 15, "the connection")
        wait_until(lambda: one.reaches(FOUR[1]) and two.reaches(SIX[0]), 5, "a ping")
        assert connections(a)[0]["Encrypted"] == sealed
        return Pair(hosts, (one, two), segment, mtu)

    return connected_pair


def all_sizes(mtu: int) -> list[Flight]:
    """Datagrams and superframes of every kind: tiny, filling a packet to the byte, in fragments, with a short end."""
    full4, full6 = mtu - UDP4_HEADERS, mtu - UDP6_HEADERS
    single = [SMALLEST_DATAGRAM, 17, 63, 200, 512, 999, 1190, full6, full6 + 1, full4, full4 + 1, 2700, 9000, 30_000]
    joined = [
        (100,) * 60,
        (701,) * 40 + (14,),
        (1190,) * 20 + (1189,),
        (full6,) * (60_000 // full6),
        (full6,) * 2 + (15,),
    ]
    return [(size,) for size in single] + [(200,)] * 5 + joined


MIXED: list[Flight] = [(600,), (1300,), (1000,) * 40, (2100,)]
"""At most two of these, or of their fragments, share a packet of the underlay."""


@either_cipher
@pytest.mark.parametrize(
    ("underlay_mtu", "mtu"), [(1280, CONTAINER_MTU), (1450, CONTAINER_MTU), (1500, CONTAINER_MTU), (9000, 8800)]
)
def test_every_mtu_of_the_underlay(connect: Connect, sealed: bool, underlay_mtu: int, mtu: int) -> None:
    pair = connect(sealed, underlay_mtu, mtu)
    assert underlay_mtu - 100 < pair.path_mtu < underlay_mtu - 50
    for delivery in pair.deliver(all_sizes(mtu) * 12, flights_per_s=500):
        assert (delivery.damaged, delivery.twice, delivery.lost, delivery.overtaken) == (0, 0, 0, 0)
    # At 1280 what fills a container's packet does not fit: the containers learn it, or the routers cut.
    pair.exchange(8_000_000)


@either_cipher
def test_loss(connect: Connect, sealed: bool) -> None:
    pair = connect(sealed)
    with lossy(pair.segment, percent=2) as lost:
        deliveries = pair.deliver(MIXED * 40, flights_per_s=300, patience_s=0.4)
        dropped = lost()
        assert dropped > 0
        pair.exchange(2_000_000)
    for delivery in deliveries:
        assert (delivery.damaged, delivery.twice, delivery.overtaken) == (0, 0, 0)
        assert delivery.lost > 0
    assert sum(delivery.lost for delivery in deliveries) <= 2 * dropped, "a lost packet took others with it"


@either_cipher
def test_reordering(connect: Connect, sealed: bool) -> None:
    pair = connect(sealed)
    with reordering(pair.segment, percent=10) as slowed:
        for delivery in pair.deliver(MIXED * 40, flights_per_s=300):
            assert (delivery.damaged, delivery.twice, delivery.lost) == (0, 0, 0)
            assert delivery.overtaken > 0, "the underlay did not reorder"
        assert slowed() > 0
        pair.exchange(2_000_000)


@either_cipher
def test_short_queue(connect: Connect, sealed: bool) -> None:
    pair = connect(sealed)
    with short_queue(pair.segment, rate_mbit=50, limit_bytes=100_000) as dropped:
        for delivery in pair.deliver([(600,), (2100,), (1300,)] * 50, flights_per_s=300):
            assert (delivery.damaged, delivery.twice, delivery.lost, delivery.overtaken) == (0, 0, 0, 0)
        assert dropped() == 0
        deliveries = pair.deliver([(1300,) * 45] * 50, flights_per_s=300, patience_s=0.4)
        overflow = dropped()
        assert overflow > 0
        for delivery in deliveries:
            assert (delivery.damaged, delivery.twice, delivery.overtaken) == (0, 0, 0)
            assert 0 < delivery.lost < delivery.sent
        pair.exchange(2_000_000)
        assert dropped() > overflow, "TCP did not fill the queue"


def test_df_does_not_change_the_order(connect: Connect) -> None:
    pair = connect(False)
    one, two = pair.containers
    delivery = deliver(one, two, FOUR[1], [(4000,), (200,), (1328, 1328, 15)] * 200, flights_per_s=10_000)
    assert (delivery.damaged, delivery.twice, delivery.overtaken) == (0, 0, 0)
