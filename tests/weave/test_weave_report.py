"""The report: names that scripts and dashboards read, and paths into it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest

from vector_files import load
from weave_dns.entries import Entry
from weave_dns.status import DnsStatus
from weave_ipam.status import ElectionStatus, EntryStatus, IpamStatus
from weave_net.errors import JsonPathError
from weave_net.json_path import MAX_PATH_LENGTH, parse_path, select
from weave_net.report import full_report, view_report
from weave_net.status_views import Snapshot
from weave_net.testing.statuses import SAMPLE_STATUS
from weave_router.wire.peer_name import PeerName

NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
SNAPSHOT = Snapshot(router=SAMPLE_STATUS, ipam=None, dns=None, now=NOW, version="3.0.0")
REPORT: dict[str, Any] = full_report(SNAPSHOT)
ROUTER: dict[str, Any] = REPORT["Router"]

# Every name of Weave Net 2.8's Router part (cli.md 6.7).
NAMES_OF_2_8 = (
    "Protocol ProtocolMinVersion ProtocolMaxVersion Encryption PeerDiscovery Name NickName Port Peers UnicastRoutes "
    "BroadcastRoutes Connections TerminationCount Targets OverlayDiagnostics TrustedSubnets Interface CaptureStats MACs"
)

# What the daemons of vectors/ipam/http.json know when they are asked for the report.
PEER1, PEER2, PEER3 = (f"00:00:00:00:00:0{number}" for number in (1, 2, 3))
ONE_PEER = IpamStatus(
    text="ready",
    waiting_for=(),
    range="10.32.0.0/12",
    default_subnet="10.32.1.0/24",
    size=1 << 20,
    active=5,
    owners=(),
    entries=(EntryStatus("10.32.0.0", 1 << 20, PEER1, "h1", known=True, version=11),),
    election=None,
    pending_claims=(),
    pending_allocations=(),
    conflicts=(),
)
NO_QUORUM = replace(
    ONE_PEER,
    default_subnet="10.32.0.0/12",
    active=0,
    entries=(),
    election=ElectionStatus(observer=False, known=1, quorum=2),
    pending_claims=(("c4", "10.40.0.99", 12), ("c5", "10.40.0.98", 12)),
    pending_allocations=(("c1", "10.32.0.0/12"),),
)
TROUBLED = replace(NO_QUORUM, waiting_for=("no quorum",), conflicts=((f"{PEER2}(h2)", "other seeds"),))
TWO_SEEDS = replace(
    ONE_PEER,
    default_subnet="10.32.0.0/12",
    active=2,
    entries=(
        EntryStatus("10.32.0.0", 524288, PEER1, "h1", known=True, version=1),
        EntryStatus("10.40.0.0", 77, PEER2, "h2", known=True, version=3),
        EntryStatus("10.40.0.77", 1, PEER1, "h1", known=True, version=1),
        EntryStatus("10.40.0.78", 262066, PEER2, "h2", known=True, version=0),
        EntryStatus("10.44.0.0", 262144, PEER3, "", known=False, version=0),
    ),
    pending_allocations=(("c5", "10.44.0.0/24"),),
)
RECORDED_IPAM = {
    "one_peer_quorum_one": ONE_PEER,
    "one_elector_of_three": NO_QUORUM,
    "two_of_three_seeds_running": TWO_SEEDS,
}


def recorded_ipam(scenario: str) -> list[dict[str, Any]]:
    """The parts `IPAM` of the reports that a daemon of 2.8 gave."""
    requests = load("ipam/http")[scenario]
    found = []
    for request in requests if isinstance(requests, list) else []:
        if request["path"] == "/report" and request["status"] == 200:
            found.append(json.loads(request["body"])["IPAM"])
        elif request["path"] == "/report?format=%7B%7Bjson%20.IPAM%7D%7D":
            found.append(json.loads(request["body"]))
    return found


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
    assert view_report("targets", SNAPSHOT) == list(SAMPLE_STATUS.targets)
    assert view_report("connections", SNAPSHOT) == ROUTER["Connections"]
    assert view_report("peers", SNAPSHOT) == ROUTER["Peers"]
    overview = view_report("", SNAPSHOT)
    assert overview["Router"]["ConnectionCount"] == 6
    assert "Peers" not in overview["Router"]


def test_ipam_that_is_off_is_absent() -> None:
    assert "IPAM" not in REPORT
    assert "IPAM" not in view_report("", SNAPSHOT)
    assert view_report("ipam", SNAPSHOT) is None


@pytest.mark.parametrize(("scenario", "ipam"), RECORDED_IPAM.items(), ids=RECORDED_IPAM)
def test_ipam_is_that_of_2_8(scenario: str, ipam: IpamStatus) -> None:
    (expected,) = recorded_ipam(scenario)
    found = full_report(replace(SNAPSHOT, ipam=ipam))["IPAM"]
    ours = {"WaitingFor": found.pop("WaitingFor"), "Conflicts": found.pop("Conflicts")}
    assert json.dumps(found) == json.dumps(expected)  # the order of the keys too
    assert ours == {"WaitingFor": [], "Conflicts": []}


def test_every_recorded_ipam_is_compared() -> None:
    assert {scenario for scenario in load("ipam/http") if recorded_ipam(scenario)} == RECORDED_IPAM.keys()


def test_ipam_parts_by_the_templates_of_2_8() -> None:
    report = full_report(replace(SNAPSHOT, ipam=ONE_PEER))
    bodies = {request["path"]: request["body"] for request in load("ipam/http")["one_peer_quorum_one"]}
    assert select(report, "{{.IPAM.Range}}") == bodies["/report?format=%7B%7B.IPAM.Range%7D%7D"]
    entries = bodies["/report?format=%7B%7Bjson%20.IPAM.Entries%7D%7D"]
    assert json.loads(select(report, "{{json .IPAM.Entries}}")) == json.loads(entries)


def test_ipam_troubles() -> None:
    report = full_report(replace(SNAPSHOT, ipam=TROUBLED))
    assert report["IPAM"]["WaitingFor"] == ["no quorum"]
    assert report["IPAM"]["Conflicts"] == [{"Peer": "00:00:00:00:00:02(h2)", "Reason": "other seeds"}]
    assert json.loads(json.dumps(report)) == report


def test_ipam_observer() -> None:
    ipam = replace(NO_QUORUM, election=ElectionStatus(observer=True, known=1, quorum=2))
    assert full_report(replace(SNAPSHOT, ipam=ipam))["IPAM"]["Paxos"]["Elector"] is False


def test_ipam_views() -> None:
    snapshot = replace(SNAPSHOT, ipam=TROUBLED)
    assert view_report("ipam", snapshot) == full_report(snapshot)["IPAM"]
    assert view_report("", snapshot)["IPAM"] == {
        "Paxos": {"Elector": True, "KnownNodes": 1, "Quorum": 2},
        "Range": "10.32.0.0/12",
        "RangeNumIPs": 1 << 20,
        "ActiveIPs": 0,
        "DefaultSubnet": "10.32.0.0/12",
        "PendingClaimCount": 2,
        "PendingAllocateCount": 1,
        "ConflictCount": 1,
    }
    assert view_report("", replace(SNAPSHOT, ipam=ONE_PEER))["IPAM"]["PendingClaimCount"] == 0


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


# Names

NAMES = DnsStatus(
    ourselves=PeerName(1),
    domain="weave.local.",
    upstream=("10.99.0.41",),
    ttl=1,
    listening=("127.0.0.1:53", "[fd00::1]:53"),
    troubles=("cannot listen at 10.32.0.1:53: Address already in use",),
    entries=(
        Entry("c1", PeerName(2), ip_address("fd00::1"), "web.weave.local.", 4, 1_700_000_000),
        Entry("c1", PeerName(1), ip_address("10.32.1.1"), "Web.weave.local.", 0, 0),
        Entry("c1", PeerName(1), ip_address("10.32.1.1"), "db.weave.local.", 2, 0),
    ),
    counters={"queries": 7, "upstream_asked": 2},
)


def test_names_part() -> None:
    report = full_report(replace(SNAPSHOT, dns=NAMES))
    assert json.loads(json.dumps(report)) == report
    assert list(report["DNS"])[:5] == ["Domain", "Upstream", "Address", "TTL", "Entries"], "the names of 2.8"
    assert report["DNS"] == {
        "Domain": "weave.local.",
        "Upstream": ["10.99.0.41"],
        "Address": "127.0.0.1:53",
        "TTL": 1,
        "Entries": [
            {
                "Hostname": "db.weave.local.",
                "Origin": "00:00:00:00:00:01",
                "ContainerID": "c1",
                "Address": "10.32.1.1",
                "Version": 2,
                "Tombstone": 0,
            },
            {
                "Hostname": "Web.weave.local.",
                "Origin": "00:00:00:00:00:01",
                "ContainerID": "c1",
                "Address": "10.32.1.1",
                "Version": 0,
                "Tombstone": 0,
            },
            {
                "Hostname": "web.weave.local.",
                "Origin": "00:00:00:00:00:02",
                "ContainerID": "c1",
                "Address": "fd00::1",
                "Version": 4,
                "Tombstone": 1_700_000_000,
            },
        ],
        "Listening": ["127.0.0.1:53", "[fd00::1]:53"],
        "Troubles": ["cannot listen at 10.32.0.1:53: Address already in use"],
        "Counters": {"queries": 7, "upstream_asked": 2},
    }


def test_names_part_without_anything() -> None:
    empty = replace(NAMES, upstream=(), listening=(), troubles=(), entries=(), counters={})
    part = full_report(replace(SNAPSHOT, dns=empty))["DNS"]
    assert (part["Upstream"], part["Entries"], part["Address"]) == (None, None, ""), "2.8 has null for empty lists"
    assert (part["Listening"], part["Troubles"], part["Counters"]) == ([], [], {})


def test_names_that_are_off_are_absent() -> None:
    assert "DNS" not in REPORT
    assert "DNS" not in view_report("", SNAPSHOT)
    assert view_report("dns", SNAPSHOT) is None


def test_names_views() -> None:
    snapshot = replace(SNAPSHOT, dns=NAMES)
    assert view_report("dns", snapshot) == full_report(snapshot)["DNS"]
    overview = view_report("", snapshot)["DNS"]
    assert "Entries" not in overview
    assert overview["EntryCount"] == 2, "the living ones, as the text says"
    assert (overview["Domain"], overview["Listening"]) == ("weave.local.", ["127.0.0.1:53", "[fd00::1]:53"])
    assert view_report("", replace(SNAPSHOT, dns=replace(NAMES, entries=())))["DNS"]["EntryCount"] == 0


def test_names_by_the_template_of_2_8() -> None:
    """That of the recorded request, whose four values we give one by one."""
    report = full_report(replace(SNAPSHOT, dns=NAMES))
    recorded = load("dns/http")["one_peer"][26]["body"]
    values = [select(report, f"{{{{.DNS.{name}}}}}") for name in ("Domain", "TTL", "Address")]
    assert " ".join([*values, f"[{select(report, '.DNS.Upstream[0]')}]"]) == recorded
    assert select(report, ".DNS.Entries[].Hostname") == "db.weave.local.\nWeb.weave.local.\nweb.weave.local."
