"""What the allocator is asked for; each request is served, refused, or ends at its deadline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weave_ipam.errors import IpamError
    from weave_ipam.leases import Lease
    from weave_ipam.ranges import Network

ANONYMOUS = "_"
"""Identifier for "none": the address is recorded under its own text."""


@dataclass(eq=False, kw_only=True)
class Request:
    """Something that may have to wait. `deadline`: time in seconds."""

    deadline: float
    answered: bool = False
    """Whether result or error are there; the asker is told when what it depends on is stored."""
    error: IpamError | None = None
    recorded: bool = False
    """Whether it made a new record: taken back where the asker has gone before it knew."""


@dataclass(eq=False, kw_only=True)
class Allocation(Request):
    """Any address of a subnet for an identifier. The same identifier gets the same address again."""

    identifier: str
    subnet: Network
    container: bool = False
    lease: Lease | None = None


@dataclass(eq=False, kw_only=True)
class Claim(Request):
    """One address for an identifier. `patient`: others are asked about it after the answer, too."""

    identifier: str
    lease: Lease
    container: bool = False
    patient: bool = False
    refusal: str = field(default="", repr=False)
    """Why the last attempt failed."""


@dataclass(eq=False, kw_only=True)
class Prime(Request):
    """Wait until there is a ring."""
