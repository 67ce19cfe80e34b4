"""Rules of nftables and iptables are understood as the kernel understands them, as far as `weave doctor` needs it."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave.doctor_facts import DAEMON, FIREWALL, NETWORK, NO_DAEMON, PEER, WANTED, only, unwell
from weave_net.doctor.diagnosis_firewall import diagnose_firewall
from weave_net.doctor.findings import Finding, Verdict
from weave_net.doctor.iptables_rules import read_iptables
from weave_net.doctor.nft_ruleset import read_nft, tables_of_interest
from weave_net.doctor.packet_filter import Outcome, Packet, Ruleset

if TYPE_CHECKING:
    from weave_net.doctor.facts import FirewallFacts

SLEEVE = Packet("udp", 6783, source=IPv4Address(PEER))
VXLAN = Packet("udp", 6784, source=IPv4Address(PEER))
CONTROL = Packet("tcp", 6783, source=IPv4Address(PEER))
HOOKS = ("ingress", "prerouting", "input")
FAMILIES = ("ip", "inet", "netdev")
ACCEPTED, DROPPED, PERHAPS = Outcome.ACCEPTED, Outcome.DROPPED, Outcome.PERHAPS


def iptables(*rules: str, policy: str = "ACCEPT", forward: str = "ACCEPT", backend: str = "nf_tables") -> Ruleset:
    chains = {rule.split()[1] for rule in rules} - {"INPUT", "FORWARD"}
    lines = ["*filter", f":INPUT {policy} [0:0]", f":FORWARD {forward} [0:0]", ":OUTPUT ACCEPT [0:0]"]
    return Ruleset(
        read_iptables("\n".join([*lines, *(f":{name} - [0:0]" for name in chains), *rules, "COMMIT"]), backend)
    )


def judged(ruleset: Ruleset, packet: Packet) -> Outcome:
    return ruleset.judge(packet, HOOKS, FAMILIES)[0]


@pytest.mark.parametrize(
    ("rules", "policy", "outcome"),
    [
        ((), "ACCEPT", ACCEPTED),
        ((), "DROP", DROPPED),
        (("-A INPUT -p udp -m udp --dport 6784 -j DROP",), "ACCEPT", DROPPED),
        (("-A INPUT -p udp -m udp --dport 6784 -j REJECT --reject-with icmp-port-unreachable",), "ACCEPT", DROPPED),
        (("-A INPUT -p tcp -m tcp --dport 6784 -j DROP",), "ACCEPT", ACCEPTED),
        (("-A INPUT -p udp -m udp ! --dport 53 -j DROP",), "ACCEPT", DROPPED),
        (("-A INPUT -p udp -m multiport --dports 53,6783:6790 -j ACCEPT",), "DROP", ACCEPTED),
        (("-A INPUT -p udp -m multiport --dports 53,6785:6790 -j ACCEPT",), "DROP", DROPPED),
        (("-A INPUT -s 192.0.2.0/24 -j ACCEPT",), "DROP", ACCEPTED),
        (("-A INPUT ! -s 192.0.2.0/24 -j ACCEPT",), "DROP", DROPPED),
        (("-A INPUT -s 198.51.100.1/32 -j DROP",), "ACCEPT", ACCEPTED),
        (("-A INPUT -i lo -j ACCEPT",), "DROP", DROPPED),
        (("-A INPUT -i eth+ -j ACCEPT",), "DROP", PERHAPS),
        (("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",), "DROP", DROPPED),
        (("-A INPUT -m state --state NEW -j ACCEPT",), "DROP", ACCEPTED),
        (("-A INPUT -m limit --limit 5/sec -j ACCEPT",), "DROP", PERHAPS),
        (("-A INPUT -m limit --limit 5/sec -j DROP",), "ACCEPT", ACCEPTED),
        (('-A INPUT -m comment --comment "let all in" -j ACCEPT',), "DROP", ACCEPTED),
        (("-A INPUT -j LOG --log-prefix dropped", "-A INPUT -j DROP"), "ACCEPT", DROPPED),
        (("-A INPUT -j mine", "-A mine -p udp -j ACCEPT"), "DROP", ACCEPTED),
        (("-A INPUT -j mine", "-A mine -j RETURN", "-A mine -j DROP"), "ACCEPT", ACCEPTED),
        (("-A INPUT -j mine", "-A INPUT -j DROP", "-A mine -j RETURN"), "ACCEPT", DROPPED),
        (("-A INPUT -g mine", "-A INPUT -j ACCEPT", "-A mine -p tcp -j ACCEPT"), "DROP", DROPPED),
        (("-A INPUT -m recent --rcheck -j mine", "-A mine -j ACCEPT"), "DROP", PERHAPS),
        (("-A INPUT -m recent --rcheck -j mine", "-A mine -j DROP"), "ACCEPT", ACCEPTED),
        (("-A INPUT -j mine", "-A mine -j mine"), "DROP", DROPPED),
        (("-A INPUT -p all -j DROP",), "ACCEPT", ACCEPTED),
    ],
)
def test_iptables(rules: tuple[str, ...], policy: str, outcome: Outcome) -> None:
    assert judged(iptables(*rules, policy=policy), VXLAN) is outcome


def nft(*expressions: list[Any], policy: str = "accept", **more: Any) -> Ruleset:
    place = {"family": "inet", "table": "filter"}
    chain = {"chain": {**place, "name": "input", "type": "filter", "hook": "input", "policy": policy}}
    other = {"chain": {**place, "name": "other"}}
    named = {"set": {**place, "name": "peers", "elem": more.get("elements", [])}}
    rules = [{"rule": {**place, "chain": "input", "expr": list(each)}} for each in expressions]
    rules += [{"rule": {**place, "chain": "other", "expr": list(each)}} for each in more.get("other", ())]
    return Ruleset(read_nft({"nftables": [{"metainfo": {}}, chain, other, named, *rules]}, without_iptables=True))


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def port(protocol: str = "udp") -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": "dport"}}


SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}
ACCEPT, DROP = {"accept": None}, {"drop": None}
STATES = {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", ACCEPT], ["invalid", DROP]]}}}


@pytest.mark.parametrize(
    ("rules", "policy", "outcome"),
    [
        ([[match(port(), 6784), {"counter": {}}, DROP]], "accept", DROPPED),
        ([[match(port(), 6784), {"reject": None}]], "accept", DROPPED),
        ([[match(port("tcp"), 6784), DROP]], "accept", ACCEPTED),
        ([[match(port("th"), 6784), DROP]], "accept", DROPPED),
        ([[match(port(), {"set": [53, {"range": [6783, 6784]}]}), ACCEPT]], "drop", ACCEPTED),
        ([[match(port(), 53, "!="), ACCEPT]], "drop", ACCEPTED),
        ([[match(port("tcp"), 53, "!="), ACCEPT]], "drop", DROPPED),
        ([[match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), ACCEPT]], "drop", ACCEPTED),
        ([[match({"meta": {"key": "iifname"}}, "lo"), ACCEPT]], "drop", DROPPED),
        ([[match({"meta": {"key": "iifname"}}, "eth*"), ACCEPT]], "drop", PERHAPS),
        ([[match(SADDR, {"prefix": {"addr": "192.0.2.0", "len": 24}}), ACCEPT]], "drop", ACCEPTED),
        ([[match(SADDR, {"range": ["192.0.2.1", "192.0.2.9"]}), ACCEPT]], "drop", ACCEPTED),
        ([[match(SADDR, "192.0.2.2"), DROP]], "accept", DROPPED),
        ([[match(SADDR, "192.0.2.3"), DROP]], "accept", ACCEPTED),
        ([[match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT]], "drop", DROPPED),
        ([[match({"ct": {"key": "state"}}, "new", "in"), ACCEPT]], "drop", ACCEPTED),
        ([[STATES]], "drop", DROPPED),
        ([[STATES]], "accept", ACCEPTED),
        ([[{"limit": {"rate": 5}}, ACCEPT]], "drop", PERHAPS),
        ([[{"xt": {"type": "match", "name": "recent"}}, DROP]], "accept", ACCEPTED),
        ([[{"xt": {"type": "target", "name": "REJECT"}}]], "accept", DROPPED),
        ([[{"log": {}}, DROP]], "accept", DROPPED),
        ([[match({"meta": {"key": "mark"}}, 5), ACCEPT]], "drop", PERHAPS),
    ],
)
def test_nftables(rules: list[list[Any]], policy: str, outcome: Outcome) -> None:
    assert judged(nft(*rules, policy=policy), VXLAN) is outcome


def test_nftables_sets_maps_and_jumps() -> None:
    by_set = nft([match(SADDR, "@peers"), ACCEPT], policy="drop", elements=[{"elem": {"val": PEER}}, "10.0.0.1"])
    assert judged(by_set, VXLAN) is ACCEPTED
    ports = {"vmap": {"key": port(), "data": {"set": [[6783, ACCEPT], [6784, {"jump": {"target": "other"}}]]}}}
    assert judged(nft([ports], policy="drop"), SLEEVE) is ACCEPTED
    assert judged(nft([ports], policy="drop"), VXLAN) is DROPPED
    assert judged(nft([ports], policy="drop", other=[[ACCEPT]]), VXLAN) is ACCEPTED
    assert judged(nft([{"jump": {"target": "other"}}, DROP], other=[[DROP]]), VXLAN) is DROPPED


def test_tables_that_do_not_count() -> None:
    def table(family: str, name: str, kind: str = "filter") -> Ruleset:
        chain = {"family": family, "table": name, "name": "input", "type": kind, "hook": "input", "policy": "drop"}
        return Ruleset(read_nft({"nftables": [{"chain": chain}]}, without_iptables=True))

    assert judged(table("inet", "mine"), VXLAN) is DROPPED
    assert judged(table("inet", "weave"), VXLAN) is ACCEPTED, "our own"
    assert judged(table("ip", "filter"), VXLAN) is ACCEPTED, "read by iptables-save, which understands more of it"
    assert judged(table("ip6", "mine"), VXLAN) is ACCEPTED
    assert judged(table("inet", "mine", "nat"), VXLAN) is ACCEPTED


def test_a_chain_at_one_device_is_about_what_comes_in_there() -> None:
    place = {"family": "netdev", "table": "cut", "name": "eth0", "type": "filter", "hook": "ingress", "dev": "eth0"}
    rules = Ruleset(read_nft({"nftables": [{"chain": {**place, "policy": "drop"}}]}, without_iptables=True))
    assert judged(rules, replace(VXLAN, incoming="eth0")) is DROPPED
    assert judged(rules, replace(VXLAN, incoming="eth1")) is ACCEPTED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("match", "op", "left", "right", "set", "vmap", "payload", "jump")), inner)
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4), JSON, JSON)
def test_expressions_that_nobody_knows_do_no_harm(expressions: list[Any], left: Any, right: Any) -> None:
    judged(nft([*expressions, {"match": {"op": "==", "left": left, "right": right}}, DROP]), VXLAN)


@given(
    st.lists(
        st.sampled_from(("-p", "udp", "!", "-s", "10.0.0.0/33", "--dport", "x", "-j", "DROP", "-m", '"')), max_size=8
    )
)
def test_lines_that_nobody_knows_do_no_harm(words: list[str]) -> None:
    judged(iptables(" ".join(["-A", "INPUT", *words])), VXLAN)


# What is made of it


def firewall(*rulesets: Ruleset) -> FirewallFacts:
    return replace(FIREWALL, ruleset=Ruleset({key: chain for each in rulesets for key, chain in each.chains.items()}))


def diagnosed(*rulesets: Ruleset, **changes: Any) -> list[Finding]:
    network = replace(NETWORK, **changes)
    return list(diagnose_firewall(firewall(*rulesets), network, WANTED, DAEMON))


def test_a_firewall_that_is_not_in_the_way() -> None:
    assert unwell(diagnosed()) == []
    assert unwell(diagnosed(iptables(policy="ACCEPT"), nft(policy="accept"))) == []
    assert unwell(diagnosed(nft([match(SADDR, PEER), ACCEPT], policy="drop"))) == []
    others = nft([match(port(), 6784), match(SADDR, "203.0.113.9"), DROP])
    assert unwell(diagnosed(others)) == [], "a host that is no peer"


def test_a_rule_that_drops_the_fast_datapath() -> None:
    finding = only(diagnosed(nft([match(port(), 6784), match(SADDR, PEER), DROP])), Verdict.PROBLEM)
    assert "chain input of the nftables table inet filter" in finding.text
    assert "UDP port 6784 (the fast datapath, VXLAN) from 192.0.2.2" in finding.text
    assert "let UDP port 6784 in" in finding.advice


def test_a_policy_that_drops_everything() -> None:
    found = unwell(diagnosed(iptables("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", policy="DROP", backend="legacy")))
    assert [finding.verdict for finding in found] == [Verdict.PROBLEM] * 3
    assert "chain INPUT of the iptables table filter (legacy)" in found[0].text
    assert "TCP port 6783" in found[0].text


def test_rules_that_cannot_be_judged_are_worth_a_note() -> None:
    found = unwell(diagnosed(nft([{"limit": {"rate": 5}}, ACCEPT], policy="drop")))
    assert {finding.verdict for finding in found} == {Verdict.NOTE}
    assert "could not be judged" in found[0].text


def test_without_peers_any_host_stands_for_them() -> None:
    facts = replace(firewall(nft(policy="drop")), peers=())
    found = unwell(diagnose_firewall(facts, NETWORK, WANTED, NO_DAEMON))
    assert len(found) == 3
    assert "192.0.2.2" not in found[0].text


OURS = ("-A FORWARD -i weave -o weave -j ACCEPT", "-A FORWARD -i weave ! -o weave -j ACCEPT")
ANSWERS = "-A FORWARD -o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"


def test_forward_drops_what_containers_send_each_other() -> None:
    between = only(
        [f for f in diagnosed(iptables(forward="DROP"), bridge_calls_iptables=True) if "each other" in f.text],
        Verdict.PROBLEM,
    )
    assert "bridge-nf-call-iptables is 1" in between.text
    assert "iptables -I FORWARD -i weave -o weave -j ACCEPT" in between.advice
    silent = diagnosed(iptables(*OURS, ANSWERS, forward="DROP"), bridge_calls_iptables=True)
    assert unwell(silent) == []


def test_forward_drops_what_containers_exchange_with_the_outside() -> None:
    found = unwell(diagnosed(iptables(forward="DROP")))
    assert [finding.verdict for finding in found] == [Verdict.PROBLEM] * 2
    assert "send to the outside" in found[0].text
    assert "get as an answer" in found[1].text
    assert "get as an answer" in only(diagnosed(iptables(*OURS, forward="DROP")), Verdict.PROBLEM).text
    facts = firewall(iptables(forward="DROP"))
    unexposed = diagnose_firewall(facts, NETWORK, WANTED, replace(DAEMON, exposed=()))
    assert unwell(unexposed) == [], "nothing is routed through this host"


def test_rules_in_the_chain_that_docker_leaves_to_its_users() -> None:
    user = [rule.replace("FORWARD", "DOCKER-USER") for rule in (*OURS, ANSWERS)]
    rules = iptables("-A FORWARD -j DOCKER-USER", *user, "-A DOCKER-USER -j RETURN", forward="DROP")
    assert unwell(diagnosed(rules, bridge_calls_iptables=True)) == []


def test_tables_that_nft_prints() -> None:
    names = [("ip", "filter"), ("ip", "mine"), ("ip6", "mine"), ("inet", "weave")]
    tables = [{"table": {"family": family, "name": name, "handle": 1}} for family, name in names]
    document = json.loads(json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *tables]}))
    assert read_nft(document, without_iptables=False) == {}
    assert list(tables_of_interest(document, without_iptables=True)) == [("ip", "mine")]
    assert list(tables_of_interest(document, without_iptables=False)) == [("ip", "filter"), ("ip", "mine")]
