"""The errors of weaveDNS; each text is a sentence for whoever asked.

DnsError
 ├── SettingsError     a domain, address or number that makes no sense
 ├── InvalidName       a text that is no host name
 ├── OutsideDomain     a name that is not in the domain that we serve
 ├── TooMany           there is no room for another name
 ├── Unresolved        no upstream server gave an answer
 └── StoredStateError  the stored state cannot be read
"""

from __future__ import annotations


class DnsError(Exception):
    """Whatever this component raises on purpose."""


class SettingsError(DnsError):
    """A setting that cannot be used."""


class InvalidName(DnsError):  # noqa: N818 - named after what is the case
    """The text is no host name."""


class OutsideDomain(DnsError):  # noqa: N818
    """The name is not in the domain that is served."""


class TooMany(DnsError):  # noqa: N818
    """There is no room for another name."""


class Unresolved(DnsError):  # noqa: N818
    """No upstream server gave an answer; the text says why."""


class StoredStateError(DnsError):
    """The stored names cannot be read."""
