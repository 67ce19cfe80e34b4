"""Status views against golden texts: scripts read their columns."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from weave_net.status_views import VIEWS, connections, overview, peers, targets
from weave_net.testing.statuses import SAMPLE_STATUS
from weave_router.status import ConnectionStatus, RouterStatus

NOW = datetime(2026, 1, 31, 13, 0, 0, tzinfo=timezone(timedelta(hours=1)))
ALONE = RouterStatus(name="02:00:00:00:00:01", nickname="h1", uid=1, port=6783, encryption=False, discovery=False)


def test_overview() -> None:
    assert overview(SAMPLE_STATUS, "3.0.0") == (
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
    for line in overview(SAMPLE_STATUS, "3.0.0").splitlines():
        assert not line or line.index(":") == 15, line


def test_overview_of_a_lonely_router() -> None:
    assert overview(ALONE, "3.0.0") == (
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
    assert "Protocol: weave 1..2\n" in overview(replace(ALONE, protocol_min=1), "3.0.0")


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


def test_what_peers_say_cannot_forge_lines() -> None:
    bad = replace(SAMPLE_STATUS.connections[0], nickname="x\n-> 1.2.3.4\x1b[2J")
    status = replace(SAMPLE_STATUS, connections=(bad,), nickname="a\nb")
    assert connections(status, NOW).count("\n") == 1
    assert "\x1b" not in connections(status, NOW)
    assert "a\nb" not in overview(status, "3")


def test_every_view_answers() -> None:
    for view in VIEWS.values():
        assert view(SAMPLE_STATUS, NOW)
