"""`weave setup-cni`: the CNI plugins and the network's configuration, where container runtimes look for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from weave_cni.install import (
    CONFLIST,
    DEFAULT_CONFIG_DIRECTORY,
    DEFAULT_PLUGIN_DIRECTORY,
    InstallError,
    install_conflist,
    install_plugins,
    remove_installed,
)
from weave_net.command_base import WeaveCommand, locations_of, run_directory_option
from weave_net.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable

_CONFIGURATIONS = (".conf", ".conflist", ".json")
_DIRECTORY = click.Path(file_okay=False, path_type=Path)


@click.command("setup-cni", cls=WeaveCommand)
@click.option(
    "--plugin-dir",
    type=_DIRECTORY,
    envvar="WEAVE_CNI_PLUGIN_DIR",
    default=DEFAULT_PLUGIN_DIRECTORY,
    show_default=True,
    help="Where the plugins go (WEAVE_CNI_PLUGIN_DIR).",
)
@click.option(
    "--conf-dir",
    type=_DIRECTORY,
    envvar="WEAVE_CNI_CONF_DIR",
    default=DEFAULT_CONFIG_DIRECTORY,
    show_default=True,
    help=f"Where {CONFLIST} goes (WEAVE_CNI_CONF_DIR).",
)
@click.option(
    "--hairpin/--no-hairpin", envvar="HAIRPIN_MODE", default=True, help="Whether containers reach themselves."
)
@click.option("--remove", is_flag=True, help="Remove what an earlier call put there.")
@run_directory_option
@click.pass_context
def setup_cni(
    ctx: click.Context, plugin_dir: Path, conf_dir: Path, hairpin: bool, remove: bool, run_dir: Path | None
) -> None:
    """Install the CNI plugins weave-net and weave-ipam and a network configuration.

    containerd, CRI-O, Podman and Kubernetes then put containers on the network. A configuration that was changed by
    hand is left alone. What was written or removed is printed.
    """
    try:
        if remove:
            _print(remove_installed(plugin_dir, conf_dir))
            return
        _print(install_plugins(plugin_dir))
        path = install_conflist(conf_dir, locations_of(ctx, None, run_dir).run, hairpin=hairpin)
    except InstallError as error:
        raise SettingsError(str(error)) from error
    if path is None:
        text = f"{conf_dir / CONFLIST} is not as weave wrote it and was left alone; remove it to have a new one"
        click.echo(text, err=True)
    else:
        _print([path])
    first = min((entry.name for entry in conf_dir.iterdir() if entry.suffix in _CONFIGURATIONS), default=CONFLIST)
    if first != CONFLIST:
        click.echo(f"note: runtimes take the first file of {conf_dir}, which is {first}", err=True)
    if not _forwards():
        click.echo(
            "note: this host passes no packets on, so containers will reach nothing outside of the network; "
            "turn it on with 'sysctl -w net.ipv4.ip_forward=1' (and in /etc/sysctl.d to keep it)",
            err=True,
        )


setup = setup_cni


def _forwards() -> bool:
    try:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="ascii").strip() != "0"
    except OSError:
        return True


def _print(paths: Iterable[Path]) -> None:
    for path in paths:
        click.echo(path)
