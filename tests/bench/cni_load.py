"""Calls of a CNI plugin: runs `cni_calls.py` on a host and returns what it found."""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.network import Host

PROGRAM = Path(__file__).with_name("cni_calls.py")
TIME_LIMIT_S = 300.0
"""Far more than it takes, even on a busy machine."""


@dataclass(frozen=True)
class Plugin:
    """A plugin that is installed, on a host of its own where it finds what it needs."""

    host: Host
    program: Path
    path: Sequence[Path]
    """Where it finds other plugins."""
    config: Mapping[str, Any]
    namespaces: Sequence[str]
    """Paths of the namespaces of containers."""
    daemon: int | None = None
    """Number of the process that does its work, if there is one."""


@dataclass(frozen=True)
class Calls:
    """What one command took; all calls succeeded."""

    times_ms: tuple[float, ...]
    """From the start of the executable to its end."""
    processor_ms: float
    """Processor time of the executable, and of those that it starts, per call."""
    daemon_ms: float | None
    """Processor time of the daemon per call; None if there is no daemon."""

    @property
    def p50_ms(self) -> float:
        """Median."""
        return statistics.median(self.times_ms)

    @property
    def p99_ms(self) -> float:
        """99th percentile, interpolated; with few calls nearly the longest."""
        return statistics.quantiles(self.times_ms, n=100, method="inclusive")[-1]


def call(plugin: Plugin, commands: Sequence[str], *, batches: int, at_once: int) -> dict[str, Calls]:
    """Call these commands, one after the other, for all containers, so many times. LabError if a call fails."""
    job = {
        "program": str(plugin.program),
        "path": ":".join(map(str, plugin.path)),
        "config": json.dumps(plugin.config),
        "namespaces": list(plugin.namespaces),
        "daemon": plugin.daemon,
        "commands": list(commands),
        "batches": batches,
        "at_once": at_once,
    }
    words = (sys.executable, "-IS", str(PROGRAM))
    found = json.loads(plugin.host.run(*words, stdin=json.dumps(job), timeout_s=TIME_LIMIT_S))
    return {
        command: Calls(
            tuple(time for time, _ in times),
            statistics.fmean(processor for _, processor in times),
            None if plugin.daemon is None else found["daemon_ms"][command] / len(times),
        )
        for command, times in found["times"].items()
    }
