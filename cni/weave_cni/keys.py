"""Keys of JSON objects: their letter case means nothing, as in the Go programs that runtimes and plugins are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def get_key(mapping: Mapping[str, Any], name: str) -> Any:
    """The value under a key, None if there is none; the exact spelling comes first."""
    if name in mapping:
        return mapping[name]
    return next((value for key, value in mapping.items() if key.lower() == name.lower()), None)
