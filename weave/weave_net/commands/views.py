"""`weave status`, `weave report` and `weave version`: looking at a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weave_net.command_base import WeaveCommand, daemon_client, locations_of, run_directory_option
from weave_net.errors import ClientError
from weave_net.version import program_version

if TYPE_CHECKING:
    from pathlib import Path

VIEWS = ("targets", "connections", "peers", "dns", "ipam")


@click.command(cls=WeaveCommand)
@click.argument("view", required=False, metavar=f"[{'|'.join(VIEWS)}]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, under the names that 'weave report' uses.")
@run_directory_option
@click.pass_context
def status(ctx: click.Context, view: str | None, as_json: bool, run_dir: Path | None) -> None:
    """Show how this host's router is doing.

    \b
    targets      hosts that the router was told to connect to
    connections  connections to other hosts; for those that are missing, why
    peers        all hosts of the network, and who is connected to whom
    dns          names of containers, on all hosts
    ipam         which host owns how many addresses, and what requests wait for
    """
    if view is not None and view not in VIEWS:
        raise click.UsageError(f"There is no status view '{view}'.")
    path = "/status" if view is None else f"/status/{view}"
    with daemon_client(ctx, run_dir) as client:
        if as_json:
            click.echo(client.document(path), nl=False)
        elif view is None:
            click.echo(f"\n{client.text(path)}")
        else:
            click.echo(client.text(path), nl=False)


@click.command(cls=WeaveCommand)
@click.option("-f", "--format", "path", metavar="PATH", help="Only the values at this path, such as .Router.Name")
@run_directory_option
@click.pass_context
def report(ctx: click.Context, path: str | None, run_dir: Path | None) -> None:
    """Print everything that the daemon knows, as JSON."""
    with daemon_client(ctx, run_dir) as client:
        click.echo(client.document("/report") if path is None else client.text("/report", {"format": path}), nl=False)


@click.command(cls=WeaveCommand)
@run_directory_option
@click.pass_context
def version(ctx: click.Context, run_dir: Path | None) -> None:
    """Print the version of this program.

    And that of the daemon, where it is another one.
    """
    line = f"weave {program_version()}"
    if locations_of(ctx, None, run_dir).socket.exists():
        try:
            with daemon_client(ctx, run_dir) as client:
                running = client.text("/report", {"format": ".Version"}).strip()
        except ClientError:
            running = program_version()  # this command tells the version, not what is wrong with the daemon
        if running != program_version():
            line += f" (the daemon that runs is {running}; restart it to use this version)"
    click.echo(line)
