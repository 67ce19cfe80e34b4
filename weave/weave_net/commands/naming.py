"""`weave dns-add`, `dns-remove`, `dns-lookup` and `dns-args`: names by hand."""

from __future__ import annotations

from ipaddress import ip_interface
from typing import TYPE_CHECKING

import click

from weave_net.command_base import Function, WeaveCommand, daemon_client, run_directory_option
from weave_net.commands.attachments import attached_id, meant_as_address
from weave_net.container_lookup import container_id
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
        raise SettingsError("which name? Give it with -h NAME")
    with daemon_client(ctx, run_dir) as client:
        holder, own = _container(client, container)
        if container is not None and not addresses and not own:
            raise SettingsError(f"{container} has no address on the network of this host: name its addresses")
        for address in addresses or own:
            client.add_name(holder, address, fqdn)


@click.command("dns-remove", cls=WeaveCommand)
@_name_arguments
@run_directory_option
@click.pass_context
def dns_remove(ctx: click.Context, words: tuple[str, ...], fqdn: str | None, run_dir: Path | None) -> None:
    """Take names from addresses, those of a container or those without one.

    Without addresses all of the container's; without -h all names. What is gone already is no error.
    """
    addresses, container = _read(words)
    if fqdn == "":
        raise SettingsError("'' is no host name; leave -h out to remove all names")
    with daemon_client(ctx, run_dir) as client:
        holder, _ = _container(client, container)
        whose: list[str | None] = [*addresses] or [None]
        # A name may have been added before there was a container of that name.
        for key in dict.fromkeys((holder, container or holder)):
            for address in whose:
                client.remove_names(key, address, fqdn)


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
            address, _, port = client.text("/dns-address-port").strip().rpartition(":")
            domain = client.text("/domain").strip().removesuffix(".")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            return
    if port != "53":
        raise SettingsError(f"the name server listens at port {port}, and containers always ask at port 53")
    click.echo(f"--dns={address.strip('[]')} --dns-search={domain}", nl=False)


def _read(words: tuple[str, ...]) -> tuple[list[str], str | None]:
    """Addresses, and the container behind them, if there is one. Raises `SettingsError`."""
    addresses = [_address(word) for word in words if meant_as_address(word)]
    others = [word for word in words if not meant_as_address(word)]
    if len(others) > 1:
        raise SettingsError(f"{others[0]} and {others[1]}: there can be one container only, and addresses before it")
    if others == [""]:
        raise SettingsError("the container's name is empty")
    return addresses, others[0] if others else None


def _address(word: str) -> str:
    """An address, also in the form in which `ps` prints it, `ADDRESS/LEN`. Raises `SettingsError`."""
    try:
        address = ip_interface(word).ip
    except ValueError as error:
        raise SettingsError(f"{word!r} is no IP address") from error
    if "%" in word:
        raise SettingsError(f"{word!r} is an address of one link only")
    return str(address)


def _container(client: DaemonClient, container: str | None) -> tuple[str, list[str]]:
    """Under what the container's names are recorded, and its addresses on the network of this host.

    That is an attachment's id, else the id of a container that an engine knows, else the text itself.
    """
    if container is None:
        return EXTERN, []
    attachments = client.attachments()
    key = attached_id(attachments, container) or container_id(container) or container
    own = [text for attachment in attachments if attachment["id"] == key for text in attachment["addresses"]]
    return key, [str(ip_interface(text).ip) for text in own]
