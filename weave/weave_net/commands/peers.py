"""`weave connect` and `weave forget`: which hosts to connect to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weave_net.command_base import WeaveCommand, daemon_client, run_directory_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=WeaveCommand)
@click.argument("peers", metavar="[HOST[:PORT]]...", nargs=-1)
@click.option("--replace", is_flag=True, help="Forget all earlier targets first.")
@run_directory_option
@click.pass_context
def connect(ctx: click.Context, peers: tuple[str, ...], replace: bool, run_dir: Path | None) -> None:
    """Connect to hosts, now and after a restart."""
    with daemon_client(ctx, run_dir) as client:
        client.post("/connect", {"peer": peers, "replace": "true" if replace else "false"})


@click.command(cls=WeaveCommand)
@click.argument("peers", metavar="HOST[:PORT]...", nargs=-1, required=True)
@run_directory_option
@click.pass_context
def forget(ctx: click.Context, peers: tuple[str, ...], run_dir: Path | None) -> None:
    """Connect to hosts no longer.

    Connections that were dialled to them are closed. Hosts that were not to be connected to are ignored.
    """
    with daemon_client(ctx, run_dir) as client:
        client.post("/forget", {"peer": peers})
