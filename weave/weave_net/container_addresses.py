"""Addresses of attachments: the forms in which they are asked for, made concrete with the allocator.

`10.2.1.5/24` is taken as it is and claimed, so that nobody is given it; `net:10.2.2.0/24` and `net:default` are
allocated.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING, NamedTuple

import trio

from weave_ipam.errors import AddressInUse, IpamError, NotFound, SettingsError, Unserved
from weave_net.attachment_request import DEFAULT_SUBNET, SUBNET_PREFIX
from weave_net.errors import AttachmentConflict, AttachmentError, DaemonError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from weave_ipam.ranges import Address, Network
    from weave_ipam.service import Ipam

_log = logging.getLogger(__name__)


class Reserved(NamedTuple):
    """What a request for addresses has come to."""

    given: tuple[str, ...]
    """An address for each wish, in their order."""
    new: tuple[str, ...]
    """Those that were not recorded before."""


class ContainerAddresses:
    """`ipam`: None where allocation is off; then only concrete addresses can be had, and nobody keeps a record.

    `container`: whether the holders are containers, so that `free_all_but` is about them.
    """

    def __init__(self, ipam: Ipam | None, *, container: bool = True) -> None:
        self._ipam = ipam
        self._container = container

    @property
    def range(self) -> Network | None:
        """What addresses are allocated from, None where allocation is off."""
        return None if self._ipam is None else self._ipam.settings.network

    @property
    def default_subnet(self) -> Network | None:
        """Where `net:default` is, None where allocation is off."""
        return None if self._ipam is None else self._ipam.settings.default_subnet

    async def reserve(self, holder: str, wanted: Iterable[str]) -> Reserved:
        """The concrete addresses, recorded for the holder; what is recorded already stays.

        Raises `AttachmentError` for what makes no sense, `AttachmentConflict` for an address of somebody else,
        `DaemonError` where none is to be had now. Then nothing new is recorded.
        """
        before = self.recorded(holder)
        given: list[str] = []
        try:
            for text in wanted:
                given.append(await self._reserve_one(holder, text))
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.release(holder, [text for text in given if ip_interface(text).ip not in before])
            raise
        return Reserved(tuple(given), tuple(text for text in given if ip_interface(text).ip not in before))

    async def _reserve_one(self, holder: str, text: str) -> str:
        ipam = self._ipam
        try:
            if not text.startswith(SUBNET_PREFIX):
                if ipam is not None:
                    await ipam.claim(holder, ip_interface(text), container=self._container, patient=True)
                return text
            if ipam is None:
                raise AttachmentError(f"{text}: address allocation is off; give an address as ADDRESS/LEN")
            subnet = None if text == DEFAULT_SUBNET else ip_network(text.removeprefix(SUBNET_PREFIX))
            return str(await ipam.allocate(holder, subnet, container=self._container))
        except AddressInUse as error:
            raise AttachmentConflict(str(error)) from error
        except SettingsError as error:
            raise AttachmentError(str(error)) from error
        except Unserved as error:
            raise DaemonError(f"no address could be had: {error}") from error

    async def claim_again(self, holder: str, addresses: Iterable[str]) -> None:
        """At start: what containers have was theirs before; a contradiction is logged."""
        for text in addresses:
            if self._ipam is not None:
                try:
                    await self._ipam.claim(holder, ip_interface(text), container=self._container, patient=True)
                except IpamError as error:
                    _log.warning("%s uses %s, which is not its own: %s", holder, text, error)

    async def free_all_but(self, holders: Container[str]) -> None:
        """At start: free what was recorded for attachments that were then not made, because of a crash."""
        if self._ipam is not None:
            for identifier in self._ipam.containers():
                if identifier not in holders:
                    await self._ipam.release(identifier)

    async def release(self, holder: str, addresses: Iterable[str]) -> None:
        """Free these addresses of the holder; what is free already is no error."""
        for text in addresses:
            if self._ipam is not None:
                with suppress(NotFound):
                    await self._ipam.release(holder, ip_interface(text).ip)

    def recorded(self, holder: str) -> set[Address]:
        """The addresses that are recorded for the holder."""
        return set() if self._ipam is None else {address.ip for address in self._ipam.owned_by(holder)}
