"""Python packages that the program needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.doctor.findings import ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import PackageFacts
    from weave_net.doctor.findings import Finding


def diagnose_packages(packages: PackageFacts) -> Iterator[Finding]:
    """Whether all are there and can be loaded."""
    for name, why in packages.troubles.items():
        yield problem(
            "python packages",
            f"{name} cannot be used: {why}",
            "install weave-net again with pip, in the Python that runs 'weave'",
        )
    if not packages.troubles:
        yield ok("python packages", f"all {packages.checked} can be loaded")
