"""What a message kind consists of, for `Encoder` and `Decoder`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Uint:
    """An unsigned integer of at most `bits` bits."""

    bits: int = 64


@dataclass(frozen=True, slots=True)
class Int:
    """A signed 64-bit integer."""


@dataclass(frozen=True, slots=True)
class String:
    """Text of at most `limit` bytes. Invalid UTF-8 is kept by surrogate escapes, so that it leaves as it came."""

    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Bytes:
    """A byte string."""


@dataclass(frozen=True, slots=True)
class Bool:
    """A truth value."""


@dataclass(frozen=True, slots=True, eq=False)
class Struct:
    """A struct; `name` is sent in the descriptor, for information only.

    `make`: what the decoder turns a dict into; it may raise `GobError`.
    """

    fields: Mapping[str, Schema]
    name: str = ""
    make: Callable[[dict[str, Any]], Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A list of equal elements, at most `limit` of them.

    `recurring`: most elements are those of the slice that was read before. A decoder that is used again then takes them
    from there, the same objects, which nobody may change.
    """

    element: Schema
    name: str = ""
    limit: int = 65536
    recurring: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """A map, at most `limit` entries. A key that comes twice: the last one wins. `recurring`: as with `Slice`."""

    key: Schema
    element: Schema
    name: str = ""
    limit: int = 65536
    recurring: bool = False


Schema = Uint | Int | String | Bytes | Bool | Struct | Slice | Map

UINT = Uint()
UINT16 = Uint(16)
UINT32 = Uint(32)
INT = Int()
STRING = String()
BYTES = Bytes()
BOOL = Bool()

BOOL_TYPE, INT_TYPE, UINT_TYPE, BYTES_TYPE, STRING_TYPE = 1, 2, 3, 5, 6
FIRST_TYPE_NUMBER = 64
"""Senders give their own types numbers from this one on."""
BASIC_TYPES = frozenset({BOOL_TYPE, INT_TYPE, UINT_TYPE, BYTES_TYPE, STRING_TYPE})


def basic_number(schema: Schema) -> int:
    """The built-in type number, 0 for composite types."""
    match schema:
        case Uint():
            return UINT_TYPE
        case Int():
            return INT_TYPE
        case String():
            return STRING_TYPE
        case Bytes():
            return BYTES_TYPE
        case Bool():
            return BOOL_TYPE
    return 0


def parts(schema: Schema) -> list[Schema]:
    """What a composite type consists of."""
    match schema:
        case Struct(fields):
            return list(fields.values())
        case Slice(element):
            return [element]
        case Map(key, element):
            return [key, element]
    return []
