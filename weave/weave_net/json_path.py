"""Paths into a JSON document: `.Router.Name`, `.Router.Connections[0].State`, `.Router.Peers[].Name`.

A small part of jq's language, enough for scripts. The simple templates that scripts for Weave Net hand over,
`{{.Router.Name}}` and `{{json .Router}}`, mean the same path.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from weave_net.errors import JsonPathError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PATH_LENGTH = 1024

_TEMPLATE = re.compile(r"\{\{-?\s*(?:json\s+)?(\.\S*?)\s*-?\}\}")
_STEP = re.compile(r"""\.(?P<key>[A-Za-z_][A-Za-z0-9_]*)|\.?\[(?:(?P<index>-?[0-9]{1,9})|"(?P<text>[^"]*)"|)\]""")

Step = str | int | None
"""A key of an object, an index of an array, or None for all elements."""


def parse_path(text: str) -> tuple[Step, ...]:
    """The steps of a path; `.` has none. Raises `JsonPathError`."""
    if len(text) > MAX_PATH_LENGTH:
        raise JsonPathError(f"the path is longer than {MAX_PATH_LENGTH} characters")
    template = _TEMPLATE.fullmatch(text.strip())
    path = template[1] if template else text.strip()
    if path == ".":
        return ()
    if not path.startswith("."):
        raise JsonPathError(f"{text!r} is no path such as .Router.Name or .Router.Connections[0].State")
    steps: list[Step] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise JsonPathError(
                f"{text!r} cannot be read from {path[position:]!r} on; a path is like .Router.Peers[].Name"
            )
        if match["index"] is not None:
            steps.append(int(match["index"]))
        else:
            steps.append(match["key"] if match["key"] is not None else match["text"])
        position = match.end()
    return tuple(steps)


def select(document: Any, path: str) -> str:
    """The values at the path, one per line: texts as they are, everything else as JSON with an indent of 4.

    Raises `JsonPathError` for a path that leads nowhere.
    """
    return "\n".join(_render(value) for value in _follow(document, parse_path(path), path))


def _follow(value: Any, steps: tuple[Step, ...], path: str) -> Iterator[Any]:
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    if step is None:
        if not isinstance(value, (list, dict)):
            raise JsonPathError(f"{path}: [] needs an array or an object, not {_kind(value)}")
        for element in value.values() if isinstance(value, dict) else value:
            yield from _follow(element, rest, path)
        return
    try:
        inner = value[step]
    except KeyError:
        raise JsonPathError(f"{path}: there is no {step!r} here; there are: {', '.join(map(str, value))}") from None
    except IndexError:
        raise JsonPathError(f"{path}: there is no element {step}, only {len(value)}") from None
    except TypeError:
        raise JsonPathError(f"{path}: {step!r} cannot be looked up in {_kind(value)}") from None
    yield from _follow(inner, rest, path)


def _render(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=4, ensure_ascii=False)


def _kind(value: Any) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "an array"
        case str():
            return "a text"
        case None:
            return "null"
        case _:
            return "a number or truth value"
