"""The host's own name servers, as /etc/resolv.conf (resolv.conf(5)) names them.

Only its `nameserver` lines matter to us: `search` is the containers' business, and `options` are for the C library.
Whatever else stands there is passed over, since other programs write this file.
"""

from __future__ import annotations

import logging
import os
import stat
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from weave_router.log_limit import LogLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Container

log = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address

MOST_SERVERS = 8
"""The C library takes 3; more than these cannot all be asked in the time that a client waits."""
LOOK_S = 5.0
"""How often the file is looked at, at most; Weave Net 2.8 does the same."""
MOST_BYTES = 65536
"""What is read of the file; the rest is passed over."""


def parse_resolv_conf(text: str) -> tuple[Address, ...]:
    """The name servers in order, each once, at most 8. Never raises: a line that makes no sense is passed over.

    A link-local IPv6 address is of use only with its interface (`fe80::1%eth0`), so without one it is passed over, and
    other addresses lose theirs. So are addresses that no server can have: unspecified, multicast, broadcast. 0.0.0.0 is
    this host for the C library; asking it could be asking ourselves.
    """
    servers: dict[Address, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        address = _server_address(words[1].split("#")[0].split(";")[0])
        if address is not None:
            servers[address] = None
        if len(servers) == MOST_SERVERS:
            break
    return tuple(servers)


def _server_address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address.is_link_local:
            return address if address.scope_id else None
        elif address.scope_id:
            address = without_scope(address)
    if address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
        return None
    return address


def without_scope(address: Address) -> Address:
    """The address without its interface, as it is written in packets."""
    if isinstance(address, IPv6Address) and address.scope_id:
        return IPv6Address(int(address))
    return address


class _Version(NamedTuple):
    """What changes whenever the file does."""

    mtime_ns: int
    inode: int
    device: int
    size: int


class ResolvConf:
    """The name servers of a file that others change. `own`: addresses that we answer at ourselves, asked at each call.

    What was read last stays in force while the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], *, own: Callable[[], Container[Address]] = tuple) -> None:
        self.path = Path(path)
        self._own = own
        self._servers: tuple[Address, ...] = ()
        self._version: _Version | None = None
        self._trouble = ""
        self._looked: float | None = None
        self._first_look_is_over = False
        self._looking = trio.Lock()
        self._thread = trio.CapacityLimiter(1)
        self._log_limit = LogLimit()

    @property
    def current(self) -> tuple[Address, ...]:
        """The servers known last, without those that are ours; no I/O."""
        own = self._own()
        return tuple(server for server in self._servers if without_scope(server) not in own)

    @property
    def status(self) -> str:
        """What is wrong with the file, as a sentence for the operator; empty while all is well."""
        if self._trouble:
            return f"{self._trouble}; the servers known before stay in use" if self._servers else self._trouble
        if not self._first_look_is_over or self.current:
            return ""
        if self._servers:
            return f"{self.path} names only this name server itself: add another nameserver line"
        return f"{self.path} names no name server: add a nameserver line"

    async def servers(self, now: float) -> tuple[Address, ...]:
        """The servers in order, without those that are ours. `now`: trio's clock, in seconds. Never raises.

        Looks at the file at most every 5 s; meanwhile, and while somebody else looks, they are those known last.
        """
        if self._is_due(now) or not self._first_look_is_over:
            async with self._looking:
                if self._is_due(now):
                    await self._look(now)
        else:
            await trio.lowlevel.checkpoint()
        return self.current

    def _is_due(self, now: float) -> bool:
        return self._looked is None or now - self._looked >= LOOK_S

    async def _look(self, now: float) -> None:
        self._looked = now
        try:
            # Abandoned when the caller goes, since a file on a dead network file system would hold it up. One thread at
            # most, or those abandoned would use up the threads of everybody else.
            version, text = await trio.to_thread.run_sync(
                _read, self.path, self._version, abandon_on_cancel=True, limiter=self._thread
            )
        except OSError as error:
            self._trouble = f"{self.path} cannot be read: {error.strerror or error}"
        else:
            self._version, self._trouble = version, ""
            if text is not None:
                self._adopt(text)
        self._first_look_is_over = True
        if self._trouble and self._log_limit.allows("trouble", now):
            log.warning("%s", self.status)

    def _adopt(self, text: str) -> None:
        servers = parse_resolv_conf(text)
        if servers != self._servers:
            log.info("Name servers of this host: %s", ", ".join(map(str, servers)) or "none")
        self._servers = servers


def _read(path: Path, known: _Version | None) -> tuple[_Version, str | None]:
    """The file's version, and its text unless that version is known. Raises `OSError`."""
    # Without O_NONBLOCK a FIFO in its place would hold the thread for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(None, "it is no regular file")
        version = _Version(facts.st_mtime_ns, facts.st_ino, facts.st_dev, facts.st_size)
        text = None if version == known else os.read(descriptor, MOST_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)
    return version, text
