"""Noticing which MAC addresses live at local ports of the bridge, by what the kernel tells of its table.

A netlink socket of its own is told of each change (rtnetlink(7), RTNLGRP_NEIGH). Where messages were lost, and at
first, the whole table is read. All of it happens in trio, in pieces: a container may fill the table with addresses.
"""

from __future__ import annotations

import errno
import math
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from weave_router.errors import HostError
from weave_router.host import fdb_messages, requests
from weave_router.host.bridge import require_bridge
from weave_router.host.fdb import find_index, open_route_socket
from weave_router.host.fdb_messages import Answer, Entry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weave_router.host.netlink import Netlink
    from weave_router.host.netlink_thread import NetlinkThread

SETTLE_S = 0.02
"""Changes within this time come as one."""
MAX_ADDRESSES = 4096
"""Addresses that are told; each one is told to all peers. A container could make up any number."""
READING_SHARE = 4
"""After reading the table we wait this many times as long as that took before we read it again."""
MIN_READING_INTERVAL_S = 1.0

_NEIGHBOURS = 0x4
"""RTMGRP_NEIGH."""
_NOTICE_BYTES = 8192
_PIECE_BYTES = 8192
"""Read at once of the table: some 100 entries, less than 1 ms of work."""
_NOTICES_AT_ONCE = 100
_BUFFER_BYTES = 1 << 20
"""Room for some thousand notices: the router itself changes entries by the hundred."""
_SO_RCVBUFFORCE = 33


@asynccontextmanager
async def watch_local_addresses(
    netlink: NetlinkThread, bridge: str, leave_out: frozenset[str]
) -> AsyncIterator[BridgeTable]:
    """`doors.Host.watch_local_addresses`."""
    requests.check_name(bridge)
    for device in leave_out:
        requests.check_name(device)
    notices, index = await netlink.run(_subscribe, bridge)
    with notices:
        yield BridgeTable(notices, index, leave_out)


class BridgeTable:
    """An endless iterator of changes. A call that is broken off loses nothing: the next one goes on from there."""

    def __init__(self, notices: socket.socket, bridge: int, leave_out: frozenset[str]) -> None:
        self.beyond_limit = 0
        """Appearances of addresses that were left out because there were MAX_ADDRESSES already."""
        self._notices = notices
        self._bridge = bridge
        self._leave_out = leave_out
        self._others: set[int] = set()
        """Indices that the devices left out have, or had: some are removed and made anew under their name."""
        self._present: set[bytes] = set()
        self._told: set[bytes] = set()
        self._began = False
        self._left_some_out = False
        self._removals = 0
        self._read_at = -math.inf
        """When the table may be read next, if it must; infinite if it need not."""
        self._not_before = -math.inf

    def __aiter__(self) -> BridgeTable:
        return self

    async def __anext__(self) -> tuple[frozenset[bytes], frozenset[bytes]]:
        while True:
            if self._read_at <= trio.current_time():
                await self._take_notices()
                await self._read_table()
            elif self._present == self._told:
                with trio.move_on_at(self._read_at):
                    await trio.lowlevel.wait_readable(self._notices)
                    await trio.sleep(SETTLE_S)
                await self._take_notices()
            added, removed = self._present - self._told, self._told - self._present
            if added or removed or not self._began:
                self._began = True
                self._told = set(self._present)
                return frozenset(added), frozenset(removed)

    async def _take_notices(self) -> None:
        """Apply what the kernel has told, up to what the socket's buffer holds."""
        self._find_others()
        for _ in range(_BUFFER_BYTES // _NOTICE_BYTES):
            for _ in range(_NOTICES_AT_ONCE):
                try:
                    data = self._notices.recv(_NOTICE_BYTES)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise _failed(error) from error
                    self._read_again()  # notices were lost
                    continue
                for message in fdb_messages.parse(data):
                    if isinstance(message, Entry):
                        self._apply(message)
            await trio.lowlevel.checkpoint()

    def _apply(self, entry: Entry) -> None:
        if entry.bridge != self._bridge:
            return
        if entry.added and self._is_local(entry):
            self._add(entry.mac)
            return
        self._removals += not entry.added
        self._present.discard(entry.mac)
        if self._left_some_out and len(self._present) < MAX_ADDRESSES:
            self._left_some_out = False
            self._read_again()  # for those that find room now

    def _is_local(self, entry: Entry) -> bool:
        return entry.state != fdb_messages.PERMANENT and entry.device not in self._others

    def _add(self, mac: bytes) -> None:
        if len(self._present) < MAX_ADDRESSES:
            self._present.add(mac)
        elif mac not in self._present:
            self.beyond_limit += 1
            self._left_some_out = True

    def _find_others(self) -> None:
        self._others.update(index for name in self._leave_out if (index := find_index(name)) is not None)

    def _read_again(self) -> None:
        self._read_at = self._not_before

    async def _read_table(self) -> None:
        """Read the whole table, and what has changed meanwhile."""
        began = trio.current_time()
        self._find_others()
        kept: set[bytes] = set()
        new: set[bytes] = set()
        pieces = 0
        with open_route_socket() as kernel:
            kernel.setblocking(False)
            kernel.send(fdb_messages.dump_request(bridge=self._bridge))
            while self._sort(await _receive(kernel), kept, new):
                pieces += 1
        ended = trio.current_time()
        self._not_before = ended + max(READING_SHARE * (ended - began), MIN_READING_INTERVAL_S)
        self._read_at = math.inf
        self._left_some_out = False
        self._present = kept
        for mac in new:
            self._add(mac)
        removals = self._removals
        await self._take_notices()
        if pieces > 1 and self._removals != removals:
            # Between pieces the kernel remembers its place by counting, so it may have passed some over.
            self._read_again()

    def _sort(self, data: bytes, kept: set[bytes], new: set[bytes]) -> bool:
        """Sort one piece of the table into addresses that were told before and others; False at the end."""
        for message in fdb_messages.parse(data):
            if isinstance(message, Answer):
                return False  # an error, too: the bridge is gone, and its table with it
            if message.bridge == self._bridge and self._is_local(message):
                if message.mac in self._told:
                    kept.add(message.mac)
                elif len(new) <= MAX_ADDRESSES:  # one too many, so that it is noticed
                    new.add(message.mac)
        return True


def _subscribe(netlink: Netlink, bridge: str) -> tuple[socket.socket, int]:
    index = require_bridge(netlink, bridge).index
    notices = open_route_socket(groups=_NEIGHBOURS)
    with suppress(PermissionError):
        notices.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    notices.setblocking(False)
    return notices, index


async def _receive(kernel: socket.socket) -> bytes:
    await trio.lowlevel.checkpoint()
    while True:
        try:
            return kernel.recv(_PIECE_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(kernel)
        except OSError as error:
            raise _failed(error) from error


def _failed(error: OSError) -> HostError:
    return HostError(f"cannot watch the forwarding database of the bridge: {error.strerror}; restart the router")
