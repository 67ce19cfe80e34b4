"""The flags of `weave launch` that do nothing: those of releases to come, and those of Weave Net that are gone.

Scripts and unit files hand them over, so each is known: a future one is accepted and named once on standard error, a
gone one is an error that says what to do instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_net.command_base import Function

FUTURE_FLAGS: dict[str, bool] = {
    "expect-npc": False,
    "no-masq-local": False,
    "status-addr": True,
    "metrics-addr": True,
    "pkt-debug": False,
}
"""Flags without effect yet, and whether each takes a value."""

FUTURE_VARIABLES = {
    "status-addr": "WEAVE_STATUS_ADDR",
    "metrics-addr": "WEAVE_METRICS_ADDR",
}

_PROXY = "the Docker API proxy is gone; use CNI, the Docker network plugin or 'weave attach'"
_MANAGED = "there is no managed plugin; the daemon's own socket serves Docker, see --plugin-socket"
_CLOUD = "Weave Cloud is gone; name the peers on the command line or with 'weave connect'"
_FILES = "use --state-dir and --run-dir"

GONE_FLAGS: dict[str, tuple[bool, str]] = {
    "no-restart": (False, "restarting is the business of systemd; run 'weave launch --foreground' in a unit"),
    "proxy": (False, _PROXY),
    "plugin-mesh-socket": (True, "there is one driver, weave; see --plugin-socket"),
    "plugin-v2": (False, _MANAGED),
    "plugin-v2-multicast": (False, _MANAGED),
    "H": (True, _PROXY),
    "tls": (False, _PROXY),
    "tlsverify": (False, _PROXY),
    "tlscacert": (True, _PROXY),
    "tlscert": (True, _PROXY),
    "tlskey": (True, _PROXY),
    "no-detect-tls": (False, _PROXY),
    "without-dns": (False, _PROXY),
    "no-rewrite-hosts": (False, _PROXY),
    "no-default-ipalloc": (False, _PROXY),
    "hostname-from-label": (True, _PROXY),
    "hostname-match": (True, _PROXY),
    "hostname-replacement": (True, _PROXY),
    "rewrite-inspect": (False, _PROXY),
    "no-multicast-route": (False, "give it to 'weave attach'"),
    "no-bridged-fastdp": (False, "there is always a Linux bridge; use --weave-bridge to name it"),
    "datapath": (True, "there is no Open vSwitch datapath any more; use --weave-bridge to name the bridge"),
    "docker-bridge": (True, "weave does not use Docker's bridge"),
    "awsvpc": (False, "routes of a VPC are not managed any more; leave it out to use the overlay network"),
    "token": (True, _CLOUD),
    "peer-discovery-url": (True, _CLOUD),
    "advertise-address": (True, _CLOUD),
    "db-prefix": (True, _FILES),
    "proc-path": (True, "the daemon reads /proc; run it in the host's process namespace"),
    "host-root": (True, _FILES),
    "profile": (True, "use py-spy on the daemon's process"),
    "bufsz": (True, "the buffers need no tuning; leave it out"),
}
"""Flags of Weave Net that are gone: whether each took a value, and what to do instead."""


def silent_options(function: Function) -> Function:
    """Add all these flags, hidden from the help; their values do not reach the function."""
    for name, takes_value in FUTURE_FLAGS.items():
        function = click.option(
            f"--{name}",
            _parameter(name),
            is_flag=not takes_value,
            default=None,
            envvar=FUTURE_VARIABLES.get(name),
            hidden=True,
            expose_value=False,
        )(function)
    for name, (takes_value, instead) in GONE_FLAGS.items():
        function = click.option(
            f"-{name}" if len(name) == 1 else f"--{name}",
            _parameter(name),
            is_flag=not takes_value,
            default=None,
            hidden=True,
            expose_value=False,
            callback=_refusal(instead),
        )(function)
    return function


def without_effect(ctx: click.Context) -> list[str]:
    """The future flags that were given, by flag or environment, in the order of the table."""
    default = click.core.ParameterSource.DEFAULT
    return [f"--{name}" for name in FUTURE_FLAGS if ctx.get_parameter_source(_parameter(name)) not in (None, default)]


def _refusal(instead: str) -> Callable[[click.Context, click.Parameter, object], None]:
    def refuse(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
        if value is not None:
            raise click.UsageError(f"{parameter.opts[0]} is gone: {instead}.", ctx)

    return refuse


def _parameter(name: str) -> str:
    return "unused_" + name.lower().replace("-", "_")
