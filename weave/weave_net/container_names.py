"""Names of attachments and of the host itself: what is asked of the name service when containers come and go."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from weave_dns.entries import Bond
from weave_dns.errors import DnsError
from weave_net.errors import AttachmentError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from weave_dns.names import Address
    from weave_dns.service import Names


_log = logging.getLogger(__name__)


class ContainerNames:
    """`names`: None where the name service is off; then a name is an error, and there is nothing to remove."""

    def __init__(self, names: Names | None) -> None:
        self._names = names

    def check(self, fqdn: str | None) -> None:
        """Whether this name could be added, if one is wanted. Raises `AttachmentError` and `DnsError`."""
        if fqdn is None:
            return
        if self._names is None:
            raise AttachmentError(f"{fqdn} cannot be added: names are off (--no-dns)")
        self._names.check(fqdn)

    async def add(self, container: str, address: Address, fqdn: str, *, bond: Bond = Bond.NOTHING) -> None:
        """Let the name lead to the address; what is so already is no error. Raises `DnsError`."""
        if self._names is not None:
            await self._names.add(container, address, fqdn, bond=bond)

    async def add_where_possible(self, container: str, addresses: Iterable[Address], names: Iterable[str]) -> None:
        """Let names, fully qualified or not, lead to the addresses; those that cannot be are logged and left out."""
        if self._names is None:
            return
        domain = self._names.settings.domain
        for text in names:
            fqdn = text if text.rstrip(".").lower().endswith(f".{domain.rstrip('.')}") else f"{text}.{domain}"
            try:
                self._names.check(fqdn)
                for address in addresses:
                    await self._names.add(container, address, fqdn, bond=Bond.ADDRESS)
            except DnsError as error:
                _log.info("%s gets no name %r: %s", container, text, error)

    async def remove(self, container: str, address: Address) -> None:
        """Forget all names that were added for this container's address; none is no error."""
        if self._names is not None:
            await self._names.remove(container, address)

    async def remove_all(self, container: str, addresses: Iterable[Address]) -> None:
        """The same for several addresses."""
        for address in addresses:
            await self.remove(container, address)

    async def remove_container(self, container: str) -> None:
        """Forget all names that go with a container; those that somebody else sees to stay, as Docker's driver."""
        if self._names is not None:
            await self._names.remove_bound(container)

    async def keep_attached(self, present: Mapping[str, Container[Address]]) -> None:
        """At start: forget names of attachments that are gone. `present`: addresses of those that are there, by id."""
        if self._names is not None:
            await self._names.keep_attached(present)
