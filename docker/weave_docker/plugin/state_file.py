"""The state's file: a JSON document that is replaced as a whole, durable before an answer that depends on it."""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING

import trio

from weave_docker.plugin.errors import StateError
from weave_docker.plugin.state import State

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MODE = 0o600
_log = logging.getLogger(__name__)


class StateFile:
    """The state in memory, and its file. `recovering`: there was no file that could be read; see `load`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = trio.Lock()
        self.state = State()
        self.recovering = False

    async def load(self) -> None:
        """Read the file. One that is damaged is put aside, and the state counts as lost. Raises `StateError`."""
        self.state, self.recovering = State(), False
        try:
            self.state = await trio.to_thread.run_sync(_read, self._path)
        except FileNotFoundError:
            self.recovering = True
        except OSError as error:
            raise StateError(f"the Docker plugin's state {self._path} cannot be read: {error.strerror}") from error
        except StateError as error:
            aside = self._path.with_name(f"{self._path.name}.damaged")
            _log.warning("%s: %s; it is put aside as %s", self._path, error, aside.name)
            try:
                self._path.replace(aside)
            except OSError as cause:
                raise StateError(f"{self._path} cannot be put aside: {cause.strerror}") from cause
            self.recovering = True

    async def change(self, step: Callable[[State], State]) -> State:
        """Apply a change to the newest state and store it; returns the new state.

        Raises what `step` raises and `StateError`; then nothing has changed.
        """
        async with self._lock:
            new = step(self.state)
            if new != self.state or self.recovering:
                await trio.to_thread.run_sync(_write, self._path, new)
                self.state, self.recovering = new, False
            return new


def _read(path: Path) -> State:
    try:
        return State.from_json(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise StateError(f"it is no JSON: {error}") from error


def _write(path: Path, state: State) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "w") as file:
            json.dump(state.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StateError(f"the Docker plugin's state {path} cannot be written: {error.strerror}") from error
