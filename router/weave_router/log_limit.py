"""Keeping the log readable while somebody misbehaves: each kind of complaint once a minute.

Time is handed in, so that protocol modules may use it.
"""

from __future__ import annotations

LOG_INTERVAL = 60.0
MAX_KEYS = 1024


class LogLimit:
    """Remembers what has been logged lately."""

    def __init__(self, interval: float = LOG_INTERVAL) -> None:
        self._interval = interval
        self._logged: dict[str, float] = {}

    def allows(self, key: str, now: float) -> bool:
        """Whether a line about `key` may be logged now (seconds); it counts as logged if so."""
        if now - self._logged.get(key, now - self._interval) < self._interval:
            return False
        if len(self._logged) >= MAX_KEYS:
            self._logged = {old: seen for old, seen in self._logged.items() if now - seen < self._interval}
            if len(self._logged) >= MAX_KEYS:
                return False
        self._logged[key] = now
        return True
