"""Status views against golden texts: scripts read their columns."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest

from vector_files import load
from weave_dns.entries import Entry
from weave_dns.status import DnsStatus
from weave_ipam.status import IpamStatus, OwnerStatus
from weave_net.status_views import VIEWS, Snapshot, connections, ipam, names, overview, peers, targets
from weave_net.testing.statuses import SAMPLE_STATUS
from weave_router.status import ConnectionStatus, PeerLinkStatus, PeerStatus, RouterStatus
from weave_router.wire.peer_name import PeerName

NOW = datetime(2026, 1, 31, 13, 0, 0, tzinfo=timezone(timedelta(hours=1)))
ALONE = RouterStatus(name="02:00:00:00:00:01", nickname="h1", uid=1, port=6783, encryption=False, discovery=False)

# Weave Net 2.8's daemons of vectors/ipam/http.json: what they know when asked, in the order of the requests.
PEER1, PEER2, PEER3 = (f"00:00:00:00:00:0{number}" for number in (1, 2, 3))
LONELY = PeerStatus(PEER1, "h1", 1, 1, 1, ())
NODE = RouterStatus(
    name=PEER1,
    nickname="h1",
    uid=1,
    port=6783,
    encryption=False,
    discovery=True,
    protocol_min=1,
    peers=(LONELY,),
)
NAMES = DnsStatus(
    ourselves=PeerName(1),
    domain="weave.local.",
    upstream=("192.0.2.53", "2001:db8::53"),
    ttl=1,
    listening=("10.32.0.1:53",),
    troubles=(),
    entries=(Entry("c1", PeerName(1), IPv4Address("10.32.1.1"), "One.weave.local."),),
    counters={"queries": 7},
)
NODE_OF_TWO = replace(
    NODE,
    connections=(ConnectionStatus(address="10.0.0.2:6783", outbound=True, state="established", peer=PEER2),),
    peers=(
        replace(LONELY, connections=(PeerLinkStatus(PEER2, "h2", "10.0.0.2:6783", outbound=True, established=True),)),
        PeerStatus(
            PEER2, "h2", 2, 2, 1, (PeerLinkStatus(PEER1, "h1", "10.0.0.1:5000", outbound=False, established=True),)
        ),
    ),
)
IDLE = IpamStatus(
    text="idle",
    waiting_for=(),
    range="10.32.0.0/12",
    default_subnet="10.32.0.0/12",
    size=1 << 20,
    active=0,
    owners=(),
    entries=(),
    election=None,
    pending_claims=(),
    pending_allocations=(),
    conflicts=(),
)
OF_TWO = replace(
    IDLE,
    text="waiting for IP(s) to become available",
    active=2,
    owners=(
        OwnerStatus(PEER1, "h1", 524289, known=True),
        OwnerStatus(PEER2, "h2", 262143, known=True),
        OwnerStatus(PEER3, "", 262144, known=False),
    ),
)
AFTER_LEAVE = replace(
    IDLE,
    text="all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead",
    default_subnet="10.32.1.0/24",
    active=5,
    owners=(OwnerStatus("00:00:00:00:00:00", "", 1 << 20, known=False),),
)
AWAITING = replace(IDLE, text="awaiting consensus (quorum: 2, known: 1)")
RECORDED_OVERVIEWS: dict[str, list[tuple[RouterStatus, IpamStatus | None]]] = {
    "one_elector_of_three": [(NODE, IDLE), (NODE, AWAITING)],
    "observer_alone": [(NODE, replace(IDLE, text="priming"))],
    "two_of_three_seeds_running": [(NODE_OF_TWO, OF_TWO)],
    "ipam_disabled": [(NODE, None)],
}
RECORDED_VIEWS: dict[str, list[IpamStatus]] = {
    "one_peer_quorum_one": [
        IDLE,
        replace(IDLE, active=5, owners=(OwnerStatus(PEER1, "h1", 1 << 20, known=True),)),
        AFTER_LEAVE,
    ],
    "one_elector_of_three": [AWAITING],
    "two_of_three_seeds_running": [
        OF_TWO,
        replace(
            OF_TWO,
            active=3,
            owners=(OwnerStatus(PEER1, "h1", 786433, known=True), OwnerStatus(PEER2, "h2", 262143, known=True)),
        ),
    ],
}
DEVIATIONS = {("ipam_disabled", "/status/ipam"): "2.8 answers 500; the API says 404 and why"}


def recorded(path: str) -> dict[str, list[str]]:
    """The bodies of the successful answers to this path, by scenario."""
    found: dict[str, list[str]] = {}
    scenarios: dict[str, Any] = {name: part for name, part in load("ipam/http").items() if isinstance(part, list)}
    for scenario, requests in scenarios.items():
        for request in requests:
            if request["path"] == path:
                if request["status"] == 200:
                    found.setdefault(scenario, []).append(request["body"])
                else:
                    assert (scenario, path) in DEVIATIONS
    return found


def snapshot(
    router: RouterStatus, ipam: IpamStatus | None = None, version: str = "3.0.0", dns: DnsStatus | None = None
) -> Snapshot:
    return Snapshot(router=router, ipam=ipam, dns=dns, now=NOW, version=version)


def test_overview() -> None:
    assert overview(snapshot(SAMPLE_STATUS)) == (
        "        Version: 3.0.0\n"
        "\n"
        "        Service: router\n"
        "       Protocol: weave 2\n"
        "           Name: 02:00:00:00:00:01(h1)\n"
        "     Encryption: enabled\n"
        "  PeerDiscovery: enabled\n"
        "        Targets: 3\n"
        "    Connections: 6 (2 established, 1 pending, 1 retrying, 1 failed, 1 connecting)\n"
        "          Peers: 2 (with 2 established, 1 pending connections)\n"
        " TrustedSubnets: 10.0.0.0/24, 10.0.1.0/24\n"
    )


def test_overview_labels_are_right_aligned_to_fifteen_characters() -> None:
    for line in overview(snapshot(SAMPLE_STATUS)).splitlines():
        assert not line or line.index(":") == 15, line


def test_overview_of_a_lonely_router() -> None:
    assert overview(snapshot(ALONE)) == (
        "        Version: 3.0.0\n"
        "\n"
        "        Service: router\n"
        "       Protocol: weave 2\n"
        "           Name: 02:00:00:00:00:01(h1)\n"
        "     Encryption: disabled\n"
        "  PeerDiscovery: disabled\n"
        "        Targets: 0\n"
        "    Connections: 0\n"
        "          Peers: 0\n"
        " TrustedSubnets: none\n"
    )


def test_protocol_range() -> None:
    assert "Protocol: weave 1..2\n" in overview(snapshot(replace(ALONE, protocol_min=1)))


@pytest.mark.parametrize("scenario", recorded("/status"))
def test_overview_is_that_of_2_8(scenario: str) -> None:
    for (router, status), body in zip(RECORDED_OVERVIEWS[scenario], recorded("/status")[scenario], strict=True):
        assert overview(snapshot(router, status, "unreleased (version check update disabled)")) == body


def test_overview_after_leaving_is_that_of_2_8() -> None:
    text = overview(snapshot(NODE, AFTER_LEAVE, "unreleased (version check update disabled)"))
    assert text == load("ipam/http")["status_after_leave"]


def test_targets() -> None:
    assert targets(SAMPLE_STATUS) == "10.0.0.2\nh3.example:7000\n10.0.0.9\n"
    assert targets(ALONE) == ""


def test_connections() -> None:
    assert connections(SAMPLE_STATUS, NOW) == (
        "-> 10.0.0.2:6783         established encrypted   sleeve 02:00:00:00:00:02(h2) mtu=1414\n"
        "<- 10.0.0.3:41234        established encrypted   sleeve 02:00:00:00:00:03(h3)"
        " cipher=aes-256-gcm mtu=1410 rtt=0.3ms epoch=2\n"
        "-> 10.0.0.4:6783         pending     unencrypted none   02:00:00:00:00:04(h4)"
        " (no UDP packet has arrived; is port 6783 open?)\n"
        "-> 10.0.0.5:6783         connecting\n"
        "-> 10.0.0.6:6783         retrying    connection refused\n"
        "-> 10.0.0.9:6783         failed      password differs, retry: 2026-01-31 12:01:30 +0000 UTC\n"
    )


def test_connections_without_a_password_say_nothing_of_encryption() -> None:
    plain = replace(SAMPLE_STATUS.connections[0], encrypted=False, cipher="")
    status = replace(SAMPLE_STATUS, encryption=False, connections=(plain,))
    assert connections(status, NOW) == "-> 10.0.0.2:6783         established sleeve 02:00:00:00:00:02(h2) mtu=1414\n"


def test_attributes_are_told_once() -> None:
    crowded = replace(SAMPLE_STATUS.connections[0], attrs={"name": "sleeve", "encrypted": "true", "mtu": "1414"})
    text = connections(replace(SAMPLE_STATUS, connections=(crowded,)), NOW)
    assert text.endswith("(h2) mtu=1414\n")


def test_failed_connection_without_a_known_reason() -> None:
    failed = ConnectionStatus(address="10.0.0.9:6783", outbound=True, state="failed", retry_in=0.0)
    text = connections(replace(ALONE, connections=(failed,)), NOW)
    assert text == "-> 10.0.0.9:6783         failed      retry: 2026-01-31 12:00:00 +0000 UTC\n"


def test_peers() -> None:
    assert peers(SAMPLE_STATUS) == (
        "02:00:00:00:00:01(h1)\n"
        "   -> 10.0.0.2:6783         02:00:00:00:00:02(h2)                 established\n"
        "   -> 10.0.0.4:6783         02:00:00:00:00:04(h4)                 pending\n"
        "02:00:00:00:00:02(h2)\n"
        "   <- 10.0.0.1:50000        02:00:00:00:00:01(h1)                 established\n"
    )


@pytest.mark.parametrize("scenario", recorded("/status/ipam"))
def test_ipam_is_that_of_2_8(scenario: str) -> None:
    for status, body in zip(RECORDED_VIEWS[scenario], recorded("/status/ipam")[scenario], strict=True):
        assert ipam(status, PEER1) == body


def test_ipam_columns() -> None:
    owners = (
        OwnerStatus(PEER1, "h1", 1, known=True),
        OwnerStatus(PEER2, "a-nickname-longer-than-its-column", 42991, known=True),
    )
    assert ipam(replace(IDLE, owners=owners), PEER1) == (
        "00:00:00:00:00:01(h1)                        1 IPs (00.0% of total) (0 active)\n"
        "00:00:00:00:00:02(a-nickname-longer-than-its-column)    42991 IPs (04.1% of total) \n"
    )


def test_ipam_of_a_peer_that_owns_nothing_says_active_of_nobody() -> None:
    assert "active" not in ipam(OF_TWO, "00:00:00:00:00:09")


def test_ipam_troubles_stand_below_the_lines_of_2_8() -> None:
    troubled = replace(
        OF_TWO,
        waiting_for=("no free address of 10.44.0.0/24 here", "all addresses of 10.32.0.0/30 are in use"),
        conflicts=((f"{PEER2}(h2)", "received update for IP range I own"),),
    )
    assert ipam(troubled, PEER1) == ipam(OF_TWO, PEER1) + (
        "\n"
        "waiting: no free address of 10.44.0.0/24 here\n"
        "waiting: all addresses of 10.32.0.0/30 are in use\n"
        "conflict with 00:00:00:00:00:02(h2): received update for IP range I own\n"
    )


def test_ipam_without_a_ring_tells_what_is_waited_for() -> None:
    assert ipam(replace(IDLE, waiting_for=("no quorum",)), PEER1) == "\nwaiting: no quorum\n"


def test_ipam_that_is_off() -> None:
    assert ipam(None, PEER1) == ""


def test_what_peers_say_cannot_forge_lines() -> None:
    bad = replace(SAMPLE_STATUS.connections[0], nickname="x\n-> 1.2.3.4\x1b[2J")
    status = replace(SAMPLE_STATUS, connections=(bad,), nickname="a\nb")
    assert connections(status, NOW).count("\n") == 1
    assert "\x1b" not in connections(status, NOW)
    assert "a\nb" not in overview(snapshot(status))
    evil = "x\n\x1b[2J"
    text = ipam(
        replace(
            IDLE, owners=(OwnerStatus(PEER2, evil, 4, known=True),), waiting_for=(evil,), conflicts=((evil, evil),)
        ),
        PEER1,
    )
    assert text.count("\n") == 4
    assert "\x1b" not in text


def test_every_view_answers() -> None:
    for view in VIEWS.values():
        assert view(snapshot(SAMPLE_STATUS, OF_TWO, dns=NAMES))


def test_the_view_of_ipam_knows_who_we_are() -> None:
    assert VIEWS["ipam"](snapshot(NODE, OF_TWO)) == ipam(OF_TWO, PEER1)


# Names


def entry(container: str, address: str, name: str, *, origin: int = 1, tombstone: int = 0) -> Entry:
    return Entry(container, PeerName(origin), ip_address(address), name, 0, tombstone)


LONG = "0123456789abcdef0123456789abcdef"
RECORDED_NAMES = {
    14: (
        entry("c2", "10.32.1.2", "weave.local."),
        entry("c1", "10.32.1.1", "foo.weave.local."),
        entry("c1", "10.32.1.1", "Bar.weave.local."),
        entry("c1", "0.0.0.0", "six.weave.local."),
        entry(LONG, "10.32.1.3", "a-rather-long-name.sub.weave.local."),
    ),
    18: (
        entry("c1", "10.32.1.1", "foo.weave.local.", tombstone=1),
        entry("c2", "10.32.1.2", "weave.local."),
        entry("c1", "10.32.1.1", "Bar.weave.local.", tombstone=1),
        entry("c1", "0.0.0.0", "six.weave.local."),
        entry(LONG, "10.32.1.3", "a-rather-long-name.sub.weave.local."),
    ),
    25: (entry("c1", "10.32.1.1", "foo.weave.local.", tombstone=1),),
}
"""What the daemon of vectors/dns/http.json knew at these requests."""


@pytest.mark.parametrize("number", RECORDED_NAMES)
def test_names_are_those_of_2_8(number: int) -> None:
    case = load("dns/http")["one_peer"][number]
    assert (case["path"], names(replace(NAMES, entries=RECORDED_NAMES[number]))) == ("/status/dns", case["body"])


def test_overview_of_names_is_that_of_2_8_and_ours_below() -> None:
    status = replace(
        NAMES,
        upstream=("10.99.0.41",),
        listening=("127.0.0.1:53",),
        entries=(*RECORDED_NAMES[14][:1], *RECORDED_NAMES[14][3:4], *RECORDED_NAMES[25]),
    )
    router = replace(NODE, peers=(LONELY,))
    recorded = load("dns/http")["one_peer"][23]["body"]
    text = overview(snapshot(router, None, "unreleased (version check update disabled)", status))
    assert text == f"{recorded}      Listening: 127.0.0.1:53\n"


def test_overview_of_names_in_trouble() -> None:
    troubles = ("cannot listen at 10.32.0.1:53: Address already in use", "/etc/resolv.conf: No such file")
    status = replace(NAMES, upstream=(), listening=(), troubles=troubles, entries=())
    text = overview(snapshot(NODE, OF_TWO, dns=status))
    assert text.endswith(
        "  DefaultSubnet: 10.32.0.0/12\n"
        "\n"
        "        Service: dns\n"
        "         Domain: weave.local.\n"
        "       Upstream: none\n"
        "            TTL: 1\n"
        "        Entries: 0\n"
        "      Listening: none\n"
        "        Trouble: cannot listen at 10.32.0.1:53: Address already in use\n"
        "        Trouble: /etc/resolv.conf: No such file\n"
    )


def test_overview_of_names_lists_all_addresses() -> None:
    status = replace(NAMES, listening=("10.32.0.1:53", "[fd00::1]:53"))
    text = overview(snapshot(NODE, dns=status))
    assert "       Upstream: 192.0.2.53, 2001:db8::53\n" in text
    assert "      Listening: 10.32.0.1:53, [fd00::1]:53\n" in text


def test_names_columns_and_order() -> None:
    """By name without letter case, then peer, container and address; addresses are numbers."""
    entries = [
        entry("c1", "10.32.1.10", "web.weave.local."),
        entry("c1", "10.32.1.9", "WEB.weave.local."),
        entry("c0", "10.32.1.1", "web.weave.local.", origin=2),
        entry("c1", "fd00::1234:5678:9abc:def0", "Db.weave.local."),
        entry("weave:extern", "10.2.1.1", "web.other."),
    ]
    lines = names(replace(NAMES, entries=tuple(entries))).splitlines()
    assert lines == [
        "Db           fd00::1234:5678:9abc:def0           c1 00:00:00:00:00:01",
        "web.other.   10.2.1.1        weave:extern 00:00:00:00:00:01",
        "WEB          10.32.1.9                 c1 00:00:00:00:00:01",
        "web          10.32.1.10                c1 00:00:00:00:00:01",
        "web          10.32.1.1                 c0 00:00:00:00:00:02",
    ]


def test_names_of_other_peers_cannot_forge_lines() -> None:
    evil = "x\n\x1b[2J"
    text = names(replace(NAMES, entries=(entry(evil, "10.32.1.1", f"{evil}.weave.local."),)))
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_names_that_are_off() -> None:
    assert names(None) == ""
    assert "dns" not in overview(snapshot(NODE, OF_TWO))


def test_the_view_of_names() -> None:
    assert VIEWS["dns"](snapshot(NODE, dns=NAMES)) == names(NAMES) != ""
