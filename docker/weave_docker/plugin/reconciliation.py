"""At start: bringing the plugin's state, the daemon's attachments and its allocator into agreement.

| what does not fit | what is done |
|---|---|
| an endpoint whose attachment is gone, as after a reboot | it is forgotten |
| an attachment of Docker's that the state does not know | it is taken up |
| a holder in the allocator that the state does not know: a crash | it is released |
| the same, but the state was lost: containers may use it | it is taken up |
| an address of the state that the allocator does not know | it is claimed again |
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from weave_docker.plugin.daemon_api import HOLDER_PREFIX, NOT_FOUND
from weave_docker.plugin.errors import BadRequest, DaemonRefused
from weave_docker.plugin.pools import pool_of_id
from weave_docker.plugin.state import Endpoint, Held, State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from weave_docker.plugin.daemon_api import Daemon
    from weave_docker.plugin.pools import Interface
    from weave_docker.plugin.state_file import StateFile

_log = logging.getLogger(__name__)


async def reconcile(states: StateFile, daemon: Daemon) -> None:
    """Once, before requests are served. Raises `DaemonRefused` and `StateError`."""
    attachments = await daemon.attachments()
    try:
        held: dict[str, Interface] | None = await daemon.held()
    except DaemonRefused as error:
        if error.status != NOT_FOUND:
            raise
        held = None  # allocation is off
    lost = states.recovering

    def agree(state: State) -> State:
        state = replace(state, endpoints=agreed_endpoints(state.endpoints, attachments))
        return with_adopted(state, held) if lost and held else state

    state = await states.change(agree)
    if held is not None:
        await _agree_with_allocator(state, held, daemon)


def agreed_endpoints(
    known: Mapping[str, Endpoint], attachments: Mapping[str, Mapping[str, Any]]
) -> dict[str, Endpoint]:
    """The endpoints that have an attachment."""
    gone = sorted(known.keys() - attachments.keys())
    if gone:
        _log.info("%d endpoints of Docker have gone: %s", len(gone), ", ".join(name[:12] for name in gone[:10]))
    return {
        endpoint_id: known.get(endpoint_id)
        or Endpoint(str(entry.get("network", "")), tuple(entry.get("addresses", ())), joined=True)
        for endpoint_id, entry in attachments.items()
    }


def with_adopted(state: State, held: Mapping[str, Interface]) -> State:
    """After the state was lost: what the allocator holds for Docker is used by somebody."""
    adopted = 0
    for holder, address in held.items():
        pool_id, _, kind = holder.removeprefix(HOLDER_PREFIX).rpartition(":")
        try:
            pool_of_id(pool_id)
        except BadRequest:
            continue
        if pool_id not in state.pools:
            state = state.with_pool(pool_id)
        record = Held((pool_id,), holder, reserved=kind.startswith("reserved-"))
        state = state.with_changed_address(str(address.ip), record)
        adopted += 1
    if adopted:
        _log.warning("The Docker plugin's state was lost; %d addresses of Docker are taken over as used", adopted)
    return state


async def _agree_with_allocator(state: State, held: Mapping[str, Interface], daemon: Daemon) -> None:
    known = {record.holder: (ip, record) for ip, record in state.addresses.items() if record.holder is not None}
    for holder in held.keys() - known.keys():
        _log.info("%s is released: the request for it was not completed", holder)
        try:
            await daemon.release(holder)
        except DaemonRefused as error:
            _log.warning("%s could not be released: %s", holder, error)
    for holder in known.keys() - held.keys():
        ip, record = known[holder]
        pool = pool_of_id(record.pools[0])
        try:
            await daemon.claim(holder, pool.interface(pool.read_address(ip)))
        except DaemonRefused as error:
            _log.warning("%s is used by Docker and is not its own: %s", ip, error)
