"""Running programs and waiting for things, with errors that tell what happened."""

from __future__ import annotations

import shlex
import subprocess
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

POLL_S = 0.05


class LabError(Exception):
    """Something in the lab is not as it should be."""


class CommandFailed(LabError):
    """A program ended with an error, or not in time."""

    def __init__(self, command: tuple[str, ...], status: int | None, output: str) -> None:
        self.command = command
        self.status = status
        """Exit status; None if the program had to be ended."""
        self.output = output
        how = "did not end in time" if status is None else f"failed with status {status}"
        super().__init__(f"{shlex.join(command)} {how}\n{output}".rstrip())


def attempt(
    *command: str,
    timeout_s: float = 30,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    named: tuple[str, ...] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return how it went; errors call it `named`."""
    try:
        return subprocess.run(
            command, input=stdin, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        parts = (part.decode() if isinstance(part, bytes) else part for part in (error.stdout, error.stderr))
        raise CommandFailed(named or command, None, "".join(part or "" for part in parts)) from error


def run(
    *command: str,
    timeout_s: float = 30,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    named: tuple[str, ...] | None = None,
) -> str:
    """Run a program that has to succeed and return its standard output."""
    done = attempt(*command, timeout_s=timeout_s, stdin=stdin, environment=environment, named=named)
    if done.returncode != 0:
        raise CommandFailed(named or command, done.returncode, done.stdout + done.stderr)
    return done.stdout


def wait_until(predicate: Callable[[], T], timeout_s: float, what: str) -> T:
    """Ask again and again until the answer is true; returns it.

    A LabError from the predicate counts as "not yet": a daemon that is just starting answers no question.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        last_error = None
        try:
            answer = predicate()
        except LabError as error:
            last_error = error
        else:
            if answer:
                return answer
        if time.monotonic() >= deadline:
            raise LabError(f"waited {timeout_s:g} s in vain for {what}") from last_error
        time.sleep(POLL_S)
