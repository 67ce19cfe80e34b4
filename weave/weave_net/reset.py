"""`weave reset`: take away everything of ours from this host, the log aside."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import trio

from weave_net.client import QUICK_LIMIT_S, DaemonClient
from weave_net.devices import DeviceNames, stored_devices
from weave_net.errors import ClientError, StoreError, WeaveError
from weave_net.instance_lock import InstanceLock, running_pid
from weave_net.shutdown import kill_daemon, stop_daemon
from weave_net.sqlite_store import open_store
from weave_net.wiring import Wiring, production_wiring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.directories import Directories

LEAVE_LIMIT_S = 15.0
"""For the daemon to hand its addresses over."""
_DATABASE_SUFFIXES = ("", "-wal", "-shm", "-journal")


def reset_host(directories: Directories, *, force: bool, wiring: Wiring | None = None) -> Iterator[str]:
    """End the daemon, then remove devices and state; yields a line about each thing removed.

    Without `force`, raises `ClientError` unless the daemon answers: only then can it leave its network in order. With
    it, a daemon that does not answer is killed. Raises `WeaveError` and `HostError`.
    """
    if running_pid(directories.pid_file) is not None:
        yield _end_daemon(directories, force=force)
    elif directories.database.exists() and not force:
        raise ClientError(
            "weave is not running, so it cannot leave its network in order; start it with 'weave launch' and reset "
            "then, or forget everything all the same with 'weave reset --force'"
        )
    with ExitStack() as held:
        if directories.run.is_dir():
            held.enter_context(InstanceLock(directories.pid_file))  # nobody launches while we clear up
        for line in trio.run(_remove_devices, directories, wiring or production_wiring()):
            yield f"removed {line}"
        yield from _remove_files(directories)


def _end_daemon(directories: Directories, *, force: bool) -> str:
    try:
        with DaemonClient(directories, answer_limit_s=QUICK_LIMIT_S) as client:
            client.text("/healthz")
        with DaemonClient(directories, answer_limit_s=LEAVE_LIMIT_S) as client:
            client.remove_own_names()  # before others may give our addresses to containers of theirs
            heir = client.leave()
        stop_daemon(directories)
    except ClientError as error:
        if not force:
            raise ClientError(
                f"the daemon cannot leave its network in order: {error}; 'weave reset --force' kills it"
            ) from error
        kill_daemon(directories)
        return "killed the daemon"
    return "stopped the daemon" if heir is None else f"handed this host's addresses over to {heir}, stopped the daemon"


async def _remove_devices(directories: Directories, wiring: Wiring) -> list[str]:
    names = await _device_names(directories)
    removed = []
    async with wiring.open_host() as host:
        for name in await host.list_attached(names.bridge):
            if await host.remove_device(name):
                removed.append(f"container interface {name}")
        for kind, name in (("TAP", names.tap), ("VXLAN device", names.vxlan), ("bridge", names.bridge)):
            if await host.remove_device(name):
                removed.append(f"{kind} {name}")
        await host.close_vxlan(names.vxlan)
        if await host.remove_rules(names.bridge):
            removed.append("firewall rules")
    return removed


async def _device_names(directories: Directories) -> DeviceNames:
    if directories.database.exists():
        # A damaged state file is one of the reasons for a reset.
        with suppress(StoreError):
            async with open_store(directories.database) as store:
                return await stored_devices(store)
    return DeviceNames()


def _remove_files(directories: Directories) -> Iterator[str]:
    state = [directories.database.with_name(directories.database.name + suffix) for suffix in _DATABASE_SUFFIXES]
    for path in [*state, directories.docker_state]:
        if path.exists():
            try:
                path.unlink()
            except OSError as error:
                raise WeaveError(f"{path} cannot be removed: {error.strerror}") from error
            yield f"removed {path}"
    # What containers' runtimes asked for meanwhile has no object any more.
    for record in sorted(directories.cni_pending.glob("*")):
        record.unlink(missing_ok=True)
    for path in (directories.socket, directories.cni_socket):
        path.unlink(missing_ok=True)
