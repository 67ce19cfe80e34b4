"""Names of the devices that a daemon makes, kept so that `reset` finds them under whatever name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from weave_net.settings import DaemonSettings

if TYPE_CHECKING:
    from weave_router.doors import Store

KEY = "devices"
"""Where the store keeps them."""


@dataclass(frozen=True, slots=True)
class DeviceNames:
    """Bridge, TAP and VXLAN device of a daemon."""

    bridge: str = DaemonSettings.bridge
    tap: str = DaemonSettings.tap
    vxlan: str = DaemonSettings.vxlan


async def remember_devices(store: Store, names: DeviceNames) -> None:
    """Store the names. Raises `StoreError`."""
    await store.write({KEY: asdict(names)})


async def stored_devices(store: Store) -> DeviceNames:
    """The names of last time, the usual ones if there was none. Raises `StoreError`."""
    return DeviceNames(**(await store.read(KEY)).get(KEY, {}))
