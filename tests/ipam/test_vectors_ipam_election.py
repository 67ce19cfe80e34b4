"""Single steps of a voter, as Weave Net 2.8 took them (ipam.md section 10.3)."""

from __future__ import annotations

from typing import Any

import pytest

from vector_files import load, peer
from weave_ipam.election import NO_PROPOSAL, Claims, Election, Proposal, Voter


def read_proposal(recorded: Any) -> Proposal:
    if recorded is None:
        return NO_PROPOSAL
    proposer = recorded["proposer"]
    return Proposal(recorded["round"], Voter(peer(proposer["name"]), proposer["uid"]))


def read_claims(recorded: Any) -> dict[Voter, Claims]:
    return {
        Voter(peer(item["name"]), item["uid"]): Claims(
            read_proposal(item["promise"]),
            read_proposal(item["accepted"]),
            tuple(peer(name) for name in item["value_sorted"]),
            read_proposal(item["origin"]),
        )
        for item in recorded
    }


def as_sets(claims: dict[Voter, Claims]) -> dict[Voter, Claims]:
    """The order of names in a value is arbitrary."""
    return {
        voter: Claims(said.promise, said.accepted, tuple(sorted(said.value)), said.origin)
        for voter, said in claims.items()
    }


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{number}-{case.get('note', case['op']).replace(' ', '-')}")
        for number, case in enumerate(load("ipam/paxos_steps")["vectors"])
    ],
)
def test_step_of_a_voter(case: Any) -> None:
    quorum = case["quorum"] or None  # 0: not computed
    election = Election(Voter(peer(case["node"]["name"]), case["node"]["uid"]), quorum)
    assert election.learn(read_claims(case["before"])) == bool(case["before"])
    match case["op"]:
        case "propose":
            election.propose()
            if quorum == 1:  # section 10.3: "think at once"; that is left to the caller
                election.think()
            changed = True
        case "update":
            changed = election.learn(read_claims(case["incoming"]))
        case "think":
            changed = election.think()
        case other:
            raise AssertionError(other)
    decided = election.decided()

    assert changed == case["result"]
    assert as_sets(election.claims) == read_claims(case["after"])
    assert (sorted(decided) if decided is not None else None) == (
        None if case["consensus"] is None else sorted(peer(name) for name in case["consensus"])
    )
