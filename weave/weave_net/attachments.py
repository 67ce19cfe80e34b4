"""Attachments: which interface of which container is on the network, and with what addresses.

One mechanism for the command line, CNI and Docker. An attachment is known by (id, interface name). The host makes the
interface, the store remembers it, and `Attachments` keeps the two in step:

- *put*: addresses first (they are recorded for the attachment's holder), then the host, then the store, then the
  answer; if host or store fails, what was added is taken away again.
- *delete*: the store first, so that a crash half way cannot bring an interface back at the next start; if the host
  fails, the record is put back. Addresses are freed last.
- A name is added last, and goes with the address.
- A container that ends without a word keeps its addresses for a while (`GRACE_S`), then they are freed.

Changes of one id's attachments wait for each other; those of different ids do not.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TYPE_CHECKING, Any

import trio

from weave_dns.entries import Bond
from weave_net.errors import AttachmentConflict, AttachmentError, DaemonError, StoreError
from weave_router.doors import VethRequest
from weave_router.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from ipaddress import IPv4Address, IPv6Address

    from weave_net.attachment_request import AttachmentRequest
    from weave_net.container_addresses import ContainerAddresses
    from weave_net.container_names import ContainerNames
    from weave_router.doors import Host, Store, VethInfo

KEY_PREFIX = "attachment/"
"""The store's keys are `attachment/<id>/<interface>`."""

OPERATION_LIMIT_S = 20.0
"""A change is not interrupted when its caller goes away, but it does not hold up the daemon for longer than this."""

GRACE_S = 30.0
"""A namespace must have been gone for so long before its attachments are removed: its container may be restarted."""
SWEEP_S = 10.0

Address = IPv4Interface | IPv6Interface

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """An interface that this daemon made, as it is stored."""

    id: str
    interface: str
    netns: str
    """Path of the network namespace."""
    namespace_identity: str
    """Tells whether the path still leads to the same namespace."""
    addresses: tuple[str, ...]
    """`address/len` in the order in which they came."""
    mac: str
    mtu: int
    owner: str
    """Who asked for it: `cli`, `cni`, …"""
    network: str
    multicast_route: bool
    holder: str = ""
    """The identifier under which the allocator records the addresses: the id, unless that has another interface."""
    given: tuple[str, ...] = ()
    """For each wish of the last request its address; not stored."""

    @property
    def host_interface(self) -> str:
        """Name of the host side of the veth."""
        return host_interface_name(self.id, self.interface)

    def to_json(self) -> dict[str, Any]:
        """What the HTTP API answers."""
        values = asdict(self)
        del values["namespace_identity"], values["holder"], values["given"]
        return {**values, "addresses": list(self.addresses), "host_interface": self.host_interface}


def _plain(addresses: Iterable[str]) -> list[IPv4Address | IPv6Address]:
    return [ip_interface(text).ip for text in addresses]


def host_interface_name(attachment_id: str, interface: str) -> str:
    """`vethwe` and 8 hex digits: always the same for an attachment, and short enough for the kernel (15 characters)."""
    return "vethwe" + hashlib.sha256(f"{attachment_id}/{interface}".encode()).hexdigest()[:8]


class Attachments:
    """All attachments of one daemon."""

    def __init__(
        self,
        host: Host,
        store: Store,
        *,
        bridge: str,
        mtu: int,
        namespace_identity: Callable[[str], str | None],
        addresses: ContainerAddresses,
        names: ContainerNames,
    ) -> None:
        self._host = host
        self._store = store
        self._bridge = bridge
        self._mtu = mtu
        self._identify = namespace_identity
        self._addresses = addresses
        self._names = names
        self._known: dict[tuple[str, str], Attachment] = {}
        self._missing: dict[tuple[str, str], float] = {}
        self._locks: dict[str, tuple[trio.Lock, int]] = {}

    async def adopt(self) -> None:
        """Take up what an earlier daemon stored; call it once, when the bridge is there.

        An attachment whose namespace is gone is dropped; one whose interface is gone is made again. Raises
        `StoreError`, also for an entry that cannot be read.
        """
        existing = set(await self._host.list_attached(self._bridge))
        for key, value in (await self._store.read(KEY_PREFIX)).items():
            try:
                attachment = Attachment(**{**value, "addresses": tuple(value["addresses"])})
            except (TypeError, KeyError) as error:
                raise StoreError(f"the state file holds an attachment that cannot be read ({key}: {error})") from error
            holder = attachment.holder or attachment.id
            if self._identify(attachment.netns) != attachment.namespace_identity:
                _log.info("%s of %s: its namespace is gone", attachment.interface, attachment.id)
                await self._store.write({key: None})
                await self._addresses.release(holder, attachment.addresses)
                await self._names.remove_all(attachment.id, _plain(attachment.addresses))
                continue
            self._known[attachment.id, attachment.interface] = attachment
            await self._addresses.claim_again(holder, attachment.addresses)
            if attachment.host_interface not in existing:
                try:
                    await self._host.attach(self._veth_request(attachment, attachment.addresses))
                except HostError as error:
                    _log.warning("%s of %s cannot be made again: %s", attachment.interface, attachment.id, error)
        await self._addresses.free_all_but({known.holder or known.id for known in self._known.values()})
        present: dict[str, list[IPv4Address | IPv6Address]] = {}
        for known in self._known.values():
            present.setdefault(known.id, []).extend(_plain(known.addresses))
        await self._names.keep_attached(present)

    def list(self) -> tuple[Attachment, ...]:
        """All attachments, sorted by id and interface."""
        return tuple(self._known[key] for key in sorted(self._known))

    def has(self, attachment_id: str) -> bool:
        """Whether there is an attachment of this id."""
        return any(known.id == attachment_id for known in self._known.values())

    def get(self, attachment_id: str, interface: str) -> Attachment | None:
        """One attachment, None if there is none."""
        return self._known.get((attachment_id, interface))

    async def put(self, attachment_id: str, interface: str, request: AttachmentRequest) -> Attachment:
        """Make the interface, or add what it lacks; durable on return, repeating it changes nothing.

        Raises `AttachmentError` where there is no namespace at the path, `AttachmentConflict` where the attachment
        lives in another one or an address belongs to somebody else, `DaemonError` where no address is to be had,
        `DnsError`, `HostError` and `StoreError`.
        """
        self._names.check(request.fqdn)
        async with self._locked(attachment_id):
            holder = self._holder(attachment_id, interface)
            known = self._known.get((attachment_id, interface))
            if self._identify(request.netns) is None:
                raise AttachmentError(f"there is no network namespace at {request.netns}")
            reserved = await self._addresses.reserve(holder, request.addresses)
            try:
                with self._uninterrupted(attachment_id, interface):
                    concrete = replace(request, addresses=reserved.given)
                    made = await self._make(attachment_id, interface, concrete, holder)
                    if known is not None:  # what a container had before it was started anew is free
                        await self._release_unless_kept(known, made)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._addresses.release(holder, reserved.new)
                raise
            if request.fqdn is not None:
                for ip in _plain(reserved.given):
                    await self._names.add(attachment_id, ip, request.fqdn, bond=Bond.ADDRESS)
            return replace(made, given=reserved.given)

    async def _release_unless_kept(self, before: Attachment, after: Attachment | None) -> None:
        kept = set() if after is None else {ip_interface(text).ip for text in after.addresses}
        gone = [text for text in before.addresses if ip_interface(text).ip not in kept]
        await self._names.remove_all(before.id, _plain(gone))
        await self._addresses.release(before.holder or before.id, gone)

    async def _make(self, attachment_id: str, interface: str, request: AttachmentRequest, holder: str) -> Attachment:
        identity = self._identify(request.netns)
        if identity is None:
            raise AttachmentError(f"there is no network namespace at {request.netns}")
        known = self._current(attachment_id, interface, identity)
        if known is not None and request.mac not in (None, known.mac):
            raise AttachmentConflict(
                f"{interface} of {attachment_id} has the MAC address {known.mac}; detach it first to change that"
            )
        before = () if known is None else known.addresses
        present = {ip_interface(text).ip for text in before}
        added: dict[Any, str] = {}
        for text in request.addresses:  # an address is there once, however its subnet is written
            if ip_interface(text).ip not in present:
                added.setdefault(ip_interface(text).ip, text)
        wanted = Attachment(
            id=attachment_id,
            interface=interface,
            netns=request.netns,
            namespace_identity=identity,
            addresses=(*before, *added.values()),
            mac=request.mac or ("" if known is None else known.mac),
            mtu=request.mtu or (self._mtu if known is None else known.mtu),
            owner=request.owner if known is None else known.owner,
            network=request.network if known is None else known.network,
            multicast_route=request.multicast_route,
            holder=holder,
        )
        info = await self._host.attach(self._veth_request(wanted, wanted.addresses))
        made = replace(wanted, mac=info.mac, mtu=info.mtu)
        if made != known:
            await self._remember(made, info, known)
        return made

    async def delete(self, attachment_id: str, interface: str, addresses: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Remove the addresses, or all when none is named; with the last one goes the interface.

        Returns what was removed, as `address/len`. What is gone already is no error. Raises `HostError`, `StoreError`.
        """
        async with self._locked(attachment_id):
            with self._uninterrupted(attachment_id, interface):
                return await self._delete(attachment_id, interface, addresses)

    async def _delete(self, attachment_id: str, interface: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
        host_interface = host_interface_name(attachment_id, interface)
        known = self._known.get((attachment_id, interface))
        if known is None:
            # Possibly left behind by a crash; without a record there is nothing in it that must be kept.
            return await self._host.detach(None, interface, host_interface) if not addresses else ()
        unwanted = _matching(known.addresses, addresses) if addresses else known.addresses
        left = tuple(text for text in known.addresses if text not in unwanted)
        if addresses and not unwanted:
            return ()
        remaining = replace(known, addresses=left) if left else None
        await self._store_change(known, remaining)
        try:
            # The namespace may have gone and its path may lead to another one by now.
            netns = known.netns if self._identify(known.netns) == known.namespace_identity else None
            await self._host.detach(netns, interface, host_interface, unwanted if left else ())
        except HostError:
            await self._store_change(known, known)
            raise
        await self._release_unless_kept(known, remaining)
        if not self.has(attachment_id):
            await self._names.remove_container(attachment_id)  # also what was added by hand
        return unwanted

    async def run(self) -> None:
        """Remove the attachments of containers that ended without a word, until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            now = trio.current_time()
            gone = {
                key: self._missing.get(key, now)
                for key, attachment in self._known.items()
                if self._identify(attachment.netns) != attachment.namespace_identity
            }
            self._missing = gone
            for key, since in list(gone.items()):
                if now - since >= GRACE_S:
                    await self._remove_dead(*key)

    async def _remove_dead(self, attachment_id: str, interface: str) -> None:
        async with self._locked(attachment_id):
            attachment = self._known.get((attachment_id, interface))
            if attachment is None or self._identify(attachment.netns) == attachment.namespace_identity:
                return  # it was removed or made anew while we waited
            _log.info("%s of %s: its namespace is gone", interface, attachment_id)
            try:
                with self._uninterrupted(attachment_id, interface):
                    await self._delete(attachment_id, interface, ())
            except (HostError, StoreError, DaemonError) as error:
                _log.warning("%s of %s cannot be removed: %s", interface, attachment_id, error)

    def _holder(self, attachment_id: str, interface: str) -> str:
        known = self._known.get((attachment_id, interface))
        if known is not None:
            return known.holder or known.id
        others = {attachment.holder or attachment.id for attachment in self._known.values()}
        return f"{attachment_id}@{interface}" if attachment_id in others else attachment_id

    def _current(self, attachment_id: str, interface: str, identity: str) -> Attachment | None:
        known = self._known.get((attachment_id, interface))
        if known is None or known.namespace_identity == identity:
            return known
        if self._identify(known.netns) == known.namespace_identity:
            raise AttachmentConflict(
                f"{attachment_id} has its interface {interface} in another network namespace, {known.netns}; "
                "detach that one first or use another id"
            )
        return None  # a container that was started anew: its old interface went with its old namespace

    async def _remember(self, made: Attachment, info: VethInfo, known: Attachment | None) -> None:
        try:
            await self._store_change(made, made)
        except StoreError:
            added = () if known is None else tuple(a for a in made.addresses if a not in known.addresses)
            if known is None or added:
                try:
                    await self._host.detach(made.netns, made.interface, info.host_interface, added)
                except HostError as error:
                    _log.warning("%s of %s could not be taken back: %s", made.interface, made.id, error)
            raise

    async def _store_change(self, key: Attachment, value: Attachment | None) -> None:
        record = None if value is None else {**asdict(value), "addresses": list(value.addresses)}
        if record is not None:
            del record["given"]
        await self._store.write({f"{KEY_PREFIX}{key.id}/{key.interface}": record})
        if value is None:
            self._known.pop((key.id, key.interface), None)
        else:
            self._known[key.id, key.interface] = value

    def _veth_request(self, attachment: Attachment, addresses: tuple[str, ...]) -> VethRequest:
        return VethRequest(
            namespace=attachment.netns,
            interface=attachment.interface,
            host_interface=attachment.host_interface,
            bridge=self._bridge,
            mtu=attachment.mtu,
            addresses=tuple(ip_interface(text) for text in addresses),
            mac=attachment.mac or None,
            multicast_route=attachment.multicast_route,
        )

    @asynccontextmanager
    async def _locked(self, attachment_id: str) -> AsyncIterator[None]:
        """Hold the lock of all interfaces of one id."""
        lock, users = self._locks.get(attachment_id, (trio.Lock(), 0))
        self._locks[attachment_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(attachment_id)
            if users > 1:
                self._locks[attachment_id] = (lock, users - 1)

    @contextmanager
    def _uninterrupted(self, attachment_id: str, interface: str) -> Iterator[None]:
        """The block is run to its end, whoever goes away meanwhile, within `OPERATION_LIMIT_S`."""
        with trio.move_on_after(OPERATION_LIMIT_S, shield=True) as limit:
            yield
        if limit.cancelled_caught:
            raise DaemonError(
                f"{interface} of {attachment_id} was not changed within {OPERATION_LIMIT_S:.0f} s; try again"
            )


def _matching(present: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The addresses of `present` that `wanted` names, with or without prefix length."""
    interfaces = {text: ip_interface(text) for text in present}
    with_length = {ip_interface(text) for text in wanted if "/" in text}
    plain = {ip_interface(text).ip for text in wanted if "/" not in text}
    return tuple(text for text, address in interfaces.items() if address in with_length or address.ip in plain)
