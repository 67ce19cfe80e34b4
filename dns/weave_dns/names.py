"""Host names as texts with a final dot (RFC 1035): form, place in a domain, and those that stand for addresses.

Letter case means nothing but is kept. `fold` gives the form in which names are compared.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from weave_dns.errors import InvalidName

MAX_NAME_BYTES = 254
"""Of a text with its final dot: one less than on the wire."""
MAX_LABEL_BYTES = 63
_IPV4_REVERSE = (b"in-addr", b"arpa")
_IPV6_REVERSE = (b"ip6", b"arpa")

Address = IPv4Address | IPv6Address


def fold(name: str) -> str:
    """The form in which two names are compared."""
    return name.lower()


def absolute(text: str) -> str:
    """The name with its final dot. Raises `InvalidName`."""
    name = text if text.endswith(".") else f"{text}."
    labels = name[:-1].split(".")
    encoded = [label.encode("utf-8", "surrogateescape") for label in labels]
    if (
        not all(0 < len(label) <= MAX_LABEL_BYTES for label in encoded)
        or sum(map(len, encoded)) + len(encoded) > MAX_NAME_BYTES
    ):
        raise InvalidName(f"{text[:80]!r} is no host name: labels have 1 to 63 characters, the whole name at most 253")
    if not all(c.isalnum() or c in "-_" for label in labels for c in label) or not name.isascii():
        raise InvalidName(f"{text[:80]!r} is no host name: use letters, digits, hyphens and dots")
    return name


def is_within(name: str, domain: str) -> bool:
    """Whether a name is the domain or below it; both with a final dot."""
    folded, ending = fold(name), fold(domain)
    return folded == ending or folded.endswith(f".{ending}")


def wire_labels(name: str) -> tuple[bytes, ...]:
    """The labels of a name as they stand in messages."""
    return tuple(label.encode("utf-8", "surrogateescape") for label in name.rstrip(".").split(".") if label)


def wire_name(name: str) -> bytes | None:
    """A name as it stands in messages; None for one that cannot (peers may send any text)."""
    labels = wire_labels(name)
    if any(len(label) > MAX_LABEL_BYTES for label in labels):
        return None
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return wire if len(wire) <= MAX_NAME_BYTES + 1 else None


def address_of(labels: tuple[bytes, ...]) -> Address | None:
    """The address that a name below `in-addr.arpa` or `ip6.arpa` stands for, if it is a complete one (RFC 3596)."""
    zone, rest = labels[-2:], labels[:-2]
    if zone == _IPV4_REVERSE and len(rest) == 4 and all(_is_octet(label) for label in rest):
        return IPv4Address(bytes(int(label) for label in reversed(rest)))
    if zone == _IPV6_REVERSE and len(rest) == 32 and all(len(label) == 1 for label in rest):
        digits = b"".join(reversed(rest)).lower()
        if not digits.strip(b"0123456789abcdef"):
            return IPv6Address(bytes.fromhex(digits.decode("ascii")))
    return None


def _is_octet(label: bytes) -> bool:
    return label.isdigit() and len(label) <= 3 and int(label) < 256
