"""A daemon of fakes in a process of its own, and `weave` run against it: `with daemon(base) as directories`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from weave_net.cli import weave
from weave_net.client import DaemonClient
from weave_net.launch import launch_in_background
from weave_net.shutdown import stop_daemon
from weave_net.testing.daemons import settings_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from weave_net.directories import Directories

FAKE_DAEMON = (sys.executable, "-P", str(Path(__file__).with_name("fake_daemon.py")))
"""The command that starts it."""

NAMESPACE = f"/proc/{os.getpid()}/ns/net"
"""This process's network namespace: the only one that such a daemon knows."""

ALLOCATES_ALONE = {"ipalloc_init": "consensus=1", "ipalloc_default_subnet": "10.32.1.0/24"}
"""Settings of a daemon that needs nobody to give out addresses."""

Cli = Callable[..., Result]
"""Runs `weave` with some arguments; environment variables are keywords."""


@contextmanager
def daemon(base: Path, **changes: Any) -> Iterator[Directories]:
    """Run a daemon of these settings, which keeps everything below `base`; its directories.

    Its name is ::1 and its nickname h1. Nobody answers at the name server to which it would forward questions.
    """
    resolv_conf = base / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.99\n")  # where nobody listens
    settings = settings_in(base, **{"resolv_conf": str(resolv_conf), **changes})
    settings.directories.prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEAVE_TEST_NAMESPACE", NAMESPACE)
        launch_in_background(settings, settings.directories.log, FAKE_DAEMON)
    try:
        yield settings.directories
    finally:
        stop_daemon(settings.directories)


def caller(directories: Directories, **always: str) -> Cli:
    """Runs `weave` against the daemon that lives there. `always`: environment variables of every call."""

    def run(*arguments: str, **environment: str) -> Result:
        variables = {"WEAVE_RUN_DIR": str(directories.run), **always, **environment}
        return CliRunner().invoke(weave, list(arguments), env=variables)

    return run


def forget_containers(directories: Directories) -> None:
    """Leave the daemon that lives there without attachments and without names."""
    with DaemonClient(directories) as client:
        for entry in client.attachments():
            client.delete_attachment(entry["id"], entry["interface"], [])
        for entry in json.loads(client.document("/name")) or []:
            client.remove_names(entry["ContainerID"], None, None)


def succeeds(result: Result) -> str:
    """Standard output of a command that has to succeed without a word on standard error."""
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def fails(result: Result) -> str:
    """The one line on standard error of a command that failed."""
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr
