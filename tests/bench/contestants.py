"""The systems of a run: which of them are up, and why others are not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from lab.network import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from bench.progress import Progress


class Contestant(Protocol):
    """A system under test."""

    @property
    def title(self) -> str:
        """What tables call it."""

    def absent(self) -> str | None:
        """Why it cannot be measured on this machine; None if it can."""


S = TypeVar("S", bound=Contestant)
U = TypeVar("U")


class Contestants(Generic[S, U]):
    """Systems in the order of the tables, with what their building gave. `kind`: what they are, in the plural."""

    def __init__(self, kind: str, systems: Sequence[S], complaints: Console) -> None:
        self.kind = kind
        self.up: dict[S, U] = {}
        self.left_out: dict[S, str] = {}
        """With the reason: they cannot be measured here."""
        self.failed: dict[S, str] = {}
        """With the reason: they did not come up, or failed later."""
        self._systems = systems
        self._complaints = complaints

    @property
    def present(self) -> list[S]:
        """Those that have their place in tables: all that are not left out."""
        return [system for system in self._systems if system not in self.left_out]

    def bring_up(self, build: Callable[[S], U], progress: Progress) -> None:
        """Build all that can be measured here. LabError if none comes up."""
        for number, system in enumerate(self._systems):
            if reason := system.absent():
                self.left_out[system] = reason
                self._complaints.print(f"{system.title} is left out: {reason}", highlight=False)
                continue
            progress.show(f"Bringing the {self.kind} up", system.title, number, len(self._systems))
            with self.dropped_on_failure(system):
                self.up[system] = build(system)
        if not self.up:
            raise LabError(f"none of these {self.kind} could be brought up")

    @contextmanager
    def dropped_on_failure(self, system: S) -> Iterator[None]:
        """A LabError in the block ends this system's part in the run."""
        try:
            yield
        except LabError as error:
            self.up.pop(system, None)
            self.failed[system] = str(error)
            self._complaints.print(
                f"{system.title} failed and is not measured any more: {error}", markup=False, highlight=False
            )
