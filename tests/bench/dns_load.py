"""Queries to a name server: runs `dns_load.c` in a container and returns what it counted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.shell import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.network import Container, Lab

SOURCE = Path(__file__).with_name("dns_load.c")
WARMUP_S = 0.3
"""Before counting begins; long enough for a server to have met every name."""
FIRST_ANSWER_TIMEOUT_S = 15.0
TIME_LIMIT_S = 40.0
"""More than the program takes, which ends by itself."""


@dataclass(frozen=True)
class NameServer:
    """A name server that is up, and a container that asks it."""

    client: Container
    address: str
    pid: int


@dataclass(frozen=True)
class Answers:
    """What one run of queries found; all of them were right."""

    per_s: float
    p50_ms: float
    p99_ms: float
    lost: float
    """Part of the queries that were not answered."""
    server_cpu_s: float
    """Processor time of the server per answer."""
    client_share: float
    """Part of one processor that the clients took."""


class DnsLoad:
    """The clients, compiled into the lab's directory. LabError if that, or a run, fails or an answer is wrong."""

    def __init__(self, lab: Lab, names: Mapping[str, str], seconds: float) -> None:
        self._seconds = seconds
        self._names = lab.directory / "names"
        self._names.write_text("".join(f"{name} {address}\n" for name, address in names.items()))
        self._program = str(lab.directory / "dns_load")
        run("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", self._program, str(SOURCE), "-lm", timeout_s=60)

    def wait_for_answer(self, server: NameServer) -> None:
        """Until it gives a right answer. LabError if it does not."""
        wait_until(lambda: self._ask("busy", server, 1, 1, 0.0, 0.1), FIRST_ANSWER_TIMEOUT_S, "the first right answer")

    def busy(self, server: NameServer, clients: int, window: int) -> Answers:
        """Each client always has `window` queries out."""
        return self._ask("busy", server, clients, window, WARMUP_S, self._seconds)

    def paced(self, server: NameServer, clients: int, per_s: float) -> Answers:
        """All clients together send so many queries, whether they are answered or not."""
        return self._ask("paced", server, clients, max(per_s, 1), WARMUP_S, self._seconds)

    def _ask(self, role: str, server: NameServer, *arguments: float) -> Answers:
        words = (role, self._names, server.address, server.pid, *arguments)
        output = server.client.run(self._program, *map(str, words), timeout_s=TIME_LIMIT_S)
        found: dict[str, float] = json.loads(output)
        return Answers(
            per_s=found["answered"] / found["seconds"],
            p50_ms=found["p50_us"] / 1e3,
            p99_ms=found["p99_us"] / 1e3,
            lost=found["lost"] / found["sent"],
            server_cpu_s=found["server_cpu_s"] / max(found["answered"], 1),
            client_share=found["client_cpu_s"] / found["seconds"],
        )
