"""Runs a CNI plugin as a container engine does, and times it: started by `cni_load.py` inside a host's namespace.

Reads a job as JSON from standard input and writes, for each command, the calls as [milliseconds from the start of the
executable until its end was seen, milliseconds of processor time that it took]. Uses the standard library only, so that
it is quick to start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, NamedTuple

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Running(NamedTuple):
    """An executable that was started."""

    began: float
    output: int
    """Descriptor of what it prints."""


def main(job: dict[str, Any]) -> dict[str, Any]:
    """All batches of a job. Exits with a message if a call fails or an address is given twice."""
    times: dict[str, list[tuple[float, float]]] = {command: [] for command in job["commands"]}
    daemon_ms = dict.fromkeys(times, 0.0)
    for _ in range(job["batches"]):
        containers = [(os.urandom(32).hex(), namespace) for namespace in job["namespaces"]]
        for command, found in times.items():
            before = processor_ms(job["daemon"])
            outputs: list[bytes] = []
            for first in range(0, len(containers), job["at_once"]):
                outputs += batch(job, command, containers[first : first + job["at_once"]], found)
            daemon_ms[command] += processor_ms(job["daemon"]) - before
            if command == "ADD":
                addresses = {json.loads(output)["ips"][0]["address"] for output in outputs}
                if len(addresses) != len(containers):
                    sys.exit(f"{len(containers)} containers were given {len(addresses)} addresses")
    return {"times": times, "daemon_ms": daemon_ms}


def batch(
    job: dict[str, Any], command: str, containers: list[tuple[str, str]], found: list[tuple[float, float]]
) -> list[bytes]:
    """Call the plugin for these containers at once; notes the times, returns what was printed."""
    running = dict(start(job, command, container, namespace) for container, namespace in containers)
    outputs = []
    while running:
        pid, status, usage = os.wait4(-1, 0)
        now = time.perf_counter()
        call = running.pop(pid)
        output = os.read(call.output, 1 << 16)
        os.close(call.output)
        if status != 0:
            sys.exit(f"{command} of {job['program']} failed with status {status}: {output.decode(errors='replace')}")
        found.append(((now - call.began) * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3))
        outputs.append(output)
    return outputs


def start(job: dict[str, Any], command: str, container: str, namespace: str) -> tuple[int, Running]:
    """Start the plugin for one container; the number of its process."""
    stdin, config = os.pipe()
    output, stdout = os.pipe()
    os.write(config, job["config"].encode())  # a pipe holds it
    os.close(config)
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": namespace,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": job["path"],
        "PATH": os.environ["PATH"],
    }
    began = time.perf_counter()
    pid = os.posix_spawn(
        job["program"],
        [job["program"]],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)],
    )
    os.close(stdin)
    os.close(stdout)
    return pid, Running(began, output)


def processor_ms(pid: int | None) -> float:
    """What a process took until now, to a clock tick of mostly 10 ms; 0 for none."""
    if pid is None:
        return 0.0
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib takes long to import
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / TICKS_PER_S  # utime and stime, proc(5)


if __name__ == "__main__":
    json.dump(main(json.load(sys.stdin)), sys.stdout)
