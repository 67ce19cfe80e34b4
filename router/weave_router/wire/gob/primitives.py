"""Numbers, truth values, byte strings and text of gob, as they stand inside a value (gob.md section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weave_router.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    Reader = Callable[[bytes, int, int], tuple[Any, int]]
    """Reads a value of `data[pos:end]`; returns it and the position behind it. Raises `GobError`."""
    Writer = Callable[[bytearray, Any], None]
    """Appends a value."""


class GobError(ProtocolError):
    """The bytes are no gob stream of the expected content."""


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


def read_int(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """Read a signed integer. Raises `GobError`."""
    value, pos = read_uint(data, pos, end)
    return (~(value >> 1) if value & 1 else value >> 1), pos


def read_bool(data: bytes, pos: int, end: int) -> tuple[bool, int]:
    """Read a truth value. Raises `GobError`."""
    value, pos = read_uint(data, pos, end)
    if value > 1:
        raise GobError(f"truth value {value}")
    return bool(value), pos


def read_bytes(data: bytes, pos: int, end: int) -> tuple[bytes, int]:
    """Read a byte string. Raises `GobError`."""
    length, pos = read_uint(data, pos, end)
    if length > end - pos:
        raise GobError("byte string longer than its chunk")
    return data[pos : pos + length], pos + length


def read_string(data: bytes, pos: int, end: int) -> tuple[str, int]:
    """Read text; invalid UTF-8 becomes surrogate escapes. Raises `GobError`."""
    raw, pos = read_bytes(data, pos, end)
    return raw.decode("utf-8", "surrogateescape"), pos


def encode_uint(value: int) -> bytes:
    """An unsigned integer (0 to 2^64 - 1) in its shortest form. Raises `ValueError` for any other."""
    if value < 0x80:
        return bytes((value,))
    length = (value.bit_length() + 7) >> 3
    if length > 8:
        raise ValueError(f"{value} has more than 64 bits")
    return bytes((256 - length,)) + value.to_bytes(length)


def encode_int(value: int) -> bytes:
    """A signed integer of 64 bits. Raises `ValueError` for a larger one."""
    return encode_uint((~value << 1) | 1 if value < 0 else value << 1)


def bounded_uint_reader(bits: int) -> Reader:
    """Reads unsigned integers of at most so many bits."""

    def read(data: bytes, pos: int, end: int) -> tuple[int, int]:
        value, pos = read_uint(data, pos, end)
        if value >> bits:
            raise GobError(f"number {value} does not fit into {bits} bits")
        return value, pos

    return read


def bounded_string_reader(limit: int) -> Reader:
    """Reads text of at most so many bytes."""

    def read(data: bytes, pos: int, end: int) -> tuple[str, int]:
        text, stop = read_string(data, pos, end)
        if stop - pos > limit and byte_length(text) > limit:
            raise GobError(f"text of more than {limit} bytes")
        return text, stop

    return read


def framed(body: bytes | bytearray) -> bytes:
    """Its length goes before it."""
    return encode_uint(len(body)) + body


def encode_string(text: str) -> bytes:
    """Text with its length; surrogate escapes become the bytes that they stand for."""
    raw = text.encode("utf-8", "surrogateescape")
    return encode_uint(len(raw)) + raw


def write_uint(out: bytearray, value: int) -> None:
    """Append an unsigned integer."""
    out += encode_uint(value)


def write_int(out: bytearray, value: int) -> None:
    """Append a signed integer."""
    out += encode_int(value)


def write_bool(out: bytearray, value: bool) -> None:
    """Append a truth value."""
    out.append(1 if value else 0)


def write_string(out: bytearray, value: str) -> None:
    """Append text."""
    out += encode_string(value)


def write_bytes(out: bytearray, value: bytes) -> None:
    """Append a byte string."""
    out += encode_uint(len(value))
    out += value
