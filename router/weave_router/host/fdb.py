"""Forwarding databases of the VXLAN device and of the bridge, as synchronous operations for the netlink thread.

Changes go to the kernel in batches. It answers those that failed, and the last of each batch, when it has done them
all; so there is nothing to wait for in between.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from typing import TYPE_CHECKING

from weave_router.doors import VxlanEntry
from weave_router.host import fdb_messages, problems, requests
from weave_router.host.fdb_messages import Answer, Entry, Request
from weave_router.host.netlink import explained, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from weave_router.errors import HostError
    from weave_router.host.netlink import Netlink

NETLINK_ROUTE = 0
_BATCH = 128
"""Requests sent at once. If all fail, their answers still fit the usual receive buffer of 208 KiB."""
_ANSWER_BYTES = 32768
_TIMEOUT_S = 10.0
"""The kernel answers while we send; this only keeps a kernel without an answer from holding the thread for ever."""
_SIOCGIFHWADDR = 0x8927
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10


def program_vxlan(
    _: Netlink,
    device: str,
    bridge: str,
    remove: Sequence[VxlanEntry],
    add: Sequence[VxlanEntry],
    unlearn: Sequence[bytes],
    learn: Sequence[bytes],
    tap: str | None,
) -> int:
    """`doors.Host.program_vxlan`; returns how many messages were sent."""
    requests.check_programming(device, bridge, (*remove, *add), (*unlearn, *learn), tap)
    index = find_index(device)
    if index is None:
        raise problems.no_device(device)
    own = _hardware_address(bridge)
    tap_index = None if tap is None else find_index(tap)
    changes = [fdb_messages.remove_entry(index, entry) for entry in remove]
    changes += [fdb_messages.add_entry(index, entry) for entry in add]
    for mac in unlearn:
        changes.append(fdb_messages.unlearn(index, mac))
        if tap_index is not None:
            changes.append(fdb_messages.unlearn(tap_index, mac))
    changes += [fdb_messages.learn(index, mac) for mac in learn if mac != own]
    _apply(changes, device, bridge)
    return len(changes)


def pin(port: int, device: str, bridge: str, mac: str) -> None:
    """Have the bridge find a container's address at its port, for as long as that is there.

    So it needs no frame to be known, does not age, and no other container can claim it.
    """
    _apply([fdb_messages.learn(port, bytes.fromhex(mac.replace(":", "")))], device, bridge)


def forget_behind(_: Netlink, bridge: str, port_device: str, macs: Sequence[bytes]) -> int:
    """`doors.Host.forget_behind`; returns how many messages were sent."""
    requests.check_programming(port_device, bridge, (), macs, None)
    index = find_index(port_device)
    if index is None:
        return 0
    _apply([fdb_messages.unlearn(index, mac) for mac in macs], port_device, bridge)
    return len(macs)


def adopt(index: int, device: str, bridge: str) -> tuple[VxlanEntry, ...]:
    """The entries of a VXLAN device that was there; the bridge forgets what is learned there without such an entry."""
    found: list[VxlanEntry] = []
    learned: set[bytes] = set()
    for entry in _dump(index):
        learned_outside = bool(entry.flags & fdb_messages.EXT_LEARNED)
        if entry.bridge is not None:
            if entry.state != fdb_messages.PERMANENT:
                learned.add(entry.mac)
        elif entry.remote is not None:
            found.append(VxlanEntry(entry.mac, entry.remote, learned_outside))
    stale = learned - {entry.mac for entry in found}
    _apply([fdb_messages.unlearn(index, mac) for mac in sorted(stale)], device, bridge)
    return tuple(found)


def open_route_socket(*, groups: int = 0) -> socket.socket:
    """An rtnetlink socket of the calling thread's namespace, subscribed to these groups (RTMGRP_…)."""
    with explained("open a netlink socket"):
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        try:
            opened.bind((0, groups))
        except OSError:
            opened.close()
            raise
    return opened


def find_index(device: str) -> int | None:
    """The index of a device of the calling thread's namespace, if there is such a device."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return None


def _hardware_address(bridge: str) -> bytes:
    with open_route_socket() as kernel:
        request = struct.pack("16s24x", bridge.encode())
        try:
            return fcntl.ioctl(kernel, _SIOCGIFHWADDR, request)[18:24]
        except OSError as error:
            raise problems.no_bridge(bridge) from error


def _apply(changes: Sequence[Request], device: str, bridge: str) -> None:
    """Make the changes in order; the first refusal that means anything is raised when all have been tried."""
    if not changes:
        return
    refused: list[HostError] = []
    with open_route_socket() as kernel, explained(f"change the forwarding entries of {device}"):
        kernel.settimeout(_TIMEOUT_S)
        kernel.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # else each refusal repeats what was asked
        for start in range(0, len(changes), _BATCH):
            batch = changes[start : start + _BATCH]
            for number, code in _exchange(kernel, batch):
                gone = batch[number].kind == fdb_messages.RTM_DELNEIGH and code == errno.ENOENT
                if not gone and code != errno.EEXIST:
                    refused.append(_refusal(code, device, bridge))
    if refused:
        raise refused[0]


def _exchange(kernel: socket.socket, batch: Sequence[Request]) -> Iterator[tuple[int, int]]:
    """Send requests, numbered from 0; the numbers and error codes of those that failed."""
    last = len(batch) - 1
    kernel.send(b"".join(request.numbered(i, answered=i == last) for i, request in enumerate(batch)))
    while True:
        for answer in fdb_messages.parse(kernel.recv(_ANSWER_BYTES)):
            if isinstance(answer, Answer):
                if answer.error:
                    yield answer.number, answer.error
                if answer.number == last:
                    return


def _dump(index: int) -> list[Entry]:
    entries: list[Entry] = []
    with open_route_socket() as kernel, explained("list the forwarding entries"):
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(fdb_messages.dump_request(port=index))
        while True:
            for message in fdb_messages.parse(kernel.recv(_ANSWER_BYTES)):
                if isinstance(message, Entry):
                    entries.append(message)
                elif message.error:
                    raise OSError(message.error, "the kernel broke off")
                else:
                    return entries


def _refusal(code: int, device: str, bridge: str) -> HostError:
    if code == errno.ENODEV:
        return problems.no_device(device)
    if code == errno.EOPNOTSUPP:
        return problems.not_a_port(device, bridge)
    return refusal(f"change the forwarding entries of {device}", code)
