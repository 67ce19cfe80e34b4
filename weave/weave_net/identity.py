"""The peer name: 48 bits that this host keeps for as long as its state lasts.

Order of preference: `--name`; the stored name; the MAC of a weave bridge that is there already (a host that comes over
from Weave Net keeps its name, and with it its addresses); a hash of what tells this machine from others, so that a lost
state file does not make it a stranger; a random number.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

from weave_net.errors import StoreError
from weave_router.wire.peer_name import InvalidPeerName, format_peer_name, parse_peer_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from weave_net.host_facts import HostFacts
    from weave_router.doors import Store

KEY = "peer-name"
"""Where the store keeps it, as text."""

_SALT = b"weave-net peer name"
_LOCAL_BIT = 0x02 << 40
"""Marks an address that was not assigned by a manufacturer (IEEE 802)."""
_GROUP_BIT = 0x01 << 40
"""Marks a multicast address: never valid for a device, and the bridge gets the peer name for its MAC."""


def _as_device_address(number: int) -> int:
    return (number & ((1 << 48) - 1) | _LOCAL_BIT) & ~_GROUP_BIT


def name_of_machine(facts: HostFacts, state_dir: Path) -> int | None:
    """The name that follows from the machine and its state directory; None where the machine tells nothing.

    The directory is part of it because daemons in network namespaces share a machine.
    """
    if not facts.machine_id and not facts.machine_uuid:
        return None
    parts = (_SALT, facts.machine_id.encode(), facts.machine_uuid.encode(), bytes(state_dir))
    # Each part is preceded by its length: "ab" + "c" must differ from "a" + "bc".
    message = b"".join(len(part).to_bytes(4) + part for part in parts)
    return _as_device_address(int.from_bytes(hashlib.sha256(message).digest()[:6]))


def choose_name(
    given: int | None,
    stored: int | None,
    facts: HostFacts,
    state_dir: Path,
    *,
    random_bits: Callable[[int], int] = secrets.randbits,
) -> int:
    """The peer name by the order of preference above; `state_dir` is absolute."""
    if given is not None:
        return given
    if stored is not None:
        return stored
    left_over = _usable_mac(facts.bridge_mac)
    if left_over is not None:
        return left_over
    derived = name_of_machine(facts, state_dir)
    return _as_device_address(random_bits(48)) if derived is None else derived


async def stored_name(store: Store) -> int | None:
    """The name of last time, None on a new host. Raises `StoreError`, also for a stored text that is no name."""
    text = (await store.read(KEY)).get(KEY)
    if text is None:
        return None
    try:
        return parse_peer_name(str(text))
    except InvalidPeerName as error:
        raise StoreError(f"the state file holds no valid peer name ({error}); set one with --name") from error


async def establish_name(store: Store, given: int | None, facts: HostFacts, state_dir: Path) -> int:
    """Choose the name and store it if it is new. Raises `StoreError`."""
    stored = None if given is not None else await stored_name(store)
    name = choose_name(given, stored, facts, state_dir)
    if name != stored:
        await store.write({KEY: format_peer_name(name)})
    return name


def _usable_mac(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        mac = parse_peer_name(text)
    except InvalidPeerName:
        return None
    return None if mac & _GROUP_BIT else mac
