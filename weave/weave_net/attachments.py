"""Attachments: which interface of which container is on the network, and with what addresses.

One mechanism for the command line, CNI and Docker. An attachment is known by (id, interface name). The host makes the
interface, the store remembers it, and `Attachments` keeps the two in step:

- *put*: addresses first (they are recorded for the attachment's holder), then the host, then the store, then the
  answer; if host or store fails, what was added is taken away again.
- *delete*: the store first, so that a crash half way cannot bring an interface back at the next start; if the host
  fails, the record is put back. Addresses are freed last.
- A name is added last, and goes with the address.
- A container that ends without a word keeps its addresses for a while (`GRACE_S`), then they are freed; those of
  attachments that are to be kept stay until they are deleted, since their engine will tell.

Changes of one id's attachments wait for each other; those of different ids do not.
"""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from ipaddress import IPv4Interface, ip_address, ip_interface
from typing import TYPE_CHECKING, Any

import trio

from weave_dns.entries import Bond
from weave_net.address_filter import address_filter
from weave_net.attachment import Attachment, host_interface_name
from weave_net.attachment_request import BRIDGE_GATEWAY, SUBNET_PREFIX
from weave_net.attachment_routes import complete_routes
from weave_net.container_addresses import Reserved
from weave_net.errors import AttachmentConflict, AttachmentError, DaemonError, StoreError
from weave_router.doors import VethRequest
from weave_router.errors import HostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
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

_log = logging.getLogger(__name__)


def _plain(addresses: Iterable[str]) -> list[IPv4Address | IPv6Address]:
    return [ip_interface(text).ip for text in addresses]


class Attachments:
    """All attachments of one daemon.

    `gateway`: gives the host's own address on the network that a container with this address may use as its gateway.
    `boot`: identifies the host's start.
    """

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
        gateway: Callable[[IPv4Interface], Awaitable[IPv4Address]],
        boot: str,
    ) -> None:
        self.bridge = bridge
        self.mtu = mtu
        self._host = host
        self._store = store
        self._identify = namespace_identity
        self._addresses = addresses
        self._names = names
        self._gateway = gateway
        self._boot = boot
        self._known: dict[tuple[str, str], Attachment] = {}
        self._missing: dict[tuple[str, str], float] = {}
        self._locks: dict[str, tuple[trio.Lock, int]] = {}

    async def adopt(self) -> None:
        """Take up what an earlier daemon stored; call it once, when the bridge is there.

        An attachment whose namespace is gone is dropped; one whose interface is gone is made again; an interface that
        nobody was told of, because of a crash, is removed. Raises `StoreError`, also for an entry that cannot be read.
        """
        existing = set(await self._host.list_attached(self.bridge))
        for key, value in (await self._store.read(KEY_PREFIX)).items():
            attachment = Attachment.from_record(key, value)
            gone = self._is_gone(attachment)
            # What an engine moved into a container and is there no more, it does not miss: it makes a new one.
            lost = bool(attachment.peer) and attachment.host_interface not in existing
            if gone and (lost or not (attachment.keep and attachment.boot == self._boot)):
                _log.info("%s of %s: its namespace is gone", attachment.interface, attachment.id)
                await self._store.write({key: None})
                await self._addresses.release(attachment.recorded_for, attachment.addresses)
                await self._names.remove_all(attachment.id, _plain(attachment.addresses))
                continue
            self._known[attachment.id, attachment.interface] = attachment
            if attachment.claim:
                await self._addresses.claim_again(attachment.recorded_for, attachment.addresses)
            if attachment.host_interface not in existing and not gone:
                try:
                    await self._host.attach(self._veth_request(attachment))
                except HostError as error:
                    _log.warning("%s of %s cannot be made again: %s", attachment.interface, attachment.id, error)
        for name in existing - {known.host_interface for known in self._known.values()}:
            _log.info("%s was left behind by a crash and is removed", name)
            try:
                await self._host.remove_device(name)
            except HostError as error:
                _log.warning("%s cannot be removed: %s", name, error)
        await self._addresses.free_all_but({known.recorded_for for known in self._known.values()})
        present: dict[str, list[IPv4Address | IPv6Address]] = {}
        for known in self._known.values():
            present.setdefault(known.id, []).extend(_plain(known.addresses))
        await self._names.keep_attached(present)

    def _is_gone(self, attachment: Attachment) -> bool:
        """Whether the namespace is gone, or cannot be found by its path."""
        if attachment.peer:
            return True
        return self._identify(attachment.netns) != attachment.namespace_identity

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
        lives in another one, is not to be there, or an address belongs to somebody else, `DaemonError` where no address
        is to be had, `DnsError`, `HostError` and `StoreError`.
        """
        self._names.check(request.fqdn)
        async with self._locked(attachment_id):
            holder = self._holder(attachment_id, interface)
            known = self._known.get((attachment_id, interface))
            await self._current(attachment_id, interface, request)
            reserved = await self._reserve(holder, request)
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
            try:
                if request.fqdn is not None:
                    for ip in _plain(reserved.given):
                        await self._names.add(attachment_id, ip, request.fqdn, bond=Bond.ADDRESS)
                await self._names.add_where_possible(attachment_id, _plain(reserved.given), request.names)
            except BaseException:
                if request.create:  # all or nothing
                    with self._uninterrupted(attachment_id, interface):
                        await self._delete(attachment_id, interface, ())
                raise
            return replace(made, given=reserved.given)

    async def _reserve(self, holder: str, request: AttachmentRequest) -> Reserved:
        if request.claim:
            return await self._addresses.reserve(holder, request.addresses)
        for text in request.addresses:
            if text.startswith(SUBNET_PREFIX):
                raise AttachmentError(f"{text} is allocated only with 'claim': give an address as ADDRESS/LEN")
        return Reserved(request.addresses, ())

    async def _release_unless_kept(self, before: Attachment, after: Attachment | None) -> None:
        kept = set() if after is None else {ip_interface(text).ip for text in after.addresses}
        gone = [text for text in before.addresses if ip_interface(text).ip not in kept]
        await self._names.remove_all(before.id, _plain(gone))
        if before.claim:
            await self._addresses.release(before.recorded_for, gone)

    async def _make(self, attachment_id: str, interface: str, request: AttachmentRequest, holder: str) -> Attachment:
        known = await self._current(attachment_id, interface, request)
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
        addresses = (*before, *added.values())
        gateway = await self._gateway_of(request, addresses)
        routes = complete_routes(request.routes, gateway, addresses)
        wanted = Attachment(
            id=attachment_id,
            interface=interface,
            netns=request.netns,
            namespace_identity=self._identity_of(request),
            addresses=addresses,
            mac=request.mac or ("" if known is None else known.mac),
            mtu=request.mtu or (self.mtu if known is None else known.mtu),
            owner=request.owner if known is None else known.owner,
            network=request.network if known is None else known.network,
            multicast_route=request.multicast_route,
            holder=holder,
            peer=request.peer,
            by_descriptor=request.descriptor is not None,
            claim=request.claim,
            keep=request.keep,
            boot=self._boot,
            hairpin=request.hairpin,
            gateway=None if gateway is None else str(gateway),
            routes=routes if known is None else tuple(dict.fromkeys([*known.routes, *routes])),
        )
        info = await self._host.attach(
            replace(self._veth_request(wanted), namespace=request.namespace, create=request.create)
        )
        there = tuple(route for route in wanted.routes if route.for_host() in info.routes)
        made = replace(wanted, mac=info.mac, mtu=info.mtu, host_mac=info.host_mac, routes=there)
        if made != known:
            await self._remember(made, info, known, request.namespace)
        return made

    async def _gateway_of(
        self, request: AttachmentRequest, addresses: tuple[str, ...]
    ) -> IPv4Address | IPv6Address | None:
        if request.gateway is None:
            return None
        if request.gateway != BRIDGE_GATEWAY:
            return ip_address(request.gateway)
        own = next((own for own in map(ip_interface, addresses) if isinstance(own, IPv4Interface)), None)
        if own is None:
            raise AttachmentError("the bridge can be a gateway for IPv4 only, and no such address is wanted")
        return await self._gateway(own)

    def _identity_of(self, request: AttachmentRequest) -> str:
        """Raises `AttachmentError` where there is no namespace."""
        if request.namespace is None:
            return ""
        identity = self._identify(request.namespace)
        if identity is None:
            raise AttachmentError(f"there is no network namespace at {request.netns}")
        return identity

    async def inspect(
        self, attachment_id: str, interface: str, descriptor: int | None = None, mac: str | None = None
    ) -> tuple[str, ...]:
        """In words, what of an attachment is not as it was made. `descriptor`: as in a request; `mac`: changed since.

        Raises `AttachmentError` if there is none, `HostError`.
        """
        async with self._locked(attachment_id):
            known = self._known.get((attachment_id, interface))
            if known is None:
                raise AttachmentError(f"{attachment_id} has no interface {interface} on the network")
            wanted = self._veth_request(known)
            if descriptor is not None:
                wanted = replace(wanted, namespace=f"/proc/self/fd/{descriptor}")
            if mac is not None:
                wanted = replace(wanted, mac=mac)
            found = await self._host.inspect(wanted)
            recorded, allocated = self._addresses.recorded(known.recorded_for), self._addresses.range
            lost = [
                f"{address} is not recorded as taken"
                for address in map(ip_interface, known.addresses)
                if known.claim and allocated is not None and address.version == allocated.version
                if address.ip not in recorded
            ]
            return (*found, *lost)

    async def delete(
        self,
        attachment_id: str,
        interface: str,
        addresses: tuple[str, ...] = (),
        *,
        owner: str | None = None,
        network: str | None = None,
        host_mac: str | None = None,
    ) -> tuple[str, ...]:
        """Remove the addresses, or all when none is named; with the last one goes the interface.

        Returns what was removed, as `address/len`. What is gone already is no error. Raises `AttachmentConflict` if it
        belongs to another owner or network than these, or has another `host_mac`, `HostError`, `StoreError`.
        """
        async with self._locked(attachment_id):
            known = self._known.get((attachment_id, interface))
            if known is not None and (owner not in (None, known.owner) or network not in (None, known.network)):
                raise AttachmentConflict(
                    f"{interface} of {attachment_id} was made for {known.owner}, network {known.network}"
                )
            if host_mac is not None and (known is None or known.host_mac != host_mac):
                raise AttachmentConflict(f"{interface} of {attachment_id} is another one by now")
            with self._uninterrupted(attachment_id, interface):
                return await self._delete(attachment_id, interface, addresses)

    async def _delete(self, attachment_id: str, interface: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
        host_interface = host_interface_name(attachment_id, interface)
        known = self._known.get((attachment_id, interface))
        if known is None:
            # Possibly left behind by a crash; without a record there is nothing in it that must be kept.
            return await self._host.detach(None, interface, host_interface) if not addresses else ()
        is_meant = address_filter(addresses, self._addresses.default_subnet)
        unwanted = tuple(text for text in known.addresses if not addresses or is_meant(ip_interface(text)))
        left = tuple(text for text in known.addresses if text not in unwanted)
        if addresses and not unwanted:
            return ()
        if left and self._is_gone(known):
            raise AttachmentConflict(
                f"{interface} of {attachment_id} cannot lose single addresses, since its namespace cannot be opened at "
                f"{known.netns or known.peer}; remove all of them"
            )
        remaining = replace(known, addresses=left) if left else None
        await self._store_change(known, remaining)
        try:
            # The namespace may have gone and its path may lead to another one by now.
            # With the last address the interface goes, for which nobody has to look into the container.
            netns = known.netns if left else None
            await self._host.detach(netns, interface, host_interface, unwanted if left else ())
        except HostError:
            await self._store_change(known, known)
            raise
        await self._release_unless_kept(known, remaining)
        if not self.has(attachment_id):
            await self._names.remove_container(attachment_id)  # also what was added by hand
        return unwanted

    async def container_ended(self, attachment_id: str) -> None:
        """An engine says that a container has ended: its names go at once, its addresses in a while (see `run`)."""
        theirs = [known for known in self._known.values() if known.id == attachment_id]
        # It may have been started again, and attached, before its end was heard of.
        if theirs and all(not known.keep and self._is_gone(known) for known in theirs):
            await self._names.remove_container(attachment_id)

    async def run(self) -> None:
        """Remove the attachments of containers that ended without a word, until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            now = trio.current_time()
            gone = {
                key: self._missing.get(key, now)
                for key, attachment in self._known.items()
                if not attachment.keep and self._is_gone(attachment)
            }
            self._missing = gone
            for key, since in list(gone.items()):
                if now - since >= GRACE_S:
                    await self._remove_dead(*key)

    async def _remove_dead(self, attachment_id: str, interface: str) -> None:
        async with self._locked(attachment_id):
            attachment = self._known.get((attachment_id, interface))
            if attachment is None or attachment.keep or not self._is_gone(attachment):
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
            return known.recorded_for
        others = {attachment.recorded_for for attachment in self._known.values()}
        return f"{attachment_id}@{interface}" if attachment_id in others else attachment_id

    async def _current(self, attachment_id: str, interface: str, request: AttachmentRequest) -> Attachment | None:
        """The attachment that is there already; None if there is none, or its container was started anew.

        Raises `AttachmentConflict` if it is another container's or none must be there, `AttachmentError`.
        """
        identity = self._identity_of(request)
        known = self._known.get((attachment_id, interface))
        if known is None:
            if not request.create:  # the host knows best whether there is an interface, whoever's
                await self._check_nobody_elses(interface, identity)
            return None
        if known.namespace_identity == identity and known.peer == request.peer:
            if not request.create:
                return known
            if known.host_interface in await self._host.list_attached(self.bridge):
                raise AttachmentConflict(f"{attachment_id} has an interface {interface} already")
            return None  # it was taken away by other hands, or with the last namespace of this number
        by_path = not known.peer and not known.by_descriptor
        alive = (
            not self._is_gone(known) if by_path else known.host_interface in await self._host.list_attached(self.bridge)
        )
        if alive:
            raise AttachmentConflict(
                f"{attachment_id} has its interface {interface} in another network namespace, "
                f"{known.netns or known.peer}; detach that one first or use another id"
            )
        return None  # a container that was started anew: its old interface went with its old namespace

    async def _check_nobody_elses(self, interface: str, identity: str) -> None:
        """Whether the namespace has the interface of another id. Raises `AttachmentConflict`."""
        others = [known for known in self._known.values() if known.interface == interface]
        other = next((known for known in others if identity and known.namespace_identity == identity), None)
        if other is not None and other.host_interface in await self._host.list_attached(self.bridge):
            raise AttachmentConflict(
                f"this network namespace has an interface {interface} of ours already, as {other.id}: "
                "use that id, or detach it first"
            )

    async def _remember(
        self, made: Attachment, info: VethInfo, known: Attachment | None, namespace: str | None
    ) -> None:
        try:
            await self._store_change(made, made)
        except StoreError:
            added = () if known is None else tuple(a for a in made.addresses if a not in known.addresses)
            if known is None or added:
                try:
                    await self._host.detach(namespace, made.interface, info.host_interface, added)
                except HostError as error:
                    _log.warning("%s of %s could not be taken back: %s", made.interface, made.id, error)
            raise

    async def _store_change(self, key: Attachment, value: Attachment | None) -> None:
        await self._store.write({f"{KEY_PREFIX}{key.id}/{key.interface}": None if value is None else value.to_record()})
        if value is None:
            self._known.pop((key.id, key.interface), None)
        else:
            self._known[key.id, key.interface] = value

    def _veth_request(self, attachment: Attachment) -> VethRequest:
        return VethRequest(
            namespace=None if attachment.peer else attachment.netns,
            interface=attachment.peer or attachment.interface,
            host_interface=attachment.host_interface,
            bridge=self.bridge,
            mtu=attachment.mtu,
            addresses=tuple(ip_interface(text) for text in attachment.addresses),
            mac=attachment.mac or None,
            multicast_route=attachment.multicast_route,
            hairpin=attachment.hairpin,
            routes=tuple(route.for_host() for route in attachment.routes),
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
