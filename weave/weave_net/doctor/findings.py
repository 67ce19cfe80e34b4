"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Works, or may be meant so; also what could not be checked."""
    PROBLEM = "problem"
    """Something does not work, or will not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `weave doctor`."""

    check: str
    """What was looked at, such as `firewall`; for connections with the peer."""
    verdict: Verdict
    text: str
    """What was found."""
    advice: str = ""
    """What to do about it; every problem has some."""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, text)


def note(check: str, text: str, advice: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check, Verdict.NOTE, text, advice)


def problem(check: str, text: str, advice: str) -> Finding:
    """To be put right."""
    return Finding(check, Verdict.PROBLEM, text, advice)
