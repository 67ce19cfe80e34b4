"""Fixtures: one host for all tests of the plugins, since a daemon takes a second to start; a namespace alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cni_plugin.cni_host import CniHost
from lab.namespace import Namespace
from lab.network import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

_failed = pytest.StashKey[bool]()


class SharedHost:
    """The host of these tests: made when first asked for, and gone when the last test of this folder is."""

    def __init__(self) -> None:
        self._lab: Lab | None = None
        self._host: CniHost | None = None
        self._running = False

    def bare(self) -> CniHost:
        """The host, maybe without a daemon."""
        if self._host is None:
            self._lab = Lab()
            self._lab.__enter__()
            self._host = CniHost(self._lab)
        return self._host

    def running(self) -> CniHost:
        """The host with its daemon and the plugins."""
        host = self.bare()
        if not self._running:
            host.launch()
            host.set_up()
            self._running = True
        elif host.host.pid is None:
            host.launch()
        return host

    def close(self) -> None:
        """Clear it away."""
        lab, self._lab, self._host, self._running = self._lab, None, None, False
        if lab is not None:
            lab.__exit__(None, None, None)


_shared = SharedHost()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Close the host after the last test of this folder."""
    try:
        yield
    finally:
        if nextitem is None or nextitem.path.parent != item.path.parent:
            _shared.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let the fixtures know how the test went."""
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed  # type: ignore[attr-defined]
    return report


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    """A container's network namespace, where no host is needed."""
    namespace = Namespace(f"cni{os.getpid()}")
    namespace.create()
    yield str(namespace.path)
    namespace.remove()


@pytest.fixture
def cni(request: pytest.FixtureRequest) -> Iterator[CniHost]:
    """The host, where a daemon may run or not."""
    host = _shared.bare()
    yield host
    host.clear()


@pytest.fixture
def weave(request: pytest.FixtureRequest) -> Iterator[CniHost]:
    """The host with a daemon and our plugins. After the test nothing of it may be left."""
    host = _shared.running()
    before = len(host.host.log(100_000))
    yield host
    try:
        host.clear()
        if host.host.pid is None:
            host.launch()
            host.clear()
        if not request.node.stash.get(_failed, False):
            host.check_nothing_left()
    except BaseException:
        _shared.close()
        raise
    finally:
        if request.node.stash.get(_failed, False) and host.host.state_dir.exists():
            print(f"--- the daemon's log of this test\n{host.host.log(100_000)[before:]}")
