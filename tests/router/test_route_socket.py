"""Requests over rtnetlink against a kernel that is played: whose answers count, and lists that change while read."""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from vector_files import load
from weave_router.doors import ContainerRoute
from weave_router.errors import HostError
from weave_router.host import rtnetlink_messages as rtnetlink
from weave_router.host.netlink import Netlink, explained
from weave_router.host.route_socket import RouteSocket
from weave_router.host.rtnetlink_messages import MessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MULTI, INTERRUPTED = 0x2, 0x10
UNKNOWN_OPTION = OSError(errno.ENOPROTOOPT, "Protocol not available")


def message(number: int, kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, number, 4711) + body + bytes(-len(body) % 4)


def answer(number: int, code: int = 0) -> bytes:
    return message(number, rtnetlink.NLMSG_ERROR, struct.pack("=i", -code) + bytes(16))


def thing(number: int, body: bytes, flags: int = MULTI) -> bytes:
    return message(number, rtnetlink.RTM_NEWADDR, body, flags)


def end(number: int, code: int = 0, flags: int = MULTI) -> bytes:
    return message(number, rtnetlink.NLMSG_DONE, struct.pack("=i", -code), flags)


class Kernel:
    """Stands for a netlink socket; `replies` makes the datagrams that follow the request of a number."""

    def __init__(self) -> None:
        self.replies: Callable[[int], list[bytes]] = lambda number: [answer(number)]
        self.waiting: deque[tuple[bytes, int, int]] = deque()
        self.asked: list[int] = []
        self.knows_options = True
        self.closed = False

    def bind(self, address: tuple[int, int]) -> None:
        assert address == (0, 0)

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def setsockopt(self, *_: int) -> None:
        if not self.knows_options:
            raise UNKNOWN_OPTION

    def send(self, data: bytes) -> None:
        (number,) = struct.unpack_from("=I", data, 8)
        self.asked.append(number)
        self.waiting += [(reply, 0, 0) for reply in self.replies(number)]

    def recvmsg(self, _: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        if not self.waiting:
            raise TimeoutError("timed out")
        data, flags, sender = self.waiting.popleft()
        return data, [], flags, (sender, 0)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    played = Kernel()
    monkeypatch.setattr("weave_router.host.route_socket.socket.socket", lambda *_: played)
    return played


@pytest.fixture
def route_socket(kernel: Kernel) -> Iterator[RouteSocket]:
    opened = RouteSocket()
    yield opened
    opened.close()
    assert kernel.closed


CHANGE, GET, LIST = rtnetlink.set_up(3), rtnetlink.get_link("lo"), rtnetlink.list_addresses(3)


def test_old_kernel_does_without_options(kernel: Kernel) -> None:
    kernel.knows_options = False
    RouteSocket().change(CHANGE)


def test_each_request_has_its_number(kernel: Kernel, route_socket: RouteSocket) -> None:
    for _ in range(3):
        route_socket.change(CHANGE)
    assert len(set(kernel.asked)) == 3
    assert 0 not in kernel.asked, "the number of notices"


def test_refusal_is_raised(kernel: Kernel, route_socket: RouteSocket) -> None:
    kernel.replies = lambda number: [answer(number, errno.EEXIST)]
    for ask in (lambda: route_socket.change(CHANGE), lambda: route_socket.get(GET), lambda: route_socket.dump(LIST)):
        with pytest.raises(NetlinkError) as refused:
            ask()
        assert (refused.value.code, refused.value.args[-1]) == (errno.EEXIST, "File exists")


def test_answers_to_other_requests_do_not_count(kernel: Kernel, route_socket: RouteSocket) -> None:
    kernel.replies = lambda number: []
    with pytest.raises(TimeoutError):
        route_socket.change(CHANGE)
    late = kernel.asked[-1]
    kernel.replies = lambda number: [answer(late, errno.EPERM) + answer(number)]
    route_socket.change(CHANGE)
    kernel.replies = lambda number: [thing(late, b"late"), end(late), thing(number, b"mine"), end(number)]
    assert route_socket.dump(LIST) == [b"mine"]


def test_other_senders_do_not_count(kernel: Kernel, route_socket: RouteSocket) -> None:
    def forged(number: int) -> list[bytes]:
        kernel.waiting.append((answer(number, errno.EPERM), 0, 4711))
        return [answer(number)]

    kernel.replies = forged
    route_socket.change(CHANGE)


def test_list_is_read_to_its_end(kernel: Kernel, route_socket: RouteSocket) -> None:
    kernel.replies = lambda number: [
        *(b"".join(thing(number, struct.pack("=I", 10 * i + j)) for j in range(10)) for i in range(300)),
        end(number),
    ]
    assert route_socket.dump(LIST) == [struct.pack("=I", i) for i in range(3000)]
    assert not kernel.waiting


def test_list_that_changed_meanwhile_is_read_again(kernel: Kernel, route_socket: RouteSocket) -> None:
    def replies(number: int) -> list[bytes]:
        mark = INTERRUPTED if len(kernel.asked) < 3 else 0
        return [thing(number, b"%4d" % len(kernel.asked), MULTI | mark), thing(number, b"more"), end(number)]

    kernel.replies = replies
    assert route_socket.dump(LIST) == [b"   3", b"more"]
    assert not kernel.waiting, "a list that is not read to its end is in the way of the next one"


def test_list_that_changes_all_the_time_is_given_up(kernel: Kernel, route_socket: RouteSocket) -> None:
    kernel.replies = lambda number: [thing(number, b"some"), end(number, flags=MULTI | INTERRUPTED)]
    with pytest.raises(NetlinkDumpInterrupted):
        route_socket.dump(LIST)
    assert len(kernel.asked) == 5


def test_list_that_breaks_off_is_no_list(kernel: Kernel, route_socket: RouteSocket) -> None:
    kernel.replies = lambda number: [thing(number, b"some"), end(number, errno.ENODEV)]
    with pytest.raises(NetlinkError) as refused:
        route_socket.dump(LIST)
    assert refused.value.code == errno.ENODEV


@pytest.mark.parametrize("reply", [b"short", b"\xff" * 40, b"\0" * 16], ids=["short", "too long", "no length"])
def test_garbled_answer_is_told(kernel: Kernel, route_socket: RouteSocket, reply: bytes) -> None:
    kernel.replies = lambda number: [reply]
    for ask in (lambda: route_socket.change(CHANGE), lambda: route_socket.get(GET), lambda: route_socket.dump(LIST)):
        with pytest.raises(HostError, match="cannot look: the kernel's message cannot be understood"):
            with explained("look"):
                ask()


def test_answer_that_was_cut_off_is_told(kernel: Kernel, route_socket: RouteSocket) -> None:
    kernel.replies = lambda number: []
    kernel.waiting.append((answer(1), socket.MSG_TRUNC, 0))
    with pytest.raises(MessageError, match="too long"):
        route_socket.change(CHANGE)


def test_old_kernel_that_lists_all_devices_misleads_nobody(kernel: Kernel) -> None:
    recorded = load("rtnetlink")
    kernel.replies = lambda number: [
        *(message(number, rtnetlink.RTM_NEWADDR, bytes.fromhex(text), MULTI) for text in recorded["addresses"]),
        end(number),
    ]
    with Netlink() as netlink:
        assert [str(address) for address in netlink.addresses(7)] == ["10.2.1.5/24", "10.3.0.1/32", "fd00::6/64"]
        assert netlink.addresses(8) == []


def test_route_counts_by_device_table_and_gateway(kernel: Kernel) -> None:
    recorded = load("rtnetlink")
    kernel.replies = lambda number: [
        *(message(number, rtnetlink.RTM_NEWROUTE, bytes.fromhex(text), MULTI) for text in recorded["routes IPv4"]),
        end(number),
    ]
    known = ContainerRoute(ip_network("10.8.0.0/16"), ip_address("10.2.1.1"))
    with Netlink() as netlink:
        assert netlink.has_route(7, known)
        assert netlink.has_route(7, replace(known, table=1000))
        assert not netlink.has_route(7, replace(known, table=254))
        assert not netlink.has_route(7, replace(known, gateway=None))
        assert not netlink.has_route(7, replace(known, destination=ip_network("10.8.0.0/24")))
        assert not netlink.has_route(8, known)
