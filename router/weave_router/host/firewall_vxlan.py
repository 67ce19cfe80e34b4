"""Who may send VXLAN packets to this host: a part of the table `inet weave`.

VXLAN packets are believed as they come, whoever sends them, so only established peers are let in. The rules are
made in one transaction, in place of what an earlier daemon left; later only the sets change. No rule of others is
touched, and none of ours overrules a drop of theirs.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from weave_router.host import problems
from weave_router.host.firewall_table import (
    LIST,
    TABLE,
    chains,
    complaint,
    is_missing,
    nft,
    remove_part,
)
from weave_router.host.heartbeat_socket import ETHERTYPE

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEARTBEATS, _DATA = "vxlan_peers", "vxlan_data"
OBJECTS = frozenset({_HEARTBEATS, _DATA, "input", "vxlan"})
"""Names of what is ours in the table."""

_INNER_ETHERTYPE = "@th,224,16"
"""Behind 8 bytes of UDP, 8 of VXLAN and the two inner MAC addresses."""
_REMOVE = f"""add table {TABLE}
add chain {TABLE} input
flush chain {TABLE} input
add chain {TABLE} vxlan
flush chain {TABLE} vxlan
delete chain {TABLE} input
delete chain {TABLE} vxlan
add set {TABLE} {_HEARTBEATS} {{ type ipv4_addr; }}
delete set {TABLE} {_HEARTBEATS}
add set {TABLE} {_DATA} {{ type ipv4_addr; }}
delete set {TABLE} {_DATA}
"""
"""Adding first, since there is no other way to delete what may not exist before nft 1.0.7."""
_ELEMENTS = re.compile(r"elements = \{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the rules let in."""

    port: int
    heartbeats: frozenset[IPv4Address]
    data: frozenset[IPv4Address]


class VxlanRules:
    """The part. Calls block while nft runs, and must not overlap."""

    def __init__(self) -> None:
        self._made: Allowed | None = None
        """What our rules let in, as far as we know."""
        self._chains = ""
        """As nft lists them, less the counts."""

    def allow(self, wanted: Allowed) -> None:
        """`doors.Host.allow_vxlan`."""
        made, self._made = self._made, None
        if made is None or made.port != wanted.port or not self._change(made, wanted):
            _require_nft(_script(wanted))
            self._chains = chains(nft(LIST).stdout, OBJECTS)
        self._made = wanted

    def repair(self) -> None:
        """Put back what others removed of our rules, if there are any."""
        if self._made is not None:
            self.allow(self._made)

    def allowed(self) -> frozenset[IPv4Address]:
        """`doors.Host.vxlan_allowed`."""
        done = nft(f"list set {TABLE} {_DATA}\n")
        if done.returncode != 0:
            if is_missing(done):
                return frozenset()
            raise problems.nft_refused(complaint(done))
        elements = _ELEMENTS.search(done.stdout)
        return frozenset(map(IPv4Address, re.findall(r"[0-9.]+", elements[1]))) if elements else frozenset()

    def remove(self, others: frozenset[str]) -> None:
        """Remove our rules, if there are any; `others` are the names of the table's other parts."""
        self._made = None
        with suppress(problems.NoNftError):  # without nft there is no table
            remove_part(_REMOVE, OBJECTS, others, problems.nft_refused)

    def forget(self) -> None:
        """The table was removed."""
        self._made = None

    def _change(self, made: Allowed, wanted: Allowed) -> bool:
        """Change the elements of the sets; False if others have changed the rules, or removed what was to go."""
        script = LIST
        for name, old, new in (
            (_HEARTBEATS, made.heartbeats, wanted.heartbeats),
            (_DATA, made.data, wanted.data),
        ):
            if old - new:
                script += f"delete element {TABLE} {name} {_braced(old - new)}\n"
            if new:
                # All of them: those that are there are no error, and those that somebody removed come back.
                script += f"add element {TABLE} {name} {_braced(new)}\n"
        done = nft(script)
        if done.returncode != 0 and not is_missing(done):
            raise problems.nft_refused(complaint(done))
        return done.returncode == 0 and chains(done.stdout, OBJECTS) == self._chains


def _script(wanted: Allowed) -> str:
    return f"""{_REMOVE}table {TABLE} {{
    set {_HEARTBEATS} {{ type ipv4_addr; {_initial(wanted.heartbeats)} }}
    set {_DATA} {{ type ipv4_addr; {_initial(wanted.data)} }}
    chain input {{
        type filter hook input priority filter; policy accept;
        udp dport {wanted.port} jump vxlan
    }}
    chain vxlan {{
        ip saddr @{_DATA} accept
        ip saddr @{_HEARTBEATS} {_INNER_ETHERTYPE} {ETHERTYPE:#x} accept
        counter drop
    }}
}}
"""


def _initial(addresses: frozenset[IPv4Address]) -> str:
    return f"elements = {_braced(addresses)};" if addresses else ""


def _braced(addresses: Iterable[IPv4Address]) -> str:
    return "{ " + ", ".join(str(address) for address in sorted(addresses)) + " }"


def _require_nft(script: str) -> None:
    done = nft(script)
    if done.returncode != 0:
        raise problems.nft_refused(complaint(done))
