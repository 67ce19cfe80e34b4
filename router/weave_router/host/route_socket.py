"""Requests to the kernel over rtnetlink and its answers to them (netlink(7)), one at a time."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from weave_router.host.rtnetlink_messages import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    MessageError,
    parse,
    parse_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.host.rtnetlink_messages import Message, Request

_NETLINK_ROUTE = 0
_SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12
_ANSWER_BYTES = 32768
"""The kernel fills no larger datagram with a list (netlink_recvmsg); other answers are smaller."""
_TIMEOUT_S = 10.0
"""The kernel answers while we send; this only keeps a kernel without an answer from holding the thread for ever."""
_DUMP_ATTEMPTS = 5


class RouteSocket:
    """A rtnetlink socket of the network namespace in which it was made, for one thread at a time.

    All requests raise `NetlinkError` with the kernel's refusal, `OSError` if there is no answer, and its subclass
    `MessageError` if that cannot be understood.
    """

    def __init__(self) -> None:
        self._number = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT_S)
            # Refusals that do not repeat the request (since Linux 4.3), that say why (4.12), and lists of what was
            # asked for only (4.20). Older kernels do without.
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                with suppress(OSError):
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def change(self, request: Request) -> None:
        """Have something changed."""
        for message in self._answers(request):
            if message.kind == NLMSG_ERROR:
                _check(message)
                return

    def get(self, request: Request) -> bytes:
        """The single thing that was asked for."""
        message = next(self._answers(request))
        if message.kind == NLMSG_ERROR:
            _check(message)
            raise MessageError("it has no answer")
        return message.body

    def dump(self, request: Request) -> list[bytes]:
        """All things of a kind, as they were at one moment."""
        for _ in range(_DUMP_ATTEMPTS):
            bodies, interrupted = self._dump_once(request)
            if not interrupted:
                return bodies
        raise NetlinkDumpInterrupted

    def _dump_once(self, request: Request) -> tuple[list[bytes], bool]:
        """The things, and whether something changed meanwhile: then some may lack, or be there twice."""
        bodies: list[bytes] = []
        interrupted = False
        for message in self._answers(request):
            interrupted = interrupted or bool(message.flags & NLM_F_DUMP_INTR)
            if message.kind in (NLMSG_DONE, NLMSG_ERROR):
                _check(message)
                break
            bodies.append(message.body)
        return bodies, interrupted

    def _answers(self, request: Request) -> Iterator[Message]:
        """What the kernel says to a request; the caller knows when that is all."""
        self._number = self._number % 0xFFFFFFFF + 1
        self._socket.send(request.numbered(self._number))
        while True:
            for message in parse(self._receive()):
                if message.number == self._number:  # else late, to a request that was given up
                    yield message

    def _receive(self) -> bytes:
        while True:
            data, _, flags, sender = self._socket.recvmsg(_ANSWER_BYTES)
            if flags & socket.MSG_TRUNC:
                raise MessageError("it is too long")
            if sender[0] == 0:  # else from another process
                return data


def _check(message: Message) -> None:
    refusal = parse_refusal(message)
    if refusal.code:
        raise NetlinkError(refusal.code, refusal.text)  # type: ignore[no-untyped-call]
