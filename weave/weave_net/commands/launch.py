"""`weave launch`: flags and environment become settings, and a daemon runs by them."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weave_dns.settings import (
    DEFAULT_DOMAIN,
    DEFAULT_FALLBACK_TIMEOUT_S,
    DEFAULT_RATE,
    DEFAULT_RESOLV_CONF,
    DEFAULT_TTL_S,
    MAX_TTL_S,
)
from weave_ipam.settings import DEFAULT_RANGE
from weave_net import launch as launcher
from weave_net.command_base import WeaveCommand, directory_options, locations_of
from weave_net.directories import DEFAULT_RUN_DIR
from weave_net.errors import SettingsError
from weave_net.launch_flags import silent_options, without_effect
from weave_net.settings import (
    LOG_LEVELS,
    MAX_MTU,
    MIN_MTU,
    DaemonSettings,
    check_bridge_name,
    check_peers,
    choose_engines,
    choose_password,
    parse_http_address,
    parse_subnets,
)
from weave_net.version import program_version
from weave_router.shell.settings import DEFAULT_CONNECTION_LIMIT, DEFAULT_MTU, DEFAULT_PORT
from weave_router.wire.peer_name import InvalidPeerName, format_peer_name, parse_peer_name

if TYPE_CHECKING:
    from weave_net.directories import Directories

MAX_PORT = 65534
"""The next port belongs to this daemon, too: VXLAN and, on 127.0.0.1, the HTTP API."""

_GROUP_BIT = 1 << 40


def _peer_name(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        name = parse_peer_name(value)
    except InvalidPeerName as error:
        raise click.BadParameter(str(error)) from error
    if name & _GROUP_BIT:
        raise click.BadParameter("a multicast address cannot be a name, since the bridge gets it as its MAC address")
    return name


def _ipv4(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else str(IPv4Address(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no IPv4 address of this host") from error


def _protocol_version(_: click.Context, __: click.Parameter, value: int | None) -> None:
    if value is not None and value != 2:
        raise click.BadParameter(f"version {value} of the protocol is not spoken, only 2 is")


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"weave {program_version()}")
        ctx.exit()


@click.command(cls=WeaveCommand)
@click.argument("peers", metavar="[HOST[:PORT]]...", nargs=-1)
@click.option("--password", metavar="TEXT", help="Shared secret that encrypts everything; others see it here.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path),
    help="File with the shared secret; without both options, the variable WEAVE_PASSWORD counts.",
)
@click.option(
    "--port",
    type=click.IntRange(1, MAX_PORT),
    envvar="WEAVE_PORT",
    show_envvar=True,
    default=DEFAULT_PORT,
    show_default=True,
    help="TCP and UDP port, the same on all hosts.",
)
@click.option("--host", callback=_ipv4, metavar="IP", help="Address to listen on.  [default: all]")
@click.option(
    "--mtu",
    type=click.IntRange(MIN_MTU, MAX_MTU),
    envvar="WEAVE_MTU",
    show_envvar=True,
    default=DEFAULT_MTU,
    show_default=True,
    help="MTU of the network in bytes, the same on all hosts.",
)
@click.option("--name", callback=_peer_name, metavar="MAC", help="Name of this peer.  [default: kept or derived]")
@click.option("--nickname", metavar="TEXT", help="Name for people.  [default: the host name]")
@click.option("--resume", is_flag=True, help="Connect to the peers of last time.")
@click.option("--no-discovery", is_flag=True, help="Connect to the named peers only.")
@click.option("--trusted-subnets", metavar="CIDR,...", default="", help="Networks whose traffic is not encrypted.")
@click.option(
    "--conn-limit",
    type=click.IntRange(0),
    default=DEFAULT_CONNECTION_LIMIT,
    show_default=True,
    help="Most connections, 0 for no limit.",
)
@click.option("--min-protocol-version", type=int, callback=_protocol_version, expose_value=False, hidden=True)
@click.option(
    "--ipalloc-range",
    "--iprange",
    metavar="CIDR",
    default=DEFAULT_RANGE,
    show_default=True,
    help="Where addresses are allocated, the same on all hosts; '' turns allocation off.",
)
@click.option(
    "--ipalloc-default-subnet",
    metavar="CIDR",
    default="",
    help="Subnet of requests that name none.  [default: the range]",
)
@click.option(
    "--ipalloc-init",
    metavar="MODE",
    default="",
    help="How allocation begins: consensus[=PEERS], seed=NAME,... or observer.  [default: consensus]",
)
@click.option(
    "--no-fastdp",
    is_flag=True,
    envvar="WEAVE_NO_FASTDP",
    show_envvar=True,
    help="Carry all packets by sleeve, never by the kernel's VXLAN.",
)
@click.option("--no-dns", is_flag=True, help="Run no name server.")
@click.option(
    "--dns-domain",
    metavar="NAME",
    default=DEFAULT_DOMAIN,
    show_default=True,
    help="Domain of containers' names, the same on all hosts.",
)
@click.option(
    "--dns-listen-address",
    metavar="IP[:PORT]",
    default="",
    help="Where names are asked for, beside the bridge's addresses ('weave expose').",
)
@click.option(
    "--dns-ttl",
    type=click.IntRange(0, MAX_TTL_S),
    default=DEFAULT_TTL_S,
    show_default=True,
    help="For how many seconds others may keep an answer.",
)
@click.option(
    "--dns-fallback-timeout",
    metavar="TIME",
    default=f"{DEFAULT_FALLBACK_TIMEOUT_S:g}s",
    show_default=True,
    help="Within which outside names are resolved.",
)
@click.option(
    "--resolv-conf",
    metavar="FILE",
    default=str(DEFAULT_RESOLV_CONF),
    show_default=True,
    help="Names the servers that resolve outside names.",
)
@click.option(
    "--dns-clients",
    metavar="CIDR,...",
    default="",
    help="Networks, beside weave's, for which outside names are resolved.",
)
@click.option(
    "--dns-rate-limit",
    type=click.IntRange(0),
    default=DEFAULT_RATE,
    show_default=True,
    help="Answers per second and client, 0 for no limit.",
)
@click.option("--plugin/--no-plugin", default=True, help="Whether Docker may use its network driver 'weave'.")
@click.option(
    "--plugin-socket",
    type=click.Path(path_type=Path),
    help="Where Docker finds that driver.  [default: /run/docker/plugins/weave.sock; none with another --run-dir]",
)
@click.option(
    "--docker-api",
    metavar="unix:///PATH",
    help="Socket of the container engine to follow, '' for none.  [default: DOCKER_HOST or Docker, and Podman]",
)
@click.option(
    "--http-addr",
    envvar="WEAVE_HTTP_ADDR",
    show_envvar=True,
    metavar="[HOST][:PORT]",
    help="TCP address for status and metrics, '' for none.  [default: 127.0.0.1, the port after --port]",
)
@click.option("--http-writable", is_flag=True, help="Let everybody who reaches that address change the network.")
@click.option("--weave-bridge", default=DaemonSettings.bridge, show_default=True, help="Name of the bridge.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default=None, help="[default: info]")
@click.option("--log-file", type=click.Path(path_type=Path), help="[default: weave.log in the state directory]")
@click.option("--foreground", is_flag=True, help="Stay in the foreground, for systemd and containers.")
@click.option("--print-peer-name", is_flag=True, help="Print the name that this peer would have, and exit.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, hidden=True)
@directory_options
@silent_options
@click.pass_context
def launch(ctx: click.Context, /, **flags: Any) -> None:
    """Start the daemon, and connect to hosts.

    Returns when the daemon is ready. Peers that were named last time are kept together with later changes by 'connect'
    and 'forget'; other ones replace them.
    """
    directories = locations_of(ctx, flags["state_dir"], flags["run_dir"])
    default = click.core.ParameterSource.DEFAULT
    settings = _settings(directories, flags, range_given=ctx.get_parameter_source("ipalloc_range") is not default)
    unused = without_effect(ctx)
    if unused:
        click.echo(f"no effect in this release: {', '.join(unused)}", err=True)
    if flags["print_peer_name"]:
        click.echo(_current_name(settings))
        return
    launcher.check_privileges("weave launch")
    directories.prepare()
    launcher.check_not_running(settings)
    if flags["foreground"]:
        launcher.become_daemon(settings, settings.log_file, launcher.DAEMON_COMMAND)
    launcher.launch_in_background(settings, settings.log_file or directories.log, launcher.DAEMON_COMMAND)


def _settings(directories: Directories, flags: dict[str, Any], *, range_given: bool) -> DaemonSettings:
    if flags["resume"] and flags["peers"]:
        raise SettingsError("--resume means the peers of last time; name no peers with it")
    log_file = None if flags["log_file"] is None else Path(os.path.abspath(flags["log_file"]))  # noqa: PTH100
    if log_file is None and not flags["foreground"]:
        log_file = directories.log
    address = flags["http_addr"]
    settings = DaemonSettings(
        directories=directories,
        name=flags["name"],
        nickname=flags["nickname"] or socket.gethostname(),
        listen_address=flags["host"] or DaemonSettings.listen_address,
        port=flags["port"],
        mtu=flags["mtu"],
        bridge=check_bridge_name(flags["weave_bridge"]),
        password=choose_password(flags["password"], flags["password_file"], os.environ.get("WEAVE_PASSWORD")),
        discovery=not flags["no_discovery"],
        trusted_subnets=parse_subnets(flags["trusted_subnets"]),
        connection_limit=flags["conn_limit"],
        peers=check_peers(flags["peers"]),
        resume=flags["resume"],
        ipalloc_range=flags["ipalloc_range"],
        ipalloc_range_given=range_given,
        ipalloc_default_subnet=flags["ipalloc_default_subnet"],
        ipalloc_init=flags["ipalloc_init"],
        fast_datapath=not flags["no_fastdp"],
        dns=not flags["no_dns"],
        dns_domain=flags["dns_domain"],
        dns_listen_address=flags["dns_listen_address"],
        dns_ttl=flags["dns_ttl"],
        dns_fallback_timeout=flags["dns_fallback_timeout"],
        resolv_conf=os.path.abspath(flags["resolv_conf"]),  # noqa: PTH100
        dns_clients=flags["dns_clients"],
        dns_rate_limit=flags["dns_rate_limit"],
        engines=choose_engines(flags["docker_api"], os.environ.get("DOCKER_HOST")),
        plugin_socket=_plugin_socket(directories, flags) if flags["plugin"] else None,
        http_address=parse_http_address(
            f"127.0.0.1:{flags['port'] + 1}" if address is None else address, flags["port"] + 1
        ),
        http_writable=flags["http_writable"],
        log_level=flags["log_level"] or ("debug" if os.environ.get("WEAVE_DEBUG") else "info"),
        log_file=log_file,
    )
    settings.ipam_settings()
    settings.dns_settings()
    return settings


def _plugin_socket(directories: Directories, flags: dict[str, Any]) -> Path | None:
    """Several daemons of one machine, told apart by their run directories, cannot all be Docker's driver."""
    given: Path | None = flags["plugin_socket"]
    if given is not None:
        return Path(os.path.abspath(given))  # noqa: PTH100
    from weave_docker.plugin.service import DEFAULT_SOCKET  # brings an HTTP server along

    return DEFAULT_SOCKET if directories.run == DEFAULT_RUN_DIR else None


def _current_name(settings: DaemonSettings) -> str:
    """The name as the daemon would choose it, without storing it; a daemon that runs is asked."""
    import trio

    from weave_net.client import DaemonClient
    from weave_net.host_facts import read_host_facts
    from weave_net.identity import choose_name, stored_name
    from weave_net.instance_lock import running_pid
    from weave_net.sqlite_store import open_store

    if settings.name is None and running_pid(settings.directories.pid_file) is not None:
        with DaemonClient(settings.directories) as client:
            return client.text("/report", {"format": ".Router.Name"}).strip()

    async def read() -> int | None:
        async with open_store(settings.directories.database) as store:
            return await stored_name(store)

    stored = trio.run(read) if settings.directories.database.exists() else None
    facts = read_host_facts(settings.bridge)
    return format_peer_name(choose_name(settings.name, stored, facts, settings.directories.state))
