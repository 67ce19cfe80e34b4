"""Own names as they are stored: one record each, so that a change writes what changed."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from weave_dns.entries import Bond, Entry, Identity
from weave_dns.errors import StoredStateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from weave_router.wire.peer_name import PeerName

PREFIX = "name/"


def key_of(identity: Identity) -> str:
    """The key of an own name."""
    return f"{PREFIX}{_text(identity.container)}/{identity.address}/{_text(identity.hostname)}"


def _text(text: str) -> str:
    """What peers say that we have called something once need not be text at all."""
    return quote(text, safe=":", errors="surrogateescape")


def to_json(entry: Entry, bond: Bond) -> dict[str, Any]:
    """The record."""
    return {
        "container": entry.container,
        "address": str(entry.address),
        "hostname": entry.hostname,
        "version": entry.version,
        "tombstone": entry.tombstone,
        "bond": bond.value,
    }


def from_json(values: Mapping[str, Any], ourselves: PeerName) -> list[tuple[Entry, Bond]]:
    """All records, each with what it goes with. Raises `StoredStateError`."""
    try:
        if not all(isinstance(value[field], str) for value in values.values() for field in ("container", "hostname")):
            raise TypeError("a text is none")
        return [
            (
                Entry(
                    value["container"],
                    ourselves,
                    ip_address(value["address"]),
                    value["hostname"],
                    int(value["version"]),
                    int(value["tombstone"]),
                ),
                Bond(value["bond"]),
            )
            for value in values.values()
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise StoredStateError(f"the state file holds a name that cannot be read: {error}") from error
