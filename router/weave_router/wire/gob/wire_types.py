"""What a sender says about its types (gob.md section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from weave_router.wire.gob.primitives import GobError
from weave_router.wire.gob.schemas import INT, INT_TYPE, STRING, STRING_TYPE, Slice, Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FIELDS = 64
MAX_NAME_BYTES = 256


@dataclass(frozen=True, slots=True)
class WireStruct:
    """A struct: names and type numbers of its fields."""

    fields: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class WireSlice:
    """A slice: the type number of its elements."""

    element: int


@dataclass(frozen=True, slots=True)
class WireMap:
    """A map: the type numbers of keys and elements."""

    key: int
    element: int


WireType = WireStruct | WireSlice | WireMap

# The descriptors are themselves structs, of these types (gob.md section 5).
DESCRIPTOR, _COMMON, _SLICE_T, _STRUCT_T, _FIELD, _FIELDS, _MAP_T, _UNUSED = 16, 18, 19, 20, 21, 22, 23, 24
BUILT_IN: dict[int, WireType] = {
    DESCRIPTOR: WireStruct(
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
    _COMMON: WireStruct((("Name", STRING_TYPE), ("Id", INT_TYPE))),
    _SLICE_T: WireStruct((("Common", _COMMON), ("Elem", INT_TYPE))),
    _STRUCT_T: WireStruct((("Common", _COMMON), ("Field", _FIELDS))),
    _FIELD: WireStruct((("Name", STRING_TYPE), ("Id", INT_TYPE))),
    _FIELDS: WireSlice(_FIELD),
    _MAP_T: WireStruct((("Common", _COMMON), ("Key", INT_TYPE), ("Elem", INT_TYPE))),
    _UNUSED: WireStruct((("Common", _COMMON),)),
}
_COMMON_SCHEMA = Struct({"Name": STRING, "Id": INT})
DESCRIPTOR_SCHEMA = Struct(
    {
        "Array": Struct({"Common": _COMMON_SCHEMA}),
        "Slice": Struct({"Common": _COMMON_SCHEMA, "Elem": INT}),
        "Struct": Struct({"Common": _COMMON_SCHEMA, "Field": Slice(_COMMON_SCHEMA, limit=MAX_FIELDS)}),
        "Map": Struct({"Common": _COMMON_SCHEMA, "Key": INT, "Elem": INT}),
    }
)


def wire_type(descriptor: Mapping[str, Any]) -> WireType:
    """What a descriptor says. Raises `GobError`."""
    match descriptor:
        case {"Struct": struct}:
            fields = tuple((entry.get("Name", ""), entry.get("Id", 0)) for entry in struct.get("Field", ()))
            if any(not 0 < len(name) <= MAX_NAME_BYTES for name, _ in fields):
                raise GobError("field name of no or too many bytes")
            return WireStruct(fields)
        case {"Slice": described}:
            return WireSlice(described.get("Elem", 0))
        case {"Map": described}:
            return WireMap(described.get("Key", 0), described.get("Elem", 0))
    raise GobError("array types are not used in this protocol")
