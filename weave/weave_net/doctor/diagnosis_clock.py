"""The clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import ClockFacts
    from weave_net.doctor.findings import Finding

EARLIEST = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""Before this program was written no clock can have been right."""
LATEST = datetime(2100, 1, 1, tzinfo=UTC).timestamp()

_WHY = "hosts compare when names and addresses were last changed"


def diagnose_clock(clock: ClockFacts) -> Iterator[Finding]:
    """Whether the time is plausible and kept."""
    if not EARLIEST <= clock.now <= LATEST:
        yield problem(
            "clock", f"it cannot be right: {_WHY}", "set it, and have it kept by NTP (systemd-timesyncd, chrony)"
        )
    elif clock.synchronised is False:
        yield note(
            "clock",
            f"nothing keeps it in step with other clocks: {_WHY}",
            "run a time service such as systemd-timesyncd or chrony; virtual machines may get the time otherwise",
        )
    elif clock.synchronised is None:
        yield ok("clock", "plausible; the kernel does not tell whether it is kept in step with others")
    else:
        yield ok("clock", "plausible and kept in step with others")
