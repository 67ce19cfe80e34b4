"""`weave setup-systemd`: the daemon as a service of systemd."""

from __future__ import annotations

from pathlib import Path

import click

from weave_net.command_base import WeaveCommand


@click.command("setup-systemd", cls=WeaveCommand)
@click.option("--enable", is_flag=True, help="Have it started at each boot ('systemctl enable').")
@click.option("--force", is_flag=True, help="Replace a unit file that somebody has changed.")
@click.option("--print", "print_only", is_flag=True, help="Print the unit file, and write nothing.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    envvar="WEAVE_SYSTEMD_DIR",
    show_envvar=True,
    help="Where systemd finds units.  [default: /etc/systemd/system]",
)
def setup_systemd(enable: bool, force: bool, print_only: bool, directory: Path | None) -> None:
    """Make the daemon a service of systemd.

    Writes the unit file weave.service. Peers and flags of 'weave launch' go into /etc/default/weave, for instance
    WEAVE_ARGS="--password-file /etc/weave.password host1 host2"; without peers those of last time are used. Then
    'systemctl start weave' takes the place of 'weave launch'.
    """
    from weave_net.systemd_unit import DEFAULT_DIRECTORY, UNIT, enable_unit, executable, unit_text, write_unit

    text = unit_text(executable())
    if print_only:
        click.echo(text, nl=False)
        return
    directory = directory or DEFAULT_DIRECTORY
    written = write_unit(directory, text, force=force)
    click.echo(f"{'wrote' if written else 'nothing to change in'} {directory / UNIT}")
    if enable:
        enable_unit()
        click.echo("enabled; start it with 'systemctl start weave' ('weave stop' first, if the daemon runs)")
    elif written:
        click.echo("'systemctl daemon-reload', then 'systemctl enable --now weave'")
