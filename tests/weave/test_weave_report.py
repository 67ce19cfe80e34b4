"""The report: names that scripts and dashboards read, and paths into it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from weave_net.errors import JsonPathError
from weave_net.json_path import MAX_PATH_LENGTH, parse_path, select
from weave_net.report import full_report, view_report
from weave_net.testing.statuses import SAMPLE_STATUS

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
REPORT: dict[str, Any] = full_report(SAMPLE_STATUS, "3.0.0", NOW)
ROUTER: dict[str, Any] = REPORT["Router"]

# Every name of Weave Net 2.8's Router part (cli.md 6.7).
NAMES_OF_2_8 = (
    "Protocol ProtocolMinVersion ProtocolMaxVersion Encryption PeerDiscovery Name NickName Port Peers UnicastRoutes "
    "BroadcastRoutes Connections TerminationCount Targets OverlayDiagnostics TrustedSubnets Interface CaptureStats MACs"
)


def test_names_of_2_8_are_all_there() -> None:
    assert {"Ready", "Version", "Router"} <= REPORT.keys()
    assert ROUTER.keys() >= set(NAMES_OF_2_8.split())
    assert ROUTER["Connections"][0].keys() >= {"Address", "Outbound", "State", "Info", "Attrs"}
    assert ROUTER["Peers"][0].keys() == {"Name", "NickName", "UID", "ShortID", "Version", "Connections"}
    assert ROUTER["Peers"][0]["Connections"][0] == {
        "Name": "02:00:00:00:00:02",
        "NickName": "h2",
        "Address": "10.0.0.2:6783",
        "Outbound": True,
        "Established": True,
    }
    assert ROUTER["MACs"] == [
        {
            "Mac": "7a:00:00:00:00:01",
            "Name": "02:00:00:00:00:02",
            "NickName": "h2",
            "LastSeen": "2026-01-31T11:59:57.500Z",
        }
    ]


def test_values() -> None:
    assert (REPORT["Ready"], REPORT["Version"]) == (True, "3.0.0")
    assert (ROUTER["Encryption"], ROUTER["PeerDiscovery"], ROUTER["Port"]) == (True, True, 6783)
    assert ROUTER["UID"] == 0xF000_0000_0000_0001
    assert ROUTER["UnicastRoutes"][0] == {"Dest": "02:00:00:00:00:01", "Via": "00:00:00:00:00:00"}
    assert ROUTER["BroadcastRoutes"] == [
        {"Source": "02:00:00:00:00:01", "Via": ["02:00:00:00:00:02"]},
        {"Source": "02:00:00:00:00:02", "Via": []},
    ]
    assert ROUTER["OverlayDiagnostics"] == {"sleeve": {"gso": "on", "gro": "off: kernel too old"}}
    assert ROUTER["Counters"]["frames_captured"] == 12


def test_connections() -> None:
    first, second, *_, failed = ROUTER["Connections"]
    assert first["Info"] == "encrypted   sleeve 02:00:00:00:00:02(h2)"
    assert first["Attrs"] == {"name": "sleeve", "encrypted": True, "mtu": 1414}
    assert second["Attrs"] == {
        "name": "sleeve",
        "encrypted": True,
        "cipher": "aes-256-gcm",
        "mtu": 1410,
        "rtt": "0.3ms",
        "epoch": 2,
    }
    assert (second["Cipher"], second["MTU"]) == ("aes-256-gcm", 1410)
    assert failed["Info"] == "password differs, retry: 2026-01-31 12:01:30 +0000 UTC"
    assert (failed["Attrs"], failed["Name"], failed["RetryIn"]) == ({}, None, 90.0)


def test_report_is_json() -> None:
    assert json.loads(json.dumps(REPORT)) == REPORT


def test_views() -> None:
    assert view_report("targets", SAMPLE_STATUS, "3", NOW) == list(SAMPLE_STATUS.targets)
    assert view_report("connections", SAMPLE_STATUS, "3.0.0", NOW) == ROUTER["Connections"]
    assert view_report("peers", SAMPLE_STATUS, "3.0.0", NOW) == ROUTER["Peers"]
    overview = view_report("", SAMPLE_STATUS, "3.0.0", NOW)
    assert overview["Router"]["ConnectionCount"] == 6
    assert "Peers" not in overview["Router"]


@pytest.mark.parametrize(
    ("path", "result"),
    [
        (".Version", "3.0.0"),
        (".Ready", "true"),
        (".Router.Name", "02:00:00:00:00:01"),
        (".Router.Connections[0].State", "established"),
        (".Router.Connections[-1].State", "failed"),
        (".Router.Peers[].NickName", "h1\nh2"),
        (".Router.Peers[].Connections[].Address", "10.0.0.2:6783\n10.0.0.4:6783\n10.0.0.1:50000"),
        ('.Router["NickName"]', "h1"),
        (".Router.OverlayDiagnostics[].gso", "on"),
        (".Router.Targets", json.dumps(list(SAMPLE_STATUS.targets), indent=4)),
        (".Router.Connections[3].Name", "null"),
        ("{{.Version}}", "3.0.0"),
        ("{{ .Router.Name }}", "02:00:00:00:00:01"),
        ("{{json .Router.Targets}}", json.dumps(list(SAMPLE_STATUS.targets), indent=4)),
    ],
)
def test_paths(path: str, result: str) -> None:
    assert select(REPORT, path) == result


def test_whole_document() -> None:
    assert json.loads(select(REPORT, ".")) == REPORT


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("", "no path"),
        ("Router", "no path"),
        (".Rooter", "there are: Ready, Version, Router"),
        (".Router.Peers[9]", "only 2"),
        (".Router.Name.x", "in a text"),
        (".Router.Name[]", "needs an array"),
        (".Router[0]", "there is no 0"),
        (".Router.Peers.Name", "in an array"),
        (".Router..Name", "cannot be read from"),
        (".Router.Peers[1", "cannot be read from"),
        (".Router.Port.x", "in a number"),
        ("{{range .Router.Peers}}{{.Name}}{{end}}", "no path"),
        ("." + "x" * MAX_PATH_LENGTH, "longer than"),
    ],
)
def test_bad_paths(path: str, part: str) -> None:
    with pytest.raises(JsonPathError, match=part):
        select(REPORT, path)


def test_steps() -> None:
    assert parse_path('.a[0][].b_c["d e"]') == ("a", 0, None, "b_c", "d e")
