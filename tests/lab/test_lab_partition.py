"""A ring of four: a link is cut without anybody being told, and healed; frames arrive once or not at all."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from lab.network import Lab, wait_until
from lab.raw_frames import BROADCAST, Station
from lab.reports import counter, established, routes, whole

if TYPE_CHECKING:
    from lab.network import Host
    from lab.underlay import Underlay

LINK_TIMEOUT_S = 60.0
ROUTES_FOLLOW_S = 2.0
RETRY_CEILING_S = 30.0
HANDSHAKE_S = 3.0
"""From the attempt until everybody has been told, gossip included."""
SETTLED_S = 2.0
"""No copy of a frame may arrive later than this after a change."""
INTERVAL_S = 0.02
STEADY_S = 4.0


def ring(lab: Lab) -> tuple[list[Host], list[Underlay]]:
    """Hosts 1–2–3–4–1, each with a link to the next one only, and told only of that one."""
    hosts = [lab.host(f"H{number}") for number in range(1, 5)]
    links = []
    for number, host in enumerate(hosts):
        following = hosts[(number + 1) % 4]
        links.append(lab.link(host, f"192.0.2.{8 * number + 1}/30", following, f"192.0.2.{8 * number + 2}/30"))
    for number, (host, link) in enumerate(zip(hosts, links, strict=True)):
        peer = link.address_of(hosts[(number + 1) % 4])
        host.weave("launch", "--name", f"::{number + 1}", "--no-discovery", peer)
    wait_until(lambda: whole(hosts, 2), 30, "the ring")
    return hosts, links


class Traffic:
    """Numbered frames from the first station: broadcasts, and unicasts to the third one; a context manager."""

    def __init__(self, sender: Station, receiver: Station) -> None:
        self.sent: list[float] = []
        """When each number was sent (monotonic seconds)."""
        self._sender, self._receiver = sender, receiver
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Traffic:
        self._receiver.send(BROADCAST, 0)  # so that its address is known everywhere
        time.sleep(0.3)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            number = 2 * len(self.sent)
            self.sent.append(time.monotonic())
            self._sender.send(BROADCAST, number)
            self._sender.send(self._receiver.mac, number + 1)

    def numbers(self, first: float, last: float) -> list[int]:
        """Numbers of the broadcasts sent between two moments; the unicasts are one higher."""
        return [2 * index for index, moment in enumerate(self.sent) if first <= moment < last]


@pytest.mark.waits
def test_a_ring_loses_a_link_and_gets_it_back(lab: Lab) -> None:
    hosts, links = ring(lab)
    containers = [host.container("web", f"10.2.1.{number}/24") for number, host in enumerate(hosts, 1)]
    first, second, third, fourth = (Station(container) for container in containers)
    with first, second, third, fourth, Traffic(first, third) as traffic:
        others = [second, third, fourth]
        marks = [time.monotonic()]
        time.sleep(STEADY_S)
        marks.append(time.monotonic())

        lab.cut(links[0])
        cut = time.monotonic()
        wait_until(lambda: established(hosts[0]) == 1, LINK_TIMEOUT_S + 15, "host 1 to give up the link")
        gave_up = time.monotonic()
        assert gave_up - cut <= LINK_TIMEOUT_S + 12, "the link's timeout"
        wait_until(
            lambda: routes(hosts[0]).get("00:00:00:00:00:02") == "00:00:00:00:00:04", ROUTES_FOLLOW_S, "the way round"
        )
        wait_until(lambda: established(hosts[1]) == 1, 15, "host 2 to give up the link")
        time.sleep(SETTLED_S)
        marks.append(time.monotonic())
        time.sleep(STEADY_S)
        marks.append(time.monotonic())

        lab.heal(links[0])
        wait_until(lambda: whole(hosts, 2), RETRY_CEILING_S + HANDSHAKE_S, "the link to be back")
        time.sleep(SETTLED_S)
        marks.append(time.monotonic())
        time.sleep(STEADY_S)
        marks.append(time.monotonic())
    time.sleep(SETTLED_S)

    for begin, end in ((marks[0], marks[1]), (marks[2], marks[3]), (marks[4], marks[5])):
        steady = traffic.numbers(begin, end)
        assert len(steady) > 100
        for station in others:
            counts = station.counts(first.mac)
            assert {counts[number] for number in steady} == {1}, "a broadcast in a steady topology"
        counts = third.counts(first.mac)
        assert {counts[number + 1] for number in steady} == {1}, "a unicast in a steady topology"
    for station in others:
        assert max(station.counts(first.mac).values()) == 1, "a frame came twice while the topology changed"
        for sender, number, arrived in station.arrivals:
            if sender == first.mac:
                assert arrived - traffic.sent[number // 2] < SETTLED_S, "a frame circulated"
    assert counter(hosts[2], "frames_received") > 0
