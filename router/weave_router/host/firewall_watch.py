"""Noticing that somebody changes firewall rules.

The kernel tells of every change of nftables, and of iptables over it, by netlink. It tells nothing about legacy
iptables: while tables of that exist, it is time to look now and then.
"""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from weave_router.errors import HostError
from weave_router.host.firewall_forward import legacy_tables_exist
from weave_router.host.netlink import explained

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weave_router.host.firewall import Firewall
    from weave_router.host.netlink import Netlink
    from weave_router.host.netlink_thread import NetlinkThread

SETTLE_S = 0.3
"""Changes in quick succession are one."""
REST_S = 1.0
"""Between two looks: some programs change their rules all the time."""
LEGACY_POLL_S = 10.0

_NETLINK_NETFILTER = 12
_GROUPS = 1 << 6
"""NFNLGRP_NFTABLES, the seventh."""
_OUR_TABLES = (b"weave\0", b"filter\0")
"""What matters to us is in tables of these names, which each message about them contains."""
_MESSAGE_BYTES = 1 << 16


@asynccontextmanager
async def watch_rules(netlink: NetlinkThread, firewall: Firewall) -> AsyncIterator[AsyncIterator[None]]:
    """`doors.Host.watch_rules`."""
    # Opened in that thread, hence in the namespace that it works in.
    with await netlink.run(_open_socket) as notices:
        yield _Changes(firewall, notices)


class _Changes:
    """An endless iterator. A class, since an asynchronous generator that is left half way needs a hand to close it."""

    def __init__(self, firewall: Firewall, notices: socket.socket) -> None:
        self._firewall = firewall
        self._notices = notices
        self._stale = True
        """Whether to look at once; survives that a caller gives up waiting."""
        self._rested = float("-inf")
        self._next_poll = trio.current_time() + LEGACY_POLL_S

    def __aiter__(self) -> _Changes:
        return self

    async def __anext__(self) -> None:
        await trio.sleep_until(max(self._rested, trio.current_time()))
        while not self._stale:
            with trio.move_on_at(min(self._next_poll, self._firewall.look_again)):
                await trio.lowlevel.wait_readable(self._notices)
                self._stale = _drain(self._notices)
            if self._stale:
                await trio.sleep(SETTLE_S)
                _drain(self._notices)
            self._look_at_the_clock()
        self._stale = False
        self._rested = trio.current_time() + REST_S

    def _look_at_the_clock(self) -> None:
        now = trio.current_time()
        if now >= self._firewall.look_again:
            self._firewall.look_again = float("inf")  # until it is set anew
            self._stale = True
        if now >= self._next_poll:
            self._next_poll = now + LEGACY_POLL_S
            self._stale = self._stale or legacy_tables_exist()


def _open_socket(_: Netlink) -> socket.socket:
    with explained("watch the firewall's rules"):
        notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        try:
            notices.bind((0, _GROUPS))
        except OSError:
            notices.close()
            raise
    return notices


def _drain(notices: socket.socket) -> bool:
    """Whether some of what has come since may be about our rules."""
    about_us = False
    while True:
        try:
            message = notices.recv(_MESSAGE_BYTES)
            about_us = about_us or any(name in message for name in _OUR_TABLES)
        except BlockingIOError:
            return about_us
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise HostError(f"cannot watch the firewall's rules: {error.strerror}") from error
            about_us = True  # messages were lost
