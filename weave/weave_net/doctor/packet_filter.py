"""Would this host's packet filter let a packet through? A model of netfilter's chains, and a walk through them.

Rules come from nftables or from iptables; what cannot be told of them is an unknown condition. The walk is lenient:
a rule that drops only perhaps is passed over, so that rate limits and the like raise no false alarm.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ipaddress import IPv4Address, IPv4Network

MAX_DEPTH = 32
"""Chains that jump to chains; the kernel allows 16."""


class Action(StrEnum):
    """What a rule does with a packet that it matches; a rule without action only counts or marks."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"


class Outcome(StrEnum):
    """What becomes of a packet."""

    ACCEPTED = "accepted"
    DROPPED = "dropped"
    PERHAPS = "perhaps"
    """Dropped unless a rule accepts it whose conditions are not understood."""


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet, as far as it is known; None is something that rules may ask and nobody can tell."""

    protocol: str
    """`tcp`, `udp`, or another name."""
    port: int | None = None
    """Destination port."""
    source: IPv4Address | None = None
    destination: IPv4Address | None = None
    incoming: str | None = None
    """Interface; None for some interface that is not the loopback."""
    outgoing: str | None = None
    state: str = "new"
    """Of connection tracking."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a rule: the packet's `what` is, or is not, among the values."""

    what: str
    """`protocol`, `port`, `source`, `destination`, `incoming`, `outgoing`, `state`; anything else is unknown."""
    texts: frozenset[str] = frozenset()
    """Protocols, states, or interfaces (a name that ends in `*` stands for all that begin so)."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Of ports, both ends included."""
    networks: tuple[IPv4Network, ...] = ()
    negated: bool = False

    def holds(self, packet: Packet) -> bool | None:
        """Whether it is true of the packet; None if nobody can tell."""
        found = self._found(packet)
        return None if found is None else found is not self.negated

    def _found(self, packet: Packet) -> bool | None:
        match self.what:
            case "protocol":
                return packet.protocol in self.texts
            case "state":
                return packet.state in self.texts
            case "port":
                port = packet.port
                return None if port is None else any(low <= port <= high for low, high in self.ranges)
            case "source":
                return _within(packet.source, self.networks)
            case "destination":
                return _within(packet.destination, self.networks)
            case "incoming":
                return _is_interface(packet.incoming, self.texts)
            case "outgoing":
                return _is_interface(packet.outgoing, self.texts)
            case _:
                return None


UNKNOWN = Condition("unknown")


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of a chain."""

    conditions: tuple[Condition, ...] = ()
    action: Action | None = None
    target: str = ""
    """Of JUMP and GOTO: the key of another chain."""

    def matches(self, packet: Packet) -> bool | None:
        """Whether it is about the packet; None if nobody can tell."""
        unsure = False
        for condition in self.conditions:
            holds = condition.holds(packet)
            if holds is False:
                return False
            unsure |= holds is None
        return None if unsure else True


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; `hook` is empty for those that are only jumped to."""

    name: str
    """As an operator would write it, such as `chain input of table inet filter`."""
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    """`input`, `forward`, `prerouting`, `ingress`, …"""
    family: str = "ip"
    """`ip`, `inet`, `bridge` or `netdev`."""
    device: str = ""
    """Of an ingress chain."""
    drops: bool = False
    """Whether its policy is to drop."""


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All chains that a host has, by a key that rules use as target."""

    chains: Mapping[str, Chain] = field(default_factory=dict)

    def judge(self, packet: Packet, hooks: Iterable[str], families: Iterable[str]) -> tuple[Outcome, str]:
        """The outcome at these hooks, and the name of the chain that is to blame, if any."""
        hooks, families = set(hooks), set(families)
        worst = (Outcome.ACCEPTED, "")
        for chain in self.chains.values():
            if chain.hook not in hooks or chain.family not in families:
                continue
            if chain.device and packet.incoming not in (None, chain.device):
                continue
            outcome = _Walk(self.chains, packet).outcome(chain)
            if outcome is Outcome.DROPPED:
                return outcome, chain.name
            if outcome is Outcome.PERHAPS and worst[0] is Outcome.ACCEPTED:
                worst = (outcome, chain.name)
        return worst


class _Walk:
    """One packet's way through one base chain."""

    def __init__(self, chains: Mapping[str, Chain], packet: Packet) -> None:
        self._chains = chains
        self._packet = packet
        self._perhaps_accepted = False

    def outcome(self, chain: Chain) -> Outcome:
        end = self._through(chain, sure=True, depth=0)
        if end is None:
            end = Action.DROP if chain.drops else Action.ACCEPT
        if end is Action.ACCEPT:
            return Outcome.ACCEPTED
        return Outcome.PERHAPS if self._perhaps_accepted else Outcome.DROPPED

    def _through(self, chain: Chain, *, sure: bool, depth: int) -> Action | None:
        """ACCEPT or DROP if that is certain, None if the packet comes out at the end."""
        if depth > MAX_DEPTH:
            return None
        for rule in chain.rules:
            matches = rule.matches(self._packet)
            if matches is False or rule.action is None:
                continue
            certain = sure and matches is True
            match rule.action:
                case Action.RETURN:
                    if certain:
                        return None
                case Action.JUMP | Action.GOTO:
                    target = self._chains.get(rule.target)
                    end = None if target is None else self._through(target, sure=certain, depth=depth + 1)
                    if end is not None and certain:
                        return end
                    if rule.action is Action.GOTO and certain:
                        return None
                case Action.ACCEPT:
                    if certain:
                        return Action.ACCEPT
                    self._perhaps_accepted = True
                case Action.DROP:
                    if certain:
                        return Action.DROP
                    if matches is True:  # nothing after it in a chain that is entered perhaps
                        return None
        return None


def _within(address: IPv4Address | None, networks: Iterable[IPv4Network]) -> bool | None:
    return None if address is None else any(address in network for network in networks)


def _is_interface(name: str | None, patterns: Iterable[str]) -> bool | None:
    if name is None:
        # Some interface, but not the loopback.
        return False if set(patterns) == {"lo"} else None
    return any(name.startswith(text[:-1]) if text.endswith("*") else name == text for text in patterns)
