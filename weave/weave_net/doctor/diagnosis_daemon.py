"""Does the daemon run, and does it answer?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import DaemonFacts
    from weave_net.doctor.findings import Finding


def diagnose_daemon(daemon: DaemonFacts) -> Iterator[Finding]:
    """One that does not run is worth a note: the host can be examined before the first launch."""
    if daemon.pid is None and daemon.router is None:
        yield note(
            "daemon",
            "it does not run, so only this host was looked at, not its connections, addresses and names",
            "start it with 'weave launch'",
        )
        return
    if daemon.router is None:
        pid = f" (pid {daemon.pid})" if daemon.pid else ""
        yield problem(
            "daemon",
            f"it runs{pid}, but does not answer: {daemon.trouble}",
            "look at the end of its log (weave.log in the state directory, or 'journalctl -u weave'); "
            "'weave stop' and 'weave launch' start it again, containers keep their interfaces meanwhile",
        )
        return
    if not daemon.same_network:
        yield note(
            "daemon",
            "it runs in another network namespace than this command: what follows about the host is not about its host",
            "run the command where the daemon runs, for instance with 'ip netns exec' or 'nsenter --net'",
        )
    if daemon.version and daemon.version != daemon.own_version:
        yield note(
            "daemon",
            f"it is of version {daemon.version}, this command of version {daemon.own_version}",
            "restart the daemon to use the version that is installed",
        )
    else:
        yield ok("daemon", f"version {daemon.version} runs and answers")
