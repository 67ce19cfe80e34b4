"""Telling a request for the default subnet from the engine's endless repetition of it.

An engine that finds a pool of our choice overlap a route of its host keeps it and asks again at once, thousands of
times a second, until it is given another one or an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_docker.plugin.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_docker.plugin.pools import Pool

MAX_OPEN = 3
"""Requests that were answered and led to nothing yet: networks that are made at the same time are not refused."""
OPEN_S = 10.0
"""After this long the engine has given up or is not going to tell us of the network it made."""


class PoolRequests:
    """`now`: seconds of a clock that only goes forward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._open: list[float] = []

    def ask_for_default(self, pool: Pool) -> None:
        """The default subnet is asked for. Raises `Refused` for a repetition."""
        now = self._now()
        self._open = [since for since in self._open if now - since < OPEN_S]
        if len(self._open) >= MAX_OPEN:
            raise Refused(
                f"Docker does not take the default subnet {pool.subnet} by itself, since this host has a route into it "
                "(as it has after 'weave expose', or with weave.gateway=bridge). Name the subnet, then Docker takes "
                f"it: docker network create --subnet {pool.subnet} …, or a part of it that is the same on all hosts"
            )
        self._open.append(now)

    def settle(self) -> None:
        """A network was made, or a pool given back."""
        self._open.clear()
