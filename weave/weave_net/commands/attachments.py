"""`weave attach`, `detach` and `ps`: containers and other network namespaces on the network, by hand."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from weave_net.attachment_request import (
    DEFAULT_SUBNET,
    SUBNET_PREFIX,
    check_key,
    check_mac,
    parse_detached_address,
    parse_interface_address,
)
from weave_net.command_base import Function, WeaveCommand, daemon_client, run_directory_option
from weave_net.container_hosts_file import check_host_name, hosts_file, parse_extra_host, write_hosts_file
from weave_net.container_lookup import container_id, containers_of_endpoints, find_container
from weave_net.container_process import ContainerProcess
from weave_net.errors import ApiError, AttachmentError, ClientError
from weave_net.namespaces import absolute_namespace_path, default_attachment_id

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from weave_docker.engine_documents import Container
    from weave_net.client import DaemonClient


EXPOSED = "weave:expose"
"""Under this name the bridge is listed."""

_CONTAINER_ID = re.compile("[0-9a-f]{64}")
_NOT_FOUND = 404
_WHICH = "which container? Name it after the addresses, or give --pid PID or --netns PATH"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """What is to be attached."""

    id: str
    netns: str
    called: str
    """What it is called in messages."""
    process: ContainerProcess | None = None
    """Whoever must live for it; None for a namespace by path."""
    container: Container | None = None


def _attachment_options(function: Function) -> Function:
    for option in (
        click.option("--id", "attachment_id", help="Name of the attachment.  [default: the container's id]"),
        click.option("--interface", default="ethwe", show_default=True, help="Name of the interface inside."),
        click.option("--netns", metavar="PATH", help="Instead of a container: a network namespace."),
        click.option("--pid", type=click.IntRange(1), help="Instead of a container: a process in it."),
    ):
        function = option(function)
    return function


@click.command(cls=WeaveCommand)
@click.argument("words", metavar="[ADDRESS/LEN|net:SUBNET|net:default]... [CONTAINER]", nargs=-1)
@_attachment_options
@click.option("-h", "--hostname", "fqdn", metavar="FQDN", help="Name that leads to the addresses.")
@click.option("--without-dns", is_flag=True, help="Do not add the container's own name.")
@click.option("--rewrite-hosts", is_flag=True, help="Replace the container's /etc/hosts by one with its addresses.")
@click.option("--add-host", "extra_hosts", metavar="NAME:IP", multiple=True, help="One more line for that file.")
@click.option("--no-multicast-route", is_flag=True, help="Do not route 224.0.0.0/4 to the interface.")
@click.option("--mac", help="MAC address of the interface.  [default: random]")
@click.option("--mtu", type=int, help="MTU of the interface in bytes.  [default: the network's]")
@run_directory_option
@click.pass_context
def attach(
    ctx: click.Context,
    /,
    words: tuple[str, ...],
    netns: str | None,
    pid: int | None,
    interface: str,
    attachment_id: str | None,
    fqdn: str | None,
    without_dns: bool,
    rewrite_hosts: bool,
    extra_hosts: tuple[str, ...],
    no_multicast_route: bool,
    mac: str | None,
    mtu: int | None,
    run_dir: Path | None,
) -> None:
    """Join a container to the network.

    It is one of Docker, Podman or containerd, by name or id. It gets the addresses, which are also printed: those
    given, one of each subnet given, by default one of the default subnet. An interface that is there already is kept;
    what it lacks is added. A host name in the network's domain leads to the addresses.
    """
    addresses, name = _split(words)
    _check_one(name, netns, pid)
    wanted = [parse_interface_address(text) for text in addresses] or [DEFAULT_SUBNET]
    if extra_hosts and not rewrite_hosts:
        raise AttachmentError("--add-host needs --rewrite-hosts")
    if fqdn is not None and without_dns:
        raise AttachmentError("-h and --without-dns contradict each other")
    extra = [parse_extra_host(text) for text in extra_hosts]
    body: dict[str, Any] = {"addresses": wanted, "owner": "cli", "multicast_route": not no_multicast_route}
    if mac is not None:
        body["mac"] = check_mac(mac)
    if mtu is not None:
        body["mtu"] = mtu
    with ExitStack() as stack:
        client = stack.enter_context(daemon_client(ctx, run_dir))
        target = _open_target(stack, name, netns, pid, attachment_id)
        check_key(target.id, interface)
        names = _own_names(target, fqdn) if rewrite_hosts else []
        if fqdn is None and not without_dns:
            fqdn = _registered_name(client, target.container)
        if fqdn is not None:
            body["fqdn"] = fqdn
        made = _attach(client, target, interface, {**body, "netns": target.netns})
        click.echo(_plain(dict.fromkeys(made["given"])))
        if rewrite_hosts and target.process is not None:
            write_hosts_file(target.process, hosts_file(made["addresses"], names, extra))


def _attach(client: DaemonClient, target: _Target, interface: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        made = client.put_attachment(target.id, interface, body)
    except ApiError as error:
        if target.process is not None and not target.process.lives():
            raise AttachmentError(f"{target.called}: container died") from error
        raise
    if target.process is not None and not target.process.lives():
        with suppress(ClientError):  # the daemon finds out by itself, too, later
            client.delete_attachment(target.id, interface, [])
        raise AttachmentError(f"{target.called}: container died")
    return made


@click.command(cls=WeaveCommand)
@click.argument("words", metavar="[ADDRESS[/LEN]]... [CONTAINER]", nargs=-1)
@_attachment_options
@run_directory_option
@click.pass_context
def detach(
    ctx: click.Context,
    words: tuple[str, ...],
    netns: str | None,
    pid: int | None,
    interface: str,
    attachment_id: str | None,
    run_dir: Path | None,
) -> None:
    """Take addresses from a container.

    By default all of them; those removed are printed. With the last address goes the interface.
    """
    addresses, name = _split(words)
    if attachment_id is None:
        _check_one(name, netns, pid)
    unwanted = [parse_detached_address(text) for text in addresses]
    chosen = ctx.get_parameter_source("interface") is not ParameterSource.DEFAULT
    with daemon_client(ctx, run_dir) as client:
        key = attachment_id or _attached_id(client, name, netns, pid)
        check_key(key, interface)
        removed: list[str] = []
        for each in [interface] if chosen else _interfaces(client.attachments(), key, interface):
            removed += client.delete_attachment(key, each, unwanted)
        by_docker = not removed and any(
            entry["id"] == key and entry["owner"] == "docker" for entry in _by_container(client.attachments())
        )
    if removed:
        click.echo(_plain(removed))
    elif by_docker:
        click.echo(f"{name or key} is on a network of Docker's: 'docker network disconnect' takes it off", err=True)
    else:
        click.echo(f"nothing of {name or key} was there to take away; 'weave ps' lists what is", err=True)


def _interfaces(attachments: Iterable[dict[str, Any]], key: str, usual: str) -> list[str]:
    """The interfaces that are meant when none is named: the usual one, or whatever there is if it is not there."""
    present = [entry["interface"] for entry in attachments if entry["id"] == key]
    return [usual] if usual in present or not present else present


@click.command(cls=WeaveCommand)
@click.argument("containers", metavar="[ID]...", nargs=-1)
@run_directory_option
@click.pass_context
def ps(ctx: click.Context, containers: tuple[str, ...], run_dir: Path | None) -> None:
    """List what is attached to the network: id, MAC address and addresses.

    By default all attachments of this host, else those named, by id or by the container's name. Ids of containers are
    cut to 12 characters. The host's own addresses (see 'weave expose') come first, as those of weave:expose.
    """
    with daemon_client(ctx, run_dir) as client:
        exposed = client.exposed() if not containers or EXPOSED in containers else None
        attachments = _by_container(client.attachments())
        wanted = [_wanted_id(text, attachments) for text in containers]
    if exposed is not None and (exposed["addresses"] or containers):
        click.echo(" ".join([EXPOSED, exposed["mac"], *exposed["addresses"]]))
    for attachment in attachments:
        if not containers or any(is_meant(attachment["id"], text) for text in wanted):
            click.echo(" ".join([_shown(attachment["id"]), attachment["mac"], *attachment["addresses"]]))


def _by_container(attachments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Docker names its attachments by endpoints, which nobody knows: with their containers' ids instead."""
    if all(attachment["owner"] != "docker" for attachment in attachments):
        return attachments
    containers = containers_of_endpoints()
    return [{**attachment, "id": containers.get(attachment["id"], attachment["id"])} for attachment in attachments]


def _wanted_id(text: str, attachments: Iterable[dict[str, Any]]) -> str:
    """The text if it names an attachment or nothing that is known, else the id of the container of that name."""
    if text == EXPOSED or any(is_meant(attachment["id"], text) for attachment in attachments):
        return text
    return container_id(text) or text


def _shown(attachment_id: str) -> str:
    return attachment_id[:12] if _CONTAINER_ID.fullmatch(attachment_id) else attachment_id


def is_meant(attachment_id: str, text: str) -> bool:
    """Whether a text names an attachment's id, or begins a container's id with at least what `ps` shows of it."""
    shown = _shown(attachment_id)
    return text == attachment_id or (
        shown != attachment_id and attachment_id.startswith(text) and text.startswith(shown)
    )


def meant_as_address(word: str) -> bool:
    """Whether somebody who wrote this meant an address, right or wrong, and no container."""
    return (
        word.startswith((SUBNET_PREFIX, "ip:"))
        or word.count(":") > 1
        or "/" in word
        or ("." in word and not word.strip("0123456789."))
    )


def _split(words: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Addresses, and the container behind them, if there is one."""
    if words and not meant_as_address(words[-1]):
        return words[:-1], words[-1]
    return words, None


def _open_target(
    stack: ExitStack, name: str | None, netns: str | None, pid: int | None, attachment_id: str | None
) -> _Target:
    """Find what is to be attached; its process is held until the stack is closed. Raises `AttachmentError`."""
    if netns is not None:
        path = absolute_namespace_path(netns)
        key = default_attachment_id(path) if attachment_id is None else attachment_id
        return _Target(id=key, netns=path, called=key)
    container = None if name is None else find_container(name)
    called = f"process {pid}" if container is None else f"container {name}"
    if container is not None:
        if not container.running:
            raise AttachmentError(f"{called} is not running")
        if container.network_mode == "host":
            raise AttachmentError(f"{called} uses the host's network, which is not attached")
    process = stack.enter_context(ContainerProcess(pid or (container.pid if container is not None else 0)))
    if process.uses_host_network():
        raise AttachmentError(f"{called} uses the host's network, which is not attached")
    path = process.network_namespace
    key = attachment_id or (default_attachment_id(path) if container is None else container.id)
    return _Target(id=key, netns=path, called=called, process=process, container=container)


def _attached_id(client: DaemonClient, name: str | None, netns: str | None, pid: int | None) -> str:
    """The id of an attachment, also of a container that does not run any more. Raises `AttachmentError`."""
    if name is None:
        return default_attachment_id(absolute_namespace_path(netns or f"/proc/{pid}/ns/net"))
    return attached_id(client.attachments(), name) or find_container(name).id


def attached_id(attachments: Iterable[dict[str, Any]], text: str) -> str | None:
    """The id of attachments that a text names; None if there is none. Raises `AttachmentError` for several."""
    listed = list(attachments)
    ids = {entry["id"] for entry in listed if is_meant(entry["id"], text)}
    if not ids:  # containerd's CNI ids begin with its namespace: default-web
        ids = {entry["id"] for entry in listed if entry["owner"] == "cni" and entry["id"].endswith(f"-{text}")}
    if len(ids) > 1:
        raise AttachmentError(f"{text} may mean several: {', '.join(sorted(ids))}")
    return ids.pop() if ids else None


def _check_one(name: str | None, netns: str | None, pid: int | None) -> None:
    given = [value for value in (name, netns, pid) if value is not None]
    if not given:
        raise click.UsageError(_WHICH, click.get_current_context())
    if len(given) > 1:
        raise AttachmentError(
            f"{given[0]}: a container is named by --netns PATH, --pid PID or the last word, not twice"
        )


def _registered_name(client: DaemonClient, container: Container | None) -> str | None:
    """The container's host name, if it is one of the network's domain."""
    name = "" if container is None else _host_name(container)
    if "." not in name:
        return None
    try:
        domain = client.text("/domain").strip()
    except ApiError as error:
        if error.status != _NOT_FOUND:
            raise
        return None  # names are off
    inside = name.rstrip(".").lower().endswith("." + domain.rstrip(".").lower())
    return name if inside else None


def _own_names(target: _Target, fqdn: str | None) -> list[str]:
    """The names of the container in its hosts file, with and without domain."""
    if target.process is None:
        raise AttachmentError("--rewrite-hosts needs a container or --pid PID: a namespace has no files")
    name = (_host_name(target.container) if target.container is not None else "") or fqdn
    if not name:
        raise AttachmentError(f"--rewrite-hosts: the host name of {target.called} is unknown; give it with -h NAME")
    plain = check_host_name(name.rstrip("."))
    return [plain, plain.partition(".")[0]]


def _host_name(container: Container) -> str:
    return ".".join(filter(None, (container.hostname, container.domainname)))


def _plain(addresses: Iterable[str]) -> str:
    return " ".join(address.partition("/")[0] for address in addresses)
