"""gob for any schema and any value: against our own encoder and against a second, slow one that numbers as it likes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.wire import gob

if TYPE_CHECKING:
    import random

    from hypothesis.strategies import DrawFn, SearchStrategy

MODERATE = settings(deadline=None)

LEAVES: list[gob.Schema] = [gob.UINT, gob.Uint(16), gob.Uint(48), gob.INT, gob.STRING, gob.BYTES, gob.BOOL]
NAMES = st.text("abcXYZé", min_size=1, max_size=6)


def structs(parts: SearchStrategy[gob.Schema]) -> SearchStrategy[gob.Schema]:
    return st.builds(gob.Struct, st.dictionaries(NAMES, parts, min_size=1, max_size=5), st.text(max_size=4))


KEYS = st.one_of(st.sampled_from(LEAVES), structs(st.sampled_from(LEAVES)))
SCHEMAS: SearchStrategy[gob.Schema] = st.recursive(
    st.sampled_from(LEAVES),
    lambda parts: st.one_of(
        structs(parts), st.builds(gob.Slice, parts), st.builds(gob.Map, KEYS, parts), st.builds(gob.Map, KEYS, parts)
    ),
    max_leaves=8,
)


def values(schema: gob.Schema) -> SearchStrategy[Any]:
    """Values as the encoder takes them: fields may be absent, also zero ones may be given."""
    match schema:
        case gob.Uint(bits):
            return st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 2**bits - 1))
        case gob.Int():
            return st.one_of(st.sampled_from([0, -1, 63, 64, -64, -65]), st.integers(-(2**63), 2**63 - 1))
        case gob.String():
            return st.one_of(
                st.text(max_size=40),
                st.binary(max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
            )
        case gob.Bytes():
            return st.binary(max_size=200)
        case gob.Bool():
            return st.booleans()
        case gob.Struct(fields):
            return st.fixed_dictionaries({}, optional={name: values(part) for name, part in fields.items()})
        case gob.Slice(element):
            return st.lists(values(element), max_size=4)
        case gob.Map(gob.Struct() as key, element):
            return st.lists(st.tuples(values(key), values(element)), max_size=3)
        case gob.Map(key, element):
            return st.dictionaries(values(key), values(element), max_size=4)


def left(schema: gob.Schema, value: Any) -> Any:
    """What is left of a value after the journey: fields left out as gob.md section 4 says."""
    match schema:
        case gob.Struct(fields):
            kept = {}
            for name, part in value.items():
                if isinstance(fields[name], gob.Struct | gob.Map) or part:
                    kept[name] = left(fields[name], part)
            return kept
        case gob.Slice(element):
            return [left(element, part) for part in value]
        case gob.Map(gob.Struct() as key, element):
            return [(left(key, name), left(element, part)) for name, part in value]
        case gob.Map(_, element):
            return {name: left(element, part) for name, part in value.items()}
    return value


@st.composite
def schema_and_values(draw: DrawFn) -> tuple[gob.Schema, list[Any]]:
    schema = draw(SCHEMAS)
    return schema, draw(st.lists(values(schema), min_size=1, max_size=3))


@MODERATE
@given(st.lists(schema_and_values(), min_size=1, max_size=2))
def test_any_value_of_any_schema_survives_the_journey(content: list[tuple[gob.Schema, list[Any]]]) -> None:
    encoder = gob.Encoder()
    for schema, wanted in content:
        for value in wanted:
            encoder.encode(schema, value)
    decoder = gob.Decoder(encoder.getvalue())
    for schema, wanted in content:
        for value in wanted:
            assert decoder.value(schema) == left(schema, value)
    assert decoder.at_end()


# --- a second encoder, from gob.md sections 2 to 5, for streams that a peer of another make could send ---------------


BASIC = {"Uint": 3, "Int": 2, "String": 6, "Bytes": 5, "Bool": 1}


class FreeEncoder:
    """Numbers types as it likes, defines them in any order, and may write numbers in longer forms than needed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.numbers: dict[int, int] = {}

    def uint(self, value: int) -> bytes:
        width = (value.bit_length() + 7) // 8
        if self.rng.random() < 0.1:
            width = self.rng.randrange(max(width, 1), 9)
        elif value < 128:
            return bytes([value])
        return bytes([256 - width]) + value.to_bytes(width, "big")

    def signed(self, value: int) -> bytes:
        return self.uint(2 * value if value >= 0 else 2 * (-value - 1) + 1)

    def raw(self, value: bytes) -> bytes:
        return self.uint(len(value)) + value

    def number(self, schema: gob.Schema) -> int:
        basic = BASIC.get(type(schema).__name__)
        if basic is not None:
            return basic
        if id(schema) not in self.numbers:
            number = self.rng.randrange(64, 2**20)
            while number in self.numbers.values():
                number = self.rng.randrange(64, 2**20)
            self.numbers[id(schema)] = number
        return self.numbers[id(schema)]

    def parts(self, schema: gob.Schema) -> list[gob.Schema]:
        match schema:
            case gob.Struct(fields):
                return list(fields.values())
            case gob.Slice(element):
                return [element]
            case gob.Map(key, element):
                return [key, element]
        return []

    def described(self, schema: gob.Schema) -> dict[int, gob.Schema]:
        """Every type of its own within the schema."""
        if type(schema).__name__ in BASIC:
            return {}
        found = {id(schema): schema}
        for part in self.parts(schema):
            found |= self.described(part)
        return found

    def definition(self, schema: gob.Schema) -> bytes:
        common = b"\x02" + self.signed(self.number(schema)) + b"\0"
        if self.rng.random() < 0.5:
            common = b"\x01" + self.raw(b"name") + b"\x01" + self.signed(self.number(schema)) + b"\0"
        match schema:
            case gob.Struct(fields):
                body = b"\x03\x01" + common + b"\x01" + self.uint(len(fields))
                for name, part in fields.items():
                    body += b"\x01" + self.raw(name.encode()) + b"\x01" + self.signed(self.number(part)) + b"\0"
            case gob.Slice(element):
                body = b"\x02\x01" + common + b"\x01" + self.signed(self.number(element))
            case gob.Map(key, element):
                body = b"\x04\x01" + common + b"\x01" + self.signed(self.number(key))
                body += b"\x01" + self.signed(self.number(element))
            case _:
                raise AssertionError(schema)
        return self.raw(self.signed(-self.number(schema)) + body + b"\0\0")

    def stream(self, schema: gob.Schema, wanted: list[Any]) -> bytes:
        definitions = list(self.described(schema).values())
        self.rng.shuffle(definitions)
        lead = b"" if isinstance(schema, gob.Struct) else b"\0"
        return b"".join(self.definition(part) for part in definitions) + b"".join(
            self.raw(self.signed(self.number(schema)) + lead + self.value(schema, value)) for value in wanted
        )

    def value(self, schema: gob.Schema, value: Any) -> bytes:
        match schema:
            case gob.Uint() | gob.Bool():
                return self.uint(int(value))
            case gob.Int():
                return self.signed(value)
            case gob.String():
                return self.raw(value.encode("utf-8", "surrogateescape"))
            case gob.Bytes():
                return self.raw(value)
            case gob.Slice(element):
                return self.uint(len(value)) + b"".join(self.value(element, part) for part in value)
            case gob.Map(key, element):
                pairs = list(value.items() if isinstance(value, dict) else value)
                return self.uint(len(pairs)) + b"".join(
                    self.value(key, name) + self.value(element, part) for name, part in pairs
                )
            case gob.Struct(fields):
                out, previous = b"", -1
                for index, (name, part) in enumerate(fields.items()):
                    if name in value and (isinstance(part, gob.Struct | gob.Map) or value[name]):
                        out += self.uint(index - previous) + self.value(part, value[name])
                        previous = index
                return out + b"\0"


@MODERATE
@given(schema_and_values(), st.randoms(use_true_random=False))
def test_streams_of_another_encoder_are_read(content: tuple[gob.Schema, list[Any]], rng: random.Random) -> None:
    schema, wanted = content
    decoder = gob.Decoder(FreeEncoder(rng).stream(schema, wanted))

    assert [decoder.value(schema) for _ in wanted] == [left(schema, value) for value in wanted]
    assert decoder.at_end()


# --- fields that the receiver does not know --------------------------------------------------------------------------


def without_some_fields(schema: gob.Schema, rng: random.Random) -> gob.Schema:
    """The schema of a receiver that knows, and in another order, only some of the fields; at least one of each."""
    match schema:
        case gob.Struct(fields, name):
            known = rng.sample(sorted(fields), rng.randint(1, len(fields)))
            return gob.Struct({field: without_some_fields(fields[field], rng) for field in known}, name)
        case gob.Slice(element):
            return gob.Slice(without_some_fields(element, rng))
        case gob.Map(key, element):
            return gob.Map(without_some_fields(key, rng), without_some_fields(element, rng))
    return schema


def projected(schema: gob.Schema, value: Any) -> Any:
    match schema:
        case gob.Struct(fields):
            return {name: projected(fields[name], part) for name, part in value.items() if name in fields}
        case gob.Slice(element):
            return [projected(element, part) for part in value]
        case gob.Map(gob.Struct() as key, element):
            return [(projected(key, name), projected(element, part)) for name, part in value]
        case gob.Map(_, element):
            return {name: projected(element, part) for name, part in value.items()}
    return value


@MODERATE
@given(schema_and_values(), st.randoms(use_true_random=False))
def test_unknown_fields_are_skipped_whatever_their_type(
    content: tuple[gob.Schema, list[Any]], rng: random.Random
) -> None:
    schema, wanted = content
    receiver = without_some_fields(schema, rng)
    decoder = gob.Decoder(FreeEncoder(rng).stream(schema, wanted))

    assert [decoder.value(receiver) for _ in wanted] == [projected(receiver, left(schema, value)) for value in wanted]


@MODERATE
@given(schema_and_values(), schema_and_values())
def test_another_kind_is_refused(one: tuple[gob.Schema, list[Any]], other: tuple[gob.Schema, list[Any]]) -> None:
    """gob.md section 7: kinds must agree. A value of another kind never passes for one of ours."""
    if type(one[0]) is type(other[0]):
        return
    encoder = gob.Encoder()
    encoder.encode(one[0], one[1][0])

    with pytest.raises(gob.GobError):
        gob.Decoder(encoder.getvalue()).value(other[0])


@MODERATE
@given(st.integers(1, 63), st.integers(0, 2**64 - 1))
def test_a_number_too_large_for_its_field_is_refused(bits: int, number: int) -> None:
    encoder = gob.Encoder()
    encoder.encode(gob.Struct({"N": gob.UINT, "X": gob.BOOL}), {"N": number})
    decoder = gob.Decoder(encoder.getvalue())
    schema = gob.Struct({"N": gob.Uint(bits)})
    if number < 2**bits:
        assert decoder.value(schema).get("N", 0) == number
    else:
        with pytest.raises(gob.GobError):
            decoder.value(schema)


@given(st.integers(0, 60), st.integers(1, 20), st.binary(max_size=5), st.integers(0, 9))
def test_a_long_slice_is_read_in_pieces_as_it_is_read_at_once(count: int, size: int, tail: bytes, number: int) -> None:
    element = gob.Struct({"Name": gob.STRING, "Number": gob.UINT})
    schema = gob.Struct(
        {"Head": gob.UINT, "Unknown": gob.UINT, "List": gob.Slice(element, limit=60), "Tail": gob.BYTES}
    )
    known = gob.Struct({name: part for name, part in schema.fields.items() if name != "Unknown"})
    value = {
        "Head": number,
        "Unknown": 5,
        "List": [{"Name": f"n{index}", "Number": index} for index in range(count)],
        "Tail": tail,
    }
    encoder = gob.Encoder()
    encoder.encode(schema, value)
    stream = encoder.getvalue()
    gathered: dict[str, Any] = {}
    for name, part, position in gob.Decoder(stream).pieces(known, size):
        assert 0 < position <= len(stream)
        if name == "List":
            assert 0 < len(part) <= size
            gathered.setdefault("List", []).extend(part)
        else:
            gathered[name] = part
    assert gathered == gob.Decoder(stream).value(known)


@given(st.binary(max_size=40), st.integers(0, 200))
def test_a_damaged_stream_read_in_pieces_is_a_gob_error_or_a_value(damage: bytes, where: int) -> None:
    schema = gob.Struct({"Head": gob.UINT, "List": gob.Slice(gob.UINT, limit=60)})
    encoder = gob.Encoder()
    encoder.encode(schema, {"Head": 5, "List": list(range(30))})
    stream = bytearray(encoder.getvalue())
    stream[where % len(stream) : where % len(stream) + len(damage)] = damage
    with contextlib.suppress(gob.GobError):
        for _ in gob.Decoder(bytes(stream)).pieces(schema, 7):
            pass
