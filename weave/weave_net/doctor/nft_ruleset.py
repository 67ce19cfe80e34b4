"""Reads what `nft -j list ruleset` prints into the model of `packet_filter` (libnftables-json(5))."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from typing import TYPE_CHECKING, Any

from weave_net.doctor.packet_filter import UNKNOWN, Action, Chain, Condition, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

OUR_TABLES = frozenset({("inet", "weave"), ("bridge", "weave"), ("ip", "weave"), ("netdev", "weave")})
"""What weave made itself is not in its own way."""
IPTABLES_TABLES = frozenset({"filter", "mangle", "raw", "security", "nat"})
_FAMILIES = frozenset({"ip", "inet", "bridge", "netdev"})
_FINAL = {"accept": Action.ACCEPT, "drop": Action.DROP, "reject": Action.DROP, "return": Action.RETURN}
_HARMLESS = frozenset({"counter", "log", "comment", "mangle", "notrack", "set", "flow", "ct helper", "meter", "map"})
_FIELDS = {
    ("ip", "saddr"): "source",
    ("ip", "daddr"): "destination",
    ("ip", "protocol"): "protocol",
}
_META = {
    "iifname": "incoming",
    "iif": "incoming",
    "oifname": "outgoing",
    "oif": "outgoing",
    "l4proto": "protocol",
}

Sets = dict[tuple[str, str, str], list[Any]]


def read_nft(document: Mapping[str, Any], *, without_iptables: bool) -> dict[str, Chain]:
    """The filter chains of IPv4, ours left out; `without_iptables` leaves out tables that iptables keeps there, too."""
    entries: Sequence[Mapping[str, Any]] = document.get("nftables", ())
    sets = _sets(entries)
    chains: dict[str, Chain] = {}
    rules: dict[str, list[Rule]] = {}
    for entry in entries:
        for kind, body in entry.items():
            if kind not in ("chain", "rule"):
                continue
            family, table = body.get("family", ""), body.get("table", "")
            if not _is_of_interest(family, table, without_iptables=without_iptables):
                continue
            key = f"{family} {table} "
            if kind == "rule":
                found = _rules(body.get("expr", ()), key, (family, table), sets)
                rules.setdefault(key + body["chain"], []).extend(found)
            elif body.get("type", "filter") == "filter":
                chains[key + body["name"]] = Chain(
                    f"chain {body['name']} of the nftables table {family} {table}",
                    hook=body.get("hook", ""),
                    family=family,
                    device=body["dev"] if isinstance(body.get("dev"), str) else "",
                    drops=body.get("policy") == "drop",
                )
    return {key: replace(chain, rules=tuple(rules.get(key, ()))) for key, chain in chains.items()}


def tables_of_interest(document: Mapping[str, Any], *, without_iptables: bool) -> Iterator[tuple[str, str]]:
    """Family and name of the tables whose chains `read_nft` would take, from `nft -j list tables`."""
    for entry in document.get("nftables", ()):
        table = entry.get("table", {})
        family, name = table.get("family", ""), table.get("name", "")
        if _is_of_interest(family, name, without_iptables=without_iptables):
            yield family, name


def _is_of_interest(family: str, table: str, *, without_iptables: bool) -> bool:
    iptables = without_iptables and family == "ip" and table in IPTABLES_TABLES
    return family in _FAMILIES and (family, table) not in OUR_TABLES and not iptables


def _sets(entries: Iterable[Mapping[str, Any]]) -> Sets:
    found: Sets = {}
    for entry in entries:
        for kind in ("set", "map"):
            body = entry.get(kind)
            if body is not None:
                found[body.get("family", ""), body.get("table", ""), body.get("name", "")] = list(body.get("elem", ()))
    return found


def _rules(expressions: Iterable[Any], key: str, place: tuple[str, str], sets: Sets) -> Iterator[Rule]:
    """One rule; a verdict map becomes a rule for each of its elements."""
    conditions: list[Condition] = []
    for expression in expressions:
        if not isinstance(expression, dict) or not expression:
            conditions.append(UNKNOWN)
            continue
        name, found = next(iter(expression.items()))
        body: dict[str, Any] = found if isinstance(found, dict) else {}
        if name == "match":
            conditions += _match(body, place, sets)
        elif name == "vmap":
            yield from _map(conditions, body, key, place, sets)
        elif name == "xt" and body.get("type") == "target":
            action = Action.DROP if body.get("name") in ("REJECT", "DROP") else None
            yield Rule(tuple(conditions), action)
        elif name in _FINAL or name in ("jump", "goto"):
            yield _final(conditions, name, body, key)
        elif name not in _HARMLESS:
            conditions.append(UNKNOWN)


def _final(conditions: Iterable[Condition], name: str, body: Any, key: str) -> Rule:
    if name in ("jump", "goto"):
        return Rule(tuple(conditions), Action(name), key + str(body.get("target", "")))
    return Rule(tuple(conditions), _FINAL[name])


def _map(
    conditions: list[Condition], body: Mapping[str, Any], key: str, place: tuple[str, str], sets: Sets
) -> Iterator[Rule]:
    data = body.get("data")
    if isinstance(data, dict):
        data = data.get("set", ())
    elif isinstance(data, str):
        data = sets.get((*place, data.removeprefix("@")), ())
    for pair in data or ():
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], dict) or not pair[1]:
            continue
        name, target = next(iter(pair[1].items()))
        if name not in _FINAL and not isinstance(target, dict):
            continue
        found = _match({"op": "==", "left": body.get("key"), "right": pair[0]}, place, sets)
        if name in _FINAL or name in ("jump", "goto"):
            yield _final([*conditions, *found], name, target, key)


def _match(body: Mapping[str, Any], place: tuple[str, str], sets: Sets) -> tuple[Condition, ...]:
    """The conditions that one match stands for."""
    operator, left = body.get("op", "=="), body.get("left")
    if operator not in ("==", "!=", "in") or not isinstance(left, dict) or not left:
        return (UNKNOWN,)
    kind, what = next(iter(left.items()))
    if not isinstance(what, dict):
        return (UNKNOWN,)
    values = _values(body.get("right"), place, sets)
    negated = operator == "!="
    try:
        if kind == "ct" and what.get("key") == "state":
            return (Condition("state", frozenset(map(str, values)), negated=negated),)
        if kind == "meta" and what.get("key") in _META:
            return (Condition(_META[what["key"]], frozenset(map(str, values)), negated=negated),)
        if kind == "payload":
            return _payload(what, values, negated=negated)
    except (ValueError, TypeError, KeyError):
        pass
    return (UNKNOWN,)


def _payload(what: Mapping[str, Any], values: Sequence[Any], *, negated: bool) -> tuple[Condition, ...]:
    protocol, name = what.get("protocol", ""), what.get("field", "")
    if name == "dport":
        port = Condition("port", ranges=tuple(map(_range, values)), negated=negated)
        return (port,) if protocol == "th" else (Condition("protocol", frozenset({protocol})), port)
    field = _FIELDS.get((protocol, name))
    if field is None:
        return (UNKNOWN,)
    if field == "protocol":
        return (Condition(field, frozenset(map(str, values)), negated=negated),)
    networks = tuple(network for value in values for network in _networks(value))
    return (Condition(field, networks=networks, negated=negated),)


def _values(right: Any, place: tuple[str, str], sets: Sets) -> list[Any]:
    if isinstance(right, str) and right.startswith("@"):
        right = sets.get((*place, right[1:]), [])
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    values = right if isinstance(right, list) else [right]
    return [value["elem"]["val"] if isinstance(value, dict) and "elem" in value else value for value in values]


def _range(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        low, high = value["range"]
        return int(low), int(high)
    return int(value), int(value)


def _networks(value: Any) -> Iterator[IPv4Network]:
    if isinstance(value, dict) and "prefix" in value:
        yield IPv4Network((value["prefix"]["addr"], value["prefix"]["len"]), strict=False)
    elif isinstance(value, dict):
        low, high = value["range"]
        yield from summarize_address_range(IPv4Address(low), IPv4Address(high))
    else:
        yield IPv4Network(value)
