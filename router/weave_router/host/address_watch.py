"""Noticing that the addresses of the bridge change, whoever changes them.

A netlink socket of its own is told by the kernel (rtnetlink(7)). What it is told is not read: any message, and also
the loss of messages, means to look again.
"""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from weave_router.errors import HostError
from weave_router.host import requests
from weave_router.host.bridge_address import addresses_if_there
from weave_router.host.netlink import explained

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weave_router.host.netlink import Netlink
    from weave_router.host.netlink_thread import NetlinkThread
    from weave_router.host.requests import Address

SETTLE_S = 0.05
"""At most one look in this time: other devices come and go by the hundred while containers start."""

_NETLINK_ROUTE = 0
_GROUPS = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK (the bridge itself comes, goes and is renamed), RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""
_MESSAGE_BYTES = 8192
"""More than the kernel puts into one datagram; what is cut off is not missed."""


@asynccontextmanager
async def watch_addresses(netlink: NetlinkThread, bridge: str) -> AsyncIterator[AsyncIterator[tuple[Address, ...]]]:
    """`doors.Host.watch_addresses`."""
    requests.check_name(bridge)
    # Opened in that thread, hence in the namespace that it works in.
    with await netlink.run(_open_socket) as notices:
        yield _Changes(netlink, bridge, notices)


class _Changes:
    """An endless iterator. A class, since an asynchronous generator that is left half way needs a hand to close it."""

    def __init__(self, netlink: NetlinkThread, bridge: str, notices: socket.socket) -> None:
        self._netlink = netlink
        self._bridge = bridge
        self._notices = notices
        self._last: tuple[Address, ...] | None = None
        self._stale = True
        """Whether something may have changed since the last look; survives that a caller gives up waiting."""

    def __aiter__(self) -> _Changes:
        return self

    async def __anext__(self) -> tuple[Address, ...]:
        while True:
            if not self._stale:
                await trio.lowlevel.wait_readable(self._notices)
                await trio.sleep(SETTLE_S)
                self._stale = True
                _drain(self._notices)
            # Emptied before the look, so that a change meanwhile is noticed afterwards.
            present = await self._look()
            self._stale = False
            if present != self._last:
                self._last = present
                return present

    async def _look(self) -> tuple[Address, ...]:
        return await self._netlink.run(addresses_if_there, self._bridge)


def _open_socket(_: Netlink) -> socket.socket:
    with explained("watch the addresses of the bridge"):
        notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_ROUTE)
        try:
            notices.bind((0, _GROUPS))
        except OSError:
            notices.close()
            raise
    return notices


def _drain(notices: socket.socket) -> None:
    while True:
        try:
            notices.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # messages were lost: there is something to look at all the more
                raise HostError(f"cannot watch the addresses of the bridge: {error.strerror}") from error
