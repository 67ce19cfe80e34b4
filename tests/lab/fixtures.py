"""The fixture `lab` for tests with real routers: they need root, and a failing one shows the daemons' logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.network import Lab

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_failed = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Whatever uses the lab needs root."""
    if "lab" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.root)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the fixture know how the test went."""
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """An empty lab, cleared away after the test."""
    with Lab() as lab:
        yield lab
        if request.node.stash.get(_failed, False):
            for host in lab.hosts:
                print(f"--- end of the log of {host.label}\n{host.log()}")
