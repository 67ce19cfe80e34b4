"""Noticing that the addresses of the bridge change, whoever changes them.

A netlink socket of its own is told by the kernel (rtnetlink(7)). What concerns the bridge, what cannot be understood
and the loss of messages mean to look again; other devices may come and go by the hundred while containers start.
"""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from weave_router.errors import HostError
from weave_router.host import requests
from weave_router.host.netlink import explained
from weave_router.host.rtnetlink_messages import AddressNotice, MessageError, parse, parse_notice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weave_router.host.netlink import Netlink
    from weave_router.host.netlink_thread import NetlinkThread
    from weave_router.host.requests import Address

SETTLE_S = 0.05
"""At most one look in this time: addresses may come by the dozen."""

_NETLINK_ROUTE = 0
_GROUPS = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK (the bridge itself comes, goes and is renamed), RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""
_MESSAGE_BYTES = 8192
"""More than the kernel puts into one datagram, which has a single notice."""
_BUFFER_BYTES = 1 << 20
"""Room for some hundred notices, which the kernel counts with 2 to 5 KiB each: as many as come while some dozen
containers start. More mean a look that was not needed."""
_SO_RCVBUFFORCE = 33


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
        self._index: int | None = None
        """The bridge's index at the last look, None if there was no bridge."""
        self._stale = True
        """Whether something may have changed since the last look; survives that a caller gives up waiting."""

    def __aiter__(self) -> _Changes:
        return self

    async def __anext__(self) -> tuple[Address, ...]:
        while True:
            while not self._stale:
                await trio.lowlevel.wait_readable(self._notices)
                await trio.sleep(SETTLE_S)
                self._stale = _drain(self._notices, self._bridge, self._index)
            # Emptied before the look, so that a change meanwhile is noticed afterwards.
            self._index, present = await self._netlink.run(_look, self._bridge)
            self._stale = False
            if present != self._last:
                self._last = present
                return present


def _look(netlink: Netlink, bridge: str) -> tuple[int | None, tuple[Address, ...]]:
    """The bridge's index and addresses; without a bridge there are none."""
    link = netlink.find(bridge)
    if link is None or link.kind != "bridge":
        return None, ()
    return link.index, tuple(netlink.addresses(link.index))


def _open_socket(_: Netlink) -> socket.socket:
    with explained("watch the addresses of the bridge"):
        notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_ROUTE)
        try:
            with suppress(PermissionError):
                notices.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            notices.bind((0, _GROUPS))
        except OSError:
            notices.close()
            raise
    return notices


def _drain(notices: socket.socket, bridge: str, index: int | None) -> bool:
    """Take all that has been told; whether some of it may concern the bridge, which had that index."""
    concerned = False
    while True:
        try:
            data, _, flags, _ = notices.recvmsg(_MESSAGE_BYTES)
        except BlockingIOError:
            return concerned
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # messages were lost: there is something to look at all the more
                raise HostError(f"cannot watch the addresses of the bridge: {error.strerror}") from error
            concerned = True
        else:
            concerned = concerned or bool(flags & socket.MSG_TRUNC) or _concerns(data, bridge, index)


def _concerns(data: bytes, bridge: str, index: int | None) -> bool:
    try:
        for notice in map(parse_notice, parse(data)):
            if notice is None:
                continue
            known = notice.device == index
            if isinstance(notice, AddressNotice):
                if known:
                    return True
            elif known != (notice.name == bridge) or (known and notice.gone):
                return True
    except MessageError:
        return True
    return False
