"""Exposures: addresses of the network that the host itself has, on the bridge (`weave expose`, `weave hide`).

In step are kept, as for attachments: the allocator, where they belong to the holder `weave:expose`; the host; and the
store.

- *expose*: the address is recorded first, then the host, the store, then the answer; a failure undoes it. A name is
  added last; the name service keeps it.
- *hide*: the store first, so that a crash half way cannot bring an address back; if the host fails, the record is put
  back. Names go, and addresses are freed, last.
- Whoever else gives the bridge an address of the allocation range, gets it recorded, so that no container is given it.

The host's firewall rules follow: they let containers and the outside reach each other through this host, with the
addresses translated unless told otherwise, and are put back when others remove them. Where the host cannot have them,
that is logged, and the addresses serve all the same.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Interface, IPv4Network, ip_interface
from typing import TYPE_CHECKING, Any, Protocol

import trio

from weave_net.address_filter import address_filter
from weave_net.attachment_request import DEFAULT_SUBNET, SUBNET_PREFIX
from weave_net.attachments import OPERATION_LIMIT_S
from weave_net.errors import AttachmentError, DaemonError, StoreError
from weave_router.doors import ExposedSubnet
from weave_router.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from ipaddress import IPv4Address, IPv6Address, IPv6Interface, IPv6Network

    from weave_net.container_addresses import ContainerAddresses
    from weave_router.doors import Host, Store

    Address = IPv4Address | IPv6Address
    Interface = IPv4Interface | IPv6Interface

HOLDER = "weave:expose"
"""The identifier of the host's own addresses, in the allocator and among the names; 2.8's."""

KEY_PREFIX = "exposure/"
"""The store's keys are `exposure/<address>`, without prefix length."""

WATCH_AGAIN_S = 10.0
"""After the host could not be watched."""

_SMALLEST_SUBNET = 4
"""Addresses of the smallest subnet that has room for a container and a gateway."""

_log = logging.getLogger(__name__)


class Names(Protocol):
    """What is asked of the name service, which remembers it; `container` is `weave:expose` here."""

    def check(self, fqdn: str | None) -> None:
        """Whether this name could be added, if one is wanted. Raises `DnsError`."""

    async def add(self, container: str, address: Address, fqdn: str) -> None:
        """Let the name lead to the address; what is so already is no error. Raises `DnsError`, `StoreError`."""

    async def remove(self, container: str, address: Address) -> None:
        """Forget all names that were added for this container's address; none is no error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One address that was exposed, as it is stored."""

    address: str
    """`address/len`."""
    masquerade: bool = True
    """Whether addresses are translated between its subnet and the outside."""

    @property
    def ip(self) -> Address:
        """The address without its prefix length, which identifies it."""
        return ip_interface(self.address).ip

    def to_json(self) -> dict[str, Any]:
        """What is stored, and what the HTTP API answers."""
        return asdict(self)


class Exposures:
    """The host's addresses on the bridge. `mac`: the bridge's. `names`: None where the name service is off.

    `addresses` must treat its holders as no containers: `ContainerAddresses(ipam, container=False)`.
    """

    def __init__(
        self,
        host: Host,
        store: Store,
        *,
        bridge: str,
        mac: str,
        addresses: ContainerAddresses,
        names: Names | None = None,
    ) -> None:
        self.bridge = bridge
        self.mac = mac
        self._host = host
        self._store = store
        self._addresses = addresses
        self._names = names
        self._known: dict[Address, Exposure] = {}
        self._foreign: dict[Address, Interface] = {}
        """What others gave the bridge, as far as it lies in the range."""
        self._missed: set[Address] = set()
        """What others took from the bridge; said once."""
        self._complaint = ""
        """Why the host's rules are not as they should be; said once."""
        self._told_forwarding = False
        self._lock = trio.Lock()

    async def adopt(self) -> None:
        """Take up what an earlier daemon stored; call it once, when the bridge is there.

        What the bridge has lost, as after the host's restart, it gets back. Raises `StoreError`, also for an entry
        that cannot be read, and `HostError`.
        """
        async with self._lock:
            present = {address.ip: address for address in await self._host.bridge_addresses(self.bridge)}
            for key, value in (await self._store.read(KEY_PREFIX)).items():
                exposure = _read(key, value)
                self._known[exposure.ip] = exposure
                await self._addresses.claim_again(HOLDER, [exposure.address])
                address = present.get(exposure.ip, ip_interface(exposure.address))
                try:
                    await self._host.add_bridge_address(self.bridge, address)  # announced also where it is there
                except HostError as error:
                    _log.warning("%s cannot be exposed again: %s", address, error)
            await self._look_around()
            # What was recorded for an exposure that a crash prevented, or by hand on a bridge that is gone.
            for ip in self._addresses.recorded(HOLDER) - self._known.keys() - self._foreign.keys() - present.keys():
                await self._addresses.release(HOLDER, [str(ip)])
            await self._set_rules()

    def list(self) -> tuple[Exposure, ...]:
        """What was exposed, sorted by address."""
        return tuple(self._known[ip] for ip in sorted(self._known, key=lambda ip: (ip.version, int(ip))))

    async def present(self) -> tuple[str, ...]:
        """All addresses that the bridge has now as `address/len`, whoever gave it them. Raises `HostError`."""
        return tuple(str(address) for address in await self._host.bridge_addresses(self.bridge))

    async def expose(
        self, wanted: Iterable[str] = (), *, fqdn: str | None = None, masquerade: bool = True
    ) -> tuple[str, ...]:
        """Give the bridge the addresses: `address/len`, `net:<subnet>` or `net:default`, which none means too.

        Returns an `address/len` for each wish; durable on return, repeating it changes nothing. `fqdn` leads to all of
        them; where it cannot be added after all, the addresses stay. Raises `AttachmentError` for what makes no sense,
        `AttachmentConflict` for an address of somebody else, `DaemonError` where none is to be had, `DnsError`,
        `HostError` and `StoreError`.
        """
        if self._names is not None:
            self._names.check(fqdn)
        elif fqdn is not None:
            raise AttachmentError(f"{fqdn} cannot be added: names are off (--no-dns)")
        async with self._lock:
            reserved = await self._addresses.reserve(HOLDER, tuple(wanted) or (DEFAULT_SUBNET,))
            try:
                with _uninterrupted("exposed"):
                    given = await self._expose(reserved.given, masquerade)
                    await self._set_rules()
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._addresses.release(HOLDER, [text for text in reserved.new if not self._has(text)])
                raise
            if fqdn is not None and self._names is not None:
                for text in given:
                    await self._names.add(HOLDER, ip_interface(text).ip, fqdn)
            return given

    async def _expose(self, given: Iterable[str], masquerade: bool) -> tuple[str, ...]:
        present = {address.ip: str(address) for address in await self._host.bridge_addresses(self.bridge)}
        made: dict[Address, Exposure] = {}
        answer = []
        for text in given:
            ip = ip_interface(text).ip
            # An address is there once, however its subnet is written.
            known = made.get(ip) or self._known.get(ip) or Exposure(address=present.get(ip, text))
            made[ip] = replace(known, masquerade=masquerade)
            answer.append(known.address)
        async with AsyncExitStack() as undo:
            for exposure in made.values():
                address = ip_interface(exposure.address)
                if await self._host.add_bridge_address(self.bridge, address):
                    undo.push_async_callback(self._take_back, address)
            changed = {ip: exposure for ip, exposure in made.items() if self._known.get(ip) != exposure}
            if changed:
                await self._store.write({_key(ip): exposure.to_json() for ip, exposure in changed.items()})
            undo.pop_all()
        self._known |= made
        self._missed -= made.keys()
        for ip in made:
            self._foreign.pop(ip, None)
        return tuple(answer)

    async def gateway(self, address: IPv4Interface) -> IPv4Address:
        """The bridge's address that a container with this address can have as its gateway.

        In the container's subnet, else one whose subnet has the container in it. If there is neither, the host is
        exposed in the container's subnet, as far as that is ours to allocate. Else any address will do (but answers
        from the outside need a route then), and where there is none the default subnet is exposed. Raises as `expose`
        does.
        """
        present = _ipv4(await self.present())
        near = [there for there in present if there.ip in address.network]
        near += [there for there in present if address.ip in there.network]
        if near:
            return near[0].ip
        allocated = self._addresses.range
        has_room = address.network.num_addresses >= _SMALLEST_SUBNET
        if isinstance(allocated, IPv4Network) and address.network.subnet_of(allocated) and has_room:
            return await self._expose_for_gateway(f"{SUBNET_PREFIX}{address.network}")
        if present:
            return present[0].ip
        if allocated is None:
            raise AttachmentError(
                f"{self.bridge} has no address that could be the gateway of {address}, and address allocation is off: "
                "give it one with 'weave expose ADDRESS/LEN' first"
            )
        return await self._expose_for_gateway(DEFAULT_SUBNET)

    async def _expose_for_gateway(self, wanted: str) -> IPv4Address:
        (given,) = _ipv4(await self.expose([wanted]))
        return given.ip

    async def hide(self, addresses: Iterable[str] = ()) -> tuple[str, ...]:
        """Take addresses, with or without prefix length, from the bridge; without any, those of the default subnet.

        Also what others gave the bridge. Returns what was removed as `address/len`; what is gone already is no error.
        Raises `AttachmentError` where there is no default subnet, `HostError`, `StoreError`.
        """
        named = tuple(addresses)
        is_meant = address_filter(named or (DEFAULT_SUBNET,), self._addresses.default_subnet)
        async with self._lock:
            with _uninterrupted("hidden"):
                there = [exposure.address for exposure in self.list()]
                there += (text for text in await self._present_if_any() if text not in there)
                removed = tuple(text for text in there if is_meant(ip_interface(text)))
                await self._hide(removed)
                await self._set_rules()
                # Named ones also where the bridge has them no more: a crash may have left something of them.
                told = (text for text in named if not text.startswith(SUBNET_PREFIX))
                gone = dict.fromkeys(ip_interface(text).ip for text in (*removed, *told) if not self._has(text))
                for ip in gone:
                    if self._names is not None:
                        await self._names.remove(HOLDER, ip)
                await self._addresses.release(HOLDER, map(str, gone))
                return removed

    async def _hide(self, unwanted: tuple[str, ...]) -> None:
        known = {
            ip: self._known[ip]
            for ip in dict.fromkeys(ip_interface(text).ip for text in unwanted)
            if ip in self._known and self._known[ip].address in unwanted
        }
        if known:
            await self._store.write({_key(ip): None for ip in known})
        for ip in known:
            del self._known[ip]
        try:
            for text in unwanted:
                await self._host.remove_bridge_address(self.bridge, ip_interface(text))
        except HostError:
            # Which are gone does not matter: the next start gives the bridge what it lacks, or a second `hide` ends it.
            if known:
                await self._store.write({_key(ip): exposure.to_json() for ip, exposure in known.items()})
            self._known |= known
            raise
        for text in unwanted:
            ip = ip_interface(text).ip
            self._foreign.pop(ip, None)
            self._missed.discard(ip)

    async def run(self) -> None:
        """Keep an eye on what others do to the bridge's addresses and to our firewall rules, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_addresses)
            nursery.start_soon(self._watch_rules)

    async def _watch_addresses(self) -> None:
        while True:
            try:
                async with self._host.watch_addresses(self.bridge) as changes:
                    async for _ in changes:
                        async with self._lock:
                            await self._look_around()
            except HostError as error:
                _log.warning("%s; trying again in %.0f s", error, WATCH_AGAIN_S)
            await trio.sleep(WATCH_AGAIN_S)

    async def _watch_rules(self) -> None:
        while True:
            try:
                async with self._host.watch_rules() as changes:
                    async for _ in changes:
                        async with self._lock:
                            await self._set_rules()
            except HostError as error:
                self._complain(str(error))
            await trio.sleep(WATCH_AGAIN_S)

    async def _set_rules(self) -> None:
        """Have the host's rules fit what is exposed; holding the lock."""
        subnets: dict[IPv4Network | IPv6Network, bool] = {}
        for exposure in self.list():
            network = ip_interface(exposure.address).network
            subnets[network] = exposure.masquerade or subnets.get(network, False)
        exposed = [ExposedSubnet(network, masquerade) for network, masquerade in subnets.items()]
        try:
            await self._host.set_exposed(self.bridge, exposed)
        except HostError as error:
            self._complain(str(error))
        else:
            self._complaint = ""
        if not self._told_forwarding and any(subnet.masquerade and subnet.network.version == 4 for subnet in exposed):
            await self._check_forwarding()

    async def _check_forwarding(self) -> None:
        if not await self._host.forwards_packets():
            self._told_forwarding = True
            _log.warning(
                "containers reach only this host and nothing behind it, since it passes no packets on; let it do so "
                "with `sysctl -w net.ipv4.ip_forward=1`"
            )

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            _log.warning("%s", complaint)
        self._complaint = complaint

    async def _look_around(self) -> None:
        """Record what others gave the bridge inside the range, free what they took again; holding the lock."""
        allocated = self._addresses.range
        present = {ip_interface(text).ip: ip_interface(text) for text in await self._present_if_any()}
        foreign = {
            ip: address
            for ip, address in present.items()
            if ip not in self._known and allocated is not None and ip in allocated
        }
        before, self._foreign = self._foreign, foreign
        for ip, address in foreign.items():
            if ip not in before:
                _log.info("%s is on %s by another hand; no container will be given it", address, self.bridge)
                await self._addresses.claim_again(HOLDER, [str(address)])
        for ip, address in before.items():
            if ip not in foreign and ip not in self._known:
                await self._addresses.release(HOLDER, [str(address)])
        missed = self._known.keys() - present.keys()
        for ip in missed - self._missed:
            _log.warning("%s was taken from %s by another hand; 'weave expose' puts it back", ip, self.bridge)
        self._missed = missed

    async def _present_if_any(self) -> tuple[str, ...]:
        try:
            return await self.present()
        except HostError:  # the bridge was removed, and the addresses with it
            return ()

    def _has(self, text: str) -> bool:
        ip = ip_interface(text).ip
        return ip in self._known or ip in self._foreign

    async def _take_back(self, address: Interface) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self._host.remove_bridge_address(self.bridge, address)
            except HostError as error:
                _log.warning("%s could not be taken from %s again: %s", address, self.bridge, error)


@contextmanager
def _uninterrupted(what: str) -> Iterator[None]:
    """The block is run to its end, whoever goes away meanwhile, within `OPERATION_LIMIT_S`."""
    with trio.move_on_after(OPERATION_LIMIT_S, shield=True) as limit:
        yield
    if limit.cancelled_caught:
        raise DaemonError(f"nothing was {what} within {OPERATION_LIMIT_S:.0f} s; try again")


def _ipv4(addresses: Iterable[str]) -> list[IPv4Interface]:
    return [own for own in map(ip_interface, addresses) if isinstance(own, IPv4Interface)]


def _key(ip: Address) -> str:
    return f"{KEY_PREFIX}{ip}"


def _read(key: str, value: Any) -> Exposure:
    try:
        exposure = Exposure(**value)
        if key != _key(exposure.ip):
            raise ValueError(f"it is about {exposure.ip}")
    except (TypeError, ValueError) as error:
        raise StoreError(f"the state file holds an exposure that cannot be read ({key}: {error})") from error
    return exposure
