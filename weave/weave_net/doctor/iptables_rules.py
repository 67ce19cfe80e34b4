"""Reads what `iptables-save` prints into the model of `packet_filter`."""

from __future__ import annotations

import shlex
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from weave_net.doctor.packet_filter import UNKNOWN, Action, Chain, Condition, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

_HOOKS = {"INPUT": "input", "FORWARD": "forward", "PREROUTING": "prerouting"}
_TARGETS = {"ACCEPT": Action.ACCEPT, "DROP": Action.DROP, "REJECT": Action.DROP, "RETURN": Action.RETURN}
_HARMLESS = frozenset({"LOG", "NFLOG", "MARK", "CONNMARK", "TRACE", "SET", "CT", "NOTRACK", "TCPMSS", "CHECKSUM"})
"""Targets after which a packet goes on to the next rule."""
_MATCHES_WITHOUT_CONDITION = frozenset({"tcp", "udp", "multiport", "conntrack", "state", "comment"})
_VALUES_OF_TARGETS = frozenset({"--reject-with", "--comment"})


def read_iptables(text: str, backend: str) -> dict[str, Chain]:
    """The chains of all tables but nat; `backend` (`nf_tables` or `legacy`) becomes part of their keys.

    What is not understood becomes an unknown condition; lines that make no sense are left out.
    """
    policies: dict[tuple[str, str], bool] = {}
    rules: dict[tuple[str, str], list[Rule]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy, *_ = [*line[1:].split(), "", ""]
            policies[table, name] = policy == "DROP"
        elif line.startswith("-A "):
            try:
                words = shlex.split(line)
            except ValueError:
                continue
            if len(words) > 1:
                rules.setdefault((table, words[1]), []).append(_rule(words[2:], f"{backend} {table} "))
    return {
        f"{backend} {table} {name}": Chain(
            f"chain {name} of the iptables table {table}" + (" (legacy)" if backend == "legacy" else ""),
            tuple(rules.get((table, name), ())),
            hook=_HOOKS.get(name, ""),
            drops=drops,
        )
        for (table, name), drops in policies.items()
        if table != "nat"
    }


def _rule(words: list[str], prefix: str) -> Rule:
    conditions: list[Condition] = []
    action: Action | None = None
    target = ""
    rest = iter(words)
    negated = False
    for word in rest:
        if word == "!":
            negated = True
            continue
        match word:
            case "-j" | "-g":
                name = next(rest, "")
                action = _TARGETS.get(name)
                if action is None and name not in _HARMLESS:
                    action, target = Action.GOTO if word == "-g" else Action.JUMP, prefix + name
                if name in _HARMLESS or name in _TARGETS:
                    break  # what follows are the target's own options
            case "-m":
                if next(rest, "") not in _MATCHES_WITHOUT_CONDITION:
                    conditions.append(UNKNOWN)
            case "--comment":
                next(rest, "")
            case "-p" | "-s" | "-d" | "-i" | "-o" | "--dport" | "--dports" | "--ctstate" | "--state":
                conditions.append(_condition(word, next(rest, ""), negated))
            case _ if word.startswith("-"):
                conditions.append(UNKNOWN)
            case _:
                pass  # the value of an option that is unknown
        negated = False
    return Rule(tuple(conditions), action, target)


def _condition(option: str, value: str, negated: bool) -> Condition:
    try:
        match option:
            case "-p":
                return UNKNOWN if value == "all" else Condition("protocol", frozenset({value}), negated=negated)
            case "-s" | "-d":
                what = "source" if option == "-s" else "destination"
                return Condition(what, networks=(IPv4Network(value, strict=False),), negated=negated)
            case "-i" | "-o":
                name = value.removesuffix("+") + "*" if value.endswith("+") else value
                return Condition("incoming" if option == "-i" else "outgoing", frozenset({name}), negated=negated)
            case "--dport" | "--dports":
                return Condition("port", ranges=tuple(_ranges(value)), negated=negated)
            case _:
                return Condition("state", frozenset(value.lower().split(",")), negated=negated)
    except ValueError:
        return UNKNOWN


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    for part in text.split(","):
        low, colon, high = part.partition(":")
        yield int(low or 0), int(high or 65535) if colon else int(low)
