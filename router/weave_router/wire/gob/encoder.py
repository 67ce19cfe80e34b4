"""Writes gob streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from weave_router.wire.gob.primitives import (
    encode_int,
    encode_string,
    encode_uint,
    framed,
    write_bool,
    write_bytes,
    write_int,
    write_string,
    write_uint,
)
from weave_router.wire.gob.schemas import (
    FIRST_TYPE_NUMBER,
    Bool,
    Bytes,
    Int,
    Map,
    Slice,
    String,
    Struct,
    Uint,
    basic_number,
    parts,
)

if TYPE_CHECKING:
    from weave_router.wire.gob.primitives import Writer
    from weave_router.wire.gob.schemas import Schema


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
            self._out += framed(encode_int(-self._numbers[id(described)]) + self._descriptor(described))

    def chunk(self, schema: Schema, value: Any) -> bytes:
        """The chunk of one value, without appending it; `define` must have been called for the schema."""
        body = bytearray(encode_int(self._type_number(schema)))
        if not isinstance(schema, Struct):
            body.append(0)
        self._writer(schema)(body, value)
        return framed(body)

    @property
    def definitions(self) -> int:
        """How many types have been defined."""
        return len(self._numbers)

    def getvalue(self) -> bytes:
        """All that has been written."""
        return bytes(self._out)

    def _type_number(self, schema: Schema) -> int:
        return basic_number(schema) or self._numbers[id(schema)]

    def _number(self, schema: Schema, pending: list[Schema]) -> None:
        if basic_number(schema) or id(schema) in self._numbers:
            return
        self._numbers[id(schema)] = FIRST_TYPE_NUMBER + 1 + len(self._numbers)
        self._schemas.append(schema)
        pending.append(schema)
        for part in parts(schema):
            self._number(part, pending)

    def _descriptor(self, schema: Schema) -> bytes:
        name = encode_string(getattr(schema, "name", ""))
        number = encode_int(self._type_number(schema))
        common = (b"\x01" + name + b"\x01" if name != b"\0" else b"\x02") + number + b"\0"
        match schema:
            case Slice(element):
                body = b"\x02\x01" + common + b"\x01" + encode_int(self._type_number(element))
            case Map(key, element):
                body = b"\x04\x01" + common + b"\x01" + encode_int(self._type_number(key))
                body += b"\x01" + encode_int(self._type_number(element))
            case Struct(fields):
                body = b"\x03\x01" + common + (b"\x01" + encode_uint(len(fields)) if fields else b"")
                for field_name, part in fields.items():
                    body += b"\x01" + encode_string(field_name) + b"\x01"
                    body += encode_int(self._type_number(part)) + b"\0"
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
                return write_uint
            case Int():
                return write_int
            case Bool():
                return write_bool
            case String():
                return write_string
            case Bytes():
                return write_bytes
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
