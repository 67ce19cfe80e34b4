"""Elements that come again: whatever came before, a message is read as by a decoder that remembers nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weave_router.wire import gob

MODERATE = settings(deadline=None)
FIELDS: dict[str, gob.Schema] = {"Token": gob.UINT32, "Text": gob.STRING, "Parts": gob.Slice(gob.UINT)}


def message(*, recurring: bool) -> gob.Struct:
    return gob.Struct(
        {
            "Elements": gob.Slice(gob.Struct(FIELDS), recurring=recurring),
            "Names": gob.Map(gob.Uint(48), gob.String(5), recurring=recurring),
            "Last": gob.UINT,
        }
    )


REMEMBERING, PLAIN = message(recurring=True), message(recurring=False)

ELEMENTS = st.fixed_dictionaries(
    {},
    optional={
        "Token": st.integers(0, 3),
        "Text": st.sampled_from(["", "a", "aa", "\x01a"]),
        "Parts": st.lists(st.integers(0, 2), max_size=2),
    },
)
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "Elements": st.lists(ELEMENTS, max_size=12),
        "Names": st.dictionaries(st.integers(0, 5), st.sampled_from(["", "x", "y", "xyzxy"]), max_size=6),
        "Last": st.integers(0, 300),
    },
)


@st.composite
def dialogues(draw: st.DrawFn) -> list[Any]:
    """Contents of which each may follow from the one before by a few changes of its elements."""
    contents: list[Any] = [draw(CONTENTS)]
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            contents.append(draw(CONTENTS))
            continue
        before = contents[-1]
        elements = list(before.get("Elements", []))
        for _ in range(draw(st.integers(0, 3))):
            place = draw(st.integers(0, len(elements)))
            match draw(st.sampled_from(["insert", "change", "remove"])):
                case "insert":
                    elements.insert(place, draw(ELEMENTS))
                case "change" if place < len(elements):
                    elements[place] = draw(ELEMENTS)
                case "remove":
                    del elements[place : place + draw(st.integers(1, 3))]
        contents.append({**before, "Elements": elements})
    return contents


def encoded(content: dict[str, Any]) -> bytes:
    return gob.Codec(PLAIN).encode(PLAIN, content)


def outcome(codec: gob.Codec, schema: gob.Struct, payload: bytes) -> Any:
    try:
        return codec.decode(schema, payload)
    except gob.GobError as error:
        return str(error)


@MODERATE
@given(dialogues())
def test_messages_in_any_order_are_read_as_without_memory(contents: list[dict[str, Any]]) -> None:
    codec = gob.Codec(REMEMBERING)
    for content in contents:
        payload = encoded(content)
        assert codec.decode(REMEMBERING, payload) == gob.Codec(PLAIN).decode(PLAIN, payload)


@MODERATE
@given(dialogues(), st.data())
def test_damaged_messages_are_read_or_refused_as_without_memory(
    contents: list[dict[str, Any]], data: st.DataObject
) -> None:
    codec = gob.Codec(REMEMBERING)
    for content in contents:
        payload = bytearray(encoded(content))
        begin = len(codec.definitions)
        if data.draw(st.booleans()):
            place = data.draw(st.integers(begin, len(payload) - 1))
            payload[place] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del payload[data.draw(st.integers(begin, len(payload))) :]
        whole = bytes(payload)
        assert outcome(codec, REMEMBERING, whole) == outcome(gob.Codec(PLAIN), PLAIN, whole)


def test_known_elements_are_the_same_objects() -> None:
    codec = gob.Codec(REMEMBERING)
    elements: list[dict[str, Any]] = [{"Token": number, "Text": f"element {number}"} for number in range(1, 101)]
    first = codec.decode(REMEMBERING, encoded({"Elements": elements}))["Elements"]
    elements[50] = {"Token": 1000}
    elements.insert(70, {"Token": 2000})
    del elements[90]
    second = codec.decode(REMEMBERING, encoded({"Elements": elements}))["Elements"]
    assert second == elements
    assert [element for element in second if not any(element is known for known in first)] == [
        {"Token": 1000},
        {"Token": 2000},
    ]


def test_what_is_read_can_be_changed_without_harm_to_the_next_message() -> None:
    codec = gob.Codec(REMEMBERING)
    payload = encoded({"Elements": [{"Token": 1}], "Names": {1: "x"}})
    for _ in range(3):
        value = codec.decode(REMEMBERING, payload)
        assert value == {"Elements": [{"Token": 1}], "Names": {1: "x"}}
        value["Elements"].clear()
        value["Names"].clear()


def test_a_message_read_before_may_hold_as_many_values_as_one_that_is_new() -> None:
    codec = gob.Codec(REMEMBERING, max_values=400)
    payload = encoded({"Elements": [{"Token": 1}] * 40})
    for _ in range(3):
        assert len(codec.decode(REMEMBERING, payload)["Elements"]) == 40
    with pytest.raises(gob.GobError, match="too many values"):
        codec.decode(REMEMBERING, encoded({"Elements": [{"Token": 1}] * 200}))


def test_elements_may_be_made_into_something_else() -> None:
    def refuse_odd(content: dict[str, Any]) -> int:
        number = int(content.get("Token", 0))
        if number % 2:
            raise gob.GobError("odd")
        return number

    schema = gob.Struct({"Elements": gob.Slice(gob.Struct(FIELDS, make=refuse_odd), recurring=True)})
    codec = gob.Codec(schema)
    for tokens in ([2, 4, 6], [2, 4, 8, 6], [4, 6]):
        payload = codec.encode(schema, {"Elements": [{"Token": token} for token in tokens]})
        assert codec.decode(schema, payload) == {"Elements": tokens}
    with pytest.raises(gob.GobError, match="odd"):
        codec.decode(schema, codec.encode(schema, {"Elements": [{"Token": 4}, {"Token": 3}]}))


@pytest.mark.parametrize(("text", "fits"), [("", True), ("12345", True), ("123456", False), ("é" * 3, False)])
def test_text_of_more_bytes_than_its_schema_allows_is_refused(text: str, fits: bool) -> None:
    codec = gob.Codec(REMEMBERING)
    payload = encoded({"Names": {1: text}})
    if fits:
        assert codec.decode(REMEMBERING, payload) == {"Names": {1: text}}
    else:
        with pytest.raises(gob.GobError, match="more than 5 bytes"):
            codec.decode(REMEMBERING, payload)
