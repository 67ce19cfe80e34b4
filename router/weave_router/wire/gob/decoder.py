"""Reads gob streams. All input is hostile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weave_router.wire.gob.primitives import (
    GobError,
    bounded_string_reader,
    bounded_uint_reader,
    read_bool,
    read_bytes,
    read_int,
    read_string,
    read_uint,
)
from weave_router.wire.gob.recurring import RecurringElements
from weave_router.wire.gob.schemas import (
    BASIC_TYPES,
    BOOL_TYPE,
    BYTES_TYPE,
    FIRST_TYPE_NUMBER,
    INT_TYPE,
    STRING_TYPE,
    UINT_TYPE,
    Bool,
    Bytes,
    Int,
    Map,
    Slice,
    String,
    Struct,
    Uint,
)
from weave_router.wire.gob.wire_types import (
    BUILT_IN,
    DESCRIPTOR,
    DESCRIPTOR_SCHEMA,
    WireMap,
    WireSlice,
    WireStruct,
    WireType,
    wire_type,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_router.wire.gob.primitives import Reader
    from weave_router.wire.gob.schemas import Schema

MAX_DEFINITIONS = 64
MAX_DEPTH = 16
END_OF_TYPE_NUMBERS = 1 << 20
DEFAULT_MAX_VALUES = 1 << 18
"""Values (elements and fields) that one stream may hold: the topology of 200 fully meshed peers has 10^5."""


class Decoder:
    """Reads the values of one stream, one after another.

    `data` is the whole stream; `max_values` bounds what it may unfold to in memory.
    """

    def __init__(self, data: bytes, max_values: int = DEFAULT_MAX_VALUES) -> None:
        self._data = bytes(data)
        self._pos = 0
        self._types: dict[int, WireType] = {}
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
        if not isinstance(self._types.get(number), WireStruct):
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
        if not isinstance(wire, WireStruct):
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
            elif isinstance(part, Slice) and isinstance(part_wire, WireSlice):
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
            number, pos = read_int(data, pos, end)
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
        descriptor, pos = self._reader(DESCRIPTOR, DESCRIPTOR_SCHEMA)(self._data, pos, end)
        if pos != end:
            raise GobError("bytes left over behind a type definition")
        if len(descriptor) != 1:
            raise GobError("type definition of no or several kinds")
        self._types[number] = wire_type(descriptor)

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
            case Uint(bits) if number == UINT_TYPE:
                return read_uint if bits == 64 else bounded_uint_reader(bits)
            case Int() if number == INT_TYPE:
                return read_int
            case String(limit) if number == STRING_TYPE:
                return read_string if limit is None else bounded_string_reader(limit)
            case Bytes() if number == BYTES_TYPE:
                return read_bytes
            case Bool() if number == BOOL_TYPE:
                return read_bool
        wire = self._wire(number)
        match schema, wire:
            case Struct(), WireStruct():
                return self._struct_reader(wire, schema)
            case Slice(), WireSlice():
                return self._slice_reader(wire, schema)
            case Map(), WireMap():
                return self._map_reader(wire, schema)
        raise GobError(f"type number {number} where {type(schema).__name__.lower()} is expected")

    def _wire(self, number: int) -> WireType | None:
        if number in BASIC_TYPES:
            return None
        wire = self._types.get(number) or BUILT_IN.get(number)
        if wire is None:
            raise GobError(f"type number {number} is not defined")
        return wire

    def _struct_reader(self, wire: WireStruct, schema: Struct) -> Reader:
        known = [
            (name, self._reader(number, schema.fields[name]) if name in schema.fields else None, number)
            for name, number in wire.fields
        ]
        if not any(reader for _, reader, _ in known):
            raise GobError("struct without any known field")
        count, make = len(known), schema.make

        def read(data: bytes, pos: int, end: int) -> tuple[Any, int]:
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
            return (value if make is None else make(value)), pos

        return read

    def _slice_reader(self, wire: WireSlice, schema: Slice) -> Reader:
        element = self._reader(wire.element, schema.element)
        if schema.recurring:
            elements = RecurringElements(element)

            def read_recurring(data: bytes, pos: int, end: int) -> tuple[list[Any], int]:
                count, pos = self._count(schema, pos, end)
                return elements.read(data, pos, end, count)

            return read_recurring

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

    def _map_reader(self, wire: WireMap, schema: Map) -> Reader:
        read_key = self._reader(wire.key, schema.key)
        read_element = self._reader(wire.element, schema.element)
        hashable = not isinstance(schema.key, Struct | Slice | Map)

        def read_pair(data: bytes, pos: int, end: int) -> tuple[tuple[Any, Any], int]:
            key, pos = read_key(data, pos, end)
            element, pos = read_element(data, pos, end)
            return (key, element), pos

        recurring = RecurringElements(read_pair) if schema.recurring else None

        def read(data: bytes, pos: int, end: int) -> tuple[Any, int]:
            count, pos = read_uint(data, pos, end)
            if count > min((end - pos) // 2, schema.limit):
                raise GobError(f"{count} entries of a map")
            self._spend(2 * count)
            if recurring is not None:
                pairs, pos = recurring.read(data, pos, end, count)
            else:
                pairs = []
                for _ in range(count):
                    pair, pos = read_pair(data, pos, end)
                    pairs.append(pair)
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
        if number in (BOOL_TYPE, INT_TYPE, UINT_TYPE):
            return read_uint(data, pos, end)[1]
        if number in (BYTES_TYPE, STRING_TYPE):
            return read_bytes(data, pos, end)[1]
        wire = self._wire(number)
        if isinstance(wire, WireStruct):
            index = -1
            while True:
                delta, pos = read_uint(data, pos, end)
                if delta == 0:
                    return pos
                index += delta
                if index >= len(wire.fields):
                    raise GobError("field number beyond the struct")
                pos = self._skip(wire.fields[index][1], pos, end, depth + 1)
        parts = (wire.key, wire.element) if isinstance(wire, WireMap) else (wire.element,) if wire else ()
        count, pos = read_uint(data, pos, end)
        if count * len(parts) > end - pos:
            raise GobError(f"{count} elements that no data follow")
        self._spend(count * len(parts))
        for _ in range(count):
            for part in parts:
                pos = self._skip(part, pos, end, depth + 1)
        return pos
