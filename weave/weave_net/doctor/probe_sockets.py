"""Looks for sockets at ports of interest, in /proc: nothing is bound for it."""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from weave_net.doctor.facts import SocketFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

_LISTENING = "0A"
_NO_INODE = "0"


def probe_sockets(ports: frozenset[int], proc: Path = Path("/proc")) -> tuple[SocketFacts, ...]:
    """Sockets of this network namespace at these ports, with their owners where these may be seen."""
    found = [entry for kind in ("tcp", "tcp6", "udp", "udp6") for entry in _table(proc, kind, ports)]
    inodes = {inode for _, inode in found if inode != _NO_INODE}
    owners = dict(_owners(proc, inodes)) if inodes else {}
    return tuple(
        SocketFacts(
            protocol=facts.protocol,
            address=facts.address,
            port=facts.port,
            owner=owners.get(inode, ""),
            kernel=inode == _NO_INODE,
        )
        for facts, inode in found
    )


def _table(proc: Path, kind: str, ports: frozenset[int]) -> Iterator[tuple[SocketFacts, str]]:
    try:
        lines = (proc / "self/net" / kind).read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    tcp = kind.startswith("tcp")
    for line in lines:
        columns = line.split()
        address, _, port = columns[1].partition(":")
        if int(port, 16) in ports and (not tcp or columns[3] == _LISTENING):
            yield (
                SocketFacts(protocol="TCP" if tcp else "UDP", address=_address(address), port=int(port, 16)),
                columns[9],
            )


def _address(text: str) -> str:
    """The kernel writes addresses as words in its own byte order."""
    words = [int(text[place : place + 8], 16) for place in range(0, len(text), 8)]
    packed = struct.pack(f"{'<' if sys.byteorder == 'little' else '>'}{len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _owners(proc: Path, inodes: set[str]) -> Iterator[tuple[str, str]]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for directory in proc.glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is somebody else's
            for descriptor in (directory / "fd").iterdir():
                with suppress(OSError):
                    inode = wanted.get(str(descriptor.readlink()))
                    if inode is not None:
                        name = (directory / "comm").read_text(errors="replace").strip()
                        yield inode, f"{name} (pid {directory.name})"
