"""What all subcommands share: the two directories, flags in Go's notation, and the client."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from weave_net.directories import DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Directories
from weave_net.flags import normalise_flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_net.client import DaemonClient

Function = TypeVar("Function", bound="Callable[..., Any]")


@dataclass(frozen=True, slots=True)
class Locations:
    """The directories as given before the subcommand, None where they were not."""

    state_dir: Path | None = None
    run_dir: Path | None = None


class WeaveCommand(click.Command):
    """A subcommand that understands `-name` and `--flag=false` too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        return super().parse_args(ctx, normalise_flags(args, self.get_params(ctx)))


def directory_options(function: Function) -> Function:
    """Options `--state-dir` and `--run-dir`, handed over as `state_dir` and `run_dir` (absolute, None if not given)."""
    for name, variable, what in (
        ("--run-dir", "WEAVE_RUN_DIR", f"Directory of socket and pid file.  [default: {DEFAULT_RUN_DIR}]"),
        ("--state-dir", "WEAVE_STATE_DIR", f"Directory of state and log.  [default: {DEFAULT_STATE_DIR}]"),
    ):
        function = click.option(
            name, envvar=variable, show_envvar=True, type=click.Path(path_type=Path), callback=_absolute, help=what
        )(function)
    return function


def locations_of(ctx: click.Context, state_dir: Path | None, run_dir: Path | None) -> Directories:
    """The directories: the subcommand's own options, else those before it, else environment or default."""
    given = ctx.obj if isinstance(ctx.obj, Locations) else Locations()
    return Directories(
        _choose(ctx, "state_dir", state_dir, given.state_dir, DEFAULT_STATE_DIR),
        _choose(ctx, "run_dir", run_dir, given.run_dir, DEFAULT_RUN_DIR),
    )


def daemon_client(ctx: click.Context, run_dir: Path | None) -> DaemonClient:
    """A client of the daemon that these options mean; a context manager."""
    from weave_net.client import DaemonClient

    return DaemonClient(locations_of(ctx, None, run_dir))


def run_directory_option(function: Function) -> Function:
    """Option `--run-dir` alone, for commands that only talk to the daemon."""
    return click.option(
        "--run-dir",
        envvar="WEAVE_RUN_DIR",
        show_envvar=True,
        type=click.Path(path_type=Path),
        callback=_absolute,
        help=f"Directory of the daemon's socket.  [default: {DEFAULT_RUN_DIR}]",
    )(function)


def _absolute(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    return None if value is None else Path(os.path.abspath(value))  # noqa: PTH100 - resolve() follows links


def _choose(ctx: click.Context, name: str, own: Path | None, before: Path | None, default: Path) -> Path:
    # `weave --run-dir X status` beats the environment variable, which the subcommand's own option reads again.
    typed = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    if typed and own is not None:
        return own
    return before or own or default
