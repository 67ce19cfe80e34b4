"""The reference's decisions on received topology records (mesh.md section 8.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from vector_files import load, peer
from weave_router.control.topology import Topology
from weave_router.wire.topology import Link, PeerRecord, decode_records

JUMPS = "mesh.md section 14: a record forged in our name is overtaken, else it stays in the network instead of ours"
DEVIATIONS = {"ourselves, same UID, higher version: ignored": JUMPS}


CASES: list[Any] = load("topology-merge")["cases"]


def name_of(case: Any) -> str:
    return str(case["case"]).replace(" ", "-")


@dataclass(frozen=True)
class Outcome:
    """What applying a payload did."""

    known: dict[str, PeerRecord]
    new: set[str]
    described: set[str]
    own_version: int
    announced: bool


def record_of(described: Any) -> PeerRecord:
    return PeerRecord(
        name=peer(described["name"]),
        nickname=described["nickname"],
        uid=described["uid"],
        version=described["version"],
        short_id=described["short_id"],
        links=tuple(
            sorted(
                (
                    Link(peer(link["remote"]), link["address"], link["outbound"], link["established"])
                    for link in described["connections"]
                ),
                key=lambda link: link.remote,
            )
        ),
    )


def text(name: int) -> str:
    return name.to_bytes(6).hex(":")


def sorted_links(record: PeerRecord) -> PeerRecord:
    return replace(record, links=tuple(sorted(record.links, key=lambda link: link.remote)))


def recorded(case: Any) -> Outcome:
    return Outcome(
        known={described["name"]: record_of(described) for described in case["known_after"]},
        new=set(case["new"]),
        described=set(case["described"]),
        own_version=case["own_version_after"],
        announced=case["announce_ourselves"],
    )


def observed(case: Any) -> Outcome:
    before = {described["name"]: record_of(described) for described in case["known_before"]}
    own = before.pop(case["ourselves"])
    topology = Topology(own)
    topology.merge(list(before.values()))
    assert topology.own == own
    assert own.version == case["own_version_before"]

    merge = topology.merge(list(decode_records(bytes.fromhex(case["payload"]))))

    return Outcome(
        known={text(name): sorted_links(record) for name, record in topology.records.items()},
        new={text(name) for name in merge.new},
        described={text(name) for name in merge.described},
        own_version=topology.own.version,
        announced=merge.announce,
    )


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_payload_is_read_as_recorded(case: Any) -> None:
    records = [sorted_links(record) for record in decode_records(bytes.fromhex(case["payload"]))]

    assert records == [record_of(described) for described in case["payload_decoded"]]


@pytest.mark.parametrize("case", [case for case in CASES if case["case"] not in DEVIATIONS], ids=name_of)
def test_merge_does_as_the_reference(case: Any) -> None:
    assert observed(case) == recorded(case)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_forgery_in_our_name_is_overtaken(name: str) -> None:
    """The one listed deviation, and nothing beside it: our version jumps and our record is announced."""
    (case,) = [case for case in CASES if case["case"] == name]
    forged = case["payload_decoded"][0]
    expected = recorded(case)
    own = expected.known[case["ourselves"]]

    jumped = forged["version"] + 1
    assert observed(case) == replace(
        expected,
        known=expected.known | {case["ourselves"]: replace(own, version=jumped)},
        own_version=jumped,
        announced=True,
    )
