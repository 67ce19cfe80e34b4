"""`weave attach` and `weave detach`: network namespaces on the network, by hand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from weave_net.attachment_request import (
    DEFAULT_SUBNET,
    check_key,
    check_mac,
    parse_detached_address,
    parse_interface_address,
)
from weave_net.command_base import Function, WeaveCommand, daemon_client, run_directory_option
from weave_net.errors import AttachmentError
from weave_net.namespaces import absolute_namespace_path, default_attachment_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


EXPOSED = "weave:expose"
"""Under this name the bridge is listed."""

_CONTAINER_ID = re.compile("[0-9a-f]{64}")


def _attachment_options(function: Function) -> Function:
    for option in (
        click.option("--id", "attachment_id", help="Name of the attachment.  [default: name of the namespace]"),
        click.option("--interface", default="ethwe", show_default=True, help="Name of the interface inside."),
        click.option("--netns", required=True, metavar="PATH", help="Network namespace, such as /proc/PID/ns/net"),
    ):
        function = option(function)
    return function


@click.command(cls=WeaveCommand)
@click.argument("addresses", metavar="[ADDRESS/LEN|net:SUBNET|net:default]...", nargs=-1)
@_attachment_options
@click.option("-h", "--hostname", "fqdn", metavar="FQDN", help="Name that leads to the addresses.")
@click.option("--no-multicast-route", is_flag=True, help="Do not route 224.0.0.0/4 to the interface.")
@click.option("--mac", help="MAC address of the interface.  [default: random]")
@click.option("--mtu", type=int, help="MTU of the interface in bytes.  [default: the network's]")
@run_directory_option
@click.pass_context
def attach(
    ctx: click.Context,
    addresses: tuple[str, ...],
    netns: str,
    interface: str,
    attachment_id: str | None,
    fqdn: str | None,
    no_multicast_route: bool,
    mac: str | None,
    mtu: int | None,
    run_dir: Path | None,
) -> None:
    """Join a network namespace to the network.

    It gets the addresses, which are also printed: those given, one of each subnet given, by default one of the default
    subnet. An interface that is there already is kept; what it lacks is added.
    """
    wanted = [_address(text) for text in addresses] or [DEFAULT_SUBNET]
    path, key = _identify(netns, interface, attachment_id)
    body: dict[str, Any] = {
        "netns": path,
        "addresses": wanted,
        "owner": "cli",
        "multicast_route": not no_multicast_route,
    }
    if fqdn is not None:
        body["fqdn"] = fqdn
    if mac is not None:
        body["mac"] = check_mac(mac)
    if mtu is not None:
        body["mtu"] = mtu
    with daemon_client(ctx, run_dir) as client:
        made = client.put_attachment(key, interface, body)
    click.echo(_plain(dict.fromkeys(made["given"])))


@click.command(cls=WeaveCommand)
@click.argument("addresses", metavar="[ADDRESS[/LEN]]...", nargs=-1)
@_attachment_options
@run_directory_option
@click.pass_context
def detach(
    ctx: click.Context,
    addresses: tuple[str, ...],
    netns: str,
    interface: str,
    attachment_id: str | None,
    run_dir: Path | None,
) -> None:
    """Take addresses from a network namespace.

    By default all of them; those removed are printed. With the last address goes the interface.
    """
    unwanted = [parse_detached_address(text) for text in addresses]
    _, key = _identify(netns, interface, attachment_id)
    with daemon_client(ctx, run_dir) as client:
        removed = client.delete_attachment(key, interface, unwanted)
    click.echo(_plain(removed))


@click.command(cls=WeaveCommand)
@click.argument("containers", metavar="[ID]...", nargs=-1)
@run_directory_option
@click.pass_context
def ps(ctx: click.Context, containers: tuple[str, ...], run_dir: Path | None) -> None:
    """List what is attached to the network: id, MAC address and addresses.

    By default all attachments of this host, else those named. Ids of containers are cut to 12 characters. The host's
    own addresses (see 'weave expose') come first, as those of weave:expose.
    """
    with daemon_client(ctx, run_dir) as client:
        exposed = client.exposed() if not containers or EXPOSED in containers else None
        attachments = client.attachments()
    if exposed is not None and (exposed["addresses"] or containers):
        click.echo(" ".join([EXPOSED, exposed["mac"], *exposed["addresses"]]))
    for attachment in attachments:
        if not containers or any(is_meant(attachment["id"], text) for text in containers):
            click.echo(" ".join([_shown(attachment["id"]), attachment["mac"], *attachment["addresses"]]))


def _shown(attachment_id: str) -> str:
    return attachment_id[:12] if _CONTAINER_ID.fullmatch(attachment_id) else attachment_id


def is_meant(attachment_id: str, text: str) -> bool:
    """Whether a text names an attachment's id, or begins a container's id with at least what `ps` shows of it."""
    shown = _shown(attachment_id)
    return text == attachment_id or (
        shown != attachment_id and attachment_id.startswith(text) and text.startswith(shown)
    )


def _identify(netns: str, interface: str, attachment_id: str | None) -> tuple[str, str]:
    path = absolute_namespace_path(netns)
    key = default_attachment_id(path) if attachment_id is None else attachment_id
    check_key(key, interface)
    return path, key


def _address(text: str) -> str:
    try:
        return parse_interface_address(text)
    except AttachmentError as error:
        if "/" in text or ":" in text or text.replace(".", "").isdigit():
            raise
        raise AttachmentError(f"{error}; a container is named by --netns PATH") from error


def _plain(addresses: Iterable[str]) -> str:
    return " ".join(address.partition("/")[0] for address in addresses)
