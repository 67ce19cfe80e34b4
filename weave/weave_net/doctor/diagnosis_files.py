"""State directory, run directory and state file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.doctor.facts import DirectoryFacts, FileFacts
    from weave_net.doctor.findings import Finding

LEAST_FREE_BYTES = 64 << 20
"""The state file is far smaller; but a file system that is nearly full will soon be full."""


def diagnose_files(files: FileFacts) -> Iterator[Finding]:
    """Whether the daemon can keep what it must."""
    found = [
        *_directory("state directory", files.state, "--state-dir or WEAVE_STATE_DIR", secret=True),
        *_directory("run directory", files.run, "--run-dir or WEAVE_RUN_DIR", secret=False),
    ]
    if files.socket_open_to_others:
        found.append(
            problem(
                "run directory",
                "users beside root may write to the daemon's socket, and so command the network",
                f"restart the daemon, or 'chmod 600 {files.run.path}/weave.sock'",
            )
        )
    if files.database_trouble:
        found.append(
            problem(
                "state file",
                files.database_trouble,
                f"move {files.state.path}/weave.db away and launch again: this host then joins its network anew",
            )
        )
    yield from found or [ok("directories", f"{files.state.path} and {files.run.path} are as they should be")]


def _directory(what: str, facts: DirectoryFacts, override: str, *, secret: bool) -> Iterator[Finding]:
    path = facts.path
    if not facts.exists:
        return  # launch makes it
    if not facts.kind_ok:
        yield problem(what, f"{path} is no directory", f"move it away, or choose another one with {override}")
    elif not facts.writable:
        yield problem(
            what,
            f"{path} cannot be written to: permission denied, or a file system that is mounted read-only",
            f"put that right, or choose another one with {override}",
        )
    elif facts.others_write:
        yield problem(what, f"others than its owner may write in {path}", f"'chmod go-w {path}'")
    elif secret and facts.others_read:
        yield note(what, f"users beside root may look into {path}", f"'chmod 700 {path}'")
    if facts.kind_ok and facts.free_bytes < LEAST_FREE_BYTES:
        yield problem(
            what,
            f"only {facts.free_bytes >> 20} MiB are free in {path}: soon nothing more can be stored",
            "make room there",
        )
