"""The errors of address allocation; each text is a sentence for whoever asked.

IpamError
 ├── SettingsError     a range, subnet or mode that makes no sense
 ├── AddressInUse      somebody else holds the address
 ├── NotFound          there is no such record
 ├── Unserved          the request could not be served in time; the text says who or what is missing
 ├── RemovalRefused    a peer must not be removed, or not yet
 └── StoredStateError  the stored state cannot be read
RingRefused (a ProtocolError): a ring that contradicts ours
"""

from __future__ import annotations

from weave_router.errors import ProtocolError


class IpamError(Exception):
    """Whatever this component raises on purpose."""


class SettingsError(IpamError):
    """A range, a subnet or a mode that cannot be used."""


class AddressInUse(IpamError):  # noqa: N818 - named after what is the case
    """The address belongs to somebody else."""


class NotFound(IpamError):  # noqa: N818
    """There is no such record."""


class Unserved(IpamError):  # noqa: N818
    """Nothing could be given within the time limit; the text says why."""


class RemovalRefused(IpamError):  # noqa: N818
    """The peer is reachable, or others have to agree who cannot."""


class StoredStateError(IpamError):
    """The stored state is damaged."""


class RingRefused(ProtocolError):  # noqa: N818
    """A ring that contradicts ours, or itself (ipam.md section 9). Our ring is as it was."""
