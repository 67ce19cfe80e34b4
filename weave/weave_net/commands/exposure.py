"""`weave expose` and `weave hide`: the host itself on the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from weave_net.attachment_request import parse_detached_address, parse_interface_address
from weave_net.command_base import WeaveCommand, daemon_client, run_directory_option

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@click.command(cls=WeaveCommand)
@click.argument("addresses", metavar="[ADDRESS/LEN|net:SUBNET|net:default]...", nargs=-1)
@click.option("-h", "fqdn", metavar="FQDN", help="Let this name lead to the addresses.")
@click.option(
    "--without-masquerade", is_flag=True, help="Do not translate addresses between the subnet and the outside."
)
@run_directory_option
@click.pass_context
def expose(
    ctx: click.Context, addresses: tuple[str, ...], fqdn: str | None, without_masquerade: bool, run_dir: Path | None
) -> None:
    """Give this host addresses of the network.

    They are also printed: those given, one of each subnet given, by default one of the default subnet. The host then
    reaches containers on all hosts, and they reach it. 'weave hide' takes the addresses away.
    """
    wanted = [parse_interface_address(text) for text in addresses]
    with daemon_client(ctx, run_dir) as client:
        given = client.expose({"addresses": wanted, "fqdn": fqdn, "masquerade": not without_masquerade})
    click.echo(_plain(given))


@click.command(cls=WeaveCommand)
@click.argument("addresses", metavar="[ADDRESS[/LEN]]...", nargs=-1)
@run_directory_option
@click.pass_context
def hide(ctx: click.Context, addresses: tuple[str, ...], run_dir: Path | None) -> None:
    """Take addresses of the network from this host.

    By default those of the default subnet; others must be named. Those removed are printed.
    """
    unwanted = [parse_detached_address(text) for text in addresses]
    with daemon_client(ctx, run_dir) as client:
        removed = client.hide(unwanted)
    if removed:
        click.echo(_plain(removed))
    else:
        click.echo("this host had no such address on the network; 'weave ps' shows those that it has", err=True)


def _plain(addresses: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(address.partition("/")[0] for address in addresses))
