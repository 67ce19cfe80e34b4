"""What a simulation raises when something is the case that never may be."""

from __future__ import annotations


class InvariantBroken(AssertionError):
    """Something is the case that never may be."""
