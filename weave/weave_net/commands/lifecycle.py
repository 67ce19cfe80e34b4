"""`weave stop` and `weave reset`: the ends of a daemon and of its host's network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weave_net.command_base import WeaveCommand, directory_options, locations_of, run_directory_option
from weave_net.errors import ClientError

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=WeaveCommand)
@run_directory_option
@click.pass_context
def stop(ctx: click.Context, run_dir: Path | None) -> None:
    """Stop the daemon.

    Containers of this host can still reach each other.
    """
    from weave_net.shutdown import stop_daemon

    stop_daemon(locations_of(ctx, None, run_dir))


@click.command(cls=WeaveCommand)
@click.option("--force", is_flag=True, help="Reset although the daemon does not answer.")
@directory_options
@click.pass_context
def reset(ctx: click.Context, force: bool, state_dir: Path | None, run_dir: Path | None) -> None:
    """Remove everything of weave from this host.

    That is the daemon, its devices and its state; the log stays. Containers lose their interface.
    """
    from weave_net.launch import check_privileges
    from weave_net.reset import reset_host
    from weave_router.errors import HostError

    check_privileges("weave reset")
    nothing = True
    try:
        for line in reset_host(locations_of(ctx, state_dir, run_dir), force=force):
            click.echo(line)
            nothing = False
    except HostError as error:
        raise ClientError(str(error)) from error
    if nothing:
        click.echo("nothing to remove")
