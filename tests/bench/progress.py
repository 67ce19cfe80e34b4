"""One line on standard error that says what is being measured and how long it will take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console


class Progress:
    """A line that is replaced on a terminal; a log gets a line only when the headline changes. A context manager.

    Nothing is drawn while a measurement runs.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._headline = ""
        self._began: float | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, headline: str, detail: str, done: int, total: int) -> None:
        """Say what comes now, as number `done` (from 0) of `total`."""
        if self._began is None or done == 0:
            self._began = time.monotonic()
        left = remaining(time.monotonic() - self._began, done, total)
        if self._console.is_terminal:
            self._live.update(Text(f"{headline}: {detail}{left}", no_wrap=True, overflow="ellipsis"), refresh=True)
        elif headline != self._headline:
            self._console.print(f"{headline}{left}", highlight=False, soft_wrap=True)
        self._headline = headline


def remaining(elapsed_s: float, done: int, total: int) -> str:
    """The time left as words, judged by what is done; empty as long as nothing is."""
    if done == 0:
        return ""
    left_s = elapsed_s / done * (total - done)
    return f" – {left_s / 60:.0f} min left" if left_s >= 90 else f" – {left_s:.0f} s left"
