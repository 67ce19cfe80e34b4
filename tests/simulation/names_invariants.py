"""What holds of names at every moment on each host, and what must be when nothing has happened for long."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from simulation.invariant import InvariantBroken
from simulation.names_ledger import in_order
from weave_dns import stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simulation.names_host import NamesHost
    from simulation.names_ledger import NameLedger
    from weave_dns.entries import Entry, Identity
    from weave_dns.table import Table


class NameInvariants:
    """Looks at hosts again and again, at those only whose table has changed."""

    def __init__(self, ledger: NameLedger) -> None:
        self._ledger = ledger
        self._seen: dict[int, tuple[Table, int, int]] = {}

    def check(self, hosts: Iterable[NamesHost]) -> None:
        """Raises `InvariantBroken`."""
        for host in hosts:
            if not host.up or host.gone:
                continue
            seen = (host.names.table, host.names.table.generation, self._ledger.revision)
            before = self._seen.get(host.number)
            if before != seen:
                self._seen[host.number] = seen
                self._ledger.check(host.number, host.own())
            if before is None or before[:2] != seen[:2]:
                _check_table(host)


def _check_table(host: NamesHost) -> None:
    entries = host.names.table.entries()
    if any(one.wire_order >= other.wire_order for one, other in pairwise(entries)):
        raise InvariantBroken(f"the table of host {host.number} is out of order")
    living = [entry for entry in entries if not entry.tombstone]
    if len({entry.identity for entry in entries}) != len(host.names.table):
        raise InvariantBroken(f"the table of host {host.number} has an identity twice")
    if len(living) != host.names.table.count_alive():
        raise InvariantBroken(f"the table of host {host.number} counts its living names wrong")
    for entry in living:
        if not host.finds(entry.identity):
            raise InvariantBroken(f"host {host.number} has {entry}, but look-ups do not find it")


def differences(hosts: Sequence[NamesHost], ledger: NameLedger) -> list[str]:
    """What hosts know that is not so, or do not know, or know otherwise than the name's own host."""
    wanted: dict[Identity, Entry] = {}
    found: list[str] = []
    for host in hosts:
        living = host.living()
        for identity in in_order(ledger.living(host.number)):
            if identity in living:
                wanted[identity] = living[identity]
            else:
                found.append(f"host {host.number} lacks its own {identity}")
    for host in hosts:
        living = host.living()
        if living != wanted:
            found += [f"host {host.number} lacks {wanted[i]}" for i in in_order(wanted.keys() - living.keys())]
            found += [f"host {host.number} has also {living[i]}" for i in in_order(living.keys() - wanted.keys())]
            common = in_order(wanted.keys() & living.keys())
            found += [
                f"host {host.number} has {living[i]}, its own host {wanted[i]}"
                for i in common
                if living[i] != wanted[i]
            ]
    return found


async def remains(host: NamesHost) -> list[str]:
    """What a host still holds of the dead and the unknown, in memory and in its store."""
    registry, table = host.names._registry, host.names.table
    dead = [entry for entry in table.entries() if entry.tombstone]
    kept = {
        "tombstones": dead,
        "times of deletions": registry._dead_since,
        "buried entries": registry._buried,
        "parked entries": registry._parked,
        "absent peers": registry._absent,
    }
    found = [f"host {host.number} holds {len(things)} {what}" for what, things in kept.items() if things]
    entries = {stored.key_of(i): table.get(i) for i in host.own()}
    records = await host.store.read(stored.PREFIX)
    bond = registry.bond
    wanted = {key: stored.to_json(e, bond(e.identity)) for key, e in entries.items() if e is not None}
    if records != wanted:
        found.append(f"host {host.number} has stored {len(records)} names other than its {len(wanted)}")
    return found
