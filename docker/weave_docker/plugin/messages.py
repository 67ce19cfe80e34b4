"""Reading the engine's requests: JSON objects whose fields have to be what they are used as.

Go writes an absent map, list or text as null or leaves it out; both are taken as empty.
"""

from __future__ import annotations

import json
import re
from typing import Any

from weave_docker.plugin.errors import BadRequest

MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"

MAX_BODY_BYTES = 1 << 20
"""Real requests have some kilobytes."""
MAX_TEXT = 255

_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Message:
    """The fields of one request. Every method raises `BadRequest` that names the field."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    @classmethod
    def decode(cls, body: bytes) -> Message:
        """Read a body; an empty one has no fields."""
        if not body.strip():
            return cls({})
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body is no JSON: {error}") from error
        if values is None:
            return cls({})
        if not isinstance(values, dict):
            raise BadRequest("the body is no JSON object")
        return cls(values)

    def identifier(self, name: str) -> str:
        """The id of a network or an endpoint: it becomes part of paths and names."""
        text = self.text(name)
        if len(text) > MAX_TEXT or not _IDENTIFIER.fullmatch(text):
            raise BadRequest(f"{name} is no id: {_shown(text)}" if text else f"{name} is missing")
        return text

    def text(self, name: str) -> str:
        """A text, empty where it is absent."""
        value = self._values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise BadRequest(f"{name} is no text of up to {MAX_TEXT} characters: {_shown(value)}")
        return value

    def flag(self, name: str) -> bool:
        """A truth value, false where it is absent."""
        value = self._values.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise BadRequest(f"{name} is neither true nor false: {_shown(value)}")
        return value

    def object(self, name: str) -> Message:
        """An object, empty where it is absent."""
        value = self._values.get(name)
        if value is None:
            return Message({})
        if not isinstance(value, dict):
            raise BadRequest(f"{name} is no object: {_shown(value)}")
        return Message(value)

    def objects(self, name: str) -> list[Message]:
        """A list of objects, empty where it is absent."""
        value = self._values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise BadRequest(f"{name} is no list of objects: {_shown(value)}")
        return [Message(entry) for entry in value]

    @property
    def values(self) -> dict[str, Any]:
        """All fields as they came."""
        return self._values


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
