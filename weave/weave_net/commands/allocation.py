"""`weave prime` and `weave rmpeer`: the beginnings and the ends of address allocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weave_net.command_base import WeaveCommand, daemon_client, run_directory_option
from weave_net.errors import ApiError

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=WeaveCommand)
@run_directory_option
@click.pass_context
def prime(ctx: click.Context, run_dir: Path | None) -> None:
    """Wait until addresses can be allocated.

    That is, until the hosts have agreed on how to divide the range; begins to ask them if nobody has yet.
    """
    with daemon_client(ctx, run_dir) as client:
        client.prime()


@click.command(cls=WeaveCommand)
@click.argument("peers", metavar="PEER...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Ask nobody. If one of them runs, addresses are given out twice.")
@run_directory_option
@click.pass_context
def rmpeer(ctx: click.Context, peers: tuple[str, ...], force: bool, run_dir: Path | None) -> None:
    """Take over the addresses of hosts that are gone for good.

    They are named by peer name or nickname. All other hosts that own addresses must have missed them for a minute, and
    agree; so name all those that are gone. If one of them comes back, it finds out and begins anew. A host that still
    runs hands its addresses over by 'weave reset'.
    """
    failed = False
    with daemon_client(ctx, run_dir) as client:
        for peer in peers:
            try:
                also = [other for other in peers if other != peer]
                click.echo(client.remove_peer(peer, also=also, force=force), nl=False)
            except ApiError as error:
                click.echo(str(error), err=True)
                failed = True
    if failed:
        ctx.exit(1)
