"""Which release this is."""

from __future__ import annotations

from functools import cache


@cache
def program_version() -> str:
    """The version of the installed distribution, such as `3.0.0`."""
    # Reading package metadata takes longer than everything else that most commands do.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("weave-net")
    except PackageNotFoundError:
        return "unknown"
