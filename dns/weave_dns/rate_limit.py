"""How many answers one client gets per second, so that none keeps the server from the others; without I/O."""

from __future__ import annotations

MOST_CLIENTS = 8192


class RateLimit:
    """Counts what each client was given in the present second.

    `rate`: answers per second, 0 for no limit.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._second = 0
        self._counts: dict[str, int] = {}

    def allows(self, client: str, now: float) -> bool:
        """Whether this client gets another answer (`now` in seconds)."""
        if not self._rate:
            return True
        second = int(now)
        if second != self._second:
            self._second = second
            self._counts.clear()
        count = self._counts.get(client, 0)
        if count >= self._rate or (not count and len(self._counts) >= MOST_CLIENTS):
            return False
        self._counts[client] = count + 1
        return True
