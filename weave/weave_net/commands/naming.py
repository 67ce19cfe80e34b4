"""`weave dns-add`, `dns-remove`, `dns-lookup` and `dns-args`: names by hand."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

import click

from weave_net.command_base import Function, WeaveCommand, daemon_client, run_directory_option
from weave_net.errors import ApiError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from weave_net.client import DaemonClient

EXTERN = "weave:extern"
"""Whose names are those that belong to no container."""
_NOT_FOUND = 404


def _name_arguments(function: Function) -> Function:
    function = click.option("-h", "--hostname", "fqdn", metavar="FQDN", help="The name, in the network's domain.")(
        function
    )
    return click.argument("words", metavar="[IP]... [CONTAINER]", nargs=-1, required=True)(function)


@click.command("dns-add", cls=WeaveCommand)
@_name_arguments
@run_directory_option
@click.pass_context
def dns_add(ctx: click.Context, words: tuple[str, ...], fqdn: str | None, run_dir: Path | None) -> None:
    """Give addresses a name.

    Without addresses, those that the container has on the network. The name goes when the container is detached; one
    without a container stays until 'dns-remove'.
    """
    addresses, container = _read(words)
    if fqdn is None:
        raise SettingsError("which name? Give it with -h NAME.weave.local")
    with daemon_client(ctx, run_dir) as client:
        for address in addresses or _addresses_of(client, container):
            client.add_name(container or EXTERN, address, fqdn)


@click.command("dns-remove", cls=WeaveCommand)
@_name_arguments
@run_directory_option
@click.pass_context
def dns_remove(ctx: click.Context, words: tuple[str, ...], fqdn: str | None, run_dir: Path | None) -> None:
    """Take names from addresses, those of a container or those without one.

    Without addresses all of the container's; without -h all names. What is gone already is no error.
    """
    addresses, container = _read(words)
    with daemon_client(ctx, run_dir) as client:
        if addresses:
            for address in addresses:
                client.remove_names(container or EXTERN, address, fqdn)
        else:
            client.remove_names(container or EXTERN, None, fqdn)


@click.command("dns-lookup", cls=WeaveCommand)
@click.argument("name")
@run_directory_option
@click.pass_context
def dns_lookup(ctx: click.Context, name: str, run_dir: Path | None) -> None:
    """Print the addresses of a name, one per line.

    The name may be one of the network, with or without its domain, or any other.
    """
    with daemon_client(ctx, run_dir) as client:
        click.echo(client.look_up(name), nl=False)


@click.command("dns-args", cls=WeaveCommand)
@run_directory_option
@click.pass_context
def dns_args(ctx: click.Context, run_dir: Path | None) -> None:
    """Print the options of 'docker run' by which a container uses the network's names.

    Nothing where names are off.
    """
    with daemon_client(ctx, run_dir) as client:
        try:
            address = client.text("/dns-address").strip()
            domain = client.text("/domain").strip().removesuffix(".")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            return
    click.echo(f"--dns={address} --dns-search={domain}", nl=False)


def _read(words: tuple[str, ...]) -> tuple[list[str], str | None]:
    """Addresses, and the container behind them, if there is one. Raises `SettingsError`."""
    addresses = [word for word in words if _is_address(word)]
    others = [word for word in words if word not in addresses]
    if len(others) > 1:
        raise SettingsError(f"{others[0]} and {others[1]}: there can be one container only, and addresses before it")
    if others == [""]:
        raise SettingsError("the container's name is empty")
    return addresses, others[0] if others else None


def _is_address(word: str) -> bool:
    try:
        ip_address(word)
    except ValueError:
        return False
    return True


def _addresses_of(client: DaemonClient, container: str | None) -> list[str]:
    found = [
        str(ip_interface(text).ip)
        for attachment in client.attachments()
        if attachment["id"] == container
        for text in attachment["addresses"]
    ]
    if not found:
        raise SettingsError(f"{container} has no address on the network of this host: name its addresses")
    return found
