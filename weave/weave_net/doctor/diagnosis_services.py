"""Address allocation and names of a daemon that runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import AllocationFacts, NameFacts
    from weave_net.doctor.findings import Finding

_DEAF = re.compile(r"cannot listen at \S+: (?P<reason>.*)")
_REMEDIES = {
    "Address already in use": "another program has that port: see 'ss -lnptu sport = :53', have it listen at its own "
    "addresses only (dnsmasq: bind-interfaces), or launch with --dns-listen-address",
    "Permission denied": "ports below 1024 need root or CAP_NET_BIND_SERVICE, which a container of the daemon may lack "
    "(--cap-add NET_BIND_SERVICE); or launch with --dns-listen-address and another port",
    "Cannot assign requested address": "this host has no such address (yet): see 'ip addr'; it is tried again, or "
    "launch with another --dns-listen-address",
}
_OTHER_REMEDY = "the daemon's log may tell more; launch with another --dns-listen-address"


def diagnose_allocation(allocation: AllocationFacts | None) -> Iterator[Finding]:
    """Whether whoever asks gets an address."""
    if allocation is None:
        yield ok("addresses", "allocation is off: containers get the addresses that they are given")
        return
    yield from _conflicts(allocation)
    if allocation.quorum is not None:
        yield problem(
            "addresses",
            f"none can be allocated yet: {allocation.quorum} hosts must agree on the beginning, and this one sees "
            f"{allocation.known}",
            "see to the connections above; or tell the number of hosts at launch with --ipalloc-init consensus=NUMBER",
        )
    elif allocation.waiting_for:
        yield problem(
            "addresses",
            f"requests wait: {'; '.join(allocation.waiting_for)}",
            "'weave status ipam' shows who owns what; 'weave rmpeer' takes over what hosts that are gone own",
        )
    elif not allocation.conflicts:
        yield ok("addresses", f"can be allocated from {allocation.range}")
    for owner, size in allocation.unreachable:
        share = f", {100 * size / allocation.size:.0f} % of all" if allocation.size else ""
        yield note(
            "addresses",
            f"{owner} owns {size} addresses{share}, and is out of reach",
            f"if it is gone for good: 'weave rmpeer {owner}', on one host",
        )


def _conflicts(allocation: AllocationFacts) -> Iterator[Finding]:
    for peer, reason in allocation.conflicts:
        yield problem(
            "addresses",
            f"{peer} contradicts this host about who owns which addresses: {reason}",
            "give both the same --ipalloc-range; of networks that began apart, 'weave reset' the hosts of one",
        )


def diagnose_names(names: NameFacts | None, *, exposed: bool) -> Iterator[Finding]:
    """Whether containers can ask for names. `exposed`: the bridge has an address."""
    if names is None:
        yield ok("names", "the name server is off (--no-dns)")
        return
    clear = True
    for trouble in names.troubles:
        deaf = _DEAF.search(trouble)
        if deaf is not None:
            clear = False
            yield problem(
                "names",
                trouble,
                _REMEDIES.get(deaf["reason"], _OTHER_REMEDY),
            )
        elif names.listening:
            clear = False
            yield problem("names", trouble, "launch with a --resolv-conf that names servers for outside names")
    if not names.listening and clear:
        if exposed:
            yield problem(
                "names",
                "the name server listens nowhere, although the bridge has an address",
                "its log tells why; 'weave expose' again, or launch with --dns-listen-address",
            )
        else:
            yield note(
                "names",
                "the name server has no address to listen at yet",
                "'weave expose' gives the bridge one, and 'weave dns-args' then tells containers of it",
            )
    elif clear:
        yield ok("names", f"{names.domain} is served at {', '.join(names.listening)}")
