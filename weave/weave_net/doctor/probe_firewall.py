"""Lists the packet filter's rules, with nft and iptables."""

from __future__ import annotations

import json
import os
import subprocess
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

from weave_net.doctor.facts import FirewallFacts, Unknown
from weave_net.doctor.iptables_rules import read_iptables
from weave_net.doctor.nft_ruleset import read_nft, tables_of_interest
from weave_net.doctor.packet_filter import Ruleset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_net.doctor.packet_filter import Chain

LIMIT_S = 3.0
"""For each program; a host with Kubernetes may have ten thousands of rules."""
_LEGACY_TABLES = Path("/proc/self/net/ip_tables_names")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def probe_firewall(peers: Iterable[str]) -> FirewallFacts | Unknown:
    """All chains, of nftables and of both kinds of iptables, and the IPv4 addresses of the peers."""
    try:
        iptables = _output("iptables-nft-save")
        native = _native(without_iptables=iptables is not None)
        legacy = _legacy()
    except subprocess.TimeoutExpired as error:
        return Unknown(f"'{' '.join(error.cmd)}' did not finish within {LIMIT_S:g} s: there are too many rules")
    if native is None and iptables is None and legacy is None:
        return Unknown("the rules cannot be listed: 'nft list ruleset' fails or nft is not installed; try it as root")
    chains = native or {}
    if iptables is not None:
        chains |= read_iptables(iptables, "nf_tables")
    if legacy is not None:
        chains |= read_iptables(legacy, "legacy")
    return FirewallFacts(ruleset=Ruleset(chains), peers=tuple(_ipv4(peers)))


def _native(*, without_iptables: bool) -> dict[str, Chain] | None:
    """The chains of nftables, table by table: those of iptables may be large, and take nft long to translate."""
    tables = _output("nft", "-j", "list", "tables")
    if tables is None:
        return None
    chains: dict[str, Chain] = {}
    for family, name in tables_of_interest(json.loads(tables), without_iptables=without_iptables):
        listing = _output("nft", "-j", "list", "table", family, name)
        if listing is not None:  # or it has just been removed
            chains |= read_nft(json.loads(listing), without_iptables=without_iptables)
    return chains


def _legacy() -> str | None:
    # Asked for only where there is something: the program would load modules and make empty tables.
    try:
        if not _LEGACY_TABLES.read_text(encoding="ascii").strip():
            return None
    except OSError:
        return None
    return _output("iptables-legacy-save") or _output("iptables-save")


def _output(*command: str) -> str | None:
    """What a program prints; None if it fails or is not there. Raises `subprocess.TimeoutExpired`."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=LIMIT_S,
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _ipv4(peers: Iterable[str]) -> Iterable[IPv4Address]:
    for peer in dict.fromkeys(peers):
        try:
            yield IPv4Address(peer)
        except AddressValueError:
            continue
