"""In which order upstream servers are asked: as the operator lists them, those that kept silent lately last.

So a dead first server costs a second once, and not with each question. Time is handed in, in seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from weave_dns.resolv_conf import Address

SILENT_S = 30.0
"""How long a server that kept silent stays at the end."""


class ServerOrder:
    """Remembers which servers answer. Knows only those that were listed last, so it stays small."""

    def __init__(self) -> None:
        self._heard: dict[Address, float] = {}
        self._silent: dict[Address, float] = {}

    def ranked(self, servers: Sequence[Address], now: float) -> list[Address]:
        """The servers, each once, in the order in which to ask them now.

        One whose silence is long ago has its place back for this question alone: until it answers, it goes on being
        last for others, or all that come in the same second would wait for it.
        """
        listed = dict.fromkeys(servers)
        self._heard = {server: at for server, at in self._heard.items() if server in listed}
        self._silent = {server: at for server, at in self._silent.items() if server in listed}
        last = {server for server, at in self._silent.items() if now - at < SILENT_S}
        for server in self._silent.keys() - last:
            self._silent[server] = now
        return [server for server in listed if server not in last] + [server for server in listed if server in last]

    def heard(self, server: Address, now: float) -> None:
        """The server answered, whatever it was."""
        self._heard[server] = now
        self._silent.pop(server, None)

    def kept_silent(self, server: Address, since: float, now: float) -> bool:
        """The server was asked at `since` and has not answered that; returns whether it counts as silent.

        It does not if it answered other questions meanwhile: then it is busy with this one.
        """
        if self._heard.get(server, float("-inf")) >= since:
            return False
        self._silent[server] = now
        return True
