"""The subset of Go's gob encoding that Weave Net uses (gob.md).

A message kind is described once as a schema; `Encoder` and `Decoder` follow it. Values are plain Python:

    Uint, Int -> int      String -> str      Bytes -> bytes      Bool -> bool
    Struct    -> dict     fields that are zero on the wire are absent; unknown fields are skipped
    Slice     -> list
    Map       -> dict, or a list of (key, value) where the key is a struct

Struct fields are matched by name, as the reference does; the numbers and order that the sender chose do not matter.
All input is hostile: nothing is allocated from an announced count, recursion and the number of values are bounded,
and whatever the bytes, `GobError` is the only exception that leaves the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from weave_router.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Reader = Callable[[bytes, int, int], tuple[Any, int]]
    Writer = Callable[[bytearray, Any], None]

MAX_DEFINITIONS = 64
MAX_FIELDS = 64
MAX_NAME_BYTES = 256
MAX_DEPTH = 16
FIRST_TYPE_NUMBER = 64
END_OF_TYPE_NUMBERS = 1 << 20
DEFAULT_MAX_VALUES = 1 << 18
"""Values (elements and fields) that one stream may hold: the topology of 200 fully meshed peers has 10^5."""


class GobError(ProtocolError):
    """The bytes are no gob stream of the expected content."""


# --- schemas -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Uint:
    """An unsigned integer of at most `bits` bits."""

    bits: int = 64


@dataclass(frozen=True, slots=True)
class Int:
    """A signed 64-bit integer."""


@dataclass(frozen=True, slots=True)
class String:
    """Text. Invalid UTF-8 is kept by surrogate escapes, so that it leaves as it came."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """A byte string."""


@dataclass(frozen=True, slots=True)
class Bool:
    """A truth value."""


@dataclass(frozen=True, slots=True, eq=False)
class Struct:
    """A struct; `name` is sent in the descriptor, for information only."""

    fields: Mapping[str, Schema]
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A list of equal elements, at most `limit` of them."""

    element: Schema
    name: str = ""
    limit: int = 65536


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """A map, at most `limit` entries. A key that comes twice: the last one wins."""

    key: Schema
    element: Schema
    name: str = ""
    limit: int = 65536


Schema = Uint | Int | String | Bytes | Bool | Struct | Slice | Map

UINT = Uint()
UINT16 = Uint(16)
UINT32 = Uint(32)
INT = Int()
STRING = String()
BYTES = Bytes()
BOOL = Bool()

_BOOL_TYPE, _INT_TYPE, _UINT_TYPE, _BYTES_TYPE, _STRING_TYPE = 1, 2, 3, 5, 6
_BASIC_TYPES = frozenset({_BOOL_TYPE, _INT_TYPE, _UINT_TYPE, _BYTES_TYPE, _STRING_TYPE})

# --- wire types: what the sender says about its types ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _WireStruct:
    fields: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _WireSlice:
    element: int


@dataclass(frozen=True, slots=True)
class _WireMap:
    key: int
    element: int


_WireType = _WireStruct | _WireSlice | _WireMap

# The descriptors are themselves structs, of these types (gob.md section 5).
_DESCRIPTOR, _COMMON, _SLICE_T, _STRUCT_T, _FIELD, _FIELDS, _MAP_T, _UNUSED = 16, 18, 19, 20, 21, 22, 23, 24
_BUILT_IN: dict[int, _WireType] = {
    _DESCRIPTOR: _WireStruct(
        (
            ("Array", _UNUSED),
            ("Slice", _SLICE_T),
            ("Struct", _STRUCT_T),
            ("Map", _MAP_T),
            ("GobEncoder", _UNUSED),
            ("BinaryMarshaler", _UNUSED),
            ("TextMarshaler", _UNUSED),
        )
    ),
    _COMMON: _WireStruct((("Name", _STRING_TYPE), ("Id", _INT_TYPE))),
    _SLICE_T: _WireStruct((("Common", _COMMON), ("Elem", _INT_TYPE))),
    _STRUCT_T: _WireStruct((("Common", _COMMON), ("Field", _FIELDS))),
    _FIELD: _WireStruct((("Name", _STRING_TYPE), ("Id", _INT_TYPE))),
    _FIELDS: _WireSlice(_FIELD),
    _MAP_T: _WireStruct((("Common", _COMMON), ("Key", _INT_TYPE), ("Elem", _INT_TYPE))),
    _UNUSED: _WireStruct((("Common", _COMMON),)),
}
_COMMON_SCHEMA = Struct({"Name": STRING, "Id": INT})
_DESCRIPTOR_SCHEMA = Struct(
    {
        "Array": Struct({"Common": _COMMON_SCHEMA}),
        "Slice": Struct({"Common": _COMMON_SCHEMA, "Elem": INT}),
        "Struct": Struct({"Common": _COMMON_SCHEMA, "Field": Slice(_COMMON_SCHEMA, limit=MAX_FIELDS)}),
        "Map": Struct({"Common": _COMMON_SCHEMA, "Key": INT, "Elem": INT}),
    }
)

# --- primitives -----------------------------------------------------------------------------------------------------


def read_uint(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Read an unsigned integer of `data[pos:end]`; returns it and the position behind it. Raises `GobError`."""
    if pos >= end:
        raise GobError("data end within a value")
    first = data[pos]
    if first < 0x80:
        return first, pos + 1
    stop = pos + 257 - first
    if first < 0xF8:
        raise GobError(f"bad first byte {first:#04x} of a number")
    if stop > end:
        raise GobError("data end within a number")
    return int.from_bytes(data[pos + 1 : stop]), stop


def byte_length(text: str) -> int:
    """How many bytes a string has on the wire."""
    return len(text.encode("utf-8", "surrogateescape"))


def _read_int(data: bytes, pos: int, end: int) -> tuple[int, int]:
    value, pos = read_uint(data, pos, end)
    return (~(value >> 1) if value & 1 else value >> 1), pos


def _read_bool(data: bytes, pos: int, end: int) -> tuple[bool, int]:
    value, pos = read_uint(data, pos, end)
    if value > 1:
        raise GobError(f"truth value {value}")
    return bool(value), pos


def _read_bytes(data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    length, pos = read_uint(data, pos, end)
    if length > end - pos:
        raise GobError("byte string longer than its chunk")
    return data[pos : pos + length], pos + length


def _read_string(data: bytes, pos: int, end: int) -> tuple[str, int]:
    raw, pos = _read_bytes(data, pos, end)
    return raw.decode("utf-8", "surrogateescape"), pos


def encode_uint(value: int) -> bytes:
    """An unsigned integer (0 to 2^64 - 1) in its shortest form. Raises `ValueError` for any other."""
    if value < 0x80:
        return bytes((value,))
    length = (value.bit_length() + 7) >> 3
    if length > 8:
        raise ValueError(f"{value} has more than 64 bits")
    return bytes((256 - length,)) + value.to_bytes(length)


def _encode_int(value: int) -> bytes:
    return encode_uint((~value << 1) | 1 if value < 0 else value << 1)


# --- decoding -------------------------------------------------------------------------------------------------------


class Decoder:
    """Reads the values of one stream, one after another.

    `data` is the whole stream; `max_values` bounds what it may unfold to in memory.
    """

    def __init__(self, data: bytes, max_values: int = DEFAULT_MAX_VALUES) -> None:
        self._data = bytes(data)
        self._pos = 0
        self._types: dict[int, _WireType] = {}
        self._readers: dict[tuple[int, int], Reader] = {}
        self._schemas: list[Schema] = []  # keeps the ids used as keys of _readers alive
        self._budget = self._max_values = max_values

    def restart(self, data: bytes, pos: int) -> None:
        """Read another stream from `pos` on, whose definitions before it are those that this decoder has read."""
        self._data, self._pos, self._budget = bytes(data), pos, self._max_values

    @property
    def definitions(self) -> int:
        """How many types have been defined so far."""
        return len(self._types)

    def at_end(self) -> bool:
        """Whether all data have been read."""
        return self._pos >= len(self._data)

    def value(self, schema: Schema) -> Any:
        """Read the next value, which must be of this schema. Raises `GobError`."""
        number, pos, end = self._next()
        data = self._data
        if not isinstance(self._types.get(number), _WireStruct):
            if pos >= end or data[pos] != 0:
                raise GobError("value without the leading zero byte")
            pos += 1
        value, pos = self._reader(number, schema)(data, pos, end)
        if pos != end:
            raise GobError("bytes left over behind a value")
        return value

    def pieces(self, schema: Struct, size: int) -> Iterator[tuple[str, Any, int]]:
        """Read the next value, a struct, in steps that the caller may pause between. Raises `GobError`.

        Yields the name of each field, its value, and where in the stream what follows it begins. A slice comes as
        lists of at most `size` elements, with the field's name again each time.
        """
        number, pos, end = self._next()
        wire, data = self._types.get(number), self._data
        if not isinstance(wire, _WireStruct):
            raise GobError(f"type number {number} where a struct is expected")
        index = -1
        while True:
            delta, pos = read_uint(data, pos, end)
            if delta == 0:
                break
            index += delta
            if index >= len(wire.fields):
                raise GobError("field number beyond the struct")
            name, part_number = wire.fields[index]
            part, part_wire = schema.fields.get(name), self._types.get(part_number)
            if part is None:
                pos = self._skip(part_number, pos, end, 1)
            elif isinstance(part, Slice) and isinstance(part_wire, _WireSlice):
                read = self._reader(part_wire.element, part.element)
                count, pos = self._count(part, pos, end)
                while count:
                    values = []
                    for _ in range(min(size, count)):
                        value, pos = read(data, pos, end)
                        values.append(value)
                    count -= len(values)
                    yield name, values, pos
            else:
                value, pos = self._reader(part_number, part)(data, pos, end)
                yield name, value, pos
        if pos != end:
            raise GobError("bytes left over behind a value")

    def peek(self, count: int) -> bytes:
        """The next chunks as they are; fewer bytes, perhaps none, where so many values do not follow at once."""
        data, pos = self._data, self._pos
        for _ in range(count):
            if pos >= len(data):
                break
            length, start = read_uint(data, pos, len(data))
            pos = start + length
        return data[self._pos : pos]

    def skip(self) -> None:
        """Pass over the next value, whatever it is; the definitions before it are read. Raises `GobError`."""
        self._next()

    def _next(self) -> tuple[int, int, int]:
        """Read definitions up to the next value; returns its type number, and where its content begins and ends."""
        data = self._data
        while True:
            length, pos = read_uint(data, self._pos, len(data))
            end = pos + length
            if end > len(data):
                raise GobError("chunk longer than the data")
            number, pos = _read_int(data, pos, end)
            self._pos = end
            if number >= 0:
                return number, pos, end
            self._define(-number, pos, end)

    def _define(self, number: int, pos: int, end: int) -> None:
        if not FIRST_TYPE_NUMBER <= number < END_OF_TYPE_NUMBERS:
            raise GobError(f"definition of type number {number}")
        if number in self._types:
            raise GobError(f"type number {number} defined twice")
        if len(self._types) >= MAX_DEFINITIONS:
            raise GobError(f"more than {MAX_DEFINITIONS} type definitions")
        descriptor, pos = self._reader(_DESCRIPTOR, _DESCRIPTOR_SCHEMA)(self._data, pos, end)
        if pos != end:
            raise GobError("bytes left over behind a type definition")
        if len(descriptor) != 1:
            raise GobError("type definition of no or several kinds")
        self._types[number] = _wire_type(descriptor)

    def _reader(self, number: int, schema: Schema) -> Reader:
        """The function that reads a value of the sender's type `number` as `schema`; made once per stream."""
        key = (number, id(schema))
        reader = self._readers.get(key)
        if reader is None:
            self._schemas.append(schema)
            reader = self._readers[key] = self._make_reader(number, schema)
        return reader

    def _make_reader(self, number: int, schema: Schema) -> Reader:
        match schema:
            case Uint(bits) if number == _UINT_TYPE:
                return read_uint if bits == 64 else _bounded_uint_reader(bits)
            case Int() if number == _INT_TYPE:
                return _read_int
            case String() if number == _STRING_TYPE:
                return _read_string
            case Bytes() if number == _BYTES_TYPE:
                return _read_bytes
            case Bool() if number == _BOOL_TYPE:
                return _read_bool
        wire = self._wire(number)
        match schema, wire:
            case Struct(), _WireStruct():
                return self._struct_reader(wire, schema)
            case Slice(), _WireSlice():
                return self._slice_reader(wire, schema)
            case Map(), _WireMap():
                return self._map_reader(wire, schema)
        raise GobError(f"type number {number} where {type(schema).__name__.lower()} is expected")

    def _wire(self, number: int) -> _WireType | None:
        if number in _BASIC_TYPES:
            return None
        wire = self._types.get(number) or _BUILT_IN.get(number)
        if wire is None:
            raise GobError(f"type number {number} is not defined")
        return wire

    def _struct_reader(self, wire: _WireStruct, schema: Struct) -> Reader:
        known = [
            (name, self._reader(number, schema.fields[name]) if name in schema.fields else None, number)
            for name, number in wire.fields
        ]
        if not any(reader for _, reader, _ in known):
            raise GobError("struct without any known field")
        count = len(known)

        def read(data: bytes, pos: int, end: int) -> tuple[dict[str, Any], int]:
            value: dict[str, Any] = {}
            index = -1
            while True:
                delta, pos = read_uint(data, pos, end)
                if delta == 0:
                    break
                index += delta
                if index >= count:
                    raise GobError("field number beyond the struct")
                name, reader, number = known[index]
                if reader is None:
                    pos = self._skip(number, pos, end, 1)
                else:
                    value[name], pos = reader(data, pos, end)
            self._spend(len(value) + 1)
            return value, pos

        return read

    def _slice_reader(self, wire: _WireSlice, schema: Slice) -> Reader:
        element = self._reader(wire.element, schema.element)

        def read(data: bytes, pos: int, end: int) -> tuple[list[Any], int]:
            count, pos = self._count(schema, pos, end)
            values = []
            for _ in range(count):
                value, pos = element(data, pos, end)
                values.append(value)
            return values, pos

        return read

    def _count(self, schema: Slice, pos: int, end: int) -> tuple[int, int]:
        count, pos = read_uint(self._data, pos, end)
        if count > min(end - pos, schema.limit):
            raise GobError(f"{count} elements of a slice")
        self._spend(count)
        return count, pos

    def _map_reader(self, wire: _WireMap, schema: Map) -> Reader:
        read_key = self._reader(wire.key, schema.key)
        read_element = self._reader(wire.element, schema.element)
        hashable = not isinstance(schema.key, Struct | Slice | Map)

        def read(data: bytes, pos: int, end: int) -> tuple[Any, int]:
            count, pos = read_uint(data, pos, end)
            if count > min((end - pos) // 2, schema.limit):
                raise GobError(f"{count} entries of a map")
            self._spend(2 * count)
            pairs = []
            for _ in range(count):
                key, pos = read_key(data, pos, end)
                value, pos = read_element(data, pos, end)
                pairs.append((key, value))
            return (dict(pairs) if hashable else pairs), pos

        return read

    def _spend(self, values: int) -> None:
        self._budget -= values
        if self._budget < 0:
            raise GobError("too many values in one stream")

    def _skip(self, number: int, pos: int, end: int, depth: int) -> int:
        """Pass over a value of a field that we do not know."""
        if depth > MAX_DEPTH:
            raise GobError("values nested too deeply")
        data = self._data
        if number in (_BOOL_TYPE, _INT_TYPE, _UINT_TYPE):
            return read_uint(data, pos, end)[1]
        if number in (_BYTES_TYPE, _STRING_TYPE):
            return _read_bytes(data, pos, end)[1]
        wire = self._wire(number)
        if isinstance(wire, _WireStruct):
            index = -1
            while True:
                delta, pos = read_uint(data, pos, end)
                if delta == 0:
                    return pos
                index += delta
                if index >= len(wire.fields):
                    raise GobError("field number beyond the struct")
                pos = self._skip(wire.fields[index][1], pos, end, depth + 1)
        parts = (wire.key, wire.element) if isinstance(wire, _WireMap) else (wire.element,) if wire else ()
        count, pos = read_uint(data, pos, end)
        if count * len(parts) > end - pos:
            raise GobError(f"{count} elements that no data follow")
        self._spend(count * len(parts))
        for _ in range(count):
            for part in parts:
                pos = self._skip(part, pos, end, depth + 1)
        return pos


def _bounded_uint_reader(bits: int) -> Reader:
    def read(data: bytes, pos: int, end: int) -> tuple[int, int]:
        value, pos = read_uint(data, pos, end)
        if value >> bits:
            raise GobError(f"number {value} does not fit into {bits} bits")
        return value, pos

    return read


def _wire_type(descriptor: Mapping[str, Any]) -> _WireType:
    match descriptor:
        case {"Struct": struct}:
            fields = tuple((entry.get("Name", ""), entry.get("Id", 0)) for entry in struct.get("Field", ()))
            if any(not 0 < len(name) <= MAX_NAME_BYTES for name, _ in fields):
                raise GobError("field name of no or too many bytes")
            return _WireStruct(fields)
        case {"Slice": described}:
            return _WireSlice(described.get("Elem", 0))
        case {"Map": described}:
            return _WireMap(described.get("Key", 0), described.get("Elem", 0))
    raise GobError("array types are not used in this protocol")


# --- encoding -------------------------------------------------------------------------------------------------------


class EncodedElements(list[bytes]):
    """The elements of a slice, encoded before by `encode_element`."""


def encode_element(schema: Schema, value: Any) -> bytes:
    """A value as it stands inside another one: where the same elements are sent often, they are encoded once."""
    body = bytearray()
    _element_writer(schema)(body, value)
    return bytes(body)


@lru_cache(maxsize=64)
def _element_writer(schema: Schema) -> Writer:
    return Encoder()._writer(schema)


@dataclass(slots=True)
class Encoder:
    """Writes values into one stream; type definitions go before the first value that needs them."""

    _out: bytearray = field(default_factory=bytearray)
    _numbers: dict[int, int] = field(default_factory=dict)
    _schemas: list[Schema] = field(default_factory=list)
    _writers: dict[int, Writer] = field(default_factory=dict)

    def encode(self, schema: Schema, value: Any) -> None:
        """Append a value. A dict for a struct may leave out fields; zero ones are left out on the wire."""
        self.define(schema)
        self._out += self.chunk(schema, value)

    def define(self, schema: Schema) -> None:
        """Write the definitions that values of this schema need, unless they have been written."""
        pending: list[Schema] = []
        self._number(schema, pending)
        for described in pending:
            self._out += _framed(_encode_int(-self._numbers[id(described)]) + self._descriptor(described))

    def chunk(self, schema: Schema, value: Any) -> bytes:
        """The chunk of one value, without appending it; `define` must have been called for the schema."""
        body = bytearray(_encode_int(self._type_number(schema)))
        if not isinstance(schema, Struct):
            body.append(0)
        self._writer(schema)(body, value)
        return _framed(body)

    @property
    def definitions(self) -> int:
        """How many types have been defined."""
        return len(self._numbers)

    def getvalue(self) -> bytes:
        """All that has been written."""
        return bytes(self._out)

    def _type_number(self, schema: Schema) -> int:
        return _basic_number(schema) or self._numbers[id(schema)]

    def _number(self, schema: Schema, pending: list[Schema]) -> None:
        if _basic_number(schema) or id(schema) in self._numbers:
            return
        self._numbers[id(schema)] = FIRST_TYPE_NUMBER + 1 + len(self._numbers)
        self._schemas.append(schema)
        pending.append(schema)
        for part in _parts(schema):
            self._number(part, pending)

    def _descriptor(self, schema: Schema) -> bytes:
        name = _encode_string(getattr(schema, "name", ""))
        number = _encode_int(self._type_number(schema))
        common = (b"\x01" + name + b"\x01" if name != b"\0" else b"\x02") + number + b"\0"
        match schema:
            case Slice(element):
                body = b"\x02\x01" + common + b"\x01" + _encode_int(self._type_number(element))
            case Map(key, element):
                body = b"\x04\x01" + common + b"\x01" + _encode_int(self._type_number(key))
                body += b"\x01" + _encode_int(self._type_number(element))
            case Struct(fields):
                body = b"\x03\x01" + common + (b"\x01" + encode_uint(len(fields)) if fields else b"")
                for field_name, part in fields.items():
                    body += b"\x01" + _encode_string(field_name) + b"\x01"
                    body += _encode_int(self._type_number(part)) + b"\0"
            case _:
                raise AssertionError("basic types have no descriptor")
        return body + b"\0\0"

    def _writer(self, schema: Schema) -> Writer:
        writer = self._writers.get(id(schema))
        if writer is None:
            self._schemas.append(schema)
            writer = self._writers[id(schema)] = self._make_writer(schema)
        return writer

    def _make_writer(self, schema: Schema) -> Writer:
        match schema:
            case Uint():
                return _write_uint
            case Int():
                return _write_int
            case Bool():
                return _write_bool
            case String():
                return _write_string
            case Bytes():
                return _write_bytes
            case Slice(element):
                write_element = self._writer(element)

                def write_slice(out: bytearray, values: Any) -> None:
                    out += encode_uint(len(values))
                    if isinstance(values, EncodedElements):
                        for encoded in values:
                            out += encoded
                        return
                    for value in values:
                        write_element(out, value)

                return write_slice
            case Map(key, element):
                write_key, write_value = self._writer(key), self._writer(element)

                def write_map(out: bytearray, entries: Any) -> None:
                    out += encode_uint(len(entries))
                    for entry_key, value in entries.items() if isinstance(entries, dict) else entries:
                        write_key(out, entry_key)
                        write_value(out, value)

                return write_map
            case Struct(fields):
                writers = [
                    (index, name, self._writer(part), not isinstance(part, Struct | Map))
                    for index, (name, part) in enumerate(fields.items())
                ]

                def write_struct(out: bytearray, value: Any) -> None:
                    previous = -1
                    for index, name, write, omit_zero in writers:
                        part = value.get(name)
                        if part is None or (omit_zero and not part):
                            continue
                        out += encode_uint(index - previous)
                        write(out, part)
                        previous = index
                    out.append(0)

                return write_struct


def _basic_number(schema: Schema) -> int:
    """The built-in type number, 0 for composite types."""
    match schema:
        case Uint():
            return _UINT_TYPE
        case Int():
            return _INT_TYPE
        case String():
            return _STRING_TYPE
        case Bytes():
            return _BYTES_TYPE
        case Bool():
            return _BOOL_TYPE
    return 0


def _parts(schema: Schema) -> list[Schema]:
    match schema:
        case Struct(fields):
            return list(fields.values())
        case Slice(element):
            return [element]
        case Map(key, element):
            return [key, element]
    return []


def _framed(body: bytes | bytearray) -> bytes:
    return encode_uint(len(body)) + body


def _encode_string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return encode_uint(len(raw)) + raw


def _write_uint(out: bytearray, value: int) -> None:
    out += encode_uint(value)


def _write_int(out: bytearray, value: int) -> None:
    out += _encode_int(value)


def _write_bool(out: bytearray, value: bool) -> None:
    out.append(1 if value else 0)


def _write_string(out: bytearray, value: str) -> None:
    out += _encode_string(value)


def _write_bytes(out: bytearray, value: bytes) -> None:
    out += encode_uint(len(value))
    out += value
