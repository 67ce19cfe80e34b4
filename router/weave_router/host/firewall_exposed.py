"""Address translation between exposed subnets and the outside: a part of the table `inet weave`.

Frames that the bridge passes on come through here too where br_netfilter is on. What stays in a subnet is therefore
left alone, and so is what is for everybody on the link.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from weave_router.errors import HostError
from weave_router.host import problems
from weave_router.host.firewall_table import LIST, TABLE, chains, complaint, nft, remove_part

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network

_CHAIN = "exposed"
OBJECTS = frozenset({_CHAIN})
"""Names of what is ours in the table."""

_REMOVE = f"""add table {TABLE}
add chain {TABLE} {_CHAIN}
flush chain {TABLE} {_CHAIN}
delete chain {TABLE} {_CHAIN}
"""
"""Adding first, since there is no other way to delete what may not exist before nft 1.0.7."""


class MasqueradeRules:
    """The part. Calls block while nft runs, and must not overlap."""

    def __init__(self) -> None:
        self._made: tuple[Network, ...] | None = None
        """What is translated, as far as we know."""
        self._chain = ""
        """As nft lists it."""

    def set(self, subnets: Iterable[Network], others: frozenset[str]) -> None:
        """Translate for these subnets and no others; `others` are the names of the table's other parts."""
        wanted = tuple(subnets)
        if wanted == self._made and (not wanted or self._listed() == self._chain):
            return
        before, self._made = self._made, None
        if wanted:
            self._make(wanted)
        elif before:
            remove_part(_REMOVE, OBJECTS, others, problems.masquerade_refused)
        else:
            # An earlier daemon may have left some; without nft, or nf_tables in the kernel, it has not.
            with suppress(HostError):
                remove_part(_REMOVE, OBJECTS, others, problems.masquerade_refused)
        self._made = wanted

    def forget(self) -> None:
        """The table was removed."""
        self._made = None

    def _make(self, subnets: tuple[Network, ...]) -> None:
        try:
            done = nft(_script(subnets))
        except problems.NoNftError as error:
            raise problems.no_nft_to_masquerade() from error
        if done.returncode != 0:
            raise problems.masquerade_refused(complaint(done))
        self._chain = self._listed()

    @staticmethod
    def _listed() -> str:
        try:
            return chains(nft(LIST).stdout, OBJECTS)  # nothing if it is gone
        except problems.NoNftError as error:
            raise problems.no_nft_to_masquerade() from error


def _script(subnets: tuple[Network, ...]) -> str:
    rules = "".join(_rules(subnet) for subnet in subnets)
    return f"""{_REMOVE}table {TABLE} {{
    chain {_CHAIN} {{
        type nat hook postrouting priority srcnat; policy accept;
        ip daddr {{ 224.0.0.0/4, 255.255.255.255 }} return
        ip6 daddr {{ ff00::/8, fe80::/10 }} return
        ip6 saddr fe80::/10 return
{rules}    }}
}}
"""


def _rules(subnet: Network) -> str:
    ip = "ip" if subnet.version == 4 else "ip6"
    return (
        f"        {ip} daddr {subnet} {ip} saddr != {subnet} masquerade\n"
        f"        {ip} saddr {subnet} {ip} daddr != {subnet} masquerade\n"
    )
