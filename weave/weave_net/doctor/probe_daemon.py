"""Asks the daemon, if one runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weave_net.client import DaemonClient
from weave_net.doctor.facts import DaemonFacts
from weave_net.doctor.report_facts import read_allocation, read_names, read_router
from weave_net.errors import ClientError, LaunchError
from weave_net.instance_lock import running_pid
from weave_net.version import program_version

if TYPE_CHECKING:
    from weave_net.directories import Directories

ANSWER_LIMIT_S = 1.5
"""For each of the few requests."""


def probe_daemon(directories: Directories) -> DaemonFacts:
    """What it says, or that it says nothing."""
    try:
        pid = running_pid(directories.pid_file)
    except LaunchError as error:
        return DaemonFacts(own_version=program_version(), pid=0, trouble=str(error))
    if pid is None:
        return DaemonFacts(own_version=program_version())
    try:
        with DaemonClient(directories, answer_limit_s=ANSWER_LIMIT_S) as client:
            report: dict[str, Any] = json.loads(client.document("/report"))
            exposure: dict[str, Any] = client.exposed()
            attachments = client.attachments()
    except (ClientError, ValueError) as error:
        return DaemonFacts(own_version=program_version(), pid=pid, trouble=str(error))
    return DaemonFacts(
        version=str(report.get("Version") or ""),
        own_version=program_version(),
        pid=pid,
        same_network=_same_network(pid),
        router=read_router(report),
        allocation=read_allocation(report),
        names=read_names(report),
        bridge=str(exposure.get("bridge") or ""),
        exposed=tuple(map(str, exposure.get("addresses") or ())),
        gateways=sum(1 for attachment in attachments if attachment.get("gateway")),
    )


def _same_network(pid: int) -> bool:
    """Whether a process lives in our network namespace; true where nobody can tell."""
    try:
        theirs, ours = Path(f"/proc/{pid}/ns/net").stat(), Path("/proc/self/ns/net").stat()
    except OSError:
        return True
    return os.path.samestat(theirs, ours)
