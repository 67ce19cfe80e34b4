"""The events of a link that nobody waits for, for tests and measurements of the data plane alone."""

from __future__ import annotations


class SilentLink:
    """A `weave_router.dataplane.neighbour.LinkEvents` that does nothing."""

    def send_control(self, number: int, body: bytes) -> None:
        """Send nothing."""

    def heard(self) -> None:
        """Note nothing."""

    def established(self) -> None:
        """Note nothing."""

    def failed(self, reason: str) -> None:
        """End nothing."""
