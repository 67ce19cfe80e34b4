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

from weave_router.wire.gob.codec import Codec
from weave_router.wire.gob.decoder import Decoder
from weave_router.wire.gob.encoder import EncodedElements, Encoder, encode_element
from weave_router.wire.gob.primitives import GobError, byte_length, encode_uint
from weave_router.wire.gob.schemas import (
    BOOL,
    BYTES,
    INT,
    STRING,
    UINT,
    UINT16,
    UINT32,
    Bool,
    Bytes,
    Int,
    Map,
    Schema,
    Slice,
    String,
    Struct,
    Uint,
)

__all__ = [
    "BOOL",
    "BYTES",
    "INT",
    "STRING",
    "UINT",
    "UINT16",
    "UINT32",
    "Bool",
    "Bytes",
    "Codec",
    "Decoder",
    "EncodedElements",
    "Encoder",
    "GobError",
    "Int",
    "Map",
    "Schema",
    "Slice",
    "String",
    "Struct",
    "Uint",
    "byte_length",
    "encode_element",
    "encode_uint",
]
