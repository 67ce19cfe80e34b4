"""`weave doctor`: what is wrong with this host and its connections, and what to do about it."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

import click

from weave_net.command_base import WeaveCommand, directory_options, locations_of
from weave_net.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from weave_net.doctor.facts import Wanted
    from weave_net.doctor.findings import Finding

_COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}
_VERDICT_WIDTH, _CHECK_WIDTH = 8, 17
_SUMMARIES = {0: "no problem", 1: "1 problem"}
_AS_LAUNCH = "As for 'weave launch', where no daemon runs."


@click.command(cls=WeaveCommand)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Leave out what is well.")
@click.option("--port", type=click.IntRange(1, 65534), envvar="WEAVE_PORT", show_envvar=True, help=_AS_LAUNCH)
@click.option("--mtu", type=click.IntRange(576, 65535), envvar="WEAVE_MTU", show_envvar=True, help=_AS_LAUNCH)
@click.option("--ipalloc-range", metavar="CIDR", help=_AS_LAUNCH)
@directory_options
@click.pass_context
def doctor(
    ctx: click.Context,
    as_json: bool,
    quiet: bool,
    port: int | None,
    mtu: int | None,
    ipalloc_range: str | None,
    state_dir: Path | None,
    run_dir: Path | None,
) -> None:
    """Look for what is wrong with this host and its connections, and say what to do about it.

    The exit status is 1 if there is a problem. Where no daemon runs, only the host is examined. It changes nothing, and
    sees more as root.
    """
    from weave_net.doctor.examination import examine
    from weave_net.doctor.gather import gather

    findings = examine(gather(locations_of(ctx, state_dir, run_dir), _wanted(port, mtu, ipalloc_range)))
    problems = sum(finding.verdict == "problem" for finding in findings)
    if as_json:
        click.echo(json.dumps([_document(finding) for finding in findings], indent=4))
    else:
        for finding in findings:
            if not quiet or finding.verdict != "ok":
                _show(finding)
        click.echo(f"\n{_SUMMARIES.get(problems, f'{problems} problems')} found")
    ctx.exit(1 if problems else 0)


def _wanted(port: int | None, mtu: int | None, ipalloc_range: str | None) -> Wanted:
    """What a daemon would work with."""
    from weave_net.doctor.facts import Wanted
    from weave_net.settings import DaemonSettings

    port = port or DaemonSettings.port
    text = DaemonSettings.ipalloc_range if ipalloc_range is None else ipalloc_range
    try:
        network = IPv4Network(text) if text else None
    except ValueError as error:
        raise SettingsError(f"--ipalloc-range {text}: {error}") from error
    return Wanted(port=port, mtu=mtu or DaemonSettings.mtu, range=network, http_port=port + 1)


def _document(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "verdict": str(finding.verdict),
        "text": finding.text,
        "advice": finding.advice,
    }


def _show(finding: Finding) -> None:
    verdict = click.style(f"{finding.verdict:<{_VERDICT_WIDTH}}", fg=_COLOURS[finding.verdict], bold=True)
    click.echo(f"{verdict} {_printable(finding.check):<{_CHECK_WIDTH}} {_printable(finding.text)}")
    if finding.advice:
        click.echo(f"{'':<{_VERDICT_WIDTH}} {'':<{_CHECK_WIDTH}} -> {_printable(finding.advice)}")


def _printable(text: str) -> str:
    """Names of peers and of programs must not command the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
